"""PBT and PB2 as Ray Tune's schedulers, with values that stay in their ranges and a callback for exploits."""

from __future__ import annotations

import contextlib
import importlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rechub_ray.runtime.ray_private import has_population_steps, population_steps
from rechub_ray.space import Space, Variable


class Exploit(NamedTuple):
    """The event that a trial goes on from a copy of another one, its donor.

    Args:
        trial: the trial's configuration in Tune, with its new values.
        donor: the donor's configuration in Tune.
        step: the optimizer step that the trial had reached.
        score: the trial's last score.
        donor_score: the donor's last score.
        checkpoint: Ray's checkpoint of the donor.
    """

    trial: dict[str, Any]
    donor: dict[str, Any]
    step: int
    score: float
    donor_score: float
    checkpoint: Any


def population(
    base: str,
    space: Space,
    names: Sequence[str],
    given: Mapping[str, Any],
    *,
    epochs: float,
    exploited: Callable[[Exploit], None],
) -> Any:
    """Return Ray Tune's scheduler, or None where this version of Ray lacks what it builds on.

    Args:
        base: `pbt` or `pb2`.
        space: the sweep's space.
        names: names of the variables that change.
        given: more arguments of Ray's class.
        epochs: epochs of a whole run.
        exploited: called at each exploit.
    """
    variables = {v.name: v for v in space.variables if v.name in names}
    cls = {"pbt": _pbt, "pb2": _pb2}[base](variables)

    class Population(cls):  # type: ignore[misc, valid-type]
        """Reports exploits, keeps each trial's identity, and lets no trial wait for one that is gone."""

        def __init__(self) -> None:
            super().__init__(**ranges(base, space, names), **given)
            self._gone: set[Any] = set()  # Ray counts a failed trial as live, and would wait for it

        def on_trial_add(self, controller: Any, trial: Any) -> None:
            self._gone.discard(trial)  # started again after a failure
            super().on_trial_add(controller, trial)

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if self.time_of(result) >= epochs:  # nothing is left to train, from its weights or from others'
                self.state_of(trial).last_score = None
                return str(self.CONTINUE)
            for other in self._gone:
                self.wait_no_longer(other)
            return str(super().on_trial_result(controller, trial, result))

        def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
            super().on_trial_complete(controller, trial, result)
            self._without(controller, trial)

        def on_trial_error(self, controller: Any, trial: Any) -> None:
            super().on_trial_error(controller, trial)
            self._without(controller, trial)

        def _without(self, controller: Any, trial: Any) -> None:
            """Compare the waiting trials, if the trial that is gone was the last one that they waited for."""
            self._gone.add(trial)
            self.state_of(trial).last_score = None
            self.compare(controller, [t for t in controller.get_live_trials() if t not in self._gone])

        def new_config(self, trial: Any, donor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            new, operations = super().new_config(trial, donor)
            return new | {key: value for key, value in trial.config.items() if key.startswith("_")}, operations

        def exploit(self, controller: Any, trial: Any, donor: Any) -> None:
            step, scores = int(self.state_of(trial).last_result["step"]), (self.score_of(trial), self.score_of(donor))
            super().exploit(controller, trial, donor)
            exploited(Exploit(trial.config, donor.config, step, *scores, self.state_of(donor).last_checkpoint))

    scheduler = Population()
    return scheduler if has_population_steps(scheduler) else None


def ranges(base: str, space: Space, names: Sequence[str]) -> dict[str, Any]:
    """Return what may change, in the form of Ray's classes."""
    variables = [v for v in space.variables if v.name in names]
    if base == "pb2":
        return {"hyperparam_bounds": {v.name: [_place(v, x) for x in v.extremes()] for v in variables}}
    domains = space.domains()
    return {"hyperparam_mutations": {v.name: domains[v.name] if v.is_range else list(v.options) for v in variables}}


def _pbt(variables: Mapping[str, Variable]) -> Any:
    base: Any = population_steps(importlib.import_module("ray.tune.schedulers.pbt").PopulationBasedTraining)

    class Clipped(base):  # type: ignore[misc]
        """Ray's PBT, whose factors lead out of no range."""

        def new_config(self, trial: Any, donor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            new, operations = super().new_config(trial, donor)
            values = {name: v.clip(new[name]) for name, v in variables.items()}
            return new | _changed(variables, values, donor), operations

    return Clipped


def _pb2(variables: Mapping[str, Variable]) -> Any:
    base: Any = population_steps(importlib.import_module("ray.tune.schedulers.pb2").PB2)

    class Modelled(base):  # type: ignore[misc]
        """Ray's PB2, whose model sees log-uniform values as logs, and which changes values from the first exploit on.

        Ray's class copies the donor's values as long as its model has no gains of the donor, which would make the
        first exploits plain copies. The model records a changed value as the trial gets it, after rounding, because it
        matches the two by equality.
        """

        def save(self, state: Any, time: Any, result: dict[str, Any], trial: Any) -> Any:
            score = super().save(state, time, result, trial)
            self._correct({name: trial.config[name] for name in variables})
            return score

        def new_config(self, trial: Any, donor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            rows, new, operations = len(self.data), dict(donor.config), {}
            with warnings.catch_warnings(), contextlib.suppress(ValueError, np.linalg.LinAlgError):
                warnings.simplefilter("ignore")  # few points fit badly, or not at all
                new, operations = super().new_config(trial, donor)
            values = {name: donor.config[name] for name in variables}
            if len(self.data) > rows:
                values = {name: v.clip(_value(v, new[name])) for name, v in variables.items()}
            else:
                state = self.state_of(donor)
                self.data.loc[rows] = [str(trial), state.last_train_time, *values.values(), state.last_score]
            values = _changed(variables, values, donor)
            self._correct(values)
            if self.current is not None:
                self.current[-1] = [_place(v, values[name]) for name, v in variables.items()]
            return new | values, operations

        def _correct(self, values: Mapping[str, Any]) -> None:
            """Put values into the newest row of the model's data."""
            for name, v in variables.items():
                self.data[name] = self.data[name].astype(float)
                self.data.loc[len(self.data) - 1, name] = _place(v, values[name])

    return Modelled


def _changed(variables: Mapping[str, Variable], values: dict[str, Any], donor: Any) -> dict[str, Any]:
    """Return the values, drawn again where all are the donor's: a plain copy would only repeat the donor's run."""
    if any(values[name] != donor.config[name] for name in variables):
        return values
    rng = np.random.default_rng()
    return {name: v.sample(rng) for name, v in variables.items()}


def _place(v: Variable, value: Any) -> float:
    """Return a value as the model sees it."""
    return math.log(value) if v.kind == "loguniform" else float(value)


def _value(v: Variable, place: float) -> float:
    return math.exp(place) if v.kind == "loguniform" else place
