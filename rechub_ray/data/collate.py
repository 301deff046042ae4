"""Rows in memory -> Batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from rechub_ray.batch import Batch, Features, RaggedSequences
from rechub_ray.data.block import Array, Block
from rechub_ray.data.manifest import check_columns
from rechub_ray.data.reader import stack
from rechub_ray.errors import DataError
from rechub_ray.schema import Schema

if TYPE_CHECKING:
    import pandas as pd


def collate(blocks: Sequence[Block]) -> Batch:
    """Return one batch of the blocks' rows, one after the other: each value is copied once, ids become int64.

    Args:
        blocks: at least one; all of one schema.
    """
    rows = sum(block.rows for block in blocks)
    sequences = _sequences(blocks, rows) if blocks[0].sequences else None
    weights = [block.weight for block in blocks if block.weight is not None]
    groups = [block.group for block in blocks if block.group is not None]
    return Batch(
        features=Features(
            sparse=_joined([block.sparse for block in blocks], np.int64),
            dense=_joined([block.dense for block in blocks], np.float32),
            sequences=sequences,
        ),
        labels=_joined([block.labels for block in blocks], np.float32),
        weight=_joined(weights, np.float32) if weights else None,
        group=_joined(groups, np.int64) if groups else None,
    )


def _joined(parts: list[Array], kind: type[np.int64] | type[np.float32]) -> torch.Tensor:
    joined = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), kind)
    np.concatenate(parts, out=joined)
    return torch.from_numpy(joined)


def _sequences(blocks: Sequence[Block], rows: int) -> RaggedSequences:
    """Return the sequences feature-major: all rows of the first feature, then all of the next."""
    parts = [part for feature in zip(*(block.sequences for block in blocks), strict=True) for part in feature]
    values = np.empty(sum(int(part.offsets[-1] - part.offsets[0]) for part in parts), np.int64)
    offsets = np.zeros(len(blocks[0].sequences) * rows + 1, np.int64)
    filled = row = 0
    for part in parts:
        first, last = int(part.offsets[0]), int(part.offsets[-1])
        values[filled : filled + last - first] = part.values[first:last]
        count = len(part.offsets) - 1
        np.add(part.offsets[1:], filled - first, out=offsets[row + 1 : row + 1 + count])
        filled, row = filled + last - first, row + count
    return RaggedSequences(torch.from_numpy(values), torch.from_numpy(offsets))


def with_lists(batch: Batch, number: int) -> Batch:
    """Return the batch with its last sequence features as `lists`, and no features any more.

    Args:
        batch: at least one row, read by `Schema.with_lists`.
        number: of the lists, >= 1.
    """
    every, rows = batch.features.sequences, batch.rows
    assert isinstance(every, RaggedSequences)
    start = every.offsets.shape[0] - 1 - number * rows
    border = int(every.offsets[start])
    rest = RaggedSequences(every.values[:border], every.offsets[: start + 1]) if start else None
    return dataclasses.replace(
        batch,
        features=dataclasses.replace(batch.features, sequences=rest),
        lists=RaggedSequences(every.values[border:], every.offsets[start:] - border),
    )


def block_from_table(
    data: pa.Table | pd.DataFrame, schema: Schema, *, targets: bool = True, where: str = "the data"
) -> Block:
    """Return the rows of an encoded table that is already in memory, with the checks that files get.

    Args:
        data: one column for each of the schema's; more are left out.
        schema: the columns and what their values may be.
        targets: False for prediction: label, weight and group columns may be missing; labels are NaN.
        where: names the data in errors.

    Raises:
        DataError: a column is missing or ill-typed, or holds a value that the schema forbids.
    """
    if not isinstance(data, pa.Table):
        try:
            data = pa.Table.from_pandas(data, preserve_index=False)
        except (pa.ArrowException, AttributeError, TypeError) as error:
            raise DataError(f"{where} is no table", got=str(error).split("\n")[0]) from None
    check_columns(data.schema, schema, targets=targets, where=where)
    return stack(data, schema, targets=targets, where=where)


def batch_from_table(
    data: pa.Table | pd.DataFrame, schema: Schema, *, targets: bool = True, where: str = "the data"
) -> Batch:
    """Return one batch of a table in memory; see `block_from_table`."""
    return collate([block_from_table(data, schema, targets=targets, where=where)])
