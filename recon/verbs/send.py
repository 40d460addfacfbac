"""The verb `send` of the command line."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recon.errors import ReconError, counted, log
from recon.verbs.arguments import Json, usage

if TYPE_CHECKING:
    from recon.pacs.settings import Pacs


def send(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Folders and files of DICOM images", metavar="DICOM")
    ] = None,
    to: Annotated[str, typer.Option(help="AET@host:port, or https://host/dicom-web")] = "",
    config: Annotated[Path | None, typer.Option(help="Settings of the site (.toml) with a section [pacs]")] = None,
    spool: Annotated[Path | None, typer.Option(help="Folder for images until they are delivered")] = None,
    aet: Annotated[str, typer.Option(help="AE title of recon")] = "",
    confirm: Annotated[str, typer.Option(help="auto, commitment, find, qido, wado or none")] = "",
    listen: Annotated[str, typer.Option(help="host:port for reports of storage commitments")] = "",
    tls_ca: Annotated[str, typer.Option(help="Authorities to trust (.pem); turns TLS on")] = "",
    tls_certificate: Annotated[str, typer.Option(help="Certificate of recon (.pem)")] = "",
    tls_key: Annotated[str, typer.Option(help="Key of our certificate (.pem)")] = "",
    login: Annotated[str, typer.Option(help="File with user:password, for DICOMweb")] = "",
    deidentify: Annotated[bool, typer.Option("--deidentify", help="Remove what identifies the patient.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep sending what arrives in the spool.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed images again.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show the state of the spool.")] = False,
    json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> None:
    """Send DICOM images to a PACS and check that they arrive."""
    from recon.pacs import settings
    from recon.pacs import spool as spools
    from recon.pacs.summary import summary, text

    given: dict[str, Any] = {"to": to, "aet": aet, "confirm": confirm, "listen": listen, "login": _full(login)}
    given |= {"spool": str(spool.absolute()) if spool else "", "deidentify": deidentify}
    tls = {k: _full(v) for k, v in (("ca", tls_ca), ("certificate", tls_certificate), ("key", tls_key)) if v}
    with usage():
        pacs = _settings(config, given, tls, anywhere=status)
    folder = Path(pacs.spool)
    if status:
        found = summary(folder)
        typer.echo(_json(found) if json else text(found))
        return
    if confirm and confirm not in settings.CONFIRM:
        raise typer.BadParameter(f"--confirm takes {', '.join(settings.CONFIRM)}, not {confirm!r}")
    with usage():
        pacs = settings.check(pacs)
    if retry:
        with spools.locked(folder):
            typer.echo(f"{spools.retry(folder)} failed images will be tried again")
    elif not images and not watch:
        raise typer.BadParameter("give the images to send, or use --watch, --retry or --status")
    uids = _spool(pacs, images) if images else []
    if watch:
        _watch(pacs, follow)
    else:
        _once(pacs, uids, json)


def _settings(config: Path | None, given: dict[str, Any], tls: dict[str, str], anywhere: bool) -> Pacs:
    """The settings in the site's file, otherwise those that the spool was last used with, with the given changes."""
    from recon.pacs.deliver import known
    from recon.pacs.settings import Pacs, resolved

    pacs = resolved(Pacs(), Path())
    if config is not None:
        from recon.serve.settings import load

        pacs = load(config).pacs
        if not pacs.to and not given["to"]:
            raise ReconError(f"{config} does not set a PACS; set to in its section [pacs]")
    elif not given["to"] and not anywhere:
        pacs = known(Path(given["spool"] or pacs.spool))
    given = {k: v for k, v in given.items() if v}
    return replace(pacs, **given, tls=replace(pacs.tls, **tls))


def _spool(pacs: Pacs, images: list[Path]) -> list[str]:
    from recon.pacs.deliver import files, hand_over

    found = files(images)
    return [r.uid for r in hand_over(pacs, ((str(path), path) for path in found))]


def _once(pacs: Pacs, uids: list[str], json: bool) -> None:
    from recon.pacs import spool as spools
    from recon.pacs.deliver import once
    from recon.pacs.summary import summary

    once(pacs, log)
    folder = Path(pacs.spool)
    states = [found[0] if (found := spools.find(folder, uid)) else "new" for uid in uids]
    if json:
        typer.echo(_json(summary(folder)))
    sent = states.count("sent")
    if sent == len(uids):
        if not json:
            typer.echo(
                f"{counted(sent, 'image is', 'images are')} in the PACS" if uids else "done; see recon send --status"
            )
        return
    failed = states.count("failed")
    words = [f"{len(uids) - sent - failed} wait in the spool"] if sent + failed < len(uids) else []
    words += [f"{failed} failed"] if failed else []
    raise ReconError(
        f"{sent} of {counted(len(uids), 'image is', 'images are')} in the PACS, {' and '.join(words)}: "
        f"{summary(folder)['last_error']}; recon send --watch --spool {folder} keeps trying"
    )


def _watch(pacs: Pacs, follow: bool) -> None:
    """Send until the process is stopped; with `follow` also until standard input closes, as its owner's end does."""
    from recon.pacs.deliver import watch

    ended = threading.Event()
    if follow:
        threading.Thread(target=_until_eof, args=(ended,), daemon=True).start()
    watch(pacs, log, ended.wait)


def _until_eof(ended: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    ended.set()


def _full(name: str) -> str:
    return str(Path(name).expanduser().absolute()) if name else ""


def _json(found: dict[str, Any]) -> str:
    from json import dumps

    return dumps(found, indent=2)
