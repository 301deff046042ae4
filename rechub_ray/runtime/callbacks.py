"""The callback that runs inside Ray Train's controller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from rechub_ray.runtime.board import WorkerPlace

_GRACE_SECONDS = 3.0  # for the other workers to give up too: one that did not by then is the one they wait for


class OnLoss(UserCallback):  # type: ignore[misc]
    """Reports which worker was lost, and ends the run at an error that starting again cannot mend.

    The controller would retry a wrong file for ever.

    Args:
        board: the driver's actor; workers report such errors to it before they raise them.
        size: workers of the run.
        timeout_seconds: how long they wait for each other.
    """

    def __init__(self, board: Any, *, size: int, timeout_seconds: float) -> None:
        self._board, self._size, self._timeout_seconds = board, size, timeout_seconds

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Describe the loss to the board, so that the workers start again.

        Raises:
            RuntimeError: a worker reported an error that starting again cannot mend; raising here ends the run.
        """
        import ray

        if ray.get(self._board.has_failed.remote(), timeout=30):
            raise RuntimeError("the run ended with an error that a restart cannot mend")
        until = time.monotonic() + _GRACE_SECONDS
        while True:
            places, waited = ray.get(self._board.present.remote(), timeout=30)
            is_known = not waited or len(waited) + 1 >= self._size or any(map(_is_end, worker_exceptions.values()))
            if is_known or time.monotonic() > until:
                break
            time.sleep(0.1)
        text = describe_loss(worker_exceptions, places, waited, self._size, self._timeout_seconds)
        ray.get(self._board.lose.remote(text), timeout=30)


def describe_loss(
    errors: Mapping[int, Exception],
    places: Mapping[int, WorkerPlace],
    waited: Mapping[int, str],
    size: int,
    timeout_seconds: float,
) -> str:
    """Return in a line which workers were lost, where, and how.

    Args:
        errors: Ray Train's exceptions by rank; a worker that noticed another's loss is among them.
        places: by rank, of the workers that had started.
        waited: by rank, the errors of the workers that waited for others in vain.
        size: workers of the run.
        timeout_seconds: how long they wait for each other.
    """

    def named(rank: int) -> str:
        return f"worker {rank} of {size}" + (f" ({places[rank]})" if rank in places else "")

    dead = [rank for rank, error in errors.items() if _is_death(error)]
    silent = [rank for rank, error in errors.items() if _is_silence(error)]
    if not silent and not dead and waited:
        silent = [rank for rank in range(size) if rank not in waited and rank not in errors]
    if dead:
        is_memory = any("OutOfMemory" in type(_cause(errors[rank])).__name__ for rank in dead)
        why = "its host ran out of memory" if is_memory else "its process or its host has died"
        return f"{' and '.join(map(named, dead))} was lost: {why}"
    if silent:
        return f"{' and '.join(map(named, silent))} did not take part for {timeout_seconds:g} s, and was ended"
    rank, error = min(errors.items(), key=lambda item: item[0] in waited)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{named(rank)} failed: {type(error).__name__}: {lines[-1] if lines else ''}"


def _is_end(error: Exception) -> bool:
    return _is_death(error) or _is_silence(error)


def _is_silence(error: Exception) -> bool:
    """Return whether a worker's process did not answer Ray Train. By name: the class is not public."""
    return type(error).__name__ == "WorkerHealthCheckTimeoutError"


def _is_death(error: Exception) -> bool:
    """Return whether Ray Train found a worker's process gone."""
    return type(error).__name__ == "WorkerHealthCheckFailedError"


def _cause(error: Exception) -> object:
    """Return Ray's own error about the process, where Ray Train wrapped one."""
    return getattr(error, "health_check_failure", error)
