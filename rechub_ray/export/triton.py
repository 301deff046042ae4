"""A checkpoint as a model repository of Triton Inference Server: a folder a model, its configuration, one version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray.defaults import retrieves
from rechub_ray.export.onnx import INPUTS, ExportReport, export_onnx
from rechub_ray.export.ports import Part, Port
from rechub_ray.export.towers import PARTS
from rechub_ray.files import join, write_text

FOLDER = "triton"
_TYPES = {"string": "TYPE_STRING", "int64": "TYPE_INT64", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}
_DELAY = 500
"""Microseconds that a request waits for others, to be answered in one batch with them."""


def export_triton(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    inputs: str = "encoded",
    probabilities: bool = True,
    max_batch_size: int = 1024,
) -> tuple[ExportReport, ...]:
    """Export the model of a checkpoint into a model repository; of one for retrieval both towers, as a model each.

    A model is `<run>`, with `_user` or `_item` and, of raw inputs, `_raw` behind it; its file is
    `<model>/1/model.onnx`, beside which `<model>/config.pbtxt` says what goes in and out.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one); a path or URI.
        folder: the repository, a path or URI; it is made, and other models in it stay.
        inputs: as for `export_onnx`.
        probabilities: as for `export_onnx`.
        max_batch_size: rows that Triton puts together at most, >= 1.

    Raises:
        CheckpointError: no complete checkpoint there.
        ExportError: as for `export_onnx`.
    """
    saved = checkpoint_module.read(checkpoint, weights=False)
    parts: tuple[Part | None, ...] = PARTS if retrieves(saved.config) else (None,)
    reports = []
    for part in parts:
        name = "_".join(filter(None, (saved.config.name, part, "raw" if inputs == INPUTS[1] else None)))
        place = join(str(folder), name)
        path = join(place, "1/model.onnx")
        report = export_onnx(saved.path, path, inputs=inputs, part=part, probabilities=probabilities)
        write_text(join(place, "config.pbtxt"), model_config(name, report.inputs, report.outputs, max_batch_size))
        reports.append(report)
    return tuple(reports)


def model_config(name: str, inputs: Sequence[Port], outputs: Sequence[Port], max_batch_size: int) -> str:
    """Return Triton's configuration of an exported model, a ModelConfig as protobuf's text.

    Args:
        name: of the model and of its folder.
        inputs: of the file; the first size of each is that of the batch, and Triton adds it.
        outputs: of the file, alike.
        max_batch_size: as for `export_triton`.
    """
    lines = [f"name: {_quoted(name)}", 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for kind, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            lines += [f"{kind} {{", f"  name: {_quoted(port.name)}", f"  data_type: {_TYPES[port.dtype]}"]
            sizes = [str(-1 if isinstance(size, str) else size) for size in port.shape[1:]]
            lines.append(f"  dims: [ {', '.join(sizes or ['1'])} ]")
            if not sizes:  # a shape in a request has one size beside the batch's at least
                lines.append("  reshape { shape: [ ] }")
            lines.append("}")
    return "\n".join([*lines, f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY} }}", ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
