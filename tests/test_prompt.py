"""What is typed at a prompt in place of what a function takes is answered in one sentence with its cure."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recon
from recon import simulation
from recon.data import Image, Measurement, RawScan, ReconError
from recon.io.arrays import scan_from_array
from recon.operators import Identity, fft
from recon.prepare.espirit import espirit
from recon.recipe import Recipe
from recon.simulation import Settings
from recon.solve import cg

_UNKNOWN: Any = "foo"


@pytest.fixture(scope="module")
def scan() -> RawScan:
    return simulation.simulate(Settings((32, 24, 1), (240.0, 180.0, 5.0), coils=3, sigma=0.02))


@pytest.fixture(scope="module")
def image(scan: RawScan) -> Image:
    return recon.reconstruct(scan, device="cpu")


def test_one_name_is_one_output(image: Image, tmp_path: Path) -> None:
    """A string is a sequence of letters, each of which would name a folder."""
    assert recon.write(image, str(tmp_path / "a.png")) == [tmp_path / "a.png"]
    assert recon.write(image, tmp_path / "b.png") == [tmp_path / "b.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scan": "scan.h5"}, r"takes a scan and was given str; recon\.read\(path\)"),
        ({"scan": np.zeros((4, 8, 8), complex)}, "was given ndarray; .*scan_from_array"),
        ({"recipe": "cs"}, r"a recipe is a Recipe and not str; recon\.recipe\.load"),
        ({"recipe": {"solve": {"method": "cs"}}}, r"not dict; .*recon\.recipe\.parse"),
        (
            {"recipe": replace(Recipe(), solve=replace(Recipe().solve, method=_UNKNOWN))},
            "'foo' is not one of auto, combine",
        ),
        ({"memory": "4GiB"}, r"memory is a number of bytes, such as 4 \* 2\*\*30, and not '4GiB'"),
    ],
)
def test_what_reconstruct_cannot_take_is_named(given: dict[str, Any], says: str, scan: RawScan) -> None:
    with pytest.raises(ReconError, match=says):
        recon.reconstruct(**{"scan": scan, **given})


def test_an_array_is_no_image_and_no_file(image: Image, tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"write takes an Image, .* given ndarray; dataclasses\.replace"):
        recon.write(image.data, [tmp_path / "a.png"])  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=r"name of a file but was given ndarray; .*scan_from_array"):
        recon.read(image.data)  # type: ignore[arg-type]


def test_a_scan_is_made_of_a_tensor_or_a_list_and_not_of_real_numbers() -> None:
    kspace = np.random.default_rng(0).standard_normal((2, 3, 16, 12)).astype(np.float32)
    array = (kspace[0] + 1j * kspace[1]).astype(np.complex64)
    rows = np.arange(16)
    expected = scan_from_array(array, "coil,y,x").samples.read(rows)
    for other in (torch.from_numpy(array), array.tolist()):
        assert np.array_equal(scan_from_array(other, "coil,y,x").samples.read(rows), expected)
    with pytest.raises(ReconError, match=r"real numbers \(float32\), k-space is complex"):
        scan_from_array(kspace[0], "coil,y,x")


def test_arrays_where_tensors_are_needed_are_named_with_what_makes_a_tensor() -> None:
    x = np.zeros((1, 8, 8), np.complex64)
    with pytest.raises(ReconError, match=r"fft and ifft take torch tensors .* numpy.ndarray; torch\.as_tensor"):
        fft(x, (-1,))  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=r"y is a NumPy array; torch\.from_numpy"):
        Measurement(x, Identity())  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=r"espirit takes torch tensors"):
        espirit(x, (1, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(
        ReconError, match=re.escape("(4, 8, 8) or a grid of (8, 8) lacks axes; give (..., coil, cz, cy, cx)")
    ):
        espirit(torch.zeros(4, 8, 8, dtype=torch.complex64), (8, 8))  # type: ignore[arg-type]


def test_a_solution_is_one_line() -> None:
    b = torch.ones(2, 1, 4, 4, dtype=torch.complex64)
    assert repr(cg.cg(Identity(), b)) == "Solution(x=complex64 2×1×4×4, iterations ≤ 1, residual ≤ 0)"


def test_a_mask_of_one_axis_takes_its_length() -> None:
    assert np.array_equal(recon.masks.equispaced(64, 2, acs=8), recon.masks.equispaced((64,), 2, acs=8))
    assert np.array_equal(recon.masks.random(64, 3), recon.masks.random((64,), 3))


def test_a_prompt_completes_names_that_are_meant_for_it() -> None:
    assert {"read", "reconstruct", "write", "masks", "solve"} <= set(dir(recon))
    assert not {"Any", "import_module", "TYPE_CHECKING", "annotations"} & set(dir(recon))


def test_what_a_message_names_is_available_after_import_recon() -> None:
    named = ("io.arrays.scan_from_array", "prepare.espirit.espirit", "nets.weights.available", "learn.synth")
    named = (*named, "accuracy.compare.Plan", "recipe.parse", "masks.random", "simulation.preset", "solve.cg.sense")
    code = "import recon\n" + "".join(f"recon.{name}\n" for name in named)
    code += "try:\n    recon.io.nothing\nexcept AttributeError as e:\n    print(e)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "module 'recon.io' has no attribute 'nothing'\n", done.stderr
