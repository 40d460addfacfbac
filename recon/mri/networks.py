"""Networks for scans: loaded once, with the range of their training and later measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from recon import trust
from recon.data import ReconError
from recon.nets import checkpoint, weights
from recon.recipe import Method, Solve

T = TypeVar("T")


@lru_cache(maxsize=4)
def load(name: str, device: str) -> weights.Loaded:
    """The network for scans of this name or folder; raises ReconError if there is none, or one for CT images."""
    loaded = weights.load(name, device)
    if loaded.network.shape.real:
        raise ReconError(f"{loaded.name} is a network for CT images, and this is an MRI scan; give one for MRI")
    return loaded


@lru_cache(maxsize=1)
def load_fastmri(name: str, device: str) -> checkpoint.Loaded:
    """fastMRI's VarNet from a checkpoint; raises ReconError for other files."""
    return checkpoint.load(name, device)


@lru_cache(maxsize=4)
def trained(name: str) -> trust.Range | None:
    """The range that the training recipe beside the weights states; None without a recipe."""
    from recon.learn import settings, synth

    path = weights.find(name) / "recipe.toml"
    if not path.is_file():
        return None
    data = settings.load(path).data
    return trust.Range(data.acceleration, data.noise, synth.SINGLE, max(data.sizes))


def evidence(method: Method, recipe: Solve) -> dict[str, str]:
    """Name and SHA-256 of the weights used for an image, empty if no network was used."""
    if method not in ("unrolled", "varnet"):
        return {}
    loaded = load(recipe.weights, "cpu") if method == "unrolled" else load_fastmri(recipe.weights, "cpu")
    return {"weights": loaded.name, "weights_sha256": loaded.sha256}


def reach(name: str, acceleration: tuple[float, float]) -> tuple[float, float]:
    """The R of slices of several coils at which a network was measured without a loss to `cs`, or that of its training.

    `acceleration` is that of its training; the record of `bench/reach.py` widens it. Raises ReconError for a record
    that cannot be read.
    """

    def wider(stored: Any) -> tuple[float, float]:
        low, high = (float(r) for r in stored["acceleration"])
        return min(low, acceleration[0]), max(high, acceleration[1])

    return _recorded(name, "reach.json", wider, acceleration)


def losses(name: str) -> str:
    """Losses to `cs` measured for a network on volumes, by `bench/volumes.py`; empty if it never lost.

    Raises ReconError for a record beside the weights that cannot be read.
    """

    def words(stored: Any) -> str:
        least, mean, count = (stored[k] for k in ("least_dB", "mean_dB", "volumes"))
        lost = f"on volumes it was up to {-least:.1f} dB worse than cs ({mean:+.1f} dB on average of {count})"
        return lost if least < 0 else ""

    return _recorded(name, "volumes.json", words, "")


@lru_cache(maxsize=4)
def calibration(name: str) -> dict[str, float]:
    """The measured calibration of a network's replicas, stored beside its weights; empty if there is none.

    `factor` times 1.96 standard deviations contain the error of 95 of 100 pixels; `within_1` and `within_2` are the
    shares of pixels whose error is below one and two standard deviations. Raises ReconError for a file that cannot be
    read.
    """
    names = ("factor", "within_1", "within_2")
    return _recorded(name, "calibration.json", lambda stored: {key: float(stored[key]) for key in names}, {})


@lru_cache(maxsize=4)
def draws(name: str) -> bool:
    """Whether a network may draw structures that do not exist: unless `bench/large.py` found none on large slices.

    Raises ReconError for a record beside the weights that cannot be read.
    """
    return _recorded(name, "phases.json", lambda stored: int(stored["drawn"]) > 0, True)


def _recorded(name: str, file: str, read: Callable[[Any], T], otherwise: T) -> T:
    """The result of `read` for a record beside a network's weights; `otherwise` without one for these weights."""
    path = weights.find(name) / file
    if not path.is_file():
        return otherwise
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found, of = read(stored), stored["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ReconError(f"{path} was not written by recon; fetch the weights again") from None
    return found if of == load(name, "cpu").sha256 else otherwise
