"""torch-rechub's trainer, ours from parquet, and the dense layers alone, one after the other on the same cores."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, IDS, ROWS, config, criteo_like, middle, run_training

# name: Ray Train workers, torch threads of each
OURS = {"in process": (0, 2), "Ray, 1 worker x 2 threads": (1, 2), "Ray, 2 workers x 1 thread": (2, 1)}
# name: processes, threads of each
LIMITS = {"1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1)}
LIMIT_OF = dict(zip(OURS, ["1 process x 2 threads", "1 process x 2 threads", "2 processes x 1 thread"], strict=True))
READY, OWN = "whole batches handed to it", "its own DataGenerator"
PINNED = "0.9.0"


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of every side, `repeats` times in turn."""
    rows = settings.pick(ROWS, 40 * BATCH)
    data = criteo_like(settings, rows=rows)
    speeds: dict[str, dict[str, list[float]]] = {"torch-rechub": {}, "ours": {}, "ours, whole run": {}, "limit": {}}
    skipped = _missing_torch_rechub()
    for number in range(settings.repeats):
        if skipped is None:
            for loader, name, steps in (("ready", READY, 150), ("own", OWN, 60)):
                steps, warm_up = settings.pick(steps, 8), settings.pick(10, 2)
                command = ["benchmarks.torch_rechub_side", str(data), "--loader", loader, "--threads", "2"]
                command += ["--steps", str(steps), "--warm-up", str(warm_up)]
                _note(speeds, "torch-rechub", name, number, lambda: _answer(settings, command))
        for name, (workers, threads) in OURS.items():
            epochs, log = settings.pick(3, 2), settings.pick(50, 10)
            given = config(data, workers=workers, threads=threads, train__epochs=epochs, train__log_every_steps=log)
            done = run_training(settings, "compare", given)
            _note(speeds, "ours", name, number, lambda: done.steady)
            speeds["ours, whole run"].setdefault(name, []).append(done.whole)
        for name, (processes, threads) in LIMITS.items():
            command = ["benchmarks.limit", "--processes", str(processes), "--threads", str(threads)]
            command += ["--batch", str(BATCH // processes), "--seconds", str(settings.pick(15, 2))]
            _note(speeds, "limit", name, number, lambda: _answer(settings, command))
    sides = {side: {name: middle(values) for name, values in of.items()} for side, of in speeds.items()}
    return {"rows": rows, "ids": IDS, "batch": BATCH, "sides": sides, "skipped": skipped}


def _missing_torch_rechub() -> str | None:
    if importlib.util.find_spec("torch_rechub") is None:
        return f"torch-rechub is not installed (pip install torch-rechub=={PINNED})"
    found = importlib.metadata.version("torch-rechub")
    return None if found == PINNED else f"torch-rechub {found} is installed, the comparison is with {PINNED}"


def _answer(settings: Settings, command: list[str]) -> float:
    log = settings.work / "side.txt"
    run_process([sys.executable, "-m", *command], log=log)
    last = next(line for line in reversed(log.read_text(errors="replace").splitlines()) if line.startswith("{"))
    log.unlink()
    return float(json.loads(last)["rows_per_second"])


def _note(
    speeds: dict[str, dict[str, list[float]]], side: str, name: str, number: int, measure: Callable[[], float]
) -> None:
    value = measure()
    speeds[side].setdefault(name, []).append(value)
    line = f"  {number + 1}. {side}, {name}: {value:,.0f} rows/s (load {os.getloadavg()[0]:.1f})"
    print(line, file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    sides = result["sides"]
    other = sides["torch-rechub"].get(READY)
    lines = ["| | rows/s, median (range) | x torch-rechub | of the limit | whole run, rows/s |", "|---|---|---|---|---|"]
    for name, speed in sides["torch-rechub"].items():
        lines.append(f"| torch-rechub {PINNED}, {name} | {_speed(speed)} | {_ratio(speed, other)} | | |")
    for name, speed in sides["ours"].items():
        limit, whole = sides["limit"][LIMIT_OF[name]], sides["ours, whole run"][name]
        share = f"{speed['median'] / limit['median']:.2f}"
        lines.append(f"| ours, {name} | {_speed(speed)} | {_ratio(speed, other)} | {share} | {whole['median']:,.0f} |")
    for name, speed in sides["limit"].items():
        lines.append(f"| the dense layers alone, {name} | {_speed(speed)} | {_ratio(speed, other)} | 1 | |")
    head = f"{result['rows']:,} rows, {result['ids']:,} ids, {result['batch']:,} rows a step"
    skipped = f"\n\ntorch-rechub was left out: {result['skipped']}." if result["skipped"] else ""
    return f"{head}.\n\n" + "\n".join(lines) + skipped


def _speed(speed: dict[str, Any]) -> str:
    return f"{speed['median']:,.0f} ({speed['low']:,.0f} - {speed['high']:,.0f})"


def _ratio(speed: dict[str, Any], other: dict[str, Any] | None) -> str:
    return "" if other is None else f"{speed['median'] / other['median']:.1f}"
