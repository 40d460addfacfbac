"""A volume that is solved in parts along its readout is the volume solved as a whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon import plan
from recon.data import ReconError
from recon.io.read import read
from recon.pipeline import reconstruct
from recon.recipe import parse
from recon.simulation import preset, simulate_to

#: What torch's builds for GPUs take beyond the one for CPUs alone, in MiB.
MORE = (plan._base() - plan._BASE) // 2**20

VOLUME = plan.Problem(12, 12, (120, 160, 160), 320, 5000, 1, 120 * 160 * 160, "sense")


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "scan.h5"
    simulate_to(path, preset(coils=5, accel=2, matrix=48, slices=20, volume=True))
    return path


#: Largest difference, relative to the largest voxel, and iterations. SENSE's columns are independent once solved;
#: wavelets, total variation and the adaptive combination reach over the seam and are cut where they no longer do.
METHODS = {"sense": (2e-4, 60), "combine": (1e-5, 1), "cs": (5e-2, 25), "tv": (1e-2, 25)}


@pytest.mark.parametrize("method", METHODS)
def test_parts_give_the_image_of_the_whole(method: str, volume: Path, monkeypatch) -> None:
    limit, iterations = METHODS[method]
    recipe = parse({"solve": {"method": method, "tolerance": 1e-6, "iterations": iterations}})
    whole = reconstruct(read(volume), recipe).data
    monkeypatch.setattr("recon.mri.cartesian.planning.plan", lambda problem, budget: plan.Plan(1, 0, 13))
    parts = reconstruct(read(volume), recipe).data
    assert np.abs(parts - whole).max() < limit * np.abs(whole).max()


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "scan.h5"
    simulate_to(path, preset(coils=8, accel=4, matrix=96, slices=26, volume=True))
    return path


@pytest.mark.parametrize("method", ["sense", "cs"])
def test_parts_take_no_more_than_was_planned(method: str, large: Path) -> None:
    code = (
        "import resource, sys\n"
        "from recon import plan, recipe\nfrom recon.io.read import read\nfrom recon.pipeline import reconstruct\n"
        "seen, original = [], plan.plan\n"
        "def tight(p, b):\n"
        "    most = int(0.97 * original(p, 1 << 50).peak)\n"
        "    seen.append((original(p, most), most))\n"
        "    return seen[-1][0]\n"
        "plan.plan = tight\n"
        f"r = recipe.parse({{'solve': {{'method': {method!r}, 'iterations': 2}}}})\n"
        "reconstruct(read(sys.argv[1]), r)\n"
        "first, most = seen[0]\n"
        "print(first.columns, first.peak, most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    launch = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, "-S", "-c", launch, sys.executable, "-c", code, str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    columns, planned, allowed, taken = (int(v) for v in done.stdout.split())
    assert 8 <= columns < 96
    assert taken < planned <= allowed


def test_a_smaller_budget_gives_narrower_parts_down_to_a_refusal() -> None:
    whole = plan.plan(VOLUME, 1 << 50).peak
    plans = [plan.plan(VOLUME, int(share * whole)) for share in (1, 0.9, 0.75, 0.6)]
    assert plans[0].columns == 0
    assert plans[1].columns > plans[2].columns > plans[3].columns >= 8
    assert all(p.peak <= share * whole for p, share in zip(plans, (1, 0.9, 0.75, 0.6)))
    with pytest.raises(ReconError, match="raise --memory"):
        plan.plan(VOLUME, whole // 3)


def test_grappa_is_not_cut_since_its_kernel_runs_along_the_readout() -> None:
    with pytest.raises(ReconError, match="raise --memory"):
        plan.plan(replace(VOLUME, method="grappa"), (2000 + MORE) * 2**20)
