"""`python -m benchmarks [names] [--quick] [--repeats N] [--work DIR]`; the name `report` writes RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.process import run_process
from benchmarks.settings import Settings

HERE = Path(__file__).resolve().parent
# name of the module (`quality frappe`: `quality_frappe`): what it shows
BENCHMARKS = {
    "compare": "Speed: torch-rechub, ours, the limit",
    "ids": "Speed and memory by the number of ids",
    "cpu": "What each entry of cpu/ gives",
    "checksums": "What checksums of the data cost",
    "memory": "Memory by the number of rows",
    "startup": "Start-up, and what is not training",
    "serving": "Raw values in onnxruntime",
    "http": "Raw values over HTTP",
    "frappe": "Published results on Frappe",
    "quality frappe": "Every published model on Frappe",
    "quality plain": "Published models on Frappe in plain PyTorch",
    "ranking_speed": "Speed of the ranking models that torch-rechub has, too",
    "multi_task": "Multi-task models and balancing on Census-Income",
    "multi_task_speed": "Speed of multi-task training, and what balancing costs",
    "losses": "Several losses on Frappe",
    "matching": "Models for retrieval on MovieLens 1M and Amazon Beauty",
    "matching_protocol": "torch-rechub's own scripts for retrieval on MovieLens 1M",
    "matching_speed": "Speed of a model for retrieval with negatives of the step",
    "sequential": "Models of sequences on Amazon Beauty",
    "sequential_speed": "Speed of a model of sequences, without padding and with it",
    "sweeps": "Sweeps on Frappe",
}
# modules that print their own text: what it shows, arguments in full, arguments for --quick
PROGRAMS = {
    "step": ("Where a step's time goes", ["--batch-norm"], ["--batch-norm", "--steps", "5", "--threads", "1"]),
    "corpus": ("Users against all items", ["--threads", "2"], ["--users", "512", "--items", "20000", "--rounds", "1"]),
    "mutations": ("Errors of broken configurations and data", ["--every", "10"], ["--every", "100"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures what the README claims.")
    known = [*BENCHMARKS, *PROGRAMS, "report"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; default: all, then the report")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that everything works")
    parser.add_argument("--repeats", type=int, help="runs of each side; default 3, quick 1")
    parser.add_argument("--work", type=Path, help="keep generated data in this folder; default: a temporary one")
    options = parser.parse_args()
    names = joined(options.names, known) or known
    for name in names:
        if name not in known:
            parser.error(f"unknown name '{name}'; known: {', '.join(known)}")
    repeats = options.repeats or (1 if options.quick else 3)
    results = HERE / "results" / "quick" if options.quick else HERE / "results"
    with tempfile.TemporaryDirectory(prefix="rechub-ray-bench-") as temporary:
        work = options.work.resolve() if options.work else Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        settings = Settings(work=work, quick=options.quick, repeats=repeats)
        for name in names:
            if name != "report":
                measure(name, settings, results)
    if "report" in names:
        out = results / "RESULTS.md" if options.quick else HERE / "RESULTS.md"
        results.mkdir(parents=True, exist_ok=True)
        out.write_text(report(results))
        print(f"wrote {out}")


def joined(words: list[str], known: list[str]) -> list[str]:
    """The names, of which some have two words."""
    names: list[str] = []
    for word in words:
        if names and any(name.startswith(f"{names[-1]} ") for name in known):
            names[-1] += f" {word}"
        else:
            names.append(word)
    return names


def kept_in(results: Path, name: str) -> Path:
    """The file with the figures of a benchmark."""
    return results / f"{name.replace(' ', '_')}.json"


def measure(name: str, settings: Settings, results: Path) -> None:
    """Runs one benchmark, prints its table and keeps its figures."""
    print(f"{name}: {title(name)}", file=sys.stderr, flush=True)
    before, started = os.getloadavg()[0], time.perf_counter()
    result = run_program(name, settings) if name in PROGRAMS else module(name).run(settings)
    kept = {
        "machine": machine(),
        "load_before": round(before, 2),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "repeats": None if name in PROGRAMS else settings.repeats,
        "result": result,
    }
    results.mkdir(parents=True, exist_ok=True)
    kept_in(results, name).write_text(json.dumps(kept, indent=1) + "\n")
    print(f"\n{shown(name, result)}\n", flush=True)


def module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name.replace(' ', '_')}")


def title(name: str) -> str:
    return PROGRAMS[name][0] if name in PROGRAMS else BENCHMARKS[name]


def shown(name: str, result: dict[str, Any]) -> str:
    """A result as Markdown."""
    if name in PROGRAMS:
        return f"```\n{result['text'].strip()}\n```"
    table: str = module(name).table(result)
    return table


def run_program(name: str, settings: Settings) -> dict[str, Any]:
    """What a module prints."""
    _, full, quick = PROGRAMS[name]
    log = settings.work / f"{name}.txt"
    run_process([sys.executable, "-m", f"benchmarks.{name}", *(quick if settings.quick else full)], log=log)
    text = log.read_text(errors="replace")
    log.unlink()
    # before the figures stands what the runs print
    figures = re.search(r"^[\d,]+ (rows|mutations|users), ", text, re.MULTILINE)
    return {"text": text[figures.start() :] if figures else text}


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    packages = ("torch", "ray", "pyarrow", "numpy", "rechub_ray", "torch-rechub")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "python": platform.python_version(),
        **versions,
    }


def report(results: Path) -> str:
    """All kept figures as one Markdown page."""
    parts = ["# Results\n\nWritten by `python -m benchmarks report`; the method of each table is in README.md."]
    for name in [*BENCHMARKS, *PROGRAMS]:
        file = kept_in(results, name)
        if not file.exists():
            continue
        kept = json.loads(file.read_text())
        facts = kept["machine"]
        versions = ", ".join(f"{key} {facts[key]}" for key in ("python", "torch", "ray", "pyarrow", "torch-rechub"))
        repeats = f"{kept['repeats']} repeat(s), " if kept["repeats"] else ""
        parts.append(f"## {title(name)}\n\n{shown(name, kept['result'])}")
        parts.append(
            f"`python -m benchmarks {name}`, {facts['date']}: {facts['cpu']}, {facts['cores']} cores, "
            f"{facts['memory_gib']} GiB; {versions}; {repeats}{kept['minutes']} minutes, "
            f"load {kept['load_before']} before it began."
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
