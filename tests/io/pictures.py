"""Images with known voxels and places, as tests of the writers need them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Header, Image, Patient, Sequence, Study, System
from recon.geometry import Geometry, from_centre, stack

RECIPE = {
    "engine": "recon",
    "version": "0.1.0",
    "method": "cg",
    "recipe": "sense",
    "recipe_hash": "ab" * 32,
    "seeds": [1],
    "date": "2024-05-06T07:08:09+00:00",
}

HEADER = Header(
    Patient(name="Marked^Patient", id="SECRET-42", birth_date="1970-01-02", sex="F", weight_kg=61.5),
    Study(
        uid="1.2.826.0.1.3680043.8.498.1",
        id="7",
        date="2024-05-06",
        time="07:08:09.25",
        accession="ACC42",
        protocol="t2_tse",
        patient_position="HFS",
        frame_of_reference_uid="1.2.826.0.1.3680043.8.498.2",
        body_part="BRAIN",
    ),
    System(vendor="SIEMENS", model="Prisma", field_T=3.0, frequency_Hz=123.2e6),
    Sequence(name="tse2d", type="TurboSpinEcho", TR=(4000.0,), TE=(90.0,), flip_deg=(150.0,)),
)


def directions(rng: np.random.Generator, hand: int) -> tuple[NDArray[np.float64], ...]:
    """Orthogonal unit vectors r, c and s = hand · (r × c), anyhow turned."""
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    r, c = q[:, 0], q[:, 1]
    return r, c, hand * np.cross(r, c)


def geometry(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    hand: int = 1,
    gap: float = 1.0,
    axes: tuple[Any, Any, Any] | None = None,
    volume: bool = False,
) -> Geometry:
    """A 3D volume, or a stack of 2D slices whose distance is `gap` times their thickness."""
    nz, ny, nx = shape
    r, c, s = axes or directions(rng, hand)
    centre = rng.uniform(-80, 80, 3)
    fov = (nx * rng.uniform(0.6, 1.4), ny * rng.uniform(0.6, 1.4))
    thickness = rng.uniform(1.5, 5)
    if volume:
        return from_centre(centre, r, c, s, (*fov, nz * thickness), (nx, ny, nz))
    slices = [
        from_centre(centre + k * gap * thickness * np.asarray(s), r, c, s, (*fov, thickness), (nx, ny, 1))
        for k in range(nz)
    ]
    return stack(slices)[0]


def whole_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random whole numbers from 0 to 30000, both included: their slope in DICOM is 1, so they are written as is."""
    values = rng.integers(0, 30000, shape).astype(np.float32)
    values.flat[:2] = 0, 30000
    return values


def picture(shape: tuple[int, ...] = (3, 7, 6), seed: int = 0, **changes: Any) -> Image:
    """An image of whole numbers in an oblique stack, with a header and a record."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "data": whole_numbers(rng, shape),
        "geometry": geometry(rng, (shape[-3], shape[-2], shape[-1])),
        "header": HEADER,
        "provenance": RECIPE,
    }
    return Image(**{**fields, **changes})
