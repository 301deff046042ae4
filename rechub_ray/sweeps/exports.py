"""The ONNX files of every trial: made where it trained, or on the driver where a scheduler cut it off."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from rechub_ray.checkpoint import read
from rechub_ray.errors import RechubError
from rechub_ray.export.served import FOLDER
from rechub_ray.export.towers import export_run
from rechub_ray.fine_tuning import transforms_of

NAME = "model.onnx"


def copy_exports(source: str | Path, target: str | Path) -> None:
    """Copy what a trial exported into another folder."""
    for file in Path(source).glob(f"{NAME}*"):
        shutil.copy2(file, Path(target, file.name))
    if Path(source, FOLDER).is_dir():
        shutil.copytree(Path(source, FOLDER), Path(target, FOLDER))


def exported(folder: str | Path) -> str | None:
    """Return the place in a trial's folder of its ONNX file, or of its user tower; None where there is none."""
    return next((name for name in (NAME, f"{FOLDER}/user.onnx") if Path(folder, name).exists()), None)


def export_trial(checkpoint: str | Path, directory: str | Path, *, probabilities: bool) -> dict[str, Any]:
    """Export a checkpoint into a trial's folder: `model.onnx` with its parity report, or `serving/` with its towers.

    An export that fails costs the trial its file and not its score, so no error leaves this function.

    Returns:
        `max_abs_difference` from PyTorch, or `error`; and `seconds`.
    """
    began = time.perf_counter()
    outcome: dict[str, Any]
    try:
        for old in Path(directory).glob(f"{NAME}*"):  # of an earlier, worse checkpoint
            old.unlink()
        shutil.rmtree(Path(directory, FOLDER), ignore_errors=True)
        # a trial keeps none itself: all of them read the same data
        transforms = transforms_of(read(checkpoint, weights=False).config)
        reports = export_run(str(checkpoint), str(directory), probabilities=probabilities, transforms=transforms)
        outcome = {"max_abs_difference": max(report.max_abs_difference for report in reports)}
    except RechubError as error:
        outcome = {"error": str(error)}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    return {**outcome, "seconds": round(time.perf_counter() - began, 3)}
