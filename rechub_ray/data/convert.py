"""Rows from memory or from a stream as a parquet shard that fits the schema."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from torch import Tensor

from rechub_ray.data.manifest import check_columns, needed_columns
from rechub_ray.data.reader import BadValue, refuse, stack
from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import DataError, nearest
from rechub_ray.files import exists, open_filesystem, reason
from rechub_ray.schema import DenseFeature, Schema, SequenceFeature

ROW_GROUP_ROWS = 16_384
_ID = r"^[+-]?\d+(\.0*)?$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
NOTHING = -1  # fills up rectangles of ids unless the caller names another id


def write_rows(
    data: Any,
    folder: str,
    schema: Schema,
    *,
    padding: Mapping[str, int] | None = None,
    targets: bool = True,
    what: str = "the data",
) -> int:
    """Write rows as one parquet shard in many row groups, in their order; one row group is in memory at a time.

    Args:
        data: a pandas DataFrame, a pyarrow Table, a Ray Dataset, or an iterable (such as a torch DataLoader) of batches
            `({column: tensor}, labels)` or `{column: tensor}`. A rectangle (B, T) of ids becomes a list a row.
        folder: local path or URI; its earlier content is deleted.
        schema: the columns to write; others are left out.
        padding: id that stands for nothing, by sequence feature: it is dropped from the lists. In rectangles of the
            other features it is -1.
        targets: False writes features and row ids only.
        what: the data's name in messages.

    Returns:
        The number of rows, >= 1.

    Raises:
        DataError: no rows, a missing column or one that is there twice, a value that the schema forbids (with its row,
            from 0, and the DataFrame's index), a disk that is full. Nothing is left in `folder` then.
    """
    filesystem, root = open_filesystem(folder)
    tables = _in_row_groups(_typed(data, schema, padding or {}, targets, what))
    first = next(tables, None)  # an error in the first rows is raised before the folder is touched
    if first is None:
        raise DataError(f"{what}: no rows", expected="at least one")
    rows = 0
    try:
        if exists(filesystem, root, kind=pa.fs.FileType.Directory):
            filesystem.delete_dir(root)
        filesystem.create_dir(root, recursive=True)
        with (
            filesystem.open_output_stream(f"{root}/part-00000.parquet") as sink,
            SealedWriter(sink, first.schema) as out,
        ):
            for table in itertools.chain([first], tables):
                out.write_table(table, row_group_size=ROW_GROUP_ROWS)
                rows += table.num_rows
    except BaseException as error:
        with contextlib.suppress(OSError):
            filesystem.delete_dir_contents(root, missing_dir_ok=True)
        if isinstance(error, OSError):
            raise DataError(f"{what}: cannot write into '{folder}'", got=reason(error)) from None
        raise
    return rows


def arrow_types(schema: Schema) -> dict[str, pa.DataType]:
    """Return the type of each column in a shard, but for the row id, which keeps its own."""

    def ids(vocab_size: int) -> pa.DataType:
        return pa.int32() if vocab_size <= 2**31 else pa.int64()

    types: dict[str, pa.DataType] = {label.name: pa.float32() for label in schema.targets}
    if schema.weight is not None:
        types[schema.weight] = pa.float32()
    if schema.group is not None:
        types[schema.group] = pa.int64()
    for feature in schema.features:  # after the group, which may be a feature's column
        if isinstance(feature, SequenceFeature):
            types[feature.name] = pa.list_(ids(feature.vocab_size))
        elif isinstance(feature, DenseFeature):
            types[feature.name] = pa.float32() if feature.dim == 1 else pa.list_(pa.float32(), feature.dim)
        else:
            types[feature.name] = ids(feature.vocab_size)
    return types


def _in_row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of exactly ROW_GROUP_ROWS, but for the last one."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= ROW_GROUP_ROWS:
            joined = pa.concat_tables(waiting)
            full = rows - rows % ROW_GROUP_ROWS
            for start in range(0, full, ROW_GROUP_ROWS):
                yield joined.slice(start, ROW_GROUP_ROWS).combine_chunks()
            waiting, rows = [joined.slice(full)], rows - full
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _typed(data: Any, schema: Schema, padding: Mapping[str, int], targets: bool, what: str) -> Iterator[pa.Table]:
    names, types = needed_columns(schema, targets=targets), arrow_types(schema)
    first = 0
    for table in _tables(data, schema, names, targets, what):
        try:
            table = _with_numbers(table, schema, names, what)
            check_columns(table.schema, schema, targets=targets, where=what)
            columns = {}
            for name in names:
                column = table.column(name).combine_chunks()
                if name in padding:
                    column = _without(column, padding[name])
                columns[name] = _cast(column, types[name], name, what) if name in types else column
            typed = pa.table(columns)
            stack(typed, schema, targets=targets, where=what)
        except BadValue as error:
            raise _in_the_users_words(error, data, first, schema, what) from None
        first += table.num_rows
        yield typed


def _with_numbers(table: pa.Table, schema: Schema, names: list[str], what: str) -> pa.Table:
    """Return the table with categories as their values, numbers in text as numbers, and whole numbers as ids."""
    ids = {feature.name for feature in schema.sparse} | {schema.group}
    numbers = {label.name for label in schema.targets} | {feature.name for feature in schema.dense} | {schema.weight}
    for name in names:
        place = table.schema.get_field_index(name)
        if place < 0:  # missing, or there several times: check_columns says so
            continue
        column = table.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if name in ids | numbers and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            column = _parsed(column, name, what, is_id=name in ids)
        if name in ids and pa.types.is_floating(column.type):
            column = _whole(column, name, what)
        table = table.set_column(place, name, column)
    return table


def _parsed(texts: pa.Array, name: str, what: str, *, is_id: bool) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(texts)
    try:
        return trimmed.cast(pa.float64() if not is_id else pa.int64())
    except pa.ArrowInvalid:
        wrong = pc.invert(pc.match_substring_regex(trimmed, _ID if is_id else _NUMBER))
    row = pc.index(pc.fill_null(wrong, False), True).as_py()
    if row >= 0:
        hint = "Turn the texts into numbers first."
        if is_id:
            hint = (
                f"`pandas.factorize(frame['{name}'])[0] + 1` numbers them (0 stands for unknown ones), if training and "
                "validation are numbered together; `rechub-ray prepare` does so for data of any size."
            )
        refuse(what, name, row, repr(texts[row].as_py()), "whole numbers from 0" if is_id else "a number", hint)
    return trimmed.cast(pa.float64())  # 7.0 for an id


def _whole(values: pa.Array, name: str, what: str) -> pa.Array:
    """Return whole numbers that came as floats, because of a null or a loader, as integers; NaN is null."""
    values = pc.if_else(pc.is_nan(values), None, values)
    wrong = pc.invert(pc.equal(values, pc.floor(values)))
    row = pc.index(pc.fill_null(wrong, False), True).as_py()
    if row >= 0:
        refuse(what, name, row, values[row].as_py(), "whole numbers: ids")
    return _cast(values, pa.int64(), name, what)


def _in_the_users_words(error: BadValue, data: Any, first: int, schema: Schema, what: str) -> DataError:
    """Return the error with the row counted in all of the data, the DataFrame's index, and a hint."""
    import pandas as pd

    row, hint = first + error.row, error.hint
    place = f"row {row}"
    if isinstance(data, pd.DataFrame):
        place += f" (index {data.index[row]!r})" if not isinstance(data.index, pd.RangeIndex) else ""
    is_label = any(label.name == error.column for label in schema.labels)
    if is_label and error.got == -1:
        hint = f"Labels of -1 and 1 become 0 and 1 by `frame['{error.column}'] = (frame['{error.column}'] > 0) * 1`."
    elif error.got == "null" and not is_label:
        is_id = any(feature.name == error.column for feature in schema.sparse)
        hint = f"`frame['{error.column}'].fillna(0)` fills it{': id 0 stands for unknown values' if is_id else ''}."
    return DataError(
        f"{what}: column '{error.column}', {place}, holds a bad value",
        expected=error.expected,
        got=error.got,
        hint=hint,
    )


def _cast(column: pa.Array, kind: pa.DataType, name: str, what: str) -> pa.Array:
    try:
        # ids must come through unchanged; numbers may lose digits, as they do on their way to the model
        return column.cast(kind, safe=not pa.types.is_floating(getattr(kind, "value_type", kind)))
    except pa.ArrowException as error:
        raise DataError(f"{what}: column '{name}' does not fit", expected=kind, got=str(error).split("\n")[0]) from None


def _without(lists: pa.Array, nothing: int) -> pa.Array:
    """Return the lists without the id that stands for nothing."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    values = lists.flatten()
    keep = pc.fill_null(pc.not_equal(values, nothing), True)
    rows = np.repeat(np.arange(len(lists)), lengths)[keep.to_numpy(zero_copy_only=False)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(lists)))])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values.filter(keep))


def _tables(data: Any, schema: Schema, names: list[str], targets: bool, what: str) -> Iterator[pa.Table]:
    import pandas as pd

    if isinstance(data, pa.Table):
        yield data
    elif isinstance(data, pd.DataFrame):
        _require(names, data.columns, what)
        places = {name: [i for i, column in enumerate(data.columns) if str(column) == name] for name in names}
        for name, found in places.items():
            if len(found) > 1:
                raise DataError(f"{what} has {len(found)} columns '{name}'", expected="one")
        for start in range(0, len(data), ROW_GROUP_ROWS):
            rows = data.iloc[start : start + ROW_GROUP_ROWS]
            yield pa.table({name: _series(rows.iloc[:, places[name][0]], name, schema, what) for name in names})
    elif hasattr(data, "iter_batches"):
        for table in data.iter_batches(batch_size=ROW_GROUP_ROWS, batch_format="pyarrow"):
            yield pa.table(table)
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        for batch in data:
            yield pa.table(_columns(batch, schema, names, targets, what))
    else:
        raise DataError(
            f"{what}: cannot read rows from this",
            expected="a parquet path, a pandas DataFrame, a pyarrow Table, a Ray Dataset or a DataLoader",
            got=type(data).__name__,
        )


def _require(names: list[str], known: Iterable[Any], what: str) -> None:
    known = [str(name) for name in known]
    for name in names:
        if name not in known:
            raise DataError(f"{what} has no column '{name}'", hint=nearest(name, known))


def _series(values: Any, name: str, schema: Schema, what: str) -> pa.Array:
    # lists that happen to be empty have no type of their own
    is_sequence = any(feature.name == name for feature in schema.sequences)
    try:
        array = pa.array(values, type=pa.list_(pa.int64()) if is_sequence else None, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        expected = "lists of integers" if is_sequence else "values of one type"
        raise DataError(f"{what}: column '{name}' does not fit", expected=expected, got=error) from None
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _columns(batch: Any, schema: Schema, names: list[str], targets: bool, what: str) -> dict[str, pa.Array]:
    """Return the columns of one batch `({column: tensor}, labels)` or `{column: tensor}`."""
    labels = None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        batch, labels = batch
    if not isinstance(batch, Mapping):
        raise DataError(
            f"{what}: a batch is not what it should be",
            expected="({feature name: tensor}, labels), as DataGenerator's loaders give",
            got=type(batch).__name__,
        )
    own = {label.name for label in schema.labels} if labels is not None else set()
    _require([name for name in names if name not in own], batch, what)
    found = {name: _array(batch[name]) for name in names if name not in own}
    if targets and labels is not None:
        columns = _array(labels)
        columns = columns.reshape(-1, 1) if columns.ndim == 1 else columns
        if columns.shape[1] != len(schema.labels):
            wanted = ", ".join(label.name for label in schema.labels)
            raise DataError(
                f"{what}: wrong number of labels", expected=f"{len(schema.labels)} ({wanted})", got=columns.shape[1]
            )
        found |= {label.name: columns[:, i] for i, label in enumerate(schema.labels)}
    return {name: _arrow(values, name, schema, what) for name, values in found.items()}


def _array(values: Any) -> np.ndarray[Any, Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _arrow(values: np.ndarray[Any, Any], name: str, schema: Schema, what: str) -> pa.Array:
    feature = next((feature for feature in schema.features if feature.name == name), None)
    is_list = isinstance(feature, SequenceFeature)
    if is_list and np.issubdtype(values.dtype, np.floating):  # a loader that turns everything into floats
        whole = np.isfinite(values) & (values == np.floor(values))
        if not whole.all():
            raise DataError(f"{what}: column '{name}' does not fit", expected="ids", got=values[~whole][0])
        values = values.astype(np.int64)
    if isinstance(feature, SequenceFeature):
        values = values.reshape(len(values), -1)
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim > 2:
        raise DataError(f"{what}: column '{name}' does not fit", expected="(B,) or (B, T)", got=values.shape)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
    return _without(lists, NOTHING) if isinstance(feature, SequenceFeature) else lists
