"""Models for serving, made from a checkpoint and checked against it."""

from rechub_ray.export.onnx import ExportReport, export_model, export_onnx
from rechub_ray.export.serving import Port, ServingModel
from rechub_ray.export.towers import TowersReport, export_towers

__all__ = [
    "ExportReport",
    "Port",
    "ServingModel",
    "TowersReport",
    "export_model",
    "export_onnx",
    "export_towers",
]
