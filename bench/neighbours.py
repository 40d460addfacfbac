"""Whether a network that sees neighbouring slices could pay: what their detail says about the errors of one that does
not.

    python bench/neighbours.py --weights mri-base

SIMULATED from three neighbouring slices each of two validation volumes: eight coils, smooth phase, noise of 1 %, lines
that differ from slice to slice. Printed for each: the correlation of neighbours' detail (minus its mean over 9 × 9
pixels), that of their errors after the network, and by how many decibels the error falls if it is predicted linearly
from 5 × 5 pixels of the neighbour's FULL detail in addition to the image's own, fitted on half of the pixels and tested
on the others.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from volumes import _cut, coils, field

from recon import masks
from recon.data import Measurement
from recon.learn.draw import Draw
from recon.nets import unrolled, weights
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.prepare.espirit import espirit
from recon.prepare.sensitivities import combine

N, NOISE, SEED = 192, 0.01, 7
FILES = {
    "brain T2, 5.5 mm": "torchio_brain_flairlike_t2.nii.gz",
    "heart CT, 1.5 mm": "totalseg_heart_cta_1p5mm.nii.gz",
}


def slices(path: Path) -> Tensor:
    """Three magnitudes from the middle of a volume, (3, y, x) on a grid 1.5 times as fine."""
    v = np.moveaxis(np.asarray(nibabel.load(path).dataobj, np.float32), 2, 0)  # type: ignore[attr-defined]
    v = np.clip(v, -200, 300) + 200 if v.min() < -500 else np.maximum(v, 0)
    v = np.ascontiguousarray(v[len(v) // 2 - 1 : len(v) // 2 + 2]) / float(np.percentile(v[v > 0], 99.5))
    fine = 3 * N // 2
    inner = F.interpolate(torch.from_numpy(v)[None], size=(int(0.9 * fine),) * 2, mode="bilinear").clamp(0, 1.5)[0]
    pad = fine - inner.shape[-1]
    return F.pad(inner, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))


def reconstructed(magnitudes: Tensor, R: int, network: unrolled.Unrolled) -> list[tuple[Tensor, Tensor]]:
    """The network's image and the truth of each slice, (y, x)."""
    fine, acs, draw = magnitudes.shape[-1], 24 if R <= 4 else 16, Draw.seeded(SEED)
    phase, maps = field(Draw.seeded(3), (8, fine, fine), 3.5)[2:5], coils((3, fine, fine))
    found = []
    for k, magnitude in enumerate(magnitudes):
        x = torch.polar(magnitude, 0.9 * phase[k])
        exact = torch.stack([_cut(fft((c[k] * x)[None], (-2, -1)), (1, N, N)) for c in maps])
        exact = exact * (math.sqrt(2) / NOISE / 1.5)
        mask = torch.from_numpy(masks.equispaced((1, N), (1, R), (1, acs), SEED + 4 + 5 * k)).float()
        o = slice(N // 2 - acs // 2, N // 2 + acs // 2)
        noisy = exact + draw.complex_normal(*exact.shape)
        seen = espirit(noisy[:, :, o, o].contiguous(), (1, N, N)).maps
        m = Measurement(ifft(noisy, (-1,)) * mask[..., None], Sense(seen, mask[None, :, :, None], (-3, -2)), 1.0)
        truth = combine(ifft(exact, (-3, -2, -1)), seen)
        found.append((unrolled.reconstruct(network, m)[0], truth[0]))
    return found


def detail(x: Tensor) -> Tensor:
    """A magnitude minus its mean over 9 × 9 pixels."""
    return x.abs() - F.avg_pool2d(x.abs()[None], 9, 1, 4)[0]


def correlation(a: Tensor, b: Tensor, where: Tensor) -> float:
    """⟨a, b⟩ / ‖a‖‖b‖ over some pixels."""
    return float((a * b)[where].sum() / (a[where].square().sum() * b[where].square().sum()).sqrt())


def predicted(error: Tensor, where: Tensor, *about: Tensor) -> float:
    """The share of an error's power that 5 × 5 pixels of each image predict on pixels not used for the fit."""
    chosen, e = where.flatten(), error[where]
    P = torch.cat([F.unfold(a[None, None], 5, padding=2)[0].T[chosen] for a in about], 1)
    fit = torch.arange(len(e)) % 2 == 0
    w = torch.linalg.lstsq(P[fit], e[fit, None]).solution
    return 1 - float((e[~fit] - (P[~fit] @ w)[:, 0]).square().sum() / e[~fit].square().sum())


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--weights", default="mri-base")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = weights.load(options.weights).network
    for name, file in FILES.items():
        magnitudes = slices(options.data / "validation" / file)
        for R in (4, 8):
            made = reconstructed(magnitudes, R, network)
            errors = [((x - t) * torch.exp(-1j * t.angle())).real for x, t in made]
            for a, b in ((0, 1), (1, 2)):
                where = made[a][1].abs() > 0.1 * made[a][1].abs().max()
                own, other = detail(made[a][0]), detail(made[b][1])
                alone, both = predicted(errors[a], where, own), predicted(errors[a], where, own, other)
                gain = -10 * math.log10((1 - max(0.0, both)) / (1 - max(0.0, alone)))
                print(
                    f"{name}, R = {R}, slices {a} and {b}: correlation of detail "
                    f"{correlation(detail(made[a][1]), other, where):.2f}, of errors "
                    f"{correlation(errors[a], errors[b], where):.2f}; {gain:+.2f} dB from the neighbour's full detail",
                    flush=True,
                )


if __name__ == "__main__":
    main()
