"""The parts of a recipe: file formats, joins, histories, features, labels, splits."""

from __future__ import annotations

import codecs
import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import pydantic
from pydantic_core import PydanticCustomError

from rechub_ray.preparation.expressions import Expression
from rechub_ray.preparation.values import FLOAT32_MAX
from rechub_ray.registry import KnownKeys
from rechub_ray.schema import LabelKind

Count = Annotated[int, pydantic.Field(ge=1)]
Fraction = Annotated[float, pydantic.Field(gt=0, lt=1)]


def _name(value: Any) -> Any:
    """Return a name as text, also one that YAML reads as a whole number or a date.

    true, null and fractions are refused, because their spelling is lost (`1.0` or `1.00`).
    """
    if isinstance(value, bool | float) or value is None:
        raise PydanticCustomError(
            "name",
            "YAML reads this name as {value}: write it in quotes",
            {"value": "null" if value is None else str(value).lower()},
        )
    return str(value) if isinstance(value, int | datetime.date) else value


Name = Annotated[str, pydantic.BeforeValidator(_name), pydantic.Field(min_length=1, pattern=r"^[^/\\\x00]+$")]


class Form(KnownKeys):
    """Base of the recipe's parts."""


class Format(Form):
    """How a raw file is laid out. Compression (gzip, bz2, zstd, lz4; brotli by `.br`) is recognised by its content.

    Args:
        type: `csv`, `tsv` (csv with tabs, without quotes), `jsonl`, `parquet`, or `json_map` (side tables only: one
            JSON object; its keys become column `key`, its values column `value`).
        delimiter: between fields; several characters are allowed (`::`).
        header: the first line names the columns; else `columns` does.
        columns: names of the columns, in the order of the file, where it has no header.
        quote: the quoting character; null for none.
        newlines_in_values: quoted fields may hold line breaks (such a file is read by one task).
        encoding: of the text, by its name in Python.
        strip: cut blanks around every value.
        decimal: the mark before a number's fraction, `.` or `,`; with a comma, `3,5` is read as 3.5 in every column.
        null_values: texts that stand for a missing value, in every type of file and in lists too. The empty text, null
            and NaN always do.
        rest: the last column takes the rest of the line, delimiters included (`user item item item ...`).
    """

    type: Literal["csv", "tsv", "jsonl", "parquet", "json_map"] = "csv"
    delimiter: str = pydantic.Field(default="", max_length=8)
    header: bool = True
    columns: tuple[Name, ...] | None = None
    quote: str | None = pydantic.Field(default='"', min_length=1, max_length=1)
    newlines_in_values: bool = False
    encoding: str = "utf-8"
    strip: bool = False
    decimal: Literal[".", ","] = "."
    null_values: tuple[str, ...] = ("", "nan", "NaN")
    rest: bool = False

    @pydantic.model_validator(mode="after")
    def _columns_once(self) -> Format:
        if self.type in ("csv", "tsv") and self.header == (self.columns is not None):
            raise PydanticCustomError("columns", "either 'header: true', or 'header: false' and 'columns'")
        twice = [name for name in self.columns or () if (self.columns or ()).count(name) > 1]
        if twice:
            raise PydanticCustomError("columns", "'columns' names '{name}' twice", {"name": twice[0]})
        try:
            "".encode(self.encoding)
        except LookupError:
            raise PydanticCustomError("encoding", "unknown encoding '{name}'", {"name": self.encoding}) from None
        return self

    @property
    def lines_are_bytes(self) -> bool:
        """Whether a file can be cut at the bytes of its line ends before it is decoded (not so in UTF-16)."""
        name = codecs.lookup(self.encoding).name
        stateful = ("utf-7", "utf-8-sig", "utf-16", "utf-32", "iso2022", "hz")
        return not name.startswith(stateful) and "\n".encode(name) == b"\n"

    @property
    def separator(self) -> str:
        return self.delimiter or ("\t" if self.type == "tsv" else ",")

    @property
    def quoting(self) -> str | None:
        return None if self.type == "tsv" or self.rest or len(self.separator) > 1 else self.quote


class File(Form):
    """Raw files, with what differs from the recipe's format.

    Args:
        path: a path, a folder or a glob, relative to `source`.
        format: the keys in which these files differ.
    """

    path: Annotated[str, pydantic.Field(min_length=1)]
    format: Format = Format()


class Join(Form):
    """A side table, held in memory: `columns` of the row of `file` whose `key` equals the input's `input_key`.

    A row without a partner gets nulls.

    Args:
        file: the table, relative to `source`.
        key: its column that rows are found by.
        input_key: the input's column; called `key` unless given. A text with names of columns in braces,
            `({user},{item})`, puts several together.
        columns: what it brings.
        format: of the file; not that of the recipe.
    """

    file: str
    key: Name
    input_key: Name | None = None
    columns: tuple[Name, ...]
    format: Format = Format()

    @property
    def input_columns(self) -> list[str]:
        """The input's columns that its key is made of."""
        key = self.input_key or self.key
        return re.findall(r"\{(.+?)\}", key) or [key]


class History(Form):
    """Adds a list column `name` with the user's earlier items (their last `max_length`), one row a (user, item).

    Either the input has one row an interaction: `user`, `item` and `order` (a time; without it, the order of the
    files). Or it has one row a user, with a list column `items`: every element becomes a row and column `item` is made.

    Args:
        name: of the list column.
        item: the column whose earlier values are listed.
        user: the column of users.
        order: the column of times.
        shuffle: without times, a user's rows of one file are taken in a random order, the same one every time, and not
            in that of the file, which may say what comes next (rows sorted by item, for instance). A split by a user's
            last rows takes this order too.
        items: of an input with one row a user, the column of its list.
        separator: cuts `items` where it is a text.
        max_length: the most earlier rows that a list holds: the last ones.
        min_length: rows with a shorter history are left out (after the split's positions were counted).
        ties: `exclude` keeps rows of a row's own moment out of its history; `include` takes those before it in the
            files.
        lists: more list columns, by name: that of another column, over the same earlier rows.
        age: a list column of how many seconds before the row each of its earlier rows was, in whole numbers.
        exclude: a list column of all of the user's earlier items, however many, in the rows of validation and test:
            what a ranking of all items leaves out.
        rows: `windows` keeps only every `max_length`-th of a user's training rows, from the last one backwards: for
            models that learn from every place of a history, whose targets these rows hold once each. `both` keeps each
            row in `train`, and writes those of the windows into a folder `windows` as well.
            `latest`, of a user's last row alone, is what `recommend` reads: its lists hold the row itself, too.
    """

    name: Name = "history"
    item: Name
    user: Name | None = None
    order: Name | None = None
    shuffle: bool = False
    items: Name | None = None
    separator: str | None = None
    max_length: Count = 50
    min_length: Annotated[int, pydantic.Field(ge=0)] = 0
    ties: Literal["include", "exclude"] = "include"
    lists: dict[Name, Name] = {}
    age: Name | None = None
    exclude: Name | None = None
    rows: Literal["each", "windows", "both", "latest"] = "each"

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the rows whose earlier values it lists, by the names of the lists."""
        return {self.name: self.item, **self.lists}

    @property
    def names(self) -> tuple[str, ...]:
        """The list columns that it adds to rows."""
        return tuple(name for name in (*self.columns, self.age, self.exclude) if name is not None)

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> History:
        if (self.items is None) == (self.user is None):
            raise PydanticCustomError("history", "name either 'user' (a row an interaction) or 'items' (a row a user)")
        if self.items is not None and (self.lists or self.age):
            key = "lists" if self.lists else "age"
            raise PydanticCustomError(
                "history", "'{key}' needs a row an interaction, not lists of 'items'", {"key": key}
            )
        if self.shuffle and (self.order is not None or self.items is not None):
            key = "order" if self.order is not None else "items"
            raise PydanticCustomError(
                "history", "'shuffle' is for rows without times; '{key}' gives their order", {"key": key}
            )
        for key in ("age", "ties"):
            if getattr(self, key) not in (None, "include") and self.order is None:
                raise PydanticCustomError(
                    "history",
                    "'{key}: {value}' needs 'order', the column of times",
                    {"key": key, "value": getattr(self, key)},
                )
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise PydanticCustomError("history", "two of its lists are called '{name}'", {"name": twice[0]})
        return self


class FeatureForm(Form):
    """What the kinds of feature have in common.

    Args:
        name: of the feature; `columns: [a, b]` in its place stands for one feature a column.
        column: the raw column; called as the feature unless given.
    """

    name: Name
    column: Name | None = None

    @property
    def source(self) -> str:
        return self.column or self.name


class Table(FeatureForm):
    """A feature with ids: a vocabulary counted on the training split, or hashing into `hash_buckets` ids.

    Args:
        min_frequency: rarer values of the training split become id 0.
        max_values: at most this many values, the most frequent ones.
        hash_buckets: ids without a vocabulary: 1 + hash % (hash_buckets - 1); 0 is null.
        embed_dim: width of its embedding; left out, that of the model.
        shared_with: the feature whose vocabulary and embedding it uses. Columns that share a table are counted
            together.
    """

    min_frequency: Count = 1
    max_values: Count | None = None
    hash_buckets: Annotated[int, pydantic.Field(ge=2)] | None = None
    embed_dim: Count | None = None
    shared_with: Name | None = None


class Categorical(Table):
    """One value a row."""

    kind: Literal["categorical"] = "categorical"


class Sequence(Table):
    """A list column, or a text cut at `separator`; the last `max_length` values are kept.

    Args:
        separator: cuts a text into values; left out, the column holds lists.
        max_length: the most values that are kept.
        pooling: how a model that does not read the sequence itself makes one vector of it.
        numbers: the values are whole numbers from 0 on, such as ages, and stay as they are: there is no vocabulary and
            no embedding.
        aligned_with: another sequence of the same `max_length`, whose lists are as long as this one's in every row.
    """

    kind: Literal["sequence"] = "sequence"
    separator: str | None = pydantic.Field(default=None, min_length=1)
    max_length: Count = 50
    pooling: Literal["mean", "sum"] = "mean"
    numbers: bool = False
    aligned_with: Name | None = None

    @pydantic.model_validator(mode="after")
    def _plain_numbers(self) -> Sequence:
        ids = (self.min_frequency, self.max_values, self.hash_buckets, self.embed_dim, self.shared_with)
        if self.numbers and ids != (1, None, None, None, None):
            raise PydanticCustomError("numbers", "'numbers' have no vocabulary and no embedding")
        return self


class Numeric(FeatureForm):
    """A number, or a list of `dim` numbers (a list column, or a text cut at `separator`).

    Args:
        transforms: in this order. `log1p` is sign(x) log(1 + |x|); `standardise` (also `standardize`) subtracts the
            mean and divides by the standard deviation, `min_max` maps to [0, 1], both of the training split; one of
            these two, last.
        fill: what a null becomes, on the scale after the transforms.
        dim: how many numbers there are in a row.
        separator: cuts a text into numbers; left out, the column holds lists.
    """

    kind: Literal["numeric"] = "numeric"
    transforms: tuple[Literal["log1p", "standardise", "standardize", "min_max"], ...] = ()
    fill: Annotated[float, pydantic.Field(ge=-FLOAT32_MAX, le=FLOAT32_MAX)] = 0.0
    dim: Count = 1
    separator: str | None = pydantic.Field(default=None, min_length=1)

    @pydantic.model_validator(mode="after")
    def _fitted_last(self) -> Numeric:
        if any(name != "log1p" for name in self.transforms[:-1]):
            raise PydanticCustomError("transforms", "a fitted transform (standardise, min_max) comes last, and once")
        return self


class Bucket(FeatureForm):
    """A number as an id: which of `num_buckets` quantile buckets of the training split it falls in; null is 0.

    Args:
        num_buckets: how many.
        embed_dim: width of its embedding; left out, that of the model.
    """

    kind: Literal["bucket"] = "bucket"
    num_buckets: Annotated[int, pydantic.Field(ge=2, le=10_000)]
    embed_dim: Count | None = None


FeatureSpec: TypeAlias = Annotated[Categorical | Sequence | Numeric | Bucket, pydantic.Field(discriminator="kind")]


class ItemList(Form):
    """A list of items in each row, as negatives or as candidates of a ranking: it is in the shards, and no feature.

    Args:
        column: a list column, or one of texts that are cut at `separator`; called as the list unless given. Items that
            the vocabulary does not hold are left out.
        separator: cuts a text into items.
    """

    column: Name | None = None
    separator: str | None = pydantic.Field(default=None, min_length=1)


class Items(Form):
    """The item table, `out/items`: a row for each item of the vocabulary of `id`, with its training rows counted.

    Args:
        id: the categorical feature that names a row's item; it has a vocabulary of its own.
        file: a file with a row an item, held in memory; an item that it lacks gets nulls.
        key: the column of `file` that holds what the rows have in the column of `id`; called like that unless given.
        format: of `file`; not that of the recipe.
        joins: side tables of `file`, as those of the rows.
        from_rows: columns of the rows, those of side tables too, in place of a file: each is the same in all training
            rows of an item.
        features: of the items, as those of rows; they are fitted on the items of the table, each once.
        lists: lists of items in the rows that are no features, by name.
    """

    id: Name
    file: str | None = None
    key: Name | None = None
    format: Format = Format()
    joins: tuple[Join, ...] = ()
    from_rows: tuple[Name, ...] = ()
    features: tuple[FeatureSpec, ...] = ()
    lists: dict[Name, ItemList] = {}


class LabelSpec(Form):
    """A label: `expression` over raw columns (`rating >= 4`); without one, the column of that name.

    Args:
        name: of the label.
        expression: of raw columns; without one, the label is the column of its name.
        kind: `binary` (0 or 1), `regression` (any number of float32), `multiclass` (a class: 0, 1, ...).
        optional: a row without a value does not count for this label; else it is a bad row.
        num_classes: of a multiclass label; without it, the highest class of the training split and one.
    """

    name: Name
    expression: str | None = None
    kind: LabelKind = "binary"
    optional: bool = False
    num_classes: Annotated[int, pydantic.Field(ge=2, lt=2**24)] | None = None

    @property
    def reads(self) -> list[str]:
        """The raw columns it is made of."""
        return [self.name] if self.expression is None else Expression(self.expression).columns

    @property
    def canonical(self) -> str:
        """The expression, in one form however it is written; without one, the name of the column."""
        return self.name if self.expression is None else Expression(self.expression).canonical

    @pydantic.model_validator(mode="after")
    def _classes(self) -> LabelSpec:
        if self.num_classes is not None and self.kind != "multiclass":
            raise PydanticCustomError("num_classes", "'num_classes' is for labels of 'kind: multiclass'")
        return self

    @pydantic.field_validator("expression")
    @classmethod
    def _parses(cls, text: str | None) -> str | None:
        if text is not None:
            Expression(text)
        return text


class Carve(Form):
    """A seeded random `fraction` of split `of` becomes a split of its own.

    Args:
        of: the split that it is taken from.
        fraction: how much of it.
    """

    of: Name
    fraction: Fraction


class ByFile(Form):
    """The files' keys under `files` are the splits; `carve` makes more of them (`valid: {of: test, fraction: 0.5}`).

    Args:
        carve: splits that are taken from others, by name.
        seed: of what is drawn.
    """

    by: Literal["file"] = "file"
    carve: dict[Name, Carve] = {}
    seed: int = 2024


class ByColumn(Form):
    """Rows whose `column` is one of `values[split]`; a value of no split is a bad row.

    true and false are also found as text (`true`, `True`, `TRUE`), whole numbers also with `.0`.

    Args:
        column: the column.
        values: by split, one value or a list of them.
    """

    by: Literal["column"] = "column"
    column: Name
    values: dict[Name, tuple[bool | str, ...]]

    @pydantic.field_validator("values", mode="before")
    @classmethod
    def _texts(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {k: [x if isinstance(x, bool) else str(x) for x in v] for k, v in values.items()}
        return values

    @pydantic.model_validator(mode="after")
    def _once(self) -> ByColumn:
        owners: dict[str, str] = {}
        for split in self.values:
            for text in self.texts(split):
                if owners.setdefault(text, split) != split:
                    raise PydanticCustomError(
                        "values",
                        "'{text}' belongs to the splits '{one}' and '{other}'",
                        {"text": text, "one": owners[text], "other": split},
                    )
        return self

    def texts(self, split: str) -> list[str]:
        """Return the texts by which a split's values are found."""
        found: dict[str, None] = {}
        for value in self.values[split]:
            if isinstance(value, bool):
                found |= dict.fromkeys((str(value).lower(), str(value), str(value).upper()))
            else:
                whole = value.removesuffix(".0")
                found |= dict.fromkeys((value, whole, f"{whole}.0") if whole.lstrip("-").isdigit() else (value,))
        return list(found)


class AtRandom(Form):
    """A pure function of (seed, file, row number): the same rows however the work is cut up.

    Args:
        fractions: by split; together 1.
        seed: of what is drawn.
    """

    by: Literal["random"] = "random"
    fractions: dict[Name, Fraction]
    seed: int = 2024


class ByTime(Form):
    """Earlier rows train: `fractions` in order of time, or `starts`: the first moment of each later split.

    Args:
        column: the column of times.
        fractions: by split, in order of time, the training split first; together 1.
        starts: the first moment of each split but the training split.
    """

    by: Literal["time"] = "time"
    column: Name
    fractions: dict[Name, Fraction] | None = None
    starts: dict[Name, str] | None = None

    @pydantic.field_validator("starts", mode="before")
    @classmethod
    def _texts(cls, starts: Any) -> Any:
        if isinstance(starts, Mapping):
            return {k: v.isoformat() if isinstance(v, datetime.date) else str(v) for k, v in starts.items()}
        return starts

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> ByTime:
        if (self.fractions is None) == (self.starts is None):
            raise PydanticCustomError("time", "give either 'fractions' or 'starts'")
        return self


class LeaveLastOut(Form):
    """Each user's last `test` rows, the `valid` rows before them, and the rest to train.

    `user` and `order` are not needed beside a `history` with `items`, whose rows hold a whole user in order.

    Args:
        user: the column of users.
        order: the column of times; without it, the order of the files.
        valid: rows of a user for validation; 0 leaves the split out.
        test: rows of a user for the test; 0 leaves the split out.
    """

    by: Literal["leave_last_out"] = "leave_last_out"
    user: Name | None = None
    order: Name | None = None
    valid: Annotated[int, pydantic.Field(ge=0)] = 1
    test: Annotated[int, pydantic.Field(ge=0)] = 1


SplitSpec: TypeAlias = Annotated[
    ByFile | ByColumn | AtRandom | ByTime | LeaveLastOut, pydantic.Field(discriminator="by")
]
