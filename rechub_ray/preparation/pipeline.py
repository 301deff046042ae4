"""`prepare`: raw logs in, encoded parquet shards, schema, fitted transforms and a report out."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.data.block import Block
from rechub_ray.data.doubts import doubts, looked_at
from rechub_ray.data.fingerprint import RECIPE
from rechub_ray.data.reader import stack
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import absolute, is_uri
from rechub_ray.preparation import histories
from rechub_ray.preparation.buckets import bucket_count, task_bytes
from rechub_ray.preparation.clusters import Cluster
from rechub_ray.preparation.columns import Column
from rechub_ray.preparation.earlier import Earlier
from rechub_ray.preparation.encoder import Encoder, FitState
from rechub_ray.preparation.forms import ByTime, Format, LabelSpec
from rechub_ray.preparation.frames import with_frames, without_frames
from rechub_ray.preparation.items import ItemRows, item_rows, write_items
from rechub_ray.preparation.labels import Classes
from rechub_ray.preparation.notes import check_joins, item_notes, notes
from rechub_ray.preparation.passes import Encoded, EncodeTask, FitTask, Fitted
from rechub_ray.preparation.progress import Progress
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.rows import RowReader, SideTable, group_name, row_id_name
from rechub_ray.preparation.runner import RAY_BYTES, ray_is_up, run
from rechub_ray.preparation.sketch import Counter, Quantiles
from rechub_ray.preparation.sources import Source, Task, plan
from rechub_ray.preparation.splits import empty_split, fitted_starts, given_starts
from rechub_ray.preparation.staging import check_free, put_in_place, staged
from rechub_ray.preparation.writer import number_shards, writing
from rechub_ray.schema import Items, Schema
from rechub_ray.yaml_text import read_yaml

_log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """Result of `prepare`: the folder or URI, its schema, the statistics as in stats.json, and the seconds it took."""

    out: str
    schema: Schema
    stats: dict[str, Any]
    seconds: float

    @property
    def notes(self) -> list[str]:
        """What is seldom meant: a split with one class, rows without a partner, and the like."""
        return list(self.stats["notes"])

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of each split."""
        return {name: int(split["rows"]) for name, split in self.stats["splits"].items()}

    @property
    def encoder(self) -> Encoder:
        """The fitted transforms, read from the folder."""
        return Encoder.load(self.out)


def prepare(
    recipe: Recipe | str | Path | Mapping[str, Any] | None = None, *, use_ray: bool | None = None, **keys: Any
) -> PrepareResult:
    """Encode raw logs.

    Two passes over the raw files: the first fits vocabularies, means and quantiles on the training split, the second
    encodes every row and writes shards. Both take the files in tasks of about 64 MB, block by block, so memory does
    not grow with the number of rows. It grows with the number of different values in columns that have a vocabulary
    (hash those past some tens of millions), with the side tables, and with the largest user where rows are brought
    together by user; that adds a pass which deals the rows into bucket files beside `out`.

    Args:
        recipe: a recipe, its YAML file, or its mapping; None: `keys` are the recipe.
        use_ray: run the tasks as a Ray Data pipeline; None does when a cluster is up or the input is large.
            The result is the same, bit for bit. On several machines `out` must lie on a filesystem they share.
        keys: keys of the recipe, in the place of those that it has. `files` may be a pandas DataFrame, a pyarrow
            Table, or a mapping from splits to those.

    Raises:
        ConfigError: the recipe is wrong, or `out` exists.
        DataError: a file, column or row is wrong (the message names it); a split is empty; a side table matches
            nothing; the disk is full. Nothing is left behind, and with `overwrite` the old data set stays.
    """
    started = time.monotonic()
    recipe, frames = _recipe(recipe, keys)
    if not recipe.out:
        raise ConfigError("'out' is missing", expected="the folder to write", hint="Give out=DIR.")
    # reading tasks may run in other processes, which do not share this one's working folder
    places = {"source": absolute(recipe.source), "out": absolute(recipe.out)}
    places["like"] = recipe.like and absolute(recipe.like)
    recipe = recipe.model_copy(update=places)
    check_free(recipe)
    place = tempfile.gettempdir() if is_uri(recipe.out) else recipe.out
    with writing(place), staged(recipe.out) as staging, Progress() as progress:
        recipe = with_frames(recipe, frames, staging.parent / "frames")
        use_ray = False if frames and use_ray is None else use_ray
        schema, stats = _Run(recipe, staging, use_ray, progress).prepare()
        shutil.rmtree(staging / "work", ignore_errors=True)
        put_in_place(staging, recipe.out)
    for note in stats["notes"] if recipe.warnings else ():
        _log.warning("%s.", note)
    return PrepareResult(recipe.out, schema, stats, time.monotonic() - started)


def _recipe(
    recipe: Recipe | str | Path | Mapping[str, Any] | None, keys: Mapping[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe, checked, and the tables that its `files` name."""
    if isinstance(recipe, Recipe):
        if not keys:
            return recipe, {}
        recipe = recipe.model_dump(mode="json")
    elif isinstance(recipe, str | Path):
        recipe = read_yaml(recipe, what="recipe")
    elif recipe is not None and not isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe), {}  # raises
    content, frames = without_frames({**(recipe or {}), **keys})
    return Recipe.from_dict(content), frames


class _Run:
    """One call of `prepare`: the passes, and their results."""

    def __init__(self, recipe: Recipe, staging: Path, use_ray: bool | None, progress: Progress) -> None:
        self.like: Schema | None = None
        if recipe.like:
            earlier = Earlier.load(recipe.like)
            self.like = earlier.schema
            recipe, self.encoder = earlier.settled(recipe), earlier.encoder_of(recipe)
        else:
            self.encoder = Encoder.of(recipe)
        self.recipe, self.staging, self.progress = recipe, staging, progress
        self.grown: dict[str, int] = {}
        self.item_rows: ItemRows | None = None
        self.work = staging / "work"
        source = Source.open(recipe.source)
        self.raw = source
        source.verify(recipe.checksums, recipe.url)
        self.tasks = plan(source, recipe.files, recipe.input_columns, recipe.uses, recipe.where)
        files = tuple(dict.fromkeys(task.file for task in self.tasks))
        raw_bytes = sum(source.size(file) for file in files)
        self.use_ray = ray_is_up() or raw_bytes >= RAY_BYTES if use_ray is None else use_ray
        sizes = task_bytes(source, self.tasks)
        self.buckets = bucket_count(sizes)
        self.bucket_bytes = sum(sizes) // self.buckets
        self.bad = self.tied = 0
        self.moments: set[tuple[int, float]] = set()
        sides = tuple(SideTable.read(source, join, recipe.uses) for join in recipe.joins)
        splits = {task.file_index: task.split for task in self.tasks}
        self.reader = RowReader(source, recipe, files, sides, splits=splits)

    def prepare(self) -> tuple[Schema, dict[str, Any]]:
        """Write everything into the staging folder; return the schema and the statistics as in stats.json."""
        recipe, staging = self.recipe, self.staging
        if recipe.by_user:
            self._by_user()
        if isinstance(recipe.split, ByTime):
            self.reader = dataclasses.replace(self.reader, starts=tuple(self._starts(recipe.split)))
        encoder, classes = self.encoder, self._fit()
        labels = tuple(classes.label(spec) for spec in recipe.labels)
        self._settle(tuple(label.num_classes for label in labels))
        schema = Schema(
            encoder.features, labels, group_name(recipe), recipe.weight, row_id_name(recipe), items=self._items()
        )
        encoded = self._encode(encoder, schema)
        if recipe.cluster_by is not None:
            self._cluster(schema)
        self._check_shards(encoded)
        splits = {n: numbers.to_dict(schema.features, schema.labels) for n, numbers in encoded.splits.items()}
        said = check_joins(self.reader.sides, encoded.matched, encoded.rows, self._example)
        said += notes(recipe, schema, encoder, classes, splits, self.tied, is_one_moment=len(self.moments) == 1)
        if recipe.warnings:
            said += doubts(
                {name: _block(rows.table(), schema) for name, rows in encoded.samples.items()}, schema, constants=False
            )
        for name, how in (self.like or schema).labelled_otherwise(schema).items():
            said.append(f"label '{name}' is {how} in {recipe.like}: no model of that data is measured by it")
        for name, count in self.grown.items():
            said += [f"feature '{name}': {count:,} new ids, after those of {recipe.like}"] if count else []
        stats: dict[str, Any] = {"splits": splits, "bad_rows": self.bad, "notes": said}
        if self.item_rows is not None:
            stats["items"] = write_items(self.item_rows, encoded.items, encoder, schema, recipe, staging)
            said += item_notes(stats["items"], recipe)
        schema.save(staging / "schema.json")
        encoder.save(staging)
        (staging / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
        (staging / RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return schema, stats

    def _over(self, what: str, function: Callable[[T], R], items: list[T], sizes: list[int]) -> Iterator[R]:
        return self.progress.over(what, run(function, items, use_ray=self.use_ray), sizes)

    def _sizes(self, tasks: list[Task]) -> list[int]:
        return task_bytes(self.reader.source, tasks)

    def _by_user(self) -> None:
        """Bring each user's rows together; the passes that follow read those files."""
        self.work.mkdir()
        recipe, reader = self.recipe, self.reader
        deal = histories.Deal(reader.source, recipe, reader.files, self.work, self.staging / "quarantine", self.buckets)
        self.bad = sum(self._over("by user", deal, list(enumerate(self.tasks)), self._sizes(self.tasks)))
        self.tasks = []
        buckets = list(range(self.buckets))
        sizes = [self.bucket_bytes] * self.buckets
        for path, tied, moments in self._over("histories", histories.Gather(recipe, self.work), buckets, sizes):
            self.tied += tied
            self.moments = set(sorted(self.moments | moments)[:2])  # whether there is more than one
            if path:
                file = pq.ParquetFile(path)
                columns, groups = tuple(map(Column, file.schema_arrow.names)), tuple(range(file.num_row_groups))
                self.tasks.append(Task(path, form=Format(type="parquet"), row_groups=groups, columns=columns))
        self.reader = dataclasses.replace(reader, source=Source.open("/"), grouped=True)

    def _starts(self, split: ByTime) -> list[float]:
        return given_starts(split) if split.starts is not None else fitted_starts(split, self._times())

    def _times(self) -> Quantiles:
        times = Quantiles()
        for part in self._over("times", self.reader.times, self.tasks, self._sizes(self.tasks)):
            times.merge(part)
        return times

    def _fit(self) -> Classes:
        recipe, encoder = self.recipe, self.encoder
        total = Fitted(encoder.fit_state(), Classes(recipe.labels), len(recipe.joins))
        is_open = bool(total.classes.seen)
        if recipe.like:
            is_open = any(spec.kind == "multiclass" and spec.num_classes is None for spec in recipe.labels)
            total.state.parts = {
                k: part for k, part in total.state.parts.items() if recipe.grow and type(part) is Counter
            }
        if not total.state.parts and not is_open and not (recipe.items is not None and recipe.items.from_rows):
            total.classes = Classes(())
        else:
            everywhere = recipe.on_bad_rows == "error"
            tasks = [task for task in self.tasks if everywhere or task.split in ("", TRAIN)]
            for part in self._over("fitting", FitTask(self.reader, encoder), tasks, self._sizes(tasks)):
                total.merge(part)
            if not total.state.rows:
                raise self._empty(TRAIN)
            check_joins(self.reader.sides, total.matched, total.rows, self._example)
        self._finish(total)
        return total.classes

    def _finish(self, total: Fitted) -> None:
        """Fit the transforms to what training rows gave; those of the items to the items that the vocabulary holds."""
        encoder, recipe, state = self.encoder, self.recipe, total.state

        def finish(state: FitState) -> None:
            if recipe.like:
                self.grown |= encoder.grow(state)
            else:
                encoder.finish(state)

        if encoder.item_id is not None:
            finish(state.pop(encoder.item_id))
            self.item_rows = item_rows(recipe, self.raw, total.items, encoder)
            encoder.fit_items(state, self.item_rows.parsed)
        finish(state)

    def _items(self) -> Items | None:
        """Return the schema's description of the items."""
        recipe, encoder = self.recipe, self.encoder
        if recipe.items is None:
            return None
        exclude = None if recipe.history is None else recipe.history.exclude
        return Items(recipe.items.id, encoder.item_features, exclude, tuple(recipe.items.lists))

    def _settle(self, counts: tuple[int | None, ...]) -> None:
        """Hold the rows of every split to the classes that training has."""
        labels: tuple[LabelSpec, ...] = tuple(
            spec.model_copy(update={"num_classes": count})
            for spec, count in zip(self.recipe.labels, counts, strict=True)
        )
        settled = self.recipe.model_copy(update={"labels": labels})
        self.reader = dataclasses.replace(self.reader, recipe=settled)

    def _encode(self, encoder: Encoder, schema: Schema) -> Encoded:
        task = EncodeTask(self.reader, encoder, schema, self.staging, self.buckets)
        total = Encoded(self.recipe, schema)
        for part in self._over("encoding", task, list(enumerate(self.tasks)), self._sizes(self.tasks)):
            total.merge(part)
        self.bad += total.bad
        for name in sorted(self.recipe.splits, key=lambda name: name != TRAIN):
            if not total.splits[name].rows:
                raise self._empty(name, min_length=not any(part.rows for part in total.splits.values()))
        return total

    def _cluster(self, schema: Schema) -> None:
        recipe = self.recipe
        assert schema.group is not None
        cluster = Cluster(
            self.work / "clusters",
            self.staging,
            schema.group,
            self.reader.files,
            recipe.row_group_rows,
            recipe.shard_rows,
        )
        items = [(split, bucket) for split in recipe.folders for bucket in range(self.buckets)]
        for _ in self._over("groups", cluster, items, [self.bucket_bytes // len(recipe.folders)] * len(items)):
            pass

    def _check_shards(self, encoded: Encoded) -> None:
        for name, total in encoded.splits.items():
            rows = number_shards(self.staging / name)
            if rows != total.rows:  # other hosts wrote into folders of their own
                raise DataError(
                    f"the shards of split '{name}' are not all in {self.staging}",
                    expected=f"{total.rows} rows",
                    got=rows,
                    hint="On several hosts 'out' must be a folder that all of them share.",
                )

    def _empty(self, name: str, *, min_length: bool = True) -> DataError:
        split, history = self.recipe.split, self.recipe.history
        times = self._times() if isinstance(split, ByTime) else None
        least = history.min_length if history is not None and min_length else 0
        return empty_split(split, name, times=times, bad=self.bad, min_length=least, where=self.recipe.where)

    def _example(self, column: str) -> Any:
        """Return a value of a column of the rows; None where there is none."""
        for raw, _ in self.reader.joined(self.tasks[0]):
            for value in raw.table[column].drop_null():
                return value.as_py()
        return None


def _block(rows: pa.Table, schema: Schema) -> Block:
    return stack(rows, looked_at(schema), targets=True, where="the sample")
