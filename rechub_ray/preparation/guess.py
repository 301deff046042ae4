"""Guesses of what the columns of a raw file mean, from a sample of its rows."""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.preparation.sample import Sample
from rechub_ray.preparation.times import moments
from rechub_ray.preparation.values import Flaws, is_list, to_number, to_text

Role: TypeAlias = Literal["categorical", "numeric", "sequence", "time", "nothing"]

FEW, MANY = 12, 1000
"""Whole numbers of at most so many values are ids; ids of more have rare ones, which are left out."""
_LABELS = {"label", "target", "y", "click", "clicked", "clk", "is_click", "conversion", "converted", "purchase",
           "purchased", "bought", "like", "liked", "is_liked", "rating", "stars", "outcome", "churned"}  # fmt: skip
_LABEL_WORDS = _LABELS - {"y", "like", "stars"}
_RATINGS = {"rating", "ratings", "stars", "score"}
_USERS = ("user", "userid", "uid", "reviewer", "member", "customer", "visitor", "client", "account", "session")
_ITEMS = ("item", "itemid", "iid", "product", "sku", "movie", "video", "article", "asin", "ad", "app", "song", "track",
          "book", "goods", "poi", "news")  # fmt: skip
_TIMES = ("timestamp", "time", "datetime", "ts", "date", "day", "dt", "at", "unixtime")
_IDS = {*_USERS, *_ITEMS, "id", "ids", "code", "zip", "zipcode", "postcode", "ip", "hash", "key", "category", "cat",
        "type", "brand", "city", "country", "state", "region", "device", "gender", "sex", "channel", "campaign", "site",
        "shop", "store", "seller", "language", "weekday", "hour", "month"}  # fmt: skip
_NUMBERS = {"age", "price", "cost", "amount", "count", "num", "number", "total", "sum", "avg", "mean", "rate", "ratio",
            "length", "duration", "seconds", "minutes", "hours", "days", "weeks", "distance", "size", "weight",
            "height", "quantity", "qty", "views", "clicks", "balance", "income", "salary", "revenue"}  # fmt: skip
_YES = {"yes", "y", "true", "t", "ja", "oui", "si", "sí", "sim"}
_NO = {"no", "n", "false", "f", "nein", "non", "não"}
_SEPARATORS = ("|", ";", ",", " ")
_UNIQUE = "another value in each row"
_DATE_FORMATS = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y",
                 "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%b-%Y", "%d-%m-%Y")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Guess:
    """A guess of one column.

    Args:
        name: of the column.
        role: what becomes of it; `nothing` leaves it out.
        why: a few words on what was seen.
        distinct: number of different values in the sample.
        settings: keys of the feature that differ from their defaults.
    """

    name: str
    role: Role
    why: str = ""
    distinct: int = 0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Label:
    """A guess of the label.

    Args:
        column: that it is, or is computed from.
        node: the label as a recipe has it.
        why: a few words on what was seen.
    """

    column: str
    node: dict[str, Any]
    why: str


@dataclasses.dataclass(frozen=True)
class Guesses:
    """Guesses of a whole file.

    Args:
        columns: of the columns, in the order of the file.
        label: None where none was found.
        user, item, time, row_id: columns; None where none was found.
        time_format: of the time, where it is not one that `prepare` knows.
        split_by_time: whether the time has a value in every row, and enough of them for a split.
        is_choice: whether a row is an item that a user chose, and nothing else could be a label.
        of_items: columns that have one value in all rows of an item.
    """

    columns: tuple[Guess, ...]
    label: Label | None
    user: str | None
    item: str | None
    time: str | None
    row_id: str | None
    time_format: str | None
    split_by_time: bool
    is_choice: bool
    of_items: tuple[str, ...]

    def named(self, role: Role) -> list[Guess]:
        """Return the columns that have a role, but not as a label, time or row id."""
        taken = {self.label.column if self.label is not None else None, self.time, self.row_id}
        return [one for one in self.columns if one.role == role and one.name not in taken]


class _Column:
    """What a sample says of one column."""

    def __init__(self, name: str, values: pa.Array, *, is_only_name: bool) -> None:
        self.name, self.values, self.rows = name, values, len(values)
        self.words = [] if is_only_name else _words(name)
        self.is_list, self.is_nested = is_list(values.type), pa.types.is_nested(values.type)
        self.texts = pa.nulls(self.rows, pa.string()) if self.is_nested else to_text(values, name, Flaws(self.rows))
        self.nulls = values.null_count if self.is_nested else self.texts.null_count
        counts = self.texts.value_counts()
        pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
        self.counts: dict[str, int] = {value: count for value, count in pairs if value is not None}
        self.distinct = len(self.counts)
        flaws = Flaws(self.rows)
        is_typed_time = pa.types.is_temporal(values.type)
        numbers = pa.nulls(self.rows, pa.int64()) if self.is_nested or is_typed_time else to_number(values, name, flaws)
        self.is_number = not flaws.reasons and numbers.null_count < self.rows
        known = numbers.drop_null().to_numpy(zero_copy_only=False) if self.is_number else np.zeros(0)
        self.numbers = known.astype(np.float64)
        self.is_whole = self.is_number and bool((self.numbers == np.floor(self.numbers)).all())
        self.time_format: str | None = None
        self.is_time = self._is_time()

    def is_called(self, words: Iterable[str]) -> bool:
        return not {*words}.isdisjoint(self.words)

    def _is_time(self) -> bool:
        kind = self.values.type
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            return True
        if self.is_nested or self.distinct < 3:
            return False
        if self.is_number:
            if not self.is_whole or (self.words and not self.is_called(_TIMES)):
                return False
            low, high = self.numbers.min(), self.numbers.max()
            dates = self.is_called(_TIMES) and low >= 19_000_101 and high <= 21_001_231
            return dates or any(low >= 3e8 * unit and high < 4.2e9 * unit for unit in (1, 1e3, 1e6, 1e9))
        some = pa.array(list(self.counts)[:200], pa.string())
        for form in (None, *_DATE_FORMATS):
            flaws = Flaws(len(some))
            moments(some, self.name, flaws, () if form is None else (form,))
            if not flaws.reasons:
                self.time_format = form
                return True
        return False


def guess(sample: Sample, *, label: str | None = None) -> Guesses:
    """Return what the columns of a file seem to be.

    Args:
        sample: of the file.
        label: the column of the label; None guesses it too.

    Raises:
        ConfigError: there is no column `label`, or its values cannot be one.
    """
    usable = {name: values for name, values in sample.columns.items() if not re.search(r"[/\\\x00]", name)}
    columns = [_Column(name, values, is_only_name=not sample.has_names) for name, values in usable.items()]
    if label is not None and label not in usable:
        raise ConfigError(f"--label: the file has no column '{label}'", hint=nearest(label, usable))
    time = _named(columns, _TIMES, [one for one in columns if one.is_time])
    given = [one for one in columns if one.name == label]
    found = _label(given or [one for one in columns if one is not time], sample, is_given=bool(given))
    if given and found is None:
        raise ConfigError(
            f"--label: '{label}' cannot be a label",
            expected="two values, numbers, or classes 0, 1, ...",
            got=f"{given[0].distinct:,} different values, such as {', '.join(list(given[0].counts)[:3])}",
        )
    guesses = [_role(one, sample) for one in columns]
    ids = [one for one, of in zip(columns, guesses, strict=True) if of.role == "categorical" and one.distinct > 1]
    ids = [one for one in ids if one is not time and (found is None or one.name != found.column)]
    user, item = _named(ids, _USERS), _named(ids, _ITEMS)
    if found is None and not given and not sample.has_names:
        user, item, found = _ratings(columns, ids, time)
    unique = [one for one, of in zip(columns, guesses, strict=True) if of.why == _UNIQUE and not one.nulls]
    is_choice = found is None and user is not None and item is not None
    for one in columns:
        made = _made(one, named=False) if is_choice and one is not time else None
        is_choice &= made is None or made[0] == "two"
    unnameable = [name for name in sample.columns if name not in usable]
    guesses += [Guess(name, "nothing", "'/', '\\' and NUL cannot be in a name") for name in unnameable]

    def name_of(column: _Column | None) -> str | None:
        return None if column is None else column.name

    return Guesses(
        columns=tuple(guesses),
        label=found,
        user=name_of(user),
        item=name_of(item),
        time=name_of(time),
        row_id=name_of(unique[0] if unique else None),
        time_format=None if time is None else time.time_format,
        split_by_time=time is not None and not time.nulls and time.distinct >= 10,
        is_choice=is_choice,
        of_items=tuple(one.name for one in columns if item is not None and _is_of(item, one)),
    )


def _is_of(item: _Column, column: _Column) -> bool:
    """Return whether all rows of an item have one value, and items have rows enough to tell."""
    if column is item or column.is_nested or 2 * item.distinct > item.rows:
        return False
    pairs = pa.table({"item": item.texts, "value": column.texts})
    counts = pairs.group_by("item").aggregate([("value", "count_distinct", pc.CountOptions(mode="all"))])
    return bool(pc.max(counts["value_count_distinct"]).as_py() == 1)


def _words(name: str) -> list[str]:
    """Return the words of a column's name, in lower case: `userId` and `user_id` are user and id."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", apart) if word]


def _named(columns: list[_Column], words: tuple[str, ...], also: list[_Column] | None = None) -> _Column | None:
    """Return the column that is called by one of the words, the earliest word first; else the first of `also`."""
    for word in words:
        for one in columns if also is None else also:
            if word in one.words:
                return one
    return also[0] if also else None


def _is_unique(column: _Column, sample: Sample) -> bool:
    """Return whether each row has a value of its own, as ids of rows do."""
    ids = not column.is_number or (column.is_whole and not column.is_called(_NUMBERS))
    return ids and sample.rows >= 20 and column.distinct == sample.rows - column.nulls > sample.rows / 2


def _role(column: _Column, sample: Sample) -> Guess:
    name, distinct = column.name, column.distinct
    if column.is_list:
        return _of_lists(column)
    if column.is_nested:
        return Guess(name, "nothing", "values with parts of their own")
    if column.nulls == column.rows:
        return Guess(name, "nothing", "no value at all")
    if distinct == 1:
        return Guess(name, "nothing", "one value in all rows")
    if column.is_time:
        return Guess(name, "time", "a time", distinct)
    listed = None if column.is_number else _of_delimited(column)
    if listed is not None:
        return listed
    if _is_unique(column, sample):
        return Guess(name, "nothing", _UNIQUE, distinct)
    if column.is_number:
        return _of_numbers(column)
    if np.mean([len(value.split()) for value in column.counts]) >= 4 and distinct > sample.rows / 2:
        return Guess(name, "nothing", "sentences", distinct)
    return Guess(name, "categorical", "texts", distinct)


def _of_numbers(column: _Column) -> Guess:
    name, distinct, numbers = column.name, column.distinct, column.numbers
    if column.is_whole and distinct <= FEW:
        return Guess(name, "categorical", "few values", distinct)
    is_dense = distinct > 200 and float(numbers.max() - numbers.min()) < 3 * distinct
    is_id = column.is_whole and not column.is_called(_NUMBERS)
    if is_id and (column.is_called(_IDS) or is_dense or distinct <= 64):
        return Guess(name, "categorical", "ids", distinct)
    is_skewed = numbers.min() >= 0 and numbers.max() > 20 * (np.median(numbers) + 1)
    transforms = ["log1p", "standardise"] if is_skewed else ["standardise"]
    return Guess(name, "numeric", "numbers", distinct, {"transforms": transforms})


def _of_delimited(column: _Column) -> Guess | None:
    """Return the guess of a column of texts that are lists; None of one whose texts are not."""
    name, distinct, values = column.name, column.distinct, list(column.counts)
    if sum(value.startswith("[") and value.endswith("]") for value in values) > 0.9 * distinct:
        return _sequence(name, [_elements(value) for value in values], distinct, {})
    for separator in _SEPARATORS:
        lists = [value.split(separator) for value in values]
        elements = {part for parts in lists for part in parts}
        many = sum(len(parts) > 1 for parts in lists)
        if separator in "|;":
            is_list_of = many >= 0.2 * distinct and len(elements) < distinct
        else:  # names and sentences have commas and blanks, too
            is_plain = all(re.fullmatch(r"[\w.:-]*", part) for part in elements)
            is_list_of = many >= 0.5 * distinct and distinct >= 50 and is_plain and 3 * len(elements) < distinct
        if is_list_of:
            return _sequence(name, lists, distinct, {"separator": separator})
    return None


def _elements(value: str) -> list[str]:
    return [part for part in re.split(r"[,\s]+", value[1:-1]) if part]


def _sequence(name: str, lists: list[list[str]], distinct: int, settings: dict[str, Any]) -> Guess:
    longest = min(max(map(len, lists), default=1), 50)
    return Guess(name, "sequence", "lists", distinct, {**settings, "max_length": max(longest, 1)})


def _of_lists(column: _Column) -> Guess:
    inner = column.values.type.value_type
    if pa.types.is_nested(inner) or pa.types.is_temporal(inner):
        return Guess(column.name, "nothing", f"lists of {inner}")
    lengths = pc.list_value_length(column.values).drop_null().to_numpy(zero_copy_only=False)
    longest = int(lengths.max()) if len(lengths) else 0
    if longest == 0:
        return Guess(column.name, "nothing", "empty lists")
    if pa.types.is_floating(inner) and (lengths == longest).all():
        return Guess(column.name, "numeric", "vectors", 0, {"dim": longest})
    return Guess(column.name, "sequence", "lists", 0, {"max_length": min(longest, 50)})


def _label(columns: list[_Column], sample: Sample, *, is_given: bool) -> Label | None:
    """Return the column that looks most like a label: by its name, its two values, its place at an edge."""
    best, found = 0.0, None
    edges = {next(iter(sample.columns)), list(sample.columns)[-1]}
    for column in columns:
        exact = "_".join(column.words) in _LABELS
        named = 10 if exact else 6 if column.is_called(_LABEL_WORDS) else 0
        made = _made(column, named=bool(named) or is_given)
        if made is None:
            continue
        sort, node, why = made
        place = 2 if column.name in edges and sort in ("0/1", "yes/no", "two") else 0
        worth = named + place + {"0/1": 4, "yes/no": 5, "two": 2}.get(sort, 0) + (0 if sample.has_names else 1)
        if worth > best and (worth >= 5 or is_given):
            best, found = worth, Label(column.name, node, why)
    return found


def _made(column: _Column, *, named: bool) -> tuple[str, dict[str, Any], str] | None:
    """Return the sort of a column's label, the label of a recipe, and what was seen; None where it cannot be one."""
    name, counts = column.name, column.counts
    optional = {"optional": True} if column.nulls else {}
    mentioned = name if _is_plain(name) else f"column({_quoted(name)})"
    if column.is_nested or column.is_time or not counts:
        return None
    if column.is_number and {*column.numbers.tolist()} in ({0.0, 1.0}, {-1.0, 1.0}):
        why = f"{np.mean(column.numbers > 0):.1%} of the rows are 1"
        if column.numbers.min() >= 0:
            return "0/1", {"name": name, **optional}, why
        return "0/1", {"name": _new(name), "expression": f"{mentioned} > 0", **optional}, why
    if named and column.is_whole and {*column.numbers.tolist()} <= {0.0, 1.0}:
        return "one", {"name": name, **optional}, "the sample holds one class alone"
    if column.distinct == 2 and (named or not column.is_number):
        yes, no = ([value for value in counts if value.lower() in words] for words in (_YES, _NO))
        is_answer = len(yes) == len(no) == 1
        rarer = min(counts, key=lambda value: counts[value])
        one = max(counts, key=float) if column.is_number else yes[0] if is_answer else rarer
        node = {"name": _new(name), "expression": f"{mentioned} == {one if column.is_number else _quoted(one)}"}
        why = f"{counts[one] / sum(counts.values()):.1%} of the rows are 1"
        return "yes/no" if is_answer else "two", {**node, **optional}, why
    if not named or not column.is_number:
        return None
    if column.is_called(_RATINGS) and column.distinct <= 20:
        return "rating", *_liked(column, mentioned, optional)
    classes = sorted({*column.numbers.tolist()})
    if column.is_whole and 3 <= len(classes) <= 20 and classes == list(map(float, range(len(classes)))):
        why = f"classes 0 to {len(classes) - 1}"
        return "classes", {"name": name, "kind": "multiclass", "num_classes": len(classes), **optional}, why
    return "number", {"name": name, "kind": "regression", **optional}, "numbers"


def _liked(column: _Column, mentioned: str, optional: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the label of a rating: 1 from the value on that divides the rows most evenly."""
    values = sorted({*column.numbers.tolist()})[1:]
    threshold = min(values, key=lambda value: abs(float(np.mean(column.numbers >= value)) - 0.5))
    share = float(np.mean(column.numbers >= threshold))
    node = {"name": "liked", "expression": f"{mentioned} >= {threshold:g}", **optional}
    return node, f"ratings from {column.numbers.min():g} to {column.numbers.max():g}; {share:.1%} of the rows are 1"


def _ratings(
    columns: list[_Column], ids: list[_Column], time: _Column | None
) -> tuple[_Column | None, _Column | None, Label | None]:
    """Return user, item and label of a log of ratings without names: two columns of ids, and one of a few numbers."""
    few = [one for one in columns if one.is_number and one is not time and 3 <= one.distinct <= 11]
    few = [one for one in few if one.numbers.min() >= 0 and one.numbers.max() <= 10]
    large = [one for one in ids if one.distinct > FEW]
    if len(few) != 1 or len(large) != 2:
        return None, None, None
    optional = {"optional": True} if few[0].nulls else {}
    return large[0], large[1], Label(few[0].name, *_liked(few[0], few[0].name, optional))


def _is_plain(name: str) -> bool:
    """Return whether an expression can name a column."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _quoted(text: str) -> str:
    """Return a text as an expression has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _new(name: str) -> str:
    return "label" if name != "label" else "target"
