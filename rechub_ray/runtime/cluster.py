"""Joining or starting Ray, quietly, and the board through which workers speak to the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rechub_ray.config import RunConfig, ScalingSection
from rechub_ray.data.plan import Piece
from rechub_ray.errors import RechubError, ResourceError, TrainingError
from rechub_ray.files import absolute, open_filesystem, split
from rechub_ray.runtime.preflight import Node, check_resources, cpus_per_worker, local_cpus
from rechub_ray.runtime.share import limit_bytes, told
from rechub_ray.runtime.worker import train_loop_per_worker

# Ray reads these when it is imported. A report waits for the controller's next poll (2 s by default).
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_NICENESS = "RAY_worker_niceness"
_LOCAL_SETTINGS = {  # of a Ray that is started here
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # only useful where hosts come and go
    # a process that reads is idle between two segments; by default it ends after a second, and starting the next
    # one costs the training workers a second or two of their cores
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}


@contextlib.contextmanager
def connected(scaling: ScalingSection) -> Iterator[Any]:
    """Ray, joined or started, with the run's resources checked; what was started here is shut down again.

    Yields:
        The `ray` module.

    Raises:
        ResourceError: no cluster at the address, or the run does not fit.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(scaling.start_timeout_seconds))
    address = scaling.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        for key, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        check_resources(scaling, nodes_of(ray))
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    running = address or _running_cluster()
    if address not in (None, "auto", "local") and not _answers(address):
        raise ResourceError(
            f"no Ray cluster answers at '{address}'",
            expected="host:port of a head node",
            hint="Check scaling.address and RAY_ADDRESS, or leave both out to start Ray on this machine.",
        )
    if running is None:
        # before anything starts: what cannot fit fails at once
        check_resources(scaling, [Node(cpus=local_cpus(), gpus=_local_gpus())])
    try:
        if running is not None:
            # of a cluster found on this machine Ray takes the token too, of an address it would not
            ray.init(address=address or "auto", **quiet)
        else:
            ray.init(num_cpus=local_cpus(), include_dashboard=False, **quiet)
    except Exception as error:  # a start that takes too long is a bare Exception
        raise ResourceError(
            f"cannot join the Ray cluster '{running}'" if running else "cannot start Ray on this machine",
            got=" ".join(str(error).split())[:300],
            hint="Check scaling.address and RAY_ADDRESS, or run with scaling.num_workers=0.",
        ) from None
    try:
        _quieten()
        check_resources(scaling, nodes_of(ray))
        yield ray
    finally:
        ray.shutdown()


def _running_cluster() -> str | None:
    """Address of the cluster that `ray start` (or `ray up`) left running on this machine.

    Not Ray's own "auto", which takes any Ray process that it finds, other users' too.
    """
    from ray._private.services import find_bootstrap_address

    address: str | None = find_bootstrap_address(None)
    if not address:
        return None
    return address if _answers(address) else None  # else it is the note of a cluster that has died


def _answers(address: str) -> bool:
    """Whether something listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def nodes_of(ray: Any) -> list[Node]:
    """Return the resources of the hosts that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # what was free on the host when its Ray started, in Ray's two parts
    return [
        Node(
            cpus=r.get("CPU", 0.0),
            gpus=r.get("GPU", 0.0),
            memory=r.get("memory", math.inf) + r.get("object_store_memory", 0.0),
        )
        for r in alive
    ]


def _local_gpus() -> float:
    import torch

    return float(torch.cuda.device_count())


def _quieten() -> None:
    """Warnings and errors only: a wall of log lines hides the one that matters."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def make_board(ray: Any) -> Any:
    """An actor that keeps the workers' events until the driver fetches them, and tells them where kept data lies."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Board:
        def __init__(self) -> None:
            self.events: list[Any] = []
            self.error: Exception | None = None
            self.kept: list[Any] | None = []

        def push(self, event: Any) -> None:
            self.events.append(event)

        def fail(self, error: Exception) -> None:
            self.error = self.error or error

        def has_failed(self) -> bool:
            return self.error is not None

        def drain(self) -> tuple[list[Any], Exception | None]:
            events, self.events = self.events, []
            return events, self.error

        def keep(self, row_groups: list[Any] | None) -> None:
            """More row groups that lie in the object store, or None: nothing is kept from now on."""
            self.kept = None if row_groups is None or self.kept is None else self.kept + row_groups

        def kept_after(self, known: int) -> list[Any] | None:
            return None if self.kept is None else self.kept[known:]

    # beside the driver: on any other host it would take the run with it when that host is lost
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()


def run_on_workers(
    config: RunConfig,
    share: Callable[..., Any],
    job: Any,
    *,
    hear: Callable[[tuple[Any, ...]], None],
    keep: Sequence[Piece] = (),
    storage: str | None = None,
) -> dict[str, Any]:
    """Runs `share(job, world=, device=, reader=, hooks=)` on every worker of a `TorchTrainer`.

    Args:
        config: says how many workers, where, and how often one may be lost.
        share: a module-level function that returns plain data.
        job: its first argument; picklable.
        hear: called on the driver with each event that rank 0 sends.
        keep: row groups to decode once and keep in the object store; see `to_keep`.
        storage: where Ray puts its own files; None takes the run's folder.

    Returns:
        What rank 0's share returned.

    Raises:
        RechubError: as a worker raised it, or that the workers could not be started or kept.
    """
    scaling = config.scaling
    with connected(scaling) as ray:
        from ray.train import FailureConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchTrainer

        from rechub_ray.data.ingest import decode_once
        from rechub_ray.runtime.callbacks import EndOnUserError
        from rechub_ray.runtime.process_group import ProcessGroup, backend

        board = make_board(ray)
        _forget_ray_snapshot(storage or config.directory())
        storage, name = _storage(storage or config.directory())
        resources = {"CPU": cpus_per_worker(scaling)} | ({"GPU": 1} if scaling.use_gpu else {})
        read_cpus = max(min(1.0, scaling.data_cpus / scaling.num_workers), 0.1)
        kept_schema = dataclasses.replace(job.schema, row_id=None) if keep else None  # what training reads
        free_cpus = ray.cluster_resources().get("CPU", 0.0) - scaling.num_workers * resources["CPU"]
        trainer = TorchTrainer(
            train_loop_per_worker,
            train_loop_config={
                "share": share,
                "job": job,
                "config": config,
                "board": board,
                "read_cpus": read_cpus,
                "kept_schema": kept_schema,
            },
            torch_config=ProcessGroup(
                backend=backend(use_gpu=scaling.use_gpu), timeout_s=int(scaling.collective_timeout_seconds)
            ),
            scaling_config=ScalingConfig(
                num_workers=scaling.num_workers,
                use_gpu=scaling.use_gpu,
                resources_per_worker=resources,
                # a CPU worker reserves less than it uses: packed, all would crowd on one host
                placement_strategy="PACK" if scaling.use_gpu else "SPREAD",
            ),
            run_config=RayRunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=1),
                # Ray's own processes wake a hundred times a second each. By default they interrupt the threads that
                # train, which then wait for each other
                worker_runtime_env={"env_vars": {_NICENESS: os.environ.get(_NICENESS, "0")}},
                callbacks=[EndOnUserError(board)],
            ),
        )
        pump = _Pump(ray, board, hear)
        keeping: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if kept_schema is not None:
            # what the workers are to take stays free: they start while this reads
            row_groups = decode_once(
                keep,
                kept_schema,
                num_cpus=read_cpus,
                concurrency=max(int(free_cpus), 1),
                limit_bytes=limit_bytes(config),
            )
            keeping = told(board, row_groups)
        try:
            with pump, _interrupt_kept(), keeping:
                outcome = trainer.fit()
        except Exception as error:
            raise pump.error or _plain(error) from None
        if pump.error is not None:
            raise pump.error
        return dict(outcome.return_value)


@contextlib.contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Ray Train takes Ctrl-C over and leaves its own handler behind, which has nothing left to abort."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _storage(directory: str) -> tuple[str, str]:
    """Ray's storage path and run name, so that the run's folder is Ray's experiment folder too."""
    return split(absolute(directory))


def _forget_ray_snapshot(directory: str) -> None:
    """Ray would silently continue from its own snapshot; this run continues from its checkpoints or not at all."""
    filesystem, root = open_filesystem(directory)
    path = f"{root}/checkpoint_manager_snapshot.json"
    if filesystem.get_file_info([path])[0].is_file:
        filesystem.delete_file(path)


def _plain(error: Exception) -> RechubError:
    text = str(error).strip()
    if "placement group" in text.lower() or "schedul" in text.lower():
        return ResourceError(
            "Ray could not start the workers", got=text.splitlines()[-1] if text else type(error).__name__
        )
    return TrainingError(f"the run failed on Ray ({type(error).__name__}): {text}")


class _Pump:
    """Carries events from the board to `hear`, in a thread, while Ray Train runs.

    Args:
        ray: the module. board: the actor. hear: takes one event.
    """

    def __init__(self, ray: Any, board: Any, hear: Callable[[tuple[Any, ...]], None]) -> None:
        self._ray, self._board, self._hear = ray, board, hear
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rechub-events", daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> _Pump:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        try:
            events, error = self._ray.get(self._board.drain.remote(), timeout=30)
        except Exception:  # the cluster is going away; fit() says why
            return
        self.error = self.error or error
        for event in events:
            self._hear(event)
