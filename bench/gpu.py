"""Speed on a CUDA GPU, compared with sigpy (CuPy) and mrpro (torch) on the same GPU, and with its memory bandwidth.

    python bench/gpu.py                                   # all of it: minutes on the CPU, then a few on the card
    python bench/gpu.py --prepare FOLDER                  # where the card is lent: data and answers before it is there,
    python bench/gpu.py --data FOLDER --json bench/results/gpu.json --log kernels.txt              # and what needs it
    python bench/gpu.py --tune                            # the normal operator of planes by other strips and groups
    python bench/gpu.py --dry                             # tiny problems on the CPU, to see that all of it runs

Data are on the GPU before the clock starts, except in `recon run`, which includes the copies. Every result is compared
with a double-precision result from the CPU, or with the truth. If a case fails, the reason is recorded and the others
continue; the records are written after each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, Data, Settings, record
from cases import cg_sense, e2e_varnet, espirit, gpu_run, projection, sense_normal, unrolled, wavelet

#: Seconds after which no further peer is measured, and the most that one peer may take in total.
TIME, PATIENCE = 150.0, 3.0
#: Copies of a small problem that are used in turn, so that a second-level cache cannot hold them.
ROTATED, SMALL = 24, 64 << 20


def _on_gpu(case: Case, peers: tuple[str, ...], **changed: Any) -> Case:
    return replace(case, peers=peers, target=None, **changed)


#: What is measured, the most important first.
CASES: tuple[Case, ...] = (
    _on_gpu(sense_normal.CASES[0], ("mrpro", "sigpy", "loop")),
    _on_gpu(cg_sense.CASES[0], ("mrpro", "sigpy", "loop"), target_s=None),
    _on_gpu(espirit.CASES[0], ("sigpy",), sizes={**espirit.STACK, **espirit.SIZES}),
    _on_gpu(gpu_run.CASES[0], ()),
    _on_gpu(wavelet.CASES[0], ("mrpro", "sigpy")),
    _on_gpu(unrolled.CASES[0], ()),
    _on_gpu(projection.CASES[0], ()),
    _on_gpu(projection.CASES[1], ()),
    _on_gpu(e2e_varnet.CASES[0], ()),
)
#: Seconds to reach.
TARGETS = {("cg_sense", "20x16x320x320"): 0.1, ("espirit", "20x16x320x320"): 0.5}


def tiny(settings: Settings) -> Settings:
    """A size for a dry run."""
    small: dict[str, Any] = {"coils": 4, "slices": 2, "n": 32, "angles_count": 12, "cascades": 1, "channels": 4}
    small |= {"sens_channels": 4, "matrix": 64}
    out = {k: min(v, small[k]) if k in small else v for k, v in settings.items()}
    return out | ({"shape": tuple(min(n, 32) for n in out["shape"])} if "shape" in out else {})


def jobs(names: list[str] | None, dry: bool, sizes: list[str] | None = None) -> Iterator[tuple[Case, str]]:
    """The requested cases and sizes."""
    for case in CASES:
        if names is None or case.name in names:
            case = replace(case, sizes={k: tiny(s) if dry else s for k, s in case.sizes.items()})
            yield from ((case, label) for label in case.sizes if sizes is None or label in sizes)


def prepare(
    folder: Path, index: int, threads: int, names: list[str] | None, dry: bool, sizes: list[str] | None = None
) -> str:
    """Make the data of a job and store them; returns the error, if any."""
    import torch

    torch.set_num_threads(threads)
    case, label = list(jobs(names, dry, sizes))[index]
    home = folder / f"{case.name}_{label}"
    home.mkdir(parents=True, exist_ok=True)
    try:
        data, settings = case.data(case.sizes[label], home)
    except Exception as e:
        return f"{home.name}: {type(e).__name__}: {e}"
    for name, a in data.items():
        np.save(home / f"{name}.npy", a)
    (home / "settings.json").write_text(json.dumps({**settings, "folder": str(home)}))
    return ""


def loaded(home: Path) -> tuple[Data, dict[str, Any]]:
    """The data stored by `prepare`."""
    data = {p.stem: np.load(p) for p in sorted(home.glob("*.npy")) if p.stem != "truth" or p.stat().st_size}
    return data, settings_of(home)


def settings_of(home: Path) -> dict[str, Any]:
    """The size of a case, and the other settings of its data."""
    settings: dict[str, Any] = json.loads((home / "settings.json").read_text())
    return settings


def measured(case: Case, label: str, home: Path, device: Any, deadline: float, log: Path | None) -> dict[str, Any]:
    """One record; see `case.record`."""
    from device import about, forget, held, host, placed, share, times

    data, settings = loaded(home)
    settings["device"] = str(device)
    rows: dict[str, dict[str, Any]] = {}
    for who in ("ours", *case.peers):
        if time.monotonic() > deadline and who != "ours":
            rows[who] = {"why_not": "left out: the time of this run was over"}
            continue
        if (label, who) in case.slow:
            rows[who] = {"why_not": case.slow[label, who]}
            continue
        forget(device)
        try:
            module, function = (case.module, case.function) if who == "ours" else (f"peers.{who}", case.task)
            here = placed(data, device, "cupy" if who == "sigpy" else "torch")
            run = getattr(importlib.import_module(module), function)(here, settings)
            seconds, result = times(run, device, 2 * PATIENCE if who == "ours" else PATIENCE)
            row: dict[str, Any] = {"s": statistics.median(seconds), "runs": len(seconds), "MiB": held(device)}
            row["error"] = float(f"{case.error(data, settings, host(result), getattr(run, 'witness', None)):.4g}")
            if who == "ours":
                row |= share(run, device, log, f"{case.name} {label}")
                row |= getattr(run, "figures", {})
            del run, here, result
        except Exception as e:
            said = next(iter(str(e).strip().splitlines()), "")
            row = {"why_not": f"{type(e).__name__}: {said}"[:300]}
        rows[who] = row
    size = {k: v for k, v in case.sizes[label].items() if isinstance(v, (int, str, list, tuple, float))}
    made = record(case, label, size, rows, about(device)["versions"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    made |= {"commit": commit.stdout.strip()} if commit.returncode == 0 else {}
    made |= {"device": device.type, "target_s": TARGETS.get((case.name, label)), "date": str(date.today())}
    return made | {"card": about(device)["card"], "runs": rows["ours"].get("runs")}


def traffic(label: str, home: Path, device: Any, rate: float) -> dict[str, Any]:
    """The SENSE normal operator without Python, in a graph, beside the time of the memory traffic that it needs."""
    from cases import cartesian
    from device import forget, placed, replayed

    forget(device)
    here = placed(loaded(home)[0], device, "torch")
    least = sum(here[k].numel() * here[k].element_size() for k in ("maps", "image", "image"))
    count = ROTATED if least < SMALL else 1
    runs = []
    for _ in range(count):
        own = {k: v.clone() for k, v in here.items()}
        normal = cartesian.sense_of(own)[0].normal()
        runs.append(lambda normal=normal, x=own["image"]: normal(x))
    s = replayed(runs, device)
    floor = least / rate
    return {"graph_s": s, "least_bytes": least, "floor_s": floor, "over_floor": round(s / floor, 3)}


def tuned(label: str, home: Path, device: Any, rate: float) -> Iterator[str]:
    """The normal operator of planes with strips of 4, 8 and 16 columns, and with more and fewer blocks per launch."""
    from unittest.mock import patch

    from recon.kernels import bridge, fourier, launch

    found = fourier.compiled(loaded(home)[0]["maps"].shape[-2])
    for shift in (2, 3, 4) if found else ():
        threads = -(-(found.n // found.radices[0] << shift) // 32) * 32
        made = replace(found, shift=shift, threads=threads)
        if made.shared > bridge.SHARED or threads > 1024:
            continue
        for blocks in (350, 700, 1500):
            with patch.object(fourier, "compiled", lambda n, c=made: c), patch.object(launch, "PLANNED_BLOCKS", blocks):
                r = traffic(label, home, device, rate)
            text = f"{label:14} {made.width:2d} columns, {blocks:4d} blocks wanted"
            yield f"{text} {r['graph_s'] * 1e3:.4f} ms = {r['over_floor']:.2f}× traffic"


def line(r: dict[str, Any]) -> str:
    """A record as one line."""
    text = f"{r['case']:14} {r['size']['name']:14}"
    if r["ours_s"] is None:
        return f"{text} FAILED {r['why_not'][:150]}"
    text += f" {r['ours_s'] * 1e3:9.3f} ms err {r['ours_error']:.2e} {r['ours_MiB'] or 0:6d} MiB"
    if "over_floor" in r:
        text += f" graph {r['graph_s'] * 1e3:.4f} ms = {r['over_floor']:.2f}× traffic"
    if "profiled_s" in r:
        parts = (f"{k[:-2]} {r[k] * 1e3:.2f}" for k in ("compute_s", "to_gpu_s", "from_gpu_s", "idle_s"))
        text += f" [{', '.join(parts)} of {r['profiled_s'] * 1e3:.2f}]"
    if r["target_s"]:
        text += f" target {r['target_s'] * 1e3:.0f} ms"
    for who, p in r["peers"].items():
        said = p.get("why_not", "")[:70] or f"{p['s'] / r['ours_s']:.1f}× err {p['error']:.1e} {p['MiB'] or 0} MiB"
        text += f" | {who} {said}"
    return text


def store(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the records, replacing those of the same case, size and commit; others in the file stay."""
    kept = json.loads(path.read_text()) if path.exists() else []
    made = {(r["case"], r["size"]["name"], r.get("commit")): r for r in [*kept, *records]}
    path.write_text(json.dumps(list(made.values()), indent=1) + "\n")


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the records here")
    parser.add_argument("--prepare", type=Path, help="make data and answers on the CPU, and no more")
    parser.add_argument("--data", type=Path, help="take what --prepare made")
    parser.add_argument("--case", action="append", help="this case alone; may be given again")
    parser.add_argument("--size", action="append", help="this size alone; may be given again")
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument("--log", type=Path, help="write the longest kernels of each case here")
    parser.add_argument("--time", type=float, default=TIME, help="seconds after which no further peer is measured")
    parser.add_argument("--tune", action="store_true", help="time the normal operator by other strips and groups alone")
    parser.add_argument("--dry", action="store_true", help="tiny problems on the CPU")
    options = parser.parse_args()
    if options.tune:
        options.case = ["sense_normal"]
    asked = list(jobs(options.case, options.dry, options.size))
    if not options.dry and not options.prepare and (why := no_gpu()):
        raise SystemExit(f"{why}; --dry runs tiny problems on the CPU, --prepare FOLDER makes the data without a GPU")
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as scratch:
        folder = options.prepare or options.data or Path(scratch)
        if options.prepare or not options.data:
            prepare_all(folder, len(asked), options)
        if not options.prepare:
            measure_all(folder, asked, options)


def no_gpu() -> str:
    """Why nothing can be measured here; empty if it can."""
    import torch

    from recon.kernels import bridge

    return bridge.missing() if torch.cuda.is_available() else "torch finds no CUDA GPU here"


def prepare_all(folder: Path, count: int, options: argparse.Namespace) -> None:
    """The data of every job, some at a time."""
    workers = 2 if options.dry else 5
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        given = [(folder, i, 4, options.case, options.dry, options.size) for i in range(count)]
        for n, said in enumerate(pool.map(prepare, *zip(*given))):
            print(said or f"made {n + 1} of {count}", flush=True)


def measure_all(folder: Path, asked: list[tuple[Case, str]], options: argparse.Namespace) -> None:
    """Every job, printed and stored one by one."""
    import torch
    from device import bandwidth

    device = torch.device("cpu" if options.dry else "cuda")
    rate = bandwidth(device, 1 << 20 if options.dry else 4 << 30)
    print(f"copy bandwidth {rate / 1e9:.0f} GB/s", flush=True)
    deadline, records = time.monotonic() + options.time, []
    for case, label in asked:
        home = folder / f"{case.name}_{label}"
        if options.tune:
            if settings_of(home)["shape"][0] == 1:
                for text in tuned(label, home, device, rate):
                    print(text, flush=True)
            continue
        case = replace(case, peers=()) if options.alone else case
        try:
            made = measured(case, label, home, device, deadline, options.log)
        except Exception as e:  # not even its data exist
            print(f"{case.name:14} {label:14} FAILED {type(e).__name__}: {e}", flush=True)
            continue
        made["copy_bytes_per_s"] = round(rate)
        if case.name == "sense_normal":
            try:
                made |= traffic(label, home, device, rate)
            except Exception as e:
                made["why_no_graph"] = f"{type(e).__name__}: {e}"[:300]
                print(made["why_no_graph"], flush=True)
        records.append(made)
        print(line(made), flush=True)
        if options.json:
            store(options.json, records)


if __name__ == "__main__":
    main()
