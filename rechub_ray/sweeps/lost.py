"""Trials that lose their process: Ray Tune starts them again, and a line gives the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rechub_ray.runtime.ray_private import task_failures_as


@contextlib.contextmanager
def losses_cost_one_trial() -> Iterator[None]:
    """Make every error of Ray about a trial's lost process a failure of that trial, within the block.

    Ray Tune (2.60) handles only one such error: when the memory monitor kills a trial, Tune takes the
    `OutOfMemoryError` for an error of its own and ends the whole run.
    """
    import ray

    known = (ray.exceptions.RayActorError, ray.exceptions.RayTaskError)

    def as_loss(error: Exception) -> Exception:
        if isinstance(error, ray.exceptions.RayError) and not isinstance(error, known):
            lost: Exception = ray.exceptions.RayActorError(error_msg=f"{type(error).__name__}: {error}")
            return lost
        return error

    with task_failures_as(as_loss):
        yield


def reason(text: str) -> str:
    """Return the last of the errors that Ray Tune wrote down for a trial, in one line."""
    last = text.rpartition("Failure # ")[2]
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    if "running low on memory" in last:
        return "its process was killed: its host ran out of memory"
    if not lines or any(sign in last for sign in ("worker process has died", "actor died", "is unavailable: ")):
        return "its process was lost: killed, out of memory, or with its host"
    return lines[-1]
