"""Rows in memory, stacked by kind: readers hand them to the sources, and Ray Data carries them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rechub_ray.schema import Schema

Array: TypeAlias = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Ragged:
    """One sequence feature: row i holds values[offsets[i]:offsets[i+1]]. A slice shares `values` with its origin.

    Shapes:
        values: (N,) int32 or int64.
        offsets: (rows+1,) int64, ascending; the first need not be 0.
    """

    values: Array
    offsets: Array

    def slice(self, start: int, stop: int) -> Ragged:
        return Ragged(self.values, self.offsets[start : stop + 1])

    def take(self, rows: Array) -> Ragged:
        """Return the given rows, in that order."""
        begins, ends = self.offsets[:-1][rows], self.offsets[1:][rows]
        return gather(self.values, ends, ends - begins)

    def trimmed(self) -> Ragged:
        """Return the same rows with offsets from 0, and no values of other rows."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        return Ragged(self.values[first:last], self.offsets - first)

    @staticmethod
    def concat(parts: Sequence[Ragged]) -> Ragged:
        parts = [part.trimmed() for part in parts]
        ends = np.cumsum([len(part.values) for part in parts])
        begins = ends - [len(part.values) for part in parts]
        offsets = [part.offsets[1:] + begin for part, begin in zip(parts, begins, strict=True)]
        return Ragged(
            np.concatenate([part.values for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
        )


def gather(values: Array, ends: Array, lengths: Array) -> Ragged:
    """Return rows of the `lengths` values before `ends`, next to each other."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    source = np.repeat(ends - lengths - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Ragged(values[source], offsets)


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Rows, stacked by kind in schema order. Read-only: its arrays may be shared with other blocks.

    Shapes:
        sparse: (n, F) int32, or int64 where a vocabulary needs it.
        dense: (n, D) float32.
        sequences: one a feature.
        labels: (n, L) float32, NaN where an optional label is missing or targets were not read.
        weight: (n,) float32.
        group: (n,) int64.
        row_id: n integers or strings.
    """

    sparse: Array
    dense: Array
    sequences: tuple[Ragged, ...]
    labels: Array
    weight: Array | None = None
    group: Array | None = None
    row_id: pa.Array | None = None

    @property
    def rows(self) -> int:
        return int(self.labels.shape[0])

    def slice(self, start: int, stop: int) -> Block:
        """Return the rows [start, stop), without a copy."""
        return Block(
            self.sparse[start:stop],
            self.dense[start:stop],
            tuple(sequence.slice(start, stop) for sequence in self.sequences),
            self.labels[start:stop],
            None if self.weight is None else self.weight[start:stop],
            None if self.group is None else self.group[start:stop],
            None if self.row_id is None else self.row_id.slice(start, stop - start),
        )

    def take(self, rows: Array) -> Block:
        """Return the given rows, in that order."""
        return Block(
            self.sparse.take(rows, axis=0),
            self.dense.take(rows, axis=0),
            tuple(sequence.take(rows) for sequence in self.sequences),
            self.labels.take(rows, axis=0),
            None if self.weight is None else self.weight[rows],
            None if self.group is None else self.group[rows],
            None if self.row_id is None else self.row_id.take(pa.array(rows)),
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays; a slice counts all `values` of the sequences that it shares with its origin."""
        arrays = [self.sparse, self.dense, self.labels, self.weight, self.group]
        arrays += [array for sequence in self.sequences for array in (sequence.values, sequence.offsets)]
        ids = 0 if self.row_id is None else self.row_id.nbytes
        return ids + sum(array.nbytes for array in arrays if array is not None)

    @staticmethod
    def concat(blocks: Sequence[Block]) -> Block:
        """Return the blocks one after the other, as a copy unless there is only one."""
        if len(blocks) == 1:
            return blocks[0]
        weights = [block.weight for block in blocks if block.weight is not None]
        groups = [block.group for block in blocks if block.group is not None]
        row_ids = [block.row_id for block in blocks if block.row_id is not None]
        return Block(
            np.concatenate([block.sparse for block in blocks]),
            np.concatenate([block.dense for block in blocks]),
            tuple(Ragged.concat(parts) for parts in zip(*(block.sequences for block in blocks), strict=True)),
            np.concatenate([block.labels for block in blocks]),
            np.concatenate(weights) if weights else None,
            np.concatenate(groups) if groups else None,
            pa.concat_arrays(row_ids) if row_ids else None,
        )

    def to_table(self) -> pa.Table:
        """Return an Arrow table that shares the block's memory: matrices become fixed-size lists."""
        columns = {"labels": _matrix(self.labels)} if self.labels.shape[1] else {"rows": pa.nulls(self.rows)}
        if self.sparse.shape[1]:
            columns["sparse"] = _matrix(self.sparse)
        if self.dense.shape[1]:
            columns["dense"] = _matrix(self.dense)
        for i, sequence in enumerate(self.sequences):
            trimmed = sequence.trimmed()
            columns[f"sequence/{i}"] = pa.LargeListArray.from_arrays(trimmed.offsets, pa.array(trimmed.values))
        if self.weight is not None:
            columns["weight"] = pa.array(self.weight)
        if self.group is not None:
            columns["group"] = pa.array(self.group)
        if self.row_id is not None:
            columns["row_id"] = self.row_id
        return pa.table(columns)

    @classmethod
    def from_table(cls, table: pa.Table, schema: Schema) -> Block:
        """Return the block behind `to_table`; it shares the table's memory where a column is in one chunk."""
        columns = {name: _one_chunk(table.column(name)) for name in table.column_names}
        nothing = np.empty((table.num_rows, 0), np.float32)
        labels = _unmatrix(columns["labels"]) if "labels" in columns else nothing
        return cls(
            _unmatrix(columns["sparse"]) if "sparse" in columns else nothing.astype(id_type(schema)),
            _unmatrix(columns["dense"]) if "dense" in columns else nothing,
            tuple(
                Ragged(column.values.to_numpy(), column.offsets.to_numpy())
                for column in (columns[f"sequence/{i}"] for i in range(len(schema.sequences)))
            ),
            labels,
            columns["weight"].to_numpy() if "weight" in columns else None,
            columns["group"].to_numpy() if "group" in columns else None,
            columns.get("row_id"),
        )


def id_type(schema: Schema) -> type[np.int32] | type[np.int64]:
    """Return the type of ids in blocks: int32, for half the memory, where all vocabularies allow it, else int64."""
    sizes = [feature.vocab_size for feature in schema.sparse] + [feature.vocab_size for feature in schema.sequences]
    return np.int32 if max(sizes, default=0) <= np.iinfo(np.int32).max else np.int64


def _matrix(values: Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _unmatrix(column: pa.Array) -> Array:
    flat: Array = column.flatten().to_numpy()
    return flat.reshape(-1, column.type.list_size)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
