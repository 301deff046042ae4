"""The only file that uses names of Ray which are not public, each with its purpose and with what is done without it.

A name that is gone after an update of Ray costs a message or a convenience, never a run or a sweep.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

# name -> its purpose; what is done without it
NAMES: dict[str, str] = {
    "ray._private.services:find_bootstrap_address": (
        "the address that `ray start` noted on this machine; without it a run starts a Ray of its own, unless "
        "RAY_ADDRESS or scaling.address names one"
    ),
    "ray._private.worker:_worker_logs_enabled": (
        "keeps Ray from printing its processes' messages among the run's lines; without it forty lines of log come "
        "with a process that dies"
    ),
    "ray.air.execution._internal.actor_manager:RayActorManager._actor_task_failed": (
        "takes a trial that the memory monitor killed for a lost one; without it that error ends the sweep, which "
        "--resume goes on with"
    ),
    **{
        f"ray.tune.schedulers.pbt:PopulationBasedTraining.{name}": (
            "keeps changed values in their ranges and tells of exploits; without it trials of pbt and pb2 run to their "
            "end as under fifo"
        )
        for name in ("_get_new_config", "_exploit", "_save_trial_state", "_quantiles", "_checkpoint_or_exploit")
    },
}
# attributes of that class's objects
_POPULATION_STATE = (
    "_trial_state", "_next_perturbation_sync", "_perturbation_interval", "_synch", "_metric", "_time_attr"
)  # fmt: skip


def find(name: str) -> Any:
    """Return the object at `module` or `module:attribute.attribute`, or None where this version of Ray lacks it."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def noted_address() -> str | None:
    """Return the address of the cluster that `ray start` (or `ray up`) noted on this machine; it may be dead by now.

    Ray's own "auto" also takes Ray processes of other users.
    """
    look = find("ray._private.services:find_bootstrap_address")
    with contextlib.suppress(Exception):
        return (look(None) if look is not None else None) or None
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's messages about its processes off stdout while this is open: the run reports them in one line."""
    worker, name = find("ray._private.worker"), "_worker_logs_enabled"
    if not hasattr(worker, name):
        yield
        return
    before = getattr(worker, name)
    setattr(worker, name, False)
    try:
        yield
    finally:
        setattr(worker, name, before)


@contextlib.contextmanager
def task_failures_as(translate: Callable[[Exception], Exception]) -> Iterator[None]:
    """Translate the errors with which calls of Ray Tune's trial actors fail, while this is open."""
    manager = find("ray.air.execution._internal.actor_manager:RayActorManager")
    original = getattr(manager, "_actor_task_failed", None)
    if original is None:
        yield
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        original(self, tracked_actor_task, translate(exception))

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original


def population_steps(base: Any) -> Any:
    """Return a subclass of Ray Tune's PBT or PB2 whose steps have public names, to be overridden and called.

    Args:
        base: `ray.tune.schedulers.PopulationBasedTraining` or a subclass.
    """

    class Steps(base):  # type: ignore[misc]
        """Ray's scheduler; the methods without an underscore are ours."""

        _next_perturbation_sync: float

        def new_config(self, trial: Any, donor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            """Return the configuration of a trial that copies a donor, and how each value came about."""
            found: tuple[dict[str, Any], dict[str, Any]] = super()._get_new_config(trial, donor)
            return found

        def exploit(self, controller: Any, trial: Any, donor: Any) -> None:
            """Let a trial go on from a copy of a donor."""
            super()._exploit(controller, trial, donor)

        def save(self, state: Any, time: Any, result: dict[str, Any], trial: Any) -> Any:
            """Take a trial's result; return its score."""
            return super()._save_trial_state(state, time, result, trial)

        def state_of(self, trial: Any) -> Any:
            """Return Ray's state of a trial."""
            return self._trial_state[trial]

        def time_of(self, result: dict[str, Any]) -> float:
            """Return how long a trial has trained, in the unit of the intervals."""
            return float(result[self._time_attr])

        def score_of(self, trial: Any) -> float:
            """Return the metric of a trial's last result."""
            return float(self._trial_state[trial].last_result[self._metric])

        def wait_no_longer(self, trial: Any) -> None:
            """Let the others go on as if the trial had trained as far as they have."""
            self._trial_state[trial].last_train_time = self._next_perturbation_sync

        def compare(self, controller: Any, trials: list[Any]) -> None:
            """Compare trials that wait for each other, if all of them have trained far enough."""
            states = [self._trial_state[trial] for trial in trials]
            if not self._synch or not states or any(s.last_train_time < self._next_perturbation_sync for s in states):
                return
            worst, best = self._quantiles()
            for one in [*best, *worst]:
                self._checkpoint_or_exploit(one, controller, best, worst)
            for state in states:
                state.last_perturbation_time = self._next_perturbation_sync
            last = max(state.last_train_time for state in states)
            self._next_perturbation_sync = max(self._next_perturbation_sync + self._perturbation_interval, last)

        def _get_new_config(self, trial: Any, donor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            return self.new_config(trial, donor)

        def _exploit(self, controller: Any, trial: Any, donor: Any) -> None:
            self.exploit(controller, trial, donor)

        def _save_trial_state(self, state: Any, time: Any, result: dict[str, Any], trial: Any) -> Any:
            return self.save(state, time, result, trial)

    return Steps


def has_population_steps(scheduler: Any) -> bool:
    """Return whether this version of Ray has all that `population_steps` builds on."""
    is_there = all(find(name) is not None for name in NAMES if name.startswith("ray.tune.schedulers.pbt:"))
    return is_there and all(hasattr(scheduler, name) for name in _POPULATION_STATE)
