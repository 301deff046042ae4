"""Output of a task: shards of each split, and the rows that could not be used."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import DataError
from rechub_ray.files import reason
from rechub_ray.preparation.sources import BadRow


@contextlib.contextmanager
def writing(place: str) -> Iterator[None]:
    """Turn an error of the system on writing below `place` into one line.

    Raises:
        DataError: the disk is full, the folder is read-only or gone, a quota is used up.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write into '{place}'", got=reason(error), hint="Nothing of this attempt is left behind."
        ) from None


class Quarantine:
    """Bad rows: the first one raises, or all go to a file of JSON lines that exists only if there are any."""

    def __init__(self, path: Path, on_bad_rows: Literal["error", "quarantine", "skip"]) -> None:
        self.path, self.on_bad_rows, self.rows = path, on_bad_rows, 0

    def add(self, bad: list[BadRow]) -> None:
        """Take in a block's bad rows.

        Raises:
            DataError: there is one, and `on_bad_rows` is `error`.
        """
        if bad and self.on_bad_rows == "error":
            raise min(bad, key=lambda row: row.row).error()
        self.rows += len(bad)
        if bad and self.on_bad_rows == "quarantine":
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                for row in sorted(bad, key=lambda row: row.row):
                    file.write(json.dumps(vars(row), ensure_ascii=False) + "\n")


class ShardWriter:
    """One task's rows of one split, in row groups of exactly `row_group_rows` but for the last one of a shard."""

    def __init__(self, folder: Path, number: int, row_group_rows: int, shard_rows: int) -> None:
        self.folder, self.number = folder, number
        self.row_group_rows = min(row_group_rows, shard_rows)
        self.shard_rows = shard_rows - shard_rows % self.row_group_rows
        self._waiting: list[pa.Table] = []
        self._rows = self._written = self._shards = 0
        self._file: SealedWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Take in rows; full row groups are written."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows < self.row_group_rows:
            return
        rows = pa.concat_tables(self._waiting)
        full = rows.num_rows - rows.num_rows % self.row_group_rows
        for start in range(0, full, self.row_group_rows):
            self.write(rows.slice(start, self.row_group_rows))
        # a slice would keep the whole block alive
        rest = rows.slice(full).take(pa.array(range(rows.num_rows - full), pa.int64()))
        self._waiting, self._rows = [rest], rest.num_rows

    def close(self) -> None:
        """Write the rows that are left."""
        if self._rows:
            self.write(pa.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, rows: pa.Table) -> None:
        """Write rows, at most `row_group_rows`, as one row group."""
        if self._file is not None and self._written + rows.num_rows > self.shard_rows:
            self._file.close()
            self._file = None
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"part-{self.number:05d}-{self._shards:03d}.parquet"
            self._file = SealedWriter(path, rows.schema, compression="snappy")
            self._shards += 1
            self._written = 0
        self._file.write_table(rows.combine_chunks(), row_group_size=self.row_group_rows)
        self._written += rows.num_rows
        if self._written >= self.shard_rows:
            self._file.close()
            self._file = None


def number_shards(folder: Path) -> int:
    """Rename the shards of all tasks to part-00000.parquet, part-00001.parquet, ... in the order of the tasks.

    Returns:
        Rows in all of them.
    """
    rows = 0
    for number, path in enumerate(sorted(folder.glob("part-*-*.parquet"))):
        rows += pq.read_metadata(path).num_rows
        path.rename(folder / f"part-{number:05d}.parquet")
    return rows
