"""A trained model that takes raw values from memory."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

_PLACE = "row of the frame"
_WHERE = "the frame"
_GROUP_ROWS = 65_536


class Predictor:
    """A run's best model with the transforms of its data: raw values in, predictions out.

    Args:
        path: a run's folder (its best checkpoint), or one checkpoint.
        overrides: as for `rechub_ray.predict` with raw files.

    Attributes:
        model: the model, in evaluation mode.
        columns: the raw columns that it reads, without those that side tables and histories bring.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: its run keeps no transforms.

    Example:
        >>> rechub_ray.load("runs/demo").predict(frame)["probability"]  # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, overrides: Sequence[str] | dict[str, Any] = ()) -> None:
        changes, settings = split_settings(overrides, raw=True)
        saved, self._config, _ = open_checkpoint(path, changes)
        # what is not in memory is not asked for: every row of a frame has a prediction
        settings = {"where": "", **settings, "format.type": "parquet"}
        self._form = RawForm.of(
            saved,
            self._config,
            [f"{_WHERE}.parquet"],
            schema=rows_schema(saved, self._config),
            keep=[_PLACE],
            settings=settings,
        )
        self._schema = saved.schema
        self.model: Model = read(saved.path).build_model()
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
        names = data.column_names if isinstance(data, pa.Table) else data.columns
        if history is not None and set(history.names) <= set(names):
            recipe = recipe.model_copy(update={"history": None})
        table = _table(data, set(recipe.input_columns))
        table = table.append_column(_PLACE, pa.array(np.arange(table.num_rows)))
        with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
            path = f"{folder}/{_WHERE}.parquet"
            pq.write_table(table, path, row_group_size=_GROUP_ROWS)
            file = recipe.files[""][0].model_copy(update={"path": path})
            recipe = recipe.model_copy(update={"files": {"": (file,)}})
            try:
                found = self._predicted(dataclasses.replace(self._form, recipe=recipe), Path(folder), probabilities)
            except DataError as error:
                raise DataError(
                    error.message.replace(path, _WHERE), expected=error.expected, got=error.got, hint=error.hint
                ) from None
        found = found.sort_by(_PLACE)
        index = pd.RangeIndex(table.num_rows) if isinstance(data, pa.Table) else data.index
        result: pd.DataFrame = found.drop_columns([_PLACE]).to_pandas()
        return result.set_axis(index.take(found[_PLACE].to_numpy()), axis=0)

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
            _PLACE: pa.array([], pa.int64()),
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
            f"{_WHERE} has a column that cannot be read", got=str(error).split("\n")[0], hint="Give it one type."
        ) from None
