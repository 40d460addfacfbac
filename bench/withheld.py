"""How well methods predict withheld samples of a real accelerated scan: no full scan is needed.

    python bench/withheld.py                              # four minutes of one core
    python bench/withheld.py --table                      # from what was measured

The T1 brain of public_test with 8 coils, of which only 12 % of the samples were measured (over two phase encodes, R =
8). A tenth of the samples outside the central ones is withheld, by a seed; each method makes an image x of the rest.
The result, over the M withheld samples of all coils, is

    χ² = ‖Ax − y‖² / (2σ²M),

It is near 1 if only noise is missing; that of x = 0, all of their signal, is given for comparison. Maps are recon's for
all, from the central samples, which are never withheld. The noise is estimated, so χ² of methods can be compared with
each other, and 1 is uncertain by a few per cent. BART's wavelets use the weight that predicts the withheld samples
best: they are shown the answer. Nothing was chosen on this scan.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from opponents import WAVELET, WEIGHTS, bart, read_cfl, top, write_cfl
from records import Record, store, stored
from torch import Tensor

import recon
from recon.data import Measurement
from recon.io.read import read
from recon.mri import methods
from recon.operators.sense import Sense
from recon.recipe import Solve, Trust

SCAN, CENTRE, SHARE = "public_test/sigpy_brain_8ch_prospectively_masked.npz", 12, 0.1
WAYS = ("combine", "sense", "bart wavelet, tuned", "cs", "mri-small", "mri-base")
OUT = Path(__file__).parent / "results/withheld.json"
CASE = ("scan", "method", "seed")


def withheld(mask: Tensor, seed: int) -> Tensor:
    """Which measured samples (z, y) are withheld."""
    places = torch.nonzero(mask)
    far = places[((places - torch.tensor(mask.shape) // 2).abs() > CENTRE).any(1)]
    generator = torch.Generator().manual_seed(seed)
    some = far[torch.randperm(len(far), generator=generator)[: round(SHARE * len(far))]]
    out = torch.zeros_like(mask)
    out[tuple(some.T)] = True
    return out


def image(how: str, m: Measurement) -> Tensor:
    """The image of one of recon's methods for a measurement."""
    if how == "combine":
        return m.A.adjoint(m.y)
    if how in ("sense", "cs"):
        return methods.solve(how, m, Solve())  # type: ignore[arg-type]
    return methods.learned(m, Solve(weights=how), Trust(fallback=False))[0]


class Chi:
    """χ² of the withheld samples of a measurement by an image."""

    def __init__(self, m: Measurement, held: Tensor) -> None:
        A = m.A
        assert isinstance(A, Sense)
        self.all, self.y, self.held = replace(A, mask=torch.ones_like(A.mask)), m.y, held
        self.noise = 2 * m.sigma**2 * int(held.sum()) * m.y.shape[1]

    def __call__(self, x: Tensor) -> float:
        error = (self.all(x) - self.y)[..., self.held, :]
        return float(error.abs().square().sum()) / self.noise


def tuned(m: Measurement, chi: Chi, folder: Path) -> float:
    """χ² of BART's wavelets with the weight that minimises it."""
    A = m.A
    assert isinstance(A, Sense)
    write_cfl(folder / "k", m.y[0].numpy())
    write_cfl(folder / "maps", A.maps[0].numpy())
    shape = m.y.shape[-3:]
    flags = sum(1 << axis for axis, n in enumerate(shape[::-1]) if n > 1)

    def quality(n: int) -> float:
        bart(f"{WAVELET.format(flags=flags, weight=f'{WEIGHTS[n]:.3g}')} k maps x", folder)
        x = torch.from_numpy(read_cfl(folder / "x", tuple(shape)))[None]
        # BART has its own scale: the one that explains the kept samples best is used.
        own = A(x)
        return -chi(x * (own.conj() * m.y).sum() / own.abs().square().sum())

    return -quality(top(quality, len(WEIGHTS)))


def measured(m: Measurement, seed: int) -> list[Record]:
    """The records of one seed."""
    A = m.A
    assert isinstance(A, Sense)
    held = withheld(A.mask[0, 0, ..., 0] > 0, seed)
    kept = A.mask * ~held[..., None]
    rest = replace(m, y=m.y * kept, A=replace(A, mask=kept))
    chi, found = Chi(m, held), {}
    for how in WAYS:
        if "bart" in how:
            with tempfile.TemporaryDirectory() as folder:
                found[how] = tuned(rest, chi, Path(folder))
        else:
            found[how] = chi(image(how, rest))
    nothing = chi(torch.zeros_like(image("combine", rest)))
    of = {"scan": Path(SCAN).stem, "seed": seed, "samples": int(held.sum()), "signal": nothing}
    return [{**of, "method": how, "chi2": value} for how, value in found.items()]


def table(records: list[Record]) -> list[str]:
    """A row for each method: χ², the mean and the range of the draws, and how far it is below tuned BART's."""
    by = {(r["method"], r["seed"]): r["chi2"] for r in records}
    seeds = sorted({r["seed"] for r in records})
    signal = np.mean([r["signal"] for r in records])

    def said(values: list[float], form: str) -> str:
        return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})".replace("-", "−")

    rows = [f"withheld samples: {records[0]['samples']}; χ² of nothing at all {signal:.1f}; {len(seeds)} draws"]
    for how in WAYS:
        values = [by[how, s] for s in seeds]
        over = [by["bart wavelet, tuned", s] - by[how, s] for s in seeds]
        rows.append(f"| {how} | {said(values, '.2f')} | {said(over, '+.2f')} |")
    return rows


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()

    def solver(m: Measurement) -> Tensor:
        for seed in range(options.seeds):
            store(options.json, measured(m, seed), CASE, {"date": str(date.today())})
        return methods.solve("sense", m, Solve())

    if not options.table:
        recon.reconstruct(read(options.data / SCAN, axes=("coil", "y", "x")), solver=solver)
    print("\n".join(table(stored(options.json))))


if __name__ == "__main__":
    main()
