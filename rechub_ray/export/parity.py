"""Comparison of an ONNX file's outputs with the PyTorch model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.errors import ExportError
from rechub_ray.export.serving import ServingModel
from rechub_ray.schema import DenseFeature, Schema, SequenceFeature, SparseFeature

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]
Case = tuple[Inputs, dict[str, Array], int, str | None]
"""The inputs of one batch, what PyTorch computes by output, number of rows, name of the sequences' length."""

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Float32 sums of some hundred terms in another order differ by less; wrong operators differ by far more."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        batch_size: number of rows.
        length: of the longest sequence; None without sequences.
        output: its name.
        max_abs_difference: over the rows.
        tolerance: the largest difference allowed: 1e-6 + 1e-5 of the output's largest value in all comparisons (that
            of a few rows may be close to 0, where a sum's rounding is not).
        inputs: `encoded` or `raw`.
    """

    batch_size: int
    length: str | None
    output: str
    max_abs_difference: float
    tolerance: float
    inputs: str = "encoded"

    @property
    def passed(self) -> bool:
        return self.max_abs_difference <= self.tolerance  # False for NaN


def compare(served: ServingModel, path: str, *, batch_sizes: Sequence[int], seed: int = 0) -> list[Check]:
    """Compare the ONNX file with the PyTorch model on the same random rows.

    PyTorch does not go through the code that was exported: it gets ragged sequences and ids that NumPy has mapped, as
    in training. For every batch size, sequences of length 1, of random length, and of the schema's `max_length`.

    Args:
        served: the exported model, in evaluation mode, on the CPU.
        path: the ONNX file.
        batch_sizes: rows of the batches, >= 1.
        seed: of the random rows.

    Raises:
        ExportError: onnxruntime cannot load or run the file.
    """
    drawn = cases(served.schema, batch_sizes, seed)
    return run(
        path,
        [port.name for port in served.outputs],
        ((inputs, reference(served, inputs), rows, length) for inputs, rows, length in drawn),
    )


def run(path: str, names: Sequence[str], cases: Iterable[Case], *, inputs: str = "encoded") -> list[Check]:
    """Compare an ONNX file with what PyTorch computes.

    Args:
        path: the ONNX file.
        names: of its outputs.
        cases: what it is given, and what is expected.
        inputs: as in `Check`.

    Raises:
        ExportError: onnxruntime cannot load or run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    found: list[tuple[int, str | None, str, Array, Array]] = []
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for fed, expected, batch_size, length in cases:
            for name, value in zip(names, session.run(names, fed), strict=True):
                found.append((batch_size, length, name, np.asarray(value), expected[name]))
    except Exception as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(
            "onnxruntime cannot run the exported model",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
            hint="If it fails at a batch size or length, the model's code depends on the size of the example.",
        ) from error
    largest = {name: max(float(np.abs(e).max(initial=0.0)) for *_, n, _, e in found if n == name) for name in names}
    checks = (_check(*comparison, largest[comparison[2]]) for comparison in found)
    return [dataclasses.replace(check, inputs=inputs) for check in checks]


def cases(schema: Schema, batch_sizes: Sequence[int], seed: int = 0) -> Iterator[tuple[Inputs, int, str | None]]:
    """Yield random inputs of every batch size and length: (by feature, batch size, name of the length)."""
    rng = np.random.default_rng(seed)
    for rows in batch_sizes:
        for length in ("1", "random", "max_length") if schema.sequences else (None,):
            drawn = {f.name: _draw(f, rows, length, rng) for f in schema.features}
            for f in schema.sequences:
                if f.aligned_with is not None:
                    drawn[f.name] = _aligned(f, drawn[f.aligned_with], rng)
            yield drawn, rows, length


def reference(served: ServingModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what PyTorch computes, by the name of the served model's output."""
    with torch.no_grad():
        outputs = served.model(training_features(served.schema, inputs))
    return {
        item.name: item.of({item.source.name: outputs[item.source.name].double()}).numpy() for item in served.served
    }


def training_features(schema: Schema, inputs: Mapping[str, Array]) -> Features:
    """Return the inputs of a served model in the form that they have in training."""
    rows = len(inputs[schema.feature_names[0]])
    sparse = np.zeros((rows, len(schema.sparse)), np.int64)
    for i, feature in enumerate(schema.sparse):
        sparse[:, i] = _known(inputs[feature.name], feature.vocab_size)
    dense = [np.zeros((rows, 0), np.float32), *(inputs[f.name].reshape(rows, f.dim) for f in schema.dense)]
    features = Features(torch.from_numpy(sparse), torch.from_numpy(np.concatenate(dense, 1)))
    if schema.sequences:
        lists = [_known(row[row >= 0], f.vocab_size) for f in schema.sequences for row in inputs[f.name]]
        offsets = np.cumsum([0, *map(len, lists)])
        features.sequences = RaggedSequences(_int64(np.concatenate(lists)), _int64(offsets))
    return features


def _draw(
    feature: SparseFeature | DenseFeature | SequenceFeature, rows: int, length: str | None, rng: np.random.Generator
) -> Array:
    if isinstance(feature, DenseFeature):
        return rng.normal(size=rows if feature.dim == 1 else (rows, feature.dim)).astype(np.float32)
    borders = [0, feature.vocab_size - 1, feature.vocab_size, 2**40]
    if isinstance(feature, SparseFeature):
        return _ids(feature.vocab_size, rows, [*borders, -1, -(2**40)], rng)
    last = feature.max_length
    longest = {"1": 1, "max_length": last}.get(str(length)) or int(rng.integers(1, last, endpoint=True))
    ids = _ids(feature.vocab_size, rows * longest, borders, rng).reshape(rows, longest)
    lengths = rng.integers(0, longest, rows, endpoint=True)
    lengths[:2] = rng.permutation([0, longest])[:rows]  # an empty and a full one
    return np.where(np.arange(longest) < lengths[:, None], ids, -1)


def _aligned(feature: SequenceFeature, other: Array, rng: np.random.Generator) -> Array:
    """Return as many values in every row as `other` has."""
    borders = [0, feature.vocab_size - 1, feature.vocab_size, 2**40]
    return np.where(other >= 0, _ids(feature.vocab_size, other.size, borders, rng).reshape(other.shape), -1)


def _ids(vocab_size: int, count: int, borders: Sequence[int], rng: np.random.Generator) -> Array:
    """Return random ids, with every border among them where there is room."""
    ids = rng.integers(0, vocab_size, count)
    places = rng.permutation(count)[: len(borders)]
    ids[places] = rng.permutation(borders)[: len(places)]
    return ids


def _known(ids: Array, vocab_size: int) -> Array:
    return np.where((ids >= 0) & (ids < vocab_size), ids, 0)


def _int64(values: Array) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _check(batch_size: int, length: str | None, output: str, got: Array, expected: Array, largest: float) -> Check:
    if got.shape != expected.shape:
        raise ExportError(
            f"output '{output}' of the exported model has another shape at batch size {batch_size}",
            expected=expected.shape,
            got=got.shape,
        )
    difference = float(np.abs(got - expected).max()) if got.size else 0.0
    return Check(batch_size, length, output, difference, ABSOLUTE + RELATIVE * largest)
