"""Processes of a sweep that hang: each says from a thread that it is alive, and one that no longer does is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from rechub_ray.interrupt import end_processes, started_at
from rechub_ray.runtime.board import WorkerPlace, on_this_host

_MOST_SECONDS = 5.0  # between two beats


@dataclasses.dataclass(frozen=True)
class ProcessPlace(WorkerPlace):
    """Where a process runs, and what tells it from a later one with the same id.

    Args:
        node: Ray's id of its host.
        started: when it started, as in `interrupt.Process`.
    """

    node: str
    started: int

    @classmethod
    def here(cls) -> ProcessPlace:
        """Return this process's place."""
        import ray

        started = 0  # without /proc: nothing is killed
        with contextlib.suppress(OSError):
            started = started_at(os.getpid())
        node = ray.get_runtime_context().get_node_id()
        return cls(ray.util.get_node_ip_address(), os.getpid(), node, started)

    def kill(self) -> None:
        """Kill the process by a task on its host: one that is stopped does not follow Ray's request to end."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(end_processes)
        task.remote([(self.pid, self.started)])


class Heartbeats:
    """The actor that knows when each process was last heard."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[ProcessPlace, float]] = {}
        self._looked = time.monotonic()

    def beat(self, name: str, place: ProcessPlace) -> None:
        """Note that the process which does the work `name` is alive."""
        self._heard[name] = (place, time.monotonic())

    def leave(self, name: str, place: ProcessPlace) -> None:
        """Note that a process has ended its work `name`, which another one may have taken over."""
        if name in self._heard and self._heard[name][0] == place:
            del self._heard[name]

    def silent(self, seconds: float) -> dict[str, ProcessPlace]:
        """Return, and forget, the processes that were not heard for `seconds`, by the names of their work."""
        now = time.monotonic()
        if now - self._looked > seconds / 2:  # this process, or the one that asks, was stopped: beats may be waiting
            self._heard = {name: (place, now) for name, (place, _) in self._heard.items()}
        self._looked = now
        found = {name: place for name, (place, at) in self._heard.items() if now - at > seconds}
        for name in found:
            del self._heard[name]
        return found


@dataclasses.dataclass(frozen=True)
class Heartbeat:
    """What a process needs to say that it is alive.

    Args:
        listener: the actor.
        seconds: of silence, after which a process counts as hanging, > 0.
    """

    listener: Any
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds between two beats, and between two looks."""
        return min(self.seconds / 10, _MOST_SECONDS)

    @contextlib.contextmanager
    def beating(self, name: str) -> Iterator[None]:
        """Say that this process is alive, while this is open.

        Args:
            name: of this process's work.
        """
        place, over = ProcessPlace.here(), threading.Event()

        def run() -> None:
            self.listener.beat.remote(name, place)
            while not over.wait(self.interval):
                self.listener.beat.remote(name, place)

        thread = threading.Thread(target=run, name="rechub-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.listener.leave.remote(name, place)


class Watchdog:
    """Looks now and then, without waiting, which processes no longer answer, and kills them.

    Args:
        seconds: as for `Heartbeat`.
    """

    def __init__(self, seconds: float) -> None:
        import ray

        self.heartbeat = Heartbeat(on_this_host(ray, Heartbeats).remote(), seconds)
        self._answer: Any = None
        self._asked = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as None, because Ray Tune writes its callbacks to disk with all that they hold."""
        return type(None), ()

    def look(self) -> dict[str, str]:
        """Kill the processes that hang; return a line on each, by the name of its work."""
        import ray

        seconds, found = self.heartbeat.seconds, {}
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):  # without the actor, only what dies is noticed
                found = ray.get(self._answer)
            self._answer = None
        elif self._answer is None and time.monotonic() - self._asked >= self.heartbeat.interval:
            self._asked, self._answer = time.monotonic(), self.heartbeat.listener.silent.remote(seconds)
        for place in found.values():
            place.kill()
        return {
            name: f"its process ({place}) did not answer for {seconds:g} s, and was killed"
            for name, place in found.items()
        }

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self.heartbeat.listener)
