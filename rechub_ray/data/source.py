"""Batches for the loop: training from any position, evaluation of every row; the reader decides how files are read."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import Annotated, Protocol

from annotated_types import Ge

from rechub_ray.batch import Batch
from rechub_ray.data.block import Block
from rechub_ray.data.collate import collate, with_lists
from rechub_ray.data.groups import Groups
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import Cut, EpochPlan, EvalPlan, Piece, Position, geometry
from rechub_ray.data.reader import read_piece
from rechub_ray.errors import DataError
from rechub_ray.schema import Schema
from rechub_ray.world import World


class Blocks(Iterator[Block], Protocol):
    """Blocks as they are read; closing ends the reading."""

    def close(self) -> None: ...


class Reader(Protocol):
    """Turns pieces into blocks: one block a piece, in order."""

    def __call__(self, pieces: Sequence[Piece], schema: Schema, *, targets: bool = True) -> Blocks: ...


class ReadPiece(Protocol):
    """Turns one piece into its block, as `read_piece` does; called in threads."""

    def __call__(self, piece: Piece, schema: Schema, *, targets: bool = True) -> Block: ...


@dataclasses.dataclass(frozen=True)
class ThreadReader:
    """Reads ahead in threads of this process.

    Args:
        prefetch: pieces in memory or being read at a time (>= 1). The lanes of a worker tend to need their next row
            groups at the same time, so less than a worker's lanes (8 with one worker) makes the loop wait.
        threads: pieces read at a time (>= 1).
        read: reads one piece, from its file or from a store that keeps it decoded.
    """

    prefetch: Annotated[int, Ge(1)] = 8
    threads: Annotated[int, Ge(1)] = 1
    read: ReadPiece = read_piece

    def __call__(
        self, pieces: Sequence[Piece], schema: Schema, *, targets: bool = True
    ) -> Generator[Block, None, None]:
        pool = concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="rechub-reader")
        upcoming = iter(pieces)
        waiting: collections.deque[concurrent.futures.Future[Block]] = collections.deque()

        def read_one_more() -> None:
            piece = next(upcoming, None)
            if piece is not None:
                waiting.append(pool.submit(self.read, piece, schema, targets=targets))

        try:
            for _ in range(self.prefetch):
                read_one_more()
            while waiting:
                block = waiting.popleft().result()
                read_one_more()
                yield block
                del block
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Lane:
    """Blocks of one lane that were read but not yet trained."""

    def __init__(self) -> None:
        self.rows = 0
        self._blocks: collections.deque[Block] = collections.deque()
        self._used = 0

    def add(self, block: Block) -> None:
        self._blocks.append(block)
        self.rows += block.rows

    def take(self, rows: int) -> list[Block]:
        self.rows -= rows
        parts = []
        while rows:
            head = self._blocks[0]
            part = head.slice(self._used, min(self._used + rows, head.rows))
            parts.append(part)
            self._used += part.rows
            rows -= part.rows
            if self._used == head.rows:
                self._blocks.popleft()
                self._used = 0
        return parts


class TrainSource:
    """Training batches of one worker.

    Which rows are in a step depends on seed, epoch and global batch only (for world sizes that divide 8); every rank
    takes the same number of steps. With groups, ranks differ in the rows of a step, and so do steps.

    Args:
        manifest: the training split.
        schema: what to read.
        batch_size: rows a step of this worker (>= 1), on average where groups are whole.
        seed: order of the rows (>= 0).
        world: this worker's place.
        reader: how pieces become blocks.
        groups: the split's groups, to take whole ones (`schema.group` is their column); None takes single rows.
        lists: list columns of items that are read too, of `Items.all_lists`.

    Raises:
        DataError: the rows or groups do not fill one step of all workers.
    """

    def __init__(
        self,
        manifest: Manifest,
        schema: Schema,
        *,
        batch_size: int,
        seed: int,
        world: World,
        reader: Reader,
        groups: Groups | None = None,
        lists: Sequence[str] = (),
    ) -> None:
        self._manifest, self._seed, self._world, self._reader = manifest, seed, world, reader
        self._groups = groups
        self._lists = len(lists)
        # row_id names rows of predictions; training has no use for it
        self._schema = dataclasses.replace(schema.with_lists(lists), row_id=None)
        self._ahead: _Reading | None = None
        self.batch_size = batch_size
        self.global_batch = batch_size * world.size
        self._lanes, self.steps_per_epoch = geometry(
            manifest, groups, global_batch=self.global_batch, world_size=world.size
        )
        """Steps of an epoch that is not cut by a change of geometry, on every rank."""
        if manifest.rows < self.global_batch:
            raise DataError(
                f"the training data has {manifest.rows} rows, too few for one step",
                expected=f"at least {world.size} workers x {batch_size} rows = {self.global_batch}",
                hint="Lower the batch size or the number of workers.",
            )
        if self.steps_per_epoch == 0 and groups is not None:
            raise DataError(
                f"the training data has {groups.count} groups, too few for one step",
                expected=f"at least one for each of {world.size} workers",
                hint="Lower the number of workers.",
            )
        data = manifest.fingerprint if groups is None else f"{manifest.fingerprint}/{groups.fingerprint}"
        self.fingerprint, self._earlier = (
            hashlib.sha256(f"{text}/{seed}".encode()).hexdigest()[:16] for text in (data, manifest.rows_fingerprint)
        )
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)  # of this epoch and of the one that is read ahead

    def steps_left(self, position: Position) -> int:
        """Return the number of steps from `position` to the end of its epoch."""
        position = self.normalise(position)
        return self._steps(position) - position.step

    def rows_at(self, position: Position) -> int:
        """Return the number of rows that all workers train in the step that begins at `position`."""
        position = self.normalise(position)
        return self._rows_between(position, position.step, position.step + 1)

    def normalise(self, position: Position) -> Position:
        """Return a saved position as one of the present geometry: rows that other geometries consumed go into `cuts`.

        At the end of an epoch, where less than one step is left, it is the start of the next one.

        Raises:
            DataError: in the middle of an epoch, where the data or the seed are not those of the saved position.
        """
        if position.steps_done and position.data not in ("", self.fingerprint, self._earlier):
            raise DataError(
                f"training stopped in the middle of epoch {position.epoch}, but the data or the seed changed since",
                expected=f"fingerprint {position.data}",
                got=self.fingerprint,
                hint="Bring back the files as they were and the seed, or start a new run from the checkpoint.",
            )
        if position.step and (position.lanes, position.global_batch) != (self._lanes, self.global_batch):
            cut = Cut(position.lanes, position.global_batch, position.step)
            position = dataclasses.replace(position, cuts=(*position.cuts, cut), step=0)
        if position.step >= self._steps(position):
            position = Position(epoch=position.epoch + 1)
        return dataclasses.replace(position, lanes=self._lanes, global_batch=self.global_batch, data=self.fingerprint)

    def advance(self, position: Position, steps: int) -> Position:
        """Return the position `steps` later; at the end of an epoch it is step 0 of the next one."""
        position = self.normalise(position)
        while (left := self.steps_left(position)) <= steps:
            steps -= left
            position = self.normalise(Position(epoch=position.epoch + 1))
        stop = position.step + steps
        rows = self._rows_between(position, position.step, stop)
        return dataclasses.replace(position, step=stop, rows_done=position.rows_done + rows)

    def _steps(self, position: Position) -> int:
        """Return the number of steps of the stretch that the position is in."""
        return self._plan(position.epoch, position.cuts).steps if position.cuts else self.steps_per_epoch

    def _rows_between(self, position: Position, start: int, stop: int) -> int:
        """Return the number of rows of all workers in the steps [start, stop) of the position's stretch."""
        if start == stop:
            return 0
        plan = self._plan(position.epoch, position.cuts)
        return plan.rows_before(stop) - plan.rows_before(start)

    def epoch(self, position: Position, *, another_follows: bool = False) -> Generator[Batch, None, None]:
        """Yield this worker's batches from exactly `position` to the end of its epoch; one batch a step.

        Args:
            position: where to begin.
            another_follows: start reading the next epoch while the last rows of this one are trained.
        """
        position = self.normalise(position)
        begun, self._ahead = self._ahead, None
        if begun is not None and begun.position != position:
            begun.blocks.close()
            begun = None
        reading = begun or self._begin(position)
        plan, pieces = reading.plan, reading.pieces
        lanes = {lane: _Lane() for lane in plan.owned(self._world.rank, self._world.size)}
        with contextlib.closing(reading.blocks) as blocks:
            upcoming, unread = zip(pieces, blocks, strict=True), len(pieces)
            for step in range(position.step, plan.steps):
                parts: list[Block] = []
                for number, lane in lanes.items():
                    rows = plan.rows_of(number, step)
                    while lane.rows < rows:
                        piece, block = next(upcoming)
                        lanes[piece.lane].add(block)
                        unread -= 1
                    parts += lane.take(rows)
                if not unread and another_follows and self._ahead is None:
                    self._ahead = self._begin(self.normalise(Position(epoch=position.epoch + 1)))
                yield with_lists(collate(parts), self._lists) if self._lists else collate(parts)

    def close(self) -> None:
        """End the reading of an epoch that was started ahead and is not trained."""
        if self._ahead is not None:
            self._ahead.blocks.close()
            self._ahead = None

    def _begin(self, position: Position) -> _Reading:
        plan = self._plan(position.epoch, position.cuts)
        pieces = plan.pieces(self._world.rank, self._world.size, position.step)
        return _Reading(position, plan, pieces, self._reader(pieces, self._schema))

    def _make_plan(self, epoch: int, cuts: tuple[Cut, ...]) -> EpochPlan:
        return EpochPlan(
            self._manifest,
            seed=self._seed,
            epoch=epoch,
            cuts=cuts,
            lanes=self._lanes,
            global_batch=self.global_batch,
            groups=self._groups,
        )


@dataclasses.dataclass(frozen=True)
class _Reading:
    """An epoch that is being read from `position` on."""

    position: Position
    plan: EpochPlan
    pieces: Sequence[Piece]
    blocks: Blocks


class EvalSource:
    """Batches for evaluation and prediction: over all ranks every row exactly once, in the order of the files.

    Ranks hold the same number of rows to within one, so their numbers of batches may differ by one.

    Args:
        manifest: the split.
        schema: what to read.
        batch_size: rows a batch (>= 1); the last one may be shorter.
        world: this worker's place.
        reader: how pieces become blocks.
        targets: False for prediction on data without labels: labels are NaN, and row ids are read.
        row_ids: read them with targets too.
        lists: list columns of items that are read too, of `Items.all_lists`; for `batches`.
    """

    def __init__(
        self,
        manifest: Manifest,
        schema: Schema,
        *,
        batch_size: int,
        world: World,
        reader: Reader,
        targets: bool = True,
        row_ids: bool = False,
        lists: Sequence[str] = (),
    ) -> None:
        self._plan, self._world, self._reader = EvalPlan(manifest), world, reader
        self.lists, schema = tuple(lists), schema.with_lists(lists)
        self._schema = dataclasses.replace(schema, row_id=None) if targets and not row_ids else schema
        self.batch_size, self.targets = batch_size, targets
        self.rows_expected = manifest.rows
        self.first_row = manifest.rows * world.rank // world.size
        """How many rows of the split come before this rank's."""

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's batches."""
        with contextlib.closing(self.blocks()) as blocks:
            for block in blocks:
                yield with_lists(collate([block]), len(self.lists)) if self.lists else collate([block])

    def blocks(self) -> Generator[Block, None, None]:
        """Yield this rank's rows before collation, `batch_size` at a time; with their row ids, where they are read."""
        pieces = self._plan.pieces(self._world.rank, self._world.size)
        waiting = _Lane()
        with contextlib.closing(self._reader(pieces, self._schema, targets=self.targets)) as blocks:
            for block in blocks:
                waiting.add(block)
                while waiting.rows >= self.batch_size:
                    yield Block.concat(waiting.take(self.batch_size))
        if waiting.rows:
            yield Block.concat(waiting.take(waiting.rows))
