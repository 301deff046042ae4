"""A model for retrieval as files: both towers as ONNX, vectors of all items, an index, and what encodes raw rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import collate
from rechub_ray.data.fingerprint import find
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import read_piece
from rechub_ray.defaults import retrieves
from rechub_ray.errors import ExportError, RechubError
from rechub_ray.evaluation.corpus import item_vectors
from rechub_ray.export import index as index_module
from rechub_ray.export.index import INDEXES
from rechub_ray.export.onnx import INPUTS, ExportReport, default_path, export_onnx
from rechub_ray.export.ports import Part, vector_name
from rechub_ray.export.search import Search, recall
from rechub_ray.export.served import FOLDER, ITEMS, fingerprint, keep_preprocessing, write_note
from rechub_ray.export.target import Target
from rechub_ray.files import join, join_all, split
from rechub_ray.models.matching.base import Retriever
from rechub_ray.world import World

PARTS: tuple[Part, ...] = ("user", "item")
_TOP, _QUERIES, _ROW_GROUPS = 100, 1000, 8


@dataclasses.dataclass(frozen=True)
class IndexReport:
    """An index of the items' vectors.

    Args:
        path: the file.
        settings: its name and arguments.
        recall: share of the first `top` items among all that it gives.
        top: how many items were asked for.
        queries: whose first items these were.
        threads: that made it.
        seconds: that it took.
    """

    path: str
    settings: dict[str, Any]
    recall: float
    top: int
    queries: str
    threads: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class TowersReport:
    """An exported model for retrieval.

    Args:
        towers: the ONNX files, of users and of items.
        items: the parquet file with the ids and the vectors of all items, and with what they are called in raw data
            where the run keeps its transforms.
        rows: number of items.
        index: the index, where one was asked for.
    """

    towers: tuple[ExportReport, ExportReport]
    items: str
    rows: int
    index: IndexReport | None = None

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
    index: str | Mapping[str, Any] | None = None,
    index_threads: int = 1,
    transforms: str | None = None,
) -> TowersReport:
    """Export a model for retrieval: both towers, each compared with PyTorch, and all that `recommend` reads.

    These are `user.onnx`, `item.onnx`, `items.parquet`, an index where one is asked for, the run's transforms and
    recipe where it keeps them, and `serving.json`, which comes last and says what belongs together. The product of a
    user's and an item's vector is the score by which the model ranks.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one); a path or URI.
        folder: where the files go, a path or URI; it is made.
        inputs: of the towers, as for `export_onnx`; with `raw` they are called `user_raw.onnx` and `item_raw.onnx`.
        batch_sizes: rows of the batches that are compared with PyTorch, >= 1.
        index: name of an index (`flat`, `hnsw`, `ivf`), or a mapping with its arguments too; None makes none, and users
            are compared with all items.
        index_threads: threads that make the index, >= 1; on one it is the same every time.
        transforms: the folder with the transforms of the model's data; None takes those that the run keeps.

    Raises:
        CheckpointError: no complete checkpoint there.
        ConfigError: there is no such index.
        ExportError: it has no towers, faiss is needed and not installed, or as for `export_onnx`.
        DataError: the item table, in the run's `data.root`, cannot be read.
    """
    settings = None if index is None else index_module.checked(index, where="index")
    saved = checkpoint_module.read(checkpoint)
    model = saved.build_model()
    if not isinstance(model, Retriever):
        raise ExportError(f"the model '{saved.config.model['name']}' has no towers", expected="a model for retrieval")
    catalogue = Catalogue.read(saved.config.data.root, saved.schema)
    suffix, folder = "_raw" if inputs == INPUTS[1] else "", str(folder)
    user, item = (
        export_onnx(saved.path, join(folder, f"{part}{suffix}.onnx"), part=part, inputs=inputs, batch_sizes=batch_sizes)
        for part in PARTS
    )
    path, place = join(folder, ITEMS), transforms or find(saved.path)
    vectors = write_item_vectors(model, catalogue, path, keys=_raw_keys(place, catalogue))
    keep_preprocessing(place, saved.schema, folder)
    report, note = None, None
    if settings is not None:
        report = _write_index(settings, saved, model, vectors, folder, index_threads)
        note = dataclasses.asdict(report) | {"vectors": fingerprint(catalogue.ids.numpy(), vectors)}
        note |= {"path": index_module.FILE, "faiss": index_module.version()}
    write_note(folder, tower=split(user.path)[1], inputs=inputs, model=saved.config.model["name"], index=note)
    return TowersReport((user, item), path, catalogue.rows, report)


def write_item_vectors(
    model: Retriever, catalogue: Catalogue, path: str, *, keys: pa.Array | None = None
) -> npt.NDArray[np.float32]:
    """Write the ids of all items and their vectors, lists of a fixed size, as a parquet file; return the vectors.

    Args:
        model: in evaluation mode, on the CPU.
        catalogue: the items, on the CPU.
        path: of the file, a path or URI.
        keys: what the items are called in raw data, for a column `key`.
    """
    vectors = item_vectors(model, catalogue, world=World(), device=torch.device("cpu")).numpy()
    flat = pa.array(vectors.reshape(-1))
    columns: dict[str, Any] = {} if keys is None else {"key": keys}
    columns[catalogue.schema.sparse[0].name] = catalogue.ids.numpy()
    columns[vector_name(model.schema, "item")] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = pa.table(columns).replace_schema_metadata({"rechub_ray.similarity": model.similarity})
    target = Target(path)
    with target.folder() as folder:
        pq.write_table(table, f"{folder}/{target.name}")
        target.place(folder)
    return vectors


def _write_index(
    settings: dict[str, Any],
    saved: checkpoint_module.Checkpoint,
    model: Retriever,
    vectors: npt.NDArray[np.float32],
    folder: str,
    threads: int,
) -> IndexReport:
    """Make an index, write it, and compare what it finds with what is there."""
    began = time.perf_counter()
    built = INDEXES.build(settings, where="index")
    index = index_module.build(built, vectors, threads=threads)
    seconds = round(time.perf_counter() - began, 3)
    queries, words = _user_vectors(saved, model)
    if queries is None:
        places = np.random.default_rng(0).permutation(len(vectors))[:_QUERIES]
        queries, words = vectors[places], f"{len(places):,} items"
    top = min(_TOP, len(vectors))
    share = recall(Search(vectors, index, built), queries, top)
    return IndexReport(index_module.write(index, folder), settings, round(share, 6), top, words, threads, seconds)


def _user_vectors(saved: checkpoint_module.Checkpoint, model: Retriever) -> tuple[npt.NDArray[np.float32] | None, str]:
    """Return the vectors of some users of the run's data, and who these are; None where no rows can be read."""
    data, schema = saved.config.data, dataclasses.replace(model.user_schema, row_id=None)
    for key in ("test", "valid", "train"):
        place = getattr(data, key)
        if place is None:
            continue
        try:
            manifest = Manifest.scan(join_all(data.root, place), schema, targets=False, key=f"data.{key}")
        except RechubError:  # it is gone
            continue
        rng, blocks = np.random.default_rng(0), []
        chosen = np.sort(rng.permutation(len(manifest.row_groups))[:_ROW_GROUPS])
        for number in chosen:
            group = manifest.row_groups[number]
            piece = Piece(0, group.file, group.index, group.rows, 0, group.rows, None, group.checksum)
            block = read_piece(piece, schema, targets=False)
            blocks.append(block.take(np.sort(rng.permutation(block.rows)[: -(-_QUERIES // len(chosen))])))
        features = collate(blocks).features
        with torch.no_grad():
            return model.user_vectors(features).float().numpy(), f"{sum(b.rows for b in blocks):,} rows of data.{key}"
    return None, ""


def _raw_keys(place: str | None, catalogue: Catalogue) -> pa.Array | None:
    """Return the items' raw keys by the transforms in a folder; None where there is none."""
    feature = catalogue.schema.sparse[0]
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


def export_run(
    checkpoint: str, directory: str, *, probabilities: bool = True, transforms: str | None = None
) -> tuple[ExportReport, ...]:
    """Export a run's model into its folder: `model.onnx`, or `serving/` of a model for retrieval; return the ONNX ones.

    Args:
        checkpoint: as for `export_onnx`.
        directory: the run's folder.
        probabilities: as for `export_onnx`.
        transforms: as for `export_towers`.

    Raises:
        RechubError: as for `export_onnx` and `export_towers`.
    """
    config = checkpoint_module.read(checkpoint, weights=False).config
    if retrieves(config):
        return export_towers(
            checkpoint, join(directory, FOLDER), index=config.export.index, transforms=transforms
        ).towers
    return (export_onnx(checkpoint, join(directory, "model.onnx"), probabilities=probabilities),)


def default_folder(checkpoint: str, name: str = FOLDER) -> str:
    """Return where an export of several files goes by default: `serving`, or another `name`; see `default_path`."""
    folder, file = split(default_path(checkpoint))
    return join(folder, name if file == "model.onnx" else f"{file.removesuffix('.onnx')}_{name}")
