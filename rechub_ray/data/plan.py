"""Which rows are in which step: pure arithmetic on row groups, so that every process agrees without asking."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rechub_ray.data.manifest import Manifest

Ints: TypeAlias = npt.NDArray[np.int64]

LEAST_LANES = 8


def lanes_for(world_size: int) -> int:
    """The smallest multiple of the world size that is at least 8.

    World sizes that divide 8 share one cut of the epoch, so each global step holds the same rows on all of them.

    Example:
        >>> [lanes_for(size) for size in (1, 2, 3, 8, 16)]
        [8, 8, 9, 8, 16]
    """
    return world_size * -(-LEAST_LANES // world_size)


def permutation(rows: int, *key: int) -> Ints:
    """A permutation of range(rows) that is a pure function of `key` (integers >= 0), for ever.

    Sorted raw bits of PCG64: numpy promises that these stay the same, which it does not of `Generator.permutation`,
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
    """

    lane: int
    file: str
    row_group: int
    group_rows: int
    start: int
    stop: int
    key: tuple[int, ...] | None
    checksum: str = ""

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
        global_batch: rows a step over all workers (>= 1).
        steps: steps taken before the geometry changed (>= 1).
    """

    lanes: int
    global_batch: int
    steps: int

    @property
    def rows(self) -> int:
        return self.global_batch * self.steps


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where training stands in the data; goes into checkpoints.

    Args:
        epoch: counted from 0.
        cuts: earlier stretches of this epoch, with other geometries.
        step: steps taken in the present stretch.
        lanes: lanes of the present stretch; 0 before its first step.
        global_batch: its rows a step over all workers; 0 before its first step.
        data: fingerprint of the data and seed that the position counts in; empty before the first step.
    """

    epoch: int = 0
    cuts: tuple[Cut, ...] = ()
    step: int = 0
    lanes: int = 0
    global_batch: int = 0
    data: str = ""

    @property
    def steps_done(self) -> int:
        """Steps taken in this epoch, over all stretches."""
        return self.step + sum(cut.steps for cut in self.cuts)

    @property
    def rows_done(self) -> int:
        """Rows trained in this epoch by all workers."""
        return self.step * self.global_batch + sum(cut.rows for cut in self.cuts)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"cuts": [dataclasses.asdict(cut) for cut in self.cuts]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Position:
        return cls(**data | {"cuts": tuple(Cut(**cut) for cut in data["cuts"])})


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """A run of rows: stretches [start, stop) of row groups, one after the other."""

    group: Ints
    start: Ints
    stop: Ints

    @property
    def ends(self) -> Ints:
        return np.cumsum(self.stop - self.start)

    def between(self, begin: int, end: int) -> _Rows:
        """The rows [begin, end) of the run."""
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


class EpochPlan:
    """One epoch of training, from the end of `cuts` on.

    The row groups, permuted by (seed, epoch), stand one after the other; what the cuts consumed is taken out. The rest
    is cut into `lanes` runs. Step k takes from lane l its k-th share of q_l = floor((l+1)G/L) - floor(lG/L) rows, which
    add up to the global batch G. Rank r of W owns the lanes [rL/W, (r+1)L/W), so its share is G/W rows. Less than G
    rows at the end of the epoch are left out; the permutation makes them others every epoch.

    Args:
        manifest: the training split.
        seed: of the run (>= 0).
        epoch: counted from 0.
        cuts: earlier stretches of this epoch.
        lanes: multiple of the world size.
        global_batch: rows a step over all workers (>= 1), a multiple of the world size.
    """

    def __init__(
        self, manifest: Manifest, *, seed: int, epoch: int, lanes: int, global_batch: int, cuts: tuple[Cut, ...] = ()
    ) -> None:
        self._groups = manifest.row_groups
        self._key = (seed, epoch)
        self.lanes, self.global_batch = lanes, global_batch
        order = permutation(len(self._groups), seed, epoch)
        sizes = np.array([group.rows for group in self._groups], dtype=np.int64)[order]
        rows = _Rows(order, np.zeros_like(sizes), sizes)
        for cut in cuts:
            rows = _after(rows, cut)
        self._rows = rows

    @property
    def rows_left(self) -> int:
        """Rows that this stretch starts with."""
        return int((self._rows.stop - self._rows.start).sum())

    @property
    def steps(self) -> int:
        """Steps of this stretch, on every rank."""
        return self.rows_left // self.global_batch

    @property
    def shares(self) -> list[int]:
        """Rows that a step takes from each lane."""
        return _shares(self.lanes, self.global_batch)

    def owned(self, rank: int, world_size: int) -> range:
        """The lanes of one rank."""
        each = self.lanes // world_size
        return range(rank * each, (rank + 1) * each)

    def pieces(self, rank: int, world_size: int, start_step: int = 0, stop_step: int | None = None) -> list[Piece]:
        """What the rank reads for the steps [start_step, stop_step), ordered by the step that needs it first."""
        stop_step = self.steps if stop_step is None else stop_step
        shares, first_steps, pieces = self.shares, [], []
        for lane in self.owned(rank, world_size):
            share = shares[lane]
            if share == 0:
                continue
            begin = sum(shares[:lane]) * self.steps
            rows = self._rows.between(begin + share * start_step, begin + share * stop_step)
            offset = 0
            for group, start, stop in zip(rows.group.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True):
                pieces.append(self._piece(lane, group, start, stop))
                first_steps.append(offset // share)
                offset += stop - start
        return [pieces[i] for i in np.argsort(np.array(first_steps, dtype=np.int64), kind="stable")]

    def _piece(self, lane: int, group: int, start: int, stop: int) -> Piece:
        found = self._groups[group]
        # + 1 because numpy seeds (a, b) and (a, b, 0) alike
        key = (*self._key, group + 1)
        return Piece(lane, found.file, found.index, found.rows, start, stop, key, found.checksum)


class EvalPlan:
    """Every row exactly once, in the order of the files: rank r of W has the rows [rN/W, (r+1)N/W)."""

    def __init__(self, manifest: Manifest) -> None:
        self._groups = manifest.row_groups
        sizes = np.array([group.rows for group in self._groups], dtype=np.int64)
        self._rows = _Rows(np.arange(len(sizes)), np.zeros_like(sizes), sizes)
        self.rows = int(sizes.sum())

    def pieces(self, rank: int, world_size: int) -> list[Piece]:
        """What the rank reads, in order."""
        rows = self._rows.between(self.rows * rank // world_size, self.rows * (rank + 1) // world_size)
        return [
            Piece(0, found.file, found.index, found.rows, start, stop, None, found.checksum)
            for group, start, stop in zip(rows.group.tolist(), rows.start.tolist(), rows.stop.tolist(), strict=True)
            for found in (self._groups[group],)
        ]


def _shares(lanes: int, global_batch: int) -> list[int]:
    return [(lane + 1) * global_batch // lanes - lane * global_batch // lanes for lane in range(lanes)]


def _after(rows: _Rows, cut: Cut) -> _Rows:
    """What the cut left over: the rest of each of its lanes, and the tail that did not fill a batch."""
    total = int((rows.stop - rows.start).sum())
    steps = total // cut.global_batch
    left, begin = [], 0
    for share in _shares(cut.lanes, cut.global_batch):
        left.append(rows.between(begin + share * cut.steps, begin + share * steps))
        begin += share * steps
    left.append(rows.between(begin, total))
    return _Rows.concat(left)
