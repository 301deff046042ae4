"""Columns of the raw files: what uses each of them, whether its type can be that, and one type over all files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import DataError
from rechub_ray.preparation.forms import Format
from rechub_ray.preparation.values import Flaws, flat, is_list, list_array, to_lists, to_text

Takes: TypeAlias = Literal["value", "number", "time", "list", "numbers"]
TEXT, LISTS = pa.string(), pa.list_(pa.string())

_VALUES = {"truth", "number", "text", "time", "clock", "uuid"}
_TAKES: dict[Takes, tuple[set[str], str]] = {
    "value": (_VALUES, "one value a row (text, number, true/false, date or time)"),
    "number": ({"truth", "number", "text"}, "one number a row"),
    "time": ({"number", "text", "time"}, "a date, a time with its date, or a number"),
    "list": ({*_VALUES, "list", "list of times"}, "a list of values, or a text to be cut at 'separator'"),
    "numbers": ({"text", "list"}, "a list of numbers, or a text to be cut at 'separator'"),
}


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of a raw column.

    Args:
        column: its name.
        what: the use, for messages: `label 'y'`.
        takes: the types that the use can take.
        separator: where a text is cut into a list.
    """

    column: str
    what: str
    takes: Takes = "value"
    separator: str | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column as it comes out of every file.

    Args:
        type: of every file's values; None leaves them as they are.
        separator: where texts are cut, for a list.
        user: the first use, for messages.
    """

    name: str
    type: pa.DataType | None = None
    separator: str | None = None
    user: str = ""

    @property
    def listed(self) -> bool:
        return self.type is not None and bool(self.type.equals(LISTS))


def check_type(where: str, name: str, kind: pa.DataType, uses: Iterable[Use]) -> None:
    """Check that each of `uses` can take column `name` of Arrow's type `kind`.

    Raises:
        DataError: names `where`, the column, its type and the use.
    """
    family = "uuid" if isinstance(kind, pa.UuidType) else _family(flat(pa.nulls(0, kind)).type)
    for use in uses:
        if use.column != name or family == "null":
            continue
        families, expected = _TAKES[use.takes]
        if family not in families:
            raise DataError(
                f"{where}: column '{name}' cannot be {use.what}",
                expected=expected,
                got=str(kind)[:200],
                hint=_hint(family, use),
            )


def _family(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_null(kind):
        return "null"
    if is_list(kind):
        inner = _family(flat(pa.nulls(0, kind.value_type)).type)
        if inner in ("null", "number", "truth", "text"):
            return "list"
        return "list of times" if inner in _VALUES else "list of lists or structs"
    if types.is_boolean(kind):
        return "truth"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_binary(kind):
        return "text"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "time"
    if types.is_time(kind) or types.is_duration(kind):
        return "clock"
    return "struct or map"


def _hint(family: str, use: Use) -> str:
    if family in ("list", "list of times"):
        if use.what.startswith("the "):
            return "A list of ids is `kind: sequence`, a list of numbers `kind: numeric` with `dim`."
        return "Write one value a row."
    if family in ("time", "clock"):
        return "Write it as a number of seconds, or as a date with its time."
    return "Write the part that is meant as a column of its own."


def settle(name: str, uses: Iterable[Use], found: Sequence[tuple[str, pa.DataType]]) -> Column:
    """Return the column in the type that it has over all files.

    A column that is only used as lists becomes lists of texts. Else files that agree keep their type (integers become
    int64), and where they differ the values become text, from which numbers and times are read exactly.

    Args:
        uses: of all columns.
        found: each file and the column's type there; a type that `check_type` has let pass.

    Raises:
        DataError: no type holds them all; names two files.
    """
    mine = [use for use in uses if use.column == name]
    user = mine[0].what if mine else ""
    separators = {use.separator for use in mine}
    if mine and all(use.takes in ("list", "numbers") for use in mine) and len(separators) == 1:
        return Column(name, LISTS, separators.pop(), user)
    kinds: dict[pa.DataType, str] = {}
    for file, found_kind in found:
        kind = flat(pa.nulls(0, found_kind)).type
        kind = pa.int64() if pa.types.is_integer(kind) and kind != pa.uint64() else kind
        if not pa.types.is_null(kind):
            kinds.setdefault(TEXT if pa.types.is_binary(kind) else kind, file)
    if len(kinds) <= 1:
        return Column(name, next(iter(kinds), TEXT), None, user)
    families = {_family(kind) for kind in kinds}
    as_time = any(use.takes == "time" for use in mine)
    nested = any(family.startswith(("list", "struct")) for family in families)
    if nested or (as_time and "number" in families and len(families) > 1):
        (one, first), (other, second) = list(kinds.items())[:2]
        raise DataError(
            f"column '{name}' is {one} in {first} and {other} in {second}",
            expected="types that can be read as one",
            hint="Write the files with the same type.",
        )
    return Column(name, TEXT, None, user)


def convert(table: pa.Table, columns: Sequence[Column], form: Format, flaws: Flaws) -> pa.Table:
    """Return the table with every column in its type over all files; values that cannot be read mark their row."""
    arrays = {}
    read_so = form.type in ("csv", "tsv") and not form.strip and not form.rest  # there Arrow has read them as null
    for column in columns:
        if column.type is None:
            arrays[column.name] = table[column.name]
            continue
        values = flat(table[column.name])
        values = _unchecked_bytes(values) if form.type == "parquet" else values
        if column.listed:
            if not is_list(values.type):
                values = _missing(to_text(values, column.name, flaws), form)
            values = to_lists(values, column.separator, column.name, flaws)
            values = pa.ListArray.from_arrays(values.offsets, _missing(values.values, form))
        elif column.type == TEXT:
            values = to_text(values, column.name, flaws)
            values = values if read_so else _missing(values, form)
            values = with_points(values) if form.decimal == "," else values
        elif values.type != column.type:
            values = pc.cast(values, column.type)
        arrays[column.name] = values
    return pa.table(arrays)


def with_points(texts: pa.Array) -> pa.Array:
    """Return the texts, with a point in numbers that have a comma before their fraction.

    Example:
        >>> with_points(pa.array(["3,5", "-,5", "1,2,3", "a,5", None])).to_pylist()
        ['3.5', '-.5', '1,2,3', 'a,5', None]
    """
    return pc.replace_substring_regex(texts, r"^(\s*[+-]?\d*),(\d+\s*)$", r"\1.\2")


def _unchecked_bytes(values: pa.Array) -> pa.Array:
    """Return the values, as bytes where a parquet file calls them text and they are not, which nothing else checks."""
    texts = flat(values.flatten()) if is_list(values.type) else values
    if not pa.types.is_string(texts.type):
        return values
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = texts.view(pa.binary())
        return list_array(values, raw) if is_list(values.type) else raw
    return values


def _missing(texts: pa.Array, form: Format) -> pa.Array:
    """Return the texts, without blanks around them where asked, and null where they stand for a missing value."""
    texts = pc.utf8_trim_whitespace(texts) if form.strip else texts
    missing = pc.is_in(texts, value_set=pa.array(["", *form.null_values], TEXT))
    return pc.if_else(missing, pa.scalar(None, TEXT), texts) if pc.any(missing).as_py() else texts
