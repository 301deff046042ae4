"""The item table: a row for each item of a vocabulary, with its features and the number of its training rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.data.fingerprint import ITEMS
from rechub_ray.errors import DataError, shown
from rechub_ray.preparation.columns import Use
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.forms import Items, Join
from rechub_ray.preparation.recipe import Recipe, feature_uses
from rechub_ray.preparation.rows import SideTable
from rechub_ray.preparation.sources import Source
from rechub_ray.preparation.statistics import SplitStatistics
from rechub_ray.preparation.values import Flaws, flat, whole_form
from rechub_ray.preparation.writer import ShardWriter, number_shards
from rechub_ray.schema import COUNT, Schema

_KEY = "__key"
_PENDING_ROWS = 1 << 16


class RowsOfItems:
    """What training rows say of each item: the parsed features of the items, once an item."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._settled = 0

    def add(self, keys: pa.Array, parsed: dict[str, pa.Array]) -> None:
        """Take in rows: the texts that name their items, and the items' features.

        Raises:
            DataError: an item has two values of a feature.
        """
        self._append(_distinct(pa.table({_KEY: whole_form(keys), **parsed}).filter(keys.is_valid())))

    def merge(self, other: RowsOfItems) -> None:
        """Take in the rows of another task.

        Raises:
            DataError: an item has two values of a feature.
        """
        for part in other._parts:
            self._append(part)

    def _append(self, part: pa.Table) -> None:
        self._parts.append(part)
        # settling at twice the settled size keeps the total work linear
        if sum(one.num_rows for one in self._parts) > max(_PENDING_ROWS, 2 * self._settled):
            self.table()

    def table(self) -> pa.Table | None:
        """Return a row an item, of which the first column is its text; None where there were no rows.

        Raises:
            DataError: an item has two values of a feature.
        """
        if len(self._parts) > 1:
            self._parts = [_distinct(pa.concat_tables(self._parts))]
        self._settled = self._parts[0].num_rows if self._parts else 0
        return self._parts[0] if self._parts else None


def _distinct(table: pa.Table) -> pa.Table:
    """Return the first row of each item.

    Raises:
        DataError: an item has two values of a feature.
    """
    codes = flat(flat(table[_KEY]).dictionary_encode().indices).to_numpy(zero_copy_only=False)
    _, firsts = np.unique(codes, return_index=True)
    for name in table.column_names[1:]:
        values = _comparable(flat(table[name]))
        wrong = np.flatnonzero(values != values[firsts][codes])
        if len(wrong):
            row = int(wrong[0])
            one, other = (table[name][at].as_py() for at in (int(firsts[codes[row]]), row))
            raise DataError(
                f"item '{table[_KEY][row].as_py()}' has two values of '{name}' in the training rows",
                expected="the same in all rows of an item, as 'items.from_rows' says",
                got=f"{shown(one)} and {shown(other)}",
                hint="Make it a feature of the rows, or take it from a file with a row an item ('items.file').",
            )
    return table.take(pa.array(firsts))


def _comparable(values: pa.Array) -> npt.NDArray[np.int64]:
    """Return whole numbers that are equal where the values (texts, numbers, or lists of them) are."""
    if pa.types.is_list(values.type):
        texts = pc.fill_null(pc.cast(values.flatten(), pa.string()), "\x00")
        values = pc.binary_join(pa.ListArray.from_arrays(values.offsets, texts), "\x1f")
    codes = pc.fill_null(values.dictionary_encode().indices, -1)
    numbers: npt.NDArray[np.int64] = codes.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


@dataclasses.dataclass(frozen=True)
class ItemRows:
    """The raw side of the item table.

    Args:
        parsed: the features of the items that have a row, as `Encoder.parse_items` returns them.
        places: for each id from 1 on, its place in `parsed`; -1 where it has no row.
        others: how many rows are left out, since they are of items that the vocabulary does not hold.
    """

    parsed: dict[str, pa.Array]
    places: npt.NDArray[np.int64]
    others: int = 0

    @classmethod
    def of_file(cls, source: Source, spec: Items, column: str, encoder: Encoder) -> ItemRows:
        """Return the rows of `items.file` for an encoder whose item ids are fitted.

        Args:
            source: has the file.
            spec: names it.
            column: the raw column of the id, which the key is called like unless it is given.
            encoder: parses the rows.

        Raises:
            DataError: the file cannot be read, has a key twice, a value that is none of its feature, or no item.
        """
        assert spec.file is not None
        uses = feature_uses(spec.features)
        uses += [Use(name, f"the key of {other.file}") for other in spec.joins for name in other.input_columns]
        made = {name for other in spec.joins for name in other.columns}
        columns = tuple(dict.fromkeys(use.column for use in uses if use.column not in made))
        join = Join(file=spec.file, key=spec.key or column, columns=columns, format=spec.format)
        side = SideTable.read(source, join, tuple(uses))
        vocabulary = encoder.vocabulary(spec.id)
        rows = pc.index_in(whole_form(vocabulary), value_set=side.keys)
        if rows.null_count == len(rows):
            theirs = side.keys.drop_null()
            raise DataError(
                f"{spec.file} has a row for none of the {len(rows):,} items of the training rows",
                expected=f"values of its '{join.key}' that are values of '{column}'",
                got=f"{shown(vocabulary[0].as_py()) if len(rows) else None} here, "
                f"{shown(theirs[0].as_py()) if len(theirs) else None} there",
                hint="Check 'items.key', and whether both are written in one way (leading zeros, blanks).",
            )
        known = rows.drop_null()
        table = pa.table({name: values.take(known) for name, values in side.columns.items()})
        for other in (SideTable.read(source, other, tuple(uses)) for other in spec.joins):
            table, _ = other.add_to(table)
        flaws = Flaws(len(known))
        parsed = encoder.parse_items(table, flaws)
        if flaws.reasons:
            row = min(flaws.reasons)
            raise DataError(f"{spec.file}, item '{side.keys[known[row].as_py()].as_py()}': {flaws.reasons[row]}")
        has_row = rows.is_valid().to_numpy(zero_copy_only=False)
        places = np.where(has_row, np.cumsum(has_row) - 1, -1)
        return cls(parsed, places, len(side.keys) - len(pc.unique(known)))

    @classmethod
    def of_rows(cls, found: RowsOfItems, encoder: Encoder) -> ItemRows:
        """Return what training rows say, for an encoder whose item ids are fitted."""
        assert encoder.item_id is not None
        vocabulary = encoder.vocabulary(encoder.item_id)
        table = found.table()
        assert table is not None
        keys, parsed = flat(table[_KEY]), {name: flat(table[name]) for name in table.column_names[1:]}
        places = pc.fill_null(pc.index_in(whole_form(vocabulary), value_set=keys), -1)
        return cls(parsed, places.to_numpy(zero_copy_only=False).astype(np.int64))

    @classmethod
    def without_features(cls, encoder: Encoder) -> ItemRows:
        """Return the table of ids alone."""
        assert encoder.item_id is not None
        return cls({}, np.zeros(len(encoder.vocabulary(encoder.item_id)), np.int64))

    def of_every_id(self) -> dict[str, pa.Array]:
        """Return the features of every id from 1 on, with missing values where it has no row."""
        found = {}
        for name, values in self.parsed.items():
            missing: Any = None
            if pa.types.is_list(values.type):
                # a vector stays as long as the others are
                longest = (
                    pc.max(pc.list_value_length(values)).as_py() if pa.types.is_floating(values.type.value_type) else 0
                )
                missing = [None] * (longest or 0)
            places = np.where(self.places < 0, len(values), self.places)
            found[name] = pa.concat_arrays([values, pa.array([missing], values.type)]).take(pa.array(places))
        return found


def item_rows(recipe: Recipe, source: Source, found: RowsOfItems, encoder: Encoder) -> ItemRows:
    """Return the raw side of a recipe's item table, for an encoder whose item ids are fitted.

    Raises:
        DataError: see `ItemRows.of_file`.
    """
    spec = recipe.items
    assert spec is not None
    if spec.from_rows:
        return ItemRows.of_rows(found, encoder)
    if spec.file is None:
        return ItemRows.without_features(encoder)
    column = next(feature.source for feature in recipe.features if feature.name == spec.id)
    return ItemRows.of_file(source, spec, column, encoder)


def write_items(
    rows: ItemRows, counts: npt.NDArray[np.int64], encoder: Encoder, schema: Schema, recipe: Recipe, staging: Path
) -> dict[str, Any]:
    """Write the item table below `staging`.

    Args:
        rows: their raw side.
        counts: training rows of each id from 0 on.
        encoder: the fitted one.
        schema: of the data set.
        recipe: says how long row groups and shards are.
        staging: the folder of the data set.

    Returns:
        Its statistics, as in stats.json.
    """
    side = schema.item_side
    parsed = rows.of_every_id()
    ids = np.arange(1, len(rows.places) + 1)
    columns = {side.features[0].name: pa.array(ids), **encoder.encode_items(parsed), COUNT: pa.array(counts[1:])}
    table = pa.table(columns)
    writer = ShardWriter(staging / ITEMS, 0, recipe.row_group_rows, recipe.shard_rows)
    writer.add(table)
    writer.close()
    number_shards(staging / ITEMS)
    statistics = SplitStatistics()
    statistics.add(side.features[1:], (), parsed, table)
    return {
        "rows": table.num_rows,
        "without_row": int((rows.places < 0).sum()),
        "left_out": rows.others,
        "without_training_row": int((counts[1:] == 0).sum()),
        "features": statistics.to_dict(side.features[1:], ())["features"],
    }
