"""The files of a model for retrieval: what `export` writes beside both towers, and all that `recommend` reads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.data.fingerprint import FILE, RECIPE, SCHEMA, is_there, keep
from rechub_ray.errors import CheckpointError, ConfigError, DataError, ExportError, RechubError
from rechub_ray.export import index as index_module
from rechub_ray.export.index import INDEXES
from rechub_ray.export.ports import vector_name
from rechub_ray.export.search import Search
from rechub_ray.files import absolute, join, open_filesystem, read_text, write_text, writing
from rechub_ray.schema import Schema

_log = logging.getLogger(__name__)

FOLDER, ITEMS, NOTE = "serving", "items.parquet", "serving.json"
"""The folder of the files in that of a run; the items' vectors; what belongs together."""
VERSION = 1
_AGAIN = "`rechub-ray export RUN` writes them all anew."


@dataclasses.dataclass(frozen=True)
class Served:
    """A model for retrieval as files.

    Args:
        folder: of the files, a path or URI.
        note: what `serving.json` says.
        schema: of the model.
        ids: of the items, ascending.
        keys: what the items are called in raw data, or their ids where no transforms are kept.
        search: finds items.

    Shapes:
        ids: (N,) int64.
    """

    folder: str
    note: dict[str, Any]
    schema: Schema
    ids: npt.NDArray[np.int64]
    keys: pa.Array
    search: Search

    @classmethod
    def read(cls, path: str, *, exact: bool = False) -> Served:
        """Return the model in a run's folder `serving`, or in a folder with such files.

        Args:
            path: of the run or of the files, a path or URI.
            exact: leave an index out.

        Raises:
            ConfigError: the run is of no model for retrieval.
            ExportError: there are no such files, they are of several exports, or faiss is needed and not installed.
            DataError: a file is missing or damaged.
        """
        folder = _folder(absolute(path))
        note = json.loads(read_text(join(folder, NOTE)))
        if note.get("version") != VERSION:
            raise ExportError(f"{join(folder, NOTE)} has version {note.get('version')}", expected=f"version {VERSION}")
        schema = Schema.load(join(folder, SCHEMA))
        _check_tower(folder, note)
        ids, keys, vectors = _items(folder, schema)
        index, settings = None, None
        if note["index"] is not None and not exact:
            settings = INDEXES.build(note["index"]["settings"], where="index")
            index_module.check_installed(f"the index in {folder}")
            _check_vectors(folder, note["index"]["vectors"], fingerprint(ids, vectors))
            index = index_module.read(folder)
            if (index.ntotal, index.d) != vectors.shape:
                _check_vectors(folder, f"{index.ntotal:,} x {index.d}", f"{len(vectors):,} x {vectors.shape[1]}")
        return cls(folder, note, schema, ids, keys, Search(vectors, index, settings))

    @property
    def tower(self) -> str:
        """The ONNX file of the user tower."""
        return join(self.folder, self.note["tower"])

    @property
    def is_raw(self) -> bool:
        """Whether the user tower takes raw values."""
        return bool(self.note["inputs"] == "raw")

    @property
    def recipe(self) -> dict[str, Any] | None:
        """How raw rows are read; None where that is not known."""
        if not is_there(join(self.folder, RECIPE)):
            return None
        recipe = dict(json.loads(read_text(join(self.folder, RECIPE))))
        return {**recipe, "source": recipe["source"] or self.folder}


def write_note(folder: str, *, tower: str, inputs: str, model: str, index: dict[str, Any] | None) -> None:
    """Note which files belong together, as the last step of an export; an index of an earlier one is removed.

    Args:
        folder: of the files, a path or URI.
        tower: name of the user tower's file.
        inputs: of the tower, `encoded` or `raw`.
        model: its name.
        index: what is said of the index; None: there is none.
    """
    left = join(folder, index_module.FILE)
    if index is None and is_there(left):
        filesystem, inside = open_filesystem(left)
        with writing(left):
            filesystem.delete_file(inside)
    note = {"version": VERSION, "model": model, "tower": tower, "inputs": inputs}
    note |= {"sha256": _sha256(join(folder, tower)), "index": index}
    write_text(join(folder, NOTE), json.dumps(note, indent=1) + "\n")


def keep_preprocessing(place: str | None, schema: Schema, folder: str) -> None:
    """Copy what raw rows are read and encoded by: transforms, vocabularies, recipe, the side tables of rows.

    Args:
        place: a folder with transforms; None: there are none, and the schema alone is written.
        schema: of the model.
        folder: a path or URI.
    """
    if place is not None:
        keep(place, folder)
        if is_there(join(place, RECIPE)):
            recipe = json.loads(read_text(join(place, RECIPE)))
            try:
                recipe |= _side_tables(recipe, folder)
            except (RechubError, pa.ArrowException, OSError, ValueError, LookupError) as error:
                _log.warning(
                    "the side tables of the data cannot be read any more, so `recommend` needs them where they were, "
                    "or joins=[] and their columns in the users' files: %s",
                    error,
                )
            write_text(join(folder, RECIPE), json.dumps(recipe, indent=2) + "\n")
    write_text(join(folder, SCHEMA), json.dumps(schema.to_dict(), indent=2) + "\n")


def fingerprint(ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> str:
    """Return 16 hex digits that change with an item's id or vector, or with the order of the items."""
    found = hashlib.sha256(repr(vectors.shape).encode())
    for array in (ids.astype("<i8", copy=False), vectors.astype("<f4", copy=False)):
        found.update(np.ascontiguousarray(array).data.cast("B"))
    return found.hexdigest()[:16]


def matrix(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """Return a column of lists of a fixed size as rows of a matrix."""
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = column.type.list_size
    return np.concatenate(
        [np.zeros((0, width), np.float32), *(p.flatten().to_numpy().reshape(-1, width) for p in parts)]
    )


def _side_tables(recipe: dict[str, Any], folder: str) -> dict[str, Any]:
    """Write the side tables of rows; return the recipe's keys that name them there."""
    from rechub_ray.preparation.recipe import Recipe
    from rechub_ray.preparation.rows import SideTable
    from rechub_ray.preparation.sources import Source

    if not recipe.get("joins"):
        return {"joins": [], "source": ""}
    checked, joins = Recipe.from_dict(recipe), []
    source = Source.open(checked.source)
    for number, (node, side) in enumerate(zip(recipe["joins"], checked.joins, strict=True)):
        table = SideTable.read(source, side, checked.uses)
        name = f"joins/{number}.parquet"
        place = join(folder, name)
        filesystem, inside = open_filesystem(place)
        with writing(place):
            filesystem.create_dir(inside.rpartition("/")[0], recursive=True)
            pq.write_table(pa.table({side.key: table.keys, **table.columns}), inside, filesystem=filesystem)
        joins.append({**node, "file": name, "format": {"type": "parquet"}})
    return {"joins": joins, "source": ""}


def _folder(path: str) -> str:
    """Return the folder with the files that a path means."""
    places = (path, join(path, FOLDER))
    for place in places:
        if is_there(join(place, NOTE)):
            return place
    for place in places:
        if is_there(join(place, ITEMS)):
            raise ExportError(f"{place} has no {NOTE}, which says what belongs together", hint=_AGAIN)
    from rechub_ray import checkpoint as checkpoint_module  # imports PyTorch, which is for this error alone
    from rechub_ray.defaults import retrieves

    try:
        config = checkpoint_module.read(path, weights=False).config
    except CheckpointError:
        config = None
    if config is not None and not retrieves(config):
        raise ConfigError(
            f"{path}: the model '{config.model['name']}' scores rows and has no vectors of items",
            expected="a model for retrieval",
            hint="`rechub-ray predict` scores rows of users and items.",
        )
    raise ExportError(
        f"{path} has no files of a model for retrieval",
        expected=f"{NOTE}, {ITEMS}, {FILE} and the user tower, there or in its folder '{FOLDER}'",
        hint="`rechub-ray export RUN` writes them.",
    )


def _check_tower(folder: str, note: dict[str, Any]) -> None:
    place = join(folder, note["tower"])
    if not is_there(place):
        raise DataError(f"{place} is missing", hint=_AGAIN)
    if _sha256(place) != note["sha256"]:
        raise ExportError(f"{place} is of another export than {ITEMS}, so their vectors do not fit", hint=_AGAIN)


def _check_vectors(folder: str, of_index: str, of_items: str) -> None:
    if of_index != of_items:
        raise ExportError(
            f"{join(folder, index_module.FILE)} was made of other vectors than those in {ITEMS}",
            expected=of_items,
            got=of_index,
            hint=f"{_AGAIN} `--exact` does without the index.",
        )


def _items(folder: str, schema: Schema) -> tuple[npt.NDArray[np.int64], pa.Array, npt.NDArray[np.float32]]:
    """Return the items' ids, keys and vectors."""
    place = join(folder, ITEMS)
    if not is_there(place):
        raise DataError(f"{place}, the table of the items, is missing", hint=_AGAIN)
    filesystem, inside = open_filesystem(place)
    try:
        table = pq.read_table(inside, filesystem=filesystem)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place} is not a readable parquet file", got=" ".join(str(error).split())) from None
    assert schema.items is not None
    own, vector = schema.items.id, vector_name(schema, "item")
    for name in (own, vector):
        if name not in table.column_names:
            raise DataError(f"{place} has no column '{name}'", got=", ".join(table.column_names), hint=_AGAIN)
    if not pa.types.is_fixed_size_list(table[vector].type) or table[vector].null_count or not table.num_rows:
        raise DataError(f"{place}: column '{vector}'", expected="a list of a fixed size in every row", hint=_AGAIN)
    ids, vectors = table[own].to_numpy().astype(np.int64), matrix(table[vector])
    if len(vectors) != len(ids) or (np.diff(ids) <= 0).any() or not np.isfinite(vectors).all():
        raise DataError(f"{place}", expected=f"'{own}' ascending, each once, and finite vectors", hint=_AGAIN)
    keys = table["key"] if own != "key" and "key" in table.column_names else table[own]
    return ids, keys.combine_chunks(), vectors


def _sha256(place: str) -> str:
    filesystem, inside = open_filesystem(place)
    found = hashlib.sha256()
    with filesystem.open_input_stream(inside) as stream:
        while part := stream.read(1 << 22):
            found.update(part)
    return found.hexdigest()
