"""What a sweep leaves: `best/` with everything to ship, and only the checkpoints that are worth keeping."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.errors import ExportError
from rechub_ray.export.onnx import export_onnx
from rechub_ray.files import write_text
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.tune.ledger import Ledger, Record
from rechub_ray.runtime.tune.sweep import CheckedSweep
from rechub_ray.runtime.tune.trial import EARLIER_BEST, best_of


@dataclasses.dataclass(frozen=True)
class Best:
    """The winner: its record, its checkpoint in `best/`, and its ONNX file if it is exported."""

    record: Record
    checkpoint: str
    onnx: str | None


def make_best(checked: CheckedSweep, ledger: Ledger) -> Best:
    """Fills `best/` anew: config.yaml, checkpoint/, metrics.json, and model.onnx with its parity report."""
    directory = checked.sweep.directory()
    record, path = _winner(checked, ledger)
    new, final = Path(directory, ".best"), Path(directory, "best")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(path, new / "checkpoint")
    _fill_test(checked, record, str(new / "checkpoint"))
    ledger.write()
    checkpoint = read(new / "checkpoint")
    (new / "config.yaml").write_text(config_module.dump(checkpoint.config), encoding="utf-8")
    metrics = {key: record[key] for key in ("trial_id", "params", "seed", "score", "metrics", "test_metrics")}
    (new / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    onnx = None
    if checked.job.config.export.onnx:
        export_onnx(new / "checkpoint", new / "model.onnx", probabilities=checked.job.config.export.probabilities)
        onnx = str(final / "model.onnx")
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)
    return Best(record=record, checkpoint=str(final / "checkpoint"), onnx=onnx)


def _winner(checked: CheckedSweep, ledger: Ledger) -> tuple[Record, str]:
    """The best trial of the best point, with its best checkpoint."""
    for group in ledger.ranking():
        for record in group:
            found = best_of(str(ledger.trials / record["trial_id"]), checked.metric, checked.mode)
            if found is not None:
                return record, found[0]
    raise ExportError("no trial of the sweep left a checkpoint")


def _fill_test(checked: CheckedSweep, record: Record, checkpoint: str) -> None:
    """Test metrics of a trial that was stopped before it measured them."""
    if not record["test_metrics"] and checked.job.test is not None:
        record["test_metrics"] = evaluate(checkpoint, split="test")


def prune(checked: CheckedSweep, ledger: Ledger) -> None:
    """Exports what is kept, and deletes the checkpoints of the rest."""
    ranking = ledger.ranking()
    keep = len(ranking) if checked.sweep.keep is None else checked.sweep.keep
    kept = [record for group in ranking[:keep] for record in group]
    for record in kept:
        directory = ledger.trials / record["trial_id"]
        found = best_of(str(directory), checked.metric, checked.mode)
        if found is None:
            continue
        _fill_test(checked, record, found[0])
        _export(checked, record, found[0], directory)
    ledger.write()
    names = {record["trial_id"] for record in kept}
    for record in ledger:
        if record["trial_id"] not in names and record["status"] != "pending":
            directory = ledger.trials / record["trial_id"]
            shutil.rmtree(Store(str(directory)).location, ignore_errors=True)
            shutil.rmtree(directory / EARLIER_BEST, ignore_errors=True)


def _export(checked: CheckedSweep, record: Record, checkpoint: str, directory: Path) -> None:
    target = directory / "model.onnx"
    won = Path(checked.sweep.directory(), "best")
    if json.loads((won / "metrics.json").read_text())["trial_id"] == record["trial_id"] and (won / "model.onnx").exists():
        for file in won.glob("model.onnx*"):
            shutil.copy2(file, directory / file.name)
    elif checked.job.config.export.onnx and not target.exists():
        try:
            export_onnx(checkpoint, target, probabilities=checked.job.config.export.probabilities)
        except ExportError as error:  # the winner's is made already; another trial's must not end the sweep
            write_text(f"{directory}/model.onnx.error.txt", str(error))
