"""Which method reconstructs a scan, why, and reasons against a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon import trust
from recon.data import ReconError
from recon.mri import networks
from recon.nets import weights
from recon.prepare.noise import UNKNOWN
from recon.prepare.sampling import Sampling
from recon.recipe import CT_ALONE, Method, Recipe, Solve

#: The caution on every image of fastMRI's network.
VARNET_LIMITS = (
    "varnet: a magnitude image without phase; the weights that fastMRI publishes were trained on 2D Cartesian "
    "knees or brains at 1.5 and 3 T, no evidence is collected (Image.trust), and separate calibration lines "
    "are not used"
)

#: Lines along either phase encode of a volume above which its planes are wide enough for a network of slices.
LEAST_LINES = 48

#: How far beyond the most phase encodes in training a network is used, as a factor: for slices of several coils, whose
#: image is compared with the one without the object's phase (`recon.nets.rephased`), and for all others. Beyond,
#: mri-base was seen to draw sharp lines that do not exist, or no images were examined (docs/trust-numbers.md, "Large
#: matrices").
WIDER, WIDER_ALONE = 1.5, 1.2


@dataclass(frozen=True)
class Choice:
    """The method that runs, and the sentence that gives the reason.

    `instead` is the method whose image replaces a learned one that is not trusted; None for the image that the network
    starts from.
    """

    method: Method
    why: str
    instead: Method | None = None


@dataclass(frozen=True)
class Network:
    """A network that "auto" may use: its name, the range of its training, and any reason against it."""

    name: str
    trained: trust.Range | None
    against: str = ""
    #: The reason against it for volumes.
    volumes: str = ""
    #: Whether the noise of the scan is known, which `cs` needs to distinguish structure from it.
    noise: bool = True
    #: The R of slices of several coils at which it is used, if it was measured beyond its training.
    slices: tuple[float, float] | None = None


def choose(
    wanted: Method, sampling: Sampling, coils: int, *, cartesian: bool = True, network: Network | None = None
) -> Choice:
    """The requested method, or for "auto" the one that suits the sampling found in the data.

    Fully sampled: combine. Undersampled on a grid: the `network`, if R is within the range of its training or of later
    measurements. Otherwise a classical method: cs with one channel, because sensitivities alone cannot separate the
    aliases, or at irregular positions, where aliases are incoherent; in all other cases, and non-Cartesian, sense. The
    fallback of a network is cs if the noise is known: in slices, and in volumes that start from it. Raises ReconError
    for a method that the sampling rules out.
    """
    if wanted in CT_ALONE:
        raise ReconError(f"{wanted} reconstructs CT projections, and this is an MRI scan; use --method auto")
    if wanted == "grappa" and (not cartesian or coils == 1):
        what = "is not Cartesian" if not cartesian else "has one channel"
        raise ReconError(f"grappa needs several channels on a Cartesian grid and this scan {what}; use --method cs")
    if wanted == "grappa" and not sampling.regular:
        raise ReconError("grappa needs lines on a regular lattice and these are not; use --method cs or sense")
    if wanted == "unrolled" and not cartesian:
        raise ReconError("the included networks were trained on Cartesian scans; use --method cs for this one")
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
        return Choice(
            "combine", "combine: k-space is fully sampled except at its edge (partial Fourier or zero-filling)"
        )
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
        return Choice(classical, f"{classical}: {found}; the network {network.name} was not used: {against}")
    how = "training" if _learned(network.trained, sampling, coils) else "measured"
    return Choice("unrolled", f"unrolled: {found}, within the {how} range of {network.name}", instead)


def _outside(network: Network, sampling: Sampling, coils: int) -> str:
    """What in the sampling is outside the network's range; empty if its range is not known."""
    if sampling.shape[1] > 1 and coils == 1:
        return "it was not tested on single-channel volumes"
    if sampling.shape[1] > 1 and min(sampling.shape) < LEAST_LINES:
        return f"on volumes it was tested only with {LEAST_LINES} or more phase encodes along both axes"
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
    return f"it was trained and tested for R from {low:g} to {high:g}"


def _learned(trained: trust.Range | None, sampling: Sampling, coils: int) -> bool:
    """Whether a network was trained on such a sampling, rather than only measured on it later."""
    if trained is None:
        return True
    low, high = trained.of(coils).acceleration
    wide = trained.lines is not None and max(sampling.shape) > trained.lines
    return low <= _factor(sampling) <= high and not wide


def _factor(sampling: Sampling) -> float:
    """R of the lattice, if there is one: networks' masks are named by it, without the ACS lines that lower R."""
    return round(float(math.prod(sampling.acceleration)) if sampling.regular else sampling.effective, 1)


def _too_wide(trained: trust.Range, shape: tuple[int, int], coils: int) -> str:
    """The reason against a network if there are more phase encodes than it was trained to unfold."""
    most = WIDER if shape[1] == 1 and coils > 1 else WIDER_ALONE
    if trained.lines is None or max(shape) <= most * trained.lines:
        return ""
    return f"it was trained on up to {trained.lines} phase encodes, and with {max(shape)} it may invent detail"


def offered(recipe: Recipe, noise: str) -> Network | None:
    """The network that "auto" may use on a Cartesian scan; `noise` says where the scan's noise level comes from.

    Weights named in the recipe are used, or refused with ReconError; broken weights that ship with recon give a reason
    against themselves. None if the recipe names a method, or if no weights ship.
    """
    solve, prepare = recipe.solve, recipe.prepare
    if solve.method != "auto" or (solve.weights == "auto" and weights.best() is None):
        return None
    name = weights.find(solve.weights).name
    try:
        name, trained = networks.load(solve.weights, "cpu").name, networks.trained(solve.weights)
        slices = networks.reach(solve.weights, trained.acceleration) if trained else None
    except ReconError as e:
        if solve.weights != "auto":
            raise
        return Network(name, None, f"it cannot be used ({e})")
    if noise in UNKNOWN:
        return Network(name, trained, "the noise level of the scan is unknown", noise=False)
    if prepare.map_sets > 1 or prepare.maps != "espirit":
        return Network(name, trained, "it was trained with one set of ESPIRiT maps")
    return Network(name, trained, volumes=networks.losses(solve.weights), slices=slices)


def cautions(method: Method, recipe: Solve, shape: tuple[int, int], coils: int) -> list[str]:
    """Cautions, as sentences, on a network's image with so many phase encodes (y, z)."""
    if method == "varnet":
        return [VARNET_LIMITS]
    if method != "unrolled":
        return []
    trained = networks.trained(recipe.weights)
    volumes = networks.losses(recipe.weights) if shape[1] > 1 else ""
    wide = _too_wide(trained, shape, coils) if trained else ""
    name = networks.load(recipe.weights, "cpu").name
    return [f"warning: {name}: {said}; compare with --method cs" for said in (volumes, wide) if said]
