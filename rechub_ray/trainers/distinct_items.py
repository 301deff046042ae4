"""The item table of rows that hold their item's columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rechub_ray.data.fingerprint import ITEMS
from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import DataError
from rechub_ray.files import join, open_filesystem
from rechub_ray.schema import COUNT, DenseFeature, Schema

_ROW_GROUP_ROWS = 16_384


def with_items(schema: Schema) -> Schema:
    """Return the schema of rows that hold their item's features and all lists of items as well."""
    lists = () if schema.items is None else schema.items.lists
    return dataclasses.replace(schema.with_lists(lists).joined, group=schema.group)


def write_distinct_items(train: str, valid: str | None, root: str, schema: Schema) -> int:
    """Write the item table of rows as `with_items` says, and return how many items it has.

    Items that lists alone name are in it where items have no features; otherwise nothing is known of them.

    Args:
        train: the shards of the training rows, of which those count whose first label, if there is one, is above 0.
        valid: those of the validation rows; None where there are none.
        root: the folder of the data set.
        schema: of its rows.

    Raises:
        DataError: an item has two values of a feature, or its id is below 1.
    """
    from rechub_ray.preparation.items import RowsOfItems  # takes a while to import

    items, side = schema.items, schema.item_side
    assert items is not None
    label = schema.labels[0].name if schema.labels else None
    own = [feature.name for feature in side.features[1:]]
    lists = [] if own else list(items.lists)
    found, size = RowsOfItems(), side.sparse[0].vocab_size
    counts, is_there = np.zeros(size, np.int64), np.zeros(size, bool)
    for path in filter(None, (train, valid)):
        for rows in _tables(path, [items.id, *own, *lists, *([label] if label else [])]):
            ids: npt.NDArray[np.int64] = rows[items.id].to_numpy().astype(np.int64)
            if len(ids) and ids.min() < 1:
                raise DataError(
                    f"column '{items.id}' holds the id {ids.min()}",
                    expected="ids of items from 1 on: 0 stands for unknown ones",
                    hint=f"`frame['{items.id}'] += 1` makes room, with a vocab_size that is larger by one.",
                )
            is_there[ids] = True
            for name in lists:
                is_there[rows[name].combine_chunks().flatten().to_numpy()] = True
            if path == train:
                counted = ids if label is None else ids[rows[label].to_numpy() > 0]
                counts += np.bincount(counted, minlength=size)
            if own:
                _add(found, ids, {name: _plain(rows[name]) for name in own})
    is_there[0] = False
    places = np.flatnonzero(is_there)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {items.id: pa.array(places)}
    table = found.table()
    if table is not None:
        order = pa.array(np.argsort(table.column(0).cast(pa.int64()).to_numpy()))
        columns |= {f.name: _typed(table[f.name].take(order), f) for f in side.features[1:]}
    columns[COUNT] = pa.array(counts[places])
    _write(pa.table(columns), join(root, ITEMS))
    return len(places)


def write_all_ids(train: str | None, root: str, schema: Schema) -> None:
    """Write the item table of all ids from 1 on, with the number of training rows of each.

    Args:
        train: the shards of the training rows; None where there are none yet.
        root: the folder of the data set.
        schema: of its rows; its items have no features.
    """
    item = schema.item_side.sparse[0]
    counts = np.zeros(item.vocab_size, np.int64)
    for rows in _tables(train, [item.name]) if train is not None else ():
        counts += np.bincount(rows[item.name].to_numpy(), minlength=item.vocab_size)
    _write(pa.table({item.name: np.arange(1, item.vocab_size), COUNT: counts[1:]}), join(root, ITEMS))


def copy_items(source: str, root: str) -> None:
    """Copy the item table of a prepared data set, where it has one, into the folder of another."""
    filesystem, folder = open_filesystem(join(source, ITEMS))
    if filesystem.get_file_info(folder).type != pafs.FileType.Directory:
        return
    other, target = open_filesystem(join(root, ITEMS))
    other.create_dir(target, recursive=True)
    other.delete_dir_contents(target)
    pafs.copy_files(folder, target, source_filesystem=filesystem, destination_filesystem=other)


def _add(found: object, ids: npt.NDArray[np.int64], features: dict[str, pa.Array]) -> None:
    from rechub_ray.preparation.items import RowsOfItems

    assert isinstance(found, RowsOfItems)
    try:
        found.add(pa.array(ids).cast(pa.string()), features)
    except DataError as error:
        raise DataError(
            error.message,
            expected="the same in all rows of an item",
            got=error.got,
            hint="What differs from row to row is a feature of users, or of the rows.",
        ) from None


def _tables(path: str, columns: list[str]) -> Iterator[pa.Table]:
    filesystem, root = open_filesystem(path)
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)):
        if info.path.endswith(".parquet"):
            with filesystem.open_input_file(info.path) as source:
                for batch in pq.ParquetFile(source).iter_batches(_ROW_GROUP_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column, vectors as lists of any length."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.cast(pa.list_(values.type.value_type))
    return values


def _typed(column: pa.ChunkedArray, feature: object) -> pa.ChunkedArray:
    if isinstance(feature, DenseFeature) and feature.dim > 1:
        return column.cast(pa.list_(pa.float32(), feature.dim))
    return column


def _write(table: pa.Table, folder: str) -> None:
    filesystem, root = open_filesystem(folder)
    filesystem.create_dir(root, recursive=True)
    filesystem.delete_dir_contents(root)
    with (
        filesystem.open_output_stream(f"{root}/part-00000.parquet") as sink,
        SealedWriter(sink, table.schema) as writer,
    ):
        writer.write_table(table, _ROW_GROUP_ROWS)
