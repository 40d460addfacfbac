"""The verb `bench` of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from recon.errors import ReconError, one_line
from recon.verbs.arguments import Device, Key, Quiet, Threads, usage, use_threads

if TYPE_CHECKING:
    from recon.accuracy.compare import Plan

#: Options that take several values in a row.
_SEVERAL = ("--accel", "--methods", "--dose")
_ACCEL: list[float] = [2, 4, 6, 8]
_DOSES: list[float] = [0.25, 0.1]
_METHODS = ["zero-filled", "grappa", "sense", "cs", "unrolled"]


class Several(TyperCommand):
    """A command in which `--accel 2 4 8` means `--accel 2 --accel 4 --accel 8`; an existing file ends the row."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from recon.recipe import Method

        methods = ("zero-filled", *get_args(Method))
        spread: list[str] = []
        option = ""
        for n, word in enumerate(args):
            if word.startswith("-") and len(word) > 1:
                option = word if word in _SEVERAL else ""
                spread.append(word)
            elif option and args[n - 1] != option and (_number(word) or word in methods or not Path(word).exists()):
                spread += [option, word]
            else:
                option = option if n and args[n - 1] == option else ""
                spread.append(word)
        return super().parse_args(ctx, spread)


def _left_out(reason: str) -> None:
    typer.echo(f"  left out: {one_line(reason)}", err=True)


def _number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()


def bench(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="Fully sampled raw scans, of any format that run reads; or folders", metavar="SCAN", readable=False
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for records, pictures and the page")],
    accel: Annotated[list[float], typer.Option(help="Acceleration factors: --accel 2 4 6 8")] = _ACCEL,
    methods: Annotated[
        list[str], typer.Option(help="zero-filled, and those of run: --methods zero-filled sense")
    ] = _METHODS,
    mask: Annotated[
        str, typer.Option(help="equispaced, equispaced-fraction, random, variable-density, poisson-disc or caipi")
    ] = "equispaced",
    acs: Annotated[int | None, typer.Option(help="ACS lines; default: 24 up to R = 4, 16 above", min=0)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the mask", min=0)] = 0,
    recipe: Annotated[Path | None, typer.Option(help="TOML file; the method in it is not used")] = None,
    weights: Annotated[str, typer.Option(help="Network of unrolled: a name that ships, or a folder")] = "",
    axes: Annotated[
        list[str] | None,
        typer.Option(help="Axes of bare arrays, coil,y,x or PATTERN=coil,y,x for files of that name; may be repeated"),
    ] = None,
    key: Key = "",
    device: Device = "auto",
    threads: Threads = 0,
    numbered: Annotated[bool, typer.Option("--numbered", help="Call scans by number, not by file name.")] = False,
    dose: Annotated[list[float], typer.Option(help="ct: shares of the scans' dose: --dose 0.25 0.1")] = _DOSES,
    real: Annotated[
        list[Path] | None, typer.Option(help="ct: a scan of a phantom with real noise and no reference")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="ct: strength of the networks; default: that of run", min=0, max=1)
    ] = None,
    slices: Annotated[int, typer.Option(help="ct: slices of each scan", min=1, max=1000)] = 3,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the results in the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods on undersampled full scans.

    Scans that cannot be compared are skipped, with the reason.

    `bench ct SCAN...` takes CT images instead, adds the noise of a quarter and a tenth of the dose in their
    projections, and compares denoisers.
    """
    if str(scans[0]) == "ct" and not scans[0].exists():
        wanted_methods = None if methods == _METHODS else methods
        _ct(
            scans[1:], real or [], output, weights, wanted_methods, dose, strength, slices,
            seed, device, threads, numbered, force, quiet,
        )  # fmt: skip
        return
    wanted = _plan(accel, methods, mask, acs, seed, recipe, weights, device)
    use_threads(threads)
    _compare(scans, axes or (), key, wanted, output, numbered, force, quiet)


def _plan(
    accel: list[float], methods: list[str], mask: str, acs: int | None, seed: int, recipe: Path | None, weights: str,
    device: str,
) -> Plan:  # fmt: skip
    """What is compared, if the options are consistent."""
    from dataclasses import replace

    from recon import recipe as recipes
    from recon.accuracy import compare, undersample

    for name in methods:
        if name not in compare.METHODS:
            raise typer.BadParameter(f"--methods takes {', '.join(compare.METHODS)}, not {name!r}")
    if mask not in get_args(undersample.Kind):
        raise typer.BadParameter(f"--mask takes {', '.join(get_args(undersample.Kind))}, not {mask!r}")
    if not all(1 < r < 1000 for r in accel):
        raise typer.BadParameter("--accel takes factors above 1 and below 1000")
    with usage():
        plan = recipes.load(recipe) if recipe else recipes.Recipe()
    if weights:
        plan = replace(plan, solve=replace(plan.solve, weights=weights))
    return compare.Plan(
        accelerations=tuple(int(r) if r == int(r) else r for r in dict.fromkeys(accel)),
        methods=tuple(dict.fromkeys(methods)),
        mask=mask,  # type: ignore[arg-type]
        acs=acs, seed=seed, recipe=plan, device=device,
    )  # fmt: skip


def _compare(
    scans: list[Path], axes: Sequence[str], key: str, wanted: Plan, output: Path, numbered: bool, force: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Compare the methods on raw MRI scans, and report what was left out."""
    from recon.accuracy import gather, results
    from recon.progress import reporter

    found = gather.gather(scans, axes, key or None)
    if len(scans) == 1 and not found.scans and len(found.left) == 1:
        raise found.left[0][1]
    for _, reason in found.left:
        _left_out(str(reason))
    named = dict(zip(results.names(found.files, found.scans, numbered=numbered), found.scans, strict=True))
    late: list[tuple[str, ReconError]] = []
    with reporter(quiet) as report:
        records = results.bench(
            named, wanted, output, replace=force, report=report, left=lambda *told: late.append(told)
        )
    if not records and len(named) == 1 and not found.left:
        raise ReconError(f"{late[0][0]}: {late[0][1]}")
    for name, why in late:
        _left_out(f"{name}: {why}")
    if not records:
        raise ReconError("none of the scans can be compared; give fully sampled raw MRI scans")
    if not quiet:
        typer.echo(results.summary(records))
        for path in (output / results.PAGE, output / results.RECORDS, output / results.TABLE):
            typer.echo(f"wrote {path}")


def _ct(
    scans: list[Path], real: list[Path], output: Path, weights: str, wanted: list[str] | None, doses: list[float],
    strength: float | None, slices: int, seed: int, device: str, threads: int, numbered: bool, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare denoisers of CT images."""
    from recon.accuracy import ct, ct_methods, results
    from recon.data import CTImages
    from recon.io.read import read
    from recon.progress import reporter
    from recon.recipe import CT

    classical = ct_methods.CLASSICAL if wanted is None else tuple(dict.fromkeys(wanted))
    if odd := [m for m in classical if m not in ct_methods.CLASSICAL]:
        raise typer.BadParameter(f"--methods takes {', '.join(ct_methods.CLASSICAL)} for CT, not {odd[0]!r}")
    if not all(0 < d < 1 for d in doses):
        raise typer.BadParameter("--dose takes shares of the scans' dose, between 0 and 1")
    use_threads(threads)
    found = []
    for path in (*scans, *real):
        scan = read(path)
        if not isinstance(scan, CTImages):
            raise ReconError(f"{path.name} holds no CT images; give series of DICOM or NIfTI in HU")
        found.append(scan)
    names = results.names([*scans, *real], [s.series[0] for s in found], numbered=numbered)
    named = dict(zip(names, found, strict=True))
    plan = ct.Plan(
        doses=tuple(doses),
        slices=slices,
        networks=tuple(weights.split(",")) if weights else tuple(ct_methods.shipped()),
        classical=classical,
        seed=seed,
        strength=CT().strength if strength is None else strength,
        device=device,
    )
    first = {n: named[n] for n in names[: len(scans)]}
    rest = {n: named[n] for n in names[len(scans) :]}
    for sentence in () if quiet else ct_methods.missing(classical):
        typer.echo(sentence, err=True)
    with reporter(quiet) as report:
        records = ct.bench(first, rest, plan, output, replace=force, report=report)
    if not quiet:
        typer.echo(ct.summary(records))
        for path in (output / ct.PAGE, output / ct.RECORDS, output / ct.TABLE):
            typer.echo(f"wrote {path}")
