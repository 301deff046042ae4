"""`prepare`: raw logs in, encoded parquet shards, schema, fitted transforms and a report out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import absolute, check_writable, exists, is_uri, join, open_filesystem, reason, write_text
from rechub_ray.preparation import histories
from rechub_ray.preparation.encoder import Encoder, FitState
from rechub_ray.preparation.forms import ByTime
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.rows import RowReader, SideTable, group_name, row_id_name
from rechub_ray.preparation.runner import RAY_BYTES, ray_is_up, run
from rechub_ray.preparation.sketch import Quantiles
from rechub_ray.preparation.sources import Source, Task, plan
from rechub_ray.preparation.splits import fitted_starts, given_starts
from rechub_ray.preparation.statistics import SplitStatistics
from rechub_ray.preparation.writer import Quarantine, ShardWriter, number_shards
from rechub_ray.schema import Label, Schema


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """What `prepare` made: the folder or URI, its schema, the statistics as in stats.json, and how long it took."""

    out: str
    schema: Schema
    stats: dict[str, Any]
    seconds: float


def prepare(recipe: Recipe | str | Path | Mapping[str, Any], *, use_ray: bool | None = None) -> PrepareResult:
    """Encodes raw logs.

    Two passes over the raw files: the first fits vocabularies, means and quantiles on the training split, the second
    encodes every row and writes shards. Both take the files in tasks of about 64 MB, block by block, so memory does
    not grow with the number of rows. It grows with the number of different values in columns that have a vocabulary
    (hash those past some tens of millions), with the side tables, and with the largest user where rows are brought
    together by user; that adds a pass which deals the rows into bucket files beside `out`.

    Args:
        recipe: a recipe, its YAML file, or its mapping.
        use_ray: run the tasks as a Ray Data pipeline; None does when a cluster is up or the input is large.
            The result is the same, bit for bit. On several machines `out` must lie on a filesystem they share.

    Raises:
        ConfigError: the recipe is wrong, or `out` exists.
        DataError: a file, column or row is wrong; names it. Nothing is left behind.
    """
    started = time.monotonic()
    if isinstance(recipe, str | Path):
        recipe = Recipe.load(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.from_dict(recipe)
    if not recipe.out:
        raise ConfigError("'out' is missing", expected="the folder to write", hint="Give out=DIR.")
    # reading tasks may run in other processes, which do not share this one's working folder
    recipe = recipe.model_copy(update={"source": absolute(recipe.source), "out": absolute(recipe.out)})
    _check_free(recipe)
    with _staging(recipe.out) as staging:
        schema, stats = _prepare(recipe, staging, use_ray)
        shutil.rmtree(staging / "work", ignore_errors=True)
        _put_in_place(staging, recipe.out)
    return PrepareResult(recipe.out, schema, stats, time.monotonic() - started)


def _check_free(recipe: Recipe) -> None:
    filesystem, root = open_filesystem(recipe.out)
    if exists(filesystem, root):
        raise ConfigError(f"'out': {recipe.out} is a file", expected="a folder that does not exist yet")
    if filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True)):
        if not recipe.overwrite:
            raise ConfigError(
                f"'out': {recipe.out} exists already", hint="Choose another folder, or set overwrite=true."
            )
        if not exists(filesystem, f"{root}/schema.json"):
            raise ConfigError(
                f"'out': {recipe.out} is not a prepared data set, so it is not overwritten",
                hint="Remove it yourself first.",
            )
    check_writable(recipe.out, what="'out'")


@contextlib.contextmanager
def _staging(out: str) -> Iterator[Path]:
    """Where everything is made first: beside `out`, or in a temporary folder where that is remote."""
    if is_uri(out):
        with tempfile.TemporaryDirectory(prefix="preparing-") as folder:
            yield Path(folder)
        return
    staging = Path(out).with_name(f".{Path(out).name}.preparing-{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, out: str) -> None:
    if not is_uri(out):
        old = Path(out).with_name(f".{Path(out).name}.old-{os.getpid()}")
        if os.path.exists(out):
            os.rename(out, old)
        staging.rename(out)
        shutil.rmtree(old, ignore_errors=True)
        return
    filesystem, root = open_filesystem(out)
    schema = staging / "schema.json"
    text = schema.read_text(encoding="utf-8")
    schema.unlink()
    try:
        if exists(filesystem, f"{root}/schema.json"):
            filesystem.delete_file(f"{root}/schema.json")
            filesystem.delete_dir_contents(root)
        pafs.copy_files(str(staging), root, destination_filesystem=filesystem)
        write_text(join(out, "schema.json"), text)  # the last one: without it there is no data set
    except OSError as error:
        raise DataError(f"cannot write into '{out}'", got=reason(error)) from None


def _prepare(recipe: Recipe, staging: Path, use_ray: bool | None) -> tuple[Schema, dict[str, Any]]:
    source = Source.open(recipe.source)
    source.verify(recipe.checksums, recipe.url)
    tasks = plan(source, recipe.files, recipe.format, recipe.input_columns)
    files = tuple(dict.fromkeys(task.file for task in tasks))
    if use_ray is None:
        use_ray = ray_is_up() or sum(source.size(file) for file in files) >= RAY_BYTES
    sides = tuple(SideTable.read(source, join) for join in recipe.joins)
    reader = RowReader(source, recipe, files, sides)
    dealt_bad = 0
    if recipe.by_user:
        tasks, dealt_bad = _by_user(recipe, source, tasks, files, staging, use_ray)
        reader = dataclasses.replace(reader, source=histories.local(), grouped=True)
    if isinstance(recipe.split, ByTime):
        reader = dataclasses.replace(reader, starts=tuple(_starts(recipe.split, reader, tasks, use_ray)))

    encoder = _fit(reader, tasks, use_ray)
    labels = tuple(Label(label.name, label.kind) for label in recipe.labels)
    schema = Schema(encoder.features, labels, group_name(recipe), recipe.weight, row_id_name(recipe))
    splits, bad = _encode(reader, tasks, encoder, schema, staging, use_ray)

    if not splits[TRAIN].rows:
        raise DataError("the training split has no rows", hint="Check 'split', 'files' and 'on_bad_rows'.")
    stats = {
        "splits": {name: numbers.to_dict(schema.features, schema.labels) for name, numbers in splits.items()},
        "bad_rows": bad + dealt_bad,
    }
    schema.save(staging / "schema.json")
    encoder.save(staging)
    (staging / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    (staging / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return schema, stats


def _by_user(
    recipe: Recipe, source: Source, tasks: list[Task], files: tuple[str, ...], staging: Path, use_ray: bool
) -> tuple[list[Task], int]:
    """Tasks over files in which each user's rows lie together, and how many rows were bad."""
    folder = staging / "work"
    folder.mkdir()
    buckets = histories.bucket_count(source, tasks)
    deal = histories.Deal(source, recipe, files, folder, staging / "quarantine", buckets)
    bad = sum(run(deal, list(enumerate(tasks)), use_ray=use_ray))
    gathered = run(histories.Gather(recipe, folder), list(range(buckets)), use_ray=use_ray)
    result = []
    for path in filter(None, gathered):
        file = pq.ParquetFile(path)
        names, groups = tuple(file.schema_arrow.names), tuple(range(file.num_row_groups))
        result.append(Task(path, row_groups=groups, names=names))
    return result, bad


def _starts(split: ByTime, reader: RowReader, tasks: list[Task], use_ray: bool) -> list[float]:
    if split.starts is not None:
        return given_starts(split)
    times = Quantiles()
    for part in run(reader.times, tasks, use_ray=use_ray):
        times.merge(part)
    if not len(times.values):
        raise DataError(f"column '{split.column}' holds no time in any row")
    return fitted_starts(split, times)


@dataclasses.dataclass(frozen=True)
class _FitTask:
    reader: RowReader
    encoder: Encoder

    def __call__(self, task: Task) -> FitState:
        recipe = self.reader.recipe
        train = recipe.splits.index(TRAIN)
        state = self.encoder.fit_state()
        quarantine = Quarantine(Path(), "error" if recipe.on_bad_rows == "error" else "skip")
        for rows in self.reader.ready(task, self.encoder):
            quarantine.add(rows.bad)
            mine = rows.codes == train
            state.rows += int(mine.sum())
            if mine.all():
                self.encoder.fit(state, rows.parsed)
            elif mine.any():
                keep = pa.array(mine)
                self.encoder.fit(state, {name: values.filter(keep) for name, values in rows.parsed.items()})
        return state


def _fit(reader: RowReader, tasks: list[Task], use_ray: bool) -> Encoder:
    encoder = Encoder(reader.recipe.features)
    total = encoder.fit_state()
    if total.parts:
        train_files = [
            task for task in tasks if not task.split or task.split == TRAIN or reader.recipe.on_bad_rows == "error"
        ]
        for state in run(_FitTask(reader, encoder), train_files, use_ray=use_ray):
            total.merge(state)
        encoder.finish(total)
    return encoder


@dataclasses.dataclass(frozen=True)
class _EncodeTask:
    reader: RowReader
    encoder: Encoder
    schema: Schema
    staging: Path

    def __call__(self, item: tuple[int, Task]) -> tuple[dict[str, SplitStatistics], int]:
        number, task = item
        recipe = self.reader.recipe
        columns = self.schema.columns
        statistics = {name: SplitStatistics() for name in recipe.splits}
        writers = {
            name: ShardWriter(self.staging / name, number, recipe.row_group_rows, recipe.shard_rows)
            for name in recipe.splits
        }
        with Quarantine(self.staging / "quarantine" / f"part-{number:05d}.jsonl", recipe.on_bad_rows) as quarantine:
            for rows in self.reader.ready(task, self.encoder):
                quarantine.add(rows.bad)
                table = pa.table({**self.encoder.encode_parsed(rows.parsed), **rows.others}).select(columns)
                for code in np.unique(rows.codes).tolist():
                    name, mine, parsed = recipe.splits[code], table, rows.parsed
                    if not (rows.codes == code).all():
                        keep = pa.array(rows.codes == code)
                        mine = table.filter(keep)
                        parsed = {key: values.filter(keep) for key, values in parsed.items()}
                    writers[name].add(mine)
                    statistics[name].add(self.schema.features, self.schema.labels, parsed, mine)
            for writer in writers.values():
                writer.close()
        return statistics, quarantine.rows


def _encode(
    reader: RowReader, tasks: list[Task], encoder: Encoder, schema: Schema, staging: Path, use_ray: bool
) -> tuple[dict[str, SplitStatistics], int]:
    work: Callable[[tuple[int, Task]], tuple[dict[str, SplitStatistics], int]]
    work = _EncodeTask(reader, encoder, schema, staging)
    totals = {name: SplitStatistics() for name in reader.recipe.splits}
    bad = 0
    for statistics, wrong in run(work, list(enumerate(tasks)), use_ray=use_ray):
        bad += wrong
        for name, part in statistics.items():
            totals[name].merge(part)
    for name, total in totals.items():
        rows = number_shards(staging / name)
        if rows != total.rows:  # other hosts wrote into folders of their own
            raise DataError(
                f"the shards of split '{name}' are not all in {staging}",
                expected=f"{total.rows} rows",
                got=rows,
                hint="On several hosts 'out' must be a folder that all of them share.",
            )
    return totals, bad
