"""torch-rechub's trainer, ours from parquet, and the dense layers alone, one after the other on the same cores."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
from typing import Any

from benchmarks.limit import SIDES
from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, IDS, ROWS, config, criteo_like, middle, run_training

OTHER = "0.9.0"
READY, OWN = f"torch-rechub {OTHER}, whole batches handed to it", f"torch-rechub {OTHER}, its own DataGenerator"
# name: Ray Train workers, torch threads of each, precision
OURS = {
    "ours, in process, 2 threads": (0, 2, "float32"),
    "ours, Ray, 1 worker x 2 threads": (1, 2, "float32"),
    "ours, Ray, 2 workers x 1 thread": (2, 1, "float32"),
    "ours in bfloat16, in process, 2 threads": (0, 2, "bfloat16"),
    "ours in bfloat16, Ray, 1 worker x 2 threads": (1, 2, "bfloat16"),
    "ours in bfloat16, Ray, 2 workers x 1 thread": (2, 1, "bfloat16"),
}
# the limit's geometry: its processes, threads of each
GEOMETRIES = {"1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1)}
Speeds = dict[str, list[float]]


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of every side, all sides in turn, `repeats` times."""
    rows = settings.pick(ROWS, 40 * BATCH)
    data = criteo_like(settings, rows=rows)
    skipped = missing_torch_rechub()
    speeds: Speeds = {}
    whole: Speeds = {}
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        if skipped is None:
            for loader, name, steps in (("ready", READY, 150), ("own", OWN, 60)):
                command = ["torch_rechub_side", str(data), "--loader", loader, "--threads", "2"]
                command += ["--steps", str(settings.pick(steps, 8)), "--warm-up", str(settings.pick(10, 2))]
                note(speeds, name, answer(settings, command)["rows_per_second"])
        for name, (workers, threads, precision) in OURS.items():
            lengths = {"train__epochs": settings.pick(3, 2), "train__log_every_steps": settings.pick(50, 10)}
            given = config(data, workers=workers, threads=threads, train__precision=precision, **lengths)
            done = run_training(settings, "compare", given)
            note(speeds, name, done.steady)
            whole.setdefault(name, []).append(done.whole)
        for geometry, (processes, threads) in GEOMETRIES.items():
            command = ["limit", "--processes", str(processes), "--threads", str(threads)]
            command += ["--batch", str(BATCH // processes), "--seconds", str(settings.pick(15, 2))]
            for name, speed in answer(settings, command).items():
                note(speeds, f"{name}, {geometry}", speed)
    return {
        "rows": rows,
        "ids": IDS,
        "batch": BATCH,
        "speeds": {name: middle(values) for name, values in speeds.items()},
        "whole": {name: middle(values) for name, values in whole.items()},
        "skipped": skipped,
    }


def missing_torch_rechub() -> str | None:
    """Why its side cannot run; None where it can."""
    if importlib.util.find_spec("torch_rechub") is None:
        return f"torch-rechub is not installed (pip install torch-rechub=={OTHER})"
    found = importlib.metadata.version("torch-rechub")
    return None if found == OTHER else f"torch-rechub {found} is installed, the comparison is with {OTHER}"


def answer(settings: Settings, command: list[str], *, name: str = "side") -> dict[str, float]:
    """The figures that a side's process prints last; `name` tells processes apart that run at the same time."""
    log = settings.work / f"{name}.txt"
    run_process([sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]], log=log)
    last = next(line for line in reversed(log.read_text(errors="replace").splitlines()) if line.startswith("{"))
    log.unlink()
    return {name: float(value) for name, value in json.loads(last).items()}


def note(speeds: Speeds, name: str, value: float) -> None:
    speeds.setdefault(name, []).append(value)
    print(f"    {name}: {value:,.0f} rows/s (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    speeds = result["speeds"]
    others = [speeds.get(name) for name in (OWN, READY)]
    strict, *fair = SIDES  # fair: with the gradient that embeddings need, in the same precision
    lines = [
        "| | rows/s, median (range) | x torch-rechub, its loader | x torch-rechub, ready batches | of the dense layers "
        "| of them with input gradient, in the same precision | whole run, rows/s |",
        "|---" * 7 + "|",
    ]
    for name, speed in speeds.items():
        ratios = ["" if other is None else f"{ratio(speed, other):.1f}" for other in others]
        cells = [name, f"{speed['median']:,.0f} ({speed['low']:,.0f} - {speed['high']:,.0f})", *ratios, "", "", ""]
        if name in OURS:
            workers, _, precision = OURS[name]
            geometry = list(GEOMETRIES)[max(workers, 1) - 1]
            same = next(side for side in fair if SIDES[side][1] == precision)
            limits = [speeds[f"{side}, {geometry}"] for side in (strict, same)]
            cells[4:] = [*(f"{ratio(speed, limit):.2f}" for limit in limits)]
            cells.append(f"{result['whole'][name]['median']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"{result['rows']:,} rows, {result['ids']:,} ids, {result['batch']:,} rows a step over all workers. The dense "
        "layers alone are plain PyTorch, in float32 where nothing else is said. Ratios are medians of each round's own."
    )
    skipped = f"\n\ntorch-rechub was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped


def ratio(speed: dict[str, Any], other: dict[str, Any]) -> float:
    """Of the sides of one round, which ran within minutes: the machine's speed drifts from round to round."""
    return statistics.median(a / b for a, b in zip(speed["values"], other["values"], strict=True))
