"""The results of a sweep: `best/` with everything to ship, and only the checkpoints that are worth keeping."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, load_model, read
from rechub_ray.errors import ExportError
from rechub_ray.models.base import Model
from rechub_ray.reports.kit import label
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.predictor import RawPredictions
from rechub_ray.runtime.same_encoding import keep_transforms
from rechub_ray.sweeps.exports import copy_exports, export_trial, exported
from rechub_ray.sweeps.ledger import Ledger, Record
from rechub_ray.sweeps.objectives import SIZES, Objective, values_of
from rechub_ray.sweeps.refit import Refit
from rechub_ray.sweeps.sweep import CheckedSweep
from rechub_ray.sweeps.trial import DONOR, EARLIER_BEST, best_of


@dataclasses.dataclass(frozen=True)
class Best:
    """The winner: its record, its checkpoint in `best/`, and its ONNX file if it is exported."""

    record: Record
    checkpoint: str
    onnx: str | None


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What `tune` returns.

    Args:
        directory: the sweep's folder.
        metric: the metric of the score.
        is_finished: whether every trial is done.
        best: the best trial's record; with several objectives by the first one.
        objectives: all that was compared.
        front: records of the trials that no other one beats; empty with one objective.
        trials: records of all trials.
        best_checkpoint: path that `evaluate`, `predict` and `export` take.
        onnx: the best model's file, if it is exported.
        refit: the winner trained again on train + validation, where the sweep asks for it.
    """

    directory: str
    metric: str
    is_finished: bool
    best: Record
    objectives: tuple[Objective, ...]
    front: list[Record]
    trials: list[Record]
    best_checkpoint: str
    onnx: str | None
    refit: Refit | None

    @property
    def grid(self) -> Any:
        """All trials as Ray Tune's ResultGrid."""
        from rechub_ray.sweeps.result_grid import SweepGrid

        return SweepGrid(self.directory)

    @property
    def model(self) -> Model:
        """The best model, in evaluation mode on the CPU; its `predict` takes raw values."""
        model = load_model(self.best_checkpoint)
        model.predictor = RawPredictions(self.best_checkpoint)
        return model


def make_best(checked: CheckedSweep, ledger: Ledger) -> Best:
    """Replace `best/` and its files: config.yaml, checkpoint/, metrics.json, and what is exported."""
    directory = checked.sweep.directory()
    record, path = _winner(checked, ledger)
    new, final = Path(directory, ".best"), Path(directory, "best")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(path, new / "checkpoint")
    _fill_test(checked, record, str(new / "checkpoint"))
    ledger.write()
    checkpoint = read(new / "checkpoint")
    (new / "config.yaml").write_text(config_module.dump(checkpoint.config), encoding="utf-8")
    keep_transforms(checkpoint.config, str(new))
    metrics = {key: record[key] for key in ("trial_id", "best_params", "seed", "score", "metrics", "test_metrics")}
    values = values_of(record, checked.objectives) or []
    metrics["objectives"] = {o.metric: value for o, value in zip(checked.objectives, values, strict=True)}
    (new / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    _export(checked, ledger, record)
    copy_exports(ledger.trials / record["trial_id"], new)
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
    onnx = exported(final)
    return Best(record=record, checkpoint=str(final / "checkpoint"), onnx=onnx and str(final / onnx))


def _winner(checked: CheckedSweep, ledger: Ledger) -> tuple[Record, str]:
    """Return the best trial of the best point, with its best checkpoint."""
    for group in ledger.ranking():
        for record in group:
            found = best_of(str(ledger.trials / record["trial_id"]), checked.metric, checked.mode)
            if found is not None:
                return record, found[0]
    raise ExportError("no trial of the sweep left a checkpoint")


def _fill_test(checked: CheckedSweep, record: Record, checkpoint: str) -> None:
    """Measure the test metrics of a trial that was stopped before it did."""
    if not record["test_metrics"] and checked.job.test is not None:
        record["test_metrics"] = evaluate(checkpoint, split="test")


def _export(checked: CheckedSweep, ledger: Ledger, record: Record) -> None:
    """Export a trial that was stopped before it made its own ONNX file."""
    settings, directory = checked.job.config.export, ledger.trials / record["trial_id"]
    found = best_of(str(directory), checked.metric, checked.mode)
    if settings.onnx and record.get("onnx") is None and found is not None:
        record["onnx"] = export_trial(found[0], directory, probabilities=settings.probabilities)
        ledger.write()


def export_stopped(checked: CheckedSweep, ledger: Ledger, say: Callable[[str], None]) -> None:
    """Export all trials that were stopped before they made their own ONNX files.

    Args:
        checked: the sweep.
        ledger: its records.
        say: takes lines on the progress.
    """
    left = [r for r in ledger if r["score"] is not None and r.get("onnx") is None]
    if left and checked.job.config.export.onnx:
        say(f"ONNX of {len(left)} trials that were stopped, about {len(left)} s")
        for record in left:
            _export(checked, ledger, record)


def prune(checked: CheckedSweep, ledger: Ledger) -> None:
    """Test the trials that are kept, and delete the checkpoints of the rest."""
    ranking = ledger.ranking()
    keep = len(ranking) if checked.sweep.keep is None else max(checked.sweep.keep, len(ledger.front()))
    kept = [record for group in ranking[:keep] for record in group]
    for record in kept:
        found = best_of(str(ledger.trials / record["trial_id"]), checked.metric, checked.mode)
        if found is not None:
            _fill_test(checked, record, found[0])
    ledger.write()
    names = {record["trial_id"] for record in kept}
    for record in ledger:
        if record["trial_id"] not in names and record["status"] != "pending" and not record["goes_on"]:
            directory = ledger.trials / record["trial_id"]
            shutil.rmtree(Store(str(directory)).location, ignore_errors=True)
            shutil.rmtree(directory / EARLIER_BEST, ignore_errors=True)
            shutil.rmtree(directory / DONOR, ignore_errors=True)


def print_sweep(result: SweepResult, *, rows: int = 8) -> None:
    """Print the best trials as a table, how the rest ended, and where everything is.

    Args:
        result: the sweep's result.
        rows: trials in the table; with several objectives it is the front, whole.
    """
    best, names = result.best, [objective.metric for objective in result.objectives]
    scored = [r for r in result.trials if r["score"] is not None and r["trial_id"] != best["trial_id"]]
    scored.sort(key=lambda r: abs(r["score"] - best["score"]))
    paths = list(dict.fromkeys(path for r in result.trials for path in r["params"]))
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *names, "epochs", "status", *paths):
        table.add_column(name, justify="right" if name in (*names, "epochs") else "left", overflow="fold")
    for r in result.front or [best, *scored][:rows]:
        values = [f"{v:,.0f}" if o.metric in SIZES else f"{v:.6f}"
                  for o, v in zip(result.objectives, values_of(r, result.objectives) or [], strict=True)]  # fmt: skip
        settings = [label(r["best_params"][path]) if path in r["best_params"] else "" for path in paths]
        table.add_row(r["trial_id"], *values, f"{r['epochs']:g}", r["status"], *settings)
    console = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 1000)
    if result.front:
        console.print(f"the front: {len(result.front)} trials that no other one beats in {' and '.join(names)}\n")
    console.print(table)
    statuses = [r["status"] for r in result.trials]
    console.print("\n" + ", ".join(f"{statuses.count(s)} {s.replace('_', ' ')}" for s in dict.fromkeys(statuses)))
    for r in result.trials:
        if r["status"] == "failed":
            console.print(f"{r['trial_id']} failed: {r['reason']}")
    exported = [r for r in result.trials if r.get("onnx")]
    worst = max((r["onnx"]["max_abs_difference"] for r in exported if "error" not in r["onnx"]), default=None)
    if worst is not None:
        count = sum("error" not in r["onnx"] for r in exported)
        console.print(f"{count} trials as ONNX, largest difference from PyTorch {worst:.2g}")
    for r in exported:
        if "error" in r["onnx"]:
            console.print(f"{r['trial_id']} has no ONNX: {r['onnx']['error']}")
    _print_test(result, console)
    by = f", the best by {result.metric}, the first objective" if result.front else ""
    console.print(f"best model  {Path(result.best_checkpoint).parent}{by}")
    if result.refit is not None and result.refit.checkpoint is not None:
        console.print(f"refit       {Path(result.refit.checkpoint).parent}")
    if not result.is_finished:
        console.print(f"interrupted: rechub-ray tune --resume {result.directory}")


def _print_test(result: SweepResult, console: Console) -> None:
    """Print the test split's metrics of the best trial, and of the same configuration trained again."""
    refit, own = result.refit, result.best["test_metrics"]
    if refit is not None and refit.error is not None:
        console.print(f"refit: {refit.error}")
    if not own:
        return
    table = Table(box=None, pad_edge=False)
    columns = {result.best["trial_id"]: own}
    if refit is not None and refit.test_metrics:
        columns["refit"] = refit.test_metrics
    for name in ("test split", *columns):
        table.add_column(name, justify="left" if name == "test split" else "right")
    for key in own:
        table.add_row(key, *(f"{c[key]:,}" if isinstance(c[key], int) else f"{c[key]:.6f}" for c in columns.values()))
    console.print()
    console.print(table)
    console.print()
