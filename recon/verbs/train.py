"""The verb `train` of the command line."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import ReconError, counted
from recon.verbs.arguments import Quiet, Threads, usage, use_threads


def train(
    recipe: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECIPE",
            help=(
                "TOML file of a training, such as trained/mri-small/recipe.toml; several CT recipes train in parallel"
            ),
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of checkpoints, log, pictures and weights")],
    data: Annotated[
        Path | None,
        typer.Option(envvar="RECON_DATA", help="Folder with `train` and `validation`, or fastmri:FOLDER"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "cpu",
    minutes: Annotated[float | None, typer.Option(help="Minutes of training, instead of the recipe's", min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
    workers: Annotated[
        int, typer.Option(help="Processes that make scans while the network trains; 0 makes all of them before", min=0)
    ] = 0,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Train a network on simulated scans. It writes weights for `run --weights`."""
    if data is None:
        raise typer.BadParameter("training needs data; give a folder with `train` and `validation` with --data DIR")
    from recon import pipeline
    from recon.io.atomic import check_folder
    from recon.learn import ct_train, settings
    from recon.learn import train as training
    from recon.progress import reporter
    from recon.recipe import table

    if output.exists() and not output.is_dir():
        raise ReconError(f"{output} is a file, but training writes a folder; give another name with --output")
    check_folder(output)
    use_threads(threads)
    device = str(pipeline.place(device))
    with usage():
        of_ct = all(table(r).get("kind") == "ct" for r in recipe)
        plans = [ct_train.load(r) for r in recipe] if of_ct else []
    if of_ct:
        with reporter(quiet) as report:
            state = ct_train.train(
                plans, data, output, device=device, minutes=minutes, resume=resume, report=report
            )[0]  # fmt: skip
        if not quiet:
            typer.echo(f"{output}: {counted(state.step, 'step')} in {state.seconds / 60:.1f} minutes")
        return
    if len(recipe) > 1:
        raise typer.BadParameter("several recipes can train in parallel only if all are of kind ct; give one")
    with usage():
        plan = settings.load(recipe[0])
    with reporter(quiet) as report:
        state = training.train(
            plan, data, output, device=device, minutes=minutes, resume=resume, workers=workers, report=report
        )
    # Of several processes under torchrun only the first one prints.
    if not quiet and os.environ.get("RANK", "0") == "0":
        typer.echo(f"{output}: {counted(state.step, 'step')} in {state.seconds / 60:.1f} minutes")
        weights = shlex.quote(str(output / plan.name))
        typer.echo(f"try it with: recon run SCAN --method unrolled --weights {weights} -o OUT")
