"""Models for serving, made from a checkpoint and checked against it.

Names are imported when they are first used: what reads exported files does without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rechub_ray.export.onnx import ExportReport, export_model, export_onnx
    from rechub_ray.export.ports import Port
    from rechub_ray.export.serving import ServingModel
    from rechub_ray.export.towers import TowersReport, export_towers
    from rechub_ray.export.triton import export_triton

__all__ = [
    "ExportReport",
    "Port",
    "ServingModel",
    "TowersReport",
    "export_model",
    "export_onnx",
    "export_towers",
    "export_triton",
]

_MODULES = {
    "onnx": ("ExportReport", "export_model", "export_onnx"),
    "ports": ("Port",),
    "serving": ("ServingModel",),
    "towers": ("TowersReport", "export_towers"),
    "triton": ("export_triton",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"rechub_ray.export.{module}"), name)
    raise AttributeError(f"module 'rechub_ray.export' has no attribute '{name}'")
