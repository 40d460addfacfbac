"""How the default regularisation was chosen: PSNR over weights of sense, cs and tv on the validation scans.

    python bench/regularisation.py --data ../shared/data

Eight-coil scans are SIMULATED from magnitude volumes (smooth phase, Biot-Savart coils, white noise), which favours
every method alike. Only `validation` is read. These scans are so badly conditioned at R = 4 that PSNR asks for more
regularisation than is good for a real scan: the defaults (sense 4, cs 1, tv 0.5) are on the weaker side, where noise is
left rather than detail lost.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from recon import masks, pipeline
from recon import recipe as recipes
from recon.data import Encoding, Limit, RawScan
from recon.io.samples import lines_from_array
from recon.metrics import psnr
from recon.simulation.reference import truth_maps
from recon.simulation.settings import Settings

WEIGHTS = (0.1, 0.4, 1.0, 2.0, 4.0, 8.0, 16.0)


def volumes(data: Path) -> dict[str, NDArray[np.float32]]:
    """One slice of each magnitude volume, 192×192, peak 1."""
    found = {}
    for path in sorted((data / "validation").iterdir()):
        if path.name.startswith(("bispmri_3t_patient4_T2w", "pyradiomics_brain1")):
            v = np.load(path)["image"] if path.suffix == ".npz" else np.asarray(nibabel.load(path).dataobj).T
            image = v[len(v) // 2].astype(np.float32)
            canvas = np.zeros((192, 192), np.float32)
            h, w = (min(192, n) for n in image.shape)
            y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
            top, left = (192 - h) // 2, (192 - w) // 2
            canvas[top : top + h, left : left + w] = image[y : y + h, x : x + w]
            found[path.name.split(".")[0]] = canvas / np.percentile(canvas, 99.5)
    return found


def scan_of(kspace: NDArray[np.complex64], mask: NDArray[np.bool_]) -> RawScan:
    """A raw scan of one slice (coil, ky, kx) with the given phase encodes."""
    _, ny, nx = kspace.shape
    lines, samples = lines_from_array(kspace[None, :, None], mask[None, None])
    limits = {"kspace_encoding_step_1": Limit(0, ny - 1, ny // 2), "kspace_encoding_step_2": Limit(0, 0, 0)}
    fov = (float(nx), float(ny), 5.0)
    encoding = Encoding((nx, ny, 1), fov, (nx, ny, 1), fov, limits=limits)
    return RawScan(lines, samples, (encoding,), source="numpy")


def fft(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    shifted = np.fft.fftn(np.fft.ifftshift(x, axes=(-2, -1)), axes=(-2, -1), norm="ortho")
    return np.fft.fftshift(shifted, axes=(-2, -1)).astype(np.complex64)


def simulated(image: NDArray[np.float32], snr: float, seed: int) -> NDArray[np.complex64]:
    """Noisy k-space (coil, ky, kx) of an image seen by eight coils, white noise of σ = 1 / snr."""
    maps = truth_maps(Settings(matrix=(192, 192, 1), coils=8))[:, 0]
    y, x = np.meshgrid(*(np.linspace(-1, 1, 192),) * 2, indexing="ij")
    rng = np.random.default_rng(seed)
    k = fft(maps * image * np.exp(1j * (0.8 * x - 0.5 * y + 1.2 * x * y)))
    return (k + (rng.standard_normal((*k.shape, 2)) @ [1, 1j]) / snr).astype(np.complex64)


def scores(
    kspace: NDArray[np.complex64], mask: NDArray[np.bool_], method: str, reference: NDArray[np.float32]
) -> list[float]:
    """PSNR in the body for each weight."""
    body = reference > 0.1 * reference.max()
    key = {"sense": "l2", "cs": "l1", "tv": "tv"}[method]
    out = []
    for weight in WEIGHTS:
        recipe = recipes.parse({"solve": {"method": method, key: weight}})
        x = np.abs(pipeline.reconstruct(scan_of(kspace, mask), recipe).data[0]).astype(np.float64)
        x *= (x * reference)[body].sum() / (x * x)[body].sum()
        out.append(round(psnr(x, reference, data_range=float(reference.max()), mask=body), 2))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    patterns = {
        "equispaced R=4": masks.equispaced((192,), 4, 24, 0),
        "variable density R=4": masks.variable_density((192,), 4, 24, 0),
    }
    records = []
    for name, image in volumes(options.data).items():
        for snr in (20.0, 80.0):
            full = simulated(image, snr, 0)
            maps = truth_maps(Settings(matrix=(192, 192, 1), coils=8))[:, 0]
            clean = (np.linalg.norm(maps, axis=0) * image).astype(np.float32)
            for pattern, mask in patterns.items():
                for method in ("sense", "cs", "tv"):
                    record = {"scan": name, "snr": snr, "mask": pattern, "method": method}
                    record["psnr"] = scores(full, np.asarray(mask).reshape(-1), method, clean)
                    records.append(record)
                    print(f"{name:32.32} snr {snr:3.0f} {pattern:22} {method:6}", record["psnr"], flush=True)
    for method in ("sense", "cs", "tv"):
        for pattern in patterns:
            found = [np.array(r["psnr"]) for r in records if (r["method"], r["mask"]) == (method, pattern)]
            loss = np.mean([p.max() - p for p in found], axis=0)
            print(f"{method:6} {pattern:22} mean loss to the best weight", dict(zip(WEIGHTS, loss.round(2).tolist())))
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "date": str(date.today())}
        options.json.write_text(json.dumps({"weights": WEIGHTS, **machine, "records": records}, indent=1))


if __name__ == "__main__":
    main()
