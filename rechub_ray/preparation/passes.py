"""The two passes over the rows: the work of one task in each, and the sum of the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rechub_ray.data.doubts import ROWS, looked_at
from rechub_ray.preparation.buckets import Dealer
from rechub_ray.preparation.encoder import Encoder, FitState
from rechub_ray.preparation.items import RowsOfItems
from rechub_ray.preparation.labels import Classes
from rechub_ray.preparation.recipe import TRAIN, WINDOWS, Recipe
from rechub_ray.preparation.rows import ReadyRows, RowReader
from rechub_ray.preparation.sketch import SampledRows
from rechub_ray.preparation.sources import Task
from rechub_ray.preparation.statistics import SplitStatistics
from rechub_ray.preparation.writer import Quarantine, ShardWriter
from rechub_ray.schema import Schema


class Fitted:
    """Results of the first pass: the encoder's state, the classes of labels, how many rows side tables know, and what
    rows say of their items."""

    def __init__(self, state: FitState, classes: Classes, joins: int) -> None:
        self.state, self.classes, self.rows = state, classes, 0
        self.items = RowsOfItems()
        self.matched: npt.NDArray[np.int64] = np.zeros(joins, dtype=np.int64)

    def merge(self, other: Fitted) -> None:
        self.state.merge(other.state)
        self.classes.merge(other.classes)
        self.items.merge(other.items)
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
            if recipe.items is not None and recipe.items.from_rows:
                own = {spec.name: mine.parsed[spec.name] for spec in recipe.items.features}
                found.items.add(mine.parsed[recipe.items.id], own)
        return found


class Encoded:
    """Results of the second pass: statistics and a sample by split, bad rows, how many rows side tables know, and how
    many training rows each item id has."""

    def __init__(self, recipe: Recipe, schema: Schema, number: int = -1) -> None:
        names = recipe.splits if recipe.warnings else ()
        self.samples = {name: SampledRows(ROWS, (number + 1, place)) for place, name in enumerate(names)}
        self.splits = {name: SplitStatistics() for name in recipe.folders}
        self.bad = self.rows = 0
        ids = 0 if schema.items is None else schema.item_side.sparse[0].vocab_size
        self.items: npt.NDArray[np.int64] = np.zeros(ids, dtype=np.int64)
        self.matched: npt.NDArray[np.int64] = np.zeros(len(recipe.joins), dtype=np.int64)

    def merge(self, other: Encoded) -> None:
        for name, part in other.splits.items():
            self.splits[name].merge(part)
        for name, sample in other.samples.items():
            self.samples[name].merge(sample)
        self.matched, self.rows, self.bad = self.matched + other.matched, self.rows + other.rows, self.bad + other.bad
        self.items = self.items + other.items


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
        recipe, found = self.reader.recipe, Encoded(self.reader.recipe, self.schema, number)
        read = looked_at(self.schema).columns
        windows = WINDOWS if WINDOWS in recipe.folders else TRAIN
        writers = {name: self._writer(name, number) for name in recipe.folders}
        quarantine = Quarantine(self.staging / "quarantine" / f"part-{number:05d}.jsonl", recipe.on_bad_rows)
        for rows in self.reader.ready(task, self.encoder):
            quarantine.add(rows.bad)
            found.matched, found.rows = found.matched + rows.matched, found.rows + rows.rows
            for code in np.unique(rows.codes).tolist():
                name, mine = recipe.splits[code], rows.filter(rows.codes == code)
                columns = self.encoder.encode_parsed(mine.parsed)
                if name == TRAIN and self.schema.items is not None:
                    ids = columns[self.schema.items.id].to_numpy()
                    found.items += np.bincount(ids, minlength=len(found.items))
                table = self._table(columns, mine)
                if name in found.samples:
                    found.samples[name].add(table.select(read))
                for folder in [name, *([WINDOWS] if name == TRAIN and WINDOWS in writers else [])]:
                    if folder == windows and mine.window is not None:
                        table, mine = table.filter(pa.array(mine.window)), mine.filter(mine.window)
                    writer = writers[folder]
                    if isinstance(writer, Dealer):
                        writer.add(table, table[self.schema.group])
                    else:
                        writer.add(table)
                    found.splits[folder].add(self.schema.features, self.schema.labels, mine.parsed, table)
        for writer in writers.values():
            writer.close()
        found.bad = quarantine.rows
        return found

    def _table(self, columns: dict[str, pa.Array], rows: ReadyRows) -> pa.Table:
        """Return rows, whose features are encoded, with all columns of the shards."""
        names = [*self.schema.columns, *rows.places]
        columns = {**columns, **{name: self.encoder.item_ids(values) for name, values in rows.lists.items()}}
        names += rows.lists
        return pa.table({**columns, **rows.others, **rows.places}).select(names)

    def _writer(self, split: str, number: int) -> ShardWriter | Dealer:
        recipe = self.reader.recipe
        if recipe.cluster_by is not None:
            return Dealer(self.staging / "work" / "clusters" / split, number, self.buckets)
        return ShardWriter(self.staging / split, number, recipe.row_group_rows, recipe.shard_rows)
