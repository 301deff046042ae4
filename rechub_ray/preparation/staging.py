"""The folder that `prepare` writes: it appears as a whole, and an old one stays until the new one is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import check_writable, exists, is_uri, open_filesystem, reason
from rechub_ray.preparation.recipe import Recipe


def check_free(recipe: Recipe) -> None:
    """Check that `out` may be written.

    Raises:
        ConfigError: it exists and may not be overwritten, or takes no files.
    """
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
def staged(out: str) -> Iterator[Path]:
    """Give the folder in which everything is made first: beside `out`, or a temporary one where that is remote."""
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


def put_in_place(staging: Path, out: str) -> None:
    """Put the new data set in the place of the old one in `out`, which stays until the new one is whole.

    Raises:
        DataError: a remote `out` cannot be written.
        OSError: a local one cannot be written.
    """
    if not is_uri(out):
        old = Path(out).with_name(f".{Path(out).name}.old-{os.getpid()}")
        replaced = os.path.exists(out)
        if replaced:
            os.rename(out, old)
        try:
            staging.rename(out)
        except OSError:
            if replaced:
                os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return
    filesystem, root = open_filesystem(out)
    replaced = exists(filesystem, f"{root}/schema.json")
    new = f"{root}.preparing-{uuid.uuid4().hex[:8]}" if replaced else root
    left = "nothing of this attempt is left behind"
    try:
        try:
            _upload(staging, filesystem, new)
        except OSError:
            filesystem.delete_dir_contents(new, missing_dir_ok=True)
            raise
        if replaced:
            left = f"the new data set is whole in '{new}'"
            filesystem.delete_file(f"{root}/schema.json")
            filesystem.delete_dir_contents(root)
            _upload(staging, filesystem, root)
            filesystem.delete_dir(new)
    except OSError as error:
        raise DataError(f"cannot write into '{out}'", got=f"{reason(error)}; {left}") from None


def _upload(staging: Path, filesystem: pafs.FileSystem, root: str) -> None:
    """Copy a data set, schema.json last: without it there is none."""
    filesystem.create_dir(root, recursive=True)
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "schema.json"):
        if path.is_dir():
            filesystem.create_dir(f"{root}/{path.name}", recursive=True)
        pafs.copy_files(str(path), f"{root}/{path.name}", destination_filesystem=filesystem)
