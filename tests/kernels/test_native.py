"""Requirements on each compiled function: other threads continue meanwhile, and a lack of memory raises an error."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from recon.kernels import build

native = build.native()
pytestmark = pytest.mark.skipif(
    native is None, reason="the kernels were not compiled: install g++ and repeat the installation"
)

N = 1 << 22


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def complexes(*shape: int) -> np.ndarray:
    return np.ones(shape, np.complex64)


def calls() -> dict[str, Callable[[], object]]:
    one = floats(1)
    a, b, c, d = (floats(1, N) for _ in range(4))
    image, maps, weights = complexes(1, 1, 1, 256, 256), complexes(1, 1, 8, 1, 256, 256), floats(1, 1, 256)
    x = complexes(1, 1, 512, 512)
    return {
        "dot": lambda: native.dot(a, b, 1),
        "curvature": lambda: native.curvature(a, b, 0 * one, 1),
        "advance": lambda: native.advance(a, b, c, d, 0 * one, 1),
        "turn": lambda: native.turn(a, b, 0 * one, 1),
        "sense_normal": lambda: native.sense_normal(image, maps, weights, 1, 256, np.empty_like(image), 1),
        "wavelet_level": lambda: native.wavelet_level(x, (1, 512, 512), 1, floats(4), False, 1),
        "shrink": lambda: native.shrink(x.ravel(), 0.5, 1.7, 1),
    }


@pytest.mark.parametrize("name", calls())
def test_other_threads_of_python_run_during_a_call(name: str) -> None:
    """No thread asks for its turn but where one lets go: the counter moves within the call, or never."""
    call, count, stop = calls()[name], [0], threading.Event()

    def counting() -> None:
        while not stop.is_set():
            count[0] += 1
            time.sleep(0)

    other, interval = threading.Thread(target=counting), sys.getswitchinterval()
    other.start()
    sys.setswitchinterval(1000)
    try:
        for _ in range(500):  # on a busy machine the other thread may get no processor during a call
            before = count[0]
            call()
            if count[0] > before:
                break
        assert count[0] > before
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join()


#: Calls whose work space is larger than what the limit leaves, but not what is made before the threads begin.
SHORT = {
    "sense_normal": """
x, maps, w = complexes(1, 1, 512, 512, 1), complexes(1, 1, 1, 512, 512, 1), np.ones((1, 512, 512), np.float32)
out = np.empty_like(x)
call = lambda: native.sense_normal(x, maps, w, 512, 512, out, 2)""",
    "sense_encode": """
x, maps, w = complexes(1, 1, 512, 512, 1), complexes(1, 1, 1, 512, 512, 1), np.ones((1, 512, 512), np.float32)
out = np.empty((1, 1, 512, 512, 1), np.complex64)
call = lambda: native.sense_encode(x, maps, w, True, out, 2)""",
    "sense_decode": """
y, maps, w = complexes(1, 1, 512, 512, 1), complexes(1, 1, 1, 512, 512, 1), np.ones((1, 512, 512), np.float32)
out = np.empty((1, 1, 512, 512, 1), np.complex64)
call = lambda: native.sense_decode(y, maps, w, True, out, 2)""",
    "eigenmaps": """
coils = 1000
k, waves, ref = complexes(1, 1, 1, coils * (coils + 1) // 2), complexes(1, 1), complexes(coils)
maps, values = complexes(coils, 1, 1, 1), np.empty((1, 1, 1), np.float32)
call = lambda: native.eigenmaps(k, waves, ref, maps, values, 0, 0.5, 1e-4, 4, 2)""",
    "local_maps": """
coils = 500
images, ref, values = complexes(coils, 1, 1, 1), complexes(coils), np.empty((1, 1, 1), np.float32)
maps = np.empty_like(images)
call = lambda: native.local_maps(images, ref, [1, 5, 5], 1e-3, maps, values, 2)""",
    "wavelet_level": """
x = complexes(1, 1, 1 << 20, 1)
call = lambda: native.wavelet_level(x, (1, 1 << 20, 1), 1, np.ones(2, np.float32), False, 2)""",
    "haar": """
x = complexes(1, 2, 1 << 20)
out = np.empty_like(x)
call = lambda: native.haar(x, out, 1, (0, 1), False, 2)""",
    "toeplitz": """
x, spectra = complexes(1, 1024, 1024), np.ones((4, 1, 1024, 1024), np.float32)
out, which = np.empty_like(x), np.zeros(1, np.int32)
call = lambda: native.toeplitz(x, spectra, which, out, 2)""",
    "cone_smear": """
y, out = np.ones((1, 1, 1, 1), np.float32), np.empty((1, 4000, 1, 4000), np.float32)
tracks, views = np.ones((1, 1, 5), np.float32), np.ones((1, 6), np.float32)
frame = np.ones(7, np.float32)
call = lambda: native.cone_smear(y, tracks, views, frame, out, False, 2)""",
}

#: Each call has its own process: a fork of one that has imported everything and started no threads.
PROGRAM = """
import json, os, resource, sys
import numpy as np
from recon.kernels import build
native = build.native()
def complexes(*shape):
    return np.ones(shape, np.complex64)
def work(prepared, left):
    small = np.ones((1, 1 << 16), np.float32)
    native.dot(small, small, 2)
    exec(prepared, globals())
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (left << 20), held + (left << 20)))
    for word in ("told", "again"):
        try:
            call()
        except MemoryError:
            print(word, end=" ", flush=True)
for name, (prepared, left) in json.load(sys.stdin).items():
    print(f"{name}:", end=" ", flush=True)
    child = os.fork()
    if not child:
        work(prepared, left)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def ends() -> tuple[dict[str, str], str]:
    """What each call of SHORT said with too little memory and how its process ended, and what they wrote of errors."""
    given = {name: (prepared, 24 if name == "toeplitz" else 8) for name, prepared in SHORT.items()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return dict(line.split(": ", 1) for line in done.stdout.splitlines()), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process has on Linux alone")
@pytest.mark.parametrize("name", SHORT)
def test_a_lack_of_memory_is_an_error_and_not_the_end_of_the_process(
    name: str, ends: tuple[dict[str, str], str]
) -> None:
    """Thrown among threads it would end the process; and memory that was not given is not used by the next call."""
    said, errors = ends
    assert said[name] == "told again 0", errors
