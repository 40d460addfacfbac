"""Weights as files: safetensors with a recorded hash, checked before any network is built from them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from recon.data import ReconError
from recon.nets.unrolled import Shape, Unrolled

FILE, HASH = "weights.safetensors", "SHA256"
#: Networks that ship with recon, the best first: "auto" uses the first one that is installed.
PREFERRED = ("mri-base", "mri-small")
#: Limit for the JSON header of a safetensors file; a network's takes a few kilobytes.
_LARGEST_HEADER = 4 << 20


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network in evaluation mode, its name, and the SHA-256 of its file.

    The name is the folder's. If that is the name of a network that ships, but the file is another (for example after
    training with its recipe), the beginning of the hash is added to the name, so that the two are not confused.
    """

    network: Unrolled
    name: str
    sha256: str


def load(name: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The network of a folder, or of a name among those that ship with the package.

    Raises ReconError, before a network runs, for a folder without weights or without their hash, a hash that differs, a
    file that is not safetensors (above all a pickle), and tensors that are missing, superfluous, of another shape, or
    not finite.
    """
    folder = find(name)
    path = folder / FILE
    try:
        content = path.read_bytes()
        recorded = (folder / HASH).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as e:
        raise ReconError(
            f"{folder} needs {FILE} and {HASH} ({type(e).__name__}); copy the whole folder again"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if not recorded or recorded[0].lower() != found:
        raise ReconError(f"{path} has the SHA-256 {found[:12]}…, not the one in {HASH}; fetch the weights again")
    shape = _shape(path, content)
    tensors = _tensors(path, content)
    _no_larger(path, shape, tensors)
    network = Unrolled(shape)
    _check(path, network, tensors)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    return Loaded(network.to(device).eval().requires_grad_(False), _named(folder, found), found)


def _named(folder: Path, found: str) -> str:
    """The folder's name, with the hash added if it is the name of another network that ships."""
    name = folder.resolve().name
    shipped = available().get(name)
    if shipped is None or _recorded(shipped) == found:
        return name
    return f"{name} (not the one that ships, {found[:12]})"


def _recorded(folder: Path) -> str:
    """The hash recorded beside weights, empty if there is none."""
    words = (folder / HASH).read_text(encoding="ascii", errors="replace").split() if (folder / HASH).is_file() else []
    return words[0].lower() if words else ""


def find(name: str | Path) -> Path:
    """The folder of weights: a path that exists, a name of those that ship, or "auto" for the best of these.

    Raises ReconError, with the names that ship, for anything else.
    """
    if str(name) == "auto":
        name = best() or name
    given = Path(name)
    if given.is_dir():
        return given
    if given.is_file():
        raise ReconError(f"{given} is a file; weights are a folder with {FILE} and {HASH}: give the folder")
    shipped = available()
    if str(name) in shipped:
        return shipped[str(name)]
    names = ", ".join(sorted(shipped)) or "none"
    raise ReconError(f'there are no weights "{name}"; choose one of those included: {names}; or give a folder')


def best() -> Path | None:
    """The folder of the best network that ships, None if none does."""
    shipped = available()
    return next((shipped[name] for name in PREFERRED if name in shipped), None)


def available() -> dict[str, Path]:
    """Names of the networks that ship with the package, and their folders."""
    spec = importlib.util.find_spec("recon.trained")
    roots = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return {p.parent.name: p.parent for root in roots for p in sorted(root.glob(f"*/{FILE}"))}


def save(network: Unrolled, folder: Path, *, half: bool = False) -> str:
    """Write weights and hash of a network into a folder, in half precision if requested; returns the hash.

    Neither file is ever half written: the folder's content stays until both new files are complete under temporary
    names.
    """
    from safetensors.torch import save as encoded

    dtype = torch.float16 if half else torch.float32
    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in network.state_dict().items()}
    content = encoded(tensors, metadata={"kind": "unrolled", "network": json.dumps(asdict(network.shape))})
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    files = {FILE: content, HASH: f"{digest}  {FILE}\n".encode("ascii")}
    try:
        for name, data in files.items():
            (folder / f".{name}.new").write_bytes(data)
        for name in files:
            (folder / f".{name}.new").replace(folder / name)
    finally:
        for name in files:
            (folder / f".{name}.new").unlink(missing_ok=True)
    return digest


def _shape(path: Path, content: bytes) -> Shape:
    """The network's shape in the header of the file."""
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise ReconError(f"{path} is a pickle, which can run any program when opened; only safetensors are read")
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if length > _LARGEST_HEADER:
            raise ValueError("header too long")
        about = json.loads(content[8 : 8 + length])["__metadata__"]
        if about["kind"] != "unrolled":
            raise ReconError(f"{path} holds a network of kind {about['kind']!r}; this version supports only unrolled")
        values = json.loads(about["network"])
        values["channels"] = tuple(int(c) for c in values["channels"])
        values |= {name: tuple(values[name]) for name in ("details", "plain", "expected") if name in values}
        return Shape(**values)
    except (struct.error, KeyError, TypeError, ValueError, UnicodeDecodeError):
        raise ReconError(f"{path} is not a safetensors file written by recon; fetch the weights again") from None


def _tensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as decoded

    try:
        return decoded(content)
    except (SafetensorError, ValueError, KeyError):
        raise ReconError(f"{path} is damaged: it is no valid safetensors file; fetch the weights again") from None


def _no_larger(path: Path, shape: Shape, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ReconError for a network with more cascades or channels than its tensors have: it is never built."""
    widest = max((n for t in tensors.values() for n in t.shape), default=0)
    channels = max(*shape.channels, shape.condition, shape.texture, len(shape.details) + len(shape.plain))
    if max(shape.cascades, len(shape.channels)) > len(tensors) or channels > widest:
        raise ReconError(f"{path} states a network that is larger than its tensors; fetch the weights again")


def _check(path: Path, network: Unrolled, tensors: dict[str, torch.Tensor]) -> None:
    wanted = network.state_dict()
    if odd := sorted(set(wanted) ^ set(tensors)):
        raise ReconError(f"{path} and its network differ in {len(odd)} tensors ({odd[0]} …); fetch the weights again")
    for key, value in tensors.items():
        if value.shape != wanted[key].shape:
            raise ReconError(
                f"{path}: {key} has the shape {tuple(value.shape)}, its network wants {tuple(wanted[key].shape)}; "
                "fetch the weights again"
            )
        if not bool(torch.isfinite(value).all()):
            raise ReconError(f"{path}: {key} holds values that are not finite; fetch or train the weights again")
