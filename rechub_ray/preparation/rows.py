"""From raw rows to rows that are ready: joined, labelled, assigned to a split, parsed, and free of flaws."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import DataError
from rechub_ray.preparation.clusters import places
from rechub_ray.preparation.columns import Use
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.forms import ByTime, Join
from rechub_ray.preparation.histories import explode, gathered
from rechub_ray.preparation.labels import label_column
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.sketch import Quantiles
from rechub_ray.preparation.sources import BadRow, RawRows, Source, Task, read, read_all
from rechub_ray.preparation.splits import Codes, split_codes
from rechub_ray.preparation.times import to_time
from rechub_ray.preparation.values import (
    FLOAT32_MAX,
    Flaws,
    flat,
    hash64,
    to_float,
    to_lists,
    to_number,
    to_text,
    whole_form,
)


@dataclasses.dataclass
class ReadyRows:
    """Rows that can be fitted and encoded.

    Args:
        parsed: features, not yet encoded.
        others: labels, weight, group and row id as they stand in the shards, and the columns to keep.
        codes: each row's split.
        bad: the raw rows that cannot be used.
        first: as in `RawRows`; None where there is no history.
        window: as in `RawRows`; None where all rows are kept.
        lists: lists of items that are no features, by name; that of `history.exclude` has all earlier items of the user
            of each row that is held out, and is empty in the others.
        places: with `cluster_by` each row's place in time and in the files, else empty.
        matched: by side table, how many of the raw rows have a partner in it.
        rows: number of raw rows, of which `matched` are counted.
    """

    parsed: dict[str, pa.Array]
    others: dict[str, pa.Array]
    codes: Codes
    bad: list[BadRow]
    first: npt.NDArray[np.bool_] | None
    window: npt.NDArray[np.bool_] | None
    lists: dict[str, pa.ListArray]
    places: dict[str, pa.Array]
    matched: npt.NDArray[np.int64]
    rows: int

    def filter(self, keep: npt.NDArray[np.bool_]) -> ReadyRows:
        """Return the rows in `keep`; `bad`, `matched` and `rows` stay as they are."""
        if keep.all():
            return self
        mask = pa.array(keep)
        parsed, others, places = (
            {name: values.filter(mask) for name, values in columns.items()}
            for columns in (self.parsed, self.others, self.places)
        )
        first, window = (None if marks is None else marks[keep] for marks in (self.first, self.window))
        lists = {name: values.filter(mask) for name, values in self.lists.items()}
        return dataclasses.replace(
            self,
            parsed=parsed,
            others=others,
            places=places,
            codes=self.codes[keep],
            first=first,
            window=window,
            lists=lists,
        )


class SideTable:
    """A side table and its keys; whole numbers meet in any form ("7", 7, 7.0).

    Args:
        join: its place in the recipe.
        table: its rows.
        where: names it in errors.

    Raises:
        DataError: two rows have one key.
    """

    def __init__(self, join: Join, table: pa.Table, where: str) -> None:
        self.join = join
        keys = whole_form(flat(to_text(table[join.key])))
        counts = pc.value_counts(keys.drop_null())
        if len(counts) and pc.max(counts.field("counts")).as_py() > 1:
            twice = counts.field("values")[int(np.argmax(counts.field("counts").to_numpy()))].as_py()
            raise DataError(f"{where}: key '{join.key}' is not unique", got=f"'{twice}' more than once")
        self.keys, self.columns = keys, {name: flat(table[name]) for name in join.columns}

    @classmethod
    def read(cls, source: Source, join: Join, uses: tuple[Use, ...]) -> SideTable:
        """Return the table in `join.file`; `uses` are the recipe's."""
        wanted = [Use(join.key, "the key of a side table"), *(use for use in uses if use.column in join.columns)]
        columns = list(dict.fromkeys([join.key, *join.columns]))
        return cls(join, read_all(source, join.file, join.format, columns, wanted), join.file)

    def _keys_of(self, table: pa.Table) -> pa.Array:
        """Return what is looked up for each row of the input; null where a column that it is made of is."""
        names = self.join.input_columns
        columns = [flat(whole_form(to_text(table[name]))) for name in names]
        template = self.join.input_key or self.join.key
        if template == names[0]:
            return columns[0]
        rest, parts = template, []
        for name, column in zip(names, columns, strict=True):
            before, _, rest = rest.partition("{" + name + "}")
            parts += [before, column]
        return pc.binary_join_element_wise(*parts, rest, "")

    def add_to(self, table: pa.Table) -> tuple[pa.Table, int]:
        """Return the table with this one's columns, and how many of its rows have a partner here."""
        places = pc.index_in(self._keys_of(table), value_set=self.keys)
        for name, values in self.columns.items():
            table = table.append_column(name, values.take(places))
        return table, len(places) - places.null_count


@dataclasses.dataclass(frozen=True)
class RowReader:
    """Reads a task's rows and makes them ready.

    Args:
        source: the filesystem of the tasks' files.
        recipe: what to make of them.
        files: the input files by index, for messages.
        sides: the side tables, in the order of the recipe's joins.
        grouped: whether the tasks are gathered files, on the local filesystem.
        splits: the split of each input file by its index, where the split is by file.
        starts: see `split_codes`.
        keep: raw columns that go with the rows as they are.
    """

    source: Source
    recipe: Recipe
    files: tuple[str, ...]
    sides: tuple[SideTable, ...]
    grouped: bool = False
    splits: Mapping[int, str] = dataclasses.field(default_factory=dict)
    starts: tuple[float, ...] = ()
    keep: tuple[str, ...] = ()

    def joined(self, task: Task) -> Iterator[tuple[RawRows, npt.NDArray[np.int64]]]:
        """Yield the task's rows with histories and side tables, and how many of them each side table knows."""
        history = self.recipe.history
        for raw in read(self.source, task):
            whole = gathered(raw) if self.grouped else raw
            for part in explode(whole, self.recipe) if history is not None and history.items is not None else (whole,):
                matched = np.zeros(len(self.sides), dtype=np.int64)
                for number, side in enumerate(self.sides):
                    part.table, matched[number] = side.add_to(part.table)
                yield part, matched

    def ready(self, task: Task, encoder: Encoder) -> Iterator[ReadyRows]:
        """Yield the task's usable rows, and the others as `bad`."""
        for raw, matched in self.joined(task):
            table, flaws = raw.table, Flaws(raw.table.num_rows)
            parsed = encoder.parse(table, flaws)
            if self.recipe.items is not None and self.recipe.items.from_rows:
                parsed |= encoder.parse_items(table, flaws)
            others = other_columns(self.recipe, table, flaws)
            others |= {name: flat(table[name]) for name in self.keep}
            lists = _lists(self.recipe, table, flaws)
            codes = split_codes(self.recipe, raw, self.splits, self.starts, flaws)
            place = {}
            if self.recipe.cluster_by is not None:
                place = places(raw, self.recipe.time_column, self.recipe.time_format, flaws)
            bad = list(raw.bad)
            for row, reason in sorted(flaws.reasons.items()):
                text = json.dumps(table.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
                bad.append(BadRow(self.files[raw.files[row]], int(raw.rows[row]), reason, text))
            rows = ReadyRows(parsed, others, codes, bad, raw.first, raw.window, lists, place, matched, table.num_rows)
            yield rows.filter(flaws.good)

    def times(self, task: Task) -> Quantiles:
        """Return the quantiles of the moments of a task's rows, for a split by fractions of time.

        Raises:
            DataError: a row has no moment, and `on_bad_rows` is `error`.
        """
        assert isinstance(self.recipe.split, ByTime)
        column, quantiles = self.recipe.split.column, Quantiles()
        # where nothing else is needed for it, the column is read alone, in a third of the time
        own = [one for one in task.columns if one.name == column and column not in dict(task.keys) and not task.where]
        made = self.grouped or (self.recipe.history is not None and self.recipe.history.items is not None)
        parts = read(self.source, dataclasses.replace(task, columns=tuple(own))) if own and not made else None
        for raw in parts or (raw for raw, _ in self.joined(task)):
            flaws = Flaws(raw.table.num_rows)
            times = to_time(raw.table[column], column, flaws, self.recipe.time_format)
            if flaws.reasons and self.recipe.on_bad_rows == "error":
                row = min(flaws.reasons)
                raise BadRow(self.files[raw.files[row]], int(raw.rows[row]), flaws.reasons[row]).error()
            quantiles.add(times[flaws.good])
        return quantiles


def _lists(recipe: Recipe, table: pa.Table, flaws: Flaws) -> dict[str, pa.ListArray]:
    """Return the lists of items that are no features, by name; rows that cannot be used are marked."""
    given = {} if recipe.items is None else recipe.items.lists
    found = {name: to_lists(table[one.column or name], one.separator, name, flaws) for name, one in given.items()}
    if recipe.history is not None and recipe.history.exclude is not None:
        exclude = recipe.history.exclude
        found[exclude] = to_lists(table[exclude], None, exclude, flaws)
    return found


def other_columns(recipe: Recipe, table: pa.Table, flaws: Flaws) -> dict[str, pa.Array]:
    """Return labels, weight, group and row id as they stand in the shards; rows that cannot be used are marked."""
    columns = {label.name: label_column(label, table, flaws) for label in recipe.labels}
    for column, name, make in (
        (recipe.weight, recipe.weight, _weight),
        (recipe.group, group_name(recipe), _group),
        (recipe.row_id, row_id_name(recipe), _row_id),
    ):
        if column is not None and name is not None:
            columns[name] = make(column, table, flaws)
    return columns


def _free(name: str, recipe: Recipe) -> str:
    """Return `name`, with a suffix where a feature or label has it, whose encoded column keeps the name."""
    taken = {spec.name for spec in recipe.features} | {label.name for label in recipe.labels}
    return f"{name}_raw" if name in taken else name


def group_name(recipe: Recipe) -> str | None:
    """Return the name of the shards' group column."""
    return None if recipe.group is None else _free(recipe.group, recipe)


def row_id_name(recipe: Recipe) -> str | None:
    """Return the name of the shards' row id column."""
    name = None if recipe.row_id is None else _free(recipe.row_id, recipe)
    return f"{name}_id" if name is not None and name == group_name(recipe) else name


def _weight(name: str, table: pa.Table, flaws: Flaws) -> pa.Array:
    values = to_float(to_number(table[name], name, flaws))
    flaws.add(pc.is_null(values), f"weight '{name}' is null")
    flaws.add(pc.less(values, 0), f"weight '{name}' is {{value}}, expected >= 0", values)
    flaws.add(pc.greater(values, FLOAT32_MAX), f"weight '{name}' is {{value}}, past float32", values)
    return pc.cast(values, pa.float32())


def _group(name: str, table: pa.Table, flaws: Flaws) -> pa.Array:
    column = table[name]
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        flaws.add(pc.is_null(flat(column)), f"group '{name}' is null")
        return pc.cast(flat(column), pa.int64())
    texts = whole_form(to_text(column))
    flaws.add(pc.is_null(texts), f"group '{name}' is null")
    return group_numbers(texts)


def group_numbers(texts: pa.Array) -> pa.Array:
    """Return whole numbers as they are, other texts as 63 bits of their hash: value by value, so all files agree."""
    coded = texts.dictionary_encode()
    whole = pc.match_substring_regex(coded.dictionary, r"^(0|-?[1-9]\d{0,17})$")
    numbers = pc.cast(pc.if_else(whole, coded.dictionary, "0"), pa.int64())
    hashed = pa.array((hash64(coded.dictionary) >> np.uint64(1)).astype(np.int64))
    return pc.if_else(whole, numbers, hashed).take(coded.indices)


def _row_id(name: str, table: pa.Table, flaws: Flaws) -> pa.Array:
    column = flat(table[name])
    whole = pa.types.is_integer(column.type) and column.type != pa.uint64()
    ids = pc.cast(column, pa.int64()) if whole else to_text(column)
    flaws.add(pc.is_null(ids), f"row id '{name}' is null")
    return ids
