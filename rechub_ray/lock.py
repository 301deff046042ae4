"""Locks on a run's folder and on folders being written, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import glob
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from rechub_ray.errors import ConfigError
from rechub_ray.files import cannot_write, exists, open_filesystem

_log = logging.getLogger(__name__)

NAME = ".lock"
BEAT_SECONDS = 5.0
WRITING = ".writing-"
_OLD_SECONDS = 6 * 3600.0
_handles: set[int] = set()  # of locks that this process holds
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


@contextlib.contextmanager
def locked(directory: str, *, what: str, hint: str) -> Iterator[None]:
    """Hold `directory` for this process; make it, and remove it again if nothing was written into it.

    On a disk the lock is the system's (flock), also between the hosts that share it, and ends with the process. Where
    there is none (an object store, a shared disk without locks) the holder renews a note every 5 seconds. A note that
    is not renewed for 15 seconds is that of a dead process; a new holder has to wait that long.

    Args:
        directory: a local folder or a URI.
        what: the folder's name in the configuration, for messages.
        hint: what to do where another process holds it.

    Raises:
        ConfigError: another process holds it; names its host, its process and since when.
        WriteError: the folder cannot be written.
    """
    filesystem, root = open_filesystem(directory)
    is_new = not exists(filesystem, root, kind=pafs.FileType.Directory)
    taken = f"{what}: another run is at work in '{directory}'"
    try:
        filesystem.create_dir(root, recursive=True)
        flock = _Flock.take(root, taken, hint) if isinstance(filesystem, pafs.LocalFileSystem) else None
        held = flock or _Note(filesystem, root, taken, hint)
    except OSError as error:
        raise cannot_write(directory, error) from None
    try:
        yield
    finally:
        held.release()
        if is_new and isinstance(filesystem, pafs.LocalFileSystem):
            with contextlib.suppress(OSError):  # it is not empty, as it should be
                os.rmdir(root)


@contextlib.contextmanager
def writing_folder(root: str, prefix: str = WRITING) -> Iterator[Path]:
    """Make a temporary folder in `root` that `remove_stale` leaves alone; remove it at the end unless it was moved.

    Args:
        root: a local folder that is there.
        prefix: of the folder's name.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        with contextlib.suppress(FileNotFoundError):  # removed by another process before it was locked
            handle = os.open(folder, os.O_RDONLY)
            _handles.add(handle)
            with contextlib.suppress(OSError):  # no locks there: `remove_stale` goes by the age then
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is(str(folder), handle):
                break
            _close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(handle)


def remove_stale(root: str, prefix: str = WRITING) -> None:
    """Remove the temporary folders that dead processes left in `root`."""
    for folder in Path(root).glob(f"{glob.escape(prefix)}*"):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # moved to its final place
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_stale = _is(str(folder), handle)
        except BlockingIOError:
            is_stale = False
        except OSError:
            is_stale = time.time() - os.fstat(handle).st_mtime > _OLD_SECONDS
        if is_stale:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


class _Flock:
    """The system's lock on a file."""

    def __init__(self, path: str, handle: int) -> None:
        self._path, self._handle = path, handle
        _handles.add(handle)

    @classmethod
    def take(cls, root: str, taken: str, hint: str) -> _Flock | None:
        """Take the lock, or return None where the disk has no locks."""
        path = f"{root}/{NAME}"
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is(path, handle):  # its holder removed it between our two calls
                    os.close(handle)
                    continue
                os.ftruncate(handle, 0)
                os.write(handle, json.dumps(_self()).encode())
                return cls(path, handle)
            except BlockingIOError:
                holder = _parsed(os.pread(handle, 4096, 0))
                os.close(handle)
                raise ConfigError(taken, got=_described(holder), hint=hint) from None
            except OSError as error:
                os.close(handle)
                if error.errno in _NO_LOCKS:
                    return None
                os.unlink(path)  # ours: only its content could not be written
                raise

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if _is(self._path, self._handle):
                os.unlink(self._path)
        _close(self._handle)


class _Note:
    """A file that its holder renews: for places without locks."""

    def __init__(self, filesystem: pafs.FileSystem, root: str, taken: str, hint: str) -> None:
        self._filesystem, self._path, self._taken, self._hint = filesystem, f"{root}/{NAME}", taken, hint
        self._own = {**_self(), "token": uuid.uuid4().hex, "beat": 0}
        self._await_silence()
        self._write()
        time.sleep(min(BEAT_SECONDS / 10, 0.5))  # of two that start together, the last to write its note goes on
        self._refuse(self._read())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="rechub-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if (self._read() or {}).get("token") == self._own["token"]:
                self._filesystem.delete_file(self._path)

    def _await_silence(self) -> None:
        """Wait until the existing note, if any, is that of a dead process; refuse if it is renewed."""
        first = self._read()
        if not first or (first.get("host") == _self()["host"] and not _is_alive(first.get("pid"))):
            return
        _log.warning("looking whether the run that left '%s' is still at work (%.0f s)", self._path, 3 * BEAT_SECONDS)
        deadline = time.monotonic() + 3 * BEAT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
            now = self._read()
            if now is None:
                return
            if now != first:
                self._refuse(now)

    def _refuse(self, note: dict[str, Any] | None) -> None:
        if note is not None and note.get("token") != self._own["token"]:
            raise ConfigError(self._taken, got=_described(note), hint=self._hint)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            note = None
            with contextlib.suppress(OSError):  # the next attempt may succeed
                note = self._read()
                if note is None or note.get("token") == self._own["token"]:
                    self._own["beat"] += 1
                    self._write()
                    continue
            if note is not None:
                _log.warning("%s: %s", self._taken, _described(note))
                return

    def _read(self) -> dict[str, Any] | None:
        if not exists(self._filesystem, self._path):
            return None
        try:
            with self._filesystem.open_input_stream(self._path) as stream:
                return _parsed(bytes(stream.read()))
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        with self._filesystem.open_output_stream(self._path) as stream:
            stream.write(json.dumps(self._own).encode())


def _close(handle: int) -> None:
    _handles.discard(handle)
    os.close(handle)


def _leave_to_parent() -> None:
    """Close what a forked process inherited: it must not hold the lock of a parent that has died."""
    while _handles:
        os.close(_handles.pop())


os.register_at_fork(after_in_child=_leave_to_parent)


def _self() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        note = json.loads(content)
    except ValueError:  # it is being written
        return {}
    return note if isinstance(note, dict) else {}


def _described(note: dict[str, Any]) -> str:
    host, pid, since = (note.get(key, "unknown") for key in ("host", "pid", "since"))
    return f"host {host}, process {pid}, since {since}"


def _is(path: str, handle: int) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        there, ours = os.stat(path), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, TypeError, ValueError, OverflowError):
        return True
    return True
