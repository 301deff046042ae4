"""Local paths and URIs (S3, GCS, anything fsspec knows) through one interface."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rechub_ray.errors import MASK, ConfigError, DataError, WriteError
from rechub_ray.errors import masked as masked


def is_uri(path: str) -> bool:
    """Return whether `path` names a filesystem (`s3://...`) rather than a local path."""
    return "://" in path


def join(root: str, path: str) -> str:
    """Return `path` under `root`, unless it is absolute or a URI; the query of a URI stays behind the path."""
    if is_uri(path) or os.path.isabs(path) or not root:
        return path
    address, query = _cut(root)
    return f"{address.rstrip('/')}/{path}{query}"


def split(path: str) -> tuple[str, str]:
    """Return the folder that `path` lies in, and its name there; `join` puts them together again."""
    address, query = _cut(path)
    folder, _, name = address.rstrip("/").rpartition("/")
    return (folder + query) if folder else "/"[: address.startswith("/")], name


def _cut(path: str) -> tuple[str, str]:
    """Return a URI's address, and its query with the question mark."""
    address, mark, query = path.partition("?") if is_uri(path) else (path, "", "")
    return address, mark + query


def join_all(root: str, paths: str | list[str]) -> list[str]:
    """Return one path or several, each under `root`."""
    return [join(root, path) for path in ([paths] if isinstance(paths, str) else paths)]


def absolute(path: str) -> str:
    """Return `path` as every process finds it, whatever its working folder."""
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem that `path` lies on, and the path in it.

    Raises:
        DataError: no installed library knows the URI's scheme, or its store cannot be opened.
    """
    if not is_uri(path):
        return _LOCAL, absolute(path)
    folder, name = split(path)
    if _cut(folder)[0].endswith((":/", "://")):  # scheme://bucket: there is no folder above it
        return _open(path)
    filesystem, inside = _open(folder)
    return filesystem, f"{inside}/{name}"


_LOCAL = pafs.LocalFileSystem()


# cached by folder, because opening one object store may take several requests (its region, credentials)
@functools.lru_cache(maxsize=256)
def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    uri = _without_mask(uri)
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path.rstrip("/")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # not a scheme of pyarrow's own
    except OSError as error:
        raise DataError(f"cannot open '{uri}'", got=str(error)) from None
    import fsspec

    try:
        opened, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"cannot open '{uri}'",
            expected="a path, or a URI that pyarrow or fsspec knows",
            got=str(error),
            hint="Object stores may need a driver: pip install s3fs, gcsfs or adlfs.",
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(opened)), str(path).rstrip("/")


def _without_mask(uri: str) -> str:
    """Return a URI that `masked` wrote without its mask: the environment has the keys."""
    address, query = _cut(uri.replace(f"://{MASK}@", "://", 1))
    kept = [item for item in query.lstrip("?").split("&") if item and not item.endswith(f"={MASK}")]
    return address + ("?" + "&".join(kept) if kept else "")


def exists(filesystem: pafs.FileSystem, path: str, kind: pafs.FileType = pafs.FileType.File) -> bool:
    """Return whether there is a file (or another `kind`) at `path`.

    Raises:
        DataError: the system refuses to look (a name that is too long, a store without permission).
    """
    try:
        return bool(filesystem.get_file_info([path])[0].type == kind)
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise DataError(f"cannot look for '{path}'", got=reason(error)) from None


def reason(error: Exception) -> str:
    """Return why the system refused, in a few words."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def cannot_write(path: object, error: Exception) -> WriteError:
    """Return the error to raise where `path` could not be written."""
    number = error.errno if isinstance(error, OSError) else None
    is_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    return WriteError(
        f"cannot write '{path}'",
        got=reason(error) if isinstance(error, OSError) else error,
        hint="Make room there, or name another folder." if is_full else "Name a folder that takes files.",
    )


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn an OSError of the block into an error about `path`.

    Raises:
        WriteError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def check_writable(directory: str, *, what: str) -> None:
    """Check that files can be written into `directory`; for a local one that does not exist, check its nearest parent.

    Args:
        directory: a local folder, which is not made, or a URI.
        what: the folder's name in the configuration, for messages.

    Raises:
        ConfigError: they cannot.
    """
    filesystem, place = open_filesystem(directory)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            while not os.path.lexists(place):
                place = os.path.dirname(place)
        else:
            filesystem.create_dir(place, recursive=True)
        marker = f"{place}/.writable-{os.getpid()}"
        with filesystem.open_output_stream(marker) as stream:
            stream.write(b"")
        filesystem.delete_file(marker)
    except OSError as error:
        raise ConfigError(f"{what}: cannot write into '{directory}'", got=reason(error)) from None


def read_text(path: str) -> str:
    """Return the text of a small UTF-8 file.

    Raises:
        OSError: it cannot be read.
    """
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner) as stream:
        return bytes(stream.read()).decode()


def write_text(path: str, text: str) -> None:
    """Write a small UTF-8 file, whole or not at all, and make its folder.

    Raises:
        WriteError: it cannot be written; the disk is full, for instance.
    """
    filesystem, inner = open_filesystem(path)
    local = isinstance(filesystem, pafs.LocalFileSystem)
    target, content = f"{inner}.writing" if local else inner, text.encode()
    try:
        filesystem.create_dir(os.path.dirname(inner), recursive=True)
        with filesystem.open_output_stream(target) as stream:
            stream.write(content)
        if local:
            os.replace(target, inner)
    except OSError as error:
        if local:
            with contextlib.suppress(OSError):
                os.unlink(target)
        raise cannot_write(path, error) from None


def strict_json(value: Any, *, indent: int | None = 1) -> str:
    """Return standard JSON text: null in the place of NaN and infinity."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
