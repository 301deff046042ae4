"""From `python train.py` to the first step, beside a bare TorchTrainer; what share of a whole run is not training."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from typing import Any

from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, ROWS, config, criteo_like, middle, run_training

BARE = "a bare TorchTrainer, 2 workers"
MODES = {"in process": (0, 2), "Ray, 2 workers": (2, 1)}


def run(settings: Settings) -> dict[str, Any]:
    """Short runs for the first step, one long run (with evaluations, checkpoints and export) for the shares."""
    rows = settings.pick(ROWS, 20 * BATCH)
    data = criteo_like(settings, rows=rows)
    first: dict[str, list[float]] = {}
    shares = {}
    short = {"train__log_every_steps": 1, "train__epochs": None, "train__steps": 2}
    for _ in range(settings.repeats):
        for mode in (*MODES, BARE):
            if mode == BARE:
                seconds = _bare(settings)
            else:
                workers, threads = MODES[mode]
                given = config(data, workers=workers, threads=threads, **short)
                seconds = run_training(settings, "startup", given).first_step_seconds
            first.setdefault(mode, []).append(seconds)
            print(f"  {mode}: first step after {seconds:.2f} s", file=sys.stderr, flush=True)
    for mode, (workers, threads) in MODES.items():
        whole = {"data__valid": "valid", "train__epochs": settings.pick(5, 1), "export__onnx": True}
        done = run_training(settings, "whole", config(data, workers=workers, threads=threads, **whole))
        shares[mode] = {**done.details["seconds"], "process": done.process.seconds, "rows": done.details["rows"]}
        print(f"  {mode}: {done.process.seconds:.1f} s in all", file=sys.stderr, flush=True)
    return {"first_step_seconds": {mode: middle(values) for mode, values in first.items()}, "whole": shares}


def _bare(settings: Settings) -> float:
    """Return the seconds from the start of the process to its step."""
    log = settings.work / "bare.txt"
    with tempfile.TemporaryDirectory() as folder:
        done = run_process([sys.executable, "-m", "benchmarks.bare_trainer", folder], log=log)
    last = next(line for line in reversed(log.read_text().splitlines()) if line.startswith("{"))
    log.unlink()
    return float(json.loads(last)["time"]) - done.started


def table(result: dict[str, Any]) -> str:
    lines = ["| | `python train.py` to the first step, s, median (range) |", "|---|---|"]
    for mode, value in result["first_step_seconds"].items():
        lines.append(f"| {mode} | {value['median']:.2f} ({value['low']:.2f} - {value['high']:.2f}) |")
    ours, bare = (result["first_step_seconds"][mode]["values"] for mode in ("Ray, 2 workers", BARE))
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    lines += ["", f"Ours on 2 workers takes {ratio:.2f} of the bare one's seconds: the median of each round's own."]
    purposes = ["train", "data", "evaluate", "save"]
    lines += [
        "",
        "| one run, s | rows | all | training | waiting for data | evaluation | saving | start, export, end |",
    ]
    lines[-1] += " not training |"
    lines.append("|---" * 9 + "|")
    for mode, seconds in result["whole"].items():
        whole = seconds["process"]
        rest = whole - sum(seconds[purpose] for purpose in purposes)
        cells = [f"{seconds['rows']:,}", f"{whole:.1f}", *(f"{seconds[p]:.1f}" for p in purposes), f"{rest:.1f}"]
        lines.append(f"| {mode} | {' | '.join(cells)} | {1 - seconds['train'] / whole:.0%} |")
    return "\n".join(lines)
