"""Files of projections: they come back as they were written, and those that make no scan are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import recon
from recon.io import ct_projections
from recon.simulation import ct_scan
from tests import command

FLAT = ct_scan.Scan(beam="flat", fineness=0.5)


@pytest.mark.parametrize("beam", [FLAT, ct_scan.Scan(beam="cone")])
def test_what_is_written_reads_back_and_is_the_same_file_again(beam: ct_scan.Scan, tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(16, replace(beam, views=20), slices=2)
    for name in ("a.h5", "b.h5"):
        ct_projections.write(scan, tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    back = recon.read(tmp_path / "a.h5")
    for name, value in vars(scan).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(back, name), value), name
        elif name not in ("source", "header", "notes"):
            assert getattr(back, name) == value, name


def _edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return edit


def _replace(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        data, attrs = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = value(data)
        file[name].attrs.update(attrs)

    return _edit(change)


def _nan(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flat[7] = np.nan
    return a


def _say(where: str, **values: object) -> Callable[[Path], None]:
    """Change attributes of an entry; None takes one away."""

    def change(file: h5py.File) -> None:
        for name, value in values.items():
            if value is None:
                del file[where].attrs[name]
            else:
                file[where].attrs[name] = value

    return _edit(change)


BAD = {
    "NaN": (_replace("projections", _nan), "1 values of projections are NaN"),
    "no photons": (_replace("projections", lambda a: 0 * a), "100% of the rays have no photons"),
    "negative counts": (_replace("projections", lambda a: -a), "100% of the rays have no photons"),
    "no light": (_replace("flat", lambda a: 0 * a), "have no counts in air"),
    "brighter than air": (_replace("flat", lambda a: a / 50), "brighter behind the body"),
    "flat of other size": (_replace("flat", lambda a: a[:-3]), "flat has the shape"),
    "no flat": (_edit(lambda f: f.__delitem__("flat")), "counts need the data set flat"),
    "no angles": (_edit(lambda f: f.__delitem__("angles")), "lacks the data set angles"),
    "angles of other views": (_replace("angles", lambda a: a[1:]), "19 angles for 20 views"),
    "no kind": (_say("projections", kind=None), "kind ''"),
    "counts as integrals": (
        _say("projections", kind="line integrals"),
        "line integrals run",
    ),
    "no beam": (_say("geometry", beam="pencil"), "beam 'pencil'"),
    "no distance": (_say("geometry", source_to_axis_mm=None), "lacks source_to_axis_mm"),
    "source in the body": (
        _say("geometry", source_to_axis_mm=90.0),
        "within the image",
    ),
    "no spacing": (_say("geometry", detector_spacing_mm=0.0), "not all above 0"),
    "electronic noise": (
        _say("projections", electronic_noise=-1.0),
        "electronic noise",
    ),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-2000]), "truncated"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_makes_no_scan_ends_with_a_sentence_and_nothing_written(kind: str, tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(FLAT, views=20, photons=1e5))
    ct_projections.write(scan, tmp_path / "p.h5")
    change, says = BAD[kind]
    change(tmp_path / "p.h5")
    end = command.recon("run", tmp_path / "p.h5", "-o", tmp_path / "o.nii.gz", "-o", tmp_path / "d", "--method", "fbp")
    assert says in command.refused(end, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]
