"""What is skipped at the start changes no image, and is available when it is needed."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from recon import simulation, starting
from recon.starting import KNOWN, PLAIN, staying
from tests.command import recon

PROGRAM = """
import gc, sys
from recon import cli, starting
seen = []
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]) if "torch" in sys.modules else None)
with starting.staying():
    from recon import pipeline
assert sys.modules["torch"].arange(3).sum() == 3
print(len(seen), gc.get_freeze_count() > 50_000, gc.isenabled(), [m for m in sys.modules if m.startswith("recon.ct.")])
"""


def test_nothing_is_collected_while_torch_is_imported_nor_looked_at_afterwards_and_ct_waits() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True", "[]"]


def test_garbage_is_collected_again_after_a_start_that_failed() -> None:
    class Node:
        pass

    with pytest.raises(ImportError), staying():
        raise ImportError
    assert gc.isenabled()
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    seen = weakref.ref(node)
    del node
    gc.collect()
    assert seen() is None
    gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with staying():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


TOLD = """
import sys
from recon import cli
for words in sys.argv[1:]:
    try:
        cli.main(words.split("|"))
    except SystemExit as e:
        print(f"code={e.code}")
print("torch" in sys.modules)
"""


def test_what_a_scan_holds_and_how_an_image_was_made_are_told_without_torch(tmp_path: Path) -> None:
    scan, image = tmp_path / "scan.h5", tmp_path / "a.nii.gz"
    simulation.simulate_to(scan, simulation.preset(coils=2, matrix=32))
    assert recon("run", scan, "-o", image).code == 0
    *said, imported = run(TOLD, f"info|{scan}", f"check|{image}|--json")
    assert imported == "False"
    assert f'"{torch.__version__}"' in "".join(said)
    assert "differences: []" in " ".join(said).replace('"', "")
    assert said.count("code=0") == 2


RUN = """
import os, sys
from recon import cli, starting
def leave(code):
    import torch
    late = [n for n in starting.LATER if isinstance(vars(sys.modules[n]).get("__getattr__"), starting._Late)]
    print(torch.__version__, *late, flush=True)
    os._exit(code)
cli.leave = leave
sys.argv = ["recon", "run", *sys.argv[1:], "--quiet"]
cli.main()
"""


def run(code: str, *arguments: str, path: str = "", **env: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if k != PLAIN} | env | ({"PYTHONPATH": path} if path else {})
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_run_without_what_compilers_need_writes_the_same_bytes(tmp_path: Path) -> None:
    simulation.simulate_to(tmp_path / "scan.h5", simulation.preset(accel=3, coils=4, matrix=48))
    given = [str(tmp_path / "scan.h5"), "--method", "cs", "-o"]
    version, *late = run(RUN, *given, str(tmp_path / "quick.nii"))
    expected = ["torch._meta_registrations", "torch.export"] if version.startswith(KNOWN) else []
    assert late == expected
    assert run(RUN, *given, str(tmp_path / "plain.nii"), **{PLAIN: "1"}) == [version]
    assert (tmp_path / "quick.nii").read_bytes() == (tmp_path / "plain.nii").read_bytes()


META = """
import sys
from recon import starting
starting.defer()
import torch
def there():
    try:
        torch.fft.fft(torch.empty(4, device="meta"))
        torch.nn.Conv2d(1, 1, 3, device="meta")(torch.empty(1, 1, 9, 9, device="meta"))
    except NotImplementedError:
        return False
    return callable(torch.export.export)
print(there())
exec(sys.argv[1])
print(there(), starting._FINDER in sys.meta_path, type(torch.export.__loader__).__name__)
"""


@pytest.mark.parametrize("asked", ["starting.complete()", "import torch.utils.model_zoo"])
def test_what_was_left_out_of_torch_is_there_when_it_is_asked_for(asked: str) -> None:
    assert run(META, asked) == [str(not torch.__version__.startswith(KNOWN)), "True", "False", "SourceFileLoader"]


FAKE = {
    "__init__.py": """
import os
class Generator:
    def manual_seed(self, seed): pass
class _C: pass
from torch import _meta_registrations, export
early = "made" in vars(_meta_registrations)
if os.environ.get("NEEDED") and not early:
    raise ImportError("it is needed at once")
""",
    "_meta_registrations.py": "import time; print('made'); time.sleep(0.1); made = 1",
    "export.py": "",
}
IMPORT = """
import sys, threading
from recon import starting
starting.defer()
import torch
print("early" if torch.early else "late")
found = []
threads = [threading.Thread(target=lambda: found.append(torch._meta_registrations.made)) for _ in range(3)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(*found)
"""


@pytest.mark.parametrize(
    ("version", "needed", "said"),
    [
        (f"{KNOWN[-1]}9", "", ["late", "made", "1", "1", "1"]),
        (f"{KNOWN[-1]}9", "1", ["made", "early", "1", "1", "1"]),
        ("99.0.1", "", ["made", "early", "1", "1", "1"]),
    ],
    ids=["known", "that cannot", "unknown"],
)
def test_a_torch_that_cannot_start_without_a_part_is_imported_as_ever(
    tmp_path: Path, version: str, needed: str, said: list[str]
) -> None:
    (tmp_path / "torch").mkdir()
    for name, text in {**FAKE, "version.py": f"__version__ = '{version}'\n"}.items():
        (tmp_path / "torch" / name).write_text(text, encoding="utf-8")
    assert run(IMPORT, path=str(tmp_path), NEEDED=needed) == said


@pytest.mark.parametrize(
    ("vendor", "before", "after"),
    [
        (b"GenuineIntel", None, "AUTO,STRICT"), (b"GenuineIntel", "COMPATIBLE", "COMPATIBLE"),
        (b"AuthenticAMD", None, None), (None, None, None),
    ],
)  # fmt: skip
def test_mkl_is_asked_for_the_same_bits_on_intels_processors_unless_the_environment_says_otherwise(
    vendor: bytes | None, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(*_: str) -> io.BytesIO:
        if vendor is None:
            raise FileNotFoundError
        return io.BytesIO(b"processor\t: 0\nvendor_id\t: " + vendor + b"\n")

    monkeypatch.setattr(starting, "open", described, raising=False)
    monkeypatch.setenv("MKL_CBWR", before or "")
    if before is None:
        monkeypatch.delenv("MKL_CBWR")
    starting.same_bits()
    assert os.environ.get("MKL_CBWR") == after
