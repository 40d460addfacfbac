"""The command line from end to end: what is printed where, exit codes, names of outputs, options that reach readers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from recon import cli
from recon import recipe as recipes
from recon.data import DataError
from recon.io import ismrmrd
from recon.simulation import simulate
from tests.command import SMALL, chosen, localiser, recon, refused, scan_file


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


WRONG = {
    "no output": ("run", "SCAN"),
    "an output without a value": ("run", "SCAN", "-o"),
    "an unknown option": ("run", "SCAN", "-o", "a.png", "--frobnicate"),
    "an unknown verb": ("frobnicate",),
    "no scan": ("info",),
    "two scans": ("info", "SCAN", "SCAN"),
    "an unknown format": ("run", "SCAN", "-o", "a.tif"),
    "a voxel of two numbers": ("run", "SCAN", "-o", "a.png", "--voxel", "1,2"),
    "a voxel of words": ("info", "SCAN", "--voxel", "a,b,c"),
    "a voxel of size 0": ("run", "SCAN", "-o", "a.png", "--voxel", "1,1,0"),
    "a voxel of size NaN": ("run", "SCAN", "-o", "a.png", "--voxel", "1,1,nan"),
    "memory in zz": ("run", "SCAN", "-o", "a.png", "--memory", "4zz"),
    "infinite memory": ("run", "SCAN", "-o", "a.png", "--memory", "inf"),
    "negative memory": ("run", "SCAN", "-o", "a.png", "--memory", "-4G"),
    "an unknown method": ("run", "SCAN", "-o", "a.png", "--method", "magic"),
    "an unknown device": ("run", "SCAN", "-o", "a.png", "--device", "meta"),
    "negative threads": ("run", "SCAN", "-o", "a.png", "--threads", "-1"),
    "a word for threads": ("run", "SCAN", "-o", "a.png", "--threads", "many"),
    "a negative stack": ("run", "SCAN", "-o", "a.png", "--stack", "-1"),
    "no such recipe": ("run", "SCAN", "-o", "a.png", "--recipe", "none.toml"),
    "a scan for a recipe": ("recipe", "SCAN"),
    "no such trajectory": ("run", "SCAN", "-o", "a.png", "--trajectory", "rosette"),
    "a preset that is none": ("simulate", "-o", "a.h5", "--trajectory", "rosette"),
    "an acceleration of 0": ("simulate", "-o", "a.h5", "--accel", "0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_ends_with_2_and_one_line(
    case: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    end = recon(*(scan if a == "SCAN" else a for a in WRONG[case]))
    refused(end, code=2)
    assert len(end.err.splitlines()) == 1
    assert end.out == ""
    assert not list(tmp_path.iterdir())


FAILED = {
    "no such scan": ("run", "none.h5", "-o", "a.png"),
    "no such folder": ("run", "SCAN", "-o", "none/a.png"),
    "an output over the input": ("run", "SCAN", "-o", "SCAN"),
    "one output twice": ("run", "SCAN", "-o", "a.png", "-o", "./a.png"),
    "no such stack": ("run", "SCAN", "-o", "a.png", "--stack", "2"),
    "too little memory": ("run", "SCAN", "-o", "a.png", "--memory", "1MB"),
    "axes for a scan that knows its own": ("run", "SCAN", "-o", "a.png", "--axes", "coil,y,x"),
    "a voxel for a scan that knows its own": ("run", "SCAN", "-o", "a.png", "--voxel", "1,1,1"),
    "no such group": ("info", "SCAN", "--key", "other"),
    "combine for a radial scan": ("run", "SCAN", "-o", "a.png", "--trajectory", "radial", "--method", "combine"),
    "a CUDA device that is not there": ("run", "SCAN", "-o", "a.png", "--device", "cuda:99"),
}


@pytest.mark.parametrize("case", FAILED)
def test_a_failure_ends_with_1_and_one_line(
    case: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    end = recon(*(scan if a == "SCAN" else a for a in FAILED[case]))
    refused(end, code=1)
    assert len(end.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_arguments_the_help_is_shown() -> None:
    end = recon()
    assert all(verb in end.out + end.err for verb in ("run", "info", "simulate", "recipe", "doctor"))


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_anywhere_shows_where_it_failed(place: int, tmp_path: Path) -> None:
    arguments = ["run", str(tmp_path / "none.h5"), "-o", str(tmp_path / "a.png")]
    arguments.insert(place, "--debug")
    with pytest.raises(DataError, match="no file"):
        cli.main(arguments)


def test_an_unforeseen_error_says_its_type_alone(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon import pipeline

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Secret^Name")

    monkeypatch.setattr(pipeline, "reconstruct", fail)
    end = recon("run", scan, "-o", tmp_path / "a.png")
    assert (end.code, end.out) == (1, "")
    assert end.err == "recon: an error that was not foreseen (ZeroDivisionError); --debug shows where\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_machine_out_of_memory_is_told_what_to_do(
    error: Exception, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon import pipeline

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "reconstruct", fail)
    assert "--memory" in refused(recon("run", scan, "-o", tmp_path / "a.png"), code=1)


def test_a_package_that_is_missing_is_named(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "recon.io.nifti", raising=False)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    sentence = refused(recon("run", scan, "-o", tmp_path / "a.nii"), code=1)
    assert "the package nibabel is missing; run pip install" in sentence


def test_files_go_to_standard_output_and_all_else_to_standard_error(scan: Path, tmp_path: Path) -> None:
    end = recon("run", scan, "-o", tmp_path / "a.nii.gz", "-o", tmp_path / "a.png", "-o", f"{tmp_path}/a.v2/")
    assert end.code == 0
    names = ["a.nii.gz", "a.json", "a.png", "a.v2/IM0001.dcm"]
    assert end.out.splitlines() == [f"wrote {tmp_path / name}" for name in names]
    assert all(path.is_file() for path in end.wrote)
    assert "reconstruct 1/1" in end.err
    assert "combine: k-space is fully sampled" in end.err
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(Path(n).name for n in names)


def test_a_quiet_run_says_nothing(scan: Path, tmp_path: Path) -> None:
    end = recon("run", scan, "-q", "-o", tmp_path / "a.png")
    assert (end.code, end.out, end.err) == (0, "", "")
    assert (tmp_path / "a.png").is_file()


def test_a_bar_on_the_terminal_leaves_standard_output_alone(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, err = io.StringIO(), Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as end:
        cli.main(["run", str(scan), "-o", str(tmp_path / "a.png")])
    assert end.value.code == 0
    assert out.getvalue() == f"wrote {tmp_path / 'a.png'}\n"
    assert "1/1" in err.getvalue()


def test_what_was_written_before_a_later_output_failed_is_whole_and_said(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon.io import png

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(png, "contact_sheet", full)
    end = recon("run", scan, "-o", tmp_path / "a.nii", "-o", tmp_path / "a.png", "-o", tmp_path / "b.nii")
    assert end.code == 1
    assert "the disk is full" in end.err.splitlines()[-1]
    assert sorted(p.name for p in end.wrote) == ["a.json", "a.nii"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.nii"]


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    end = recon("info", tmp_path / "\x1b[31mred\nname.h5")
    assert "\x1b" not in end.err
    assert len(end.err.splitlines()) == 1


# Stacks


@pytest.fixture(scope="module")
def three_planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localiser(tmp_path_factory.mktemp("localiser") / "scan.h5")


def test_each_stack_of_a_localiser_has_files_of_its_own(three_planes: Path, tmp_path: Path) -> None:
    end = recon("run", three_planes, "-o", f"{tmp_path}/all.d/", "-o", f"{tmp_path}/a.b.nii.gz")
    assert end.code == 0, end.err
    for n in (1, 2, 3):
        assert (tmp_path / f"a.b_stack-{n}.nii.gz").is_file()
    series = [pydicom.dcmread(tmp_path / f"all.d_stack-{n}" / "IM0001.dcm") for n in (1, 2, 3)]
    normals = [np.abs(np.cross(*np.reshape(d.ImageOrientationPatient, (2, 3)))).argmax() for d in series]
    assert normals == [2, 0, 1]
    assert len({d.SeriesInstanceUID for d in series}) == 3
    assert [d.SeriesNumber for d in series] == [1, 2, 3]
    assert len({d.StudyInstanceUID for d in series}) == 1
    assert len({d.FrameOfReferenceUID for d in series}) == 1


def test_one_stack_can_be_chosen_and_keeps_its_picture_and_series(three_planes: Path, tmp_path: Path) -> None:
    assert recon("run", three_planes, "-o", tmp_path / "a.nii").code == 0
    assert recon("run", three_planes, "-o", tmp_path / "b.nii", "-o", tmp_path / "b.dcm", "--stack", "2").code == 0
    assert np.array_equal(voxels(tmp_path / "a_stack-2.nii"), voxels(tmp_path / "b.nii"))
    assert pydicom.dcmread(tmp_path / "b.dcm").SeriesNumber == 2


def test_outputs_of_all_stacks_are_checked_before_the_first_is_made(three_planes: Path, tmp_path: Path) -> None:
    (tmp_path / "d_stack-3").mkdir()
    (tmp_path / "d_stack-3" / "old.dcm").write_text("old")
    sentence = refused(recon("run", three_planes, "-o", tmp_path / "d"), code=1)
    assert "d_stack-3 holds 1 files already" in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["d_stack-3"]


def test_stacks_without_a_study_of_their_own_share_a_new_one(three_planes: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(three_planes)
    bare = replace(raw, header=replace(raw.header, study=replace(raw.header.study, uid="", frame_of_reference_uid="")))
    other = replace(bare, header=replace(bare.header, patient=replace(bare.header.patient, id="another")))
    for name, raw in (("bare", bare), ("other", other)):
        ismrmrd.write(tmp_path / f"{name}.h5", raw)
        assert recon("run", tmp_path / f"{name}.h5", "-o", tmp_path / name).code == 0
    found = {
        name: [pydicom.dcmread(tmp_path / f"{name}_stack-{n}" / "IM0001.dcm") for n in (1, 2, 3)]
        for name in ("bare", "other")
    }
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        shared = [{d[keyword].value for d in series} for series in found.values()]
        assert [len(s) for s in shared] == [1, 1]
        assert shared[0] != shared[1], keyword


# Options that reach the readers


def test_axes_voxel_and_key_reach_the_readers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    k = (rng.standard_normal((2, 20, 24)) + 1j * rng.standard_normal((2, 20, 24))).astype(np.complex64)
    np.savez(tmp_path / "k.npz", first=k, second=2 * k)
    options = ("--axes", "slice, y, x", "--voxel", "1,2,3.5", "--key", "second")
    assert recon("run", tmp_path / "k.npz", *options, "-o", tmp_path / "a.nii").code == 0
    image = nibabel.load(tmp_path / "a.nii")
    assert image.shape == (24, 20, 2)
    assert np.allclose(image.header.get_zooms(), (1, 2, 3.5))
    assert "24×20×2 voxels of 1×2×3.5 mm" in recon("info", tmp_path / "k.npz", *options).out
    for wrong in (("--axes", "coil,q,x"), ("--axes", "y,x"), ()):
        refused(recon("run", tmp_path / "k.npz", *wrong, "--key", "first", "-o", tmp_path / "b.png"), code=1)
    refused(recon("run", tmp_path / "k.npz", "--axes", "slice,y,x", "-o", tmp_path / "b.png"), code=1)
    assert "choose with --key" in recon("run", tmp_path / "k.npz", "-o", tmp_path / "b.png").err


# Trajectories


@pytest.fixture(scope="module")
def radial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A radial scan with its k-space positions, `bare.h5` without them, and the positions in `k.npy`."""
    folder = tmp_path_factory.mktemp("radial")
    raw = simulate(replace(SMALL, trajectory="radial", slices=2, gap=1.0))
    ismrmrd.write(folder / "stored.h5", raw)
    imaging = np.nonzero(raw.lines["trajectory_dimensions"] > 0)[0]
    first = imaging[raw.lines["slice"][imaging] == 0]
    np.save(folder / "k.npy", raw.samples.trajectory(first))
    lines = raw.lines.copy()
    lines["trajectory_dimensions"] = 0
    ismrmrd.write(folder / "bare.h5", replace(raw, lines=lines))
    return folder


def made(folder: Path, scan: str, *options: object) -> np.ndarray:
    end = recon("run", folder / scan, "-o", folder / "x.nii", *options)
    assert end.code == 0, end.err
    return voxels(folder / "x.nii")


def test_positions_in_a_file_of_their_own_give_the_picture_of_stored_ones(radial: Path) -> None:
    assert np.array_equal(
        made(radial, "bare.h5", "--trajectory", radial / "k.npy"), made(radial, "stored.h5")
    )  # of one slice for both


def test_a_standard_trajectory_gives_the_picture_of_stored_positions(radial: Path) -> None:
    x, y = made(radial, "bare.h5", "--trajectory", "radial"), made(radial, "stored.h5")
    assert np.linalg.norm(x - y) < 0.02 * np.linalg.norm(y)
    z = made(radial, "bare.h5", "--trajectory", "golden")
    assert np.linalg.norm(z - y) > 0.2 * np.linalg.norm(y)


def test_a_scan_without_positions_names_the_cures(radial: Path, tmp_path: Path) -> None:
    sentence = refused(recon("run", radial / "bare.h5", "-o", tmp_path / "a.png"), code=1)
    assert "--trajectory positions.npy" in sentence
    assert "--trajectory golden" in sentence


@pytest.mark.parametrize("layout", ["file", "radial", "fractions"])
def test_an_array_of_spokes_gives_the_picture_of_its_scan(layout: str, radial: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(radial / "stored.h5")
    rows = np.nonzero((raw.lines["trajectory_dimensions"] > 0) & (raw.lines["slice"] == 0))[0]
    np.save(tmp_path / "k.npy", raw.samples.read(rows).transpose(1, 0, 2))
    k = np.load(radial / "k.npy")
    n = k.shape[1]
    unit = k * (0.5 / np.abs(k).max())
    np.save(tmp_path / "t.npy", unit if layout == "fractions" else unit * n)
    x = made(
        tmp_path, "k.npy", "--axes", "coil,y,x", "--voxel", "2.5,2.5,5",
        "--trajectory", "radial" if layout == "radial" else tmp_path / "t.npy",
    )  # fmt: skip
    assert x.shape == (n, n, 1)  # the whole oversampled field of view
    y = made(radial, "stored.h5")[:, :, :1]
    x = x[n // 4 : n - n // 4, n // 4 : n - n // 4]
    assert x.shape == y.shape
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.99


SHAPES = {
    "transposed": ((2, 96, 76), "transpose the array"),
    "two axes": ((76, 2), "expected is"),
    "one line too many": ((77, 96, 2), "expected is"),
    "one sample short": ((76, 95, 2), "expected is"),
    "four dimensions": ((76, 96, 4), "2 or 3"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_positions_of_another_shape_are_refused_with_both_shapes(case: str, radial: Path, tmp_path: Path) -> None:
    shape, hint = SHAPES[case]
    np.save(tmp_path / "k.npy", np.ones(shape, np.float32))
    sentence = refused(
        recon("run", radial / "bare.h5", "-o", tmp_path / "a.png", "--trajectory", tmp_path / "k.npy"), code=1
    )
    assert str(shape) in sentence
    assert "2 or 3)" in sentence
    assert hint in sentence


BAD = {
    "NaN": np.full((76, 96, 2), np.nan),
    "zeros": np.zeros((76, 96, 2)),
    "complex": np.ones((76, 96, 2), complex),
    "objects": np.array([{}], object),
    "text": np.array(["Secret"]),
}


@pytest.mark.parametrize("case", [*BAD, "no array", "npz"])
def test_positions_that_are_no_numbers_are_refused(case: str, radial: Path, tmp_path: Path) -> None:
    path = tmp_path / "k.npy"
    if case in BAD:
        np.save(path, BAD[case], allow_pickle=True)
    elif case == "npz":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        path.write_text("no array")
    refused(recon("run", radial / "bare.h5", "-o", tmp_path / "a.png", "--trajectory", path), code=1)


def test_positions_cannot_be_overwritten_by_an_output(radial: Path, tmp_path: Path) -> None:
    path = tmp_path / "k.nii"
    path.write_bytes((radial / "k.npy").read_bytes())
    assert "would overwrite" in refused(recon("run", radial / "bare.h5", "-o", path, "--trajectory", path))


# The other verbs


def test_what_is_simulated_is_described_and_reconstructed(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    assert recon("simulate", "-o", path, "--matrix", "48", "--coils", "4", "--accel", "2").out == f"wrote {path}\n"
    before = path.read_bytes()
    assert "exists" in refused(recon("simulate", "-o", path), code=1)
    assert path.read_bytes() == before
    assert recon("simulate", "-o", path, "--matrix", "32", "--coils", "2", "-f").code == 0
    report = json.loads(recon("info", path, "--json").out)
    assert report["system"]["channels"] == 2
    assert "32×32×1 voxels" in recon("info", path).out


def test_a_printed_recipe_is_read_back_and_decides_the_picture(scan: Path, tmp_path: Path) -> None:
    printed = recon("recipe").out
    path = tmp_path / "r.toml"
    path.write_text(printed)
    assert recipes.load(path) == recipes.Recipe()
    path.write_text('[output]\nparts = ["magnitude", "phase"]\nseries_description = "mine"')
    assert 'series_description = "mine"' in recon("recipe", path).out
    end = recon("run", scan, "--recipe", path, "--method", "sense", "-o", f"{tmp_path}/d/")
    assert [p.parent.name for p in end.wrote] == ["SE01", "SE02"]
    files = [pydicom.dcmread(p) for p in end.wrote]
    assert files[0].SeriesDescription.startswith("mine")
    assert "method sense" in files[0].ImageComments
    path.write_text("[solve]\nmethud = 'cs'")
    assert "did you mean solve.method?" in refused(recon("run", scan, "--recipe", path, "-o", tmp_path / "a.png"), 2)


def test_threads_are_set(scan: Path, tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert recon("run", scan, "-q", "--threads", "2", "-o", tmp_path / "a.png").code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# As a process of its own


def process(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # A shell lets what it starts in the background ignore the keyboard, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_process_has_the_exit_code_and_prints_no_traceback(tmp_path: Path) -> None:
    done = process("-m", "recon", "run", tmp_path / "none.h5", "-o", tmp_path / "a.png")
    out, err = done.communicate()
    assert (done.returncode, out, len(err.splitlines())) == (1, "", 1)
    done = process("-m", "recon", "--debug", "info", tmp_path / "none.h5")
    assert "Traceback" in done.communicate()[1]
    assert done.returncode == 1


def test_a_reader_that_goes_away_is_no_error(scan: Path) -> None:
    code = "import sys; from recon.cli import main; sys.stdin.readline(); main(sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "info", str(scan)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    ) as done:  # fmt: skip
        assert done.stdout is not None
        done.stdout.close()
        _, err = done.communicate(b"\n")
        assert err == b""


SLOW = """
import sys, time
from recon.io import nifti
save = nifti._save
def slow(image, path, packed):
    save(image, path, packed)
    print("half-way", flush=True)
    time.sleep(60)
nifti._save = slow
from recon.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_while_it_writes_leaves_no_half_written_output(
    how: signal.Signals, scan: Path, tmp_path: Path
) -> None:
    with process("-c", SLOW, "run", scan, "-q", "-o", tmp_path / "a.nii.gz") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "half-way\n"
        run.send_signal(how)
        _, err = run.communicate()
    left = list(tmp_path.iterdir())
    if how == signal.SIGKILL:
        assert all(p.name.startswith(".") for p in left)  # a process cannot clean up after this one
    else:
        assert left == []
        assert run.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert "Traceback" not in err


def test_lines_can_be_given_in_any_order(scan: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(scan)
    order = np.random.default_rng(0).permutation(len(raw.lines))
    ismrmrd.write(tmp_path / "s.h5", chosen(raw, order))
    assert recon("run", scan, "-o", tmp_path / "a.nii").code == 0
    assert recon("run", tmp_path / "s.h5", "-o", tmp_path / "b.nii").code == 0
    x, y = voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii")
    assert np.linalg.norm(x - y) < 1e-4 * np.linalg.norm(x)


def test_a_process_ends_with_its_code_and_calls_what_waits_for_its_end() -> None:
    program = (
        "import atexit, sys, threading, time; from recon import cli\n"
        "atexit.register(lambda: print('cleaned'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('worked'))).start()\n"
        "sys.argv = ['recon', 'run', 'no-such-file.h5', '-o', 'x.png']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.split() == ["worked", "cleaned"]
    assert "no-such-file.h5" in done.stderr
