"""Runs a function over tasks, in this process or as a Ray Data pipeline: same results, same order."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rechub_ray.errors import RechubError
from rechub_ray.preparation import progress

T = TypeVar("T")
R = TypeVar("R")

RAY_BYTES = 256 << 20
"""Inputs from this size on go through Ray: starting it takes seconds."""


def ray_is_up() -> bool:
    """Return whether this process is connected to a cluster, without importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def run(function: Callable[[T], R], items: list[T], *, use_ray: bool) -> Iterator[R]:
    """Yield `function(item)` for every item, in the order of the items.

    Args:
        function: it is pickled where Ray runs it.
        items: its arguments, one a task.
        use_ray: as a Ray Data pipeline; starts Ray where it does not run.

    Raises:
        RechubError, OSError: of the function, as they are.
    """
    if not use_ray or len(items) < 2:
        yield from map(function, items)
        return
    waiting: dict[int, Any] = {}
    turn = 0
    for number, result in _ray(function, items):
        waiting[number] = result
        while turn in waiting:
            result = waiting.pop(turn)
            turn += 1
            if isinstance(result, RechubError | OSError):
                raise result
            yield result


def _ray(function: Callable[[T], R], items: list[T]) -> Iterator[tuple[int, Any]]:
    import ray.data

    if not ray.is_initialized():
        progress.waits_for("starting Ray")
        ray.init(log_to_driver=False, include_dashboard=False)
        progress.waits_for(None)
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        # one block a task, so that a task is one unit of scheduling and of retry
        dataset = ray.data.from_items(
            [{"number": i, "item": pickle.dumps(item)} for i, item in enumerate(items)], override_num_blocks=len(items)
        )
        work: Any = _Work(function).__call__
        mapped = dataset.map_batches(work, batch_size=None, batch_format="numpy")
        for row in mapped.iter_rows():
            yield int(row["number"]), pickle.loads(row["result"])
    finally:
        context.enable_progress_bars = shown
        logger.setLevel(level)


class _Work:
    """The function of a Ray task; errors that a user can mend travel as values, not as tracebacks."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = []
        for item in batch["item"]:
            try:
                result = self.function(pickle.loads(item))
            except (RechubError, OSError) as error:
                result = error
            results.append(pickle.dumps(result))
        return {"number": batch["number"], "result": results}
