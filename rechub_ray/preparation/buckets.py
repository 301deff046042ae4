"""Rows that belong together brought together: dealt into bucket files by a hash, so that one bucket fits in memory."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.preparation.sources import Source, Task
from rechub_ray.preparation.values import flat, hash64

BUCKET_BYTES = 64 << 20
MAX_BUCKETS = 256
_FLUSH_BYTES = 64 << 20


def task_bytes(source: Source, tasks: list[Task]) -> list[int]:
    """Return the bytes of each task; a compressed file is taken for four times its size."""
    shares = collections.Counter(task.file for task in tasks)
    sizes = {task.file: source.size(task.file) * (4 if task.compression else 1) for task in tasks}
    return [task.length if task.length >= 0 else sizes[task.file] // shares[task.file] for task in tasks]


def bucket_count(sizes: list[int]) -> int:
    """Return how many buckets hold about 64 MB each of tasks of these sizes."""
    return max(1, min(MAX_BUCKETS, -(-sum(sizes) // BUCKET_BYTES)))


class Dealer:
    """Deals one task's rows into one file a bucket; holds at most about 64 MB.

    Args:
        folder: where the buckets are.
        number: the task's number: rows of a bucket keep the order of the tasks.
        buckets: how many there are.
    """

    def __init__(self, folder: Path, number: int, buckets: int) -> None:
        self.folder, self.number, self.buckets = folder, number, buckets
        self._waiting: list[pa.Table] = []
        self._bytes = self._flushed = 0

    def add(self, table: pa.Table, keys: pa.Array) -> None:
        """Take in rows; `keys` are their texts or whole numbers."""
        keys = flat(keys)
        if pa.types.is_integer(keys.type):
            keys = keys.cast(pa.string())
        table = table.append_column("__bucket", pa.array((hash64(keys) % np.uint64(self.buckets)).astype(np.int32)))
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._bytes > _FLUSH_BYTES:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting, promote_options="permissive")
        buckets = table["__bucket"].to_numpy()
        for bucket in np.unique(buckets).tolist():
            part = table.filter(pa.array(buckets == bucket)).drop_columns(["__bucket"])
            folder = self.folder / f"dealt-{bucket:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, folder / f"{self.number:05d}-{self._flushed:03d}.parquet")
        self._waiting, self._bytes, self._flushed = [], 0, self._flushed + 1


def dealt(folder: Path, bucket: int) -> pa.Table | None:
    """Return a bucket's rows in the order of the tasks, or None where there are none."""
    parts = [pq.read_table(path) for path in sorted((folder / f"dealt-{bucket:03d}").glob("*.parquet"))]
    return pa.concat_tables(parts, promote_options="permissive") if parts else None


def bounds(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each run of equal keys begins and ends, one entry a run."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    return np.append(0, cuts), np.append(cuts, len(keys))
