"""A user's rows together: positions from the end (leave-last-out) and the list of earlier items (histories).

Rows are dealt into bucket files by a hash of the user, and each bucket is sorted in memory: the memory needed is
that of the largest bucket, so of the largest user at least, however large the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from rechub_ray.preparation.forms import History, LeaveLastOut
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.sources import BadRow, Block, Source, Task, read
from rechub_ray.preparation.values import Flaws, flat, hash64, to_lists, to_text, to_time
from rechub_ray.preparation.writer import Quarantine

BUCKET_BYTES = 64 << 20
MAX_BUCKETS = 256
_FLUSH_BYTES = 64 << 20
_EXPLODE_ROWS = 65_536


def bucket_count(source: Source, tasks: list[Task]) -> int:
    """Buckets so that one holds about 64 MB of raw input; compressed files are taken for four times their size."""
    sizes = {task.file: source.size(task.file) * (1 if task.length >= 0 or task.row_groups else 4) for task in tasks}
    return max(1, min(MAX_BUCKETS, -(-sum(sizes.values()) // BUCKET_BYTES)))


@dataclasses.dataclass(frozen=True)
class Deal:
    """First half: a task's rows into one file a bucket."""

    source: Source
    recipe: Recipe
    files: tuple[str, ...]
    folder: Path
    quarantine: Path
    buckets: int

    def __call__(self, item: tuple[int, Task]) -> int:
        number, task = item
        user, order = user_and_order(self.recipe)
        waiting: list[pa.Table] = []
        flushed = 0
        with Quarantine(self.quarantine / f"part-dealt-{number:05d}.jsonl", self.recipe.on_bad_rows) as quarantine:
            for block in read(self.source, task, self.recipe.format, self.recipe.input_columns):
                waiting.append(self._key(block, user, order, quarantine))
                if sum(table.nbytes for table in waiting) > _FLUSH_BYTES:
                    self._flush(waiting, number, flushed)
                    flushed, waiting = flushed + 1, []
            self._flush(waiting, number, flushed)
            return quarantine.rows

    def _key(self, block: Block, user: str, order: str | None, quarantine: Quarantine) -> pa.Table:
        table, flaws = block.table, Flaws(block.table.num_rows)
        users = to_text(table[user])
        flaws.add(users.is_null().to_numpy(zero_copy_only=False), f"column '{user}' is null")
        times = to_time(table[order], order, flaws) if order is not None else np.zeros(len(users))
        good = flaws.good
        for row, reason in sorted(flaws.reasons.items()):
            block.bad.append(BadRow(self.files[block.files[row]], int(block.rows[row]), reason))
        quarantine.add(block.bad)
        keys = {"__file": block.files, "__row": block.rows, "__time": times}
        for name, values in keys.items():
            table = table.append_column(name, pa.array(values))
        table = table.append_column("__bucket", pa.array((hash64(users) % np.uint64(self.buckets)).astype(np.int32)))
        return table.filter(pa.array(good))

    def _flush(self, tables: list[pa.Table], number: int, flushed: int) -> None:
        if not tables:
            return
        table = pa.concat_tables(tables, promote_options="permissive")
        buckets = table["__bucket"].to_numpy()
        for bucket in np.unique(buckets).tolist():
            part = table.filter(pa.array(buckets == bucket)).drop_columns(["__bucket"])
            folder = self.folder / f"dealt-{bucket:03d}"
            folder.mkdir(exist_ok=True)
            pq.write_table(part, folder / f"{number:05d}-{flushed:03d}.parquet")


def user_and_order(recipe: Recipe) -> tuple[str, str | None]:
    """The columns that say whose row it is and when."""
    spec = recipe.history if recipe.history is not None else recipe.split
    assert isinstance(spec, History | LeaveLastOut)
    assert spec.user is not None
    return spec.user, spec.order


@dataclasses.dataclass(frozen=True)
class Gather:
    """Second half: a bucket sorted by (user, time, file, row), with histories and positions, back in input order."""

    recipe: Recipe
    folder: Path

    def __call__(self, bucket: int) -> str:
        parts = [pq.read_table(path) for path in sorted((self.folder / f"dealt-{bucket:03d}").glob("*.parquet"))]
        if not parts:
            return ""
        table = pa.concat_tables(parts, promote_options="permissive")
        user, _ = user_and_order(self.recipe)
        users = flat(to_text(table[user]).dictionary_encode().indices).to_numpy()
        keys = [table[name].to_numpy() for name in ("__row", "__file", "__time")]
        order = np.lexsort((*keys, users))
        table, users = table.take(pa.array(order)), users[order]
        begins, ends = _bounds(users)
        table = table.append_column("__from_end", pa.array(ends - 1 - np.arange(len(users))))
        history = self.recipe.history
        if history is not None:
            items, places = to_text(table[history.item]), np.arange(len(users))
            lists = windows(items, np.maximum(begins, places - history.max_length), places)
            table = table.append_column(history.name, lists)
            table = table.filter(pa.array(places - begins >= history.min_length))
        table = table.sort_by([("__time", "ascending"), ("__file", "ascending"), ("__row", "ascending")])
        path = self.folder / f"gathered-{bucket:03d}.parquet"
        pq.write_table(table.drop_columns(["__time"]), path, row_group_size=65_536)
        return str(path)


def _bounds(users: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each row of a table sorted by user, where that user begins and ends."""
    cuts = np.flatnonzero(np.diff(users)) + 1
    begins, ends = np.append(0, cuts), np.append(cuts, len(users))
    lengths = ends - begins
    return np.repeat(begins, lengths), np.repeat(ends, lengths)


def windows(items: pa.Array, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.ListArray:
    """Lists `items[begins[i]:ends[i]]`."""
    lengths = ends - begins
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(begins, lengths)
    return pa.ListArray.from_arrays(pa.array(offsets), items.take(pa.array(places)))


def gathered(block: Block) -> Block:
    """A block of a gathered file with its origin columns taken out."""
    table = block.table
    return Block(
        table.drop_columns(["__file", "__row", "__from_end"]),
        table["__file"].to_numpy(),
        table["__row"].to_numpy(),
        block.bad,
        table["__from_end"].to_numpy(),
    )


def explode(block: Block, history: History) -> Iterator[Block]:
    """One row an element of the row's list `items`, each with the elements before it."""
    assert history.items is not None
    lists = to_lists(block.table[history.items], history.separator)
    totals = np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    start = 0
    while start < len(lists):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _EXPLODE_ROWS, side="right")))
        yield _exploded(block, history, lists.slice(start, stop - start), np.arange(start, stop), start == 0)
        start = stop
    if not len(lists):
        yield _exploded(block, history, lists, np.arange(0), True)


def _exploded(block: Block, history: History, lists: pa.ListArray, rows: npt.NDArray[np.int64], first: bool) -> Block:
    items, lengths = lists.flatten(), np.diff(lists.offsets.to_numpy())
    owners = np.repeat(rows, lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    begins = ends - np.repeat(lengths, lengths)
    places = np.arange(len(items))
    table = block.table.drop_columns([history.items]).take(pa.array(owners))
    table = table.append_column(history.item, items)
    table = table.append_column(history.name, windows(items, np.maximum(begins, places - history.max_length), places))
    keep = places - begins >= history.min_length
    return Block(
        table.filter(pa.array(keep)),
        block.files[owners][keep],
        block.rows[owners][keep],
        block.bad if first else [],
        (ends - 1 - places)[keep],
    )


def local() -> Source:
    """The filesystem on which gathered files lie."""
    return Source(pyarrow.fs.LocalFileSystem(), "")
