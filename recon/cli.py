"""The verbs of the command line. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recon import __version__
from recon.ending import terminable
from recon.errors import ReconError, leave, one_line, printable, sentence, tell
from recon.starting import defer, staying
from recon.verbs.adapt import adapt
from recon.verbs.arguments import (
    STANDARD,
    Axes,
    Device,
    Force,
    Json,
    Key,
    Quiet,
    Threads,
    Voxel,
    amount,
    learned,
    numbered,
    placed,
    read_scan,
    recipe_of,
    three,
    use_threads,
)
from recon.verbs.bench import Several, bench
from recon.verbs.check import check, with_replicas, write_evidence, write_uncertainty
from recon.verbs.ct import Removed, Strength, fitting, simulate_ct, with_strength, write_removed
from recon.verbs.send import send
from recon.verbs.serve import openrecon_label, serve, stream
from recon.verbs.train import train

if TYPE_CHECKING:
    from recon.data import Image
    from recon.recipe import Recipe

app = typer.Typer(
    name="recon",
    help="MRI reconstruction: raw scans in, DICOM and NIfTI out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Scan = Annotated[
    Path,
    typer.Argument(
        help="ISMRMRD or fastMRI .h5, BART .cfl, .npy/.npz, Siemens .dat; CT: DICOM, NIfTI",
        metavar="SCAN",
        readable=False,
    ),
]


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
    """MRI reconstruction: raw scans in, DICOM and NIfTI out."""


@app.command()
def run(
    scan: Scan,
    output: Annotated[
        list[str],
        typer.Option("-o", "--output", help="folder/ (DICOM), .nii.gz, .png, .h5; repeat it", metavar="FILE"),
    ],
    method: Annotated[
        str, typer.Option(help="auto, combine, grappa, sense, cs, tv, unrolled, varnet, fbp, sirt, cgls")
    ] = "",
    recipe: Annotated[Path | None, typer.Option(help="TOML file; `recon recipe` prints one")] = None,
    weights: Annotated[str, typer.Option(help="Network: a name that ships, a folder, or fastMRI's VarNet (.pt)")] = "",
    denoise: Annotated[
        float | None, typer.Option(help="0 keeps a full scan's noise, 1 removes it", min=0, max=1)
    ] = None,
    strength: Strength = None,
    device: Device = "auto",
    memory: Annotated[str, typer.Option(help="Upper limit such as 4GiB; default: what is free")] = "",
    threads: Threads = 0,
    stack: Annotated[int, typer.Option(help="Only this group of parallel slices, from 1; 0 takes all", min=0)] = 0,
    axes: Axes = "",
    voxel: Voxel = "",
    key: Key = "",
    trajectory: Annotated[
        str, typer.Option(help="radial, golden, or .npy with k-space positions (line, sample, dimension)")
    ] = "",
    evidence: Annotated[str, typer.Option("--trust", help="Write the evidence on a learned image here (.json)")] = "",
    uncertainty: Annotated[str, typer.Option(help="Write the uncertainty map here, for instance .nii.gz")] = "",
    replicas: Annotated[
        int, typer.Option(help="Noisy copies behind the uncertainty map; 0: 16 if asked for", min=0)
    ] = 0,
    removed: Removed = "",
    quiet: Quiet = False,
) -> None:
    """Reconstruct a raw scan and write images."""
    from recon.io import write as writing

    size, limit = three(voxel), amount(memory)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise typer.BadParameter(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    maps = [name for name in (uncertainty, removed) if name]
    with _usage():
        plan = with_strength(learned(recipe_of(recipe, method, trajectory), weights, denoise), strength)
        plan = with_replicas(plan, replicas or (16 if uncertainty and not plan.trust.replicas else 0))
        for name in (*output, *maps):
            writing.kind(name)
    inputs: list[str | Path] = [scan, *([recipe] if recipe else [])]
    inputs += [trajectory] if trajectory not in ("", *STANDARD) else []
    records = [evidence] if evidence else []
    writing.check_paths([*output, *maps], inputs=inputs, records=records)
    raw = placed(read_scan(scan, axes, size, key), trajectory)
    fitting(raw, plan, strength, denoise, removed)
    with staying():
        from recon import pipeline
        from recon.data import CTSeries
        from recon.prepare.stacks import Stack
        from recon.progress import reporter

    use_threads(threads)
    found = pipeline.stacks(raw)
    count = len(found)
    chosen = list(range(count)) if stack == 0 else [stack - 1]
    names = {n: [numbered(name, n + 1) if len(chosen) > 1 else name for name in output] for n in chosen}
    grids = {n: s.geometry for n, s in enumerate(found) if n in chosen and isinstance(s, (Stack, CTSeries))}
    every = [name for of_stack in names.values() for name in of_stack]
    most = max((pipeline.slices(s, plan) for n, s in enumerate(found) if n in chosen), default=1)
    writing.check_paths(every, inputs=inputs, slices=most)
    for n, grid in grids.items():
        writing.check_even([*names[n], *maps], grid)
    for n in chosen:
        with reporter(quiet) as report:
            image = pipeline.reconstruct(raw, plan, device=device, memory=limit, stack=n, progress=report)
        if not quiet:
            for note in image.notes:
                tell(f"  {one_line(note)}")
        _write(image, names[n], plan, n, quiet)
        number = n + 1 if len(chosen) > 1 else 0
        beside = write_evidence(image, Path(evidence), number) if evidence else []
        if uncertainty:
            beside += write_uncertainty(image, numbered(uncertainty, number) if number else uncertainty)
        if removed:
            beside += write_removed(found[n], image, numbered(removed, number) if number else removed)
        for path in () if quiet else beside:
            tell(f"wrote {path}", out=True)


def _write(image: Image, names: Sequence[str], plan: Recipe, stack: int, quiet: bool) -> None:
    """Write each output and say so at once: what is there when a later one fails is whole."""
    from recon.io import write as writing

    out = plan.output
    # Series that are derived from others are numbered after those.
    number = out.series_number + (0 if image.source else stack)
    for name in names:
        written = writing.write(
            image, [name], parts=out.parts, complex_=out.complex, series_number=number,
            derived=out.derived,
        )  # fmt: skip
        if not quiet:
            for path in written:
                tell(f"wrote {path}", out=True)


@app.command()
def info(scan: Scan, axes: Axes = "", voxel: Voxel = "", key: Key = "", json: Json = False) -> None:
    """Say what a scan holds. Also what of it will be ignored, and which rule it breaks."""
    from recon import info as doctor

    report = doctor.describe_any(read_scan(scan, axes, three(voxel), key))
    typer.echo(printable(doctor.as_json(report) if json else doctor.text(report)))


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="ISMRMRD file to write")],
    accel: Annotated[int, typer.Option(help="Acceleration factor", min=1, max=16)] = 1,
    coils: Annotated[int, typer.Option(help="Receive channels", min=1, max=128)] = 8,
    matrix: Annotated[int, typer.Option(help="Image matrix, N×N", min=16, max=1024)] = 256,
    slices: Annotated[int, typer.Option(help="Slices, or partitions with --volume", min=1, max=512)] = 1,
    volume: Annotated[bool, typer.Option("--volume", help="A 3D scan with two phase-encoded axes.")] = False,
    trajectory: Annotated[str, typer.Option(help="cartesian, epi, radial or spiral")] = "cartesian",
    noise: Annotated[float, typer.Option(help="Noise, relative to the mean signal of the head", min=0)] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of noise and masks", min=0)] = 0,
    force: Force = False,
) -> None:
    """Write a raw scan of an analytic head. It has everything that a real one has."""
    from recon import simulation

    if output.suffix not in (".h5", ".mrd"):
        raise typer.BadParameter(f"-o takes an ISMRMRD file that ends in .h5 or .mrd, not {str(output)!r}")
    if output.exists() and not force:
        raise ReconError(f"{output} exists; give another name, or --force to replace it")
    with _usage():
        settings = simulation.preset(
            accel=accel,
            coils=coils,
            matrix=matrix,
            slices=slices,
            volume=volume,
            trajectory=trajectory,
            noise=noise,
            seed=seed,
        )
    simulation.simulate_to(output, settings)
    typer.echo(f"wrote {output}")


@app.command()
def recipe(
    file: Annotated[Path | None, typer.Argument(help="Recipe to complete with its defaults", metavar="RECIPE")] = None,
) -> None:
    """Print a recipe with every key, to start from."""
    from recon import recipe as recipes

    with _usage():
        loaded = recipes.load(file) if file else recipes.Recipe()
    typer.echo(recipes.to_toml(loaded), nl=False)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing, how to get it."""
    from recon import doctor as machine

    report = machine.examine()
    typer.echo(machine.as_json(report) if json else machine.text(report))


app.command()(simulate_ct)
app.command()(check)
app.command()(train)
app.command()(adapt)
app.command(cls=Several)(bench)
app.command()(serve)
app.command()(stream)
app.command()(send)
app.command()(openrecon_label)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 1 on a failed reconstruction, 2 on wrong usage.

    An error is one line on standard error. `--debug`, anywhere, shows the traceback.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given or bool(os.environ.get("RECON_DEBUG"))
    given = [a for a in given if a != "--debug"]
    # Threads that wait for work sleep instead of turning: beside other programs a run took seven times as long with
    # turning ones. OpenMP reads this when torch is imported; whoever sets it otherwise is obeyed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Arrays in pages of 2 MB where the system has them: a fifth of a network's time on a slice went into small ones.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # No other package that is installed looks into recipes, nor is one searched for.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if arguments is None:
        # A terminal without umlauts is told of them in other words; a line that it cannot show would be lost whole.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if given[:1] == ["run"]:
            defer()
    # Finished by force, a run takes its temporary files away.
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
        # Who read the output has gone; nothing more can be said, not even when Python flushes at its end.
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
    """The verbs; only the one that is asked for, where it is one, since typer looks at every option of every verb."""
    verb = given[0] if given else ""
    found = [c for c in app.registered_commands if c.callback and c.callback.__name__.replace("_", "-") == verb]
    if not found:
        return app
    one = copy(app)
    one.registered_commands = found
    return one


def _refuse(e: Any) -> int:
    """Say what is wrong with the arguments, or show the help where there are none."""
    if type(e).__name__ == "NoArgsIsHelpError":
        e.show()
    else:
        command = e.ctx.command_path if getattr(e, "ctx", None) else "recon"
        message = e.format_message().removeprefix("Invalid value: ").rstrip(".")
        if command == "recon run" and "unexpected extra argument" in message:
            message = f"{message}; recon run takes one scan: call it once for each, with an --output of its own"
        _say(message if ";" in message else f"{message}; see {command} --help")
    return int(e.exit_code)


def _say(message: str) -> None:
    tell(f"recon: {one_line(message)}")


@contextmanager
def _usage() -> Iterator[None]:
    """What is wrong within is wrong with the arguments, whatever the scan."""
    try:
        yield
    except ReconError as e:
        raise typer.BadParameter(str(e)) from e


#: What helps a run that ran out of memory.
_MEMORY = "give a lower limit with --memory, or fewer --threads"
