"""The load that all sides share: rows like Criteo's, one DeepFM, and one run of it as a process."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.process import Finished, run_process
from benchmarks.settings import ROOT, Settings
from rechub_ray.config import merge
from rechub_ray.data.synthetic import write_criteo_like
from rechub_ray.tracking import read_history

ROWS = 1_048_576
IDS = 1_400_000
BATCH = 4096
DIM = 16
HIDDEN = (256, 128)
# torch-rechub's MLP always normalises its layers, so every side does
BATCH_NORM = True


def criteo_like(settings: Settings, *, rows: int, ids: int = IDS) -> Path:
    """The folder of a generated data set; written where it is not there yet."""
    folder = settings.work / f"criteo-{rows}-{ids}"
    if not (folder / "schema.json").exists():
        need = rows * 220  # bytes a row in parquet, validation included, and some to spare
        free = shutil.disk_usage(settings.work).free
        if free < need + 2**30:
            raise SystemExit(f"{settings.work}: {rows:,} rows need {need / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
        shutil.rmtree(folder, ignore_errors=True)
        print(f"  writing {rows:,} rows, {ids:,} ids ...", file=sys.stderr, flush=True)
        write_criteo_like(folder, rows=rows, ids_total=ids)
    return folder


def config(data: Path, *, workers: int, threads: int, **changes: Any) -> dict[str, Any]:
    """A run on the data, without evaluation and export.

    Args:
        data: from `criteo_like`. workers: Ray Train workers; 0 for in this process. threads: torch threads of each.
        changes: values by their dotted path, with `__` for the dot.
    """
    base: dict[str, Any] = {
        "name": "bench",
        "data": {"root": str(data), "valid": None, "test": None, "batch_size": BATCH // max(workers, 1)},
        "model": {"name": "deepfm", "embedding_dim": DIM, "hidden_units": list(HIDDEN), "batch_norm": BATCH_NORM},
        "optimizers": [
            {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.02},
            {"name": "adam", "lr": 1e-3},
        ],
        "train": {"epochs": 1, "threads": threads, "initial_evaluation": False},
        "trackers": ["jsonl"],
        "scaling": {"num_workers": workers},
        "export": {"onnx": False},
    }
    return merge(base, {key.replace("__", "."): value for key, value in changes.items()})


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of train.py.

    Args:
        process: what the process took. history: lines of metrics.jsonl. details: of result.json.
        metrics, test_metrics: of result.json.
        went_on: an earlier process had begun it, and `process` is of the rest alone.
    """

    process: Finished
    history: list[dict[str, float]]
    details: dict[str, Any]
    metrics: dict[str, float]
    test_metrics: dict[str, float]
    went_on: bool = False

    @property
    def steady(self) -> float:
        """Rows a second over all log windows but the first: data, steps, log; no evaluation, no saving."""
        lines = [line for line in self.history if "rows_per_second" in line]
        rows = seconds = 0.0
        for before, line in itertools.pairwise(lines):
            rows += line["data/rows"] - before["data/rows"]
            seconds += (line["data/rows"] - before["data/rows"]) / line["rows_per_second"]
        if not seconds:
            raise SystemExit("the run has one log window only: too short to measure")
        return rows / seconds

    @property
    def whole(self) -> float:
        """Rows a second from the start of the process to its end."""
        return float(self.details["rows"]) / self.process.seconds

    @property
    def first_step_seconds(self) -> float:
        """From the start of the process until the first logged step was known."""
        return next(line["time"] for line in self.history if "rows_per_second" in line) - self.process.started


def run_training(
    settings: Settings, name: str, run_config: dict[str, Any], *, memory: bool = False, go_on: bool = False
) -> Run:
    """`python train.py CONFIG`, in a process of its own; its folder is deleted afterwards.

    Args:
        settings: where to work. name: for the folder. run_config: what to run.
        memory: watch the memory of every process of the run.
        go_on: from the last checkpoint of a run with this name and this configuration that was interrupted.
    """
    folder = settings.work / f"run-{name}"
    file, content = folder / "config.json", json.dumps(run_config)
    went_on = go_on and file.exists() and file.read_text() == content and any(folder.glob("model/checkpoints/step_*"))
    if not went_on:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file.write_text(content)
    command = [sys.executable, str(ROOT / "train.py"), str(file), "--model-dir", str(folder / "model")]
    process = run_process(command, log=folder / "log.txt", memory=memory)
    result = json.loads((folder / "model" / "result.json").read_text())
    history = read_history(folder / "model" / "metrics.jsonl")
    shutil.rmtree(folder)
    return Run(process, history, result["details"], result["metrics"], result["test_metrics"], went_on)


def middle(values: list[float]) -> dict[str, Any]:
    """Median, range and the single values."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "values": values}
