"""Raw files as rows to predict: read as `prepare` reads them, and encoded by the transforms that a run keeps."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.data.block import Block
from rechub_ray.data.fingerprint import RECIPE, digest, find, homes, is_there
from rechub_ray.data.reader import stack
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import absolute, is_uri, join, open_filesystem, read_text
from rechub_ray.preparation.buckets import bucket_count, task_bytes
from rechub_ray.preparation.columns import Column, Use
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.forms import File, Format, Join, Table
from rechub_ray.preparation.histories import Deal, Gather
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.rows import ReadyRows, RowReader, SideTable
from rechub_ray.preparation.runner import run
from rechub_ray.preparation.sources import BadRow, Source, Task, plan
from rechub_ray.schema import Schema
from rechub_ray.yaml_text import parse_override, plain, put

if TYPE_CHECKING:
    from rechub_ray.checkpoint import Checkpoint
    from rechub_ray.config import RunConfig
    from rechub_ray.data.source import Reader
    from rechub_ray.runtime.predictions import Columns

READING = ("source", "format", "time_format", "joins", "history", "where", "on_bad_rows")
"""The keys of a recipe that say how raw rows are read."""
_ENDING = re.compile(r"\.(csv|tsv|jsonl|parquet)(\.\w+)?$")
_DELIMITED = ("csv", "tsv")
_LAYOUT = {"type", "delimiter", "header", "columns", "quote", "newlines_in_values", "encoding", "rest"}
_ALONE: dict[bool, dict[str, Any]] = {False: {}, True: {"shared_with": None}}


@dataclasses.dataclass(frozen=True)
class RawForm:
    """How the raw rows of a run's data are read.

    Args:
        recipe: that of its data, without labels and splits.
        encoder: the transforms of the model's features.
        transforms: the folder that they are in.
        schema: the model's features.
        keep: the raw columns to carry along.
        more: uses of columns that go with the rows beside those, for whoever reads them.
    """

    recipe: Recipe
    encoder: Encoder
    transforms: str
    schema: Schema
    keep: tuple[str, ...]
    more: tuple[Use, ...] = ()

    @classmethod
    def of(
        cls,
        saved: Checkpoint,
        config: RunConfig,
        files: Sequence[str],
        *,
        schema: Schema,
        keep: Sequence[str] | None,
        settings: Mapping[str, Any],
    ) -> RawForm:
        """Return how the raw rows of a checkpoint's data are read.

        Args:
            saved: the checkpoint.
            config: its run's, with overrides.
            files: paths of the raw files.
            schema: what is read of rows.
            keep: the columns to carry along; None stands for the recipe's `row_id`, where it has one.
            settings: changes to the recipe: keys in READING, and paths below them.

        Raises:
            ConfigError: the run keeps no transforms or no recipe, or the settings are wrong.
            DataError: they cannot be read, or are not those of the model.
        """
        from rechub_ray.fine_tuning import without_transforms  # import PyTorch, which `recommend` does without
        from rechub_ray.runtime.same_encoding import trained_on

        place = find(saved.path)
        if place is None:
            raise ConfigError(
                f"{saved.path}: its run keeps no transforms, so raw values cannot be encoded",
                expected="preprocess.json beside the checkpoints, as runs on data of `rechub-ray prepare` have it",
                hint=without_transforms(config),
            )
        return cls.by(
            place,
            _kept_recipe(place, config),
            trained_on(saved),
            files,
            schema=schema,
            keep=keep,
            settings=settings,
        )

    @classmethod
    def by(
        cls,
        place: str,
        data: Mapping[str, Any] | None,
        trained: Schema,
        files: Sequence[str],
        *,
        schema: Schema,
        keep: Sequence[str] | None,
        settings: Mapping[str, Any],
        encoder: Encoder | None = None,
    ) -> RawForm:
        """Return how raw rows are read by transforms and a recipe.

        Args:
            place: the folder with the transforms.
            data: the recipe of the model's data; None where it is not known.
            trained: the schema of the model.
            files: as for `of`.
            schema: as for `of`.
            keep: as for `of`.
            settings: as for `of`.
            encoder: what is in `place`, where it was read before.

        Raises:
            ConfigError: there is no recipe, or the settings are wrong.
            DataError: the transforms cannot be read, or are not those of the model.
        """
        encoder, schema = encoder or Encoder.load(place), dataclasses.replace(schema, row_id=None)
        made = encoder.encodings
        lacking = [name for name in schema.feature_names if name not in made]
        differing = lacking or list(trained.encoded_otherwise(schema.encoded(made)))
        if differing:
            names = ", ".join(f"'{name}'" for name in differing)
            raise DataError(f"{place}: its transforms are not those of the model's features {names}")
        if data is None:
            raise ConfigError(
                f"{place}: the run keeps no recipe, so it is not known how its raw files are read",
                expected=f"{RECIPE} beside the transforms, or in the folder of the run's data",
                hint="data.root=FOLDER names a folder of data that `rechub-ray prepare` wrote by that recipe.",
            )
        row_id = data.get("row_id")
        kept = tuple(dict.fromkeys([row_id] if keep is None and row_id else keep or ()))
        recipe = _reading(dict(data), encoder, files, settings)
        encoder = encoder.only(schema.feature_names)
        return cls(_needed(recipe, encoder, kept), encoder, place, schema, kept)

    @property
    def uses(self) -> tuple[Use, ...]:
        """The uses of raw columns, those of side tables and of the history included."""
        kept = (Use(name, "carried along ('--keep')") for name in self.keep)
        return (*self.recipe.uses, *kept, *self.more)

    def headed(self, names: Sequence[str], settings: Mapping[str, Any]) -> RawForm:
        """Return the form for files with columns that the recipe's files do not have: their first line names them then.

        Args:
            names: the columns.
            settings: as for `of`; what they say of the format stays.
        """
        files = [_headed(file, names, settings) for file in self.recipe.files[""]]
        return dataclasses.replace(self, recipe=self.recipe.model_copy(update={"files": {"": tuple(files)}}))

    def sides(self) -> tuple[SideTable, ...]:
        """Return the side tables."""
        source = Source.open(self.recipe.source)
        return tuple(SideTable.read(source, join, self.uses) for join in self.recipe.joins)

    def rows(self, sides: tuple[SideTable, ...] | None = None) -> RawRows:
        """Return the rows of the files; where histories are made of several rows, these are not together yet.

        Args:
            sides: the side tables, where they were read before.

        Raises:
            DataError: a file or column is missing, or of a type that its use cannot take.
        """
        recipe, history = self.recipe, self.recipe.history
        made = {name for join in recipe.joins for name in join.columns}
        if history is not None:
            made |= {*history.names, *([history.item] if history.items is not None else [])}
        carried = tuple(dict.fromkeys([*self.keep, *(use.column for use in self.more)]))
        columns = dict.fromkeys([*recipe.input_columns, *(name for name in carried if name not in made)])
        source, files = _opened([file.path for file in recipe.files[""]])
        entries = [file.model_copy(update={"path": path}) for file, path in zip(recipe.files[""], files, strict=True)]
        tasks = plan(source, {"": entries}, list(columns), self.uses, recipe.where)
        names = tuple(dict.fromkeys(task.file for task in tasks))
        reader = RowReader(source, recipe, names, self.sides() if sides is None else sides, keep=carried)
        return RawRows(reader, tuple(tasks), self.transforms, self.schema, bucket_count(task_bytes(source, tasks)))


@dataclasses.dataclass(frozen=True)
class RawRows:
    """Rows of raw files.

    Args:
        reader: reads them.
        tasks: the pieces of the files, a part each; None for a piece without rows.
        transforms: the folder of the run's transforms.
        schema: the model's features.
        buckets: the number of files that hold the rows once those of each user are brought together.
    """

    reader: RowReader
    tasks: tuple[Task | None, ...]
    transforms: str
    schema: Schema
    buckets: int

    @functools.cached_property
    def encoder(self) -> Encoder:
        return Encoder.load(self.transforms).only(self.schema.feature_names)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "encoder"}  # vocabularies may be large

    @property
    def by_user(self) -> bool:
        """Whether the rows of each user are still to be brought together."""
        return self.reader.recipe.by_user and not self.reader.grouped

    @property
    def parts(self) -> int:
        """In how many parts they are predicted."""
        return self.buckets if self.by_user else len(self.tasks)

    def about(self) -> dict[str, str]:
        """Return digests of the files and of how they are read."""
        source = self.reader.source
        infos = source.filesystem.get_file_info(list(self.reader.files))
        recipe = self.reader.recipe.model_dump_json(exclude={"files", "on_bad_rows", "warnings"})
        return {
            "raw files": digest([[info.path, info.size, info.mtime_ns] for info in infos]),
            "recipe": digest(recipe),
            "--keep": ",".join(self.reader.keep),
        }

    def blocks(
        self, number: int, parts: int, *, reader: Reader, batch_size: int
    ) -> Iterator[tuple[Block | None, Columns, list[BadRow]]]:
        task = self.tasks[number]
        return iter(()) if task is None else encoded(self.reader, task, self.encoder, self.schema)

    def together(self, folder: Path, quarantine: Path, *, use_ray: bool) -> tuple[RawRows, int]:
        """Bring each user's rows together, with their histories, unless that was done before.

        Args:
            folder: for the files that hold them; all workers must see it.
            quarantine: folder for rows that cannot be used.
            use_ray: through Ray Data.

        Returns:
            The rows, and how many cannot be used.

        Raises:
            DataError: a row is bad, and `on_bad_rows` is `error`.
        """
        reader, note = self.reader, folder / "done.json"
        if not note.exists():
            for left in (folder, quarantine):
                shutil.rmtree(left, ignore_errors=True)
            folder.mkdir(parents=True)
            deal = Deal(reader.source, reader.recipe, reader.files, folder, quarantine, self.buckets)
            bad = sum(run(deal, [(n, task) for n, task in enumerate(self.tasks) if task is not None], use_ray=use_ray))
            paths = [
                path for path, *_ in run(Gather(reader.recipe, folder), list(range(self.buckets)), use_ray=use_ray)
            ]
            note.write_text(json.dumps({"bad": bad, "paths": paths}))
        found = json.loads(note.read_text())
        rows = dataclasses.replace(
            self,
            reader=dataclasses.replace(reader, source=Source.open("/"), grouped=True),
            tasks=tuple(_gathered(path) if path else None for path in found["paths"]),
        )
        return rows, found["bad"]


def ready(reader: RowReader, task: Task, encoder: Encoder) -> Iterator[ReadyRows]:
    """Yield a task's rows in blocks, with those that cannot be used as `bad`.

    Raises:
        DataError: the file is damaged, or a row is bad and `on_bad_rows` is `error`.
    """
    for rows in reader.ready(task, encoder):
        if rows.bad and reader.recipe.on_bad_rows == "error":
            raise min(rows.bad, key=lambda row: row.row).error()
        yield rows


def encoded(
    reader: RowReader, task: Task, encoder: Encoder, schema: Schema
) -> Iterator[tuple[Block | None, Columns, list[BadRow]]]:
    """Yield a task's rows in blocks, as the model takes them, with the columns to carry along and bad rows.

    Raises:
        DataError: the file is damaged, or a row is bad and `on_bad_rows` is `error`.
    """
    for rows in ready(reader, task, encoder):
        block = None
        if len(rows.codes):
            block = stack(pa.table(encoder.encode_parsed(rows.parsed)), schema, targets=False, where=task.file)
        yield block, {name: rows.others[name] for name in reader.keep}, rows.bad


def _gathered(path: str) -> Task:
    file = pq.ParquetFile(path)
    groups = tuple(range(file.num_row_groups))
    columns = tuple(map(Column, file.schema_arrow.names))
    return Task(path, form=Format(type="parquet"), row_groups=groups, columns=columns)


def split_settings(overrides: Sequence[str] | dict[str, Any], raw: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the overrides of a run's configuration, and those of the recipe that says how raw rows are read.

    Raises:
        ConfigError: there are some of a recipe, and no raw rows.
    """
    pairs = overrides.items() if isinstance(overrides, dict) else map(parse_override, overrides)
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for path, value in pairs:
        found[path.split(".")[0] in READING][path] = value
    if found[1] and not raw:
        raise ConfigError(f"'{next(iter(found[1]))}' is for raw files", expected="--raw FILES beside it")
    return found


def names_of(saved: Checkpoint, config: RunConfig) -> dict[str, str]:
    """Return the recipe's names of the shards' row id and group column, where these have others."""
    found: dict[str, str] = {}
    recipe = _kept_recipe(find(saved.path), config) or {}
    for role in ("group", "row_id"):
        name, column = recipe.get(role), getattr(saved.schema, role)
        if name and column in (f"{name}_raw", f"{name}_id", f"{name}_raw_id") and name not in found.values():
            found[column] = name
    return found


def _kept_recipe(transforms: str | None, config: RunConfig) -> dict[str, Any] | None:
    """Return the recipe beside the transforms, or else in the folder of the run's data; None where there is none."""
    data = homes(config.data.root, config.data.schema_file, config.data.train).values()
    for folder in filter(None, (transforms, *data)):
        place = join(folder, RECIPE)
        if is_there(place):
            try:
                return dict(json.loads(read_text(place)))
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"{place} is not a recipe", got=error) from None
    return None


def _reading(data: dict[str, Any], encoder: Encoder, files: Sequence[str], settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe that reads raw files as another one does, and takes every row."""
    splits = data.get("files") or {}
    entries: list[Any] = splits.get(TRAIN) or next(iter(splits.values()), [])
    data = {key: value for key, value in data.items() if key in READING}
    data["format"] = entries[0]["format"] if entries else data.get("format", {})
    data = plain(data)
    for path, value in settings.items():
        put(data, path, plain(value))
    if data.get("history"):
        data["history"] = {**data["history"], "min_length": 0, "exclude": None, "rows": "each"}
    data["where"] = data.get("where") or ""
    form = dict(data["format"])
    data["files"] = [_entry(path, form, "format.type" in settings) for path in files]
    # a table may be that of a feature of the items, which are not read here
    data["features"] = [spec.model_dump(mode="json") | _ALONE[isinstance(spec, Table)] for spec in encoder.specs]
    recipe = Recipe.from_dict({**data, "labels": []})
    return recipe.model_copy(update={"source": absolute(recipe.source)})


def _entry(path: str, form: Mapping[str, Any], is_typed: bool) -> Any:
    """Return a file's entry in a recipe; of a file whose name says so, with another type than the recipe's."""
    kind = form.get("type", "csv")
    own = kind if is_typed else _type_by_name(path) or kind
    if own == kind or {own, kind} <= set(_DELIMITED):
        return path
    return {"path": path, "format": _plain_layout(own)}


def _plain_layout(kind: str) -> dict[str, Any]:
    """Return the keys of a format that go with the type of a file, as they are where a recipe says nothing of them."""
    return Format.model_validate({"type": kind}).model_dump(include=_LAYOUT)


def _type_by_name(path: str) -> str | None:
    ending = _ENDING.search(path.partition("?")[0] if is_uri(path) else path)
    return ending[1] if ending else None


def _headed(file: File, names: Sequence[str], settings: Mapping[str, Any]) -> File:
    form = file.format
    told = {"format", "format.header", "format.columns"} & {*settings}
    if told or form.type not in _DELIMITED or form.header or set(names) <= set(form.columns or ()):
        return file
    kind = form.type if "format.type" in settings else _type_by_name(file.path) or form.type
    kept = {"type", "delimiter", "quote", "encoding"} if kind == form.type else set()
    kept |= {key for key in _LAYOUT if f"format.{key}" in settings}
    changed = {key: value for key, value in _plain_layout(kind).items() if key not in kept}
    return file.model_copy(update={"format": form.model_copy(update=changed)})


def _needed(recipe: Recipe, encoder: Encoder, keep: tuple[str, ...]) -> Recipe:
    """Return the recipe with the features of the encoder, and with what these and `keep` need alone."""
    needed = {*encoder.columns, *keep}
    joins: list[Join] = []
    history = recipe.history
    if history is not None:
        lists = {name: column for name, column in history.lists.items() if name in needed}
        history = history.model_copy(update={"lists": lists, "age": history.age if history.age in needed else None})
        if history.items is None and not needed & set(history.names):
            history = None
    for side in reversed(recipe.joins):
        if needed & set(side.columns):
            joins.insert(0, side)
            needed.update(side.input_columns)
    return recipe.model_copy(update={"features": encoder.specs, "joins": tuple(joins), "history": history})


def _opened(paths: Sequence[str]) -> tuple[Source, list[str]]:
    """Return the filesystem of files as a source, and their paths on it."""
    opened = [open_filesystem(absolute(path)) for path in paths]
    first = opened[0][0]
    for path, (filesystem, _) in zip(paths, opened, strict=True):
        if filesystem != first:
            raise ConfigError("--raw names files of two stores", got=f"{paths[0]} and {path}")
    return Source(first, "" if is_uri(paths[0]) else "/"), [path for _, path in opened]
