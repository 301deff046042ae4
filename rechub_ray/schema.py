"""The feature schema: it alone decides which parquet columns are read, what a batch holds, which tables exist."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import pydantic
from annotated_types import Ge, Lt
from pydantic.dataclasses import dataclass

from rechub_ray.errors import ConfigError, SchemaError, nearest
from rechub_ray.files import read_text, reason
from rechub_ray.registry import check_booleans, config_error

VERSION = 1
T = TypeVar("T")

LabelKind = Literal["binary", "regression", "multiclass"]
PositiveInt = Annotated[int, Ge(1), Lt(2**63)]
_STRICT = pydantic.ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class SparseFeature:
    """A categorical column of ids.

    Args:
        name: the parquet column, of an integer type.
        vocab_size: number of ids; every value lies in [0, vocab_size). Id 0 stands for unseen values and nulls.
        embed_dim: width of this feature's embedding; None takes the model's `embedding_dim`.
        shared_with: name of the feature whose table this one uses.
        encoding: fingerprint of how `prepare` makes these values of raw ones; empty where it is not known.
    """

    name: str
    vocab_size: PositiveInt
    embed_dim: PositiveInt | None = None
    shared_with: str | None = None
    encoding: str = ""
    kind: Literal["sparse"] = "sparse"


@dataclass(frozen=True, config=_STRICT)
class DenseFeature:
    """A numeric column.

    Args:
        name: the parquet column.
        dim: numbers a row; 1 is a scalar column, otherwise it is a list.
        encoding: as for SparseFeature.
    """

    name: str
    dim: PositiveInt = 1
    encoding: str = ""
    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, config=_STRICT)
class SequenceFeature:
    """A list column of ids, ragged: a row holds 0 to `max_length` of them.

    Args:
        name: the parquet column, a list of integers.
        vocab_size: number of ids; every value lies in [0, vocab_size).
        max_length: longest list; prepare keeps the last `max_length` ids of a longer one.
        pooling: how the row's embeddings become one vector where a model wants one (an empty list gives zeros).
        embed_dim: as for SparseFeature.
        shared_with: as for SparseFeature (the target item of a history, for instance).
        encoding: as for SparseFeature.
        numbers: the values are whole numbers, such as ages in seconds, and no ids: they have no embedding, and what
            they mean is the model's to say.
        aligned_with: another sequence of the same `max_length` that has as many values in every row, one for each of
            these.

    Raises:
        SchemaError: numbers with an embedding.
    """

    name: str
    vocab_size: PositiveInt
    max_length: PositiveInt = 50
    pooling: Literal["mean", "sum"] = "mean"
    embed_dim: PositiveInt | None = None
    shared_with: str | None = None
    encoding: str = ""
    kind: Literal["sequence"] = "sequence"
    numbers: bool = False
    aligned_with: str | None = None

    def __post_init__(self) -> None:
        if self.numbers and (self.embed_dim is not None or self.shared_with is not None):
            raise SchemaError(f"feature '{self.name}': numbers have no embedding", expected="no embed_dim, shared_with")


@dataclass(frozen=True, config=_STRICT)
class Label:
    """A label column.

    Args:
        name: the parquet column.
        kind: `binary` (0 or 1), `regression` (any finite number) or `multiclass` (a class id in [0, num_classes)).
        optional: whether a null (or NaN) is allowed; such a row does not count for this label.
        num_classes: of a multiclass label, in [2, 2**24): class ids travel as float32, which is exact up to there.
        expression: how `prepare` makes it of raw columns; empty where that is not known.

    Raises:
        SchemaError: a multiclass label without `num_classes`, or another label with it.
    """

    name: str
    kind: LabelKind = "binary"
    optional: bool = False
    num_classes: Annotated[int, Ge(2), Lt(2**24)] | None = None
    expression: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "multiclass") != (self.num_classes is not None):
            raise SchemaError(
                f"label '{self.name}' of kind {self.kind}",
                expected="num_classes, the number of classes" if self.kind == "multiclass" else "no num_classes",
                got="none" if self.num_classes is None else self.num_classes,
            )


Feature: TypeAlias = SparseFeature | DenseFeature | SequenceFeature
_KINDS: dict[str, type[Feature]] = {"sparse": SparseFeature, "dense": DenseFeature, "sequence": SequenceFeature}


_ANY_LENGTH = 2**31 - 1
COUNT = "count"
"""The column of the item table that holds the number of training rows of each item."""


@dataclasses.dataclass(frozen=True)
class Items:
    """The items that rows are about, for retrieval: their features lie in a table of their own, never in the rows.

    Args:
        id: the sparse feature of the rows that names a row's item (the positive). Histories of items share its table.
        features: columns of the item table beside the id. They may share tables with the id, with each other and with
            features of the rows, and these with them.
        exclude: list column of the rows, of items that a ranking for the row leaves out because its user has seen them;
            for evaluation only.
        lists: more list columns of the rows, of items that are given as negatives or as candidates of a ranking; no
            model reads them.
    """

    id: str
    features: tuple[Feature, ...] = ()
    exclude: str | None = None
    lists: tuple[str, ...] = ()

    @property
    def all_lists(self) -> tuple[str, ...]:
        """The list columns of the rows that no model reads."""
        return (*self.lists, *(() if self.exclude is None else (self.exclude,)))


@dataclasses.dataclass(frozen=True)
class Schema:
    """The columns of a data set and their roles.

    Args:
        features: in the order in which they stand in a batch.
        labels: the columns to predict; none for data whose target is a feature (retrieval, next item).
        group: column of session or user ids, for GAUC and pairwise losses.
        weight: column of sample weights (>= 0).
        row_id: column that names a row in predictions.
        teachers: label columns that are read for losses and not predicted.
        items: what rows are about, in data for retrieval.

    Raises:
        SchemaError: names not unique, a shared table that does not exist or differs in size, an id of no items.
    """

    features: tuple[Feature, ...]
    labels: tuple[Label, ...]
    group: str | None = None
    weight: str | None = None
    row_id: str | None = None
    teachers: tuple[Label, ...] = ()
    items: Items | None = None

    def __post_init__(self) -> None:
        columns = self.columns
        twice = {name for name in columns if columns.count(name) > 1} - {self.group, self.row_id}
        if self.items is not None:
            own = [*(f.name for f in self.items.features), *self.items.all_lists]
            table = [self.items.id, COUNT, *own]
            twice |= {name for name in table if table.count(name) > 1} | ({*own} & {*columns})
        if twice:
            raise SchemaError("a column has two roles in the schema", got=", ".join(sorted(twice)))
        if self.items is not None:
            item = self.feature(self.items.id)
            if not isinstance(item, SparseFeature) or item.shared_with is not None:
                raise SchemaError(
                    f"the id of the items, '{item.name}'",
                    expected="a sparse feature with a table of its own",
                    got="one that shares a table" if isinstance(item, SparseFeature) else f"a {item.kind} feature",
                )
        _check_tables(self.all_features)
        _check_aligned(self.sequences)
        _check_aligned([f for f in self.all_features[len(self.features) :] if isinstance(f, SequenceFeature)])

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        return tuple(f for f in self.features if isinstance(f, SparseFeature))

    @property
    def dense(self) -> tuple[DenseFeature, ...]:
        return tuple(f for f in self.features if isinstance(f, DenseFeature))

    @property
    def sequences(self) -> tuple[SequenceFeature, ...]:
        return tuple(f for f in self.features if isinstance(f, SequenceFeature))

    @property
    def embedded(self) -> tuple[SparseFeature | SequenceFeature, ...]:
        """The features that have an embedding: the sparse ones, then the sequences of ids."""
        return (*self.sparse, *(f for f in self.sequences if not f.numbers))

    @property
    def targets(self) -> tuple[Label, ...]:
        """The columns of a batch's `labels`: the labels, then the teachers."""
        return self.labels + self.teachers

    @property
    def dense_dim(self) -> int:
        """Columns of the stacked dense matrix."""
        return sum(f.dim for f in self.dense)

    @property
    def feature_names(self) -> list[str]:
        return [f.name for f in self.features]

    @property
    def all_features(self) -> tuple[Feature, ...]:
        """The features of the rows, then those of the item table."""
        return self.features + (self.items.features if self.items is not None else ())

    @property
    def joined(self) -> Schema:
        """The schema of rows that hold their item's features as well: what has the tables of both."""
        return dataclasses.replace(self, features=self.all_features, items=None)

    @property
    def user_side(self) -> Schema:
        """What a user tower reads: the features of the rows without the item's id.

        A table whose owner is left out belongs to the first feature that shares it.

        Raises:
            SchemaError: the schema has no items.
        """
        own = self._items.id
        return dataclasses.replace(self, features=self._part([f for f in self.features if f.name != own]), items=None)

    @property
    def item_side(self) -> Schema:
        """What an item tower reads, and the columns of the item table: the id, then the features of the items.

        A table whose owner is left out belongs to the first feature that shares it.

        Raises:
            SchemaError: the schema has no items.
        """
        return Schema(self._part([self.feature(self._items.id), *self._items.features]), ())

    def with_lists(self, names: Sequence[str]) -> Schema:
        """Return the schema of rows that are read with some lists of items, too: as the last sequences, in this order.

        Args:
            names: of `items.lists` and `items.exclude`.
        """
        if not names:
            return self
        item, items = self.item_side.sparse[0], self._items
        lists = tuple(
            SequenceFeature(name, item.vocab_size, max_length=_ANY_LENGTH, shared_with=item.name) for name in names
        )
        rest = tuple(name for name in items.lists if name not in names)
        exclude = None if items.exclude in names else items.exclude
        items = dataclasses.replace(items, exclude=exclude, lists=rest)
        return dataclasses.replace(self, features=(*self.features, *lists), items=items)

    @property
    def _items(self) -> Items:
        if self.items is None:
            raise SchemaError(
                "the schema has no items, which a model for retrieval needs",
                hint="Name them in the recipe of `rechub-ray prepare` (`items`).",
            )
        return self.items

    def _part(self, features: list[Feature]) -> tuple[Feature, ...]:
        """Return some of the features, of which one owns each table that they share."""
        tables = {f.name: f for f in self.all_features if not isinstance(f, DenseFeature)}
        names = {f.name for f in features}
        owners: dict[str, str] = {}
        part: list[Feature] = []
        for feature in features:
            if not isinstance(feature, DenseFeature) and feature.shared_with is not None:
                shared = feature.shared_with
                if shared not in names and owners.setdefault(shared, feature.name) == feature.name:
                    width = feature.embed_dim or tables[shared].embed_dim
                    feature = dataclasses.replace(feature, shared_with=None, embed_dim=width)
                else:
                    feature = dataclasses.replace(feature, shared_with=owners.get(shared, shared))
            part.append(feature)
        return tuple(part)

    @property
    def columns(self) -> list[str]:
        """The parquet columns with a role, each once unless two roles name the same one."""
        names = [f.name for f in self.features] + [label.name for label in self.targets]
        for extra in (self.group, self.weight, self.row_id):
            if extra is not None and (extra == self.weight or extra not in names):
                names.append(extra)
        return names

    def feature(self, name: str) -> Feature:
        """Return the feature called `name`.

        Raises:
            SchemaError: there is no such feature; suggests the nearest name.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError(f"the schema has no feature '{name}'", hint=nearest(name, self.feature_names))

    def label(self, name: str | None = None) -> Label:
        """Return the label called `name`; the first one for None.

        Raises:
            SchemaError: there is no such label.
        """
        if name is None and self.labels:
            return self.labels[0]
        if not self.labels:
            raise SchemaError(
                "the schema has no label" + (f", so none called '{name}'" if name else ""),
                hint="Name label columns in the recipe of `rechub-ray prepare`.",
            )
        name = str(name)
        for label in self.labels:
            if label.name == name:
                return label
        raise SchemaError(f"the schema has no label '{name}'", hint=nearest(name, [x.name for x in self.labels]))

    def target(self, name: str) -> Label:
        """Return the label or teacher called `name`.

        Raises:
            SchemaError: there is no such column.
        """
        for column in self.targets:
            if column.name == name:
                return column
        raise SchemaError(f"the schema has no label '{name}'", hint=nearest(name, [x.name for x in self.targets]))

    def select(
        self, features: list[str] | None, labels: list[str] | None = None, *, teachers: Collection[str] = ()
    ) -> Schema:
        """Return the schema with only the named features and labels, in its order; items stay, and so does their id.

        Args:
            features: their names; None takes all.
            labels: their names; None takes all.
            teachers: names of labels that are read and not predicted.

        Raises:
            SchemaError: there is no such feature or label.
        """
        for name in features or ():
            self.feature(name)
        for name in labels or ():
            self.label(name)
        kept = {*(features or ()), *((self.items.id,) if self.items is not None else ())}
        return dataclasses.replace(
            self,
            features=tuple(f for f in self.features if features is None or f.name in kept),
            labels=tuple(
                label
                for label in self.labels
                if (labels is None or label.name in labels) and label.name not in teachers
            ),
            teachers=tuple(label for label in self.targets if label.name in teachers),
        )

    def encoded(self, encodings: Mapping[str, str]) -> Schema:
        """Return the schema with the features' encodings; those that `encodings` does not name have none."""
        features, own = (
            tuple(dataclasses.replace(f, encoding=encodings.get(f.name, "")) for f in some)
            for some in (self.features, self.items.features if self.items is not None else ())
        )
        items = None if self.items is None else dataclasses.replace(self.items, features=own)
        return dataclasses.replace(self, features=features, items=items)

    def encoded_otherwise(self, other: Schema) -> dict[str, str]:
        """Return the features that another data set makes of raw values in another way, each with a few words.

        Where one of the two does not know how, nothing is said.
        """
        theirs, found = {f.name: f for f in other.all_features}, {}
        for mine in self.all_features:
            feature = theirs.get(mine.name, mine)
            if mine.encoding and feature.encoding and mine.encoding != feature.encoding:
                sizes = [getattr(f, "vocab_size", None) for f in (feature, mine)]
                same = sizes[0] == sizes[1] or None in sizes
                found[mine.name] = "encoded otherwise" if same else f"{sizes[0]:,} ids, was {sizes[1]:,}"
        return found

    def labelled_otherwise(self, other: Schema) -> dict[str, str]:
        """Return the labels that another data set makes of other raw values, each with a few words.

        Where one of the two does not know how, nothing is said.
        """
        theirs, found = {label.name: label.expression for label in other.targets}, {}
        for label in self.targets:
            now, before = theirs.get(label.name), label.expression
            if now and before and now != before:
                found[label.name] = f"{now}, was {before}"
        return found

    def bare(self) -> Schema:
        """Return the schema without what it says of raw values."""
        labels, teachers = (
            tuple(dataclasses.replace(label, expression="") for label in some) for some in (self.labels, self.teachers)
        )
        return dataclasses.replace(self.encoded({}), labels=labels, teachers=teachers)

    def to_dict(self) -> dict[str, Any]:
        teachers = {"teachers": [_plain(label) for label in self.teachers]} if self.teachers else {}
        items: dict[str, Any] = {}
        if self.items is not None:
            exclude: dict[str, Any] = {} if self.items.exclude is None else {"exclude": self.items.exclude}
            if self.items.lists:
                exclude["lists"] = list(self.items.lists)
            own = [_plain(f) for f in self.items.features]
            items["items"] = {"id": self.items.id, "features": own, **exclude}
        return {
            "version": VERSION,
            "features": [_plain(f) for f in self.features],
            "labels": [_plain(label) for label in self.labels],
            "group": self.group,
            "weight": self.weight,
            "row_id": self.row_id,
            **teachers,
            **items,
        }

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "schema") -> Schema:
        if not isinstance(data, dict):
            raise SchemaError(f"{where} is not a schema", expected="a JSON object", got=type(data).__name__)
        data = dict(data)
        version = data.pop("version", VERSION)
        if version != VERSION:
            raise SchemaError(f"{where} has version {version}", expected=f"version {VERSION}")
        _check_keys(data, cls, where)
        for key in ("group", "weight", "row_id"):
            if not isinstance(data.get(key), str | None):
                raise SchemaError(f"{where}: '{key}'", expected="the name of a column, or null", got=repr(data[key]))
        features = tuple(_feature(x, f"{where}: feature {i}") for i, x in enumerate(_list(data, "features", where)))
        labels = tuple(_checked(Label, x, f"{where}: label {i}") for i, x in enumerate(_list(data, "labels", where)))
        given = enumerate(_list(data, "teachers", where))
        teachers = tuple(_checked(Label, x, f"{where}: teacher {i}") for i, x in given)
        items = None if data.get("items") is None else _items(data["items"], f"{where}: items")
        try:
            return cls(**{**data, "features": features, "labels": labels, "teachers": teachers, "items": items})
        except SchemaError as error:
            raise SchemaError(
                f"{where}: {error.message}", expected=error.expected, got=error.got, hint=error.hint
            ) from None

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Return the schema in a JSON file (a local path or a URI).

        Raises:
            SchemaError: the file cannot be read, or does not hold a schema.
        """
        try:
            text = read_text(str(path))
        except OSError as error:
            raise SchemaError(
                f"cannot read the schema {path}",
                got=reason(error),
                hint="`rechub-ray prepare` writes it beside the shards; data.root must name that folder.",
            ) from None
        except UnicodeDecodeError as error:
            raise SchemaError(f"{path} is not JSON", got=str(error)) from None
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"{path} is not JSON", got=str(error)) from None
        return cls.from_dict(data, where=str(path))

    def fingerprint(self) -> str:
        """Return 16 hex digits that change when anything in the schema changes."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_tables(features: Iterable[Feature]) -> None:
    """Raise SchemaError where a feature shares a table that does not exist, or differs in size."""
    tables = {f.name: f for f in features if not isinstance(f, DenseFeature) and not getattr(f, "numbers", False)}
    for feature in tables.values():
        if feature.shared_with is None:
            continue
        owner = tables.get(feature.shared_with)
        if owner is None or owner.shared_with is not None:
            raise SchemaError(
                f"feature '{feature.name}' shares the table of '{feature.shared_with}'",
                expected="a sparse or sequence feature with a table of its own",
                hint=nearest(feature.shared_with, [n for n, f in tables.items() if f.shared_with is None]),
            )
        if owner.vocab_size != feature.vocab_size:
            raise SchemaError(
                f"features '{feature.name}' and '{owner.name}' share a table but differ in vocab_size",
                got=f"{feature.vocab_size} and {owner.vocab_size}",
            )


def _check_aligned(sequences: Iterable[SequenceFeature]) -> None:
    """Raise SchemaError where a sequence is aligned with none that it can be as long as."""
    known = {f.name: f for f in sequences}
    for feature in known.values():
        other = known.get(feature.aligned_with or feature.name)
        if other is None or (feature.aligned_with is not None and (other is feature or other.aligned_with is not None)):
            rest = [f.name for f in known.values() if f is not feature and f.aligned_with is None]
            raise SchemaError(
                f"feature '{feature.name}' is aligned with '{feature.aligned_with}'",
                expected="another sequence feature, which is aligned with none",
                hint=nearest(str(feature.aligned_with), rest),
            )
        if other.max_length != feature.max_length:
            raise SchemaError(
                f"features '{feature.name}' and '{other.name}' are aligned but differ in max_length",
                got=f"{feature.max_length} and {other.max_length}",
            )


def _plain(part: Feature | Label) -> dict[str, Any]:
    late = ("encoding", "expression", "numbers", "aligned_with")  # only where set: older schemas keep their fingerprint
    return {key: value for key, value in dataclasses.asdict(part).items() if key not in late or value}


def _list(data: dict[str, Any], key: str, where: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise SchemaError(f"{where}: '{key}'", expected="a list", got=repr(value)[:120])
    return value


def _feature(data: Any, where: str) -> Feature:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SchemaError(
            f"{where} is of no known kind",
            expected=f"an object with kind: {', '.join(_KINDS)}",
            got=repr(data)[:120],
        )
    return _checked(_KINDS[kind], data, where)


def _items(data: Any, where: str) -> Items:
    if not isinstance(data, dict) or not isinstance(data.get("id"), str):
        raise SchemaError(where, expected="an object with 'id', the name of a feature", got=repr(data)[:120])
    _check_keys(data, Items, where)
    features = enumerate(_list(data, "features", where))
    if not isinstance(data.get("exclude"), str | None):
        raise SchemaError(f"{where}: 'exclude'", expected="the name of a column, or null", got=repr(data["exclude"]))
    own = tuple(_feature(x, f"{where}: feature {i}") for i, x in features)
    lists = _list(data, "lists", where)
    if not all(isinstance(name, str) for name in lists):
        raise SchemaError(f"{where}: 'lists'", expected="names of columns", got=repr(lists)[:120])
    return Items(data["id"], own, data.get("exclude"), tuple(lists))


def _checked(cls: type[T], data: Any, where: str) -> T:
    """Return an instance of a pydantic dataclass from a JSON object."""
    if not isinstance(data, dict):
        raise SchemaError(f"{where} is not an object", got=repr(data)[:120])
    place = f"{where} ('{data['name']}')" if "name" in data else where
    _check_keys(data, cls, place)
    try:
        value = pydantic.TypeAdapter(cls).validate_python(data)
        check_booleans(data, dataclasses.asdict(value))  # type: ignore[call-overload]
    except pydantic.ValidationError as error:
        raise SchemaError(f"{place}: {config_error(error)}") from None
    except (ConfigError, SchemaError) as error:
        raise SchemaError(f"{place}: {error}") from None
    return value


def _check_keys(data: dict[str, Any], cls: type[Any], where: str) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for key in data:
        if key not in known:
            raise SchemaError(f"{where} has an unknown key '{key}'", hint=nearest(key, known))
