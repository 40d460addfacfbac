"""The command line from end to end: what is printed where, exit codes, names of outputs, options that reach readers."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import typer

from recon import cli
from recon import recipe as recipes
from recon.data import DataError
from recon.io import ismrmrd
from tests.command import SMALL, chosen, recon, refused, scan_file


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


RECIPE = Path(__file__).parent.parent / "trained" / "mri-small" / "recipe.toml"
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
    "one byte of memory": ("run", "SCAN", "-o", "a.png", "--memory", "1"),
    "an output to standard output": ("run", "SCAN", "-o", "-"),
    "a dot too many": ("run", "SCAN", "-o", "a.nii.gz."),
    "a raw scan as a picture": ("simulate", "-o", "a.png", "--matrix", "16"),
    "a raw scan without an ending": ("simulate", "-o", "a", "--matrix", "16"),
    "infinite memory": ("run", "SCAN", "-o", "a.png", "--memory", "inf"),
    "negative memory": ("run", "SCAN", "-o", "a.png", "--memory", "-4G"),
    "an unknown method": ("run", "SCAN", "-o", "a.png", "--method", "magic"),
    "an unknown device": ("run", "SCAN", "-o", "a.png", "--device", "meta"),
    "an output over the input": ("run", "SCAN", "-o", "SCAN"),
    "one output twice": ("run", "SCAN", "-o", "a.png", "-o", "./a.png"),
    "an output within another": ("run", "SCAN", "-o", "dicom/", "-o", "dicom/a.png"),
    "a map over an output": ("run", "SCAN", "-o", "a.nii", "--uncertainty", "a.nii"),
    "a record whose name is too long": ("run", "SCAN", "-o", "a.png", "--trust", "a" * 300 + ".json"),
    "a record that is no JSON": ("run", "SCAN", "-o", "a.png", "--trust", "a.txt"),
    "images over the scan that is sent": ("stream", "SCAN", "-o", "SCAN"),
    "projections over the volume": ("simulate-ct", "SCAN", "-f", "-o", "SCAN"),
    "fewer photons than none": ("simulate-ct", "phantom", "-o", "a.h5", "--photons", "-1"),
    "a server for everybody": ("serve", "--host", "0.0.0.0"),
    "a server of a name": ("serve", "--host", "scanner"),
    "a PACS without a port": ("send", ".", "--to", "PACS"),
    "a training without data": ("train", RECIPE, "-o", "runs"),
    "a scan for a training": ("train", "SCAN", "--data", ".", "-o", "runs"),
    "several recipes for scans of MRI": ("train", RECIPE, RECIPE, "--data", ".", "-o", "runs"),
    "no recipe for an adaptation": ("adapt", "SCAN", "-o", "new", "--recipe", "none.toml"),
    "negative threads": ("run", "SCAN", "-o", "a.png", "--threads", "-1"),
    "more threads than a system bears": ("run", "SCAN", "-o", "a.png", "--threads", "100000"),
    "a name that is too long": ("run", "SCAN", "-o", "a" * 300 + ".png"),
    "an output without a name": ("run", "SCAN", "-o", ""),
    "infinite noise": ("simulate", "-o", "a.h5", "--noise", "inf", "--matrix", "16"),
    "a negative seed": ("simulate", "-o", "a.h5", "--seed", "-1", "--matrix", "16"),
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
    monkeypatch.delenv("RECON_DATA", raising=False)
    end = recon(*(scan if a == "SCAN" else a for a in WRONG[case]))
    refused(end, code=2)
    assert len(end.err.splitlines()) == 1
    assert end.out == ""
    assert not list(tmp_path.iterdir())


def test_several_scans_for_run_are_refused_with_the_way_to_do_it(scan: Path, tmp_path: Path) -> None:
    assert "call it once per scan" in refused(recon("run", scan, scan, "-o", tmp_path / "a.png"), code=2)


FAILED = {
    "no such scan": ("run", "none.h5", "-o", "a.png"),
    "no such folder": ("run", "SCAN", "-o", "none/a.png"),
    "no such stack": ("run", "SCAN", "-o", "a.png", "--stack", "2"),
    "too little memory": ("run", "SCAN", "-o", "a.png", "--memory", "1MB"),
    "a device for a scan": ("info", "/dev/null"),
    "a strength for MRI": ("run", "SCAN", "-o", "a.png", "--strength", "0.5"),
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
    assert "unexpected error" not in refused(end, code=1)
    assert len(end.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "adapt", "run"])
def test_a_folder_without_write_permission_is_refused_before_the_work(
    verb: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may write anywhere, so that the system's answer is given in its place."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    for name in ("recon.learn.train.train", "recon.learn.adapt.adapt", "recon.pipeline.reconstruct"):
        monkeypatch.setattr(name, work)
    given = {"train": (RECIPE, "--data", tmp_path), "adapt": (scan,), "run": (scan,)}[verb]
    end = recon(verb, *given, "-o", tmp_path / "new" if verb != "train" else tmp_path / "new" / "runs")
    assert "writing there is not permitted; choose a folder of your own" in refused(end, code=1)
    assert not list(tmp_path.iterdir())


def test_a_scan_that_may_not_be_read_is_a_failure_with_its_cure(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.R_OK)
    monkeypatch.setattr(Path, "open", refuse)
    assert "scan.h5 cannot be read: Permission denied; ask its owner" in refused(recon("info", scan), code=1)


def test_without_arguments_the_help_is_shown() -> None:
    end = recon()
    assert all(verb in end.out + end.err for verb in ("run", "info", "simulate", "recipe", "doctor"))


def test_the_help_says_every_verb_in_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns, where what is longer would be cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    verbs = recon("--help").out.partition("Commands:")[2].strip().splitlines()
    assert len(verbs) == len(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert [line for line in verbs if "..." in line or not line.endswith(".")] == []


@pytest.mark.parametrize("verb", ["run", "bench", "train", "send", "check", "recipe"])
def test_the_usage_of_a_verb_says_once_what_may_be_repeated(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = recon(verb, "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(rf"Usage: recon {verb} \[OPTIONS\] (\w+|\{{\w+\}}|\[\w+\])(\.\.\.)?", lines[0])


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_debug_anywhere_shows_where_it_failed(place: int, tmp_path: Path) -> None:
    arguments = ["run", str(tmp_path / "none.h5"), "-o", str(tmp_path / "a.png")]
    arguments.insert(place, "--debug")
    with pytest.raises(DataError, match="no file"):
        cli.main(arguments)


def test_an_unexpected_error_shows_only_its_type(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recon import pipeline

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Secret^Name")

    monkeypatch.setattr(pipeline, "reconstruct", fail)
    end = recon("run", scan, "-o", tmp_path / "a.png")
    assert (end.code, end.out) == (1, "")
    assert end.err == "recon: an unexpected error (ZeroDivisionError); --debug shows where\n"


def test_system_errors_are_shown_in_its_words_without_a_file_name(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recon import pipeline

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "Secret^Name", "Secret^Name")

    monkeypatch.setattr(pipeline, "reconstruct", fail)
    end = recon("run", scan, "-o", tmp_path / "a.png")
    assert (end.code, end.out) == (1, "")
    assert end.err == "recon: the system says: No space left on device; --debug shows where\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_out_of_memory_error_says_what_to_do(
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


def test_a_progress_bar_does_not_write_to_standard_output(
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


def test_outputs_written_before_a_later_one_failed_are_complete_and_reported(
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


def test_too_little_memory_is_reported_in_a_suitable_unit(scan: Path, tmp_path: Path) -> None:
    said = refused(recon("run", scan, "-o", tmp_path / "a.png", "--memory", "2MB"), code=1)
    assert "2 MiB are allowed" in said
    assert "0.0 GiB" not in said


def test_slices_that_one_file_cannot_hold_are_refused_before_the_work(tmp_path: Path) -> None:
    path = scan_file(tmp_path / "s.h5", replace(SMALL, matrix=(32, 32, 1), slices=3))
    end = recon("run", path, "-o", tmp_path / "a.dcm")
    assert "can hold one slice, and the image has 3" in refused(end, code=1)
    assert len(end.err.splitlines()) == 1


def test_lines_can_be_given_in_any_order(scan: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(scan)
    order = np.random.default_rng(0).permutation(len(raw.lines))
    ismrmrd.write(tmp_path / "s.h5", chosen(raw, order))
    assert recon("run", scan, "-o", tmp_path / "a.nii").code == 0
    assert recon("run", tmp_path / "s.h5", "-o", tmp_path / "b.nii").code == 0
    x, y = voxels(tmp_path / "a.nii"), voxels(tmp_path / "b.nii")
    assert np.linalg.norm(x - y) < 1e-4 * np.linalg.norm(x)
