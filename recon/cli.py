"""The command line: its verbs, exit codes and errors. Large libraries are imported only when a verb needs them."""

from __future__ import annotations

import io
import os
import sys
import warnings
from copy import copy
from typing import Annotated, Any

import typer

from recon import __version__
from recon.ending import terminable
from recon.errors import leave, one_line, sentence, tell
from recon.starting import defer
from recon.verbs.adapt import adapt
from recon.verbs.bench import Several, bench
from recon.verbs.check import check
from recon.verbs.ct import simulate_ct
from recon.verbs.describe import doctor, info, recipe
from recon.verbs.run import run
from recon.verbs.send import send
from recon.verbs.serve import openrecon_label, serve, stream
from recon.verbs.simulate import simulate
from recon.verbs.train import train

app = typer.Typer(
    name="recon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"recon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """MRI reconstruction: raw scans in, DICOM and NIfTI out. Also reconstructs and denoises low-dose CT.

    \b
    recon simulate -o scan.h5 --accel 4
    recon run scan.h5 -o dicom/ -o head.nii.gz
    """


for _verb in (
    *(run, info, check, recipe, doctor, simulate, simulate_ct, bench, train, adapt),
    *(serve, stream, send, openrecon_label),
):
    app.command(cls=Several if _verb is bench else None)(_verb)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 1 on a failed reconstruction, 2 on wrong usage.

    An error is one line on standard error. `--debug`, anywhere, shows the traceback.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given or bool(os.environ.get("RECON_DEBUG"))
    given = [a for a in given if a != "--debug"]
    # Waiting threads sleep instead of spinning: beside other programs a run with spinning threads took seven times as
    # long. OpenMP reads this when torch is imported; a value set by the user is kept.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Arrays in pages of 2 MB if the system has them: with small pages a network spent a fifth of its time on a slice on
    # them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Do not search other installed packages for recipe plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if arguments is None:
        # A terminal without umlauts gets escape sequences for them; otherwise a line that it cannot show would be lost.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if given[:1] == ["run"]:
            defer()
    # A run ended by a signal removes its temporary files.
    with terminable(), warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        leave(_run(given, debug)) if arguments is None else sys.exit(_run(given, debug))


def _run(given: list[str], debug: bool) -> int:
    try:
        code = _asked(given)(args=given, prog_name="recon", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of the output is gone; nothing more can be written, not even when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as e:
        if hasattr(e, "format_message"):  # typer's own
            return _refuse(e)
        if debug:
            raise
        _say(sentence(e, memory=_MEMORY, unforeseen="; --debug shows where"))
        return 1


def _asked(given: list[str]) -> typer.Typer:
    """The verbs; only the requested one if it exists, because typer examines every option of every verb."""
    verb = given[0] if given else ""
    found = [c for c in app.registered_commands if c.callback and c.callback.__name__.replace("_", "-") == verb]
    if not found:
        return app
    one = copy(app)
    one.registered_commands = found
    return one


def _refuse(e: Any) -> int:
    """Say what is wrong with the arguments, or show the help if there are none."""
    if type(e).__name__ == "NoArgsIsHelpError":
        e.show()
    else:
        command = e.ctx.command_path if getattr(e, "ctx", None) else "recon"
        message = e.format_message().removeprefix("Invalid value: ").rstrip(".")
        if command == "recon run" and "unexpected extra argument" in message:
            message = f"{message}; recon run takes one scan: call it once per scan, each with its own --output"
        _say(message if ";" in message else f"{message}; see {command} --help")
    return int(e.exit_code)


def _say(message: str) -> None:
    tell(f"recon: {one_line(message)}")


#: The hint for a run that ran out of memory.
_MEMORY = "give a lower limit with --memory, or fewer --threads"
