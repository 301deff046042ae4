"""Local paths and URIs (S3, GCS, anything fsspec knows) through one interface."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.fs as pafs

from rechub_ray.errors import DataError


def is_uri(path: str) -> bool:
    """Whether `path` names a filesystem (`s3://...`) rather than a local path."""
    return "://" in path


def join(root: str, path: str) -> str:
    """`path` under `root`, unless it stands for itself (absolute, or a URI)."""
    return path if is_uri(path) or os.path.isabs(path) else f"{root.rstrip('/')}/{path}" if root else path


def join_all(root: str, paths: str | list[str]) -> list[str]:
    """One path or several, each under `root`."""
    return [join(root, path) for path in ([paths] if isinstance(paths, str) else paths)]


def absolute(path: str) -> str:
    """`path` as every process finds it, whatever folder it runs in."""
    return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem that `path` lies on, and the path in it.

    Raises:
        DataError: no installed library knows the URI's scheme.
    """
    if not is_uri(path):
        return pafs.LocalFileSystem(), absolute(path)
    try:
        filesystem, root = pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec

        try:
            inner, root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            raise DataError(
                f"cannot open '{path}'", got=str(error), hint="pip install the fsspec package of that filesystem."
            ) from None
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(inner))
    return filesystem, root.rstrip("/")


def exists(filesystem: pafs.FileSystem, path: str, kind: pafs.FileType = pafs.FileType.File) -> bool:
    """Whether there is a file (or another `kind`) at `path`."""
    return bool(filesystem.get_file_info([path])[0].type == kind)


def reason(error: OSError) -> str:
    """Why the system refused, in a few words."""
    return os.strerror(error.errno) if error.errno else str(error)


def read_text(path: str) -> str:
    """A small UTF-8 file; OSError where it cannot be read."""
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner) as stream:
        return bytes(stream.read()).decode()


def write_text(path: str, text: str) -> None:
    """Writes a small UTF-8 file as a whole, making its folder."""
    filesystem, inner = open_filesystem(path)
    filesystem.create_dir(os.path.dirname(inner), recursive=True)
    local = isinstance(filesystem, pafs.LocalFileSystem)
    target = f"{inner}.writing" if local else inner
    with filesystem.open_output_stream(target) as stream:
        stream.write(text.encode())
    if local:
        os.replace(target, inner)
