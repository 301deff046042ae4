"""A trained model that takes raw values from memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.checkpoint import read
from rechub_ray.device import pick_device
from rechub_ray.errors import DataError
from rechub_ray.models.base import Model
from rechub_ray.preparation.rows import SideTable
from rechub_ray.runtime.inference import open_checkpoint, rows_schema, split_settings
from rechub_ray.runtime.predictions import Scorer, served_columns
from rechub_ray.runtime.raw_files import RawForm, encoded

if TYPE_CHECKING:
    from rechub_ray.runtime.recommend import Recommender

PLACE = "row of the frame"
WHERE = "the frame"
_GROUP_ROWS = 65_536


class Predictor:
    """A run's best model with the transforms of its data: raw values in, predictions out.

    Args:
        path: a run's folder (its best checkpoint), or one checkpoint.
        overrides: as for `rechub_ray.predict` with raw files.
        model: the model in place of the one that is saved there, whose other weights it has.

    Attributes:
        model: the model, in evaluation mode unless it was given.
        columns: the raw columns that it reads, without those that side tables and histories bring.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: its run keeps no transforms.

    Example:
        >>> rechub_ray.load("runs/demo").predict(frame)["probability"]  # doctest: +SKIP
    """

    def __init__(
        self, path: str | Path, *, overrides: Sequence[str] | dict[str, Any] = (), model: Model | None = None
    ) -> None:
        self._path = path
        changes, settings = split_settings(overrides, raw=True)
        self._settings = settings
        saved, self._config, _ = open_checkpoint(path, changes)
        # what is not in memory is not asked for: every row of a frame has a prediction
        settings = {"where": "", **settings, "format.type": "parquet"}
        self._form = RawForm.of(
            saved,
            self._config,
            [f"{WHERE}.parquet"],
            schema=rows_schema(saved, self._config),
            keep=[PLACE],
            settings=settings,
        )
        self._schema = saved.schema
        self.model: Model = read(saved.path).build_model() if model is None else model
        if model is None:
            self.model.predictor = RawPredictions(path)
        self.columns = self._form.recipe.input_columns

    def predict(self, data: pd.DataFrame | pa.Table, *, probabilities: bool = True) -> pd.DataFrame:
        """Return the predictions of rows of raw values, as `rechub_ray.predict` writes them.

        Side tables of the recipe are joined. Where the recipe makes histories, they are made of the rows of `data`,
        unless this has their column itself.

        Args:
            data: one column for each of `columns`; more are left out.
            probabilities: binary labels' predictions are probabilities; False gives logits.

        Returns:
            A row for each of `data`, with its index.

        Raises:
            DataError: a column is missing, or a value cannot be read; names column and row (from 1).
        """
        recipe = self._form.recipe
        history = recipe.history
        if history is not None and set(history.names) <= set(_names(data)):
            recipe = recipe.model_copy(update={"history": None})
        with (
            tempfile.TemporaryDirectory(prefix="rechub-") as folder,
            in_file(data, folder, recipe.input_columns) as path,
        ):
            file = recipe.files[""][0].model_copy(update={"path": path})
            recipe = recipe.model_copy(update={"files": {"": (file,)}})
            found = self._predicted(dataclasses.replace(self._form, recipe=recipe), Path(folder), probabilities)
        return with_index(found, data)

    def recommend(self, data: pd.DataFrame | pa.Table, k: int = 100, *, exclude: str | None = None) -> pd.DataFrame:
        """Return the items of the largest scores of users, from the files of the run's export.

        Args:
            data: as for `Recommender.recommend`.
            k: how many items, >= 1.
            exclude: as for `rechub_ray.recommend`.

        Raises:
            RechubError: as for `Recommender`.
        """
        return self._recommender.recommend(data, k, exclude=exclude)

    @functools.cached_property
    def _recommender(self) -> Recommender:
        from rechub_ray.runtime.recommend import Recommender

        return Recommender(self._path, overrides=self._settings)

    def _predicted(self, form: RawForm, folder: Path, probabilities: bool) -> pa.Table:
        rows, scorer = form.rows(self._sides), self._scorer(probabilities)
        if rows.by_user:
            rows = dataclasses.replace(rows, buckets=1)
            rows, _ = rows.together(folder / "histories", folder / "quarantine", use_ray=False)
        tables = [
            pa.table({**kept, **scorer(block)})
            for task in rows.tasks
            if task is not None
            for block, kept, _ in encoded(rows.reader, task, form.encoder, form.schema)
            if block is not None
        ]
        nothing = {
            PLACE: pa.array([], pa.int64()),
            **{item.name: pa.array([], pa.float32()) for item in scorer.columns},
        }
        return pa.concat_tables(tables) if tables else pa.table(nothing)

    @functools.cached_property
    def _sides(self) -> tuple[SideTable, ...]:
        return self._form.sides()

    def _scorer(self, probabilities: bool) -> Scorer:
        columns = served_columns(self._schema, self._config, self.model.outputs, probabilities=probabilities)
        return Scorer(self.model, columns, self._config, pick_device(self._config.train.device))


def load(path: str | Path, *, overrides: Sequence[str] | dict[str, Any] = ()) -> Predictor:
    """Return the best model of a run, or the one of a checkpoint, with the transforms of its data; see `Predictor`."""
    return Predictor(path, overrides=overrides)


class RawPredictions:
    """The `predictor` of a model: predictions of raw values by its weights and the transforms of a run.

    Args:
        path: the run's folder, or one of its checkpoints.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._made: Predictor | None = None

    def __call__(self, model: Model, data: Any) -> pd.DataFrame:
        if self._made is None:
            self._made = Predictor(self._path, model=model)
        self._made.model, was_training = model, model.training
        try:
            model.eval()
            return self._made.predict(data)
        finally:
            model.train(was_training)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_made": None}  # a copy of the model reads the transforms again


@contextlib.contextmanager
def in_file(data: pd.DataFrame | pa.Table, folder: str, wanted: Sequence[str] | None = None) -> Iterator[str]:
    """Yield the path of a parquet file with rows from memory and their numbers; errors about it speak of the frame.

    Args:
        data: the rows.
        folder: for the file.
        wanted: the columns that are written, where they are there; None for all.

    Raises:
        DataError: a column holds values of several kinds, or the block raised one.
    """
    table = _table(data, set(_names(data)) if wanted is None else set(wanted))
    table, path = table.append_column(PLACE, pa.array(np.arange(table.num_rows))), f"{folder}/{WHERE}.parquet"
    pq.write_table(table, path, row_group_size=_GROUP_ROWS)
    try:
        yield path
    except DataError as error:
        raise DataError(
            error.message.replace(path, WHERE), expected=error.expected, got=error.got, hint=error.hint
        ) from None


def with_index(found: pa.Table, data: pd.DataFrame | pa.Table) -> pd.DataFrame:
    """Return what was made of the rows of `in_file` in their order, with their index."""
    found = found.sort_by(PLACE)
    index = pd.RangeIndex(data.num_rows) if isinstance(data, pa.Table) else data.index
    result: pd.DataFrame = found.drop_columns([PLACE]).to_pandas()
    return result.set_axis(index.take(found[PLACE].to_numpy()), axis=0)


def _names(data: pd.DataFrame | pa.Table) -> Sequence[str]:
    return data.column_names if isinstance(data, pa.Table) else list(data.columns)


def _table(data: pd.DataFrame | pa.Table, wanted: set[str]) -> pa.Table:
    """Return the columns of `data` that are read, as Arrow has them.

    Raises:
        DataError: a column holds values of several kinds, or none that a file could hold.
    """
    if isinstance(data, pa.Table):
        return data.select([name for name in data.column_names if name in wanted])
    try:
        return pa.Table.from_pandas(data[[name for name in data.columns if name in wanted]], preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"{WHERE} has a column that cannot be read", got=str(error).split("\n")[0], hint="Give it one type."
        ) from None
