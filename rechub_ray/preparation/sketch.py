"""Summaries of a column that can be merged: counts, moments, quantiles; rows drawn by chance. Bounded work a block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_PENDING_ROWS = 1 << 16
QUANTILE_POINTS = 65_536


class Counter:
    """How often each text occurs. Memory grows with the number of different values (about 60 bytes and the text)."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._settled = 0

    def add(self, texts: pa.Array) -> None:
        """Count a block; nulls are left out."""
        counted = pc.value_counts(texts.drop_null())
        self._append(pa.table({"value": counted.field("values"), "count": counted.field("counts")}))

    def merge(self, other: Counter) -> None:
        for part in other._parts:
            self._append(part)

    def _append(self, part: pa.Table) -> None:
        self._parts.append(part)
        # settling at twice the settled size keeps the total work linear
        if sum(p.num_rows for p in self._parts) > max(_PENDING_ROWS, 2 * self._settled):
            self._settle()

    def _settle(self) -> pa.Table:
        if len(self._parts) != 1:
            empty = pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
            table = pa.concat_tables(self._parts or [empty])
            total = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
            self._parts = [total.select(["value", "count_sum"]).rename_columns(["value", "count"])]
        self._settled = self._parts[0].num_rows
        return self._parts[0]

    def __getstate__(self) -> list[pa.Table]:
        return [self._settle()]

    def __setstate__(self, parts: list[pa.Table]) -> None:
        self._parts, self._settled = list(parts), parts[0].num_rows

    def table(self, min_frequency: int = 1, max_values: int | None = None) -> pa.Table:
        """Return columns `value` and `count`: the most frequent first, equal counts in byte order of the value."""
        table = self._settle()
        table = table.filter(pc.greater_equal(table["count"], min_frequency))
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        return table.slice(0, max_values).combine_chunks()


@dataclasses.dataclass
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum.

    Reference: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take in a block of finite numbers."""
        if len(values):
            mean = float(values.mean())
            deviations = float(np.square(values - mean).sum())
            self.merge(Moments(len(values), mean, deviations, float(values.min()), float(values.max())))

    def merge(self, other: Moments) -> None:
        if not other.count:
            return
        count = self.count + other.count
        gap = other.mean - self.mean
        self.deviations += other.deviations + gap * gap * self.count * other.count / count
        self.mean += gap * other.count / count
        self.count = count
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    @property
    def std(self) -> float:
        """The standard deviation of these numbers (not of the population they come from)."""
        return math.sqrt(self.deviations / self.count) if self.count else 0.0


class Quantiles:
    """Quantiles: exact up to 65,536 different values, then from as many points of equal weight.

    Every compression moves a rank by at most 1/131,072 of the total weight.
    """

    def __init__(self) -> None:
        self.values: npt.NDArray[np.float64] = np.zeros(0)
        self.weights: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take in a block of finite numbers."""
        self._take(values, np.ones(len(values)))

    def merge(self, other: Quantiles) -> None:
        self._take(other.values, other.weights)

    def _take(self, values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> None:
        merged, index = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        totals = np.bincount(index, weights=np.concatenate([self.weights, weights])).astype(np.float64)
        if len(merged) > QUANTILE_POINTS:
            middles = np.cumsum(totals) - totals / 2
            ranks = (np.arange(QUANTILE_POINTS) + 0.5) * (totals.sum() / QUANTILE_POINTS)
            picked = merged[np.minimum(np.searchsorted(middles, ranks), len(merged) - 1)]
            picked[0], picked[-1] = merged[0], merged[-1]
            weight = totals.sum() / QUANTILE_POINTS
            merged, counts = np.unique(picked, return_counts=True)
            totals = weight * counts
        self.values, self.weights = merged, totals

    def at(self, fractions: list[float]) -> list[float]:
        """Return for each fraction q the smallest value with at least q of the weight at or below it."""
        if not len(self.values):
            return []
        ranks = np.cumsum(self.weights)
        wanted = np.asarray(fractions) * ranks[-1]
        index = np.searchsorted(ranks, wanted * (1 - 1e-12), side="left")
        return [float(x) for x in self.values[np.minimum(index, len(self.values) - 1)]]


class SampledRows:
    """Rows drawn by chance, each as likely as any other, whatever blocks and parts they come in.

    Args:
        size: how many are wanted, >= 1.
        seed: of the numbers that are drawn, another one for each part.
    """

    def __init__(self, size: int, seed: Sequence[int] = ()) -> None:
        self._size, self._draw = size, np.random.default_rng([*seed])
        self._parts: list[tuple[npt.NDArray[np.float32], pa.Table]] = []
        self._rows, self._below = 0, 1.0

    def add(self, table: pa.Table) -> None:
        """Take in a block."""
        self._take(self._draw.random(table.num_rows, np.float32), table)

    def merge(self, other: SampledRows) -> None:
        for numbers, table in other._parts:
            self._take(numbers, table)

    def table(self) -> pa.Table:
        """Return the rows."""
        self._cut()
        return pa.concat_tables([table for _, table in self._parts]).combine_chunks()

    def _take(self, numbers: npt.NDArray[np.float32], table: pa.Table) -> None:
        """Keep the rows with the smallest numbers."""
        mine = _smallest(numbers, self._size)
        mine = mine[numbers[mine] < self._below]
        self._parts.append((numbers[mine], table.take(pa.array(mine))))
        self._rows += len(mine)
        if self._rows > 2 * self._size:
            self._cut()

    def _cut(self) -> None:
        if self._rows > self._size:
            numbers = np.concatenate([part for part, _ in self._parts])
            mine = _smallest(numbers, self._size)
            table = pa.concat_tables([part for _, part in self._parts]).combine_chunks().take(pa.array(mine))
            self._parts, self._rows = [(numbers[mine], table)], len(mine)
            self._below = float(numbers[mine].max())


def _smallest(numbers: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """Return the places of the smallest numbers, ascending."""
    if len(numbers) <= size:
        return np.arange(len(numbers))
    return np.sort(np.argpartition(numbers, size)[:size])
