"""Processes of a sweep that hang: each touches a file from a thread, and one that no longer does is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rechub_ray.files import write_text
from rechub_ray.interrupt import end_processes, started_at
from rechub_ray.runtime.board import WorkerPlace

FILE = "alive.json"  # of a process at work, in the folder of what it trains


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
        """Return the place of this process, which is one of Ray's."""
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


@contextlib.contextmanager
def beating(folder: str, seconds: float) -> Iterator[None]:
    """Say from a thread that this process is alive, while this is open.

    Args:
        folder: of what the process trains.
        seconds: of silence, after which it counts as hanging, > 0.
    """
    file, over = Path(folder, FILE), threading.Event()
    mine = json.dumps(dataclasses.asdict(ProcessPlace.here()))
    write_text(str(file), mine)

    def run() -> None:
        while not over.wait(_between(seconds)):
            with contextlib.suppress(OSError):  # a disk that is lost ends the process with its own error
                os.utime(file)

    thread = threading.Thread(target=run, name="rechub-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == mine:  # not that of a process which has taken over
                file.unlink()


class Watchdog:
    """Looks now and then which processes no longer touch their files, and kills them.

    Only changes of the files' times count, because the clocks of two hosts may differ.

    Args:
        folder: holds the folders of what the processes train.
        seconds: as for `beating`.
    """

    def __init__(self, folder: str, seconds: float) -> None:
        self._folder, self.seconds = Path(folder), seconds
        self._seen: dict[str, tuple[int, float]] = {}  # the file's time, and when it was first seen so
        self._looked = time.monotonic()

    def look(self, names: Iterable[str]) -> dict[str, str]:
        """Kill the processes that hang; return a line on each, by the name of its folder.

        Args:
            names: of the folders in which processes are at work.
        """
        now = time.monotonic()
        if now - self._looked < _between(self.seconds):
            return {}
        if now - self._looked > self.seconds / 2:  # this process was stopped, and the others with it, perhaps
            self._seen.clear()
        self._looked = now
        killed = {}
        for name in names:
            file = self._folder / name / FILE
            with contextlib.suppress(OSError, ValueError):  # not yet there, or not any more
                beat = file.stat().st_mtime_ns
                if self._seen.get(name, (0, now))[0] != beat:
                    self._seen[name] = (beat, now)
                elif now - self._seen[name][1] > self.seconds:
                    place = ProcessPlace(**json.loads(file.read_text(encoding="utf-8")))
                    place.kill()
                    file.unlink()
                    killed[name] = f"its process ({place}) did not answer for {self.seconds:g} s, and was killed"
        return killed


def _between(seconds: float) -> float:
    return min(seconds / 10, 5.0)
