"""The server's status while it runs: sessions, waiting workers, last images, latencies. No patient data."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from recon.errors import ReconError

#: Increased when a key of the JSON is removed or changes its meaning; new keys may be added at any time.
FORMAT = 1

_ENDED, _IMAGES, _LATENCIES = 20, 24, 200

#: What of a session's record the page shows.
_SHOWN = (
    "recipe", "lines", "lines_received", "lines_expected", "returned", "received_MiB", "waiting_MiB", "memory_MiB",
    "last_line_to_image_s", "trust", "state", "reason",
)  # fmt: skip


class Board:
    """Filled by the serving thread, read by that of the status page.

    `spool` returns the state of images on their way to the PACS, `certificates` when those of the site expire.
    """

    def __init__(
        self,
        about: dict[str, Any],
        spool: Callable[[], dict[str, Any]] | None = None,
        certificates: Callable[[], list[dict[str, Any]]] | None = None,
    ) -> None:
        self._about, self._spool, self._certificates = about, spool, certificates
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._running: dict[str, dict[str, Any]] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=_ENDED)
        self._pictures: deque[tuple[int, bytes, dict[str, Any]]] = deque(maxlen=_IMAGES)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._counts: Counter[str] = Counter()
        self._workers = {"ready": 0, "starting": 0, "held": 0}
        self._number = 0

    def began(self, job: str, peer: str) -> None:
        """A session has been handed to a worker."""
        with self._lock:
            self._running[job] = {"job": job, "peer": peer, "began": _now(), "monotonic": time.monotonic()}

    def reported(self, job: str, what: dict[str, Any]) -> None:
        """A worker has reported; keys that the page does not show are ignored, and pictures are removed from `what`."""
        with self._lock:
            one = self._running.get(job, {})
            if "thumbnail" in what and job in self._running:
                self._number += 1
                caption = {"job": job, "number": self._number, "at": _now(), **what.get("image", {})}
                caption |= {k: v for k, v in what.get("made", {}).items() if k in ("method", "device")}
                self._pictures.append((self._number, base64.b64decode(what.pop("thumbnail")), caption))
            what.pop("thumbnail", None)
            if "image" in what:
                one["returned"] = one.get("returned", 0) + 1
            if "last_line_to_image_s" in what:
                self._latencies.append(what["last_line_to_image_s"])
            one.update({k: what[k] for k in _SHOWN if k in what})
            one.update(what.pop("progress", {}))

    def ended(self, job: str, seconds: float, record: dict[str, Any]) -> None:
        """A session has ended, with this record."""
        with self._lock:
            one = self._running.pop(job, {"job": job, "began": _now()})
            one.pop("monotonic", None)
            one |= {k: record[k] for k in _SHOWN if k in record} | {"seconds": seconds, "ended": _now()}
            self._ended.appendleft(one)
            self._counts[record.get("state", "failed")] += 1

    def refused(self, why: str) -> None:
        """A connection was refused: "busy", "not allowed" or "no TLS"."""
        with self._lock:
            self._counts[why] += 1

    def workers(self, ready: int, starting: int, held: int) -> None:
        """Processes that wait for a session, those still starting, and how many have reserved memory for raw data."""
        with self._lock:
            self._workers = {"ready": ready, "starting": starting, "held": held}

    def thumbnail(self, number: int) -> bytes | None:
        """The PNG of an image, by its number; None if it is not one of the last."""
        with self._lock:
            return next((png for n, png, _ in self._pictures if n == number), None)

    def snapshot(self) -> dict[str, Any]:
        """The whole status, as plain values."""
        with self._lock:
            now = time.monotonic()
            running = [
                {**{k: v for k, v in one.items() if k != "monotonic"}, "seconds": round(now - one["monotonic"], 1)}
                for one in self._running.values()
            ]
            late = sorted(self._latencies)
            out: dict[str, Any] = {
                "format": FORMAT,
                **self._about,
                "now": _now(),
                "up_s": round(now - self._began, 1),
                "workers": dict(self._workers),
                "running": running,
                "ended": [dict(one) for one in self._ended],
                "counts": dict(self._counts),
                "latency_s": {
                    "n": len(late),
                    "last": self._latencies[-1] if late else None,
                    "median": late[len(late) // 2] if late else None,
                    "most": late[-1] if late else None,
                },
                "images": [caption for _, _, caption in reversed(self._pictures)],
            }
        if self._certificates is not None:
            with contextlib.suppress(ReconError):  # a file that is just being replaced
                out["certificates"] = self._certificates()
        if self._spool is not None:
            try:
                out["spool"] = self._spool()
            except Exception as e:
                out["spool"] = {"last_error": f"the spool cannot be read ({type(e).__name__})"}
        return out


def worst(a: Mapping[str, Any] | None, b: Mapping[str, Any]) -> dict[str, Any]:
    """Two sets of trust numbers combined: the larger of each, all that fell back, every reason."""
    if not a:
        return dict(b)
    return {
        **{name: max(a[name], b[name]) for name in ("residual", "added", "changed")},
        "fallbacks": a["fallbacks"] + b["fallbacks"],
        "reasons": sorted({*a["reasons"], *b["reasons"]}),
    }


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
