"""Weights of the End-to-End VarNet as fastMRI publishes them: a state dict in a .pt file, read without unpickling."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from recon.data import ReconError
from recon.nets.e2e_varnet import Shape, VarNet
from recon.starting import complete

_EXPECTED = "expected the state dict of fastMRI's VarNet, such as brain_leaderboard_state_dict.pt"
_SENS, _CASCADE = "sens_net.norm_unet.unet", "cascades.0.model.unet"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network in evaluation mode, the name of its file, and the SHA-256 of that file."""

    network: VarNet
    name: str
    sha256: str


def load(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The network in a state dict of fastMRI's VarNet, on its own or within a checkpoint of fastMRI's training.

    Cascades, channels and pools are read from the tensors' shapes. Raises ReconError, before a network runs, if the
    file is missing or contains more than tensors, and if the tensors are not those of a VarNet or not finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ReconError(
            f"{path} cannot be read ({type(e).__name__}); --method varnet needs --weights FILE.pt, the state dict of "
            "fastMRI's VarNet"
        ) from None
    try:
        found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ReconError(
            f"{path} is damaged or holds objects other than tensors, and is not opened; {_EXPECTED}, or its "
            "trainer's checkpoint by Lightning 1.5 or later; of an older one that you trust, save the "
            "state_dict alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError, OSError):
        raise ReconError(f"{path} is damaged or was not written by torch.save; {_EXPECTED}") from None
    tensors = _state(path, found)
    shape = _shape(path, tensors)
    complete()
    with torch.device("meta"):
        network = VarNet(shape)
    _check(path, network, tensors)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return Loaded(network.to(device).eval().requires_grad_(False), path.name, hashlib.sha256(content).hexdigest())


def _state(path: Path, found: object) -> dict[str, Tensor]:
    """The tensors of the network by name, without the prefix from fastMRI's training."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        prefix = "varnet."
        found = {k[len(prefix) :]: v for k, v in found["state_dict"].items() if str(k).startswith(prefix)}
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) and v.is_floating_point() for k, v in found.items()
    ):
        what = f"a {type(found).__name__}" + (" of other things" if isinstance(found, Mapping) else "")
        raise ReconError(f"{path} holds {what} where named real tensors are needed; {_EXPECTED}")
    return dict(found)


def _shape(path: Path, tensors: Mapping[str, Tensor]) -> Shape:
    """The sizes given by the names and shapes of the tensors."""
    cascades = {int(m[1]) for key in tensors if (m := re.match(r"cascades\.(\d{1,4})\.dc_weight$", key))}
    sizes = []
    for unet in (_CASCADE, _SENS):
        first = tensors.get(f"{unet}.down_sample_layers.0.layers.0.weight")
        layer = re.compile(rf"{re.escape(unet)}\.down_sample_layers\.(\d{{1,2}})\.layers\.0\.weight$")
        pools = {int(m[1]) for key in tensors if (m := layer.match(key))}
        if not cascades or first is None or first.ndim != 4 or first.shape[1] != 2:
            given = f"{len(tensors)} tensors ({next(iter(tensors))} …)" if tensors else "no tensors"
            raise ReconError(f"{path} holds {given}, not a VarNet; {_EXPECTED}")
        sizes += [first.shape[0], len(pools)]
    return Shape(len(cascades), *sizes)


def _check(path: Path, network: VarNet, tensors: Mapping[str, Tensor]) -> None:
    wanted = network.state_dict()
    s = network.shape
    what = f"a VarNet of {s.cascades} cascades, {s.channels} channels and {s.pools} pools"
    if odd := sorted(set(wanted) ^ set(tensors)):
        state = "lacks" if odd[0] in wanted else "has an unknown"
        raise ReconError(f"{path} looks like {what} but {state} {odd[0]} ({len(odd)} in all); {_EXPECTED}")
    for key, value in tensors.items():
        if value.shape != wanted[key].shape:
            raise ReconError(
                f"{path} looks like {what} but {key} has the shape {tuple(value.shape)}, not "
                f"{tuple(wanted[key].shape)}; {_EXPECTED}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ReconError(f"{path}: {key} holds values that are not finite; fetch or train the weights again")
