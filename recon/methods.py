"""Which method reconstructs a scan, and with what regularisation in units of the whitened noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from recon import trust
from recon.data import Measurement, ReconError
from recon.nets import checkpoint, e2e_varnet, unrolled, weights
from recon.prepare.sampling import Sampling
from recon.recipe import CT_ALONE, Method, Solve, Trust
from recon.solve import cg, fista, pdhg

#: Error of sensitivity maps, as a share of the signal's power.
MAPS_ERROR = 1e-4

#: What everybody should know who looks at an image of fastMRI's network.
VARNET_LIMITS = (
    "varnet: a magnitude image without phase; the weights that fastMRI publishes learned from 2D Cartesian knees or "
    "brains at 1.5 and 3 T, no evidence is gathered (Image.trust), and lines that only calibrate are not used"
)

#: Iterations that a method takes unless the recipe says otherwise.
ITERATIONS = {"sense": 50, "cs": 60, "tv": 150}


@dataclass(frozen=True)
class Choice:
    """The method that runs, and the sentence that says why."""

    method: Method
    why: str


def choose(wanted: Method, sampling: Sampling, coils: int, *, cartesian: bool = True) -> Choice:
    """The method that was asked for, or for "auto" the one that suits the sampling found in the data.

    Fully sampled: combine. Undersampled with one channel, or at irregular positions: cs, since sensitivities alone
    cannot tell the aliases apart or leave them incoherent. Otherwise, and non-Cartesian: sense. Raises ReconError for
    a method that the sampling rules out.
    """
    if wanted in CT_ALONE:
        raise ReconError(f"{wanted} reconstructs projections of CT and this is a scan of MRI; use --method auto")
    if wanted == "grappa" and (not cartesian or coils == 1):
        what = "is not Cartesian" if not cartesian else "has one channel"
        raise ReconError(f"grappa needs several channels on a Cartesian grid and this scan {what}; use --method cs")
    if wanted == "grappa" and not sampling.regular:
        raise ReconError("grappa needs lines on a regular lattice and these are not; use --method cs or sense")
    if wanted == "unrolled" and not cartesian:
        raise ReconError("the networks that ship were trained on Cartesian scans; use --method cs for this one")
    if wanted == "varnet" and (not cartesian or sampling.shape[1] > 1):
        what = "is three-dimensional" if cartesian else "is not Cartesian"
        raise ReconError(f"varnet is a network for 2D Cartesian slices and this scan {what}; use --method sense or cs")
    if wanted == "combine" and not cartesian:
        raise ReconError("combine needs a Cartesian scan; use --method sense for this one")
    if wanted != "auto":
        return Choice(wanted, f"{wanted}: asked for")
    if not cartesian:
        return Choice("sense", "sense: the trajectory is not Cartesian")
    if sampling.full:
        return Choice("combine", "combine: k-space is fully sampled")
    if sampling.acceleration == (1, 1):
        return Choice("combine", "combine: k-space is fully sampled but for its edge (partial Fourier or zero-filling)")
    found = f"undersampled, R = {sampling.effective:.2f}"
    if coils == 1:
        return Choice("cs", f"cs: {found}, one channel")
    if not sampling.regular:
        return Choice("cs", f"cs: {found} at irregular positions")
    return Choice("sense", f"sense: {found} at regular positions, {coils} channels")


def solve(method: Method, m: Measurement, recipe: Solve, *, power: float | None = None, sets: int = 1) -> Tensor:
    """The image (..., z, y, x), or (..., set, z, y, x), that explains the measurement.

        sense  min ‖Ax − y‖² + λ‖x‖²,        λ = l2 · (2σ² / power + 10⁻⁴)
        cs     min ½‖Ax − y‖² + λ‖Ψx‖_½,     λ = l1 · σ, a shrinkage that spares large coefficients more than l1's
        tv     min ½‖Ax − y‖² + λ TV(x),     λ = tv · σ
        unrolled  the network in `weights`, see `recon.nets.unrolled`

    2σ² is the noise power of a voxel that was measured fully and `power` the mean signal power of a voxel, by default
    from the energy of a Cartesian y (see `noise_to_signal`): so one default serves every scan, whatever its scale. The
    constant is the power of the error that sensitivity maps of about 1 % leave: without it a scan of very high SNR
    would be fitted beyond what its maps can explain.
    """
    ndim = 3 if sets == 1 else 4
    if method == "unrolled":
        network = _network(recipe.weights, str(m.y.device)).network
        return unrolled.reconstruct(network, m, denoise=recipe.denoise, ndim=ndim)
    n = recipe.iterations or ITERATIONS[method]
    if method == "sense":
        ratio = cg.noise_to_signal(m, ndim) if power is None else 2 * m.sigma**2 / power
        lam = recipe.l2 * (ratio + MAPS_ERROR)
        return cg.sense(m, lam=lam, iterations=n, tolerance=recipe.tolerance, ndim=ndim).x
    if method == "cs":
        return fista.l1_wavelet(m, lam=recipe.l1, iterations=n, wavelet=recipe.wavelet, seed=recipe.seed, ndim=ndim).x
    return pdhg.tv(m, lam=recipe.tv, iterations=n, ndim=ndim).x


def varnet(y: Tensor, counts: Tensor, recipe: Solve) -> Tensor:
    """fastMRI's network on slices (item, coil, 1, ky, x) in hybrid space, of coils as the scanner stored them.

    `counts` (item, 1, ky) says how many lines were averaged into each. The image (item, z, y, x) is complex without
    phase, the root-sum-of-squares of the coils, in the units of y.
    """
    network = _fastmri(recipe.weights, str(y.device)).network
    return e2e_varnet.reconstruct(network, y, counts[:, 0] > 0).to(y.dtype)


def learned(
    m: Measurement, recipe: Solve, limits: Trust, *, sets: int = 1, decided: Sequence[trust.Evidence] | None = None
) -> tuple[Tensor, Sequence[trust.Evidence]]:
    """The network's images, or the classical ones where trust is broken, and the evidence on each item.

    With `decided` the evidence is taken as given: replicas of an image are made as that image was.
    """
    ndim = 3 if sets == 1 else 4
    network = _network(recipe.weights, str(m.y.device)).network
    start = unrolled.classical(m, network.shape.start, ndim)
    x = unrolled.reconstruct(network, m, denoise=recipe.denoise, ndim=ndim, start=start)
    found = decided
    if found is None:
        found = trust.examine(m, x, start, limits=limits, trained=_trained(recipe.weights), ndim=ndim)
    return trust.chosen(x, start, found, fallback=limits.fallback, ndim=ndim), found


@lru_cache(maxsize=4)
def _trained(name: str) -> trust.Range | None:
    """What the training recipe beside the weights says of their range; None where there is no recipe."""
    from recon.learn import settings

    path = weights.find(name) / "recipe.toml"
    if not path.is_file():
        return None
    data = settings.load(path).data
    return trust.Range(data.acceleration, data.noise)


def evidence(method: Method, recipe: Solve) -> dict[str, str]:
    """Name and SHA-256 of the weights behind an image, empty where no network takes part."""
    if method not in ("unrolled", "varnet"):
        return {}
    loaded = _network(recipe.weights, "cpu") if method == "unrolled" else _fastmri(recipe.weights, "cpu")
    return {"weights": loaded.name, "weights_sha256": loaded.sha256}


@lru_cache(maxsize=4)
def _network(name: str, device: str) -> weights.Loaded:
    return weights.load(name, device)


@lru_cache(maxsize=1)
def _fastmri(name: str, device: str) -> checkpoint.Loaded:
    return checkpoint.load(name, device)


def signal_power(x: Tensor) -> float:
    """Mean of |x|² over all voxels of an image, never zero."""
    return max(float(x.abs().square().mean(dtype=torch.float64)), torch.finfo(torch.float32).tiny)
