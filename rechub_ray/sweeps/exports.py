"""The ONNX file of every trial: made where it trained, or on the driver where a scheduler cut it off."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rechub_ray.errors import RechubError
from rechub_ray.export.onnx import export_onnx

NAME = "model.onnx"


def export_trial(checkpoint: str | Path, directory: str | Path, *, probabilities: bool) -> dict[str, Any]:
    """Export a checkpoint as `model.onnx`, with its parity report, into a trial's folder.

    An export that fails costs the trial its file and not its score, so no error leaves this function.

    Returns:
        `max_abs_difference` from PyTorch, or `error`; and `seconds`.
    """
    began = time.perf_counter()
    outcome: dict[str, Any]
    try:
        for old in Path(directory).glob(f"{NAME}*"):  # of an earlier, worse checkpoint
            old.unlink()
        report = export_onnx(checkpoint, Path(directory, NAME), probabilities=probabilities)
        outcome = {"max_abs_difference": report.max_abs_difference}
    except RechubError as error:
        outcome = {"error": str(error)}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    return {**outcome, "seconds": round(time.perf_counter() - began, 3)}
