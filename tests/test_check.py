"""`recon check` on learned outputs of every format, with the same weights, others, and none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.simulation import preset, simulate_to
from tests.command import recon, refused
from tests.io import ct_files
from tests.io import mrd_files as files


def network(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    return weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=20)), folder)


def test_every_format_says_whether_its_network_is_still_the_one_that_made_it(tmp_path: Path) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=4, accel=3, matrix=64))
    first = network(tmp_path / "mine", 1)
    outputs = [tmp_path / name for name in ("a.nii.gz", "dicom", "a.mrd.h5", "a.png")]
    named = [word for o in outputs for word in ("-o", f"{o}/" if o.name == "dicom" else o)]
    done = recon("run", tmp_path / "scan.h5", "--method", "unrolled", "--weights", tmp_path / "mine", *named)
    assert done.code == 0, done.err
    for output in outputs:
        same = recon("check", output)
        assert same.code == 0, same.out
        assert first in same.out
        assert "would make the same image" in same.out
    second = network(tmp_path / "mine", 2)
    for output in outputs:
        other = recon("check", output)
        assert other.code == 1
        assert f"the weights mine are others here, sha256 {second}" in other.out
    shutil.rmtree(tmp_path / "mine")
    gone = recon("check", outputs[0])
    assert gone.code == 1
    assert "its network is not installed" in gone.out


RECORDLESS = {
    "raw data": ("scan.h5", "no record"),
    "a file that is not there": ("none.png", "there is no file"),
    "an image without its side-car": ("alone.nii.gz", "no sidecar alone.json"),
    "an image of another engine in DICOM": ("other.dcm", "no record"),
    "HDF5 of another kind": ("other.h5", "no record"),
    "a side-car that is a list": ("list.nii.gz", "no record"),
    "a record that is a number": ("number.nii.gz", "no record"),
    "a record without values": ("text.nii.gz", "no record"),
}


@pytest.mark.parametrize("case", RECORDLESS)
def test_a_file_without_a_record_is_reported_as_such(case: str, tmp_path: Path) -> None:
    name, says = RECORDLESS[case]
    if name == "scan.h5":
        simulate_to(tmp_path / name, preset(coils=1, matrix=16))
    elif name == "other.dcm":
        ct_files.write(tmp_path, ct_files.body((1, 16, 16)))[0].rename(tmp_path / name)
    elif name == "other.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file["values"] = 1
    elif name != "none.png":
        (tmp_path / name).write_bytes(b"")
    contents = {"list": "[]", "number": '{"recon": 3}', "text": '{"recon": {"provenance": "x"}}'}
    for stem, text in contents.items():
        (tmp_path / f"{stem}.json").write_text(text)
    assert says in refused(recon("check", tmp_path / name), 1)


def test_the_record_of_a_name_in_capitals_is_found(tmp_path: Path) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=1, matrix=16))
    assert recon("run", tmp_path / "scan.h5", "-o", tmp_path / "BRAIN.NII.GZ").code == 0
    assert recon("check", tmp_path / "BRAIN.NII.GZ").code == 0


def test_what_a_file_says_gives_a_terminal_no_commands(tmp_path: Path) -> None:
    vendor = "<acquisitionSystemInformation><systemVendor>Acme\u009b2J</systemVendor></acquisitionSystemInformation>"
    xml = files.XML.replace("<experimentalConditions>", f"{vendor}<experimentalConditions>")
    record = {"provenance": {"engine": "recon", "method": "\x1b]0;owned\x07cs"}, "notes": ["a note\x1b[2J\r"]}
    about = PngInfo()
    about.add_text("recon", json.dumps(record))
    Image.new("L", (4, 4)).save(tmp_path / "i.png", pnginfo=about)
    for word, name in (("Acme", files.scan_file(tmp_path / "scan.h5", xml=xml)), ("owned", tmp_path / "i.png")):
        for options in ((), ("--json",)):
            said = recon("info" if word == "Acme" else "check", name, *options).out
            assert word in said
            assert all(c.isprintable() or c == "\n" for c in said)
