"""`recon` as a separate process: exit codes, closed pipes, signals, threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import scan_file

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")


def process(*arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # A shell lets what it starts in the background ignore the keyboard, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_process_has_the_exit_code_and_prints_no_traceback(tmp_path: Path) -> None:
    done = process("-m", "recon", "run", tmp_path / "none.h5", "-o", tmp_path / "a.png")
    out, err = done.communicate()
    assert (done.returncode, out, len(err.splitlines())) == (1, "", 1)
    done = process("-m", "recon", "--debug", "check", tmp_path / "none.h5")
    assert "Traceback" in done.communicate()[1]
    assert done.returncode == 1


def test_a_closed_output_pipe_is_no_error(scan: Path) -> None:
    code = "import sys; from recon.cli import main; sys.stdin.readline(); main(sys.argv[1:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "info", str(scan)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    ) as done:  # fmt: skip
        assert done.stdout is not None
        done.stdout.close()
        _, err = done.communicate(b"\n")
        assert err == b""


@pytest.mark.parametrize(("encoding", "name"), [("ascii", "Sch\\xe4del"), ("latin-1", "Schädel"), ("utf-8", "Schädel")])
def test_a_terminal_that_cannot_show_a_name_still_gets_it_escaped(
    encoding: str, name: str, scan: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}

    def told(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "recon", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment)

    assert (
        told("check", "Schädel.png").stderr.decode(encoding) == f"recon: there is no file {name}.png; check the name\n"
    )
    if encoding == "ascii":
        assert told("run", str(scan), "-o", "Schädel.png").stdout.decode(encoding) == f"wrote {name}.png\n"
        assert (tmp_path / "Schädel.png").is_file()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_with_a_closed_output_pipe_still_writes_every_output(stream: str, scan: Path, tmp_path: Path) -> None:
    code = "import sys; from recon.cli import main; sys.stdin.readline(); main(sys.argv[1:])"
    outputs = [tmp_path / name for name in ("a.nii.gz", "b.png", "c.h5")]
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", str(scan), *(str(a) for path in outputs for a in ("-o", path))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as run:  # fmt: skip
        getattr(run, stream).close()
        setattr(run, stream, None)
        run.communicate(b"\n")
    assert [path.name for path in outputs if not path.is_file()] == []


SLOW = """
import sys, time
from recon.io import nifti
save = nifti._save
def slow(image, path, packed):
    save(image, path, packed)
    print("half-way", flush=True)
    time.sleep(60)
nifti._save = slow
from recon.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_while_it_writes_leaves_no_half_written_output(
    how: signal.Signals, scan: Path, tmp_path: Path
) -> None:
    with process("-c", SLOW, "run", scan, "-q", "-o", tmp_path / "a.nii.gz") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "half-way\n"
        run.send_signal(how)
        _, err = run.communicate()
    left = list(tmp_path.iterdir())
    if how == signal.SIGKILL:
        assert all(p.name.startswith(".") for p in left)  # a process cannot clean up after this one
    else:
        assert left == []
        assert run.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert "Traceback" not in err


INTERRUPTED = """
import os, signal, sys

class Keyboard:
    def find_spec(name, path=None, target=None):
        if name == WHERE:
            os.kill(os.getpid(), signal.SIGINT)

WHERE = sys.argv.pop()
sys.meta_path.insert(0, Keyboard)
from recon.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["recon.cli", "typer", "recon.ending"])
def test_an_interrupt_while_the_program_is_still_imported_shows_no_traceback(module: str) -> None:
    with process("-c", INTERRUPTED, module) as run:
        out, err = run.communicate()
    assert (run.returncode, out, err) == (130, "", "")


def test_a_process_ends_with_its_code_and_calls_what_waits_for_its_end() -> None:
    program = (
        "import atexit, sys, threading, time; from recon import cli\n"
        "atexit.register(lambda: print('cleaned'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('worked'))).start()\n"
        "sys.argv = ['recon', 'run', 'no-such-file.h5', '-o', 'x.png']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.split() == ["worked", "cleaned"]
    assert "no-such-file.h5" in done.stderr


@pytest.mark.parametrize(("asked", "policy"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_without_work_sleep_unless_the_user_says_otherwise(asked: str | None, policy: str) -> None:
    # OpenMP's own word, when torch loads it.
    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    given = kept | {"OMP_DISPLAY_ENV": "true", "OMP_NUM_THREADS": "1"} | ({"OMP_WAIT_POLICY": asked} if asked else {})
    code = "import recon.cli as c, contextlib as l\nwith l.suppress(SystemExit): c.main(['--version'])\nimport torch"
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr.replace("='", " = '")


@pytest.mark.parametrize("closed", [(2,), (1,), (0, 1, 2)])
def test_closed_streams_take_nothing_from_a_run(closed: tuple[int, ...], scan: Path, tmp_path: Path) -> None:
    """Without a standard error the first file that is opened would be it, and take what libraries print."""
    command = [sys.executable, "-m", "recon", "run", str(scan), "-o", str(tmp_path / "a.nii.gz")]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=lambda: [os.close(n) for n in closed])  # type: ignore[arg-type]
    assert done.returncode == 0
    assert (tmp_path / "a.nii.gz").stat().st_size > 1000


RECONSTRUCTS = """
from recon import simulation
def one(seed):
    scan = simulation.simulate(simulation.preset(matrix=64, accel=2, coils=4, seed=seed))
    return abs(recon.reconstruct(scan).data).tobytes()
"""
APPLIES = """
import torch
from recon.operators import Sense
def one(seed):
    draw = lambda *n: torch.randn(*n, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    return Sense(draw(8, 1, 128, 128), torch.ones(128, 1)).normal()(draw(1, 128, 128)).numpy().tobytes()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system forks no processes")
@pytest.mark.parametrize("work", [RECONSTRUCTS, APPLIES], ids=["a reconstruction", "an operator"])
def test_a_pool_of_forked_processes_does_not_wait_for_the_threads_of_the_first(work: str, tmp_path: Path) -> None:
    """In a fork OpenMP waits for threads that do not exist: each process uses a single one."""
    program = tmp_path / "pool.py"
    program.write_text(
        f"import multiprocessing, recon\n{work}"
        "here = one(0)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    there = pool.map_async(one, [0, 1]).get(60)\n"
        "print(here == there[0] != there[1])\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout == "True\n", done.stderr
