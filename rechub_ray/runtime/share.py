"""Data that is decoded once and mapped from Ray's object store: by all epochs of a run, or by all trials of a sweep."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rechub_ray.data.block import Block
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import pick, read_piece, read_whole
from rechub_ray.errors import RechubError
from rechub_ray.runtime.board import on_this_host
from rechub_ray.schema import Schema

if TYPE_CHECKING:  # the keeper's process needs no torch
    from rechub_ray.runtime.preflight import Job

_log = logging.getLogger(__name__)

SHARE = 0.5  # of the smallest host's object store: the rest is Ray's and the trials'
_WAIT_SECONDS = 60.0
_THREADS = 4  # row groups that are decoded at a time

Key = tuple[str, int, str, bool]


def bytes_to_keep(job: Job) -> int:
    """Return what a run keeps in the object store at most; 0 where its data would not fit, or is read only once."""
    limit = min(job.config.data.keep_bytes, int(SHARE * _smallest_store()))
    needed = 1.1 * decoded_bytes(job)  # an estimate
    return 0 if job.config.train.epochs == 1 or needed > limit else limit


class SharedBlocks:
    """Reads pieces from row groups that one process keeps decoded; the result is that of `read_piece`, bit for bit.

    The first process that needs a row group has it decoded; then each host holds one copy, which its processes map
    without copying it. Where that fails, a process reads for itself from then on.

    Args:
        keeper: the actor that decodes.
        wait_seconds: longest wait for it, and for a row group, > 0.
    """

    def __init__(self, keeper: Any, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._keeper, self._wait_seconds = keeper, wait_seconds
        self._known: dict[Key, Any] = {}
        self._is_lost = False

    def __call__(self, piece: Piece, schema: Schema, *, targets: bool = True) -> Block:
        whole = None if self._is_lost else self._whole(piece, schema, targets)
        return read_piece(piece, schema, targets=targets) if whole is None else pick(whole, piece)

    def _whole(self, piece: Piece, schema: Schema, targets: bool) -> Block | None:
        import ray

        key = (piece.file, piece.row_group, schema.fingerprint(), targets)
        try:
            if key not in self._known:
                (self._known[key],) = ray.get(
                    self._keeper.whole.remote(key, piece, schema, targets), timeout=self._wait_seconds
                )
            ref = self._known[key]
            found: Block | None = None if ref is None else ray.get(ref, timeout=self._wait_seconds)
            return found
        except ray.exceptions.RayError:
            _log.warning("kept data is gone, or its keeper: from here on this process reads for itself, more slowly")
            self._is_lost = True
            self._known = {}  # without references here, the store may let go of what was kept
            return None


class Keeper:
    """The actor that decodes row groups, several at a time, and keeps them in the object store; they go when it goes.

    Args:
        limit_bytes: the most that it keeps.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._found: dict[Key, concurrent.futures.Future[Any]] = {}
        self._lock = threading.Lock()

    def whole(self, key: Key, piece: Piece, schema: Schema, targets: bool) -> list[Any]:
        """Return a list (so that Ray does not resolve it) with a reference to the row group.

        It holds None where the caller is to read the row group itself.
        """
        with self._lock:
            is_new = key not in self._found
            future = self._found.setdefault(key, concurrent.futures.Future())
        if is_new:
            try:
                future.set_result(self._kept(read_whole(piece, schema, targets=targets)))
            except RechubError:  # the caller meets it too, and raises it
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)
        return [future.result()]

    def _kept(self, block: Block) -> Any:
        import ray

        with self._lock:
            if block.num_bytes > self._left:
                return None
            self._left -= block.num_bytes
        return ray.put(block)


@contextlib.contextmanager
def kept(limit_bytes: int, *, wait_seconds: float = _WAIT_SECONDS) -> Iterator[SharedBlocks | None]:
    """Keep row groups decoded, from when they are first read until this ends.

    Args:
        limit_bytes: what is kept at most.
        wait_seconds: longest wait for a row group, > 0.

    Yields:
        What reads pieces; None with a limit of 0.
    """
    import ray

    if not limit_bytes:
        yield None
        return
    keeper = on_this_host(ray, Keeper, max_concurrency=_THREADS).remote(limit_bytes)
    try:
        yield SharedBlocks(keeper, wait_seconds=wait_seconds)
    finally:
        ray.kill(keeper)


def room_for_trials(job: Job, *, say: Callable[[str], None]) -> int:
    """Return what a sweep keeps in the object store at most; 0 where its data does not fit that of every host.

    Args:
        job: what the trials train on.
        say: takes one line: what is done, and why.
    """
    needed, room = decoded_bytes(job), _smallest_store()
    size = f"the data takes {needed / 2**20:,.1f} MB decoded, {needed / max(room, 1):.1%} of a host's object store"
    if needed > SHARE * room:
        say(f"{size}: more than {SHARE:.0%}, so each trial reads for itself")
        return 0
    say(f"{size}: read once for all trials")
    return int(SHARE * room)


def _smallest_store() -> float:
    import ray

    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return min(stores, default=0.0)


def decoded_bytes(job: Job) -> int:
    """Return an estimate of the memory of all splits as blocks: the first row group's bytes a row, times all rows."""
    first = job.train.row_groups[0]
    piece = Piece(0, first.file, first.index, first.rows, 0, first.rows, None, first.checksum)
    rows = sum(split.rows for split in (job.train, job.valid, job.test) if split is not None)
    return int(read_whole(piece, job.schema).num_bytes / first.rows * rows)
