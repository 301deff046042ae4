"""The two passes over the rows: the work of one task in each, and the sum of the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rechub_ray.preparation.buckets import Dealer
from rechub_ray.preparation.encoder import Encoder, FitState
from rechub_ray.preparation.labels import Classes
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.rows import RowReader
from rechub_ray.preparation.sources import Task
from rechub_ray.preparation.statistics import SplitStatistics
from rechub_ray.preparation.writer import Quarantine, ShardWriter
from rechub_ray.schema import Schema


class Fitted:
    """Results of the first pass: the encoder's state, the classes of labels, and how many rows side tables know."""

    def __init__(self, state: FitState, classes: Classes, joins: int) -> None:
        self.state, self.classes, self.rows = state, classes, 0
        self.matched: npt.NDArray[np.int64] = np.zeros(joins, dtype=np.int64)

    def merge(self, other: Fitted) -> None:
        self.state.merge(other.state)
        self.classes.merge(other.classes)
        self.matched, self.rows = self.matched + other.matched, self.rows + other.rows


@dataclasses.dataclass(frozen=True)
class FitTask:
    """First pass: summarises a task's training rows for the fit."""

    reader: RowReader
    encoder: Encoder

    def __call__(self, task: Task) -> Fitted:
        recipe = self.reader.recipe
        train = recipe.splits.index(TRAIN)
        found = Fitted(self.encoder.fit_state(), Classes(recipe.labels), len(recipe.joins))
        quarantine = Quarantine(Path(), "error" if recipe.on_bad_rows == "error" else "skip")
        for rows in self.reader.ready(task, self.encoder):
            quarantine.add(rows.bad)
            found.matched, found.rows = found.matched + rows.matched, found.rows + rows.rows
            mine = rows.filter(rows.codes == train)
            found.state.rows += len(mine.codes)
            found.classes.add(mine.others)
            self.encoder.fit(found.state, mine.parsed, mine.first)
        return found


class Encoded:
    """Results of the second pass: statistics by split, bad rows, and how many rows side tables know."""

    def __init__(self, recipe: Recipe) -> None:
        self.splits = {name: SplitStatistics() for name in recipe.splits}
        self.bad = self.rows = 0
        self.matched: npt.NDArray[np.int64] = np.zeros(len(recipe.joins), dtype=np.int64)

    def merge(self, other: Encoded) -> None:
        for name, part in other.splits.items():
            self.splits[name].merge(part)
        self.matched, self.rows, self.bad = self.matched + other.matched, self.rows + other.rows, self.bad + other.bad


@dataclasses.dataclass(frozen=True)
class EncodeTask:
    """Second pass: writes a task's rows as shards of each split, or into buckets where groups are kept together."""

    reader: RowReader
    encoder: Encoder
    schema: Schema
    staging: Path
    buckets: int

    def __call__(self, item: tuple[int, Task]) -> Encoded:
        number, task = item
        recipe, found = self.reader.recipe, Encoded(self.reader.recipe)
        writers = {name: self._writer(name, number) for name in recipe.splits}
        quarantine = Quarantine(self.staging / "quarantine" / f"part-{number:05d}.jsonl", recipe.on_bad_rows)
        for rows in self.reader.ready(task, self.encoder):
            quarantine.add(rows.bad)
            found.matched, found.rows = found.matched + rows.matched, found.rows + rows.rows
            for code in np.unique(rows.codes).tolist():
                name, mine = recipe.splits[code], rows.filter(rows.codes == code)
                table = pa.table({**self.encoder.encode_parsed(mine.parsed), **mine.others, **mine.places})
                table = table.select([*self.schema.columns, *mine.places])
                writer = writers[name]
                if isinstance(writer, Dealer):
                    writer.add(table, table[self.schema.group])
                else:
                    writer.add(table)
                found.splits[name].add(self.schema.features, self.schema.labels, mine.parsed, table)
        for writer in writers.values():
            writer.close()
        found.bad = quarantine.rows
        return found

    def _writer(self, split: str, number: int) -> ShardWriter | Dealer:
        recipe = self.reader.recipe
        if recipe.cluster_by is not None:
            return Dealer(self.staging / "work" / "clusters" / split, number, self.buckets)
        return ShardWriter(self.staging / split, number, recipe.row_group_rows, recipe.shard_rows)
