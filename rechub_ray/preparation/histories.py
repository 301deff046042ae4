"""A user's rows together: positions from the end (leave-last-out) and the list of earlier items (histories).

Rows are dealt into bucket files by a hash of the user, and each bucket is sorted in memory: the memory needed is
that of the largest bucket, so of the largest user at least, however large the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rechub_ray.preparation.buckets import Dealer, bounds, dealt
from rechub_ray.preparation.clusters import PLACE, places
from rechub_ray.preparation.forms import History, LeaveLastOut
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.sources import BadRow, RawRows, Source, Task, read
from rechub_ray.preparation.times import units
from rechub_ray.preparation.values import Flaws, flat, to_lists, to_text, uniform, whole_form, windows
from rechub_ray.preparation.writer import Quarantine

_EXPLODE_ROWS = 65_536
_SHUFFLE = 2**32  # a seed that no split by chance has by default
_ORIGIN = ("__file", "__row", "__from_end", "__first", "__window")


@dataclasses.dataclass(frozen=True)
class Deal:
    """First half: deals a task's rows into one file a bucket."""

    source: Source
    recipe: Recipe
    files: tuple[str, ...]
    folder: Path
    quarantine: Path
    buckets: int

    def __call__(self, item: tuple[int, Task]) -> int:
        number, task = item
        user, order = user_and_order(self.recipe)
        dealer = Dealer(self.folder, number, self.buckets)
        quarantine = Quarantine(self.quarantine / f"part-dealt-{number:05d}.jsonl", self.recipe.on_bad_rows)
        for raw in read(self.source, task):
            dealer.add(*self._keyed(raw, user, order, quarantine))
        dealer.close()
        return quarantine.rows

    def _keyed(self, raw: RawRows, user: str, order: str | None, quarantine: Quarantine) -> tuple[pa.Table, pa.Array]:
        """Return the usable rows with their place in time, and their users."""
        table, flaws = raw.table, Flaws(raw.table.num_rows)
        users = whole_form(to_text(table[user]))
        flaws.add(users.is_null(), f"column '{user}' is null")
        place = places(raw, order, self.recipe.time_format, flaws)
        if self.recipe.history is not None and self.recipe.history.shuffle:
            numbers = np.zeros(len(raw.rows))
            for file in np.unique(raw.files):
                mine = raw.files == file
                numbers[mine] = uniform(_SHUFFLE, int(file), raw.rows[mine])
            place |= {
                PLACE[0]: pa.array(raw.files.astype(np.int64)),
                PLACE[1]: pa.array(numbers),
            }  # by file, then by chance
        for name, values in place.items():
            table = table.append_column(name, values)
        for row, reason in sorted(flaws.reasons.items()):
            raw.bad.append(BadRow(self.files[raw.files[row]], int(raw.rows[row]), reason))
        quarantine.add(raw.bad)
        good = pa.array(flaws.good)
        return table.filter(good), users.filter(good)


def user_and_order(recipe: Recipe) -> tuple[str, str | None]:
    """Return the column of a row's user and the column of its time."""
    spec = recipe.history if recipe.history is not None else recipe.split
    assert isinstance(spec, History | LeaveLastOut)
    assert spec.user is not None
    return spec.user, spec.order


@dataclasses.dataclass(frozen=True)
class Gather:
    """Second half: adds histories and positions in the order (user, time, file, row), and restores the input order."""

    recipe: Recipe
    folder: Path

    def __call__(self, bucket: int) -> tuple[str, int, set[tuple[int, float]]]:
        """Write a bucket's rows into one file.

        Returns:
            The file (an empty name where there are no rows), how many rows have rows of their own moment in their
            history, and two different moments, or as many as there are; none where rows have no time.
        """
        table = dealt(self.folder, bucket)
        if table is None:
            return "", 0, set()
        user, ordered = user_and_order(self.recipe)
        users = flat(whole_form(to_text(table[user])).dictionary_encode().indices).to_numpy()
        keys = [table[name].to_numpy() for name in reversed(PLACE)]
        order = np.lexsort((*keys, users))
        table, users = table.take(pa.array(order)), users[order]
        begins, ends = bounds(users)
        begins, ends = np.repeat(begins, ends - begins), np.repeat(ends, ends - begins)
        table = table.append_column("__from_end", pa.array(ends - 1 - np.arange(len(users))))
        history, tied = self.recipe.history, 0
        seen: set[tuple[int, float]] = set()
        if ordered is not None:
            other = int(np.argmax((keys[-1] != keys[-1][0]) | (keys[-2] != keys[-2][0])))
            seen = {(int(keys[-1][row]), float(keys[-2][row])) for row in (0, other)}
        if history is not None:
            rows = stops = np.arange(len(users))
            time, fraction = keys[-1][order], keys[-2][order]
            if history.rows == "latest":
                rows = np.flatnonzero(np.append(users[1:] != users[:-1], True))
                stops = rows + 1
            elif ordered is not None:
                new = np.append(True, (np.diff(users) != 0) | (np.diff(time) != 0) | (np.diff(fraction) != 0))
                runs = np.maximum.accumulate(np.where(new, stops, 0))
                tied = int((runs < stops).sum()) if history.ties == "include" else 0
                stops = runs if history.ties == "exclude" else stops
            columns = {name: to_text(table[column]) for name, column in history.columns.items()}
            spans = _Spans(self.recipe, begins[rows], stops, ends[rows], rows)
            table = table if len(rows) == len(users) else table.take(pa.array(rows))
            for name, values in spans.lists(columns).items():
                table = table.append_column(name, values)
            if history.age is not None:
                table = table.append_column(history.age, spans.ages(time, fraction))
            table = spans.marked(table)
        table = table.sort_by([(name, "ascending") for name in PLACE])
        path = self.folder / f"gathered-{bucket:03d}.parquet"
        pq.write_table(table.drop_columns(["__time", "__fraction"]), path, row_group_size=65_536)
        return str(path), tied, seen


class _Spans:
    """The earlier rows of each row, among rows in the order of users and time.

    Args:
        recipe: has a history.
        begins: the first row of each row's user.
        stops: one past the last of each row's earlier rows.
        ends: one past the last row of each row's user.
        rows: the rows, ascending.
    """

    def __init__(
        self,
        recipe: Recipe,
        begins: npt.NDArray[np.int64],
        stops: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
    ) -> None:
        assert recipe.history is not None
        self._history, self._begins, self._stops, self._rows = recipe.history, begins, stops, rows
        self._starts = np.maximum(begins, stops - self._history.max_length)
        # negative in the rows that are held out
        self._before_held_out = ends - 1 - rows - recipe.held_out

    def lists(self, columns: Mapping[str, pa.Array]) -> dict[str, pa.ListArray]:
        """Return the lists of earlier values of some columns, by name, and that of all earlier items."""
        found = {name: windows(values, self._starts, self._stops) for name, values in columns.items()}
        if self._history.exclude is not None:
            is_whole = (self._before_held_out < 0) | (self._history.rows == "latest")
            starts = np.where(is_whole, self._begins, self._stops)
            found[self._history.exclude] = windows(columns[self._history.name], starts, self._stops)
        return found

    def ages(self, time: npt.NDArray[np.int64], fraction: npt.NDArray[np.float64]) -> pa.ListArray:
        """Return how many whole seconds before each row its earlier rows were, by moments as of `times.moments`."""
        lengths = self._stops - self._starts
        whole = windows(pa.array(time), self._starts, self._stops)
        part = windows(pa.array(fraction), self._starts, self._stops).values.to_numpy()
        own, its_fraction = np.repeat(time[self._rows], lengths), np.repeat(fraction[self._rows], lengths)
        elapsed = own - whole.values.to_numpy() - (its_fraction < part)
        seconds = elapsed // np.repeat(units(time)[self._rows], lengths).astype(np.int64)
        return pa.ListArray.from_arrays(whole.offsets, pa.array(seconds))

    def marked(self, table: pa.Table) -> pa.Table:
        """Return the rows that `min_length` keeps, with columns `__first` and, where it is asked for, `__window`."""
        keep = self._stops - self._begins >= self._history.min_length
        before = np.append(False, keep[:-1]) | (self._begins == self._rows)
        table = table.append_column("__first", pa.array(keep & ~before))
        if self._history.rows in ("windows", "both"):
            is_last = self._before_held_out % self._history.max_length == 0
            table = table.append_column("__window", pa.array(is_last))
        return table.filter(pa.array(keep))


def gathered(raw: RawRows) -> RawRows:
    """Return rows of a gathered file with their origin columns taken out."""
    table = raw.table
    names = table.column_names
    return RawRows(
        table.drop_columns([name for name in names if name in _ORIGIN]),
        table["__file"].to_numpy(),
        table["__row"].to_numpy(),
        raw.bad,
        table["__from_end"].to_numpy(),
        table["__first"].to_numpy() if "__first" in names else None,
        table["__window"].to_numpy() if "__window" in names else None,
    )


def explode(raw: RawRows, recipe: Recipe) -> Iterator[RawRows]:
    """Yield one row an element of the row's list `history.items`, each with the elements before it."""
    history = recipe.history
    assert history is not None
    assert history.items is not None
    lists = to_lists(raw.table[history.items], history.separator)
    totals = np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    start = 0
    while start < len(lists):
        before = totals[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(totals, before + _EXPLODE_ROWS, side="right")))
        yield _exploded(raw, recipe, history, lists.slice(start, stop - start), np.arange(start, stop), start == 0)
        start = stop
    if not len(lists):
        yield _exploded(raw, recipe, history, lists, np.arange(0), True)


def _exploded(
    raw: RawRows, recipe: Recipe, history: History, lists: pa.ListArray, rows: npt.NDArray[np.int64], first: bool
) -> RawRows:
    items, lengths = lists.flatten(), np.diff(lists.offsets.to_numpy())
    if history.rows == "latest":  # a row a user, also of one without items
        owners, ends = rows, np.cumsum(lengths)
        begins, stops, places = ends - lengths, ends, ends - 1
    else:
        owners = np.repeat(rows, lengths)
        ends = np.repeat(np.cumsum(lengths), lengths)
        begins, places = ends - np.repeat(lengths, lengths), np.arange(len(items))
        stops = places
    repeated, taken = raw.table.drop_columns([history.items]), pa.array(owners)
    columns = {name: repeated[name].take(taken) for name in repeated.column_names}
    spans = _Spans(recipe, begins, stops, ends, places)
    table = pa.table(
        {
            **columns,
            history.item: items.take(pa.array(places, mask=begins == ends)),
            **spans.lists({history.name: items}),
            "__file": pa.array(raw.files[owners]),
            "__row": pa.array(raw.rows[owners]),
            "__from_end": pa.array(ends - 1 - places),
        }
    )
    return gathered(RawRows(spans.marked(table), raw.files[:0], raw.rows[:0], raw.bad if first else []))
