"""A trained model that takes raw values from memory."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from rechub_ray.checkpoint import read
from rechub_ray.device import pick_device
from rechub_ray.models.base import Model
from rechub_ray.preparation.rows import SideTable
from rechub_ray.runtime.frames import PLACE, WHERE, in_file, names_in, with_index
from rechub_ray.runtime.inference import open_checkpoint, rows_schema
from rechub_ray.runtime.predictions import Scorer, served_columns
from rechub_ray.runtime.raw_files import RawForm, encoded, split_settings

if TYPE_CHECKING:
    from rechub_ray.runtime.recommend import Recommender


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
        if history is not None and set(history.names) <= set(names_in(data)):
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
