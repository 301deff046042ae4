"""Joining or starting Ray: quietly, within a bound, and with nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rechub_ray.config import ScalingSection
from rechub_ray.errors import ResourceError
from rechub_ray.interrupt import Process, end_processes, processes_below
from rechub_ray.runtime.preflight import Node, check_resources, local_cpus
from rechub_ray.runtime.ray_private import noted_address, quiet
from rechub_ray.waiting import Waiting

# Ray reads these when it is imported. A report waits for the controller's next poll (2 s by default).
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_LOCAL_SETTINGS = {  # of a Ray that is started here
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # only useful where hosts come and go
    # a process that reads is idle between two segments; by default it ends after a second, and starting the next
    # one costs the training workers a second or two of their cores
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_JOIN_SETTINGS = {"RAY_NUM_REDIS_GET_RETRIES": "5"}  # a second each, of a head that answers
_ANSWER_SECONDS = 5.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings (RFC 9113)
_SETTINGS_FRAME = 4
_RAY_LOG = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ \w \d+ \d+\] ")


@contextlib.contextmanager
def connected(scaling: ScalingSection, *, evaluating: float = 0.0) -> Iterator[Any]:
    """Join or start Ray, and check the run's resources; a Ray that was started here is shut down at the end.

    Args:
        scaling: the run's workers, and the address of its cluster.
        evaluating: see `check_resources`.

    Yields:
        The `ray` module.

    Raises:
        ResourceError: no cluster at the address, or the run does not fit.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    address = scaling.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        for key, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(key, value)
    elif address not in ("auto", "local"):
        for key, value in _JOIN_SETTINGS.items():
            os.environ.setdefault(key, value)
        if _has_token():  # by itself Ray sends it to a cluster on this machine only, not to an address
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # reads all of this when it is imported

    if ray.is_initialized():
        check_resources(scaling, nodes_of(ray), evaluating=evaluating)
        yield ray
        return
    before = set(processes_below(os.getpid()))
    with quiet():
        try:
            _join_or_start(ray, scaling, address, evaluating)
            _quieten()
            check_resources(scaling, nodes_of(ray), evaluating=evaluating)
            yield ray
        finally:
            started = _ray_processes(before)
            ray.shutdown()
            end_processes(started)  # processes that hang do not end by themselves


def _join_or_start(ray: Any, scaling: ScalingSection, address: str | None, evaluating: float = 0.0) -> None:
    running = None
    if address not in (None, "auto", "local"):
        assert address is not None
        running = address
        if not answers(address):
            raise ResourceError(
                f"no Ray cluster answers at '{address}'",
                expected="host:port of a head node",
                hint="Check scaling.address and RAY_ADDRESS, or leave both out to start Ray on this machine.",
            )
    elif address != "local":
        noted = noted_address()
        # an address that does not answer was noted by a cluster that has died
        running = noted if noted is not None and answers(noted) else None
        if running is None and address == "auto":
            raise ResourceError(
                "no Ray cluster runs on this machine",
                expected="one, since scaling.address or RAY_ADDRESS is 'auto'",
                hint="Start one with `ray start --head`, or leave the address out.",
            )
    if running is None:
        # a run that cannot fit fails at once, before anything starts
        check_resources(scaling, [Node(cpus=local_cpus(), gpus=_local_gpus())], evaluating=evaluating)
        settings: dict[str, Any] = {"address": "local", "num_cpus": local_cpus(), "include_dashboard": False}
    else:
        settings = {"address": address or "auto"}  # "auto" takes the token of this machine's cluster too
    what = "starting Ray on this machine" if running is None else f"joining the Ray cluster at {running}"
    with Waiting(what), _quiet_stderr() as said:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)
        except (Exception, SystemExit) as error:  # a start that takes too long is a bare Exception
            text = f"{error} {said()}"
            if running is not None and re.search(r"(?i)auth\w*token|authentication", text):
                raise ResourceError(
                    f"the Ray cluster at '{running}' does not take this machine's token",
                    expected="the token with which its head was started, in RAY_AUTH_TOKEN or ~/.ray/auth_token",
                    got="none" if not _has_token() else "another one",
                    hint="On the head, `ray get-auth-token` prints it.",
                ) from None
            raise ResourceError(
                f"cannot join the Ray cluster at '{running}'" if running else "cannot start Ray on this machine",
                got=" ".join(str(error).split())[:300],
                hint="Check scaling.address and RAY_ADDRESS, or run with scaling.num_workers=0.",
            ) from None


def answers(address: str) -> bool:
    """Return whether something at `host:port` speaks HTTP/2, as a head does; Ray itself would try for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return True
            connection.sendall(_PREFACE)
            start = connection.recv(9)
    except (OSError, ValueError):
        return False
    return len(start) >= 4 and start[3] == _SETTINGS_FRAME


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return Path("~/.ray/auth_token").expanduser().is_file()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Any]:
    """Drop Ray's log lines from stderr; write anything else there at the end.

    Yields:
        A function that returns the text written so far.
    """
    descriptor = 2  # where C++ writes, whatever sys.stderr is
    try:
        kept = os.dup(descriptor)
    except OSError:
        yield lambda: ""
        return
    with tempfile.TemporaryFile() as file:

        def said() -> bytes:
            sys.stderr.flush()
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

        sys.stderr.flush()
        os.dup2(file.fileno(), descriptor)
        try:
            yield lambda: said().decode(errors="replace")
        finally:
            rest = [line for line in said().splitlines(keepends=True) if not _RAY_LOG.match(line)]
            os.dup2(kept, descriptor)
            os.close(kept)
            with contextlib.suppress(OSError):
                os.write(descriptor, b"".join(rest))


def _ray_processes(before: set[Process]) -> list[Process]:
    """Return Ray's processes below this one that are not in `before`."""
    me = os.getpid()
    found = []
    for process in processes_below(me):
        if process not in before:
            with contextlib.suppress(OSError):
                if re.search(rb"/ray/|ray::", Path(f"/proc/{process[0]}/cmdline").read_bytes()):
                    found.append(process)
    return found


class LocalRaylet:
    """Ray's process on this host (the raylet), without which no run goes on.

    Args:
        ray: the module, connected.
    """

    def __init__(self, ray: Any) -> None:
        here = ray.get_runtime_context().get_node_id()
        node = next(node for node in ray.nodes() if node["NodeID"] == here)
        self.host, self._port = str(node["NodeManagerAddress"]), int(node["NodeManagerPort"])

    def is_alive(self) -> bool:
        """Return whether it still listens."""
        try:
            socket.create_connection((self.host, self._port), timeout=_ANSWER_SECONDS).close()
        except ConnectionRefusedError:
            return False
        except OSError:  # a busy machine may be slow to answer: only a refusal means that the process is gone
            return True
        return True


def nodes_of(ray: Any) -> list[Node]:
    """Return the resources of the hosts that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # Ray splits the memory that was free when it started on the host into these two
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
    """Let Ray log errors only: a wall of log lines hides the one that matters."""
    for name in ("ray", "ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
