"""The plan is held against the memory that a reconstruction really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recon import plan
from recon.data import ReconError
from recon.simulation import preset, simulate_to

STACK = plan.Problem(16, 12, (1, 320, 320), 640, 98, 20, 320 * 320, "sense")

RUN = """
import resource, sys
from recon import cli, plan
seen = []
original = plan.plan
def spy(problem, budget):
    seen.append(original(problem, budget))
    return seen[-1]
plan.plan = spy
try:
    cli.main(["run", *sys.argv[1:]])
except SystemExit as e:
    assert not e.code
print(seen[0].peak / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stack") / "scan.h5"
    simulate_to(path, preset(coils=12, accel=2, matrix=192, slices=3))
    return path


@pytest.mark.parametrize("method", ["combine", "sense", "cs", "tv", "grappa", "unrolled"])
def test_the_predicted_peak_is_not_exceeded_nor_far_off(method: str, stack: Path, tmp_path: Path) -> None:
    assert_planned(tmp_path, method, stack)


def test_the_predicted_peak_of_a_volume_holds_its_calibration(tmp_path: Path) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=8, accel=2, matrix=44, slices=44, volume=True))
    assert_planned(tmp_path, "sense", tmp_path / "scan.h5")


def test_the_predicted_peak_of_slices_that_are_solved_one_by_one_holds_what_the_last_one_leaves(tmp_path: Path) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=12, accel=2, matrix=600, slices=2))
    assert_planned(tmp_path, "grappa", tmp_path / "scan.h5")


def assert_planned(folder: Path, method: str, scan: Path) -> None:
    (folder / "recipe.toml").write_text(f"[solve]\nmethod = '{method}'\niterations = 3\n")
    # A child of a large process would report that process's peak: the command starts from a small one.
    launch = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, "-S", "-c", launch, sys.executable, "-c", RUN, str(scan), "--quiet"]
    command += ["--recipe", str(folder / "recipe.toml"), "--device", "cpu", "-o", str(folder / "x.nii.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, measured = (float(v) for v in done.stdout.split())
    assert measured < predicted < 1.25 * measured


def records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (Path(__file__).resolve().parent.parent / "bench" / "results" / "memory.json").read_text()
    )
    return found


def volumes() -> list[dict[str, Any]]:
    return [r for r in records() if r["case"].startswith("3d") and r["method"] != "unrolled" and not r["memory"]]


@pytest.mark.parametrize("row", volumes(), ids=lambda r: f"{r['case']}-{r['method']}")
def test_the_plan_of_a_volume_is_a_fifth_at_most_above_the_peak_that_was_measured(row: dict[str, Any]) -> None:
    n, coils = row["grid"][0], int(row["case"].split("-")[1].split("x")[0])
    problem = plan.Problem(coils, min(12, coils), (n, n, n), 2 * n, n * n // 2, 1, n**3, row["method"])
    assert row["measured_MiB"] < plan.plan(problem, 2**45).peak / 2**20 < 1.2 * row["measured_MiB"]


def single_slices() -> list[dict[str, Any]]:
    return [r for r in records() if r["case"] in ("2d-8x256", "2d-8x512") and r["method"] in ("combine", "grappa")]


@pytest.mark.parametrize("row", single_slices(), ids=lambda r: f"{r['case']}-{r['method']}")
def test_a_slice_without_a_next_one_is_not_charged_with_what_it_would_leave(row: dict[str, Any]) -> None:
    n = row["grid"][1]
    problem = plan.Problem(8, 8, (1, n, n), 2 * n, n // 4 + 18, 1, n * n, row["method"], most=1)
    assert row["measured_MiB"] < plan.plan(problem, 2**45).peak / 2**20 < 1.25 * row["measured_MiB"]


def test_a_smaller_budget_gives_smaller_batches_down_to_a_refusal() -> None:
    budgets = [plan._base() + b * 2**20 for b in (1598, 650, 350, 190)]
    batches = [plan.plan(STACK, b).batch for b in budgets]
    assert batches == sorted(batches, reverse=True)
    assert batches[0] > batches[-1] >= 1
    assert all(plan.plan(STACK, b).peak <= b for b in budgets)
    with pytest.raises(ReconError, match="raise --memory"):
        plan.plan(STACK, plan._base() + 40 * 2**20)


def test_more_coils_sets_and_voxels_take_more() -> None:
    least = plan.plan(STACK, 2**40).peak
    for larger in (
        replace(STACK, virtual_coils=16),
        replace(STACK, map_sets=2),
        replace(STACK, grid=(1, 384, 320)),
        replace(STACK, items=40),
    ):
        assert plan.plan(larger, 2**40).peak > least


VOLUME = plan.Problem(16, 12, (96, 96, 128), 256, 96 * 48, 1, 96 * 96 * 128, "cs")


def test_a_budget_that_is_just_enough_is_enough() -> None:
    whole = plan.plan(STACK, 2**40)
    assert plan.plan(STACK, whole.peak) == whole
    assert plan.plan(STACK, whole.peak - 1).batch == whole.batch - 1
    assert whole.batch == 16
    assert plan.plan(replace(STACK, items=3), 2**40).batch == 3


@pytest.mark.parametrize("method", ["sense", "combine", "cs", "tv"])
def test_parts_of_a_volume_keep_within_the_budget_and_are_worth_their_margins(method: str) -> None:
    problem = replace(VOLUME, method=method)
    whole = plan.plan(problem, 2**45)
    assert whole.columns == 0
    seen = set()
    for share in range(20, 100, 2):
        budget = whole.peak * share // 100
        try:
            part = plan.plan(problem, budget)
        except ReconError:
            continue
        assert part.peak <= budget
        assert part.columns >= plan.LEAST_COLUMNS
        assert -(-128 // part.columns) * part.columns - 128 < -(-128 // part.columns), "parts are of equal width"
        seen.add(part.columns)
    assert len(seen) >= 2


def test_two_slices_at_a_time_hold_k_space_of_both_once_more() -> None:
    few = replace(STACK, lines=8)  # so few that placing them takes less than solving
    one, two = (plan.plan(replace(few, items=n), 2**40).peak for n in (1, 2))
    assert two - one == one - plan._base() + 2 * 320 * 320 * 8 * 12


@pytest.mark.parametrize("sets", [1, 2])
def test_a_volume_that_waits_for_the_next_keeps_its_k_space_and_its_maps(sets: int) -> None:
    small = replace(VOLUME, grid=(16, 16, 16), virtual_coils=16, voxels=16**3, method="sense", map_sets=sets)
    one, two = (plan.plan(replace(small, items=n), 2**40).peak for n in (1, 2))
    assert two - one == 16**3 * 8 * (1 + 16 * (1 + sets))


def test_two_sets_of_maps_of_a_volume_take_at_least_their_images_more() -> None:
    one, two = (plan.plan(replace(VOLUME, map_sets=n), 2**45).peak for n in (1, 2))
    assert two - one > 96 * 96 * 128 * 8 * 12


def cones() -> list[dict[str, Any]]:
    return [r for r in records() if r["case"].startswith("cone")]


@pytest.mark.parametrize("row", cones(), ids=lambda r: f"{r['case']}-{r['method']}")
def test_the_plan_of_a_cone_beam_is_above_the_peak_that_was_measured_and_not_far(row: dict[str, Any]) -> None:
    told = plan.cone(*row["grid"], row["method"], cut="cut" in row["case"]) / 2**20
    assert 1.1 * row["measured_MiB"] < told < 1.4 * row["measured_MiB"]


def test_what_a_cone_beam_takes_grows_as_its_peaks_did_from_size_to_size() -> None:
    """What lies between two sizes is arrays alone, whatever the program takes: nine tenths to 1.4 times of it."""
    peak = {(r["case"], r["method"]): r for r in cones()}
    for method in ("fbp", "sirt", "cgls", "tv", "unrolled"):
        small, large = (peak[case, method] for case in ("cone-64x180", "cone-96x360"))
        counted = (plan.cone(*large["grid"], method) - plan.cone(*small["grid"], method)) / 2**20
        assert 0.9 < counted / (large["measured_MiB"] - small["measured_MiB"]) < 1.4, method


def test_the_limit_of_a_container_bounds_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_container_limit", lambda: 10**8)
    assert plan.budget(None) == 9 * 10**7
    assert plan.machine() == 10**8


def test_the_default_budget_leaves_room_and_a_given_one_is_taken() -> None:
    import psutil

    assert plan.budget(123) == 123
    assert 0 < plan.budget(None) < psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("service", "slice_", "least"),
    [("max", "max", 1 << 62), ("3000000", "max", 3000000), ("9000000", "4000000", 4000000)],
)
def test_the_limit_of_a_service_and_of_what_holds_it_counts(
    service: str, slice_: str, least: int, tmp_path: Path
) -> None:
    inner = tmp_path / "groups" / "system.slice" / "recon.service"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text(service + "\n")
    (inner.parent / "memory.max").write_text(slice_ + "\n")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/elsewhere\n0::/system.slice/recon.service\n")
    assert plan._container_limit(tmp_path / "groups", own) == least
    assert plan._container_limit(tmp_path / "groups", tmp_path / "none") == 1 << 62


@pytest.mark.parametrize(("own", "least"), [("/docker/4711", 5000000), ("/host/path/that/is/not/seen/here", 7000000)])
def test_the_limit_of_a_container_counts_in_the_first_version_of_control_groups_too(
    own: str, least: int, tmp_path: Path
) -> None:
    memory = tmp_path / "groups" / "memory"
    (memory / "docker" / "4711").mkdir(parents=True)
    (memory / "docker" / "4711" / "memory.limit_in_bytes").write_text("5000000\n")
    (memory / "docker" / "memory.limit_in_bytes").write_text("9223372036854771712\n")  # none
    (memory / "memory.limit_in_bytes").write_text("7000000\n")
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:{own}\n0::/\n")
    assert plan._container_limit(tmp_path / "groups", tmp_path / "cgroup") == least
