"""Which method reconstructs a scan, and with what regularisation in units of the whitened noise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from recon import trust
from recon.data import Measurement, ReconError
from recon.nets import checkpoint, columns, e2e_varnet, rephased, unrolled, weights
from recon.prepare.refine import refined
from recon.prepare.sampling import Sampling
from recon.recipe import CT_ALONE, Method, Prepare, Recipe, Solve, Trust
from recon.solve import alternating, cg, detail, fista, folded, halves, pdhg, rows
from recon.solve.position import Position

T = TypeVar("T")

#: What everybody should know who looks at an image of fastMRI's network.
VARNET_LIMITS = (
    "varnet: a magnitude image without phase; the weights that fastMRI publishes learned from 2D Cartesian knees or "
    "brains at 1.5 and 3 T, no evidence is gathered (Image.trust), and lines that only calibrate are not used"
)

#: Lines along either phase encode of a volume from which on its planes are wide enough for a network of slices.
LEAST_LINES = 48

#: How many times the most phase encodes of its training a network serves: slices of several coils, whose image is held
#: against the one without the object's phase (`recon.nets.rephased`), and all others. Beyond, mri-base was seen to draw
#: crisp lines that are not there, or nobody looked (docs/trust-numbers.md, "Large matrices").
WIDER, WIDER_ALONE = 1.5, 1.2

#: Iterations that a method takes unless the recipe says otherwise.
ITERATIONS = {"sense": 50, "cs": 60, "tv": 150}


@dataclass(frozen=True)
class Choice:
    """The method that runs, and the sentence that says why.

    `instead` is the method whose image takes the place of a learned one that is not trusted; None for the picture that
    the network starts from.
    """

    method: Method
    why: str
    instead: Method | None = None


@dataclass(frozen=True)
class Network:
    """What "auto" may use: a network by its name, what it was trained on, and what speaks against it if anything."""

    name: str
    trained: trust.Range | None
    against: str = ""
    #: What speaks against it on volumes.
    volumes: str = ""
    #: Whether the noise of the scan is known, by which `cs` tells structure from it.
    noise: bool = True
    #: The R of slices of several coils that it serves, where that was measured beyond its training.
    slices: tuple[float, float] | None = None


def choose(
    wanted: Method, sampling: Sampling, coils: int, *, cartesian: bool = True, network: Network | None = None
) -> Choice:
    """The method that was asked for, or for "auto" the one that suits the sampling found in the data.

    Fully sampled: combine. Undersampled on a grid: the `network`, where R is inside of what it was trained on, or
    measured on since. Otherwise a classical method: with one channel, or at irregular positions, cs, since
    sensitivities alone cannot tell the aliases apart or leave them incoherent; in all other cases, and non-Cartesian,
    sense. What takes a network's place is cs wherever the noise is known: in slices, and in volumes that start from it.
    Raises ReconError for a method that the sampling rules out.
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
    classical: Method
    if coils == 1:
        classical, found = "cs", f"{found}, one channel"
    elif not sampling.regular:
        classical, found = "cs", f"{found} at irregular positions"
    else:
        classical, found = "sense", f"{found} at regular positions, {coils} channels"
    if network is None:
        return Choice(classical, f"{classical}: {found}")
    instead: Method = "cs" if network.noise else classical
    if sampling.shape[1] == 1:
        classical = instead
    if against := network.against or _outside(network, sampling, coils):
        return Choice(classical, f"{classical}: {found}; not the network {network.name}, since {against}")
    how = "trained" if _learned(network.trained, sampling, coils) else "measured"
    return Choice("unrolled", f"unrolled: {found}, inside of what {network.name} was {how} on", instead)


def _outside(network: Network, sampling: Sampling, coils: int) -> str:
    """What in the sampling is outside of the network's range; nothing where its range is not known."""
    if sampling.shape[1] > 1 and coils == 1:
        return "nobody measured it on volumes of one channel"
    if sampling.shape[1] > 1 and min(sampling.shape) < LEAST_LINES:
        return f"on volumes it was measured with {LEAST_LINES} phase encodes or more along both axes"
    if sampling.shape[1] > 1 and network.volumes:
        return network.volumes
    if network.trained is None:
        return ""
    if said := _too_wide(network.trained, sampling.shape, coils):
        return said
    low, high = network.trained.of(coils).acceleration
    if network.slices and sampling.shape[1] == 1 and coils > 1:
        low, high = network.slices
    if low <= _factor(sampling) <= high:
        return ""
    return f"it was trained and measured on R from {low:g} to {high:g}"


def _learned(trained: trust.Range | None, sampling: Sampling, coils: int) -> bool:
    """Whether a network was trained on such a sampling, and not only measured on it since."""
    if trained is None:
        return True
    low, high = trained.of(coils).acceleration
    wide = trained.lines is not None and max(sampling.shape) > trained.lines
    return low <= _factor(sampling) <= high and not wide


def _factor(sampling: Sampling) -> float:
    """R by the lattice where there is one: ACS lines on top make it smaller than the networks' masks were named."""
    return round(float(math.prod(sampling.acceleration)) if sampling.regular else sampling.effective, 1)


def _too_wide(trained: trust.Range, shape: tuple[int, int], coils: int) -> str:
    """What speaks against a network where there are more phase encodes than it learned to unfold."""
    most = WIDER if shape[1] == 1 and coils > 1 else WIDER_ALONE
    if trained.lines is None or max(shape) <= most * trained.lines:
        return ""
    return f"it was trained on {trained.lines} phase encodes at most, and on {max(shape)} it may invent detail"


def offered(recipe: Recipe, noise: str) -> Network | None:
    """The network that "auto" may use on a Cartesian scan, `noise` being where the scan's noise level is from.

    Weights that the recipe names are used, or refused with ReconError; of those that ship, broken ones speak against
    themselves. None where the recipe asks for a method, or nothing ships.
    """
    solve, prepare = recipe.solve, recipe.prepare
    if solve.method != "auto" or (solve.weights == "auto" and weights.best() is None):
        return None
    name = weights.find(solve.weights).name
    try:
        name, trained = _network(solve.weights, "cpu").name, _trained(solve.weights)
        slices = reach(solve.weights, trained.acceleration) if trained else None
    except ReconError as e:
        if solve.weights != "auto":
            raise
        return Network(name, None, f"it cannot be used ({e})")
    if noise in ("none", "assumed"):
        return Network(name, trained, "the noise of the scan is not known", noise=False)
    if prepare.map_sets > 1 or prepare.maps != "espirit":
        return Network(name, trained, "it learned from one set of ESPIRiT maps")
    return Network(name, trained, volumes=losses(solve.weights), slices=slices)


def cautions(method: Method, recipe: Solve, shape: tuple[int, int], coils: int) -> list[str]:
    """What everybody should know who looks at a network's image of so many phase encodes (y, z), in sentences."""
    if method == "varnet":
        return [VARNET_LIMITS]
    if method != "unrolled":
        return []
    trained = _trained(recipe.weights)
    against = (losses(recipe.weights) if shape[1] > 1 else "", _too_wide(trained, shape, coils) if trained else "")
    name = _network(recipe.weights, "cpu").name
    return [f"warning: {name}: {said}; compare with --method cs" for said in against if said]


def reach(name: str, trained: tuple[float, float]) -> tuple[float, float]:
    """The R of several coils that a network was trained on, or measured on since, of slices, without a loss to `cs`.

    The record is that of `bench/reach.py`. Raises ReconError for one that cannot be read.
    """

    def wider(stored: Any) -> tuple[float, float]:
        low, high = (float(r) for r in stored["acceleration"])
        return min(low, trained[0]), max(high, trained[1])

    return _recorded(name, "reach.json", wider, trained)


def losses(name: str) -> str:
    """What a network was measured to lose to `cs` on volumes, by `bench/volumes.py`; empty where it never lost.

    Raises ReconError for a record beside the weights that cannot be read.
    """

    def words(stored: Any) -> str:
        least, mean, count = (stored[k] for k in ("least_dB", "mean_dB", "volumes"))
        lost = f"on volumes it was up to {-least:.1f} dB worse than cs ({mean:+.1f} dB on average of {count})"
        return lost if least < 0 else ""

    return _recorded(name, "volumes.json", words, "")


def _recorded(name: str, file: str, read: Callable[[Any], T], otherwise: T) -> T:
    """What `read` makes of a record beside a network's weights; `otherwise` where there is none, or it is of others."""
    path = weights.find(name) / file
    if not path.is_file():
        return otherwise
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, of = read(stored), stored["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ReconError(f"{path} is no record of this engine; fetch the weights again") from None
    return found if of == _network(name, "cpu").sha256 else otherwise


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
        return _unrolled(m, recipe, sets)[1]
    n = recipe.iterations or ITERATIONS[method]
    if method == "sense":
        ratio = cg.noise_to_signal(m, ndim) if power is None else 2 * m.sigma**2 / power
        lam = recipe.l2 * (ratio + trust.MAPS_ERROR)
        # Whoever names iterations wants that many: stopping early is a regularisation too.
        x = None if recipe.iterations else folded.exact(m.A, m.A.adjoint(m.y), lam, ndim)
        return cg.sense(m, lam=lam, iterations=n, tolerance=recipe.tolerance, ndim=ndim).x if x is None else x
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
    m: Measurement,
    recipe: Solve,
    limits: Trust,
    *,
    sets: int = 1,
    instead: Method | None = None,
    decided: Sequence[trust.Evidence] | None = None,
    positions: Sequence[Position | None] = (),
    prepare: Prepare | None = None,
) -> tuple[Tensor, Sequence[trust.Evidence]]:
    """The network's images, or the classical ones where trust is broken, and the evidence on each item.

    Classical is what the network starts from, or the image of the method `instead`. With `decided` the evidence is
    taken as given: replicas of an image are made as that image was. With `refine_maps` both are made a second time,
    with ESPIRiT maps, as `prepare` wants them, of the k-space that the first image completed. `positions` is what
    `recon.solve.position` says of separate calibration lines.
    """
    ndim = 3 if sets == 1 else 4
    start, x = _unrolled(m, recipe, sets, limits.margin)
    if recipe.refine_maps and m.y.shape[-3] == 1:
        p, before = prepare or Prepare(), m
        m = refined(m, x, kernel=p.espirit_kernel, threshold=p.espirit_threshold, crop=p.espirit_crop)
        start, x = (start, x) if m is before else _unrolled(m, recipe, sets, limits.margin)
    found = decided
    if found is None:
        trained = _trained(recipe.weights)
        trained = trained.of(m.y.shape[1]) if trained else None
        details = detail.compared(m, start)
        lines = rows.sparser(m, [detail.doubtful(d) for d in details]) if limits.misplaced < 1 else ()
        network = _network(recipe.weights, str(m.y.device)).network
        phases = rephased.compared(network, m, x, start, denoise=recipe.denoise)
        found = trust.examine(
            m, x, start, limits=limits, trained=trained, ndim=ndim, lines=lines, details=details,
            parities=alternating.compared(m), halves=halves.compared(m, start), positions=positions,
            phases=phases,
        )  # fmt: skip
    already = "cs" if m.y.shape[-3] > 1 else None
    if instead and instead != already and limits.fallback and any(e.reasons for e in found):
        start = solve(instead, m, recipe, sets=sets)
    return trust.chosen(x, start, found, fallback=limits.fallback, ndim=ndim), found


def _unrolled(m: Measurement, recipe: Solve, sets: int, margin: float = Trust().margin) -> tuple[Tensor, Tensor]:
    """What a network starts from and what it makes of it: slices from a wavelet picture, volumes from that of `cs`.

    The columns of a volume's readout are slices to the network; a start that saw all three axes is worth up to 0.9 dB
    over one that saw the column alone.
    """
    ndim = 3 if sets == 1 else 4
    network = _network(recipe.weights, str(m.y.device)).network
    if m.y.shape[-3] == 1:
        start = unrolled.classical(m, network.shape.start, ndim)
        return start, unrolled.reconstruct(network, m, denoise=recipe.denoise, ndim=ndim, start=start)
    start, trained = solve("cs", m, recipe, sets=sets), _trained(recipe.weights)
    most = min(1.0, margin * trained.noise[1]) if trained else 1.0
    return start, columns.reconstruct(network, m, start, denoise=recipe.denoise, ndim=ndim, most=most)


@lru_cache(maxsize=4)
def _trained(name: str) -> trust.Range | None:
    """What the training recipe beside the weights says of their range; None where there is no recipe."""
    from recon.learn import settings, synth

    path = weights.find(name) / "recipe.toml"
    if not path.is_file():
        return None
    data = settings.load(path).data
    return trust.Range(data.acceleration, data.noise, synth.SINGLE, max(data.sizes))


def evidence(method: Method, recipe: Solve) -> dict[str, str]:
    """Name and SHA-256 of the weights behind an image, empty where no network takes part."""
    if method not in ("unrolled", "varnet"):
        return {}
    loaded = _network(recipe.weights, "cpu") if method == "unrolled" else _fastmri(recipe.weights, "cpu")
    return {"weights": loaded.name, "weights_sha256": loaded.sha256}


@lru_cache(maxsize=4)
def calibration(name: str) -> dict[str, float]:
    """What replicas of a network are worth, measured beside its weights; empty where it was not.

    `factor` times 1.96 standard deviations hold the error of 95 of 100 pixels; `within_1` and `within_2` are the shares
    of pixels whose error is below one and two standard deviations. Raises ReconError for a file that cannot be read.
    """
    names = ("factor", "within_1", "within_2")
    return _recorded(name, "calibration.json", lambda stored: {key: float(stored[key]) for key in names}, {})


@lru_cache(maxsize=4)
def _network(name: str, device: str) -> weights.Loaded:
    loaded = weights.load(name, device)
    if loaded.network.shape.real:
        raise ReconError(f"{loaded.name} is a network for CT images and this is a scan of MRI; name one for MRI")
    return loaded


@lru_cache(maxsize=1)
def _fastmri(name: str, device: str) -> checkpoint.Loaded:
    return checkpoint.load(name, device)


def signal_power(x: Tensor) -> float:
    """Mean of |x|² over all voxels of an image, never zero."""
    return max(float(x.abs().square().mean(dtype=torch.float64)), torch.finfo(torch.float32).tiny)
