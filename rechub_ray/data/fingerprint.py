"""The transforms that made a data set: their fingerprints, and their files, of which runs keep a copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rechub_ray.files import (
    absolute,
    exists,
    join,
    join_all,
    masked,
    open_filesystem,
    read_text,
    split,
    write_text,
    writing,
)

FILE, VOCABULARIES, SCHEMA, ITEMS = "preprocess.json", "vocab", "schema.json", "items"
RECIPE = "recipe.json"


def digest(*parts: object) -> str:
    """Return 16 hex digits that change with any of the parts: plain values, or arrays of texts."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, pa.Array):
            found.update(pc.binary_length(part).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
            texts = part.cast(pa.large_string())
            _, ends, content = texts.buffers()
            if len(texts) and content is not None:
                first, last = np.frombuffer(ends, np.int64)[[texts.offset, texts.offset + len(texts)]].tolist()
                found.update(memoryview(content)[first:last])
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
        found.update(b"\0")
    return found.hexdigest()[:16]


def homes(root: str, schema_file: str, paths: str | Sequence[str]) -> dict[str, str]:
    """Return the data sets that files or folders of shards belong to, by their schema files.

    That is the nearest one of: beside the shards, in the folder above, in `root`.

    Args:
        root: `data.root`.
        schema_file: `data.schema_file`, in `root`.
        paths: as in `data.train`.
    """
    root, found = absolute(root).rstrip("/"), {}
    for path in join_all(root, [paths] if isinstance(paths, str) else list(paths)):
        folder, name = split(path)
        beside = folder if name.endswith(".parquet") else path.rstrip("/")
        near = (home for home in (beside, split(beside)[0]) if home == root or is_there(join(home, SCHEMA)))
        home = next(near, root)
        found[join(home, schema_file if home == root else SCHEMA)] = home
    return found


def find(path: str) -> str | None:
    """Return the folder that holds the transforms of a data set, a run, or one checkpoint; None where there are none.

    Args:
        path: folder or URI.
    """
    above, name = split(path)
    is_checkpoint = name == "checkpoint" or name.startswith("step_")
    near = [above] if is_checkpoint else [path, join(path, "checkpoints")]
    return next((folder for folder in near if is_there(join(folder, FILE))), None)


def encodings_in(folder: str) -> dict[str, str]:
    """Return the fingerprints in a folder that `find` gave, by feature; none where they are not known."""
    try:
        found = json.loads(read_text(join(folder, FILE)))["encodings"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def keep(source: str, target: str) -> None:
    """Copy a data set's transforms, schema and recipe, unless they are there.

    `preprocess.json`, without which they do not count, comes last.

    Args:
        source: a folder that has them.
        target: folder or URI, which may not exist.

    Raises:
        WriteError: the disk is full, for instance.
    """
    text, place = read_text(join(source, FILE)), join(target, FILE)
    there, (filesystem, inside) = is_there(place), open_filesystem(target)
    if there and read_text(place) == text and encodings_in(target):  # so the vocabularies are the same too
        if not is_there(join(target, RECIPE)):  # a run from before runs kept it
            _copy(source, target, RECIPE)
        return
    origin, folder = open_filesystem(join(source, VOCABULARIES))
    with writing(target):
        filesystem.create_dir(f"{inside}/{VOCABULARIES}", recursive=True)
        if there:
            filesystem.delete_file(f"{inside}/{FILE}")
        filesystem.delete_dir_contents(f"{inside}/{VOCABULARIES}")
        for info in origin.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            with (
                origin.open_input_stream(info.path) as stream,
                filesystem.open_output_stream(f"{inside}/{VOCABULARIES}/{info.base_name}") as sink,
            ):
                shutil.copyfileobj(stream, sink, 1 << 22)
    for name in (SCHEMA, RECIPE):
        _copy(source, target, name)
    write_text(place, text)


def _copy(source: str, target: str, name: str) -> None:
    if is_there(join(source, name)):
        write_text(join(target, name), masked(read_text(join(source, name))))


def is_there(path: str) -> bool:
    """Return whether there is a file at a path or URI."""
    return exists(*open_filesystem(path))
