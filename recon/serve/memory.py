"""How much memory the process of a session may hold: it plans to stay below, and beyond it the server ends it."""

from __future__ import annotations

from recon import plan
from recon.serve.settings import MiB, Site

#: Seconds between two looks at what the processes hold.
WATCH_S = 0.1
#: Part of the machine's memory that all sessions may hold together, and part of its own that a session plans with.
_SHARE, _PLANNED = 0.9, 0.9
#: Bytes that a session may hold whatever the machine, and bytes of them that the program itself takes.
_LEAST, _PROGRAM = 2048 * MiB, 640 * MiB


def limit(site: Site) -> int:
    """Bytes of resident memory that the process of a session may hold.

    `limits.process_MiB`; by default every session's part of nine tenths of the machine's memory (a container's limit
    counts), and at least 2 GiB where the machine has them.
    """
    if site.limits.process_MiB:
        return site.limits.process_MiB * MiB
    most = int(_SHARE * plan.machine())
    return min(most, max(_LEAST, most // site.max_sessions))


def raw(site: Site) -> int:
    """Bytes of raw data that a session may hold: `limits.session_MiB`, within what its process may hold."""
    return max(0, min(site.limits.session_MiB * MiB, limit(site) - _PROGRAM))


def ready(site: Site) -> int:
    """Bytes that a waiting process holds ready for raw data, at most an eighth of what it may hold in all."""
    return min(site.limits.ready_MiB * MiB, limit(site) // 8)


def work(site: Site, held: int) -> int:
    """Bytes that a reconstruction may use, the program included, beside `held` bytes of raw data and waiting images.

    Planned with a tenth to spare, so that no session which keeps to its plan is ever ended.
    """
    own = int(_PLANNED * limit(site)) - held
    return max(0, min(site.limits.memory_MiB * MiB or plan.budget(None), own))


def deciding(site: Site) -> str:
    """The setting that says how much memory a reconstruction of this site may use."""
    return f"{'memory_MiB' if site.limits.memory_MiB else 'process_MiB'} in the site's file"


def resident(process: int) -> int:
    """Bytes of memory that a process holds now; 0 for one that is gone."""
    import psutil

    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return 0


def told(site: Site) -> str:
    """One sentence for those who run the server."""
    each, most = limit(site), plan.machine()
    together = each * site.max_sessions
    over = "; together they may hold more than the machine has" if together > most else ""
    return (
        f"each of {site.max_sessions} sessions may hold {each // MiB} MiB of this machine's {most // MiB} MiB, of them "
        f"{raw(site) // MiB} MiB of raw data, and is ended beyond{over}"
    )


def exceeded(site: Site, held: int) -> str:
    """Why a session was ended."""
    return (
        f"the session held {-(-held // MiB)} MiB of memory, more than the {limit(site) // MiB} MiB that one may, and "
        "was ended; raise process_MiB in the site's file, or lower max_sessions"
    )
