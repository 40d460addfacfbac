"""Common parts of the Cartesian cases: masks, data, and the SENSE normal operator in plain numpy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import phantom
from arrays import tensor
from case import Array, Data, Settings

#: The three sizes of the SENSE cases: one slice, a stack of slices, a volume; the readout is always fully sampled.
SIZES: dict[str, Settings] = {
    "8x256x256": {"coils": 8, "shape": (1, 256, 256), "slices": 1},
    "20x16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 20},
    "8x160x160x160": {"coils": 8, "shape": (160, 160, 160), "slices": 1},
}
QUICK = ("8x256x256",)
#: Noise of their k-space, per real and imaginary part.
SIGMA = 0.01


def calibration_lines(n: int) -> int:
    """24 lines, fewer on the small grids of tests and sweeps."""
    return min(24, n // 6)


def mask(shape: tuple[int, ...], pattern: str = "variable_density", acceleration: float = 4) -> Array:
    """Measured phase encodes (kz, ky) as float32."""
    from recon import masks

    phase = shape[:2] if shape[0] > 1 else shape[1:2]
    lines = [calibration_lines(n) for n in phase]
    made = getattr(masks, pattern)(phase, acceleration, lines, 0)
    return np.asarray(made, np.float32).reshape(shape[:2])


def problem(
    settings: Settings, sigma: float = SIGMA, pattern: str = "variable_density", acceleration: float = 4
) -> Data:
    """Truth, maps, mask (kz, ky) and masked k-space of a size."""
    shape = tuple(settings["shape"])
    image, maps = phantom.stack(settings["slices"], settings["coils"], shape)
    kept = mask(shape, pattern, acceleration)
    return {"image": image, "maps": maps, "mask": kept, "kspace": phantom.kspace(image, maps, sigma) * kept[..., None]}


def normal(maps: Array, kept: Array, dtype: Any = np.complex128) -> Callable[[Array], Array]:
    """x ↦ Σ_c conj(S_c) F⁻¹ M F S_c x as a plain loop over coils, all axes transformed; (slice, z, y, x)."""
    axes = [a for a in (-3, -2, -1) if maps.shape[a] > 1]

    def apply(x: Array) -> Array:
        def one(c: int) -> Array:
            s = maps[:, c].astype(dtype)
            k = phantom.fft(s * x, axes) * kept[..., None]
            return np.asarray(s.conj() * phantom.fft(k, axes, inverse=True))

        return _sum(x.shape, dtype, one, maps.shape[1])

    return apply


def _sum(shape: Any, dtype: Any, one: Callable[[int], Array], coils: int) -> Array:
    """The sum over coils in order, a few at a time."""
    out, some = np.zeros(shape, dtype), os.cpu_count() or 1
    with ThreadPoolExecutor(some) as pool:
        for start in range(0, coils, some):
            parts: Iterable[Array] = pool.map(one, range(start, min(start + some, coils)))
            for part in parts:
                out += part
    return out


def adjoint(maps: Array, kspace: Array) -> Array:
    """Σ_c conj(S_c) F⁻¹ y_c of masked k-space, (slice, z, y, x)."""
    axes = [a for a in (-3, -2, -1) if maps.shape[a] > 1]

    def one(c: int) -> Array:
        return np.asarray(maps[:, c].conj() * phantom.fft(kspace[:, c].astype(np.complex128), axes, inverse=True))

    return _sum((maps.shape[0], *maps.shape[2:]), np.complex128, one, maps.shape[1])


def relative(x: Array, truth: Array) -> float:
    """‖x − t‖ / ‖t‖."""
    return float(np.linalg.norm(x - truth) / np.linalg.norm(truth))


def in_body(x: Array, truth: Array) -> float:
    """‖x − t‖ / ‖t‖ where the truth is above a tenth of its maximum."""
    body = np.abs(truth) > 0.1 * np.abs(truth).max()
    return relative(x[body], truth[body])


def laid_out(data: Data, settings: Settings) -> Data:
    """The arrays as they are, or with reversed axes in memory if the settings say `strided`."""
    return {k: np.asfortranarray(v) for k, v in data.items()} if settings.get("strided") else data


def undersampled(shape: Any) -> tuple[int, ...]:
    """Axes that are not fully sampled: all except the readout."""
    return (-3, -2) if shape[-3] > 1 else (-2,)


def sense_of(data: Data) -> tuple[Any, Any]:
    """recon's operator on hybrid data, as in the pipeline, and its weights."""
    from recon.operators.sense import Sense

    maps, weights = tensor(data["maps"]), tensor(data["mask"])[:, :, None]
    return Sense(maps, weights, undersampled(maps.shape)), weights


def measurement(data: Data) -> Any:
    """recon's Measurement of the case's k-space: the readout is transformed once; white noise stays white."""
    from recon.data import Measurement
    from recon.operators import ifft

    operator, _ = sense_of(data)
    return Measurement(ifft(tensor(data["kspace"]), (-1,)), operator, 1.0)
