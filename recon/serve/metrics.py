"""The status for Prometheus (text format 0.0.4): only numbers, no patient data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Label = tuple[str, str] | None

#: How sessions end, and why connections are refused: all labels exist from the start, so that rates can be computed.
_ENDS = ("done", "passed on", "query", "incomplete", "failed", "undelivered")
_REFUSED = ("busy", "not allowed", "no TLS", "silent", "no word")
_SPOOL = ("new", "sending", "unconfirmed", "sent", "failed")


def metrics(s: Mapping[str, Any]) -> str:
    """A board's snapshot in the text format of Prometheus."""
    return "".join(f"{line}\n" for line in _lines(s))


def _lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield from _metric("recon_info", "gauge", "Version of the engine.", {("version", s["version"]): 1})
    yield from _metric("recon_up_seconds", "gauge", "Seconds since the start.", {None: s["up_s"]})
    yield from _metric("recon_sessions", "gauge", "Sessions that run.", {None: len(s["running"])})
    yield from _metric(
        "recon_sessions_max", "gauge", "Maximum number of simultaneous sessions.", {None: s["max_sessions"]}
    )
    states: dict[Label, float] = {("state", name): s["workers"][name] for name in ("ready", "starting")}
    yield from _metric("recon_workers", "gauge", "Processes waiting for a session.", states)
    ended: dict[Label, float] = {("state", name): s["counts"].get(name, 0) for name in _ENDS}
    yield from _metric("recon_scans_total", "counter", "Sessions that have ended.", ended)
    refused: dict[Label, float] = {("reason", name): s["counts"].get(name, 0) for name in _REFUSED}
    yield from _metric("recon_refused_total", "counter", "Connections that did not become a session.", refused)
    late = {("of", name): s["latency_s"][name] for name in ("last", "median", "most")}
    known: dict[Label, float] = {label: value for label, value in late.items() if value is not None}
    yield from _metric(
        "recon_latency_seconds", "gauge", "Time from the last line to the image, over the last 200.", known
    )
    days: dict[Label, float] = {("key", one["key"]): one["days"] * 86400 for one in s.get("certificates", ())}
    yield from _metric("recon_certificate_seconds", "gauge", "Time until a certificate expires.", days)
    if "new" in (spool := s.get("spool") or {}):
        images: dict[Label, float] = {("state", name): spool[name] for name in _SPOOL}
        yield from _metric("recon_spool_images", "gauge", "Images on their way to the PACS.", images)
        yield from _metric("recon_spool_oldest_seconds", "gauge", "Its oldest image.", {None: spool["oldest_s"] or 0})
        yield from _metric("recon_spool_free_bytes", "gauge", "Room on its disk.", {None: spool["free_MiB"] * 2**20})


def _metric(name: str, kind: str, what: str, values: Mapping[Label, float]) -> Iterator[str]:
    if values:
        yield f"# HELP {name} {what}"
        yield f"# TYPE {name} {kind}"
    for label, value in values.items():
        yield f'{name}{{{label[0]}="{label[1]}"}} {value}' if label else f"{name} {value}"
