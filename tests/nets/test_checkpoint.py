"""fastMRI's files of weights: sizes come from the tensors, and what is no VarNet is refused in a sentence."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from recon.data import ReconError
from recon.nets import checkpoint
from recon.nets.e2e_varnet import Shape, VarNet

SHAPE = Shape(cascades=3, channels=6, pools=2, sens_channels=4, sens_pools=3)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return VarNet(SHAPE).state_dict()


def saved(folder: Path, what: object) -> Path:
    torch.save(what, folder / "weights.pt")
    return folder / "weights.pt"


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ReconError, match=re.escape(reason)) as e:
        checkpoint.load(path)
    assert "\n" not in str(e.value)
    assert "VarNet" in str(e.value)


def test_names_and_sizes_are_those_of_the_published_network() -> None:
    with torch.device("meta"):
        net = VarNet()
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert sum(p.numel() for p in net.parameters()) == 29_936_966
    assert shapes["sens_net.norm_unet.unet.down_sample_layers.0.layers.0.weight"] == (8, 2, 3, 3)
    assert shapes["sens_net.norm_unet.unet.conv.layers.4.weight"] == (128, 128, 3, 3)
    assert shapes["cascades.11.model.unet.up_transpose_conv.0.layers.0.weight"] == (288, 144, 2, 2)
    assert shapes["cascades.11.model.unet.up_conv.3.0.layers.0.weight"] == (18, 36, 3, 3)
    assert shapes["cascades.11.model.unet.up_conv.3.1.bias"] == (2,)
    assert shapes["cascades.11.dc_weight"] == (1,)


def test_sizes_come_from_the_tensors(tmp_path: Path, state: State) -> None:
    path = saved(tmp_path, state)
    found = checkpoint.load(path)
    assert found.network.shape == SHAPE
    assert found.name == "weights.pt"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.network.training
    assert all(torch.equal(v, state[k]) for k, v in found.network.state_dict().items())


def test_half_precision_and_a_checkpoint_of_the_training_load_too(tmp_path: Path, state: State) -> None:
    half = {f"varnet.{k}": v.half() for k, v in state.items()}
    found = checkpoint.load(saved(tmp_path, {"epoch": 3, "state_dict": {**half, "loss.w": torch.ones(1)}}))
    assert found.network.shape == SHAPE
    assert all(
        v.dtype == torch.float32 and torch.allclose(v, state[k], atol=1e-3)
        for k, v in found.network.state_dict().items()
    )


def lightning(state: State, callback: object) -> dict[str, object]:
    """What Lightning 1.6 and 2.5 wrote of fastMRI's VarNetModule, with one callback and one parameter's optimiser."""
    progress = {"total": {"ready": 2, "completed": 2}, "current": {"ready": 2, "completed": 2}}
    best = {"monitor": "validation_loss", "best_model_score": torch.tensor(0.1), "best_k_models": {"a": torch.ones(())}}
    adam = {"step": torch.tensor(2.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    hyper = {
        "num_cascades": 3,
        "pools": 2,
        "chans": 6,
        "sens_pools": 3,
        "sens_chans": 4,
        "lr": 1e-3,
        "weight_decay": 0.0,
    }
    return {
        "epoch": 0, "global_step": 2, "pytorch-lightning_version": "2.5.5",
        "state_dict": OrderedDict({"loss.w": torch.ones(1, 1, 7, 7), **{f"varnet.{k}": v for k, v in state.items()}}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": progress}},
        "callbacks": {callback: best}, "optimizer_states": [{"state": {0: adam}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [{"step_size": 40, "_last_lr": [1e-3]}], "hparams_name": "kwargs", "hyper_parameters": hyper,
    }  # fmt: skip


def test_a_checkpoint_of_fastmris_trainer_loads_whole_and_an_old_one_is_refused_with_the_cure(
    tmp_path: Path, state: State
) -> None:
    found = checkpoint.load(saved(tmp_path, lightning(state, "ModelCheckpoint{'monitor': 'validation_loss'}")))
    assert all(torch.equal(v, state[k]) for k, v in found.network.state_dict().items())
    # Until 1.4 callbacks were kept by their class, which is a program.
    refused(saved(tmp_path, lightning(state, Harmful)), "of an older one that you trust, save the state_dict alone")


class Harmful:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_program_in_the_file_is_never_run(tmp_path: Path, state: State) -> None:
    trace = tmp_path / "trace"
    refused(saved(tmp_path, {**state, "x": Harmful(trace)}), "holds objects other than tensors")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Harmful(trace), 2))
    refused(tmp_path / "raw.pt", "holds objects other than tensors")
    assert not trace.exists()


def test_other_files_are_refused(tmp_path: Path, state: State) -> None:
    refused(tmp_path / "none.pt", "cannot be read (FileNotFoundError)")
    refused(tmp_path, "cannot be read (IsADirectoryError)")
    for content in (b"", b"hello, world", b"PK\x03\x04" + bytes(50)):
        (tmp_path / "other.pt").write_bytes(content)
        refused(tmp_path / "other.pt", "expected the state dict of fastMRI's VarNet")
    whole = saved(tmp_path, state).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.pt", "expected the state dict of fastMRI's VarNet")
    refused(saved(tmp_path, torch.ones(3)), "holds a Tensor where named real tensors are needed")
    refused(saved(tmp_path, {"a": 1}), "of other things")
    refused(saved(tmp_path, {}), "holds no tensors, not a VarNet")
    refused(saved(tmp_path, torch.nn.Linear(2, 2).state_dict()), "holds 2 tensors (weight …), not a VarNet")


def test_a_tensor_that_is_missing_unknown_misshapen_or_not_finite_is_named(tmp_path: Path, state: State) -> None:
    name = "cascades.1.model.unet.conv.layers.4.weight"
    refused(saved(tmp_path, {k: v for k, v in state.items() if k != name}), f"lacks {name}")
    refused(saved(tmp_path, {**state, "cascades.1.extra": torch.ones(1)}), "has an unknown cascades.1.extra")
    refused(saved(tmp_path, {**state, name: torch.ones(3, 3)}), f"{name} has the shape (3, 3), not (24, 24, 3, 3)")
    broken = {**state, name: state[name].clone()}
    broken[name][0, 0, 0, 0] = float("nan")
    with pytest.raises(ReconError, match=f"{name} holds values that are not finite"):
        checkpoint.load(saved(tmp_path, broken))
