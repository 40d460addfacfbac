"""The verbs `serve` and `stream` of the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recon.errors import ReconError, counted, log, one_line, tell
from recon.verbs.arguments import check_outputs, usage

if TYPE_CHECKING:
    from recon.pacs.settings import Pacs


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings of the site (.toml)")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than this machine needs --allow")] = "",
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one", min=0, max=65535)] = None,
    allow: Annotated[list[str] | None, typer.Option(help="Address or network that may connect; repeat it")] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Sessions at once", min=1, max=256)] = None,
    status_port: Annotated[
        int | None, typer.Option(help="Port of the status page on this machine; 0 takes a free one", min=0, max=65535)
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="Audit file, with lines of JSON for each job")] = None,
    check: Annotated[Path | None, typer.Option(help="Only check this settings file")] = None,
    echo: Annotated[bool, typer.Option("--echo", help="With --check: also test the connection to the PACS.")] = False,
) -> None:
    """Reconstruct what a scanner streams and send images back. It listens for MRD over TCP."""
    from recon.serve import expiry, memory, settings

    if check is not None:
        with usage():
            site = settings.load(check)
            known = settings.registered(site)
        settings.rehearse(site, known)
        typer.echo(f"{check} is valid; it listens on {site.host}:{site.port} with the recipes {', '.join(known)}")
        typer.echo(memory.described(site))
        for warning in expiry.warnings(site):
            typer.echo(f"warning: {warning}")
        if site.pacs.to:
            typer.echo(
                f"images go to {site.pacs.to}, confirmed by {site.pacs.confirmed_by}; the spool is {site.pacs.spool}"
            )
        if echo:
            _echo(site.pacs)
        return
    given: dict[str, Any] = {"host": host or None, "port": port, "max_sessions": max_sessions}
    given |= {"status_port": status_port}
    given |= {"allow": tuple(allow) if allow else None, "audit": str(audit.absolute()) if audit else None}
    with usage():
        site = settings.load(config) if config else settings.Site()
        site = settings.check(replace(site, **{k: v for k, v in given.items() if v is not None}))
        known = settings.registered(site)
    from recon.serve.service import serve as run

    run(site, known, _print_line, log)


def _echo(pacs: Pacs) -> None:
    from recon.pacs.answers import Unreachable
    from recon.pacs.sender import echo

    if not pacs.to:
        raise typer.BadParameter("--echo tests the PACS, and the settings have none; set to in their section [pacs]")
    try:
        echo(pacs)
    except Unreachable as e:
        raise ReconError(f"{pacs.to} cannot be reached: {e}; see Send to a PACS in the documentation") from None
    typer.echo(f"{pacs.to} is there")


def openrecon_label(
    config: Annotated[Path | None, typer.Option(help="Settings of the site, with its recipes (.toml)")] = None,
    base64: Annotated[bool, typer.Option("--base64", help="As the value of the image's label")] = False,
) -> None:
    """Print the label of an OpenRecon application. A scanner reads it before it starts the server."""
    from recon.serve import openrecon, settings

    with usage():
        site = settings.load(config) if config else settings.Site()
        known = settings.registered(site)
    made = openrecon.label(known, site.port)
    typer.echo(openrecon.encoded(made) if base64 else json.dumps(made, indent=2))


def stream(
    scan: Annotated[
        Path, typer.Argument(help="Raw scan, of any format that run reads", metavar="SCAN", readable=False)
    ],
    to: Annotated[str, typer.Option(help="Server, host:port")] = "127.0.0.1:9002",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="ISMRMRD file (.h5) for the images")] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe that the server knows")] = "auto",
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt; check the server with the system's authorities")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Authority to check the server with instead (.pem)")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Certificate of this client (.pem)")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (.pem)")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for an answer", min=1)] = 600,
) -> None:
    """Send a raw scan to a server as a scanner would. Images that come back are kept with --output."""
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"--to takes host:port, for instance 127.0.0.1:9002, not {to!r}")
    if output is not None:
        if output.suffix != ".h5":
            raise typer.BadParameter(f"-o takes an ISMRMRD file that ends in .h5, not {str(output)!r}")
        check_outputs([str(output)], [scan])
    context = None
    if tls or tls_ca or tls_certificate:
        from recon.serve.tls import client_context

        context = client_context(*(str(p or "") for p in (tls_ca, tls_certificate, tls_key)))
    from recon.io.mrd_image import write_messages
    from recon.io.read import read_raw
    from recon.serve.client import stream as send

    answer = send(
        read_raw(scan), host.strip("[]"), int(port), recipe, patience_s=patience, hear=_print_text, tls=context
    )
    errors = [t for t in answer.texts if t.startswith("ERR")]
    if errors:
        raise ReconError(f"the server says: {errors[0]}")
    if not answer.closed:
        silent = not answer.texts and not answer.images
        raise ReconError(
            f"the server closed the connection before {_turned_away(context is not None) if silent else 'CLOSE'}"
        )
    typer.echo(f"received {counted(len(answer.images), 'image')}")
    if output is not None and answer.images:
        for path in write_messages(answer.images, output):
            typer.echo(f"wrote {path}")


def _turned_away(within_tls: bool) -> str:
    """What may be wrong if a server disconnects without a message, as it does outside TLS."""
    return "it said anything; " + (
        "it may require a client certificate (--tls-certificate, --tls-key): see its log"
        if within_tls
        else "it may accept only TLS (--tls): see its log"
    )


def _print_text(text: str) -> None:
    if not text.startswith("ERR"):
        typer.echo(f"  {one_line(text)}", err=True)


def _print_line(line: str) -> None:
    tell(line, out=True)
