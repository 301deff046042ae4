"""The recipe of `prepare`: where the raw files are, what becomes a feature, a label and a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from rechub_ray.data.prepare.expressions import Expression
from rechub_ray.data.prepare.forms import (
    AtRandom,
    ByColumn,
    ByFile,
    ByTime,
    FeatureSpec,
    Form,
    Format,
    History,
    Join,
    LabelSpec,
    LeaveLastOut,
    Name,
    SplitSpec,
    Table,
)
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.registry import config_error

TRAIN = "train"


class Recipe(Form):
    """All that `prepare` needs to know.

    Args:
        source: folder or URI of the raw files (`s3://...`, any pyarrow or fsspec filesystem).
        out: the folder to write; it must not exist, unless `overwrite`.
        files: path, glob or list of them, relative to `source`; a mapping `split: path` for a split by file.
        url, licence, checksums: where the data comes from; nothing is downloaded.
        on_bad_rows: `error` stops at the first one; `quarantine` writes them to `out/quarantine` and counts them.
        row_group_rows: rows of a parquet row group. shard_rows: a shard never has more rows.
    """

    description: str = ""
    url: str = ""
    licence: str = ""
    checksums: dict[str, str] = {}
    source: str = "."
    out: str = ""
    overwrite: bool = False
    files: dict[str, tuple[str, ...]]
    format: Format = Format()
    joins: tuple[Join, ...] = ()
    history: History | None = None
    features: tuple[FeatureSpec, ...]
    labels: Annotated[tuple[LabelSpec, ...], pydantic.Field(min_length=1)]
    weight: Name | None = None
    group: Name | None = None
    row_id: Name | None = None
    split: SplitSpec | None = None
    on_bad_rows: Literal["error", "quarantine"] = "error"
    row_group_rows: Annotated[int, pydantic.Field(ge=1, le=1_000_000)] = 16_384
    shard_rows: Annotated[int, pydantic.Field(ge=1)] = 1_000_000

    @pydantic.field_validator("files", mode="before")
    @classmethod
    def _files(cls, files: Any) -> Any:
        if isinstance(files, str | list | tuple):
            files = {"": files}
        if isinstance(files, Mapping):
            return {key: [value] if isinstance(value, str) else value for key, value in files.items()}
        return files

    @pydantic.field_validator("features", mode="before")
    @classmethod
    def _spread(cls, features: Any) -> Any:
        """`{kind: ..., columns: [a, b]}` stands for one feature a column."""
        if not isinstance(features, list | tuple):
            return features
        spread: list[Any] = []
        for feature in features:
            if isinstance(feature, Mapping) and "columns" in feature and isinstance(feature["columns"], list | tuple):
                rest = {key: value for key, value in feature.items() if key != "columns"}
                spread += [{"name": name, **rest} for name in feature["columns"]]
            else:
                spread.append(feature)
        return spread

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "") -> Recipe:
        """The checked recipe.

        Raises:
            ConfigError: names the key and suggests the nearest known one.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where or 'the recipe'} is not a recipe", expected="a mapping", got=repr(data)[:120])
        try:
            recipe = cls.model_validate(dict(data))
        except pydantic.ValidationError as error:
            raise config_error(error) from None
        _check_names(recipe)
        _check_split(recipe)
        _check_tables(recipe)
        return recipe

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a YAML file."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the recipe {path}", got=error.strerror or error) from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML", got=" ".join(str(error).split())) from None
        return cls.from_dict(data, where=str(path))

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
    def by_user(self) -> bool:
        """Whether rows must first be brought together by user."""
        whole_users = self.history is not None and self.history.items is not None
        return not whole_users and (self.history is not None or isinstance(self.split, LeaveLastOut))

    @property
    def input_columns(self) -> list[str]:
        """The columns to read from the input files: what is used, less what joins and the history bring."""
        used: dict[str, None] = dict.fromkeys(spec.source for spec in self.features)
        for label in self.labels:
            used |= dict.fromkeys(Expression(label.expression).columns if label.expression else [label.name])
        extras = [self.weight, self.group, self.row_id]
        if isinstance(self.split, ByColumn | ByTime):
            extras.append(self.split.column)
        if isinstance(self.split, LeaveLastOut):
            extras += [self.split.user, self.split.order]
        made: set[str] = set()
        for join in reversed(self.joins):
            made |= set(join.columns)
            extras.append(join.input_key or join.key)
        if self.history is not None:
            made.add(self.history.name)
            extras += [self.history.user, self.history.order]
            if self.history.items is None:
                extras.append(self.history.item)
            else:
                made.add(self.history.item)
                extras.append(self.history.items)
        used |= dict.fromkeys(name for name in extras if name is not None)
        return [name for name in used if name not in made]


def _check_names(recipe: Recipe) -> None:
    roles = [spec.name for spec in recipe.features] + [label.name for label in recipe.labels]
    roles += [name for name in (recipe.weight,) if name is not None]
    for name in roles:
        if roles.count(name) > 1:
            raise ConfigError(f"'{name}' names two columns of the output", hint="Give one another 'name'.")
    joined = [name for join in recipe.joins for name in join.columns]
    for name in joined:
        if joined.count(name) > 1:
            raise ConfigError(f"'joins': two side tables bring a column '{name}'")
    if recipe.format.type == "json_map":
        raise ConfigError("'format.type': json_map is for side tables", hint="Use it in 'joins'.")


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


def _check_tables(recipe: Recipe) -> None:
    tables = {spec.name: spec for spec in recipe.features if isinstance(spec, Table)}
    for spec in tables.values():
        if spec.shared_with is None:
            continue
        owner = tables.get(spec.shared_with)
        where = f"feature '{spec.name}': 'shared_with: {spec.shared_with}'"
        if owner is None or owner is spec:
            raise ConfigError(f"{where} is no feature with a table", hint=nearest(spec.shared_with, tables))
        if owner.shared_with is not None:
            raise ConfigError(f"{where} itself shares the table of '{owner.shared_with}'")
        if (spec.min_frequency, spec.max_values, spec.hash_buckets) != (1, None, None):
            raise ConfigError(f"{where}: min_frequency, max_values and hash_buckets are the owner's to give")


def feature_columns(recipe: Recipe) -> list[str]:
    """The raw columns that features read."""
    return list(dict.fromkeys(spec.source for spec in recipe.features))
