"""How much memory the process of a session may hold: it plans to stay below, and above it the server ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from recon import plan
from recon.errors import counted
from recon.serve.settings import MiB, Site

#: Longest and shortest interval in seconds between two checks of the processes' memory; and bytes per second that one
#: may allocate, about the cost of touching new pages. A process near its limit is checked more often.
_WATCH_S, _OFTEN_S, _FASTEST = 0.1, 0.01, 4 * 2**30
#: Where Linux lists processes.
_PROC = Path("/proc")
#: Share of the machine's memory that all sessions may hold together, and share of its own with which a session plans.
_SHARE, _PLANNED = 0.9, 0.9
#: Bytes that a session may hold on any machine, and bytes of these for the program itself.
_LEAST, _PROGRAM = 2048 * MiB, 640 * MiB


def limit(site: Site) -> int:
    """Bytes of memory that the process of a session may hold, including its child processes and swap.

    `limits.process_MiB`; by default an equal share of nine tenths of the machine's memory (a container's limit counts),
    and at least 2 GiB if the machine has them.
    """
    if site.limits.process_MiB:
        return site.limits.process_MiB * MiB
    most = int(_SHARE * plan.machine())
    return min(most, max(_LEAST, most // site.max_sessions))


def raw(site: Site) -> int:
    """Bytes of raw data that a session may hold: `limits.session_MiB`, within what its process may hold."""
    return max(0, min(site.limits.session_MiB * MiB, limit(site) - _PROGRAM))


def ready(site: Site) -> int:
    """Bytes that a waiting process reserves for raw data, at most an eighth of what it may hold."""
    return min(site.limits.ready_MiB * MiB, limit(site) // 8)


def work(site: Site, held: int) -> int:
    """Bytes that a reconstruction may use, the program included, besides `held` bytes of raw data and waiting images.

    Planned with a margin of a tenth, so that a session which keeps to its plan is never ended.
    """
    own = int(_PLANNED * limit(site)) - held
    return max(0, min(site.limits.memory_MiB * MiB or plan.budget(None), own))


def deciding(site: Site) -> str:
    """The setting that limits the memory of a reconstruction at this site."""
    return f"{'memory_MiB' if site.limits.memory_MiB else 'process_MiB'} in the site's file"


def pause(room: int) -> float:
    """Seconds until the next check, if the process closest to its limit may hold `room` bytes more."""
    return min(_WATCH_S, max(_OFTEN_S, room / _FASTEST))


def held(process: int) -> int:
    """Bytes that a process and its child processes hold now, in memory and in swap; 0 if it is gone."""
    if (_PROC / "self" / "status").exists():
        return sum(_of_one(p) for p in _family(process))
    import psutil

    total = 0
    with suppress(psutil.Error):
        one = psutil.Process(process)
        for p in (one, *one.children(recursive=True)):
            with suppress(psutil.Error):
                total += int(p.memory_info().rss)
    return total


def _of_one(process: int) -> int:
    lines = b""
    with suppress(OSError):
        lines = (_PROC / str(process) / "status").read_bytes()
    return sum(int(line.split()[1]) << 10 for line in lines.splitlines() if line.startswith((b"VmRSS:", b"VmSwap:")))


def _family(process: int) -> Iterator[int]:
    """A process and its descendants, as far as their parents are still running."""
    yield process
    with suppress(OSError):
        for thread in (_PROC / str(process) / "task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_bytes().split():
                    yield from _family(int(child))


def bound_gpu(site: Site) -> None:
    """Limit this process to its session's share of each GPU; what does not fit is done in smaller steps.

    `limits.gpu_MiB`; by default nine tenths of the GPU, divided by `max_sessions`. CuPy allocates its memory through
    torch.
    """
    import torch

    if site.device == "cpu" or not torch.cuda.is_available():
        return
    for number in range(torch.cuda.device_count()):
        total = torch.cuda.get_device_properties(number).total_memory
        most = site.limits.gpu_MiB * MiB or _SHARE * total / site.max_sessions
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), number)


def described(site: Site) -> str:
    """One sentence for the operators of the server."""
    each, most = limit(site), plan.machine()
    together = each * site.max_sessions
    over = "; together they may use more than the machine has" if together > most else ""
    return (
        f"each of {counted(site.max_sessions, 'session')} may use {each // MiB} MiB of this machine's "
        f"{most // MiB} MiB ({raw(site) // MiB} MiB of raw data); a session that needs more is ended{over}"
    )


def exceeded(site: Site, found: int) -> str:
    """Why a session was ended."""
    return (
        f"the session held {-(-found // MiB)} MiB of memory, more than the {limit(site) // MiB} MiB allowed "
        "for one, and was ended; raise process_MiB in the site's file, or lower max_sessions"
    )
