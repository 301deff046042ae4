"""Remarks of `prepare` at its end: on no errors, but on what is seldom intended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.data.doubts import listed
from rechub_ray.errors import DataError
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.labels import Classes
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.rows import SideTable
from rechub_ray.preparation.transforms import other_form
from rechub_ray.schema import Schema

_LEAST = 100
"""In fewer rows one value may be chance."""


def notes(
    recipe: Recipe,
    schema: Schema,
    encoder: Encoder,
    classes: Classes,
    splits: dict[str, Any],
    tied: int,
    *,
    is_one_moment: bool = False,
) -> list[str]:
    """Return sentences on the data set.

    Args:
        recipe: of the data set.
        schema: of the data set.
        encoder: the fitted one.
        classes: those of the training split.
        splits: the statistics of each split, as in stats.json.
        tied: rows whose history holds rows of their own moment.
        is_one_moment: whether the column of time has one value in all rows.
    """
    found = []
    for spec, label in zip(recipe.labels, schema.labels, strict=True):
        constant = {name: _only(numbers["labels"][label.name]) for name, numbers in splits.items()}
        where = [name for name, value in constant.items() if value is not None]
        if where and not (spec.expression and not spec.reads):
            values = " and ".join(dict.fromkeys(f"{constant[name]:g}" for name in where))
            effect = "there is nothing to learn" if TRAIN in where else "AUC is not defined there"
            found.append(f"label '{label.name}' is always {values} in {' and '.join(where)}: {effect}")
        for name, numbers in splits.items():
            if label.optional and numbers["labels"][label.name]["nulls"] == numbers["rows"]:
                found.append(f"label '{label.name}' has no value in {name}")
        absent = classes.absent(label)
        if absent:
            found.append(absent)
    for name, numbers in splits[TRAIN]["features"].items():
        if numbers["nulls"] == splits[TRAIN]["rows"]:
            found.append(f"feature '{name}' has no value in {TRAIN}")
        elif numbers.get("vocab_size") == 1:
            found.append(
                f"feature '{name}': no value is left for its vocabulary, so every row has id 0 (min_frequency?)"
            )
    alike = [f"'{name}'" for name, numbers in splits[TRAIN]["features"].items() if _is_constant(numbers)]
    if alike and splits[TRAIN]["rows"] >= _LEAST:
        found.append(
            f"one value in all rows of {TRAIN}: {listed(alike)}. Such a feature says nothing: leave it out, or look "
            "at how its column is read"
        )
    for name in encoder.counts:
        found += _two_forms(name, encoder)
    if is_one_moment and splits[TRAIN]["rows"] >= _LEAST:
        found.append(
            f"the column of time '{recipe.time_column}' has one moment in all rows, so the order in histories and "
            "splits is that of the files: name another column, or say how times are written (time_format)"
        )
    elif tied:
        found.append(
            f"the histories of {tied:,} rows hold rows of the same moment, in the order of the files "
            "(`history.ties: exclude` leaves them out)"
        )
    return found


def item_notes(numbers: dict[str, Any], recipe: Recipe) -> list[str]:
    """Return sentences on an item table.

    Args:
        numbers: its statistics, as in stats.json.
        recipe: of the data set.
    """
    assert recipe.items is not None
    if not numbers["without_row"]:
        return []
    where = recipe.items.file or "the training rows"
    share = f"{numbers['without_row'] / numbers['rows']:.2%}"
    return [f"items: {numbers['without_row']:,} ({share}) have no row in {where}, so nulls"]


def _only(numbers: dict[str, Any]) -> float | None:
    """Return the value that a label always has; None where it has several, or none."""
    return numbers["min"] if numbers["min"] is not None and numbers["min"] == numbers["max"] else None


def _is_constant(numbers: dict[str, Any]) -> bool:
    """Return whether a feature of the training split has one value and no null."""
    if numbers["nulls"] or numbers.get("unseen"):
        return False
    ends = numbers.get("length", numbers)  # a list of one value may still say how long it is
    if "distinct" in numbers and numbers["distinct"] != 1:
        return False
    return ends.get("min") == ends.get("max") and ("distinct" in numbers or numbers["kind"] == "dense")


def _two_forms(name: str, encoder: Encoder) -> list[str]:
    """Return a sentence where a vocabulary holds whole numbers with and without `.0`."""
    values = encoder.vocabulary(name)
    pointed = values.filter(pc.ends_with(values, ".0"))
    met = pointed.filter(pc.is_in(other_form(pointed, pa.nulls(len(pointed), pa.int32())), value_set=values))
    if not len(met):
        return []
    text = met[0].as_py()
    return [f"feature '{name}': {len(met):,} values have two forms and two ids, such as '{text[:-2]}' and '{text}'"]


def check_joins(
    sides: tuple[SideTable, ...], matched: npt.NDArray[np.int64], rows: int, example: Callable[[str], Any]
) -> list[str]:
    """Return a sentence for each side table that lacks many rows' keys.

    Args:
        sides: the side tables.
        matched: how many rows have a partner in each.
        rows: all rows.
        example: gives a value of a column of the rows.

    Raises:
        DataError: a side table has a partner for none of the rows.
    """
    found = []
    for side, count in zip(sides, matched.tolist(), strict=True):
        if not count and rows:
            theirs, join = side.keys.drop_null(), side.join
            mine = ", ".join(repr(example(name)) for name in join.input_columns)
            raise DataError(
                f"the side table {side.join.file} has a partner for none of the {rows:,} rows",
                expected=f"values of '{join.input_key or join.key}' that are values of its '{join.key}'",
                got=f"{mine} here, {theirs[0].as_py() if len(theirs) else None!r} there",
                hint="Check 'key' and 'input_key', and whether both are written in one way (leading zeros, blanks).",
            )
        if count < rows:
            share = f"{(rows - count) / rows:.2%}"
            found.append(f"{side.join.file}: {rows - count:,} rows ({share}) have no partner, so nulls")
    return found
