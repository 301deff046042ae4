"""Models for serving, made from a checkpoint and checked against it."""

from rechub_ray.export.onnx import ExportReport, export_model, export_onnx
from rechub_ray.export.serving import Port, ServingModel

__all__ = ["ExportReport", "Port", "ServingModel", "export_model", "export_onnx"]
