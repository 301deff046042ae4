"""One piece of one parquet file -> checked, permuted, stacked rows. The hot path of ingest; knows nothing of Ray."""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs

from rechub_ray.data.block import Array, Block, Ragged, gather, id_type
from rechub_ray.data.manifest import check_columns, needed_columns
from rechub_ray.data.plan import Piece, permutation
from rechub_ray.data.shard import Footer, read_footer, read_row_group
from rechub_ray.errors import DataError
from rechub_ray.files import open_filesystem
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature


def read_piece(piece: Piece, schema: Schema, *, targets: bool = True) -> Block:
    """Read the schema's columns of the piece's row group, check every value, permute the rows, take the piece's share.

    Args:
        piece: which rows.
        schema: which columns, and what their values may be.
        targets: False for prediction: label, weight and group columns are not read; labels are NaN.

    Raises:
        DataError: the file cannot be read, changed since its manifest was made, or holds a value that the schema
            forbids; names file, row group, column, row and value.
    """
    where = f"{piece.file}, row group {piece.row_group}"
    table = read_columns(piece, needed_columns(schema, targets=targets), where)
    check_columns(table.schema, schema, targets=targets, where=piece.file)
    if piece.key is not None:
        group = _group(table, schema, where) if piece.by_group else None
        take: Array | None = _permuted(piece, group)
    elif piece.rows < piece.group_rows:
        take = np.arange(piece.start, piece.stop)
    else:
        take = None
    return stack(table, schema, targets=targets, where=where, take=take)


def read_whole(piece: Piece, schema: Schema, *, targets: bool = True) -> Block:
    """Return the whole row group of a piece as it stands in the file, for `pick` to take pieces from.

    Raises:
        DataError: as `read_piece`.
    """
    return read_piece(piece.whole, schema, targets=targets)


def pick(whole: Block, piece: Piece) -> Block:
    """Return the piece's rows of `read_whole`'s block, bit for bit the block of `read_piece`."""
    if piece.key is None:
        return whole.slice(piece.start, piece.stop)
    return whole.take(_permuted(piece, whole.group))


def group_starts(group: Array) -> Array:
    """Return the first row of each run of equal values; the rows are at least one."""
    return np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))


def _permuted(piece: Piece, group: Array | None) -> Array:
    """Return the piece's rows of its row group, in the order of its key; `group` is the row group's group column."""
    assert piece.key is not None
    if not piece.by_group:
        return permutation(piece.group_rows, *piece.key)[piece.start : piece.stop]
    assert group is not None
    starts = group_starts(group)
    lengths = np.diff(starts, append=len(group))
    order = permutation(len(starts), *piece.key)
    # a piece begins and ends with a group
    order = order[slice(*np.searchsorted(np.cumsum(lengths[order]), (piece.start, piece.stop), "right"))]
    lengths = lengths[order]
    return np.repeat(starts[order] - np.cumsum(lengths) + lengths, lengths) + np.arange(piece.rows)


def read_columns(piece: Piece, columns: list[str], where: str) -> pa.Table:
    """Return columns of the piece's whole row group, as they stand in the file.

    Args:
        piece: names the row group and the number of its rows.
        columns: their names.
        where: names the row group in errors.

    Raises:
        DataError: the file cannot be read, or changed since its manifest was made.
    """
    filesystem, path = open_filesystem(piece.file)
    try:
        info = filesystem.get_file_info(path)
        if info.type == pa.fs.FileType.NotFound:
            _changed(where, "no such file")
        footer = _footer(piece.file, info.size, info.mtime_ns)
        if piece.checksum and piece.checksum != footer.checksum:
            _changed(where, "another file of that name")
        if piece.row_group >= footer.metadata.num_row_groups:
            _changed(where, f"a file with {footer.metadata.num_row_groups} row groups")
        with filesystem.open_input_file(path) as stream:
            table = read_row_group(stream, footer, piece.row_group, columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot read {where}",
            got=str(error).split("\n")[0],
            hint="The file is damaged or was changed while it was read; write it again, or take it out.",
        ) from None
    if table.num_rows != piece.group_rows:
        _changed(where, f"{table.num_rows} rows where there were {piece.group_rows}")
    return table


# a footer lists every column of every row group, so parsing it again for each piece would cost more than the piece;
# size and time are in the key because the same path may be written anew within one process
@functools.lru_cache(maxsize=16)
def _footer(path: str, size: int, mtime_ns: int) -> Footer:
    filesystem, inside = open_filesystem(path)
    with filesystem.open_input_file(inside) as stream:
        return read_footer(stream)


def stack(table: pa.Table, schema: Schema, *, targets: bool, where: str, take: Array | None = None) -> Block:
    """Return the table's columns, checked and stacked by kind.

    Args:
        table: with the schema's columns, of types that `check_columns` accepts.
        schema: the columns and their bounds.
        targets: whether label, weight and group columns are there.
        where: names the table in errors.
        take: the rows to keep, in this order; None for all as they stand. All rows are checked.

    Raises:
        DataError: a value that the schema forbids.
    """
    names = [feature.name for feature in schema.sparse]
    ids = np.empty((len(names), table.num_rows), id_type(schema))
    for row, feature in zip(ids, schema.sparse, strict=True):
        row[:] = _checked_ids(_values(_array(table, feature.name), feature.name, where), feature, where)
    dense = np.empty((schema.dense_dim, table.num_rows), np.float32)
    start = 0
    for column in schema.dense:
        dense[start : start + column.dim] = _dense(table, column, where)
        start += column.dim
    labels = np.full((len(schema.targets), table.num_rows), np.nan, np.float32)
    weight = group = None
    if targets:
        for row, label in zip(labels, schema.targets, strict=True):
            row[:] = _label(table, label, where)
        weight = None if schema.weight is None else _weight(table, schema.weight, where)
        if schema.group is not None:
            group = _group(table, schema, where)
    row_id = None if schema.row_id is None else _array(table, schema.row_id)
    for lists in schema.sequences:
        if lists.aligned_with is not None:
            _check_lengths(table, lists, lists.aligned_with, where)
    return Block(
        _rows_first(ids, take),
        _rows_first(dense, take),
        tuple(_ragged(table, feature, where, take, id_type(schema)) for feature in schema.sequences),
        _rows_first(labels, take),
        weight if weight is None or take is None else weight[take],
        group if group is None or take is None else group[take],
        row_id if row_id is None or take is None else row_id.take(pa.array(take)),
    )


def _rows_first(columns: Array, take: Array | None) -> Array:
    """Return (F, n) as (n, F), row after row in memory.

    The transpose comes first: picking whole rows touches each cache line once.
    """
    rows = np.ascontiguousarray(columns.T)
    return rows if take is None else rows.take(take, axis=0)


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _values(column: pa.Array, name: str, where: str, per_row: int = 1, hint: str | None = None) -> Array:
    """Return the column as NumPy, without a copy for numbers; nulls are refused."""
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py() // per_row
        hint = hint or "`rechub-ray prepare` turns nulls into id 0 or a fill value."
        refuse(where, name, row, "null", "a value in every row", hint)
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _checked_ids(
    values: Array, feature: SparseFeature | SequenceFeature, where: str, rows: Array | None = None
) -> Array:
    if len(values) and (values.min() < 0 or values.max() >= feature.vocab_size):
        at = int(np.argmax((values < 0) | (values >= feature.vocab_size)))
        row = at if rows is None else int(np.searchsorted(rows, at, "right")) - 1
        refuse(where, feature.name, row, values[at], f"an id in [0, {feature.vocab_size})", _PREPARED)
    return values


def _dense(table: pa.Table, feature: DenseFeature, where: str) -> Array:
    column = _array(table, feature.name)
    if feature.dim > 1:
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
        if (lengths != feature.dim).any():
            row = int(np.argmax(lengths != feature.dim))
            got = "null" if lengths[row] < 0 else f"{lengths[row]} numbers"
            refuse(where, feature.name, row, got, f"a list of {feature.dim} numbers")
        column = column.flatten()
    values = _values(column, feature.name, where, feature.dim)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused below
        values = values.astype(np.float32, copy=False)
    _check_finite(values, feature.name, where, feature.dim)
    return values.reshape(-1, feature.dim).T


def _label(table: pa.Table, label: Label, where: str) -> Array:
    """Return the label's values in float32; NaN where an optional label is missing."""
    column = _array(table, label.name)
    if label.optional:
        filled: Array = column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # null becomes NaN
        missing = np.isnan(filled)
    else:
        hint = "A label that some rows lack is `optional: true`."
        filled = _values(column, label.name, where, hint=hint)
        missing = np.zeros(len(filled), bool)
    with np.errstate(over="ignore"):
        values = filled.astype(np.float32, copy=False)
    if label.kind == "regression":
        is_right, expected = np.isfinite(values), "a finite number"
    elif label.kind == "multiclass":
        top = int(label.num_classes or 0)
        is_right = (values >= 0) & (values < top) & (np.floor(values) == values)
        expected = f"a class id in [0, {top})"
    else:
        is_right, expected = (values == 0) | (values == 1), "0 or 1 in a binary label"
    is_right = is_right | missing
    if not is_right.all():
        row = int(np.argmin(is_right))
        refuse(where, label.name, row, values[row], expected)
    return values


def _weight(table: pa.Table, name: str, where: str) -> Array:
    with np.errstate(over="ignore"):
        values = _values(_array(table, name), name, where).astype(np.float32, copy=False)
    _check_finite(values, name, where)
    if (values < 0).any():
        row = int(np.argmax(values < 0))
        refuse(where, name, row, values[row], "a weight >= 0")
    return values


def _group(table: pa.Table, schema: Schema, where: str) -> Array:
    assert schema.group is not None
    return _values(_array(table, schema.group), schema.group, where).astype(np.int64, copy=False)


def _ragged(table: pa.Table, feature: SequenceFeature, where: str, take: Array | None, kind: type[Any]) -> Ragged:
    """Return the lists of the kept rows; a null list counts as empty, the last `max_length` ids of a list are kept."""
    column = _array(table, feature.name)
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), out=offsets[1:])
    flat = column.flatten()
    if flat.null_count:
        at = pc.index(flat.is_null(), True).as_py()
        row = int(np.searchsorted(offsets, at, "right")) - 1
        refuse(where, feature.name, row, "null in a list", "ids only", _PREPARED)
    values = _checked_ids(flat.to_numpy(zero_copy_only=False), feature, where, offsets).astype(kind, copy=False)
    begins, ends = offsets[:-1], offsets[1:]
    if take is not None:
        begins, ends = begins[take], ends[take]
    lengths = np.minimum(ends - begins, feature.max_length)
    if take is None and int(lengths.sum()) == len(values):
        return Ragged(values, offsets)
    return gather(values, ends, lengths)


def _check_lengths(table: pa.Table, feature: SequenceFeature, other: str, where: str) -> None:
    one, two = (pc.fill_null(pc.list_value_length(_array(table, name)), 0) for name in (feature.name, other))
    row = pc.index(pc.not_equal(one, two), True).as_py()
    if row >= 0:
        refuse(where, feature.name, row, f"{one[row]} values", f"as many as in '{other}': {two[row]}")


def _check_finite(values: Array, name: str, where: str, per_row: int = 1) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        at = int(np.argmin(finite))
        refuse(where, name, at // per_row, values[at], "a finite number")


_PREPARED = "Was this file written for another schema.json? `rechub-ray prepare` maps raw values to ids."


class BadValue(DataError):
    """A value that the schema forbids, in `column` and `row` (from 0) of a table."""

    column, row = "", -1


def refuse(where: str, column: str, row: int, got: object, expected: str, hint: str | None = None) -> NoReturn:
    """Refuse a value of a table.

    Args:
        where: names the table.
        column: its column.
        row: its row, from 0.
        got: the value.
        expected: the values that are allowed.
        hint: what to do; None for none.

    Raises:
        BadValue: always.
    """
    error = BadValue(f"{where}: column '{column}', row {row}, holds a bad value", expected=expected, got=got, hint=hint)
    error.column, error.row = column, row
    raise error


def _changed(where: str, got: str) -> NoReturn:
    raise DataError(
        f"{where} changed since the run looked at it",
        got=got,
        hint="Do not write into a folder that is being trained on; start again.",
    )
