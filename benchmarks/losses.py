"""Several losses on one logit: AUC, GAUC and log loss beside those of binary cross-entropy alone, on Frappe."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks.frappe import SEEDS, prepared
from benchmarks.settings import ROOT, Settings
from benchmarks.workload import run_training
from rechub_ray.config import merge, read_yaml

# what a line is called: configuration, losses in the place of its own
SIDES: dict[str, tuple[str, list[str] | None]] = {
    "bce": ("two_losses_frappe", ["bce"]),
    "F1-reweighted + pairs": ("two_losses_frappe", None),
    "bce, users whole": ("three_losses_frappe", ["bce"]),
    "classification + focal + pairs of a user, weights learned": ("three_losses_frappe", None),
}
METRICS = ("auc", "gauc", "log_loss")


def run(settings: Settings) -> dict[str, Any]:
    """All sides, one seed after the other; nothing where the data is not there."""
    data = {name: prepared(settings, name) for name in ("frappe", "frappe_users")}
    sides: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS[: settings.repeats]:
        for side, (name, losses) in SIDES.items():
            base = read_yaml(ROOT / "configs" / f"{name}.yaml")
            root = data[base["data"]["root"].rpartition("/")[2]]
            if root is None:
                return {"skipped": "set RECHUB_DATA to a folder with frappe/train.csv, valid.csv and test.csv"}
            given = {"seed": seed, "data.root": str(root), "export.onnx": False, "trackers": ["jsonl"]}
            given |= {"losses": losses} if losses is not None else {}
            given |= {"train.epochs": 1} if settings.quick else {}
            done = run_training(settings, name, merge(base, given))
            found = {key: done.test_metrics[key] for key in METRICS}
            sides.setdefault(side, []).append({**found, "epochs": float(done.details["epochs"])})
            print(f"  {side}, seed {seed}: {sides[side][-1]}", file=sys.stderr, flush=True)
    return {"sides": sides}


def table(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"Left out: {result['skipped']}."
    lines = ["| losses | configuration | seeds | test AUC | test GAUC, by user | log loss | epochs |", "|---" * 7 + "|"]
    for side, runs in result["sides"].items():
        name, losses = SIDES[side]
        cells = [f"configs/{name}.yaml" + (f" losses={losses}".replace("'", "") if losses else ""), str(len(runs))]
        for key in METRICS:
            values = [one[key] for one in runs]
            cells.append(f"{statistics.fmean(values):.4f} ({min(values):.4f} - {max(values):.4f})")
        epochs = sorted(int(one["epochs"]) for one in runs)
        lines.append(f"| {side} | {' | '.join(cells)} | {epochs[0]} - {epochs[-1]} |")
    return "\n".join(lines)
