"""From a site's settings to a running server: port, audit, status page and delivery to the PACS."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon import __version__
from recon.errors import ReconError
from recon.recipe import Recipe
from recon.serve import expiry, notify
from recon.serve.audit import Audit
from recon.serve.board import Board
from recon.serve.pacs import delivering
from recon.serve.server import Log, Server
from recon.serve.settings import Site

#: Connections that may wait while the loop is busy, so that no scanner of a large department is reset.
_BACKLOG = 128


def listen(site: Site) -> socket.socket:
    """The listening socket of a site; raises ReconError if the address is not available."""
    family = socket.AF_INET6 if ":" in site.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((site.host, site.port))
        sock.listen(_BACKLOG)
    except OSError as e:
        sock.close()
        raise ReconError(
            f"cannot listen on {site.host}:{site.port} ({e.strerror}); stop the program that uses the port, or "
            "choose another with --port"
        ) from None
    return sock


def _spool(site: Site) -> dict[str, Any]:
    from recon.pacs.summary import summary

    return summary(Path(site.pacs.spool))


def serve(site: Site, recipes: Mapping[str, Recipe], say: Log, log: Log) -> None:
    """Listen and serve until SIGTERM or SIGINT; `say` receives one line with the address once it is listening."""
    audit = Audit(Path(site.audit).expanduser())
    try:
        sock = listen(site)
        host, port = sock.getsockname()[:2]
        say(f"listening on {host}:{port}")
        notify.ready()
        about = {"version": __version__, "address": f"{host}:{port}", "max_sessions": site.max_sessions}
        about |= {"tls": bool(site.tls.certificate)}
        board = Board(about, (lambda: _spool(site)) if site.pacs.to else None, lambda: expiry.certificates(site))
        for warning in expiry.warnings(site):
            log(warning)
        with contextlib.ExitStack() as open_:
            if site.status_port is not None:
                from recon.serve.status import showing

                say(f"status page at http://127.0.0.1:{open_.enter_context(showing(board, site.status_port))}/")
            open_.enter_context(delivering(site.pacs, log))
            Server(sock, site, recipes, audit, board, log).run()
    finally:
        audit.close()
