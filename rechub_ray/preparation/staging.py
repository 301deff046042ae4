"""The folder that `prepare` writes: it appears as a whole, and an old one stays until the new one is whole."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import check_writable, exists, is_uri, masked, open_filesystem, reason
from rechub_ray.lock import remove_stale, writing_folder
from rechub_ray.preparation.recipe import Recipe

_log = logging.getLogger(__name__)
_REPLACEMENT = ".replacement"  # of a remote folder, whole before it takes its place


def check_free(recipe: Recipe) -> None:
    """Check that `out` may be written.

    Raises:
        ConfigError: it exists and may not be overwritten, or takes no files.
    """
    filesystem, root = open_filesystem(recipe.out)
    if is_uri(recipe.out):
        _mend_remote(filesystem, root, recipe.out)
    else:
        _mend(os.path.realpath(recipe.out))
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


def _mend(out: str) -> None:
    """Bring back the old data set where a process ended between two renames; remove it where that ended after them."""
    aside = _aside(out)
    if os.path.isdir(aside):
        with contextlib.suppress(OSError):
            if os.path.exists(out):
                shutil.rmtree(aside)
            else:
                os.rename(aside, out)


@contextlib.contextmanager
def staged(out: str) -> Iterator[Path]:
    """Give the folder in which everything is made first: beside `out`, or a temporary one where that is remote."""
    place, name = (tempfile.gettempdir(), "rechub") if is_uri(out) else os.path.split(os.path.realpath(out))
    prefix = f".{name}.preparing-"
    os.makedirs(place, exist_ok=True)
    remove_stale(place, prefix)
    with writing_folder(place, prefix) as folder:
        staging = folder / "data"
        staging.mkdir()  # with the permissions of an ordinary folder, which temporary ones do not have
        yield staging


def put_in_place(staging: Path, out: str) -> None:
    """Put the new data set in the place of the old one in `out`, which stays until the new one is whole.

    Raises:
        DataError: a remote `out` cannot be written.
        OSError: a local one cannot be written.
    """
    if not is_uri(out):
        out = os.path.realpath(out)
        if not os.path.exists(out):
            staging.rename(out)
        elif not _exchange(staging, out):
            aside = _aside(out)
            os.rename(out, aside)
            try:
                staging.rename(out)
            except OSError:
                os.rename(aside, out)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        return
    filesystem, root = open_filesystem(out)
    replaced = exists(filesystem, f"{root}/schema.json")
    new = f"{root}{_REPLACEMENT}" if replaced else root
    left = "nothing of this attempt is left behind"
    try:
        try:
            _upload(staging, filesystem, new)
        except OSError:
            filesystem.delete_dir_contents(new, missing_dir_ok=True)
            raise
        if replaced:
            left = f"the new data set is whole in '{new}', and the next `prepare` into '{out}' puts it in place"
            _log.warning(
                "%s is not on a disk that exchanges two folders: its files are replaced one by one now, and until then "
                "there is no data set; where this is interrupted, the next `prepare` into it goes on",
                masked(out),
            )
            _replace(filesystem, new, root)
    except OSError as error:
        raise DataError(f"cannot write into '{out}'", got=f"{reason(error)}; {left}") from None


def _replace(filesystem: pafs.FileSystem, new: str, root: str) -> None:
    """Put a whole data set into `root`, in the place of another one; schema.json is deleted first and comes last."""
    if exists(filesystem, f"{root}/schema.json"):
        filesystem.delete_file(f"{root}/schema.json")
    filesystem.delete_dir_contents(root, missing_dir_ok=True)
    files = [info.path for info in filesystem.get_file_info(pafs.FileSelector(new, recursive=True)) if info.is_file]
    for path in sorted(files, key=lambda path: path.endswith(f"{new.strip('/')}/schema.json")):
        target = f"{root}{path.strip('/').removeprefix(new.strip('/'))}"
        filesystem.create_dir(os.path.dirname(target), recursive=True)
        filesystem.copy_file(path, target)
    filesystem.delete_dir(new)


def _mend_remote(filesystem: pafs.FileSystem, root: str, out: str) -> None:
    """Put a new data set in place where a process ended while it did so; else remove what it left."""
    new = f"{root}{_REPLACEMENT}"
    try:
        if not exists(filesystem, new, kind=pafs.FileType.Directory):
            return
        if exists(filesystem, f"{new}/schema.json") and not exists(filesystem, f"{root}/schema.json"):
            _log.warning(
                "an earlier `prepare` ended while it replaced %s: its data set is put in place now", masked(out)
            )
            _replace(filesystem, new, root)
        else:
            filesystem.delete_dir(new)
    except OSError as error:
        raise DataError(f"cannot write into '{out}'", got=reason(error)) from None


def _aside(out: str) -> str:
    """Return where the old data set is, between two renames, on a disk that cannot exchange two folders."""
    return os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.replaced")


def _exchange(one: Path, other: str) -> bool:
    """Exchange two folders in one step of the filesystem; return False where it cannot do that."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), other)


def _upload(staging: Path, filesystem: pafs.FileSystem, root: str) -> None:
    """Copy a data set, schema.json last: without it there is none."""
    filesystem.create_dir(root, recursive=True)
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "schema.json"):
        if path.is_dir():
            filesystem.create_dir(f"{root}/{path.name}", recursive=True)
        pafs.copy_files(str(path), f"{root}/{path.name}", destination_filesystem=filesystem)
