"""ONNX files from checkpoints, each compared with PyTorch before it gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray import defaults
from rechub_ray.errors import ExportError
from rechub_ray.export.parity import Check, compare, run
from rechub_ray.export.ports import Part, Port
from rechub_ray.export.serving import ServingModel, Tower
from rechub_ray.export.target import Target
from rechub_ray.files import absolute, exists, join, open_filesystem, split
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import Link
from rechub_ray.schema import Schema
from rechub_ray.waiting import Waiting

if TYPE_CHECKING:
    from rechub_ray.export.raw import RawInputs

INPUTS = ("encoded", "raw")
OPSET = 18  # what the exporter writes natively: a newer one costs a conversion, an older one loses operators
SINGLE_FILE_BYTES = 1536 * 2**20
"""Weights beyond this go to `<name>.data` beside the file: a protobuf message ends at 2 GiB."""


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """An exported model.

    Args:
        path: the ONNX file.
        report_path: the comparisons with PyTorch, as JSON.
        data_path: the weights, where they do not fit into the ONNX file; the two lie side by side and are moved
            together.
        max_abs_difference: from PyTorch, the largest of all comparisons.
        inputs: by name, with types and shapes.
        outputs: by name, with types and shapes.
        checks: the comparisons.
        seconds: wall time of the export.
    """

    path: str
    report_path: str
    data_path: str | None
    max_abs_difference: float
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    checks: tuple[Check, ...]
    seconds: float


def export_onnx(
    checkpoint: str | Path,
    out: str | Path,
    *,
    inputs: str = "encoded",
    part: Part | None = None,
    probabilities: bool = True,
    batch_sizes: Sequence[int] = (1, 7, 257),
) -> ExportReport:
    """Export the model of a checkpoint; nothing but the checkpoint, and for raw inputs its run's transforms, is needed.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one); a path or URI.
        out: the ONNX file, a path or URI; its folder is made. `<out>.parity.json` is written beside it.
        inputs: `encoded`, or `raw`: the inputs are raw values, which the file encodes as `prepare` did. It is compared
            with PyTorch in both forms, on rows of the raw files where they are still there.
        part: of a model for retrieval, which tower: `user` or `item`; see `export_towers`. Others have no parts.
        probabilities: binary labels' outputs are probabilities; False gives logits. See `ServingModel`.
        batch_sizes: rows of the batches that are compared with PyTorch, >= 1.

    Raises:
        CheckpointError: no complete checkpoint there.
        ExportError: the model cannot be exported, or the file differs from PyTorch; nothing is written then.

    Example:
        >>> export_onnx("runs/demo", "model.onnx")  # doctest: +SKIP
    """
    if inputs not in INPUTS:
        raise ExportError("'inputs': what the model takes is unknown", expected=" or ".join(INPUTS), got=repr(inputs))
    saved = checkpoint_module.read(checkpoint)
    model = saved.build_model()
    if isinstance(model, Retriever) != (part is not None) or part not in (None, "user", "item"):
        raise ExportError(
            f"'part' of the model '{saved.config.model['name']}'",
            expected="user or item, as it is one for retrieval" if isinstance(model, Retriever) else "none",
            got=part or "none",
        )
    links = defaults.links(saved.config, saved.schema, model.outputs)
    if part is not None and isinstance(model, Retriever):
        model = Tower(model, part)
        saved = dataclasses.replace(saved, schema=model.schema)
    raw = None
    if inputs == "raw":
        from rechub_ray.export.raw import load  # the encoder takes a while to import

        raw = load(saved)
    return export_model(
        model,
        saved.schema,
        out,
        probabilities=probabilities,
        links=links,
        batch_sizes=batch_sizes,
        source=f"{saved.path} (step {saved.state.get('step', 'unknown')})",
        raw=raw,
    )


def default_path(checkpoint: str, inputs: str = "encoded", part: str | None = None) -> str:
    """Return where an export goes by default: `model.onnx` in a run's folder, `model_raw.onnx` with raw inputs.

    That of a tower has `user` or `item` in place of `model`. That of a single checkpoint goes beside it, under
    its name, and out of `checkpoints/`, where old ones are deleted.
    """
    filesystem, root = open_filesystem(checkpoint)
    suffix = "_raw.onnx" if inputs == "raw" else ".onnx"
    if not exists(filesystem, f"{root}/manifest.json"):
        return join(checkpoint, f"{part or 'model'}{suffix}")
    folder, name = split(absolute(checkpoint))
    above, last = split(folder)
    name = name if part is None else f"{name}_{part}"
    return join(above if last == "checkpoints" else folder, f"{name}{suffix}")


def export_model(
    model: Model,
    schema: Schema,
    out: str | Path,
    *,
    probabilities: bool = True,
    batch_sizes: Sequence[int] = (1, 7, 257),
    links: Mapping[str, Link] | None = None,
    source: str | None = None,
    raw: RawInputs | None = None,
) -> ExportReport:
    """Export a model in memory, as `export_onnx` does; afterwards it is on its device and in its mode again.

    Args:
        model: the model.
        schema: its features.
        out: as for `export_onnx`.
        probabilities: as for `export_onnx`.
        batch_sizes: as for `export_onnx`.
        links: by label, how its output is read, as its losses fix it; the others take that of the label's kind.
        source: where the weights come from, for the report.
        raw: how raw values are encoded; None makes the inputs encoded ones.

    Raises:
        ExportError: there is no batch size, or as for `export_onnx`.
    """
    _check_installed()
    if not batch_sizes or min(batch_sizes) < 1:
        raise ExportError("batch_sizes", expected="at least one number >= 1", got=list(batch_sizes))
    started = time.perf_counter()
    target = Target(str(out))
    served = ServingModel(model, schema, probabilities=probabilities, links=links)
    step = "translated"
    with (
        Waiting(f"exporting {target.name}", detail=lambda: f"being {step}", quiet_seconds=None),
        _on_cpu_in_eval_mode(served),
        target.folder() as folder,
    ):
        path = f"{folder}/{target.name}"
        program, outputs = _translated(served)
        _write(program, path)
        step = "compared with PyTorch"
        checks = compare(served, path, batch_sizes=batch_sizes)
        rows = None
        if raw is not None:
            rows, more = _replace_inputs(raw, served, program, path, batch_sizes)
            checks += more
        _refuse_differences(checks, target.path)
        report = ExportReport(
            path=target.path,
            report_path=f"{target.path}.parity.json",
            data_path=f"{target.path}.data" if os.path.exists(f"{path}.data") else None,
            max_abs_difference=max(check.max_abs_difference for check in checks),
            inputs=served.inputs if raw is None else raw.ports,
            outputs=outputs,
            checks=tuple(checks),
            seconds=round(time.perf_counter() - started, 3),
        )
        document = _document(report, served, source, opset=program.opset_imports[""])
        if rows is not None:
            document["raw_rows"] = rows
        Path(f"{path}.parity.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        target.place(folder)
    return report


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            "packages for the ONNX export are missing",
            got=f"no {', '.join(missing)}",
            hint=f"pip install {' '.join(missing)}",
        )


def _translated(served: ServingModel) -> tuple[Any, tuple[Port, ...]]:
    """Return the model, of type onnx_ir.Model, and its outputs."""
    ir = _translate(served).model
    outputs = tuple(
        dataclasses.replace(port, shape=tuple(d if isinstance(d, int) else str(d) for d in value.shape))
        for port, value in zip(served.outputs, ir.graph.outputs, strict=True)
    )
    ir.producer_name, ir.producer_version = "rechub_ray", _version()
    encodings = {feature.name: feature.encoding for feature in served.schema.all_features if feature.encoding}
    ir.metadata_props.update(
        {
            "rechub_ray.version": _version(),
            "rechub_ray.model": _name(served),
            "rechub_ray.schema_fingerprint": served.schema.fingerprint(),
            "rechub_ray.encodings": json.dumps(encodings),
            "rechub_ray.outputs": json.dumps([port.to_dict() for port in outputs]),
        }
    )
    for port, value in zip(outputs, ir.graph.outputs, strict=True):
        value.doc_string = port.meaning
    _describe_inputs(ir, served.inputs)
    for node in ir.graph.all_nodes():  # the exporter notes stack traces, with the paths of this machine
        node.metadata_props.clear()
    return ir, outputs


def _describe_inputs(ir: Any, ports: Sequence[Port]) -> None:
    ir.metadata_props["rechub_ray.inputs"] = json.dumps([port.to_dict() for port in ports])
    for port, value in zip(ports, ir.graph.inputs, strict=True):
        value.doc_string = port.meaning


def _replace_inputs(
    raw: RawInputs, served: ServingModel, ir: Any, path: str, batch_sizes: Sequence[int]
) -> tuple[dict[str, Any], list[Check]]:
    """Make the model's inputs raw values, in its file too; return what they were compared on, and the comparisons."""
    from rechub_ray.export.raw_rows import cases, raw_rows

    raw.attach(ir)
    _describe_inputs(ir, raw.ports)
    _write(ir, path)
    rows = raw_rows(raw, max(batch_sizes))
    names = [port.name for port in served.outputs]
    checks = run(path, names, cases(served, raw, rows, batch_sizes), inputs="raw")
    return {"real": rows.source}, checks


def _write(ir: Any, path: str) -> None:
    """Write the ONNX file and check that it is valid."""
    import onnx
    import onnx_ir

    _rename_clashes(ir.graph)
    size = sum(value.const_value.nbytes for value in ir.graph.initializers.values())
    onnx_ir.save(ir, path, external_data=f"{os.path.basename(path)}.data" if size > SINGLE_FILE_BYTES else None)
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ExportError("the exported model is not valid ONNX", got=_root(error)) from error


def _rename_clashes(graph: Any) -> None:
    """Rename inner values that have an input's or output's name: the exporter names them after operators (`cat`)."""
    ends = [*graph.inputs, *graph.outputs]
    inner = [value for node in graph.all_nodes() for value in node.outputs if value not in graph.outputs]
    inner += [value for value in graph.initializers.values() if value not in graph.inputs]
    taken = {value.name for value in (*ends, *inner)}
    public = {value.name for value in ends}
    for value in inner:
        if value.name in public:
            number = next(i for i in itertools.count() if f"{value.name}_inner_{i}" not in taken)
            value.name = f"{value.name}_inner_{number}"
            taken.add(value.name)


def _translate(served: ServingModel) -> Any:
    """Return torch.onnx's program.

    The example's sizes differ and exceed 1, since the exporter takes equal sizes, and 1, for constants.
    """
    sizes = {"batch": torch.export.Dim("batch")}
    examples, shapes = [], []
    for port in served.inputs:
        dtype = torch.int64 if port.dtype == "int64" else torch.float32
        example = [{"batch": 3}.get(d, 4 + len(sizes)) if isinstance(d, str) else d for d in port.shape]
        examples.append(torch.zeros(example, dtype=dtype))
        free = {i: d for i, d in enumerate(port.shape) if isinstance(d, str)}
        shapes.append({i: sizes.setdefault(d, torch.export.Dim(d)) for i, d in free.items()})
    try:
        with _silence():
            return torch.onnx.export(
                served,
                tuple(examples),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(tuple(shapes),),
                input_names=[port.name for port in served.inputs],
                output_names=[port.name for port in served.outputs],
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"the model '{_name(served)}' cannot be exported to ONNX",
            got=_root(error),
            hint=f"{type(served.model).__name__}.forward must do without control flow on tensors' values or sizes and "
            "without operators that ONNX lacks; to train without an export, set export.onnx=false.",
        ) from error


def _root(error: BaseException) -> str:
    """Return the first cause of an error: the exporter's come in layers, each of many lines."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 400 else f"{text[:400]}..."


def _refuse_differences(checks: Sequence[Check], path: str) -> None:
    worst = max(checks, key=lambda check: (not check.passed, check.max_abs_difference / check.tolerance))
    if not worst.passed:
        where = f"batch size {worst.batch_size}" + (f", sequence length {worst.length}" if worst.length else "")
        raise ExportError(
            f"the exported model differs from the PyTorch model in '{worst.output}' ({where}), so '{path}' was not "
            "written",
            expected=f"at most {worst.tolerance:.3g}",
            got=f"{worst.max_abs_difference:.3g}",
            hint="The model's own output is not finite." if math.isnan(worst.max_abs_difference) else None,
        )


def _document(report: ExportReport, served: ServingModel, source: str | None, *, opset: int) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")}
    return {
        "model": _name(served),
        "source": source,
        "schema_fingerprint": served.schema.fingerprint(),
        "max_abs_difference": report.max_abs_difference,
        "batch_sizes": sorted({check.batch_size for check in report.checks}),
        "inputs": [port.to_dict() for port in report.inputs],
        "outputs": [port.to_dict() for port in report.outputs],
        "checks": [dataclasses.asdict(check) for check in report.checks],
        "versions": {"rechub_ray": _version(), **versions, "opset": opset},
        "seconds": report.seconds,
    }


def _name(served: ServingModel) -> str:
    return str(getattr(served.model, "registered_name", type(served.model).__name__))


def _version() -> str:
    try:
        return importlib.metadata.version("rechub_ray")
    except importlib.metadata.PackageNotFoundError:  # run from a clone
        return "unknown"


@contextlib.contextmanager
def _on_cpu_in_eval_mode(served: ServingModel) -> Iterator[None]:
    # moved rather than copied: tables are large, and an optimizer goes on with the same parameters
    model = served.model
    modes = {module: module.training for module in model.modules()}
    first: Tensor | None = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    try:
        served.cpu().eval()
        yield
    finally:
        model.to(device)
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporter, which prints, warns and logs what no user can act on; its errors come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
