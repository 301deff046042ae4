"""The recipe of `prepare`: where the raw files are, what becomes a feature, a label and a split."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic_core import PydanticCustomError

from rechub_ray.data.fingerprint import RECIPE
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.preparation.checks import check_histories, check_items, check_tables
from rechub_ray.preparation.columns import Takes, Use
from rechub_ray.preparation.expressions import Expression
from rechub_ray.preparation.forms import (
    AtRandom,
    Bucket,
    ByColumn,
    ByFile,
    ByTime,
    Categorical,
    FeatureSpec,
    File,
    Form,
    Format,
    History,
    Items,
    Join,
    LabelSpec,
    LeaveLastOut,
    Name,
    Numeric,
    Sequence,
    SplitSpec,
)
from rechub_ray.registry import check_booleans, config_error
from rechub_ray.yaml_text import read_yaml

TRAIN, WINDOWS = "train", "windows"
_TAKEN = (WINDOWS, "items", "quarantine", "vocab", "work", "schema.json", "preprocess.json", "stats.json", RECIPE)


class Recipe(Form):
    """All settings of `prepare`.

    Args:
        description: of the data, in words.
        source: folder or URI of the raw files (`s3://...`, any pyarrow or fsspec filesystem).
        out: the folder to write; it must not exist, unless `overwrite`.
        overwrite: replace the folder `out` where it is there.
        like: folder of a prepared data set, or of a run: rows are encoded by its vocabularies and transforms, and
            nothing is fitted. Values that it does not have become id 0.
        grow: with `like`, values of the training split that it does not have get ids after those that are there.
        files: path, folder, glob (`*`, `?`, `[ab]`, `**` for any folders) or list of them, relative to `source`; a
            mapping `split: path` for a split by file. Folders `key=value` bring a column `key`. In place of a path,
            `{path: ..., format: {...}}` overrides keys of `format` for these files.
        format: how the files are laid out.
        time_format: `strptime` formats (one or a list) of the times written as text; without it they are ISO 8601.
        where: an expression over columns of the input (`dt >= "2026-11-01" and country == "DE"`); rows for which it is
            not true are left out before anything else, so they are in no history, no vocabulary and no split.
        url: where the data comes from; nothing is downloaded.
        licence: of the data.
        checksums: SHA-256 of files below `source`; one that is there and differs is an error. `{}` asks for none.
        joins: side tables.
        history: the user's earlier items as a list column.
        features: what models read.
        on_bad_rows: `error` stops at the first one; `quarantine` writes them to `out/quarantine` and counts them.
        warnings: say at the end what is seldom meant or doubtful (see docs/prepare.md), for which a sample of the rows
            is looked at.
        labels: may be empty (`[]`), where nothing is predicted from labels.
        items: the item table, for retrieval.
        weight: the column of the rows' weights in losses.
        group: the column of groups, for metrics such as GAUC and for losses of pairs and lists.
        row_id: the column that tells rows apart; it stands beside predictions.
        split: how rows are divided into training, validation and test; left out, all of them train.
        cluster_by: a column; the rows of one value of it lie together in one row group, in order of time where the
            recipe names a time column (`history.order`, `split.order`, `split.column` of a split by time), else of the
            files. It is the `group` too.
        row_group_rows: rows of a parquet row group.
        shard_rows: a shard never has more rows.
    """

    description: str = ""
    url: str = ""
    licence: str = ""
    checksums: dict[str, Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]] = {}
    source: str = "."
    out: str = ""
    overwrite: bool = False
    like: str = ""
    grow: bool = False
    files: dict[str, tuple[File, ...]]
    format: Format = Format()
    time_format: tuple[str, ...] = ()
    where: str = ""
    joins: tuple[Join, ...] = ()
    history: History | None = None
    features: tuple[FeatureSpec, ...]
    labels: tuple[LabelSpec, ...]
    items: Items | None = None
    weight: Name | None = None
    group: Name | None = None
    cluster_by: Name | None = None
    row_id: Name | None = None
    split: SplitSpec | None = None
    on_bad_rows: Literal["error", "quarantine"] = "error"
    warnings: bool = True
    row_group_rows: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = 16_384
    shard_rows: Annotated[int, pydantic.Field(ge=1)] = 1_000_000

    @pydantic.model_validator(mode="before")
    @classmethod
    def _files(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "files" not in data:
            return data
        files, base = data["files"], data.get("format", {})
        if isinstance(files, str | list | tuple) or (
            isinstance(files, Mapping) and "path" in files and "train" not in files
        ):
            files = {"": files}
        if isinstance(files, Mapping):
            files = {key: _with_format(value, base) for key, value in files.items()}
        return {**data, "files": files}

    @pydantic.field_validator("time_format", mode="before")
    @classmethod
    def _time_formats(cls, formats: Any) -> Any:
        formats = [formats] if isinstance(formats, str) else formats
        for form in formats if isinstance(formats, list | tuple) else ():
            moment = datetime.datetime(2001, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
            try:
                datetime.datetime.strptime(moment.strftime(str(form)), str(form))
                known = "%" in str(form)
            except (ValueError, re.error):
                known = False
            if not known:
                raise PydanticCustomError(
                    "time_format", "'{form}' is no format of times (such as %d/%m/%Y %H:%M:%S)", {"form": str(form)}
                )
        return formats

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """Return the recipe in a mapping, checked.

        Raises:
            ConfigError: a key is unknown, missing or wrong, or two do not fit together; names the key.
        """
        if not isinstance(data, Mapping):
            raise ConfigError("the recipe is not a recipe", expected="a mapping", got=repr(data)[:120])
        data = dict(data)
        if "features" in data:
            data["features"] = _features(data["features"], "features")
        if isinstance(data.get("items"), Mapping) and "features" in data["items"]:
            data["items"] = {**data["items"], "features": _features(data["items"]["features"], "items.features")}
        if data.get("split") is not None:
            data["split"] = _variant(_with_lists(data["split"]), _SPLITS, "by", "split")
        if data.get("group") is None:
            data["group"] = data.get("cluster_by")
        recipe = _checked(cls, data)
        _check_names(recipe)
        _check_split(recipe)
        check_tables(recipe)
        check_histories(recipe)
        check_items(recipe)
        return recipe

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Return the recipe in a YAML file, checked."""
        return cls.from_dict(read_yaml(path, what="recipe"))

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, the training split first."""
        split = self.split
        if split is None:
            names: list[str] = [TRAIN]
        elif isinstance(split, ByFile):
            names = [*self.files, *split.carve]
        elif isinstance(split, ByColumn):
            names = list(split.values)
        elif isinstance(split, AtRandom):
            names = list(split.fractions)
        elif isinstance(split, ByTime):
            names = [TRAIN, *(name for name in (split.fractions or split.starts or {}) if name != TRAIN)]
        else:
            names = [TRAIN, *(["valid"] if split.valid else []), *(["test"] if split.test else [])]
        return tuple(names)

    @property
    def all_features(self) -> tuple[FeatureSpec, ...]:
        """The features of the rows, then those of the item table."""
        return self.features + (self.items.features if self.items is not None else ())

    @property
    def held_out(self) -> int:
        """How many of each user's last rows are not for training, where the split counts them."""
        return self.split.valid + self.split.test if isinstance(self.split, LeaveLastOut) else 0

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of shards: the splits, and that of windows where the recipe asks for both."""
        both = self.history is not None and self.history.rows == "both"
        return (*self.splits, WINDOWS) if both else self.splits

    @property
    def by_user(self) -> bool:
        """Whether rows must first be brought together by user."""
        whole_users = self.history is not None and self.history.items is not None
        return not whole_users and (self.history is not None or isinstance(self.split, LeaveLastOut))

    @property
    def time_column(self) -> str | None:
        """The column that orders rows in time, where the recipe names one."""
        if self.history is not None and self.history.order is not None:
            return self.history.order
        if isinstance(self.split, LeaveLastOut):
            return self.split.order
        return self.split.column if isinstance(self.split, ByTime) else None

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every use of a raw column, those that joins and the history bring included."""
        uses = feature_uses(self.features)
        if self.items is not None and self.items.from_rows:
            uses += feature_uses(self.items.features)
        for name, one in (self.items.lists if self.items is not None else {}).items():
            uses.append(Use(one.column or name, f"the list of items '{name}'", "list", one.separator))
        for label in self.labels:
            what = f"label '{label.name}'"
            if label.expression:
                uses += [Use(name, f"in the expression of {what}") for name in label.reads]
            else:
                uses.append(Use(label.name, what, "number"))
        split, history = self.split, self.history
        extras: list[tuple[str | None, str, Takes]] = [
            (self.weight, "'weight'", "number"),
            (self.group, "'group'", "value"),
            (self.row_id, "'row_id'", "value"),
        ]
        if isinstance(split, ByColumn | ByTime):
            extras.append((split.column, "'split.column'", "time" if isinstance(split, ByTime) else "value"))
        if isinstance(split, LeaveLastOut):
            extras += [(split.user, "'split.user'", "value"), (split.order, "'split.order'", "time")]
        for i, join in enumerate(self.joins):
            extras += [(name, f"'joins.{i}.input_key'", "value") for name in join.input_columns]
        if history is not None:
            extras += [(history.user, "'history.user'", "value"), (history.order, "'history.order'", "time")]
            if history.items is None:
                columns = [(column, f"'history.lists.{name}'") for name, column in history.lists.items()]
                extras += [(column, what, "value") for column, what in [(history.item, "'history.item'"), *columns]]
            else:
                uses.append(Use(history.items, "'history.items'", "list", history.separator))
        uses += [Use(name, "in 'where'") for name in (Expression(self.where).columns if self.where else ())]
        return (*uses, *(Use(name, what, takes) for name, what, takes in extras if name is not None))

    @property
    def input_columns(self) -> list[str]:
        """The columns to read from the input files: what is used, less what joins and the history bring."""
        made = {name for join in self.joins for name in join.columns}
        if self.history is not None:
            made |= {*self.history.names, *([] if self.history.items is None else [self.history.item])}
        return [name for name in dict.fromkeys(use.column for use in self.uses) if name not in made]


def feature_uses(specs: Iterable[FeatureSpec]) -> list[Use]:
    """Return the uses of raw columns by features."""
    uses = []
    for spec in specs:
        takes: Takes = "value" if isinstance(spec, Categorical) else "number"
        separator = None
        if isinstance(spec, Sequence) or (isinstance(spec, Numeric) and spec.dim > 1):
            takes, separator = "list" if isinstance(spec, Sequence) else "numbers", spec.separator
        uses.append(Use(spec.source, f"the {spec.kind} feature '{spec.name}'", takes, separator))
    return uses


def _with_format(entries: Any, base: Any) -> Any:
    """Return the entries of one split as files, each with the recipe's format under its own."""
    if isinstance(entries, str | Mapping):
        entries = [entries]
    if not isinstance(entries, list | tuple):
        return entries
    files = []
    for entry in entries:
        entry = {"path": entry} if isinstance(entry, str) else entry
        own = entry.get("format", {}) if isinstance(entry, Mapping) else None
        if isinstance(own, Mapping) and isinstance(base, Mapping):
            entry = {**entry, "format": {**base, **own}}
        elif isinstance(own, Mapping) and isinstance(base, Format):
            entry = {**entry, "format": {**base.model_dump(exclude_unset=True), **own}}
        files.append(entry)
    return files


_FEATURES = {cls.model_fields["kind"].default: cls for cls in (Categorical, Sequence, Numeric, Bucket)}
_SPLITS = {cls.model_fields["by"].default: cls for cls in (ByFile, ByColumn, AtRandom, ByTime, LeaveLastOut)}
AnyForm = TypeVar("AnyForm", bound=Form)


def _features(nodes: Any, key: str) -> list[Form]:
    """Return the features; `{kind: ..., columns: [a, b]}` stands for one a column."""
    if not isinstance(nodes, list | tuple):
        raise ConfigError(f"'{key}' is not a list of features", got=repr(nodes)[:120])
    features = []
    for i, node in enumerate(nodes):
        several = [node]
        if isinstance(node, Mapping) and "columns" in node:
            if not isinstance(node["columns"], list | tuple):
                raise ConfigError(f"'{key}.{i}.columns'", expected="a list of columns", got=repr(node["columns"]))
            rest = {key: value for key, value in node.items() if key != "columns"}
            several = [{"name": name, **rest} for name in node["columns"]]
        features += [_variant(one, _FEATURES, "kind", f"{key}.{i}") for one in several]
    return features


def _with_lists(split: Any) -> Any:
    """Return a split by column with every value in a list: `values: {test: true}` stands for `{test: [true]}`."""
    if not isinstance(split, Mapping) or not isinstance(split.get("values"), Mapping):
        return split
    values = {key: list(x) if isinstance(x, list | tuple) else [x] for key, x in split["values"].items()}
    return {**split, "values": values}


def _variant(node: Any, forms: Mapping[str, type[Form]], tag: str, where: str) -> Form:
    """Return the form that `node[tag]` names."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"'{where}' is not a section", expected="keys and values", got=repr(node)[:120])
    name = str(node.get(tag))
    if name not in forms:
        message = f"'{where}.{tag}': there is no '{name}'" if tag in node else f"'{where}.{tag}' is missing"
        raise ConfigError(message, hint=nearest(name, forms))
    return _checked(forms[name], node, where)


def _checked(form: type[AnyForm], data: Mapping[Any, Any], where: str = "") -> AnyForm:
    try:
        checked = form.model_validate(data)
    except pydantic.ValidationError as error:
        raise config_error(error, where=where) from None
    check_booleans(data, checked.model_dump(), where=where)
    return checked


def _check_names(recipe: Recipe) -> None:
    if recipe.grow and not recipe.like:
        raise ConfigError("'grow' is for 'like', which is missing", expected="like: the data set or run to start from")
    for key in ("files", "features"):
        if not getattr(recipe, key):
            raise ConfigError(f"'{key}' is empty", expected=f"at least one {key.removesuffix('s')}")
    for key, patterns in recipe.files.items():
        if not patterns:
            raise ConfigError(f"'files{key and '.'}{key}' is empty", expected="at least one file")
    roles = [spec.name for spec in recipe.all_features] + [label.name for label in recipe.labels]
    roles += [name for name in (recipe.weight,) if name is not None]
    roles += list(recipe.items.lists) if recipe.items is not None else []
    for name in roles:
        if roles.count(name) > 1:
            raise ConfigError(f"'{name}' names two columns of the output", hint="Give one another 'name'.")
    if recipe.cluster_by not in (None, recipe.group):
        raise ConfigError(
            "'group' and 'cluster_by' name two columns",
            expected="one column: training takes whole groups, and those must lie together",
            got=f"{recipe.group} and {recipe.cluster_by}",
        )
    joined = [name for join in recipe.joins for name in join.columns]
    if recipe.where:
        made = {*joined, *(recipe.history.names if recipe.history is not None else ())}
        for name in sorted(made & set(Expression(recipe.where).columns)):
            raise ConfigError(
                f"'where' reads '{name}', which is no column of the input files",
                expected="columns that the files have, or that their folders name",
                hint="A side table is joined to the rows that are left.",
            )
    for name in joined:
        if joined.count(name) > 1:
            raise ConfigError(f"'joins': two side tables bring a column '{name}'")
    if any(file.format.type == "json_map" for files in recipe.files.values() for file in files):
        raise ConfigError("'format.type': json_map is for side tables", hint="Use it in 'joins'.")
    for use in recipe.uses:
        if recipe.history is not None and use.column in recipe.history.names and use.takes != "list":
            raise ConfigError(f"'history': the list '{use.column}' cannot be {use.what}", expected="kind: sequence")


def _check_split(recipe: Recipe) -> None:
    split = recipe.split
    if not isinstance(split, ByFile) and list(recipe.files) != [""]:
        raise ConfigError("'files' names splits but 'split' is not by file", hint="Set 'split: {by: file}'.")
    if isinstance(split, ByFile):
        if list(recipe.files) == [""]:
            raise ConfigError("'split' is by file but 'files' names no splits", expected="files: {train: ..., ...}")
        for name, carve in split.carve.items():
            if name in recipe.files:
                raise ConfigError(f"'split.carve.{name}': split '{name}' has files of its own")
            if carve.of not in recipe.files:
                raise ConfigError(
                    f"'split.carve.{name}.of': no split '{carve.of}'", hint=nearest(carve.of, recipe.files)
                )
    if isinstance(split, AtRandom) or (isinstance(split, ByTime) and split.fractions is not None):
        total = sum((split.fractions or {}).values())
        if abs(total - 1) > 1e-6:
            raise ConfigError("'split.fractions' must add up to 1", got=f"{total:g}")
    if isinstance(split, ByTime) and split.fractions is not None and next(iter(split.fractions)) != TRAIN:
        raise ConfigError("'split.fractions' of time must begin with 'train'", got=", ".join(split.fractions))
    for name in recipe.splits:
        if name in _TAKEN or name[0] in "._":
            raise ConfigError(
                f"a split cannot be called '{name}'",
                expected="a name that does not begin with '.' or '_'",
                got=f"the name of something else in 'out' ({', '.join(_TAKEN)})" if name in _TAKEN else None,
            )
    if TRAIN not in recipe.splits:
        raise ConfigError(
            "no split is called 'train'", got=", ".join(recipe.splits), hint="Everything is fitted on split 'train'."
        )
    if isinstance(split, LeaveLastOut) and split.user is None and recipe.by_user:
        raise ConfigError("'split.user' is missing", expected="the column whose last rows are left out")
    if isinstance(split, LeaveLastOut) and recipe.by_user and recipe.history is not None:
        same = (split.user, split.order) == (recipe.history.user, recipe.history.order)
        if not same:
            raise ConfigError("'split' and 'history' must have the same 'user' and 'order'")
