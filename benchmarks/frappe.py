"""Published models on Frappe_x1: mean test AUC over three seeds beside the published one, in process and on Ray."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.settings import ROOT, Settings
from benchmarks.workload import run_training
from rechub_ray.config import merge, read_yaml

# configuration: published test AUC, mean of five runs and best of up to five (BARS, Frappe_x1)
PUBLISHED = {"deepfm_frappe": (0.983947, 0.984243), "dcn_v2_frappe": (0.983824, 0.984478)}
SEEDS = (2026, 2027, 2028)
MODES = {"in process": 0, "Ray, 2 workers": 2}


def source() -> Path | None:
    """The folder of Frappe's CSV files, if it is there."""
    root = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data"))
    return root / "frappe" if (root / "frappe" / "train.csv").exists() else None


def prepared(settings: Settings, name: str = "frappe") -> Path | None:
    """The data set of the recipe `configs/data/<name>.yaml`, written if need be; None without its source."""
    folder = source()
    if folder is None:
        return None
    data = settings.work / name
    if not (data / "schema.json").exists():
        recipe = str(ROOT / "configs" / "data" / f"{name}.yaml")
        command = [sys.executable, "-m", "rechub_ray.cli", "prepare", recipe, f"source={folder}", f"out={data}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return data


def run(settings: Settings) -> dict[str, Any]:
    """All seeds of all models; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with frappe/train.csv, valid.csv and test.csv"}
    models: dict[str, dict[str, list[float]]] = {}
    for model in PUBLISHED:
        base = read_yaml(ROOT / "configs" / f"{model}.yaml")
        for mode, workers in MODES.items():
            for seed in SEEDS[: settings.pick(len(SEEDS), 1)]:
                given = {
                    "seed": seed,
                    "data.root": str(data),
                    "data.batch_size": base["data"]["batch_size"] // max(workers, 1),
                    "scaling.num_workers": workers,
                    "export.onnx": False,
                    "trackers": ["jsonl"],
                    **({"train.epochs": 1} if settings.quick else {}),
                }
                auc = run_training(settings, model, merge(base, given)).test_metrics["auc"]
                models.setdefault(model, {}).setdefault(mode, []).append(auc)
                print(f"  {model}, {mode}, seed {seed}: test AUC {auc:.6f}", file=sys.stderr, flush=True)
    return {"models": models}


def table(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"Left out: {result['skipped']}."
    lines = [
        "| model | where | seeds | test AUC, mean | spread | published, mean of 5 | best of 5 | ours - mean of 5 |",
        "|---" * 8 + "|",
    ]
    for model, modes in result["models"].items():
        mean_of_five, best = PUBLISHED[model]
        for mode, values in modes.items():
            mean = statistics.fmean(values)
            lines.append(
                f"| configs/{model}.yaml | {mode} | {len(values)} | {mean:.6f} | {max(values) - min(values):.6f} "
                f"| {mean_of_five:.6f} | {best:.6f} | {mean - mean_of_five:+.6f} |"
            )
    return "\n".join(lines)
