"""A model whose features are given by name, until data says what they are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import exists, join, open_filesystem
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import DenseFeature, Feature, Label, LabelKind, Schema, SparseFeature


@dataclasses.dataclass
class Unbuilt:
    """A model of `MODELS` without its schema, which `build` finds in the training data.

    A prepared folder brings its own schema. Of other data, a column of whole numbers becomes a SparseFeature with one
    id more than the largest of training and validation, a column of other numbers a DenseFeature.

    Args:
        name: of the model.
        features: the columns to read.
        kinds: of the labels.
        task_names: the labels' columns; None takes the columns of a table that are no features, in its order, those of
            a prepared folder, those that the `label_names` of a DataLoader's data set says, or `task_0`, `task_1`, ...
        arguments: the model's.
        num_classes: one a label, None of a label that has no classes; None of all.

    Attributes:
        model: the model; None before `build`.
    """

    name: str
    features: list[str]
    kinds: tuple[LabelKind, ...]
    task_names: list[str] | None
    arguments: dict[str, Any]
    num_classes: Sequence[int | None] | None = None
    model: Model | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the model's parameters; there are none before `build`."""
        return iter(()) if self.model is None else self.model.parameters()

    def example(self) -> Model:
        """Return the model on a made-up schema, without weights.

        Raises:
            ConfigError: an argument is not valid.
        """
        names = self.task_names or [f"task_{i}" for i in range(len(self.kinds))]
        with torch.device("meta"):
            return self._of(Schema(tuple(SparseFeature(name, 2) for name in self.features), self._labels(names)))

    def build(self, train: Any, valid: Any = None) -> Model:
        """Return the model on the schema of the data, and keep it.

        Raises:
            ConfigError: the labels' columns cannot be told, or are of other kinds.
            DataError: a feature's column is missing, or holds no numbers.
        """
        self.model = self._of(self._schema(train, valid))
        return self.model

    def _of(self, schema: Schema) -> Model:
        return MODELS.build({"name": self.name, **self.arguments}, schema, where="model")

    def _labels(self, names: list[str]) -> tuple[Label, ...]:
        if len(names) != len(self.kinds):
            raise ConfigError(
                "the columns of the tasks cannot be told",
                expected=f"{len(self.kinds)} columns beside the features, or task_names=[...]",
                got=", ".join(names) or "none",
            )
        return labels_of(names, self.kinds, self.num_classes)

    def _schema(self, train: Any, valid: Any) -> Schema:
        if isinstance(train, str | os.PathLike):
            place = os.fspath(train)
            for folder in (place, os.path.dirname(place.rstrip("/"))):
                filesystem, root = open_filesystem(folder or ".")
                if exists(filesystem, f"{root}/schema.json"):
                    schema = Schema.load(join(folder or ".", "schema.json")).select(self.features, self.task_names)
                    if tuple(label.kind for label in schema.labels) != self.kinds:
                        raise ConfigError(
                            "the data's labels are not the model's tasks",
                            expected=", ".join(self.kinds),
                            got=", ".join(f"{label.name}: {label.kind}" for label in schema.labels),
                        )
                    return schema
            raise DataError(f"'{place}' has no schema.json", hint="Features by name need prepared data, or a table.")
        largest: dict[str, int | None] = {}
        names = self.task_names
        for data in (train, valid):
            for columns, others in self._tables(data):
                names = names or others
                for name in self.features:
                    if name not in columns:
                        raise DataError(f"the data has no column '{name}'", got=", ".join(map(str, columns)))
                    found = _largest(name, np.asarray(columns[name]))
                    before = largest.get(name, found)
                    largest[name] = None if found is None or before is None else max(found, before)
        if not largest:
            raise DataError("the training data: no rows", expected="at least one")
        features: list[Feature] = [
            DenseFeature(name) if largest[name] is None else SparseFeature(name, int(largest[name] or 0) + 1)
            for name in self.features
        ]
        return Schema(tuple(features), self._labels(names or [f"task_{i}" for i in range(len(self.kinds))]))

    def _tables(self, data: Any) -> Iterator[tuple[Mapping[str, Any], list[str] | None]]:
        """Yield columns by name, with the names of those that are no features where they may be labels."""
        if data is None or isinstance(data, str | os.PathLike):
            return
        if isinstance(data, pa.Table):
            data = data.to_pandas()
        if isinstance(data, pd.DataFrame):
            yield (
                {str(name): column for name, column in data.items()},
                [str(name) for name in data.columns if str(name) not in self.features],
            )
            return
        if hasattr(data, "iter_batches") or not isinstance(data, Iterable):
            raise DataError(
                "features by name are looked up in the data, and this cannot be looked through",
                expected="a DataFrame, a pyarrow Table, a DataLoader or the folder of a prepared data set",
                got=type(data).__name__,
            )
        rows = data
        while hasattr(rows, "dataset"):  # a loader's, and that of a part of it
            rows = rows.dataset
        for batch in data:
            columns = batch[0] if isinstance(batch, tuple | list) else batch
            yield columns, getattr(rows, "label_names", None)


def labels_of(
    names: Sequence[str], kinds: Sequence[LabelKind], num_classes: Sequence[int | None] | None
) -> tuple[Label, ...]:
    """Return labels.

    Args:
        names: of the labels.
        kinds: one a label.
        num_classes: one a label, None of a label that has no classes; None of all.

    Raises:
        ConfigError: another number of `num_classes` than labels, or one that does not fit the label's kind.
    """
    classes = [None] * len(names) if num_classes is None else list(num_classes)
    wanted = [
        f"{name}: {'a number' if kind == 'multiclass' else None}" for name, kind in zip(names, kinds, strict=True)
    ]
    if [count is None for count in classes] != [kind != "multiclass" for kind in kinds]:
        wanted = ["None" if kind != "multiclass" else "its number of classes" for kind in kinds]
        raise ConfigError("'num_classes' does not fit the tasks", expected=", ".join(wanted), got=num_classes)
    return tuple(Label(name, kind, num_classes=n) for name, kind, n in zip(names, kinds, classes, strict=True))


def built(model: Model | Unbuilt) -> Model:
    """Return the model itself.

    Raises:
        ConfigError: it was not built yet.
    """
    if not isinstance(model, Unbuilt):
        return model
    if model.model is None:
        raise ConfigError(
            "'model' has features by name, so it is built by `fit`, which has not run", hint="Call fit first."
        )
    return model.model


def _largest(name: str, values: np.ndarray[Any, Any]) -> int | None:
    """Return the largest id of a column of whole numbers; None where it holds other numbers."""
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise DataError(
            f"feature '{name}' cannot be told from its values",
            expected="one number a row",
            got=f"{values.dtype}, {values.ndim} dimensions",
            hint=f"`pandas.factorize(frame['{name}'])[0] + 1` numbers texts; `rechub-ray prepare` does so, too.",
        )
    if values.dtype.kind == "f":
        return None
    return int(values.max(initial=0))
