"""A model for retrieval as files: both towers as ONNX, and the vectors of all items."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.fingerprint import find
from rechub_ray.defaults import retrieves
from rechub_ray.errors import ExportError
from rechub_ray.evaluation.corpus import item_vectors
from rechub_ray.export.onnx import INPUTS, ExportReport, default_path, export_onnx
from rechub_ray.export.serving import Part, vector_name
from rechub_ray.export.target import Target
from rechub_ray.files import join, split
from rechub_ray.models.matching.base import Retriever
from rechub_ray.world import World

FOLDER = "serving"
"""The folder of the files in that of a run."""
ITEMS = "items.parquet"
PARTS: tuple[Part, ...] = ("user", "item")


@dataclasses.dataclass(frozen=True)
class TowersReport:
    """An exported model for retrieval.

    Args:
        towers: the ONNX files, of users and of items.
        items: the parquet file with the ids and the vectors of all items, and with what they are called in raw data
            where the run keeps its transforms.
        rows: number of items.
    """

    towers: tuple[ExportReport, ExportReport]
    items: str
    rows: int

    @property
    def max_abs_difference(self) -> float:
        """The largest difference from PyTorch, of both towers."""
        return max(report.max_abs_difference for report in self.towers)


def export_towers(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    inputs: str = "encoded",
    batch_sizes: Sequence[int] = (1, 7, 257),
) -> TowersReport:
    """Export a model for retrieval: `user.onnx`, `item.onnx`, each compared with PyTorch, and `items.parquet`.

    The product of a user's and an item's vector is the score by which the model ranks.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one); a path or URI.
        folder: where the files go, a path or URI; it is made.
        inputs: of the towers, as for `export_onnx`; with `raw` they are called `user_raw.onnx` and `item_raw.onnx`.
        batch_sizes: rows of the batches that are compared with PyTorch, >= 1.

    Raises:
        CheckpointError: no complete checkpoint there.
        ExportError: it has no towers, or as for `export_onnx`.
        DataError: the item table, in the run's `data.root`, cannot be read.
    """
    saved = checkpoint_module.read(checkpoint)
    model = saved.build_model()
    if not isinstance(model, Retriever):
        raise ExportError(f"the model '{saved.config.model['name']}' has no towers", expected="a model for retrieval")
    catalogue = Catalogue.read(saved.config.data.root, saved.schema)
    suffix = "_raw" if inputs == INPUTS[1] else ""
    user, item = (
        export_onnx(
            saved.path, join(str(folder), f"{part}{suffix}.onnx"), part=part, inputs=inputs, batch_sizes=batch_sizes
        )
        for part in PARTS
    )
    path = join(str(folder), ITEMS)
    write_item_vectors(model, catalogue, path, keys=_raw_keys(saved, catalogue))
    return TowersReport((user, item), path, catalogue.rows)


def write_item_vectors(model: Retriever, catalogue: Catalogue, path: str, *, keys: pa.Array | None = None) -> None:
    """Write the ids of all items and their vectors, lists of a fixed size, as a parquet file.

    Args:
        model: in evaluation mode, on the CPU.
        catalogue: the items, on the CPU.
        path: of the file, a path or URI.
        keys: what the items are called in raw data, for a column `key`.
    """
    vectors = item_vectors(model, catalogue, world=World(), device=torch.device("cpu"))
    flat = pa.array(vectors.numpy().reshape(-1))
    columns: dict[str, Any] = {} if keys is None else {"key": keys}
    columns[catalogue.schema.sparse[0].name] = catalogue.ids.numpy()
    columns[vector_name(model.schema, "item")] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table(columns).replace_schema_metadata({"rechub_ray.similarity": model.similarity})
    target = Target(path)
    with target.folder() as folder:
        pq.write_table(table, f"{folder}/{target.name}")
        target.place(folder)


def _raw_keys(saved: checkpoint_module.Checkpoint, catalogue: Catalogue) -> pa.Array | None:
    """Return the items' raw keys by the transforms that a run keeps; None where it keeps none."""
    place, feature = find(saved.path), catalogue.schema.sparse[0]
    if place is None or feature.name == "key":
        return None
    from rechub_ray.preparation.encoder import Encoder  # takes a while to import

    values = Encoder.load(place).vocabulary(feature.name)
    if len(values) + 1 != feature.vocab_size:
        raise ExportError(
            f"{place}: its vocabulary of '{feature.name}' is not the model's",
            expected=f"{feature.vocab_size - 1:,} values",
            got=f"{len(values):,}",
        )
    return values.take(pa.array(catalogue.ids.numpy() - 1))


def export_run(checkpoint: str, directory: str, *, probabilities: bool = True) -> tuple[ExportReport, ...]:
    """Export a run's model into its folder: `model.onnx`, or `serving/` of a model for retrieval; return the ONNX ones.

    Args:
        checkpoint: as for `export_onnx`.
        directory: the run's folder.
        probabilities: as for `export_onnx`.

    Raises:
        RechubError: as for `export_onnx` and `export_towers`.
    """
    if retrieves(checkpoint_module.read(checkpoint, weights=False).config):
        return export_towers(checkpoint, join(directory, FOLDER)).towers
    return (export_onnx(checkpoint, join(directory, "model.onnx"), probabilities=probabilities),)


def default_folder(checkpoint: str) -> str:
    """Return where the export of a model for retrieval goes by default: `serving`; see `default_path`."""
    folder, name = split(default_path(checkpoint))
    return join(folder, FOLDER if name == "model.onnx" else f"{name.removesuffix('.onnx')}_{FOLDER}")
