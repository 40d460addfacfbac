"""A command ends on a signal, wherever in the program it arrives."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: The signal comes while Python runs what it lets no exception out of; then there would be a long wait.
PROGRAM = """
import os, signal, sys, time, weakref
from recon.ending import terminable

class Thing:
    def __del__(self):
        if PLACE == "del":
            os.kill(os.getpid(), NUMBER)

def gone(_):
    if PLACE == "weakref":
        os.kill(os.getpid(), NUMBER)

# A shell that starts this in the background has interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
PLACE, NUMBER, TIMES = sys.argv[1], getattr(signal, sys.argv[2]), int(sys.argv[3])
try:
    with terminable():
        for _ in range(TIMES):
            thing = Thing()
            watched = weakref.ref(thing, gone)
            del thing
        if PLACE == "open":
            os.kill(os.getpid(), NUMBER)
        time.sleep(30)
        print("went on")
finally:
    print("cleaned up")
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", -2)])
@pytest.mark.parametrize(("place", "times"), [("open", 1), ("weakref", 1), ("del", 1), ("weakref", 3)])
def test_a_signal_ends_the_program_where_python_lets_no_exception_out(
    place: str, times: int, name: str, code: int
) -> None:
    command = [sys.executable, "-c", PROGRAM, place, name, str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)
    assert done.stdout == "cleaned up\n"
    assert done.returncode == code
    assert "ignored" not in done.stderr


def test_other_exceptions_that_python_drops_are_still_printed() -> None:
    program = (
        "from recon.ending import terminable\n"
        "class Thing:\n"
        "    def __del__(self): raise ValueError('broken')\n"
        "with terminable():\n"
        "    Thing()\n"
        "    print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "went on\n"
    assert "ValueError: broken" in done.stderr
