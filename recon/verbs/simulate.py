"""The verb `simulate` of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import ReconError
from recon.verbs.arguments import Force, usage


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
    noise_lines: Annotated[
        bool, typer.Option("--noise-lines/--no-noise-lines", help="Measure lines of noise before the image.")
    ] = True,
    receiver_filter: Annotated[
        bool,
        typer.Option(
            "--receiver-filter/--white-noise",
            help="Noise falls off towards the ends of the readout's band, or does not.",
        ),
    ] = True,
    offset: Annotated[float, typer.Option(help="Constant on all samples, relative to their noise", min=0)] = 0.0,
    jitter: Annotated[float, typer.Option(help="Random phase of each line, degrees", min=0)] = 0.0,
    drift: Annotated[
        float, typer.Option(help="Steps of a random walk of the phase over the lines, degrees", min=0)
    ] = 0.0,
    gain_drift: Annotated[float, typer.Option(help="Change of gain over the scan, 0.1 is 10 %", min=-0.9, max=9)] = 0.0,
    spikes: Annotated[int, typer.Option(help="Number of samples with a spike", min=0)] = 0,
    force: Force = False,
) -> None:
    """Write a raw scan of an analytic head. It also has the noise lines, oversampling and calibration of a real one."""
    from recon import simulation

    if output.suffix not in (".h5", ".mrd"):
        raise typer.BadParameter(f"-o takes an ISMRMRD file that ends in .h5 or .mrd, not {str(output)!r}")
    if output.exists() and not force:
        raise ReconError(f"{output} exists; give another name, or --force to replace it")
    with usage():
        settings = simulation.preset(
            accel=accel,
            coils=coils,
            matrix=matrix,
            slices=slices,
            volume=volume,
            trajectory=trajectory,
            noise=noise,
            seed=seed,
            receiver=simulation.Receiver(
                fall=simulation.FALL if receiver_filter else 0.0,
                offset=offset,
                jitter_deg=jitter,
                drift_deg=drift,
                gain_drift=gain_drift,
                spikes=spikes,
            ),
        )
        settings = settings if noise_lines else replace(settings, noise_lines=0)
    simulation.simulate_to(output, settings)
    typer.echo(f"wrote {output}")
