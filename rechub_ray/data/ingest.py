"""Pieces read by Ray Data: read tasks anywhere in the cluster, blocks in order through the object store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
import queue
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from annotated_types import Ge, Gt

from rechub_ray.data.block import Block, id_type
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import read_piece
from rechub_ray.errors import RechubError, ResourceError
from rechub_ray.schema import Schema

# otherwise Ray logs a line for every execution; its warnings of starvation and failure still come through
logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)
logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


@dataclasses.dataclass(frozen=True)
class RayReader:
    """Reads through Ray Data; gives the same blocks in the same order as `ThreadReader`.

    Every worker runs small datasets of its own over its pieces: nothing is split by Ray, so which rows go where is the
    plan's alone. The pieces are read in segments, one execution each, which bounds what waits in the object store;
    a segment starts while the blocks before it are still being trained.

    Args:
        num_cpus: logical CPUs of a read task (> 0).
        segment_bytes: rows of one execution, in memory; at most about this much waits in the object store.
        task_bytes: rows of one read task, in memory; much smaller ones cost more in scheduling than in reading.
        prefetch: blocks taken out of the object store ahead of the loop (>= 1).
        timeout_seconds: longest wait for the next block (> 0).
    """

    num_cpus: Annotated[float, Gt(0)] = 1.0
    segment_bytes: Annotated[int, Ge(1)] = 128 * 2**20
    task_bytes: Annotated[int, Ge(1)] = 16 * 2**20
    prefetch: Annotated[int, Ge(1)] = 8
    timeout_seconds: Annotated[float, Gt(0)] = 120.0

    def __call__(self, pieces: Sequence[Piece], schema: Schema, *, targets: bool = True) -> _Blocks:
        """Return one block a piece, in order; reading begins at once.

        Raises:
            DataError: as `read_piece`, from whichever task read the piece.
            ResourceError: no block for `timeout_seconds`: the cluster has no free CPU for read tasks.
        """
        return _Blocks(self, _Ahead(self.read(pieces, schema, targets), self.prefetch), len(pieces))

    def wait(self, ahead: _Ahead) -> Block:
        """Return the next block.

        Raises:
            ResourceError: none came for `timeout_seconds`.
        """
        try:
            return ahead.get(self.timeout_seconds)
        except queue.Empty:
            free = ray.available_resources().get("CPU", 0)
            total = ray.cluster_resources().get("CPU", 0)
            raise ResourceError(
                f"no data arrived for {self.timeout_seconds:g} s",
                expected=f"{self.num_cpus:g} free CPUs for reading",
                got=f"{free:g} of {total:g} CPUs free",
                hint="Give the training workers fewer CPUs, or the cluster more; slow storage needs a longer timeout.",
            ) from None

    def read(self, pieces: Sequence[Piece], schema: Schema, targets: bool) -> Iterator[Block]:
        """Yield one block a piece, in order, as they are asked for."""
        row_bytes = _row_bytes(schema)
        for segment in _grouped(pieces, self.segment_bytes // row_bytes):
            tasks = list(_grouped(segment, self.task_bytes // row_bytes))
            dataset = _decoding(tasks, schema, targets=targets, num_cpus=self.num_cpus)
            read = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
            with contextlib.closing(_Rechunked(read)) as rows:
                for piece in segment:
                    yield Block.from_table(rows.take(piece), schema)


def _decoding(
    tasks: Sequence[Sequence[Piece]],
    schema: Schema,
    *,
    targets: bool,
    num_cpus: float,
) -> ray.data.Dataset:
    """Return a dataset of one block a task, in order, without changing settings of the process."""
    read_task: Any = _read_task  # Ray's annotations leave no room for keyword arguments
    dataset: ray.data.Dataset = ray.data.from_arrow(
        [pa.table({"pieces": pa.array([pickle.dumps(task)], pa.large_binary())}) for task in tasks]
    )
    dataset = dataset.map_batches(
        read_task,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=num_cpus,
        fn_kwargs={"schema": schema, "targets": targets},
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # its clock runs while the loop does not ask for data (a long evaluation, say); the wait for a block has a limit
    context.execution_no_progress_timeout_s = -1
    return dataset


class _Blocks(Iterator[Block]):
    """Blocks as they come out of the object store."""

    def __init__(self, reader: RayReader, ahead: _Ahead, number: int) -> None:
        self._reader, self._ahead, self._missing = reader, ahead, number

    def __next__(self) -> Block:
        if not self._missing:
            self.close()
            raise StopIteration
        self._missing -= 1
        return self._reader.wait(self._ahead)

    def close(self) -> None:
        self._ahead.close()


def _row_bytes(schema: Schema) -> int:
    """Return about how many bytes a row takes in a block; sequences count as half full, and as 500 ids at most."""
    width = np.dtype(id_type(schema)).itemsize
    ids = len(schema.sparse) + sum(1 + min(feature.max_length, 1_000) // 2 for feature in schema.sequences)
    return width * ids + 4 * (schema.dense_dim + len(schema.targets)) + 16


def _grouped(pieces: Sequence[Piece], rows: int) -> Iterator[list[Piece]]:
    """Yield runs of pieces that decode about `rows` rows, at least one piece each."""
    group: list[Piece] = []
    decoded = 0
    for piece in pieces:
        if group and decoded + piece.group_rows > rows:
            yield group
            group, decoded = [], 0
        group.append(piece)
        decoded += piece.group_rows
    if group:
        yield group


def _read_task(table: pa.Table, *, schema: Schema, targets: bool) -> pa.Table:
    """Return the pieces' rows, or the error; runs in a Ray task.

    An error travels as data because Ray would log and wrap a raised one, whose message would be lost in the traces.
    """
    tables = []
    try:
        for piece in pickle.loads(table.column("pieces")[0].as_py()):
            block = read_piece(piece, schema, targets=targets).to_table()
            tables.append(block.append_column("place", pa.array(np.full(piece.rows, _place(piece), np.uint32))))
    except RechubError as error:
        return pa.table({"error": pa.array([pickle.dumps(error)], pa.large_binary())})
    return pa.concat_tables(tables)


def _place(piece: Piece) -> int:
    """Return a number that tells pieces apart, to see that the order was kept."""
    return zlib.crc32(repr(piece).encode())


def _read_well(table: pa.Table) -> pa.Table:
    """Return the table of a task, or raise the error that it holds."""
    if "error" in table.column_names:
        raise pickle.loads(table.column("error")[0].as_py())
    return table


def _rows_of(piece: Piece, table: pa.Table) -> pa.Table:
    """Return the rows that were taken for the piece's, after a check that they are."""
    places = table.column("place")
    if {places[0].as_py(), places[-1].as_py()} != {_place(piece)}:
        raise RuntimeError(f"Ray Data lost the order of the blocks at {piece}")
    return table.drop_columns("place")


class _Rechunked:
    """Tables as Ray Data cut them, in order, handed out a piece at a time."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest: pa.Table | None = None

    def take(self, piece: Piece) -> pa.Table:
        parts: list[pa.Table] = []
        missing = piece.rows
        while missing:
            if self._rest is None or not self._rest.num_rows:
                self._rest = _read_well(next(self._tables))
            parts.append(self._rest.slice(0, missing))
            self._rest = self._rest.slice(parts[-1].num_rows)
            missing -= parts[-1].num_rows
        return _rows_of(piece, parts[0] if len(parts) == 1 else pa.concat_tables(parts))

    def close(self) -> None:
        close = getattr(self._tables, "close", None)
        if close is not None:
            close()


class _Ahead:
    """Runs a generator in a thread, a bounded number of items ahead."""

    def __init__(self, items: Iterator[Block], depth: int) -> None:
        self._items = items
        self._queue: queue.SimpleQueue[Block | BaseException] = queue.SimpleQueue()
        self._slots = threading.Semaphore(depth)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rechub-ingest", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._items) as items:  # type: ignore[type-var]
                for item in items:
                    self._slots.acquire()
                    if self._closed:
                        return
                    self._queue.put(item)
                    del item
        except BaseException as error:  # raised again where the items are used
            self._queue.put(error)

    def get(self, timeout_seconds: float) -> Block:
        """Return the next item, or raise the thread's error, or queue.Empty after `timeout_seconds`."""
        item = self._queue.get(timeout=timeout_seconds)
        if isinstance(item, BaseException):
            raise item
        self._slots.release()
        return item

    def close(self) -> None:
        """End the thread; one that hangs inside Ray is left behind as a daemon."""
        self._closed = True
        self._slots.release()
        self._thread.join(timeout=5)
