"""The gallery of hard scans: its scans hold what they say, and its verdicts count what they should."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
NOWHERE = Path("no-volumes-are-needed")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture
def scene(bench: Any) -> Any:
    """A drawn phantom, which needs no file."""
    return bench("gallery_scans").Scene(body="ellipses", shape=(64, 60), coils=3, noise=0.01, acs=12)


def test_the_lines_of_a_scan_are_the_spectrum_of_the_full_scan_at_the_rows_of_its_mask(bench: Any, scene: Any) -> None:
    made = bench("gallery_scans").acquired(scene, 3, NOWHERE)
    rows = made.scan.lines["kspace_encode_step_1"]
    image = made.noisy.numpy()
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    samples = made.scan.samples.read(np.arange(len(rows)))
    assert np.allclose(samples, k[:, rows].transpose(1, 0, 2), atol=1e-5)
    assert made.effective == pytest.approx(64 / len(rows))
    difference = (made.noisy - made.clean).abs().square().mean().sqrt()
    assert float(difference) == pytest.approx(0.01, rel=0.05)


def test_what_is_outside_of_the_field_of_view_wraps_around(bench: Any, scene: Any) -> None:
    """Half the field of view is every second row of k-space, and √2 as large in a unitary transform of half as many."""
    scans = bench("gallery_scans")
    whole = scans._kspace(replace(scene, shape=(128, 60), fault="pixels 2 to 1", room=(1.2, 1.25)), 3, NOWHERE)
    half = scans._kspace(replace(scene, room=(0.6, 1.25), fault="pixels 2 to 1"), 3, NOWHERE)
    error = (half - whole[:, ::2] * 2**0.5).abs().square().mean().sqrt()
    assert float(error) < 0.05 * float(half.abs().square().mean().sqrt())


def test_every_case_makes_a_scan_that_the_path_takes(bench: Any) -> None:
    scans, cases = bench("gallery_scans"), bench("gallery_cases").CASES
    for case, s in cases["faults"].items() | cases["coils"].items() | cases["lines"].items():
        small = replace(s, body="ellipses", shape=(96, 80), coils=min(s.coils, 4), acs=min(s.acs, 16), R=min(s.R, 4))
        made = scans.acquired(small, 1, NOWHERE)
        assert len(made.scan.lines), case
        assert torch.isfinite(torch.view_as_real(made.noisy)).all(), case


def test_a_learned_image_counts_as_bad_only_where_it_was_shown_and_is_worse(bench: Any) -> None:
    gallery = bench("gallery")
    cs = {"psnr": 40.0, "patch": 2.0}
    shown = {"ran": "mri-base", "reasons": [], "psnr": 39.7, "patch": 2.0}
    assert gallery.bad(shown, cs)
    assert not gallery.bad({**shown, "psnr": 39.9}, cs)
    assert gallery.bad({**shown, "psnr": 41.0, "patch": 3.5}, cs)
    assert not gallery.bad({**shown, "psnr": 41.0, "patch": 2.9}, cs)
    assert not gallery.bad({**shown, "reasons": ["its noise is outside"]}, cs)
    assert not gallery.bad({**shown, "ran": "sense"}, cs)
