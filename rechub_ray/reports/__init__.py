"""Reports: one HTML file that opens anywhere, of a run, an evaluation, several runs, or a sweep."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from rechub_ray.config import RunConfig
from rechub_ray.errors import DataError
from rechub_ray.files import absolute, join, read_text, write_text
from rechub_ray.reports.comparison import Comparison, compare, comparison_page, print_comparison
from rechub_ray.reports.evidence import Evidence
from rechub_ray.reports.importance import importance
from rechub_ray.reports.kit import page
from rechub_ray.reports.read import read
from rechub_ray.reports.run import read_run
from rechub_ray.reports.run_page import evaluation_page, run_page
from rechub_ray.reports.sweep_page import sweep_page

FILE_NAME = "report.html"

__all__ = [
    "FILE_NAME",
    "Comparison",
    "compare",
    "live_page",
    "missing",
    "print_comparison",
    "write_comparison",
    "write_evaluation_report",
    "write_report",
    "write_run_report",
]


def missing() -> str | None:
    """Return a sentence on what the report of a sweep will lack for want of a package, or None."""
    if importlib.util.find_spec("sklearn") is not None:
        return None
    return "report.html will lack the importance of hyperparameters, which needs: pip install 'rechub_ray[report]'"


def write_run_report(directory: str | Path, out: str | Path | None = None) -> str:
    """Write the page on a run from the files in its folder; the run may still train.

    Args:
        directory: the run's folder or URI.
        out: the file to write; None takes report.html in the folder.

    Returns:
        The path or URI of the page.

    Raises:
        DataError: the folder is no run, or a file of it is damaged.
        ConfigError: its configuration is of components that are not known here.
        WriteError: the page cannot be written.
    """
    path = join(absolute(str(directory)), FILE_NAME) if out is None else absolute(str(out))
    write_text(path, run_page(read_run(directory)))
    return path


def write_evaluation_report(
    path: str, config: RunConfig, checkpoint: str, metrics: Mapping[str, float], evidence: Evidence
) -> None:
    """Write the page on an evaluation.

    Args:
        path: the file or URI to write.
        config: the run's, with the evaluation's overrides.
        checkpoint: the model's place.
        metrics: the result.
        evidence: the counts of predictions.

    Raises:
        WriteError: the page cannot be written.
    """
    try:
        schema = json.loads(read_text(join(absolute(config.data.root), config.data.schema_file)))
    except (OSError, ValueError):
        schema = {}
    write_text(path, evaluation_page(config, checkpoint, metrics, evidence, schema))


def write_comparison(found: Comparison, path: str) -> str:
    """Write the page on several runs and return its place.

    Raises:
        WriteError: it cannot be written.
    """
    write_text(absolute(path), comparison_page(found))
    return absolute(path)


def write_report(sweep_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write report.html into a sweep's folder; the sweep may still run, or be interrupted.

    Only sweep.yaml, sweep.json, trials.jsonl and trials/<trial>/metrics.jsonl are read.

    Args:
        sweep_dir: the sweep's folder.
        out: the file to write; None takes report.html in the folder.

    Returns:
        The path of the page.

    Raises:
        DataError: a file of the sweep is missing or damaged; names it.
        WriteError: the folder cannot be written; an earlier report stays whole.
    """
    data = read(Path(sweep_dir))
    shares = importance(data) if importlib.util.find_spec("sklearn") is not None else None
    path = Path(sweep_dir, FILE_NAME) if out is None else Path(out).absolute()
    write_text(str(path), sweep_page(data, shares))
    return path


def live_page(sweep_dir: str | Path, *, refresh: int) -> str:
    """Return the page on a sweep that runs, which a browser loads again after `refresh` seconds."""
    try:
        return sweep_page(read(Path(sweep_dir)), None, refresh=refresh)
    except DataError:  # its files are not all there yet
        return page(Path(sweep_dir).name, "sweep", "The sweep is starting.", [], data={"trials": {}}, refresh=refresh)
