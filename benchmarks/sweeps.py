"""Sweeps on Frappe: what ASHA saves, what PBT and PB2 do, a front of two objectives, a driver that is killed."""

from __future__ import annotations

import collections
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.frappe import prepared
from benchmarks.settings import ROOT, Settings

Record = dict[str, Any]
_LIMIT_SECONDS = 3600


def run(settings: Settings) -> dict[str, Any]:
    """All sweeps one after the other; one that is finished in the work folder is used as it is."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with frappe/train.csv, valid.csv and test.csv"}
    epochs, trials, members = settings.pick(15, 3), settings.pick(30, 6), settings.pick(8, 4)
    asha = sweep(settings, data, "asha", "deepfm_asha", f"trials={trials}", f"overrides.train.epochs={epochs}")
    spent = sum(trial["epochs"] for trial in asha["trials"])
    same_budget = ["scheduler=fifo", "points_to_evaluate=[]", f"stop.budget_epochs={spent}", "trials=1000"]
    random = sweep(settings, data, "random", "deepfm_asha", *same_budget, f"overrides.train.epochs={epochs}")
    length = f"overrides.train.epochs={settings.pick(10, 4)}"
    populations = {
        name: sweep(settings, data, name, "dcn_v2_pbt", f"scheduler.name={name}", f"trials={members}", length)
        for name in ("pbt", "pb2")
    }
    size = settings.pick(24, 6)
    front = sweep(
        settings, data, "front", "deepfm_multi_objective", f"trials={size}", f"overrides.train.epochs={epochs}"
    )
    return {
        "asha": asha,
        "random": random,
        "populations": populations,
        "front": front,
        "killed": killed(settings, data, f"trials={settings.pick(12, 4)}", f"overrides.train.epochs={epochs}"),
    }


def sweep(settings: Settings, data: Path, name: str, file: str, *changes: str) -> dict[str, Any]:
    """The books of a sweep and its wall seconds."""
    folder = settings.work / f"sweep-{name}"
    seconds = folder / "benchmark_seconds"
    if not seconds.exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"  {name} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        process = _start(folder, [f"tune_configs/{file}.yaml", f"base.data.root={data}", *changes])
        _wait(process, folder)
        seconds.write_text(str(time.perf_counter() - started))
    books = _books(folder)
    return {**books, "seconds": float(seconds.read_text())}


def killed(settings: Settings, data: Path, *changes: str) -> dict[str, Any]:
    """ASHA again; the driver gets SIGKILL when a quarter of the trials is over, then the sweep is resumed."""
    folder = settings.work / "sweep-killed"
    shutil.rmtree(folder, ignore_errors=True)
    print("  killed ...", file=sys.stderr, flush=True)
    process = _start(folder, ["tune_configs/deepfm_asha.yaml", f"base.data.root={data}", *changes])
    end = time.monotonic() + _LIMIT_SECONDS
    while True:
        trials = _trials(folder)
        over = sum(trial["status"] not in ("pending", "running") for trial in trials)
        if over >= max(len(trials) // 4, 1) and any(t["status"] == "running" and t["epochs"] >= 2 for t in trials):
            break
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the sweep in {folder} was over before it could be killed")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = _trials(folder)
    _wait(_start(folder, [], resume=True), folder)
    after = {trial["trial_id"]: trial for trial in _trials(folder)}
    return {"before": before, "after": list(after.values()), "epochs": {n: _evaluated(folder, n) for n in after}}


def _start(folder: Path, arguments: list[str], *, resume: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rechub_ray.cli", "tune", *arguments]
    command += ["--resume", str(folder)] if resume else ["--sweep-dir", str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.wait(timeout=_LIMIT_SECONDS):
        tail = folder.with_suffix(".log").read_text(errors="replace").splitlines()[-25:]
        raise SystemExit("\n".join([f"the sweep in {folder} failed:", *tail]))


def _trials(folder: Path) -> list[Record]:
    file = folder / "trials.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _books(folder: Path) -> dict[str, Any]:
    info = json.loads((folder / "sweep.json").read_text())
    best = json.loads((folder / "best" / "metrics.json").read_text())
    return {"info": info, "best": best, "trials": _trials(folder)}


def _evaluated(folder: Path, trial: str) -> list[int]:
    """The epochs after which the trial was evaluated, as its log has them."""
    lines = map(json.loads, (folder / "trials" / trial / "metrics.jsonl").read_text().splitlines())
    return [int(line["epoch"]) for line in lines if "val/auc" in line and line["epoch"] >= 0]


def table(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"Left out: {result['skipped']}."
    parts = [
        "### ASHA beside random search with the same budget",
        _asha(result),
        _picture("asha"),
        "### Population based training",
        *(text for name, books in result["populations"].items() for text in (_exploits(name, books), _picture(name))),
        "### Two objectives",
        _front(result["front"]),
        _picture("front"),
        "### The driver killed in the middle, then --resume",
        _killed(result["killed"]),
    ]
    return "\n\n".join(parts)


def _picture(name: str) -> str:
    return f"![{name}](figures/{name}.png)"


def _asha(result: dict[str, Any]) -> str:
    lines = [
        "| | trials | epochs trained | wall, s | of that training, per place | a trial's start and end, s, median "
        "| best validation AUC | its test AUC |",
        "|---" * 8 + "|",
    ]
    default = next(trial for trial in result["asha"]["trials"] if trial["number"] == 0)
    for name, books in (("ASHA", result["asha"]), ("random search", result["random"])):
        trials = [trial for trial in books["trials"] if trial["epochs"]]
        training = sum(t["train_seconds"] for t in trials) / (books["seconds"] * books["info"]["concurrency"])
        best = max(trials, key=lambda trial: trial["score"] or 0)
        lines.append(
            f"| {name} | {len(trials)} | {sum(t['epochs'] for t in trials):,.0f} | {books['seconds']:.0f} "
            f"| {training:.0%} | {statistics.median(map(_overhead, trials)):.1f} | {best['score']:.6f} "
            f"| {books['best']['test_metrics']['auc']:.6f} |"
        )
    lines.append(
        f"| the published configuration, as long | 1 | {default['epochs']:.0f} | | | | {default['score']:.6f} "
        f"| {default['test_metrics']['auc']:.6f} |"
    )
    ended = collections.Counter(
        t["reason"] if t["status"] != "finished" else "went to the end" for t in result["asha"]["trials"]
    )
    rungs = collections.Counter(t["epochs"] for t in result["asha"]["trials"] if t["status"] == "stopped_early")
    stops = ", ".join(f"{count} at {epochs:g}" for epochs, count in sorted(rungs.items()))
    return (
        "\n".join(lines)
        + f"\n\nStopped by ASHA, at how many epochs: {stops}; {ended['went to the end']} went on to the end."
    )


def _overhead(trial: Record) -> float:
    """Seconds of a trial that are neither training nor evaluation, saving or export; its times are whole seconds."""
    started, ended = (datetime.datetime.fromisoformat(trial[key]) for key in ("started", "ended"))
    exported_then = trial["status"] == "finished" and trial["onnx"]
    export = float(trial["onnx"]["seconds"]) if exported_then else 0.0
    return (ended - started).total_seconds() - float(trial["seconds"]) - export


def _exploits(name: str, books: dict[str, Any]) -> str:
    lines = [
        f"{name.upper()}: {len(books['trials'])} members, {books['seconds']:.0f} s, "
        f"test AUC of the best {books['best']['test_metrics']['auc']:.6f}.",
        "",
        "| after step | member | its AUC | copies | whose AUC was | goes on with |",
        "|---" * 6 + "|",
    ]
    exploits = [(trial["trial_id"], exploit) for trial in books["trials"] for exploit in trial["exploits"]]
    for member, exploit in sorted(exploits, key=lambda item: (item[1]["at_step"], item[0])):
        values = ", ".join(
            f"{path.split('.')[-1]} {_short(exploit['donor'][path])} -> {_short(value)}"
            for path, value in exploit["new"].items()
        )
        lines.append(
            f"| {exploit['at_step']} | {member} | {exploit['score']:.6f} | {exploit['from_trial']} "
            f"| {exploit['donor_score']:.6f} | {values} |"
        )
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _front(books: dict[str, Any]) -> str:
    by_name = {trial["trial_id"]: trial for trial in books["trials"]}
    lines = ["| weights | best validation AUC | test AUC | embedding | hidden |", "|---" * 5 + "|"]
    for trial in sorted((by_name[name] for name in books["info"]["front"]), key=lambda t: t["num_parameters"]):
        params, test = trial["best_params"], trial["test_metrics"].get("auc", float("nan"))
        lines.append(
            f"| {trial['num_parameters']:,} | {trial['score']:.6f} | {test:.6f} "
            f"| {params['model.embedding_dim']} | {params['model.hidden_units']} |"
        )
    return f"{len(books['trials'])} trials, {books['seconds']:.0f} s.\n\n" + "\n".join(lines)


def _killed(result: dict[str, Any]) -> str:
    before, after = ({trial["trial_id"]: trial for trial in result[when]} for when in ("before", "after"))
    over = [name for name, trial in before.items() if trial["status"] not in ("pending", "running")]
    running = [name for name, trial in before.items() if trial["status"] == "running"]
    again = [
        name
        for name in over
        if after[name]["rows"] != before[name]["rows"] or after[name]["starts"] != before[name]["starts"]
    ]
    repeated = sum(len(epochs) - len(set(epochs)) for epochs in result["epochs"].values())
    missing = sum(len(set(range(max(e) + 1)) - set(e)) for e in result["epochs"].values() if e)
    ended = collections.Counter(trial["status"] for trial in after.values())
    rows = {
        "trials": len(after),
        "over when the driver was killed": len(over),
        "of these trained again": len(again),
        "running then": len(running),
        "epochs evaluated twice, all trials": repeated,
        "epochs missing, all trials": missing,
        "finished in the end": ended["finished"],
        "stopped early": ended["stopped_early"],
        "failed": ended["failed"],
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
