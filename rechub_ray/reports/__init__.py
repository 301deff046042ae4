"""The report of a sweep: `report.html`, one file that opens anywhere, and PNG files of its figures."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from rechub_ray.errors import ConfigError
from rechub_ray.files import cannot_write
from rechub_ray.lock import writing_folder
from rechub_ray.reports.figures import draw_all
from rechub_ray.reports.importance import importance
from rechub_ray.reports.page import page
from rechub_ray.reports.read import read

FILE_NAME = "report.html"
FOLDER = "report"

__all__ = ["FILE_NAME", "FOLDER", "available", "write_report"]


def available() -> None:
    """Check that matplotlib is installed.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "the report of a sweep needs the package matplotlib, which is not installed",
            hint="Run: pip install 'rechub_ray[report]'.",
        )


def write_report(sweep_dir: str | Path) -> Path:
    """Write report.html and report/<figure>.png into a sweep's folder; the sweep may still run, or be interrupted.

    Only sweep.yaml, sweep.json, trials.jsonl and trials/<trial>/metrics.jsonl are read.

    Returns:
        The path of report.html.

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: a file of the sweep is missing or damaged; names it.
        WriteError: the folder cannot be written; an earlier report stays whole.
    """
    available()
    directory = Path(sweep_dir)
    data = read(directory)
    shares = importance(data) if importlib.util.find_spec("sklearn") is not None else None
    figures = draw_all(data, shares)
    folder, path = directory / FOLDER, directory / FILE_NAME
    try:
        with writing_folder(str(directory)) as made:
            for figure in figures:
                (made / f"{figure.name}.png").write_bytes(figure.png)
            (made / FILE_NAME).write_text(page(data, figures, shares), encoding="utf-8")
            folder.mkdir(exist_ok=True)
            for old in folder.glob("*.png"):
                old.unlink()
            os.replace(made / FILE_NAME, path)
            for file in made.iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path
