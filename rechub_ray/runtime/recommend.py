"""Items for users, from the files that `export` writes of a model for retrieval, and from nothing else."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.data.block import Array, Block
from rechub_ray.data.fingerprint import FILE, digest, is_there
from rechub_ray.data.reader import stack
from rechub_ray.errors import ConfigError, DataError, ExportError, nearest
from rechub_ray.export.search import LeftOut
from rechub_ray.export.served import ITEMS, NOTE, Served
from rechub_ray.files import absolute, is_uri, join, open_filesystem, read_text
from rechub_ray.preparation.columns import Use
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.forms import History
from rechub_ray.preparation.recipe import feature_uses
from rechub_ray.preparation.rows import ReadyRows
from rechub_ray.preparation.sources import BadRow, Task
from rechub_ray.preparation.values import to_lists
from rechub_ray.runtime.frames import PLACE, in_file, with_index
from rechub_ray.runtime.parts import Parts
from rechub_ray.runtime.raw_files import READING, RawForm, RawRows, ready, split_settings
from rechub_ray.schema import Schema

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from rechub_ray.config import RunConfig
    from rechub_ray.data.source import Reader
    from rechub_ray.world import World

Form: TypeAlias = Literal["lists", "rows"]
COLUMNS: dict[str, tuple[str, ...]] = {"lists": ("items", "scores"), "rows": ("item", "score", "rank")}
"""The columns of answers beside those that are kept."""
_SEEN = "__seen"
_BATCH = 1024


def recommend(
    run: str | Path,
    out: str | Path,
    *,
    users: str | Sequence[str],
    k: int = 100,
    keep: Sequence[str] | None = None,
    exclude: str | None = None,
    form: Form = "lists",
    exact: bool = False,
    overrides: Sequence[str] | dict[str, Any] = (),
) -> int:
    """Write the `k` items of the largest scores of each user as parquet files `part-<number>.parquet`.

    A command that was killed goes on when it is given again: whole parts stay.

    Args:
        run: a run's folder, whose `serving` is read, or a folder with such files; a path or URI.
        out: folder or URI for the answers.
        users: raw files (paths, folders, globs, URIs), read as `prepare` reads them. Each row is a user where the files
            have the list columns of the recipe's history; else they are logs, of which a user's rows make one, by user.
        k: how many items, >= 1.
        keep: raw columns to carry along; None takes that of the user, where it is read anyway.
        exclude: a list of items that a user is not given: the name of a list feature or of a list column. Of logs the
            history's name stands for all rows of the user.
        form: `lists` has a row a user, `rows` a row an item, with its rank from 1.
        exact: leave an index out.
        overrides: keys of the recipe that say how rows are read (`format.type`, `history`, `where`, ...), and
            `scaling.*` (`scaling.num_workers=4`), where workers do it that share `run`, `out` and `users`.

    Returns:
        Rows written.

    Raises:
        ConfigError: an argument is wrong, `out` holds other answers, or the run is of no model for retrieval.
        ExportError: the files are not there, do not belong together, or need faiss, which is not installed.
        DataError: a file is damaged, or a users' file, column or row cannot be used.
    """
    from rechub_ray.runtime.inference import launch, write_all  # imports PyTorch, which answers in memory do without

    run, out = absolute(str(run)), absolute(str(out))  # workers do not share the driver's working folder
    config, overrides = _split(overrides)
    recommender = Recommender(run, exact=exact, overrides=overrides)
    recommender.check(k, exclude)
    if form not in COLUMNS:
        raise ConfigError("'form'", expected=" or ".join(COLUMNS), got=repr(form))
    for name in COLUMNS[form]:
        if name in (keep or ()):
            raise ConfigError(f"--keep: '{name}' is the name of a column of the answers", hint="Rename it in the data.")
    asked = recommender.asked([users] if isinstance(users, str) else list(users), keep=keep, exclude=exclude)
    served = recommender.served
    about = {"model": digest(read_text(join(served.folder, NOTE))), "--k": k, "--exclude": exclude, "--as": form}
    about |= {"--exact": exact, **asked.rows.about()}

    def write(rows: RawRows, parts: Parts) -> None:
        job = RecommendJob(run, exact, dataclasses.replace(asked, rows=rows), parts, k, form)
        if config.scaling.num_workers:
            launch(_write_share, job, config)
        else:
            _write_parts(job, recommender, parts.missing)

    return write_all(out, asked.rows.parts, about, asked.rows, write, scaling=config.scaling)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Users, and what their rows hold beside the features.

    Args:
        rows: the rows.
        keep: columns to carry along.
        exclude: where the items stand that a user is not given: a feature, a column of the rows, or `__seen` for the
            list that is made of logs; None where they are given any.
    """

    rows: RawRows
    keep: tuple[str, ...]
    exclude: str | None


@dataclasses.dataclass(frozen=True)
class RecommendJob:
    """The data that every worker needs to answer users.

    Args:
        run: the folder with the files.
        exact: leave an index out.
        asked: the users.
        parts: where the answers go.
        k: how many items.
        form: as for `recommend`.
    """

    run: str
    exact: bool
    asked: Asked
    parts: Parts
    k: int
    form: Form


def _write_share(
    job: RecommendJob, *, world: World, device: torch.device, reader: Reader, hooks: Any = None
) -> dict[str, Any]:
    """Write this worker's share of the parts that are missing."""
    _write_parts(job, Recommender(job.run, exact=job.exact), job.parts.missing[world.rank :: world.size])
    return {}


def _write_parts(job: RecommendJob, recommender: Recommender, numbers: Sequence[int]) -> None:
    for number in numbers:
        task = job.asked.rows.tasks[number]
        job.parts.write(number, iter(()) if task is None else recommender.answers(job.asked, task, job.k, job.form))


def _split(overrides: Sequence[str] | dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """Return the workers' part of overrides, as that of a run, and the others."""
    from rechub_ray import config as config_module

    changes, settings = split_settings(overrides, raw=True)
    of_workers = {key: value for key, value in changes.items() if key.partition(".")[0] == "scaling"}
    others = {key: value for key, value in changes.items() if key not in of_workers}
    return config_module.load({"model": "mf"}, of_workers), {**others, **settings}


class Recommender:
    """A model for retrieval as files: raw values of users in, items out.

    Args:
        path: a run's folder, whose `serving` is read, or a folder with such files; a path or URI.
        exact: leave an index out.
        overrides: as for `rechub_ray.recommend`.

    Attributes:
        served: the files.

    Raises:
        ConfigError: the run is of no model for retrieval, or keeps no transforms.
        ExportError: the files are not there, do not belong together, or need faiss, which is not installed.
        DataError: a file is missing or damaged.

    Example:
        >>> rechub_ray.Recommender("runs/demo").recommend(frame, k=10)["items"]  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, *, exact: bool = False, overrides: Sequence[str] | dict[str, Any] = ()
    ) -> None:
        changes, self._settings = split_settings(overrides, raw=True)
        for key in changes:
            raise ConfigError(f"'{key}' is not read by `recommend`", expected=f"one of: {', '.join(READING)}")
        self.served = Served.read(str(path), exact=exact)
        folder = self.served.folder
        if not is_there(join(folder, FILE)):
            raise ConfigError(
                f"{folder} has no transforms, so raw values of users cannot be encoded",
                expected=f"{FILE}, which `rechub-ray export` copies of runs on data of `rechub-ray prepare`",
                hint="The towers take encoded values.",
            )
        self._encoder = Encoder.load(folder)
        self._schema = dataclasses.replace(self.served.schema.user_side, row_id=None)
        self._tower = _Tower(self.served, self._encoder.only(self._schema.feature_names), self._schema)

    def recommend(self, data: pd.DataFrame | pa.Table, k: int = 100, *, exclude: str | None = None) -> pd.DataFrame:
        """Return the items of the largest scores of users.

        Args:
            data: a user a row, with the list columns of the recipe's history; else a log, of which a user's rows make
                one.
            k: how many items, >= 1.
            exclude: as for `rechub_ray.recommend`.

        Returns:
            Columns `items` and `scores`, lists in descending order of the scores; a row for each of `data` with its
            index, of a log for the last one of each user.

        Raises:
            ConfigError: an argument is wrong.
            DataError: a column is missing, or a value cannot be read; names column and row (from 1).
        """
        self.check(k, exclude)
        with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
            with in_file(data, folder) as path:
                asked = self.asked([path], keep=[PLACE], exclude=exclude)
                if asked.rows.by_user:
                    alone = dataclasses.replace(asked.rows, buckets=1)
                    together, _ = alone.together(Path(folder, "histories"), Path(folder, "quarantine"), use_ray=False)
                    asked = dataclasses.replace(asked, rows=together)
                tasks = [task for task in asked.rows.tasks if task is not None]
                found = [table for task in tasks for table, _ in self.answers(asked, task, k) if table is not None]
            nothing = {PLACE: pa.array([], pa.int64())} | {name: pa.array([], pa.null()) for name in COLUMNS["lists"]}
            return with_index(pa.concat_tables(found) if found else pa.table(nothing), data)

    def check(self, k: int, exclude: str | None) -> None:
        """Check arguments of a call.

        Raises:
            ConfigError: more items are asked for than there are, or what is to be left out is a list of something else.
        """
        items = len(self.served.ids)
        if isinstance(k, bool) or not 1 <= k <= items:
            raise ConfigError("'k', the number of items", expected=f"1 to {items:,}, as many as {ITEMS} has", got=k)
        if exclude is not None and exclude in self._schema.feature_names and exclude not in self._lists():
            raise ConfigError(
                f"'exclude': '{exclude}' is no list of items", expected=", ".join(self._lists()) or "a list column"
            )

    def asked(self, files: Sequence[str], *, keep: Sequence[str] | None, exclude: str | None) -> Asked:
        """Return the users of raw files.

        Args:
            files: paths, folders, globs or URIs.
            keep: as for `rechub_ray.recommend`.
            exclude: as for `rechub_ray.recommend`.

        Raises:
            ConfigError: the recipe is not known, or a setting is wrong.
            DataError: a file or column is missing, or of a type that its use cannot take.
        """
        served = self.served
        form = RawForm.by(
            served.folder,
            served.recipe,
            served.schema,
            files,
            schema=self._schema,
            keep=keep or (),
            settings=self._settings,
            encoder=self._encoder,
        )
        form = dataclasses.replace(form, more=tuple(feature_uses(form.encoder.specs)) if served.is_raw else ())
        try:
            return self._read(form, keep, exclude)
        except DataError as error:
            known = self._known_lists(form.recipe.history)
            if exclude is None or exclude in known or f"no column '{exclude}'" not in error.message:
                raise
            raise ConfigError(
                f"'exclude': there is no list '{exclude}'",
                expected=f"{', '.join(known)}, or a list column of the files"
                if known
                else "a list column of the files",
                hint=nearest(exclude, known),
            ) from None

    def _known_lists(self, history: History | None) -> list[str]:
        """Return the lists of items that have names without the files: features, and what is made of logs."""
        items = self.served.schema.items
        made = [history.name] if history is not None else []
        seen = [items.exclude] if items is not None and items.exclude is not None else []
        return list(dict.fromkeys([*self._lists(), *made, *seen]))

    def _read(self, form: RawForm, keep: Sequence[str] | None, exclude: str | None) -> Asked:
        """Return the users of files, whose rows hold their history, or are logs."""
        history = form.recipe.history
        if history is None:
            return self._planned(form, None, keep, exclude)
        try:
            return self._planned(form.headed(history.names, self._settings), None, keep, exclude)
        except DataError as error:
            if not _lacks_a_column(error):
                raise
            of_lists = error
        needed = [history.items] if history.items is not None else [history.user, *history.columns.values()]
        of_logs = [repr(name) for name in dict.fromkeys(needed)]
        try:
            return self._planned(form, history, keep, exclude)
        except DataError as error:
            if not _lacks_a_column(error) or not any(name in error.message for name in of_logs):
                raise
        lists = [repr(name) for name in history.names]
        if not any(name in of_lists.message for name in lists):
            raise of_lists
        raise DataError(
            of_lists.message,
            expected=f"users with their history, {', '.join(lists)}; or a log, with {', '.join(of_logs)}",
            got=of_lists.got,
        )

    def _planned(
        self, form: RawForm, history: History | None, keep: Sequence[str] | None, exclude: str | None
    ) -> Asked:
        """Return the users of files whose rows hold their history (None), or of logs that it is made of."""
        recipe, seen = form.recipe, exclude
        made = recipe.history
        if history is not None:
            assert self.served.schema.items is not None
            if exclude is not None and exclude in (history.name, self.served.schema.items.exclude):
                seen = _SEEN
            history = history.model_copy(update={"rows": "latest", "exclude": _SEEN if seen == _SEEN else None})
        elif "where" not in self._settings:  # it chooses rows of logs
            recipe = recipe.model_copy(update={"where": ""})
        if seen is not None and seen != _SEEN and seen not in self._schema.feature_names:
            form = dataclasses.replace(form, more=(*form.more, Use(seen, "'exclude'", "list")))
        user = None if made is None else made.user
        if keep is None and user is not None and (history is not None or user in form.encoder.columns):
            form = dataclasses.replace(form, keep=(user,))
        form = dataclasses.replace(form, recipe=recipe.model_copy(update={"history": history}))
        return Asked(form.rows(), form.keep, seen)

    def _lists(self) -> list[str]:
        """Return the sequence features that hold items."""
        schema = self.served.schema
        assert schema.items is not None
        return [feature.name for feature in schema.sequences if feature.shared_with == schema.items.id]

    def answers(
        self, asked: Asked, task: Task, k: int, form: Form = "lists"
    ) -> Iterator[tuple[pa.Table | None, list[BadRow]]]:
        """Yield the answers of a task's rows in blocks, and the rows that cannot be used.

        Args:
            asked: the users.
            task: some of their rows.
            k: how many items.
            form: as for `rechub_ray.recommend`.

        Raises:
            DataError: the file is damaged, or a row is bad and `on_bad_rows` is `error`.
            ExportError: the user tower gives numbers that are not finite.
        """
        for rows in ready(asked.rows.reader, task, self._tower.encoder):
            count = len(rows.codes)
            if not count:
                yield None, rows.bad
            for start in range(0, count, _BATCH):
                yield (
                    self._answered(asked, _some(rows, start, min(start + _BATCH, count)), k, form),
                    rows.bad if start == 0 else [],
                )

    def _answered(self, asked: Asked, rows: ReadyRows, k: int, form: Form) -> pa.Table:
        vectors = self._tower(rows)
        found = self.served.search(vectors, k, self._left_out(asked, rows))
        there = found.places >= 0
        lengths, keys = there.sum(1), self.served.keys.take(pa.array(found.places[there]))
        scores = pa.array(found.scores[there])
        kept = {name: rows.others[name] for name in asked.keep}
        if form == "lists":
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            lists = [pa.ListArray.from_arrays(offsets, values) for values in (keys, scores)]
            return pa.table({**kept, **dict(zip(COLUMNS[form], lists, strict=True))})
        owners = pa.array(np.repeat(np.arange(len(lengths)), lengths))
        ranks = pa.array((np.nonzero(there)[1] + 1).astype(np.int32))
        kept = {name: values.take(owners) for name, values in kept.items()}
        return pa.table({**kept, **dict(zip(COLUMNS[form], (keys, scores, ranks), strict=True))})

    def _left_out(self, asked: Asked, rows: ReadyRows) -> LeftOut | None:
        """Return the items that the users of some rows are not given."""
        if asked.exclude is None:
            return None
        if asked.exclude == _SEEN:
            lists = rows.lists[_SEEN]
        elif asked.exclude in rows.parsed:
            lists = rows.parsed[asked.exclude]
        else:
            lists = to_lists(rows.others[asked.exclude], None, asked.exclude)
        ids, known = self._encoder.item_ids(lists), self.served.ids
        values = ids.flatten().to_numpy().astype(np.int64)
        owners = np.repeat(np.arange(len(ids)), pc.list_value_length(ids).to_numpy(zero_copy_only=False))
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        there = known[places] == values
        pairs = np.unique(owners[there] * len(known) + places[there])
        return LeftOut(pairs // len(known), pairs % len(known))


class _Tower:
    """The user tower's ONNX file: rows in, vectors out.

    Args:
        served: has the file.
        encoder: of the features that it reads.
        schema: of these.
    """

    def __init__(self, served: Served, encoder: Encoder, schema: Schema) -> None:
        import onnxruntime

        self.encoder, self._schema, self._place = encoder, schema, served.tower
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model: str | bytes = served.tower
        if is_uri(served.tower):
            filesystem, inside = open_filesystem(served.tower)
            with filesystem.open_input_stream(inside) as stream:
                model = stream.read()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot load {served.tower}", got=" ".join(str(error).split())[:400]
            ) from None
        self._raw = None
        if served.is_raw:
            from rechub_ray.export.raw import RawInputs

            self._raw = RawInputs(encoder, schema, served.folder)
        names = {port.name for port in self._session.get_inputs()}
        own = set(schema.feature_names) if self._raw is None else {port.name for port in self._raw.ports}
        if names != own:
            raise ExportError(
                f"{served.tower} has other inputs than the features in {served.folder}",
                expected=", ".join(sorted(own)),
                got=", ".join(sorted(names)),
            )
        width, vectors = self._session.get_outputs()[0].shape[-1], served.search.vectors.shape[1]
        if isinstance(width, int) and width != vectors:
            raise ExportError(f"{served.tower} and {ITEMS} have vectors of two widths", got=f"{width} and {vectors}")

    def __call__(self, rows: ReadyRows) -> Array:
        """Return the vectors of users, (B, D) or (B, K, D).

        Raises:
            ExportError: a number is not finite.
        """
        vectors: Array = self._session.run(None, self._inputs(rows))[0]
        if not np.isfinite(vectors).all():
            raise ExportError(f"{self._place} gives vectors that are not finite", hint="Export another checkpoint.")
        return vectors

    def _inputs(self, rows: ReadyRows) -> dict[str, Array]:
        if self._raw is None:
            block = stack(pa.table(self.encoder.encode_parsed(rows.parsed)), self._schema, targets=False, where="users")
            return encoded_inputs(block, self._schema)
        from rechub_ray.export.raw_rows import fed, read_input

        table = pa.table({use.column: rows.others[use.column] for use in feature_uses(self.encoder.specs)})
        return {item.port.name: fed(item, read_input(item, table)) for item in self._raw.inputs}


def _some(rows: ReadyRows, start: int, stop: int) -> ReadyRows:
    places = pa.array(np.arange(start, stop))
    parsed, others, lists = (
        {name: values.take(places) for name, values in some.items()} for some in (rows.parsed, rows.others, rows.lists)
    )
    return dataclasses.replace(rows, parsed=parsed, others=others, lists=lists)


def _lacks_a_column(error: DataError) -> bool:
    return "no column" in error.message or "no row has" in error.message


def encoded_inputs(block: Block, schema: Schema) -> dict[str, Array]:
    """Return rows as the inputs of an ONNX file of encoded values: lists padded with -1, at least one number long."""
    inputs: dict[str, Array] = {}
    for column, feature in enumerate(schema.sparse):
        inputs[feature.name] = np.ascontiguousarray(block.sparse[:, column], np.int64)
    start = 0
    for column_of in schema.dense:
        values = np.ascontiguousarray(block.dense[:, start : start + column_of.dim], np.float32)
        inputs[column_of.name] = values[:, 0] if column_of.dim == 1 else values
        start += column_of.dim
    for sequence, lists in zip(schema.sequences, block.sequences, strict=True):
        lists = lists.trimmed()
        lengths = np.diff(lists.offsets)
        padded = np.full((block.rows, max(1, int(lengths.max(initial=0)))), -1, np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = lists.values
        inputs[sequence.name] = padded
    return inputs
