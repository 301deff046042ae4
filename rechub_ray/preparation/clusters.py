"""`cluster_by`: the rows of one group together, in order of time, and inside one row group of the shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from rechub_ray.errors import DataError
from rechub_ray.preparation.buckets import bounds, dealt
from rechub_ray.preparation.sources import RawRows
from rechub_ray.preparation.times import moments
from rechub_ray.preparation.values import Flaws
from rechub_ray.preparation.writer import ShardWriter

PLACE = ("__time", "__fraction", "__file", "__row")
"""Columns that say where a row stands in time (see `moments`), and among rows of one moment."""


def places(raw: RawRows, order: str | None, formats: tuple[str, ...], flaws: Flaws) -> dict[str, pa.Array]:
    """Return the columns PLACE of raw rows; rows without a moment in column `order` (None for no column) are marked."""
    times, fractions = np.zeros(len(raw.rows), np.int64), np.zeros(len(raw.rows))
    if order is not None:
        times, fractions = moments(raw.table[order], order, flaws, formats)
    return dict(zip(PLACE, map(pa.array, (times, fractions, raw.files, raw.rows)), strict=True))


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Writes the shards of one split and bucket.

    Args:
        folder: where the encoded rows were dealt into buckets, a folder a split.
        staging: where the shards go, a folder a split.
        column: the shards' column that names a row's group.
        files: the input files by index, for messages.
        row_group_rows: rows of a row group (>= 1).
        shard_rows: most rows of a shard (>= 1).
    """

    folder: Path
    staging: Path
    column: str
    files: tuple[str, ...]
    row_group_rows: int
    shard_rows: int

    def __call__(self, item: tuple[str, int]) -> int:
        """Write a bucket of a split, given as (split, bucket), and return its number of rows.

        Raises:
            DataError: a group has more rows than a row group.
        """
        split, bucket = item
        table = dealt(self.folder / split, bucket)
        if table is None:
            return 0
        groups = table[self.column].to_numpy()
        places = [table[name].to_numpy() for name in PLACE]
        order = np.lexsort((*reversed(places), groups))
        begins, ends = bounds(groups[order])
        sizes = ends - begins
        if sizes.max() > self.row_group_rows:
            first = order[begins[int(sizes.argmax())]]
            where = f"its first row is {self.files[places[-2][first]]}, row {places[-1][first]}"
            raise DataError(
                f"a group of '{self.column}' has {sizes.max():,} rows in split '{split}' ({where})",
                expected=f"at most `row_group_rows`, {self.row_group_rows:,}, since a group lies in one row group",
                hint="Raise 'row_group_rows' (up to 1,000,000), or cluster by something finer.",
            )
        table = table.drop_columns(list(PLACE)).take(pa.array(order))
        writer = ShardWriter(self.staging / split, bucket, self.row_group_rows, self.shard_rows)
        start = stop = 0
        for end in ends.tolist():
            if end - start > self.row_group_rows:
                writer.write(table.slice(start, stop - start))
                start = stop
            stop = end
        writer.write(table.slice(start, stop - start))
        writer.close()
        return int(table.num_rows)
