"""Data that is decoded once and mapped from Ray's object store: by all epochs of a run, or by all trials of a sweep."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rechub_ray.data.block import Block
from rechub_ray.data.plan import EpochPlan, EvalPlan, Piece, geometry
from rechub_ray.data.reader import pick, read_piece, read_whole
from rechub_ray.errors import RechubError
from rechub_ray.schema import Schema

if TYPE_CHECKING:  # the keeper's process needs no torch
    from rechub_ray.config import RunConfig
    from rechub_ray.runtime.preflight import Job

_log = logging.getLogger(__name__)

SHARE = 0.5  # of the smallest host's object store: the rest is Ray's and the trials'
_WAIT_SECONDS = 60.0

Key = tuple[str, int, str, bool]


def limit_bytes(config: RunConfig) -> int:
    """Return how many bytes a run may keep in the object store."""
    return min(config.data.keep_bytes, int(SHARE * _smallest_store()))


def to_keep(job: Job) -> list[Piece]:
    """Return the row groups of all splits, in the order in which a new run needs them.

    There are none where they would not fit, or where the run has only one epoch.
    """
    config, limit = job.config, limit_bytes(job.config)
    if not limit or config.train.epochs == 1 or 1.1 * decoded_bytes(job) > limit:  # an estimate
        return []
    rows, workers = config.rows_per_step, config.scaling.num_workers
    lanes, _ = geometry(job.train, job.groups, global_batch=rows, world_size=workers)
    first_epoch = EpochPlan(job.train, seed=config.seed, epoch=0, lanes=lanes, global_batch=rows, groups=job.groups)
    # an epoch leaves a remainder out, which later ones read
    train = first_epoch.pieces(0, 1) + EvalPlan(job.train).pieces(0, 1)
    valid, test = ([] if split is None else EvalPlan(split).pieces(0, 1) for split in (job.valid, job.test))
    pieces = (valid + train if config.train.initial_evaluation else train + valid) + test
    return list(dict.fromkeys(piece.whole for piece in pieces))


@contextlib.contextmanager
def told(board: Any, row_groups: Iterator[list[Any]]) -> Iterator[None]:
    """Decode in a thread, while the workers start and train, and tell the board where the row groups lie.

    Where that fails, the workers read for themselves.

    Args:
        board: the actor that the workers ask.
        row_groups: as `decode_once` returns them.
    """
    over = threading.Event()

    def run() -> None:
        try:
            for some in row_groups:
                if over.is_set():
                    return
                board.keep.remote(some)
        except Exception as error:
            if not over.is_set():
                _log.warning("the data is not kept, but read again every epoch: %s", error)
                board.keep.remote(None)

    thread = threading.Thread(target=run, name="rechub-keep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


class SharedBlocks:
    """Reads pieces from row groups that one process keeps decoded; the result is that of `read_piece`, bit for bit.

    The first trial that needs a row group has it decoded; then each host holds one copy, which its trials map without
    copying it. Where that fails, the trial reads for itself from then on.

    Args:
        keeper: the actor that decodes.
    """

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper
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
                    self._keeper.whole.remote(key, piece, schema, targets), timeout=_WAIT_SECONDS
                )
            ref = self._known[key]
            found: Block | None = None if ref is None else ray.get(ref, timeout=_WAIT_SECONDS)
            return found
        except ray.exceptions.RayError:
            self._is_lost = True
            return None


class Keeper:
    """The actor that decodes row groups and keeps them in the object store; they go when it goes.

    Args:
        limit_bytes: the most that it keeps.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._refs: dict[Key, Any] = {}

    def whole(self, key: Key, piece: Piece, schema: Schema, targets: bool) -> list[Any]:
        """Return a list (so that Ray does not resolve it) with a reference to the row group.

        It holds None where the trial is to read the row group itself.
        """
        import ray

        if key not in self._refs:
            try:
                block = read_whole(piece, schema, targets=targets)
            except RechubError:  # the trial meets the same error when it reads, and reports it
                return [None]
            self._left -= block.num_bytes
            self._refs[key] = ray.put(block) if self._left >= 0 else None
        return [self._refs[key]]


@contextlib.contextmanager
def shared_blocks(job: Job, *, say: Callable[[str], None]) -> Iterator[SharedBlocks | None]:
    """Keep the splits of `job` decoded while trials run, if they fit the object store of every host.

    Args:
        job: a run with the trials' data.
        say: called with one line: whether they are kept, and why.

    Yields:
        The reader of pieces for the trials; None where each is to read for itself.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    needed, room = decoded_bytes(job), _smallest_store()
    size = f"the data takes {needed / 2**20:,.1f} MB decoded, {needed / max(room, 1):.1%} of a host's object store"
    if needed > SHARE * room:
        say(f"{size}: more than {SHARE:.0%}, so each trial reads for itself")
        yield None
        return
    say(f"{size}: read once for all trials")
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper = ray.remote(num_cpus=0, scheduling_strategy=here)(Keeper).remote(int(SHARE * room))
    try:
        yield SharedBlocks(keeper)
    finally:
        ray.kill(keeper)


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
