"""Every published model of Frappe_x1 that is here: mean test AUC over three seeds beside the published one.

Every finished run is written into `quality_frappe.json` under `--work`: after an interruption the same command goes on.
`python -m benchmarks.quality_frappe DIR` prints the table of those that DIR has.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import zlib
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import finished
from benchmarks.frappe import SEEDS, prepared
from benchmarks.published import MODELS, NOT_HERE, path
from benchmarks.settings import ROOT, Settings
from benchmarks.workload import run_training
from rechub_ray.config import merge, read_yaml
from rechub_ray.models import MODELS as REGISTRY
from rechub_ray.schema import Schema

AT_ONCE = 2  # runs at the same time, of one thread each
CLOSE = 0.0015
CLOSE_OF = {"lr": 0.0005}


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet, every model's first seed first; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with frappe/train.csv, valid.csv and test.csv"}
    seeds = SEEDS[: settings.pick(len(SEEDS), 1)]
    cells = {
        cell(name, seed, quick=settings.quick): functools.partial(one, settings, data, name, seed)
        for seed in seeds
        for name in MODELS
    }
    return {"cells": finished(kept(settings.work), {}, cells, at_once=AT_ONCE)}


def kept(work: Path) -> Path:
    """The file of the finished runs."""
    return work / "quality_frappe.json"


def config(name: str, *, quick: bool) -> dict[str, Any]:
    """A configuration of `published.MODELS`; quick: for one epoch."""
    given = read_yaml(path(name))
    return merge(given, {"train.epochs": 1}) if quick else given


def cell(name: str, seed: int, *, quick: bool = False) -> str:
    """The name of a run; it changes with the configuration, so that one model can be mended without the others."""
    content = json.dumps(config(name, quick=quick), sort_keys=True)
    return f"{name} {seed} {zlib.crc32(content.encode()):08x}"


def one(settings: Settings, data: Path, name: str, seed: int) -> dict[str, Any]:
    """The figures of one run; no seconds where it was interrupted."""
    given = merge(
        config(name, quick=settings.quick),
        {
            "seed": seed,
            "data.root": str(data),
            "train.threads": 1,
            "train.initial_evaluation": False,
            "trackers": ["jsonl"],
            "scaling.num_workers": 0,
            "export.onnx": False,
        },
    )
    with torch.device("meta"):
        model = REGISTRY.build(given["model"], Schema.load(data / "schema.json"), where="model")
    done = run_training(settings, f"quality-{name}-{seed}", given, go_on=True)
    return {
        "test_auc": done.test_metrics["auc"],
        "test_log_loss": done.test_metrics["log_loss"],
        "valid_auc": done.metrics["auc"],
        "epochs": done.details["epochs"],
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": None if done.went_on else done.process.cpu_seconds,
    }


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    lines = [
        "| model | configuration | seeds | test AUC, mean (spread) | published: best (mean of 5) | ours - best "
        "| test log loss (published) | valid AUC (published) | epochs (published) | parameters (published) "
        "| CPU seconds a run |",
        "|---" * 11 + "|",
    ]
    runs: dict[str, list[dict[str, float]]] = {}
    for key, found in result["cells"].items():
        runs.setdefault(key.split()[0], []).append(found)
    far = []
    for name in sorted(runs, key=lambda name: MODELS[name].auc):
        known, found = MODELS[name], runs[name]
        mean = {key: statistics.fmean(cell[key] for cell in found) for key in found[0] if key != "seconds"}
        aucs = [cell["test_auc"] for cell in found]
        spread = f" ({max(aucs) - min(aucs):.4f})" if len(aucs) > 1 else ""
        difference = mean["test_auc"] - known.auc
        if abs(difference) > CLOSE_OF.get(name, CLOSE):
            far.append(f"{known.title} ({difference:+.4f}{'. ' + known.note.rstrip('.') if known.note else ''})")
        lines.append(
            f"| {known.title} | {path(name).relative_to(ROOT)} | {len(found)} "
            f"| {mean['test_auc']:.6f}{spread} | {known.auc:.6f}"
            + (f" ({known.mean:.6f})" if known.mean is not None else "")
            + f" | {difference:+.4f} | {mean['test_log_loss']:.4f} ({known.log_loss:.4f}) "
            f"| {mean['valid_auc']:.4f} ({known.valid_auc:.4f}) | {mean['epochs']:.0f} ({known.trained}) "
            f"| {mean['parameters']:,.0f} ({known.parameters:,}) "
            + (f"| {statistics.fmean(seconds):.0f} |" if (seconds := _seconds(found)) else "| |")
        )
    tail = (
        f"Further than {CLOSE} from the published best run (LR: {CLOSE_OF['lr']}): {', '.join(far) or 'none'}. "
        f"Of the published table, not here: {', '.join(NOT_HERE)}."
    )
    return "\n".join(lines) + "\n\n" + tail


def _seconds(runs: list[dict[str, float]]) -> list[float]:
    """Return the CPU seconds of those runs of which they are known."""
    return [run["seconds"] for run in runs if run["seconds"] is not None]


def main() -> None:
    content = json.loads(kept(Path(sys.argv[1])).read_text())["cells"]
    current = [cell(name, seed) for seed in SEEDS for name in MODELS]
    print(table({"cells": {key: content[key] for key in current if key in content}}))


if __name__ == "__main__":
    main()
