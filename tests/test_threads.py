"""A picture has the same bits on one thread and on two: a server and a command seldom have as many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recon import pipeline, simulation
from recon.recipe import Recipe, with_method
from recon.simulation import Settings

ACCELERATED: dict[str, Any] = {"acceleration": (4, 1), "acs": 20}
VOLUME: dict[str, Any] = {"matrix": (32, 32, 24), "fov": (240.0, 240.0, 180.0), "acceleration": (2, 2), "acs": 12}

#: Scans and what the recipe asks for: the method, and sections with other values.
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "full": ({}, "auto", {}),
    "sense": (ACCELERATED, "sense", {}),
    "cs": ({**ACCELERATED, "mask": "variable_density"}, "cs", {"solve": {"iterations": 20}}),
    "tv": (ACCELERATED, "tv", {"solve": {"iterations": 20}}),
    "grappa": ({"acceleration": (2, 1)}, "grappa", {}),
    "a network": (ACCELERATED, "unrolled", {"solve": {"weights": "mri-small"}}),
    "maps made anew": (ACCELERATED, "unrolled", {"solve": {"weights": "mri-small", "refine_maps": True}}),
    "several slices": ({**ACCELERATED, "slices": 3}, "sense", {}),
    "repetitions": ({**ACCELERATED, "repetitions": 2}, "sense", {}),
    "averages": ({**ACCELERATED, "averages": 2}, "sense", {}),
    "two sets of maps": (ACCELERATED, "sense", {"prepare": {"map_sets": 2}}),
    "maps of Walsh": (ACCELERATED, "sense", {"prepare": {"maps": "walsh"}}),
    "geometric compression": (
        {**ACCELERATED, "coils": 24}, "sense", {"prepare": {"coil_compression": "geometric"}}
    ),
    "replicas": (ACCELERATED, "sense", {"trust": {"replicas": 3}}),
    "no noise scan": ({**ACCELERATED, "noise_lines": 0}, "sense", {}),
    "one channel": ({**ACCELERATED, "coils": 1, "mask": "variable_density"}, "auto", {"solve": {"iterations": 20}}),
    "homodyne": ({"partial_fourier": (0.75, 1.0)}, "auto", {"prepare": {"partial_fourier": "homodyne"}}),
    "POCS": ({"partial_fourier": (0.75, 1.0)}, "auto", {"prepare": {"partial_fourier": "pocs"}}),
    "a finer grid": ({**ACCELERATED, "recon_matrix": (192, 192, 1)}, "sense", {}),
    "echo-planar": ({"trajectory": "epi", "acceleration": (2, 1), "calibration": "separate"}, "sense", {}),
    "radial": ({"trajectory": "radial", "acceleration": (2, 1)}, "sense", {"solve": {"iterations": 10}}),
    "spiral": (
        {"trajectory": "spiral", "acceleration": (2, 1), "oversampling": (1.0, 1.0, 1.0)},
        "cs",
        {"solve": {"iterations": 10}},
    ),
    "a volume": ({**VOLUME, "mask": "caipi"}, "sense", {}),
    "a volume by cs": ({**VOLUME, "mask": "caipi"}, "cs", {"solve": {"iterations": 10}}),
    "odd sides": ({**ACCELERATED, "matrix": (105, 91, 1)}, "sense", {}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_f30_a_picture_has_the_same_bits_on_one_thread_and_on_two(kind: str) -> None:
    settings, method, sections = KINDS[kind]
    scan = simulation.simulate(Settings(**{"matrix": (96, 96, 1), "coils": 8, "sigma": 0.014, **settings}))
    recipe = with_method(Recipe(), method)
    for section, values in sections.items():
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **values)})
    made = []
    for count in (1, 2):
        torch.set_num_threads(count)
        image = pipeline.reconstruct(scan, recipe, device="cpu")
        made.append((image.data, *(() if image.uncertainty is None else (image.uncertainty,))))
    assert all(one.tobytes() == two.tobytes() for one, two in zip(*made, strict=True))
    assert np.abs(made[0][0]).max() > 0
