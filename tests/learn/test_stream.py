"""Trainings that several processes share: scans made meanwhile, gradients averaged, an early end."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.data import ReconError
from recon.learn import ct_train, pool, settings, stream, synth, train
from recon.learn.pool import Item
from recon.learn.supply import Supply
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.nets import weights

RECIPE = """name = "tiny"
[network]
cascades = 1
channels = [4, 4]
condition = 4
iterations = 2
start = 4
[data]
sizes = [32]
coils = [2]
estimated_maps = 0
acs = [8, 8]
planar = 0
[check]
sizes = [32]
coils = [2]
estimated_maps = 0
acs = [8, 8]
raw = 0
[pool]
size = SIZE
validation = 2
first = 3
[loop]
batch = 2
width = 32
warmup = 2
"""
CPU = torch.device("cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    g = np.random.default_rng(0)
    for which in ("train", "validation"):
        (tmp_path / "data" / which).mkdir(parents=True)
        np.savez(tmp_path / "data" / which / "v.npz", image=g.integers(0, 500, (3, 40, 40)).astype(np.int16))
    return tmp_path / "data"


def training(tmp_path: Path, data: Path, *more: object, size: int = 400, run: tuple[str, ...] = ()) -> subprocess.Popen:
    file = tmp_path / "tiny.toml"
    file.write_text(RECIPE.replace("SIZE", str(size)))
    command = [sys.executable, *run, "-m", "recon", "train", file, "-o", tmp_path / "out", "--data", data, "--quiet"]
    return subprocess.Popen(
        [str(c) for c in (*command, "--threads", 1, *more)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def log(tmp_path: Path) -> list[dict[str, float]]:
    return [
        json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines() if line.endswith("}")
    ]


def test_a_training_goes_on_with_scans_made_meanwhile_and_sigterm_ends_it_with_all_outputs(
    tmp_path: Path, data: Path
) -> None:
    process = training(tmp_path, data, "--minutes", 60, "--workers", 1)
    until, scans = time.monotonic() + 100, list[float]()
    while time.monotonic() < until and process.poll() is None and (not scans or scans[-1] <= scans[0]):
        time.sleep(0.2)
        if (tmp_path / "out" / "log.jsonl").exists():
            scans = [line["scans"] for line in log(tmp_path)]
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert scans[-1] > scans[0] >= 3
    assert "validation_gain_dB" in log(tmp_path)[-1]
    assert (tmp_path / "out" / "checkpoint.pt").is_file()
    assert weights.load(tmp_path / "out" / "tiny").network.shape.channels == (4, 4)


def test_sigterm_ends_a_training_that_still_makes_its_scans_and_leaves_whole_ones(tmp_path: Path, data: Path) -> None:
    process = training(tmp_path, data, "--minutes", 60, size=100_000)
    made, until = tmp_path / "out" / "pool" / "train", time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None and not list(made.glob("000001*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 143, said
    for path in made.iterdir():
        pool.read(path)


def test_a_streamed_scan_matches_its_number_and_a_damaged_one_is_reported_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = Settings(sizes=(32,), coils=(2,), estimated_maps=0.0, raw=0.0, acs=(8, 8))
    plan = [("train", tmp_path, range(3, 9))]
    (tmp_path / "000003.safetensors").write_bytes(b"cut short")
    with stream.running(Drawn, plan, 2, CPU, 16) as s:
        s.wait(5, 0, 60, lambda *_: None)
        assert (len(s.groups), s.failed) == (5, 1)
    assert "000003.safetensors is damaged; delete it" in capsys.readouterr().err
    for number in plan[0][2][1:]:
        expected = pool.prepared(synth.example(number, Sources(), drawn), 2)
        assert torch.equal(pool.read(tmp_path / f"{number:06d}.safetensors").start, expected.start)


def test_processes_that_make_nothing_end_the_training_with_a_sentence(tmp_path: Path) -> None:
    with (
        stream.running(Broken, [("train", tmp_path, range(4))], 1, CPU, 16) as s,
        pytest.raises(ReconError, match="0 are there"),
    ):
        s.wait(1, 0, 100, lambda *_: None)


@pytest.mark.parametrize(("which", "failures"), [("validation", 1), ("train", 8)])
def test_data_of_which_no_scan_can_be_made_ends_the_training_at_once_with_the_reason(which: str, failures: int) -> None:
    s = stream.Stream(CPU, 16, threading.Lock())
    s._ready = queue.Queue()
    for message in [(which, n, None, "v.nii.gz is damaged") for n in range(failures)] + [None]:
        s._ready.put(message)
    s.take()
    with pytest.raises(ReconError, match=r"too few scans can be made: v\.nii\.gz is damaged"):
        s.wait(3, 1, 1, lambda *_: None)


@pytest.mark.parametrize("kind", ["unrolled", "ct"])
@pytest.mark.parametrize(
    ("name", "cure"),
    [
        *((name, "give another name") for name in ("pool", "Checkpoint.pt", "log.jsonl", "validation-000100.png")),
        *((name, "use only letters") for name in ("", "..", ". ", "a/b", "../up", "/etc/x", "a\\b", "a\n", "n" * 300)),
    ],
)
def test_a_recipe_has_a_name_that_is_no_path_and_no_other_file_of_its_training(
    tmp_path: Path, kind: str, name: str, cure: str
) -> None:
    load = ct_train.load if kind == "ct" else settings.load
    file = tmp_path / "tiny.toml"
    file.write_text(f"name = {json.dumps(name)}\nkind = {json.dumps(kind)}\n")
    with pytest.raises(ReconError, match=cure):
        load(file)
    file.write_text(f'name = "Kopf 3-T_ä.1"\nkind = {json.dumps(kind)}\n')
    assert load(file).name == "Kopf 3-T_ä.1"


def test_two_processes_train_one_network(tmp_path: Path, data: Path) -> None:
    process = training(tmp_path, data, "--minutes", 0.02, size=6, run=TORCHRUN)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(list((tmp_path / "out" / "pool" / "train").iterdir())) == 6
    assert weights.load(tmp_path / "out" / "tiny").network.shape.channels == (4, 4)
    assert "validation_gain_dB" in log(tmp_path)[-1]
    # One of them writes the log, as a process alone does.
    train.train(settings.load(tmp_path / "tiny.toml"), data, tmp_path / "alone" / "out", minutes=0.02)
    both, one = log(tmp_path), log(tmp_path / "alone")
    # On a busy machine one of the two gets to no step whose number is written: then it has fewer kinds of lines.
    kinds, others = ({frozenset(line) for line in lines} for lines in (both, one))
    assert kinds <= others or others <= kinds
    numbers = [line["step"] for line in both]
    assert numbers == sorted(numbers)
    assert len(both) == len({tuple(sorted(line.items())) for line in both})


def test_gradients_of_two_processes_are_averaged_and_both_come_to_equal_weights() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # As torchrun starts them, without the launcher and what it imports.
    known = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__], env={**known, "RANK": str(n), "LOCAL_RANK": str(n), "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "equal to the mean" in said
        assert "equal weights after" in said


class Drawn:
    """Makes scans of the numbers' own seeds; picklable, as the processes need it."""

    def __call__(self, which: str, number: int) -> Item:
        drawn = Settings(sizes=(32,), coils=(2,), estimated_maps=0.0, raw=0.0, acs=(8, 8))
        return pool.prepared(synth.example(number, Sources(), drawn), 2)


class Broken:
    def __call__(self, which: str, number: int) -> Item:
        raise ValueError("no scan today")


def _two_processes() -> None:
    """What each of two processes runs: one step's gradients against the mean of both batches' own, then some steps."""
    from recon.learn import losses, ranks
    from recon.learn.draw import Draw
    from recon.learn.settings import Loop, Training
    from recon.nets.unrolled import Shape

    torch.set_num_threads(1)
    rank = ranks.join(CPU)
    shape = Shape(cascades=1, channels=(4, 4), condition=4, iterations=2, start=2)
    recipe = Training(network=shape, loop=Loop(batch=1, width=16, warmup=1))
    make = Drawn()

    def gradients(state: train.State, seed: int) -> list[torch.Tensor]:
        made = pool.batch([make("train", seed)], 16, Draw.seeded(seed))
        state.network.zero_grad()
        x = state.gradients.run(made.problem, torch.zeros(1))[-1]
        losses.log_error(x, made.full, made.problem.start, made.weight).backward()
        return [p.grad.clone() for p in state.network.parameters() if p.grad is not None]

    own = [gradients(train.start(recipe, CPU), seed) for seed in (0, 1)]
    together = gradients(train.start(recipe, CPU, rank), rank.number)
    for a, b, mean in zip(*own, together):
        torch.testing.assert_close(mean, (a + b) / 2, rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(a, b) for a, b in zip(*own))
    print("equal to the mean", flush=True)
    # One process is slower, and still both learn at one rate.
    usual = train.step
    train.step = lambda *given: (time.sleep(0.02 * rank.number), usual(*given))[1]
    state, groups = train.start(recipe, CPU, rank), pool.Groups(16, [make("train", 0), make("train", 1)])
    train._loop(
        state, recipe, Supply(groups, []), 0.5, CPU, rank, threading.Event(), None, Path(), lambda *_: None
    )  # fmt: skip
    own = torch.cat([p.detach().flatten() for p in state.network.parameters()])
    both = [torch.empty_like(own) for _ in range(2)]
    torch.distributed.all_gather(both, own)
    assert state.step > 2
    assert torch.equal(*both), f"after {state.step} steps {(both[0] - both[1]).abs().max()} apart"
    print("equal weights after", state.step, flush=True)
    ranks.leave(rank)


if __name__ == "__main__":
    _two_processes()
