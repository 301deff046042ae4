"""Raw rows for the comparison of a model of raw values with PyTorch: real ones where they are still there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.data.block import Array
from rechub_ray.data.fingerprint import RECIPE, homes
from rechub_ray.errors import ExportError, RechubError
from rechub_ray.export.raw import RawInput, RawInputs
from rechub_ray.export.raw_graph import knows_all, separator
from rechub_ray.files import join, read_text
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.rows import RowReader, SideTable
from rechub_ray.preparation.sources import Source, plan
from rechub_ray.preparation.transforms import (
    BucketTransform,
    CategoricalTransform,
    Numbers,
    NumericTransform,
    SequenceTransform,
    Transform,
    Vocabulary,
    other_form,
)
from rechub_ray.preparation.values import Flaws, flat, is_list, list_array, to_lists, to_text
from rechub_ray.schema import DenseFeature, SequenceFeature

if TYPE_CHECKING:
    from rechub_ray.config import RunConfig
    from rechub_ray.export.parity import Case, Inputs
    from rechub_ray.export.serving import ServingModel

UNSEEN = "\N{REPLACEMENT CHARACTER} no value of any data"
"""Any text that no vocabulary holds."""


@dataclasses.dataclass(frozen=True)
class RawRows:
    """Values of every raw input: texts, numbers or lists, null where one is missing.

    Args:
        values: by input.
        source: the columns that are real, and where they are from; None where all are drawn.
    """

    values: dict[str, pa.Array]
    source: dict[str, Any] | None


def raw_rows(raw: RawInputs, count: int, seed: int = 0) -> RawRows:
    """Return rows of the files that a run's data was prepared from, where these can still be read.

    Columns that cannot (histories, which `prepare` makes) are drawn from the vocabularies. A tenth of the values is
    then made missing, unseen, of the other form of a whole number, empty or longer than the longest list.

    Raises:
        ExportError: the files hold lists that are written as JSON, which ONNX cannot read.
    """
    rng = np.random.default_rng(seed)
    found = None if raw.config is None else _real(raw.config, rng.permutation(count))
    values, real = {}, []
    for item in raw.inputs:
        column = None
        if found is not None and item.port.column in found[1].column_names:
            column = read_input(item, found[1])
        if column is not None and len(column):
            real.append(item.port.column)
            column = column.take(pa.array(np.arange(count) % len(column)))
        else:
            column = _drawn(item, count, rng)
        values[item.port.name] = _varied(item, column, rng)
    source = {"files": found[0], "columns": list(dict.fromkeys(real))} if found is not None and real else None
    return RawRows(values, source)


def cases(served: ServingModel, raw: RawInputs, rows: RawRows, batch_sizes: Sequence[int]) -> Iterator[Case]:
    """Yield for every batch size the raw inputs of the first rows and what PyTorch makes of the encoder's columns."""
    from rechub_ray.export.parity import reference  # imports PyTorch, which `recommend` does without

    for size in batch_sizes:
        inputs: Inputs = {}
        encoded: Inputs = {}
        for item in raw.inputs:
            values = rows.values[item.port.name].slice(0, size)
            inputs[item.port.name] = fed(item, values)
            for transform in item.transforms:
                column = transform.encode(_parsed(item, transform, values)[0])
                encoded[transform.spec.name] = _padded(raw, transform.spec.name, column)
        yield inputs, reference(served, encoded), size, None


def _real(config: RunConfig, order: Array) -> tuple[list[str], pa.Table] | None:
    """Return the names of raw files and some of their rows; None where they cannot be read any more."""
    try:
        for home in homes(config.data.root, config.data.schema_file, config.data.train).values():
            recipe = Recipe.from_dict(json.loads(read_text(join(home, RECIPE))))
            source = Source.open(recipe.source)
            tasks = plan(source, recipe.files, recipe.input_columns, recipe.uses, recipe.where)
            sides = tuple(SideTable.read(source, side, recipe.uses) for side in recipe.joins)
            reader = RowReader(source, recipe, tuple(dict.fromkeys(task.file for task in tasks)), sides)
            whole = (dataclasses.replace(c, type=None) if c.separator is not None else c for c in tasks[0].columns)
            for rows, _ in reader.joined(dataclasses.replace(tasks[0], columns=tuple(whole))):  # texts are not cut yet
                table = rows.table
                if table.num_rows:
                    return [tasks[0].file], table.take(pa.array(order % table.num_rows))
    except (RechubError, pa.ArrowException, OSError, ValueError, LookupError):
        pass
    return None


def read_input(item: RawInput, table: pa.Table) -> pa.Array:
    """Return a column of raw rows as an input takes it, without rows that `prepare` refuses.

    Raises:
        ExportError: it has lists that are written as JSON, which no ONNX file can read.
    """
    first, name = item.transforms[0], item.port.column
    if item.port.form != "text":
        flaws = Flaws(table.num_rows)
        return first.parse(table, flaws).filter(pa.array(flaws.good))
    column = flat(table[name])
    cut = _cut(item)
    if is_list(column.type):
        values = _joined(to_lists(column, None), cut or " ")
    else:
        values = to_text(column, name)
    if cut is not None:
        plain = [[part or None for part in text.split(cut)] if text else [] for text in values.to_pylist()]
        if to_lists(values, cut, name, Flaws(len(values))).to_pylist() != plain:
            raise ExportError(
                f"the raw column '{name}' has lists that are written as JSON or Python write them, which no ONNX file "
                "can read",
                expected=f"texts cut at '{cut}'",
                hint="Export with --inputs encoded, or prepare the data from such texts.",
            )
    good = np.logical_and.reduce([_parsed(item, transform, values)[1].good for transform in item.transforms])
    return values.filter(pa.array(good))


def _parsed(item: RawInput, transform: Transform, values: pa.Array) -> tuple[pa.Array, Flaws]:
    """Return an input's values as a transform takes them, and the rows that `prepare` refuses."""
    flaws = Flaws(len(values))
    if item.port.form != "text":
        return values, flaws
    return transform.parse(pa.table({transform.spec.source: values}), flaws), flaws


def _cut(item: RawInput) -> str | None:
    """Return where an input's texts are cut, by the first of its transforms that does so."""
    return next((cut for transform in item.transforms if (cut := separator(transform)) is not None), None)


def _joined(lists: pa.ListArray, cut: str) -> pa.Array:
    texts = pc.fill_null(lists.flatten(), "")
    joined = pc.binary_join(list_array(lists, texts), cut)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


def _drawn(item: RawInput, count: int, rng: np.random.Generator) -> pa.Array:
    """Return values for an input: those that its first transform knows, and others."""
    transform = item.transforms[0]
    cut = separator(transform)
    if isinstance(transform, CategoricalTransform):
        return _texts(transform, count, rng)
    if isinstance(transform, SequenceTransform):
        lengths = rng.integers(0, transform.spec.max_length, count, endpoint=True)
        offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
        lists = pa.ListArray.from_arrays(offsets, _texts(transform, int(lengths.sum()), rng))
        return lists if cut is None else _joined(lists, cut)
    dim = transform.spec.dim if isinstance(transform, NumericTransform) else 1
    numbers = rng.normal(size=count * dim)
    if isinstance(transform, BucketTransform):
        borders = np.asarray(transform.boundaries or [0.0])
        numbers = np.where(numbers > 0, rng.choice(borders, count), borders.mean() + numbers * (np.ptp(borders) + 1))
    else:
        numbers = numbers * transform.scale + transform.shift
        if "log1p" in transform.spec.transforms:
            numbers = np.sign(numbers) * np.expm1(np.minimum(np.abs(numbers), 50))
    if dim == 1:
        return pa.array(numbers)
    offsets = pa.array(np.arange(count + 1) * dim, pa.int32())
    if cut is None:
        return pa.ListArray.from_arrays(offsets, pa.array(numbers))
    return _joined(pa.ListArray.from_arrays(offsets, pa.array([repr(float(number)) for number in numbers])), cut)


def _texts(transform: CategoricalTransform | SequenceTransform, count: int, rng: np.random.Generator) -> pa.Array:
    if isinstance(transform.ids, Numbers):
        return pa.array([str(number) for number in rng.integers(0, 2**32, count)], pa.string())
    if not isinstance(transform.ids, Vocabulary) or not len(transform.ids.values):
        return pa.array([f"välue {number}" for number in rng.integers(0, 1000, count)], pa.string())
    return transform.ids.values.take(pa.array(rng.integers(0, len(transform.ids.values), count)))


def _varied(item: RawInput, values: pa.Array, rng: np.random.Generator) -> pa.Array:
    """Return values of which some are missing, unseen or of another form, and lists of which some are long or empty."""
    cut = _cut(item)
    if cut is not None:
        texts = pc.fill_null(values, "")
        lists = pc.if_else(pc.equal(texts, ""), pa.scalar([], pa.list_(pa.string())), pc.split_pattern(texts, cut))
        if any(isinstance(transform, NumericTransform) for transform in item.transforms):
            parts = pc.if_else(pa.array(rng.random(len(lists.flatten())) < 0.05), None, lists.flatten())
            return _joined(list_array(lists, parts), cut)
        return _joined(_varied_lists(item, lists, rng), cut)
    if pa.types.is_list(values.type):
        return _varied_lists(item, values, rng)
    return _varied_values(values, rng)


def _varied_lists(item: RawInput, lists: pa.ListArray, rng: np.random.Generator) -> pa.ListArray:
    are_numbers = any(isinstance(getattr(transform, "ids", None), Numbers) for transform in item.transforms)
    lists = list_array(lists, _varied_values(lists.flatten(), rng, "1e6" if are_numbers else UNSEEN))
    if item.port.form == "numbers":
        return lists
    kinds = rng.choice(3, len(lists), p=[0.8, 0.1, 0.1])
    most = max(t.spec.max_length for t in item.transforms if isinstance(t, SequenceTransform))
    changed = [
        row if kind == 0 or not row else [] if kind == 1 else (row * most)[: most + 3]
        for kind, row in zip(kinds, lists.to_pylist(), strict=True)
    ]
    if any(map(knows_all, item.transforms)):
        for row in changed:  # no text stands for a missing value behind the last one
            while row and row[-1] is None:
                row.pop()
    return pa.array(changed, lists.type)


def _varied_values(values: pa.Array, rng: np.random.Generator, unseen: str = UNSEEN) -> pa.Array:
    kinds = rng.choice(4, len(values), p=[0.85, 0.05, 0.05, 0.05])
    if pa.types.is_string(values.type):
        values = pc.if_else(pa.array(kinds == 1), pa.scalar(unseen), values)
        others = other_form(values, pa.nulls(len(values), pa.int32()))
        values = pc.if_else(pa.array(kinds == 2), pc.coalesce(others, values), values)
    return pc.if_else(pa.array(kinds == 3), pa.scalar(None, values.type), values)


def fed(item: RawInput, values: pa.Array) -> Array:
    """Return an input's values as the exported model takes them."""
    rows, form = len(values), item.port.form
    if form in ("number", "numbers"):
        numbers = pc.fill_null(values.flatten() if form == "numbers" else values, np.nan)
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64).reshape(rows, *item.port.shape[1:])
    if form == "text":
        return np.array(pc.fill_null(values, "").to_pylist(), object)
    missing = "" if any(map(knows_all, item.transforms)) else UNSEEN
    lists = [[missing if text is None else text for text in row] for row in values.to_pylist()]
    longest = max(1, *map(len, lists))
    return np.array([[*row, *[""] * (longest - len(row))] for row in lists], object)


def _padded(raw: RawInputs, name: str, column: pa.Array) -> Array:
    """Return an encoded column as the encoded model takes it."""
    feature = raw.schema.feature(name)
    if isinstance(feature, DenseFeature):
        numbers = column if feature.dim == 1 else column.flatten()
        shape = (len(column),) if feature.dim == 1 else (len(column), feature.dim)
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float32).reshape(shape)
    if not isinstance(feature, SequenceFeature):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    lists = column.to_pylist()
    longest = max(1, *map(len, lists))
    return np.array([[*row, *[-1] * (longest - len(row))] for row in lists], np.int64)
