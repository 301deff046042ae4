"""Messages between workers and driver: an actor beside the driver, and the driver's thread that polls it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class WorkerPlace:
    """Where a worker runs.

    Args:
        host: its address.
        pid: the worker's process there.
    """

    host: str
    pid: int

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}"


class Board:
    """Holds the workers' events for the driver, and who has joined."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.error: Exception | None = None
        self.places: dict[int, WorkerPlace] = {}
        self.waited: dict[int, str] = {}
        self.losses: list[str] = []

    def push(self, event: Any) -> None:
        """Take an event for the driver."""
        self.events.append(event)

    def fail(self, error: Exception) -> None:
        """Take an error that starting again cannot mend; the first one counts."""
        self.error = self.error or error

    def has_failed(self) -> bool:
        """Return whether `fail` was called."""
        return self.error is not None

    def drain(self) -> tuple[list[Any], Exception | None]:
        """Return the events since the last call, and the error that ends the run, if any."""
        events, self.events = self.events, []
        return events, self.error

    def join(self, rank: int, place: WorkerPlace) -> None:
        """Note that a worker has started its part."""
        self.places[rank] = place
        self.events.append(("joined", rank))
        self.waited.pop(rank, None)

    def gave_up(self, rank: int, why: str) -> None:
        """Note that a worker waited for the others for as long as it may."""
        self.waited[rank] = why

    def present(self) -> tuple[dict[int, WorkerPlace], dict[int, str]]:
        """Return by rank the places of the workers that have joined, and the errors of those that gave up waiting."""
        return self.places, self.waited

    def lose(self, text: str) -> None:
        """Note a loss of workers: the group starts again, and joins anew."""
        self.losses.append(text)
        self.events.append(("lost", text))
        self.places, self.waited = {}, {}

    def lost(self) -> list[str]:
        """Return the description of each loss so far."""
        return self.losses


def make_board(ray: Any) -> Any:
    """Return a handle of a `Board`."""
    return on_this_host(ray, Board).remote()


def on_this_host(ray: Any, cls: type[Any], **options: Any) -> Any:
    """Return an actor class on the driver's host: on any other it would be gone with that host, and the run with it.

    Args:
        ray: the module.
        cls: what the actor is an instance of.
        options: of the actor, as `ray.remote` takes them.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here, **options)(cls)


class Pump:
    """Passes events from the board to `hear`, in a thread, while the workers run.

    Args:
        ray: the module.
        board: the actor.
        hear: takes one event.
    """

    def __init__(self, ray: Any, board: Any, hear: Callable[[tuple[Any, ...]], None]) -> None:
        self._ray, self._board, self._hear = ray, board, hear
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rechub-events", daemon=True)
        self.error: Exception | None = None
        self.patience_seconds = 60.0  # for the last events

    def __enter__(self) -> Pump:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=self.patience_seconds if kind is None or issubclass(kind, Exception) else 0)

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self._drain()
        self._drain()

    def _drain(self) -> None:
        try:
            events, error = self._ray.get(self._board.drain.remote(), timeout=30)
        except Exception:  # the cluster is shutting down; the wait for the run's end raises the cause
            return
        self.error = self.error or error
        for event in events:
            self._hear(event)
