"""Weights from files: what is written comes back, and everything odd is refused before a network runs."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from recon.data import ReconError
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled

SHAPE = Shape(cascades=1, channels=(4, 6), condition=6, iterations=2, start=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    weights.save(Unrolled(SHAPE), tmp_path / "small", half=True)
    return tmp_path / "small"


def replaced(folder: Path, content: bytes) -> Path:
    """The folder with other content whose hash is right."""
    (folder / weights.FILE).write_bytes(content)
    (folder / weights.HASH).write_text(hashlib.sha256(content).hexdigest() + "\n")
    return folder


def rewritten(folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """The folder with some tensors changed or left out, header and hash right."""
    from safetensors import safe_open
    from safetensors.torch import load, save

    with safe_open(str(folder / weights.FILE), framework="pt") as stored:
        about = stored.metadata()
    tensors = {**load((folder / weights.FILE).read_bytes()), **change}
    return replaced(folder, save({k: v for k, v in tensors.items() if v is not None}, metadata=about))


def test_half_precision_keeps_three_digits_of_every_weight(folder: Path) -> None:
    torch.manual_seed(0)
    original, loaded = Unrolled(SHAPE), weights.load(folder)
    assert loaded.network.shape == SHAPE
    assert loaded.name == "small"
    assert loaded.sha256 == hashlib.sha256((folder / weights.FILE).read_bytes()).hexdigest()
    for key, value in original.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[key], value, rtol=1e-3, atol=1e-6)
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_single_precision_keeps_every_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = Unrolled(SHAPE)
    weights.save(original, tmp_path / "full")
    loaded = weights.load(tmp_path / "full").network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in original.state_dict().items())


def test_one_flipped_bit_is_refused(folder: Path) -> None:
    content = bytearray((folder / weights.FILE).read_bytes())
    content[-5] ^= 1
    (folder / weights.FILE).write_bytes(content)
    with pytest.raises(ReconError, match="SHA-256"):
        weights.load(folder)


def test_a_missing_hash_is_refused(folder: Path) -> None:
    (folder / weights.HASH).unlink()
    with pytest.raises(ReconError, match=r"needs weights\.safetensors and SHA256"):
        weights.load(folder)


def test_a_pickle_is_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"a": Bomb()}, tmp_path / "zip.pt")
    for content in (pickle.dumps(Bomb()), (tmp_path / "zip.pt").read_bytes()):
        with pytest.raises(ReconError, match="pickle"):
            weights.load(replaced(folder, content))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 40, b"\xff" * 40, b"{}", b"\x10\x00\x00\x00\x00\x00\x00\x00garbage"]
)
def test_a_file_that_is_no_safetensors_is_refused(folder: Path, content: bytes) -> None:
    with pytest.raises(ReconError, match="not a safetensors"):
        weights.load(replaced(folder, content))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    with pytest.raises(ReconError, match="damaged"):
        weights.load(replaced(folder, (folder / weights.FILE).read_bytes()[:-40]))


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(folder: Path, odd: float) -> None:
    bias = torch.zeros(6, dtype=torch.float16)
    bias[3] = odd
    with pytest.raises(ReconError, match="not finite"):
        weights.load(rewritten(folder, {"embed.0.bias": bias}))


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    with pytest.raises(ReconError, match=r"shape \(5,\), its network wants \(6,\)"):
        weights.load(rewritten(folder, {"embed.0.bias": torch.zeros(5, dtype=torch.float16)}))


@pytest.mark.parametrize("size", ["cascades", "channels", "condition", "texture"])
def test_a_network_larger_than_its_tensors_is_refused_before_it_is_built(
    size: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load, save

    monkeypatch.setattr(weights, "Unrolled", lambda _: pytest.fail("a network was built"))
    values = asdict(SHAPE) | {size: (10**9, 6) if size == "channels" else 10**9}
    about = {"kind": "unrolled", "network": json.dumps(values)}
    content = save(load((folder / weights.FILE).read_bytes()), metadata=about)
    with pytest.raises(ReconError, match="larger than its tensors"):
        weights.load(replaced(folder, content))


@pytest.mark.parametrize("change", [{"embed.0.bias": None}, {"extra": torch.zeros(2, dtype=torch.float16)}])
def test_missing_and_superfluous_tensors_are_refused(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    with pytest.raises(ReconError, match="differ in 1 tensors"):
        weights.load(rewritten(folder, change))


def test_a_retrained_network_is_distinguished_from_the_shipped_one_of_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder.rename(tmp_path / "mri-small")
    digest = hashlib.sha256((mine / weights.FILE).read_bytes()).hexdigest()
    assert weights.load(mine).name == f"mri-small (not the one that ships, {digest[:12]})"
    monkeypatch.chdir(tmp_path)
    assert weights.load("mri-small").sha256 == digest
    assert digest[:12] in weights.load("mri-small").name
    monkeypatch.chdir(mine)
    assert digest[:12] in weights.load(".").name


def test_a_copy_of_a_network_that_ships_keeps_its_name(tmp_path: Path) -> None:
    copy = shutil.copytree(weights.available()["mri-small"], tmp_path / "mri-small")
    assert weights.load(copy).name == "mri-small"
    assert weights.load("mri-small").name == "mri-small"


def test_an_unknown_name_lists_the_available_ones(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match='no weights "nothing"'):
        weights.load("nothing")
    with pytest.raises(ReconError, match="is a file"):
        weights.load(Path(__file__))


@pytest.mark.parametrize("full", [weights.FILE, weights.HASH])
def test_a_disk_that_fills_while_weights_are_written_leaves_those_that_were_there(
    folder: Path, full: str, monkeypatch
) -> None:
    before = weights.load(folder).sha256
    write = Path.write_bytes

    def until_full(path: Path, data: bytes) -> int:
        if full in path.name:
            write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    torch.manual_seed(1)
    with pytest.raises(OSError, match="No space left"):
        weights.save(Unrolled(SHAPE), folder)
    assert weights.load(folder).sha256 == before
    assert sorted(p.name for p in folder.iterdir()) == sorted([weights.FILE, weights.HASH])
