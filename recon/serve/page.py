"""The status page as HTML: one document without scripts that reloads every five seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from recon.errors import counted
from recon.serve.expiry import SOON

STYLE = """
:root { color-scheme: light dark; --soft: #8884; --good: #2a9d5c; --bad: #d1495b; --warn: #c98a00 }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.35rem; margin: 0 } h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem }
p.about { margin: .15rem 0 1.2rem; opacity: .75 }
ul.cards { display: flex; flex-wrap: wrap; gap: .7rem; list-style: none; margin: 0; padding: 0 }
ul.cards li { border: 1px solid var(--soft); border-radius: .5rem; flex: 1 1 9rem; padding: .5rem .8rem }
ul.cards b { display: block; font-size: 1.45rem; font-weight: 600 } ul.cards span { opacity: .75 }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--soft); padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; opacity: .75 } td.n, th.n { text-align: right }
td { font-variant-numeric: tabular-nums } td:first-child { padding-right: 1rem; white-space: nowrap }
.done { color: var(--good) } .failed, .undelivered { color: var(--bad) } .incomplete, .warn { color: var(--warn) }
div.images { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
figure { margin: 0 } figure img { background: #000; border-radius: .4rem; display: block; height: 9rem;
  image-rendering: auto; object-fit: contain; width: 100% }
figcaption { font-size: .82rem; opacity: .8 } .none { opacity: .6 }
"""


def page(s: Mapping[str, Any]) -> str:
    """The page for a board's snapshot."""
    tls = "with TLS" if s.get("tls") else "without TLS"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width"><title>recon: {len(s["running"])} running</title>
<style>{STYLE}</style></head><body>
<h1>recon {escape(str(s.get("version", "")))}</h1>
<p class="about">listening on {escape(str(s.get("address", "")))} {tls} · up {_long(s["up_s"])} · {_time(s["now"])}</p>
<ul class="cards" id="cards">{"".join(_cards(s))}</ul>
<h2>Running</h2>
{_running(s["running"])}
<h2>Last images</h2>
{_images(s["images"])}
<h2>Ended</h2>
{_ended(s["ended"])}
</body></html>
"""


def _cards(s: Mapping[str, Any]) -> Iterable[str]:
    counts, late, workers = s["counts"], s["latency_s"], s["workers"]
    yield _card(f"{len(s['running'])} of {s.get('max_sessions', '?')}", "sessions")
    starting = f", {workers['starting']} starting" if workers["starting"] else ""
    yield _card(workers["ready"], f"workers ready{starting}")
    yield _card(_seconds(late["median"]), f"last line to image, median of {late['n']}; most {_seconds(late['most'])}")
    yield _card(counts.get("done", 0), "scans done")
    wrong = sum(counts.get(name, 0) for name in ("failed", "incomplete", "undelivered"))
    yield _card(wrong, "scans failed or incomplete")
    turned = sum(counts.get(name, 0) for name in ("busy", "not allowed", "no TLS", "silent"))
    yield _card(turned, "connections turned away")
    yield from _expiring(s)
    if (spool := s.get("spool")) is not None:
        waiting = sum(int(spool.get(name) or 0) for name in ("new", "sending", "unconfirmed"))
        oldest = f", oldest {_long(spool['oldest_s'])}" if spool.get("oldest_s") else ""
        yield _card(waiting, f"images on their way to the PACS{oldest}")
        yield _card(spool.get("sent", 0), f"in the PACS; {spool.get('failed', 0)} failed")
        if spool.get("last_error"):
            yield _card("!", str(spool["last_error"]))


def _expiring(s: Mapping[str, Any]) -> Iterable[str]:
    for one in s.get("certificates", ()):
        if one["days"] < SOON:
            yield _card(counted(max(0, round(one["days"])), "day"), f"until the certificate {one['file']} expires")


def _card(value: Any, what: str) -> str:
    return f"<li><b>{escape(str(value))}</b><span>{escape(what)}</span></li>"


def _running(sessions: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [s["job"], s["peer"], s.get("recipe", ""), _long(s["seconds"]), s.get("lines", 0), s.get("received_MiB", 0),
         s.get("returned", 0), s.get("waiting_MiB", 0), s.get("memory_MiB", 0)]
        for s in sessions
    ]  # fmt: skip
    heads = ["job", "peer", "recipe", "since", "lines", "MiB in", "images out", "MiB waiting", "MiB held"]
    return _table(heads, rows, numbers=4) if rows else '<p class="none">no session</p>'


def _ended(sessions: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [_time(s["ended"]), s["job"], s.get("peer", ""), s.get("state", ""), _counted(s), s.get("returned", 0),
         _seconds(s.get("last_line_to_image_s")), _trust(s.get("trust")), s.get("reason", "")]
        for s in sessions
    ]  # fmt: skip
    heads = ["ended", "job", "peer", "state", "lines", "images", "last line to image", "trust", "reason"]
    return _table(heads, rows, states=3) if rows else '<p class="none">no session yet</p>'


def _table(heads: list[str], rows: list[list[Any]], *, numbers: int = 99, states: int = -1) -> str:
    def cell(tag: str, i: int, value: Any) -> str:
        kind = ' class="n"' if i >= numbers else f' class="{escape(str(value))}"' if i == states and tag == "td" else ""
        return f"<{tag}{kind}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", i, h) for i, h in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', i, v) for i, v in enumerate(row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _images(images: Iterable[Mapping[str, Any]]) -> str:
    figures = "".join(
        f'<figure><img src="/thumbnails/{int(i["number"])}.png" alt="series {int(i.get("series", 0))} image '
        f'{int(i.get("index", 0))}"><figcaption>{escape(str(i["job"]))} · {int(i.get("series", 0))}/'
        f"{int(i.get('index', 0))} · {escape(str(i.get('method', '')))}</figcaption></figure>"
        for i in images
    )
    return f'<div class="images">{figures}</div>' if figures else '<p class="none">no image yet</p>'


def _counted(s: Mapping[str, Any]) -> str:
    # Calibration lines are added to the number expected from the acceleration.
    received, expected = s.get("lines_received", 0), s.get("lines_expected", 0)
    return f"{received} of {expected}" if received < expected else str(received or s.get("lines", 0))


def _trust(t: Mapping[str, Any] | None) -> str:
    if not t:
        return ""
    fell = f", {t['fallbacks']} fell back" if t.get("fallbacks") else ""
    return f"residual {t['residual']:.2f}, added {t['added']:.1%}{fell}"


def _time(stamp: str) -> str:
    return escape(stamp.replace("T", " "))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
