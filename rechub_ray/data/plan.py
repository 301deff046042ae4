"""Which rows are in which step: pure arithmetic on row groups, so that every process agrees without asking."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rechub_ray.data.manifest import Manifest

if TYPE_CHECKING:
    from rechub_ray.data.groups import Groups

Ints: TypeAlias = npt.NDArray[np.int64]

LEAST_LANES = 8


def lanes_for(world_size: int, groups_per_step: int | None = None) -> int:
    """Return the number of lanes: the smallest multiple of the world size that is at least 8.

    World sizes that divide 8 share one cut of the epoch, so each global step holds the same rows on all of them.

    Args:
        world_size: number of workers (>= 1).
        groups_per_step: whole groups that an average step holds (>= 1); None for a plan of single rows. A step takes
            a group or more from each lane, so where it has fewer than 8, there are 4, 2 or 1 lanes, but one a worker.

    Example:
        >>> [lanes_for(size) for size in (1, 2, 3, 8, 16)]
        [8, 8, 9, 8, 16]
        >>> [lanes_for(size, groups_per_step=5) for size in (1, 2, 3, 4, 8)]
        [4, 4, 3, 4, 8]
    """
    least = LEAST_LANES
    if groups_per_step is None:
        return world_size * -(-least // world_size)
    while least > groups_per_step:
        least //= 2
    return world_size * max(min(-(-least // world_size), groups_per_step // world_size), 1)


def geometry(manifest: Manifest, groups: Groups | None, *, global_batch: int, world_size: int) -> tuple[int, int]:
    """Return the lanes and the steps of an epoch that is not cut by a change of geometry.

    Args:
        manifest: the training split.
        groups: its groups, where a step takes whole ones; None for a plan of single rows.
        global_batch: rows a step over all workers (>= 1), on average where groups are whole.
        world_size: number of workers (>= 1).
    """
    steps = manifest.rows // global_batch
    if groups is None:
        return lanes_for(world_size), steps
    lanes = lanes_for(world_size, max(groups.count // max(steps, 1), 1))
    return lanes, min(steps, groups.count // lanes)


def permutation(rows: int, *key: int) -> Ints:
    """Return a permutation of range(rows): a pure function of `key` (integers >= 0), in every version of numpy.

    It sorts raw bits of PCG64: numpy promises that these stay the same, which it does not of `Generator.permutation`,
    and a checkpoint's data position is worth nothing if the order changes with the numpy version.
    """
    bits = np.random.PCG64(np.random.SeedSequence(key)).random_raw(rows)
    return np.argsort(bits, kind="stable").astype(np.int64, copy=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one row group that one worker reads at once.

    Args:
        lane: the lane of the epoch that they belong to; 0 in evaluation.
        file: path or URI.
        row_group: index in the file.
        group_rows: rows of the whole row group.
        start: first row, counted after the permutation.
        stop: one past the last row.
        key: key of the row group's `permutation`; None leaves the rows as they stand.
        checksum: of the file's footer; empty where any file of that name will do.
        by_group: the permutation is one of whole groups, whose rows stay together and in order.
    """

    lane: int
    file: str
    row_group: int
    group_rows: int
    start: int
    stop: int
    key: tuple[int, ...] | None
    checksum: str = ""
    by_group: bool = False

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def whole(self) -> Piece:
        """Its row group, as it stands in the file."""
        return Piece(0, self.file, self.row_group, self.group_rows, 0, self.group_rows, None, self.checksum)


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A stretch of an epoch that was trained with another geometry.

    Args:
        lanes: number of lanes it was cut into (>= 1).
        global_batch: rows a step over all workers (>= 1), on average where groups are whole.
        steps: steps taken before the geometry changed (>= 1).
    """

    lanes: int
    global_batch: int
    steps: int


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where training stands in the data; goes into checkpoints.

    Args:
        epoch: counted from 0.
        cuts: earlier stretches of this epoch, with other geometries.
        step: steps taken in the present stretch.
        lanes: lanes of the present stretch; 0 before its first step.
        global_batch: its rows a step over all workers, on average where groups are whole; 0 before its first step.
        rows_done: rows trained in this epoch by all workers, over all stretches.
        data: fingerprint of the data and seed that the position counts in; empty before the first step.
    """

    epoch: int = 0
    cuts: tuple[Cut, ...] = ()
    step: int = 0
    lanes: int = 0
    global_batch: int = 0
    rows_done: int = 0
    data: str = ""

    @property
    def steps_done(self) -> int:
        """Steps taken in this epoch, over all stretches."""
        return self.step + sum(cut.steps for cut in self.cuts)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"cuts": [dataclasses.asdict(cut) for cut in self.cuts]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Position:
        """Return the position behind `to_dict`; older ones, of equal steps, do not say how many rows they did."""
        cuts = tuple(Cut(**cut) for cut in data["cuts"])
        rows = data["step"] * data["global_batch"] + sum(cut.steps * cut.global_batch for cut in cuts)
        return cls(**{"rows_done": rows, **data, "cuts": cuts})


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """A run of rows: stretches [start, stop) of row groups, one after the other."""

    group: Ints
    start: Ints
    stop: Ints

    @property
    def ends(self) -> Ints:
        return np.cumsum(self.stop - self.start)

    @property
    def total(self) -> int:
        return int((self.stop - self.start).sum())

    def between(self, begin: int, end: int) -> _Rows:
        """Return the rows [begin, end) of the run."""
        if begin >= end:
            return _Rows(self.group[:0], self.start[:0], self.stop[:0])
        ends = self.ends
        begins = ends - (self.stop - self.start)
        inside = slice(int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(begins, end, "left")))
        cut_front = np.maximum(begin - begins[inside], 0)
        cut_back = np.maximum(ends[inside] - end, 0)
        return _Rows(self.group[inside], self.start[inside] + cut_front, self.stop[inside] - cut_back)

    @staticmethod
    def concat(parts: list[_Rows]) -> _Rows:
        return _Rows(
            np.concatenate([part.group for part in parts]),
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.stop for part in parts]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _EqualCells:
    """Rows cut into `lanes` runs, and each into `steps` shares of q_l = floor((l+1)G/L) - floor(lG/L) rows."""

    lanes: int
    global_batch: int
    steps: int

    def start(self, lane: int, step: int) -> int:
        """Return where the lane's share of the step begins (of step `steps`: where the lane ends)."""
        before, after = lane * self.global_batch // self.lanes, (lane + 1) * self.global_batch // self.lanes
        return before * self.steps + (after - before) * step

    def steps_at(self, lane: int, rows: Ints) -> Ints:
        """Return the steps that take the given rows of the lane."""
        share = self.start(lane, 1) - self.start(lane, 0)
        return (rows - self.start(lane, 0)) // max(share, 1)

    def rows_before(self, step: int) -> int:
        """Return the rows of all lanes and steps before `step`."""
        return step * self.global_batch


@dataclasses.dataclass(frozen=True, slots=True)
class _GroupCells:
    """Rows cut at borders of groups: cell (lane l, step k) begins at bounds[l * steps + k]. Used as `_EqualCells`."""

    lanes: int
    steps: int
    bounds: Ints

    def start(self, lane: int, step: int) -> int:
        return int(self.bounds[lane * self.steps + step])

    def steps_at(self, lane: int, rows: Ints) -> Ints:
        own = self.bounds[lane * self.steps : (lane + 1) * self.steps]
        return np.searchsorted(own, rows, "right") - 1

    def rows_before(self, step: int) -> int:
        return sum(self.start(lane, step) - self.start(lane, 0) for lane in range(self.lanes))


class EpochPlan:
    """One epoch of training, from the end of `cuts` on.

    The row groups, permuted by (seed, epoch), stand one after the other, without those that the cuts took. The rest
    is cut into `lanes` runs. Step k takes from lane l its k-th share of q_l = floor((l+1)G/L) - floor(lG/L) rows, which
    add up to the global batch G. Rank r of W owns the lanes [rL/W, (r+1)L/W), so its share is G/W rows. Less than G
    rows at the end of the epoch are left out; the permutation makes them other rows in every epoch.

    Where groups are whole, they are what is permuted within a row group, lanes and shares are cut at the borders of
    groups that lie nearest to an even cut, and at least one group apart. So an epoch holds every group, a step G rows
    on average (more where it would have less than a group a lane), and every rank has rows in every step, but ranks
    differ in their number. Memory: 8 bytes a lane and step, and those of the largest row group.

    Args:
        manifest: the training split.
        seed: of the run (>= 0).
        epoch: counted from 0.
        cuts: earlier stretches of this epoch.
        lanes: multiple of the world size.
        global_batch: rows a step over all workers (>= 1), a multiple of the world size.
        groups: the split's groups, where a step takes whole ones; None for a plan of single rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        seed: int,
        epoch: int,
        lanes: int,
        global_batch: int,
        cuts: tuple[Cut, ...] = (),
        groups: Groups | None = None,
    ) -> None:
        self._row_groups, self._groups = manifest.row_groups, groups
        self._key = (seed, epoch)
        self.lanes, self.global_batch = lanes, global_batch
        order = permutation(len(self._row_groups), seed, epoch)
        sizes = np.array([row_group.rows for row_group in self._row_groups], dtype=np.int64)[order]
        rows = _Rows(order, np.zeros_like(sizes), sizes)
        for cut in cuts:
            rows = _after(rows, self._cut(rows, cut.lanes, cut.global_batch), cut.steps)
        self._rows, self._cells = rows, self._cut(rows, lanes, global_batch)

    @property
    def rows_left(self) -> int:
        """Rows that this stretch starts with."""
        return self._rows.total

    @property
    def steps(self) -> int:
        """Steps of this stretch, on every rank."""
        return self._cells.steps

    def rows_of(self, lane: int, step: int) -> int:
        """Return the number of rows that a step takes from a lane."""
        return self._cells.start(lane, step + 1) - self._cells.start(lane, step)

    def rows_before(self, step: int) -> int:
        """Return the number of rows that all workers train in the steps before `step`."""
        return self._cells.rows_before(step)

    def owned(self, rank: int, world_size: int) -> range:
        """Return the lanes of one rank."""
        each = self.lanes // world_size
        return range(rank * each, (rank + 1) * each)

    def pieces(self, rank: int, world_size: int, start_step: int = 0, stop_step: int | None = None) -> list[Piece]:
        """Return the pieces that the rank reads for a range of steps, ordered by the step that needs them first.

        Args:
            rank: of the worker, from 0.
            world_size: number of workers (>= 1).
            start_step: the first step.
            stop_step: one past the last step; None for all of the stretch.
        """
        stop_step = self.steps if stop_step is None else stop_step
        first_steps, pieces = [np.zeros(0, np.int64)], []
        for lane in self.owned(rank, world_size):
            begin = self._cells.start(lane, start_step)
            rows = self._rows.between(begin, self._cells.start(lane, stop_step))
            first_steps.append(self._cells.steps_at(lane, begin + rows.ends - (rows.stop - rows.start)))
            for row_group, start, stop in zip(
                *map(np.ndarray.tolist, (rows.group, rows.start, rows.stop)), strict=True
            ):
                pieces.append(self._piece(lane, row_group, start, stop))
        return [pieces[i] for i in np.argsort(np.concatenate(first_steps), kind="stable")]

    def _piece(self, lane: int, row_group: int, start: int, stop: int) -> Piece:
        found, key = self._row_groups[row_group], self._row_group_key(row_group)
        by_group = self._groups is not None
        return Piece(lane, found.file, found.index, found.rows, start, stop, key, found.checksum, by_group)

    def _row_group_key(self, row_group: int) -> tuple[int, ...]:
        return *self._key, row_group + 1  # + 1 because numpy seeds (a, b) and (a, b, 0) alike

    def _cut(self, rows: _Rows, lanes: int, global_batch: int) -> _EqualCells | _GroupCells:
        """Return the rows' lanes and steps as cells."""
        steps = rows.total // global_batch
        if self._groups is None:
            return _EqualCells(lanes, global_batch, steps)
        count = self._groups.count if rows.total == self._groups.rows else sum(len(e) for _, _, e in self._walk(rows))
        steps = min(steps, count // lanes)
        cells = np.arange(steps * lanes + 1)
        if steps == 0:
            return _GroupCells(lanes, 0, cells)
        # a group belongs to the cell in which its middle lies
        targets = cells * rows.total // cells[-1]
        first = np.zeros_like(cells)
        for row, group, ends in self._walk(rows):
            here = slice(*np.searchsorted(targets, (row, row + ends[-1])))
            middles = ends + np.concatenate([[0], ends[:-1]])
            first[here] = group + np.searchsorted(middles, 2 * (targets[here] - row))
        first[-1] = count
        # no cell without a group: every rank needs rows in every step
        first = np.minimum(np.maximum.accumulate(first - cells) + cells, count - cells[-1] + cells)
        bounds = np.full_like(cells, rows.total)
        for row, group, ends in self._walk(rows):
            here = slice(*np.searchsorted(first, (group, group + len(ends))))
            bounds[here] = row + np.concatenate([[0], ends])[first[here] - group]
        return _GroupCells(lanes, steps, bounds)

    def _walk(self, rows: _Rows) -> Iterator[tuple[int, int, Ints]]:
        """Yield for each stretch the rows and groups before it, and where its groups end, counted from its start."""
        assert self._groups is not None
        row = group = 0
        for index, start, stop in zip(rows.group.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True):
            sizes = self._groups.sizes[index]
            ends = np.cumsum(sizes[permutation(len(sizes), *self._row_group_key(index))], dtype=np.int64)
            ends = ends[slice(*np.searchsorted(ends, (start, stop), "right"))] - start
            yield row, group, ends
            row, group = row + stop - start, group + len(ends)


class EvalPlan:
    """Every row exactly once, in the order of the files: rank r of W has the rows [rN/W, (r+1)N/W)."""

    def __init__(self, manifest: Manifest) -> None:
        self._groups = manifest.row_groups
        sizes = np.array([group.rows for group in self._groups], dtype=np.int64)
        self._rows = _Rows(np.arange(len(sizes)), np.zeros_like(sizes), sizes)
        self.rows = int(sizes.sum())

    def pieces(self, rank: int, world_size: int) -> list[Piece]:
        """Return the pieces that the rank reads, in order."""
        rows = self._rows.between(self.rows * rank // world_size, self.rows * (rank + 1) // world_size)
        return [
            Piece(0, found.file, found.index, found.rows, start, stop, None, found.checksum)
            for group, start, stop in zip(rows.group.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True)
            for found in (self._groups[group],)
        ]


def _after(rows: _Rows, cells: _EqualCells | _GroupCells, steps: int) -> _Rows:
    """Return the rows that `steps` steps leave over: the rest of each lane, and the tail that does not fill a step."""
    ends = [cells.start(lane, cells.steps) for lane in range(cells.lanes)]
    left = [rows.between(cells.start(lane, steps), end) for lane, end in enumerate(ends)]
    return _Rows.concat([*left, rows.between(ends[-1], rows.total)])
