"""The place of exported files."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

import pyarrow.fs as pafs

from rechub_ray.errors import ExportError
from rechub_ray.files import cannot_write, open_filesystem
from rechub_ray.lock import writing_folder


class Target:
    """The place of the files, a local path or a URI: they are made elsewhere, and moved once they are complete.

    Args:
        path: of the main file.

    Raises:
        ExportError: it is a folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._filesystem, inner = open_filesystem(path)
        self._parent, self.name = os.path.split(inner)
        self._is_local = isinstance(self._filesystem, pafs.LocalFileSystem)
        if not self.name or (self._is_local and os.path.isdir(inner)):
            raise ExportError(f"'{path}' is a folder", expected="the path of a file, as in runs/demo/model.onnx")

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """Yield a temporary folder, on the target's disk where that is local.

        Raises:
            RechubError: it, or the folder of the files, cannot be written.
        """
        try:
            self._filesystem.create_dir(self._parent, recursive=True)
            with writing_folder(self._parent) if self._is_local else tempfile.TemporaryDirectory() as made:
                yield str(made)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def place(self, folder: str) -> None:
        """Move the files, weights first, so that the model is never there without them."""
        for name in (f"{self.name}.data", self.name, f"{self.name}.parity.json"):
            source, target = f"{folder}/{name}", f"{self._parent}/{name}"
            if not os.path.exists(source):
                continue
            if self._is_local:
                os.replace(source, target)
            else:
                with open(source, "rb") as stream, self._filesystem.open_output_stream(target) as sink:
                    shutil.copyfileobj(stream, sink, 1 << 22)
