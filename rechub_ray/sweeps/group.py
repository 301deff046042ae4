"""A trial of several workers: the trial's own process is rank 0, its peers are actors in its placement group."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from rechub_ray.data.reader import read_piece
from rechub_ray.data.source import ReadPiece, ThreadReader
from rechub_ray.device import pick_device
from rechub_ray.loop import Hooks
from rechub_ray.runtime.preflight import Job
from rechub_ray.runtime.worker import execute, is_passing, is_timeout
from rechub_ray.sweeps.heartbeat import ProcessPlace
from rechub_ray.world import World

_GRACE_SECONDS = 2.0  # for the other peers' errors: the first one to arrive is not always the cause
_END_SECONDS = 60.0


def train_trial(job: Job, hooks: Hooks, *, bundle: Mapping[str, float], read: ReadPiece = read_piece) -> dict[str, Any]:
    """Train `job` in this process, and with `scaling.num_workers` - 1 others beside it where that is more than one.

    The other processes end with it, or wait for the next trial of this process where it ended well: by itself, or by
    the SystemExit with which Ray Tune stops a trial.

    Args:
        job: the trial's run.
        hooks: the loop's hooks, of rank 0.
        bundle: what a process reserves in the trial's placement group; bundle k is rank k's.
        read: reads a piece of the data, in each of the processes.

    Returns:
        What `execute` returns.

    Raises:
        ConnectionError, TimeoutError: a worker was lost, or did not start in time; the trial may be started again.
        RechubError: as a worker raised it.
    """
    size = job.config.scaling.num_workers
    if size <= 1:
        return _share(job, World(), hooks, read)
    import ray

    peers, places = _peers(job, bundle)
    refs: list[Any] = []
    is_well = False
    try:
        host = ray.util.get_node_ip_address()
        store: Any = dist.TCPStore(host, 0, size, True, wait_for_workers=False)  # type: ignore[attr-defined]  # public, but not in its list
        refs = [peer.train.remote(job, rank, host, store.port, read) for rank, peer in enumerate(peers, start=1)]
        with _Watch(peers, places, refs) as watch:
            result = _lead(job, store, hooks, watch, read)
            ray.get(refs, timeout=_END_SECONDS)
        is_well = True
        return result
    except SystemExit:  # the peers know of it from `_Leading`
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=_GRACE_SECONDS)
        is_well = len(done) == len(refs) and all(_error(ref) is None for ref in done)
        raise
    finally:
        if is_well:  # a process takes seconds to start: these serve the next trial of this one
            _kept.extend(peers)
        else:
            _kill(peers)


def _lead(job: Job, store: Any, hooks: Hooks, watch: _Watch, read: ReadPiece) -> dict[str, Any]:
    """Train rank 0's part; raise the peer's error where that is the cause."""
    world = _world(job, 0)
    try:
        with _process_group(job, store, world):
            return _share(job, world, _Leading(hooks, world), read)
    except Exception as error:
        cause = watch.cause(error, world.timeout_seconds)
        if cause is error:
            raise
        raise cause from error


def _world(job: Job, rank: int) -> World:
    scaling = job.config.scaling
    return World(rank, scaling.num_workers, scaling.collective_timeout_seconds)


def _share(job: Job, world: World, hooks: Hooks, read: ReadPiece) -> dict[str, Any]:
    """Train one process's part of a trial."""
    config = job.config
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    if config.scaling.num_workers == 0:
        device = pick_device(config.train.device)
    else:
        device = torch.device("cuda", 0) if config.scaling.use_gpu else torch.device("cpu")
    # in threads, so that a trial uses only what it has reserved
    reader = ThreadReader(threads=config.data.read_threads, read=read)
    return execute(job, world=world, device=device, reader=reader, hooks=hooks)


class _Stopped(Exception):
    """Ray Tune has stopped the trial."""


class _Leading:
    """Rank 0's hooks, which tell the peers after each report whether the trial goes on."""

    def __init__(self, hooks: Hooks, world: World) -> None:
        self._hooks, self._world = hooks, world
        self.started, self.log, self.say, self.evaluated = hooks.started, hooks.log, hooks.say, hooks.evaluated

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        try:
            self._hooks.saved(path, metrics)
        except BaseException:
            self._world.broadcast(False)
            raise
        self._world.broadcast(True)


class _Following:
    """The other ranks' hooks, which report nothing: rank 0 does."""

    def __init__(self, world: World) -> None:
        self._world = world

    def started(self, step: int) -> None: ...

    def log(self, metrics: dict[str, float], *, step: int) -> None: ...

    def say(self, text: str) -> None: ...

    def evaluated(self, epoch: int, score: float) -> None: ...

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        if not self._world.broadcast(None):
            raise _Stopped


class _Peer:
    """One of the other processes."""

    def ready(self) -> ProcessPlace:
        """Return where the process is, once it is up."""
        return ProcessPlace.here()

    def train(self, job: Job, rank: int, host: str, port: int, read: ReadPiece) -> None:
        """Train this rank's part of the trial."""
        for module in job.config.imports:
            importlib.import_module(module)
        world = _world(job, rank)
        store: Any = dist.TCPStore(host, port, world.size, False)  # type: ignore[attr-defined]  # public, but not in its list
        with contextlib.suppress(_Stopped), _process_group(job, store, world):
            _share(job, world, _Following(world), read)


_kept: list[Any] = []  # the peers of this process's last trial


def _peers(job: Job, bundle: Mapping[str, float]) -> tuple[list[Any], list[ProcessPlace]]:
    """Return processes for all ranks but the first, all of them ready, and their places."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    scaling = job.config.scaling
    peers = [_kept.pop(0) for _ in range(len(_kept))]
    with contextlib.suppress(ray.exceptions.RayError):
        if peers:
            return peers, ray.get([peer.ready.remote() for peer in peers], timeout=_GRACE_SECONDS)
    _kill(peers)
    cls: Any = ray.remote(num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), max_restarts=0)(_Peer)
    group = ray.util.get_current_placement_group()
    places = [PlacementGroupSchedulingStrategy(group, rank) for rank in range(1, scaling.num_workers)]
    peers = [cls.options(scheduling_strategy=place).remote() for place in places]
    try:
        return peers, ray.get([peer.ready.remote() for peer in peers], timeout=scaling.start_timeout_seconds)
    except ray.exceptions.RayError as error:
        _kill(peers)
        if not isinstance(error, ray.exceptions.GetTimeoutError):
            raise
        raise TimeoutError(f"the trial's workers did not start in {scaling.start_timeout_seconds:g} s") from None


def _kill(peers: list[Any]) -> None:
    import ray

    for peer in peers:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(peer)


@contextlib.contextmanager
def _process_group(job: Job, store: Any, world: World) -> Iterator[None]:
    """Hold torch's default process group for one trial; the process may serve another trial after it."""
    from rechub_ray.runtime.process_group import backend, use_ray_interface

    scaling = job.config.scaling
    use_ray_interface()
    dist.init_process_group(
        backend(use_gpu=scaling.use_gpu),
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=datetime.timedelta(seconds=scaling.collective_timeout_seconds),
    )
    try:
        yield
    except BaseException:
        _abort()
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _Watch:
    """Watches the peers in a thread: where one fails, all end, so that rank 0 does not wait for it.

    Args:
        peers: the actors.
        places: of their processes.
        refs: Ray's references to their parts of the trial.
    """

    def __init__(self, peers: list[Any], places: list[ProcessPlace], refs: list[Any]) -> None:
        self._peers, self._places, self._refs = peers, places, refs
        self._errors: list[tuple[int, Exception]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rechub-peers", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _run(self) -> None:
        import ray

        waiting = list(self._refs)
        while waiting and not self._over.is_set():
            done, waiting = ray.wait(waiting, num_returns=1, timeout=0.5)
            if any(_error(ref) is not None for ref in done):
                ended, _ = ray.wait(self._refs, num_returns=len(self._refs), timeout=_GRACE_SECONDS)
                found = [(rank, _error(ref)) for rank, ref in enumerate(self._refs, start=1) if ref in ended]
                self._errors = [(rank, error) for rank, error in found if error is not None]
                _kill(self._peers)
                _abort()
                return

    def cause(self, error: Exception, timeout_seconds: float) -> Exception:
        """Return the cause of an error that rank 0 met: the error itself, or a peer's end, or a peer that hangs.

        Args:
            error: the error.
            timeout_seconds: how long the ranks wait for each other.
        """
        if _is_echo(error):
            self._thread.join(timeout=2 * _GRACE_SECONDS)
        size, ended = len(self._refs) + 1, {rank for rank, _ in self._errors}
        cause = first_cause(error, self._errors, size)
        hanging = [rank for rank in range(1, size) if rank not in ended]  # the others gave up as rank 0 did
        if cause is not error or not is_timeout(error) or not hanging:
            return cause
        for rank in hanging:
            self._places[rank - 1].kill()
        named = " and ".join(f"worker {rank} of {size} ({self._places[rank - 1]})" for rank in hanging)
        return ConnectionError(f"{named} did not take part for {timeout_seconds:g} s, and was killed")


def first_cause(error: Exception, others: Sequence[tuple[int, Exception]], size: int) -> Exception:
    """Return the error that led to all others.

    Args:
        error: rank 0's error.
        others: (rank, error) of peers that have ended.
        size: workers of the trial.
    """
    import ray

    if not _is_echo(error):
        return error
    lost = None
    for rank, found in others:
        if isinstance(found, ray.exceptions.RayError):
            how = "out of memory" if isinstance(found, ray.exceptions.OutOfMemoryError) else "its process died"
            lost = lost or ConnectionError(f"worker {rank} of {size} was lost: {how}")
        elif not _is_echo(found):
            return found
    return lost or error


def _error(ref: Any) -> Exception | None:
    """Return the error that ended a peer's part, or None."""
    import ray

    try:
        ray.get(ref, timeout=_END_SECONDS)
    except ray.exceptions.RayError as error:
        cause: object = getattr(error, "cause", error)
        return cause if isinstance(cause, Exception) else RuntimeError(str(error))
    return None


def _is_echo(error: Exception) -> bool:
    """Return whether this may only be the effect of another rank's end."""
    return isinstance(error, (RuntimeError, ConnectionError, TimeoutError)) and is_passing(error)


def _abort() -> None:
    """End collectives that wait for ranks which are gone; NCCL needs it, gloo notices by itself."""
    group = dist.group.WORLD
    if group is not None and "nccl" in dist.get_backend_config():
        group.abort()
