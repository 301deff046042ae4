"""What Ray says of a trial whose process is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager

from rechub_ray.sweeps.lost import losses_cost_one_trial, reason


def test_a_process_that_ray_killed_for_memory_fails_its_trial_and_not_the_sweep() -> None:
    told: list[Any] = []
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    task: Any = SimpleNamespace(
        _tracked_actor=SimpleNamespace(actor_id=1, _on_error=None), _on_error=lambda actor, error: told.append(error)
    )
    killed = ray.exceptions.OutOfMemoryError("killed due to the node running low on memory")
    with losses_cost_one_trial():
        RayActorManager._actor_task_failed(manager, task, killed)
    assert isinstance(told[0], ray.exceptions.RayActorError)
    assert reason(f"Failure # 1 (occurred at 1)\n{told[0]}") == "its process was killed: its host ran out of memory"
    with pytest.raises(
        RuntimeError, match="unexpected exception"
    ):  # what Ray does by itself; drop ours when it changes
        RayActorManager._actor_task_failed(manager, task, killed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "its process was lost: killed, out of memory, or with its host"),
        (
            "Failure # 1 (occurred at 1)\nConnectionError: a\nFailure # 2 (occurred at 2)\n"
            "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker "
            "process has died. Worker exit type: SYSTEM_ERROR",
            "its process was lost: killed, out of memory, or with its host",
        ),
        (
            "Failure # 1 (occurred at 1)\nTask was killed due to the node running low on memory.\nMemory on the node",
            "its process was killed: its host ran out of memory",
        ),
        ("Failure # 1 (occurred at 1)\nTraceback\n  File x\nMemoryError: nothing left\n", "MemoryError: nothing left"),
    ],
)
def test_the_reason_is_the_last_thing_that_went_wrong(text: str, expected: str) -> None:
    assert reason(text) == expected
