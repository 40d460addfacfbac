"""The verb `run` of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recon.errors import one_line, tell
from recon.starting import staying
from recon.verbs.arguments import (
    STANDARD,
    Axes,
    Device,
    Key,
    Quiet,
    Scan,
    Threads,
    Voxel,
    amount,
    check_outputs,
    learned,
    numbered,
    placed,
    read_scan,
    recipe_of,
    three,
    usage,
    use_threads,
)
from recon.verbs.check import with_replicas, write_evidence, write_uncertainty
from recon.verbs.ct import Removed, Strength, fitting, with_strength, write_removed

if TYPE_CHECKING:
    from recon.data import Image
    from recon.recipe import Recipe


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
        str, typer.Option(help="radial, golden, or k-space positions: .npy (line, sample, dimension) or BART's .cfl")
    ] = "",
    evidence: Annotated[str, typer.Option("--trust", help="File for the evidence on a learned image (.json)")] = "",
    uncertainty: Annotated[str, typer.Option(help="File for the uncertainty map, for instance .nii.gz")] = "",
    replicas: Annotated[
        int, typer.Option(help="Noisy copies for the uncertainty map; 0: 16 if the map is asked for", min=0)
    ] = 0,
    removed: Removed = "",
    quiet: Quiet = False,
) -> None:
    """Reconstruct a raw scan and write images.

    Without --method the scan decides: combine (adaptive coil combination) for
    full k-space; unrolled (the network) for undersampled scans within its
    training range; sense (conjugate gradients) or cs (L1 wavelets) for others.
    grappa, tv (total variation) and varnet (fastMRI's network) run only when
    named. CT images are denoised; projections take fbp, sirt, cgls, tv or unrolled.

    \b
    recon run scan.h5 -o dicom/ -o head.nii.gz
    recon run brain.cfl --method cs -o brain.png
    """
    from recon.io import write as writing

    size, limit = three(voxel), amount(memory)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise typer.BadParameter(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}")
    maps = [name for name in (uncertainty, removed) if name]
    with usage():
        plan = with_strength(learned(recipe_of(recipe, method, trajectory), weights, denoise), strength)
        plan = with_replicas(plan, replicas or (16 if uncertainty and not plan.trust.replicas else 0))
    inputs: list[str | Path] = [scan, *([recipe] if recipe else [])]
    inputs += [trajectory] if trajectory not in ("", *STANDARD) else []
    check_outputs([*output, *maps], inputs, [evidence] if evidence else [])
    raw = placed(read_scan(scan, axes, size, key, trajectory), trajectory)
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
    """Write each output and report it at once: outputs that exist when a later one fails are complete."""
    from recon.io import write as writing

    out = plan.output
    # Series derived from others are numbered after them.
    number = out.series_number + (0 if image.source else stack)
    for name in names:
        written = writing.write(
            image, [name], parts=out.parts, complex_=out.complex, series_number=number,
            derived=out.derived,
        )  # fmt: skip
        if not quiet:
            for path in written:
                tell(f"wrote {path}", out=True)
