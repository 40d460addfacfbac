"""Outputs are chosen by name, checked before the work, and appear whole or not at all, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.data import ReconError
from recon.io.atomic import atomic_dir, atomic_file, check_folder
from recon.io.provenance import read_back
from recon.io.write import check_paths, kind, write
from tests.io.pictures import RECIPE, picture, whole_numbers

NAMES = ["a.nii", "b.nii.gz", "c.png", "d.h5", "e.mrd", "series/", "f.dcm"]


def one_slice() -> Any:
    image = picture()
    return replace(image, data=image.data[:1], geometry=replace(image.geometry, shape=(1, 7, 6)))


# ---------------------------------------------------------------------------------------------- names and places


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", "nifti"),
        ("a.b.NII.GZ", "nifti"),
        ("a.png", "png"),
        ("a.h5", "mrd"),
        ("a.mrd", "mrd"),
        ("a.dcm", "dicom"),
        ("a", "dicom folder"),
        ("a.nii/", "dicom folder"),
        ("scan.v2/", "dicom folder"),
    ],
)
def test_the_name_of_an_output_decides_its_format(name: str, expected: str) -> None:
    assert kind(name) == expected


@pytest.mark.parametrize(("name", "hint"), [("a.gz", ""), ("a.jpg", ""), ("a.nifti", "did you mean .nii?")])
def test_an_unknown_suffix_names_those_that_work(name: str, hint: str) -> None:
    with pytest.raises(ReconError, match=r"use \.dcm, \.nii, \.nii\.gz, \.png, \.h5, \.mrd, or a folder") as found:
        kind(name)
    assert hint in str(found.value)


def test_one_image_goes_to_several_outputs_and_its_record_comes_back_from_each(tmp_path: Path) -> None:
    image = replace(one_slice(), trust={"residual": 1.5}, notes=("note",))
    paths = [str(tmp_path / n) + ("/" if n.endswith("/") else "") for n in NAMES]
    check_paths(paths)
    files = write(image, paths)
    assert all(f.is_file() for f in files)
    assert len(files) == len(NAMES) + 2
    for path in paths:
        record = read_back(path)
        assert record["provenance"] == RECIPE
        assert record["trust"] == {"residual": 1.5}
        assert record["notes"] == ["note"]
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_files_obey_the_umask_and_replace_older_ones(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        (tmp_path / "c.png").write_text("older")
        write(one_slice(), [tmp_path / "c.png", tmp_path / "series"])
    finally:
        os.umask(old)
    assert (tmp_path / "c.png").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "series").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "series/IM0001.dcm").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_who_reads_an_older_file_keeps_it_while_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("older")
    with open(tmp_path / "a.nii") as reader:
        write(picture(), [tmp_path / "a.nii"])
        assert reader.read() == "older"


def test_a_folder_that_holds_files_is_refused_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/other.dcm").write_text("x")
    check_paths([tmp_path / "empty"])
    write(picture(), [tmp_path / "empty"])
    assert len(list((tmp_path / "empty").iterdir())) == 3
    with pytest.raises(ReconError, match="holds 1 file already"):
        check_paths([tmp_path / "full"])
    with pytest.raises(ReconError, match="the folder holds files; empty it"):
        write(picture(), [tmp_path / "full"])
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["other.dcm"]


LITTER = [".DS_Store", "._IM0001.dcm", "Thumbs.db", "desktop.ini"]


def test_a_folder_with_only_file_manager_litter_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "looked").mkdir()
    for name in LITTER:
        (tmp_path / "looked" / name).write_bytes(b"\0\5\x16\7")
    check_paths([tmp_path / "looked"])
    write(picture(), [tmp_path / "looked"])
    assert [p.name for p in sorted((tmp_path / "looked").iterdir())] == ["IM0001.dcm", "IM0002.dcm", "IM0003.dcm"]
    (tmp_path / "looked" / "._IM0001.dcm").write_bytes(b"\0\5\x16\7")
    assert read_back(tmp_path / "looked")["provenance"] == RECIPE
    with pytest.raises(ReconError, match="holds 3 files already"):
        check_paths([tmp_path / "looked"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.notes").write_text("x")
    with pytest.raises(ReconError, match="holds 1 file already"):
        check_paths([tmp_path / "mine"])


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cases: list[tuple[list[Any], dict[str, Any], str]] = [
        ([tmp_path / "none/a.nii"], {}, "its folder does not exist; create it"),
        ([tmp_path / "file/a.nii"], {}, "its folder is a file"),
        ([tmp_path / "file"], {}, "is a file, and DICOM series go into a folder"),
        ([tmp_path / "a.nii", tmp_path / "a.nii.gz"], {}, r"sidecar a\.json, which would overwrite that of another"),
        ([tmp_path / "a.nii", tmp_path / "a.nii"], {}, "would overwrite another output"),
        ([tmp_path / "a.png", f"{tmp_path}/./a.png"], {}, "would overwrite another output"),
        ([tmp_path / "scan.h5"], {"inputs": [tmp_path / "scan.h5"]}, "would overwrite the input"),
        ([tmp_path / "in/new"], {"inputs": [tmp_path / "in"]}, "lies inside the input folder"),
        ([tmp_path / "in/new.dcm"], {"inputs": [tmp_path / "in"]}, "lies inside the input folder"),
        ([tmp_path / "a.nii"], {"inputs": [tmp_path / "in"], "records": [tmp_path / "a.json"]}, "or its sidecar"),
        ([], {"records": [tmp_path / "a.txt"]}, "a name that ends in .json"),
        (
            [tmp_path / "new", tmp_path / "new/a.nii"],
            {},
            "lies inside another output, a folder for one DICOM series only",
        ),
        (
            [tmp_path / "new/a.nii", tmp_path / "new"],
            {},
            "lies inside another output, a folder for one DICOM series only",
        ),
        ([tmp_path / "new"], {"records": [tmp_path / "new/a.json"]}, "lies inside another output"),
        (["/proc/a.nii"], {}, "not permitted"),
    ]
    for paths, options, sentence in cases:
        if paths == ["/proc/a.nii"] and (os.geteuid() == 0 or sys.platform != "linux"):
            continue
        with pytest.raises(ReconError, match=sentence) as found:
            check_paths(paths, **options)
        assert "\n" not in str(found.value)


def test_a_folder_without_permission_is_refused_before_the_work_and_by_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may write anywhere, so that the system's answer is given in its place.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ReconError, match="writing there is not permitted; choose a folder of your own"):
        check_paths([tmp_path / "a.nii"])

    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ReconError, match="not permitted"):
        write(picture(), [tmp_path / "a.nii"])


@pytest.mark.parametrize(
    "name",
    ["a" * 251 + ".png", "\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL A}" * 62 + ".png"],
    ids=["of one byte each", "of four bytes each"],
)
def test_a_name_as_long_as_the_system_allows_is_written(name: str, tmp_path: Path) -> None:
    assert write(picture(), [tmp_path / name]) == [tmp_path / name]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_without_search_permission_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The superuser may search anywhere, so that the system's answers are given in its place.
    closed, usual = tmp_path / "closed", os.stat
    closed.mkdir()

    def stat(path: Any, **options: Any) -> os.stat_result:
        if closed in Path(os.fspath(path)).parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode, **_: path != closed)
    with pytest.raises(ReconError, match="writing there is not permitted; choose a folder of your own"):
        check_folder(closed / "runs" / "first")


# ----------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("make", [atomic_file, atomic_dir])
def test_an_error_in_the_block_leaves_nothing_and_passes_on(make: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "older").write_text("kept")

    def interrupted() -> None:
        with make(tmp_path / "new") as temporary:
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            assert temporary.stat().st_mode & 0o077 == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["older"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, 9999])
@pytest.mark.parametrize("name", ["a.nii.gz", "c.png", "d.h5", "series/"])
def test_a_write_that_the_system_refuses_is_one_sentence_and_leaves_nothing(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ReconError, match=r"^cannot write [^\n]*$"):
        write(picture(), [str(tmp_path / name) + "/" * name.endswith("/")])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write(picture(), [str(tmp_path / name) + "/" * name.endswith("/")])


#: Writes a noisy image of 4 MB to the path in argv[1]; a ReconError is its only word.
SCRIPT = textwrap.dedent(
    """
    import sys
    from recon.data import ReconError
    from recon.io.write import write
    from tests.io.pictures import picture, whole_numbers
    import numpy as np
    shape = (16, 256, 256)
    image = picture(shape, data=whole_numbers(np.random.default_rng(0), shape))
    {before}
    try:
        write(image, [sys.argv[1]])
    except ReconError as error:
        sys.exit(f"REFUSED {{error}}")
    """
)
ROOT = Path(__file__).resolve().parents[2]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


@pytest.mark.parametrize("name", ["a.nii", "b.nii.gz", "c.png", "d.h5", "series/"])
def test_a_file_too_large_for_the_system_leaves_nothing(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name) + "/" * name.endswith("/")
    command = [sys.executable, "-B", "-c", SCRIPT.format(before=""), path]
    run = subprocess.run(command, env=_environment(), preexec_fn=_small_files, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "REFUSED cannot write" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["b.nii.gz", "d.h5", "series/"])
def test_a_full_disk_leaves_nothing_and_says_so(name: str, tmp_path: Path) -> None:
    # A disk of 512 kB, mounted where only this process sees it.
    shell = 'mount -t tmpfs -o size=512k none "$0" || exit 77; "$@"; code=$?; find "$0" -mindepth 1; exit $code'
    inner = [sys.executable, "-B", "-c", SCRIPT.format(before=""), f"{tmp_path}/{name}"]
    try:
        run = subprocess.run(
            ["unshare", "-rm", "sh", "-c", shell, str(tmp_path), *inner],
            env=_environment(), capture_output=True, text=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("unshare is not installed, so that no small disk can be mounted")
    if "REFUSED" not in run.stderr and run.returncode != 0:
        pytest.skip("this system lets no user mount a small disk")
    assert "the disk is full; free some space" in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("name", ["a.nii", "d.h5", "series/"])
def test_a_killed_process_leaves_nothing_under_the_final_name(name: str, tmp_path: Path) -> None:
    # The process stops where all is written but nothing renamed yet.
    before = "import os, time; os.fsync = lambda _: (print('written', flush=True), time.sleep(60))"
    path = str(tmp_path / name) + "/" * name.endswith("/")
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", SCRIPT.format(before=before), path],
        env=_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    left = [p.name for p in tmp_path.iterdir()]
    assert left
    assert all(n.startswith(".") and n.endswith(".part") for n in left)
    check_paths([path])
    write(picture(), [path])
    assert read_back(path)["provenance"] == RECIPE


def test_a_nifti_pair_appears_only_when_both_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (whole_numbers(np.random.default_rng(0), (3, 7, 6)) * 1j).astype(np.complex64)
    calls = []

    def second_fails(self: Path, *args: Any, **kwargs: Any) -> int:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        return self.write_bytes(args[0].encode())

    monkeypatch.setattr(Path, "write_text", second_fails)
    with pytest.raises(ReconError, match="the disk is full"):
        write(picture(data=data), [tmp_path / "a.nii"], parts=("magnitude", "phase"))
    assert list(tmp_path.iterdir()) == []


def test_parts_and_complex_reach_every_format(tmp_path: Path) -> None:
    data = (whole_numbers(np.random.default_rng(0), (3, 7, 6)) * 1j).astype(np.complex64)
    files = write(
        picture(data=data), [tmp_path / "a.nii", tmp_path / "d.h5", tmp_path / "s"], parts=("magnitude", "phase")
    )
    names = {f.relative_to(tmp_path).as_posix() for f in files}
    assert {"a_part-phase.nii", "d.h5", "s/SE02/IM0003.dcm"} <= names
    with pytest.raises(ReconError, match="holds real values and has no phase"):
        write(picture(), [tmp_path / "b.nii"], parts=("phase",))
    with pytest.raises(ReconError, match="no part of the image"):
        write(picture(), [tmp_path / "b.nii"], parts=())


def test_an_image_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    image = picture()
    for wrong in (
        replace(image, axes=("repetition",)),
        replace(image, data=image.data[:2]),
        replace(image, data=image.data[None], axes=("slice",)),
    ):
        with pytest.raises(ReconError, match="axes"):
            write(wrong, [tmp_path / "a.nii"])
    assert list(tmp_path.iterdir()) == []


def test_what_others_wrote_carries_no_record_and_says_so(tmp_path: Path) -> None:
    import h5py
    import PIL.Image

    PIL.Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.dcm").write_bytes(b"not DICOM")
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "d.nii").write_bytes(b"")
    h5py.File(tmp_path / "e.h5", "w").close()
    (tmp_path / "f").mkdir()
    for name in ("a.png", "b.dcm", "c.json", "d.nii", "e.h5", "f", "none.png", "g.txt"):
        with pytest.raises(ReconError) as found:
            read_back(tmp_path / name)
        assert name in str(found.value)


def test_writing_does_not_wait(tmp_path: Path) -> None:
    start = time.monotonic()
    write(picture((40, 64, 64)), [tmp_path / "s"])
    assert time.monotonic() - start < 5


def test_no_output_is_written_where_one_of_them_cannot_hold_the_image(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"late\.dcm can hold one slice, and the image has 3"):
        write(picture(), [tmp_path / "early.nii.gz", tmp_path / "late.dcm"])
    assert list(tmp_path.iterdir()) == []
