"""The searches of a sweep, which choose its points, and the numbering of its trials."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rechub_ray.config import Section
from rechub_ray.errors import ConfigError
from rechub_ray.space import Point, Space
from rechub_ray.sweeps.objectives import Objective
from rechub_ray.sweeps.schedulers import SCORE

PACKAGES = {"optuna": ["optuna"], "hyperopt": ["hyperopt"], "bohb": ["ConfigSpace", "hpbandster"]}


class Search(Section):
    """How points are chosen.

    Args:
        name: `random`, `grid` (every combination), `optuna` (TPE), `hyperopt` (TPE) or `bohb` (with scheduler: bohb).
        initial_points: random points before optuna's or hyperopt's model is used.
    """

    name: Literal["random", "grid", "optuna", "hyperopt", "bohb"] = "random"
    initial_points: Annotated[int, Ge(1)] = 10


def check_packages(name: str) -> None:
    """Check that the packages of a search or scheduler are installed.

    Raises:
        ConfigError: one is not.
    """
    for package in {**PACKAGES, "pb2": ["GPy", "sklearn"]}.get(name, []):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ConfigError(
                f"'{name}' needs the package {package}, which is not installed",
                hint="pip install 'rechub_ray[tune]'",
            ) from None


def model_based(settings: Search, space: Space, objectives: Sequence[Objective], *, seed: int) -> Any:
    """Return the searcher, or None for `random` and `grid`, whose points are known beforehand."""
    common = {"metric": SCORE, "mode": objectives[0].mode}
    if settings.name == "optuna":
        return OptunaModel(space, objectives, initial_points=settings.initial_points, seed=seed)
    if settings.name == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        points, space_ = settings.initial_points, space.domains()
        return HyperOptSearch(space_, n_initial_points=points, random_state_seed=seed, **common)
    if settings.name == "bohb":
        from ray.tune.search.bohb import TuneBOHB

        return TuneBOHB(TuneBOHB.convert_search_space(space.domains()), seed=seed, **common)
    return None


class OptunaModel:
    """Optuna's TPE, for one objective or several.

    Ray's own OptunaSearch does not have variables that count only under a choice, and takes no earlier trials with
    several objectives; asking the study itself takes fewer lines than working around that.

    Args:
        space: the paths that vary; a component's own variables are asked for only where it is chosen.
        objectives: all objectives, with their modes.
        initial_points: random points before the model is used.
        seed: seed of the sampler.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], *, initial_points: int, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._objectives = optuna, space, objectives
        self._study = optuna.create_study(
            directions=["maximize" if o.mode == "max" else "minimize" for o in objectives],
            sampler=optuna.samplers.TPESampler(n_startup_trials=initial_points, seed=seed),
        )
        self._asked: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> Point:
        """Return the next point, without the variables that do not count at it."""
        self._asked[trial_id] = self._study.ask()
        return self._fill(self._asked[trial_id])

    def add(self, point: Point, values: Sequence[float]) -> None:
        """Add a finished trial that the model did not suggest."""
        fixed = self._optuna.trial.FixedTrial(point)
        self._fill(fixed)
        create = self._optuna.trial.create_trial
        self._study.add_trial(create(values=list(values), params=fixed.params, distributions=fixed.distributions))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the model learns from whole trials."""

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Add the outcome of a trial that the model suggested."""
        asked = self._asked.pop(trial_id)
        if error or not result:
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, [float(result[o.report_key]) for o in self._objectives])

    def _fill(self, asked: Any) -> Point:
        point: Point = {}
        for v in self._space.variables:  # a choice comes before what belongs to its options
            if v.parent is not None and point.get(v.parent[0]) != v.parent[1]:
                continue
            if not v.is_range:
                point[v.name] = asked.suggest_categorical(v.name, list(v.options))
            elif v.kind == "randint":
                point[v.name] = asked.suggest_int(v.name, int(v.low), int(v.high) - 1)
            else:
                point[v.name] = v.clip(asked.suggest_float(v.name, v.low, v.high, log=v.kind == "loguniform"))
        return point


def listed(configs: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Return Ray Tune's search algorithm and space for trials that are all known beforehand, in their order."""
    from ray import tune
    from ray.tune.search import BasicVariantGenerator

    # Ray needs a space, and the points must lie in it
    space = {key: tune.choice(list(dict.fromkeys(config[key] for config in configs))) for key in configs[0]}
    return BasicVariantGenerator(points_to_evaluate=configs), space


def numbered(
    planned: list[dict[str, Any]],
    inner: Any,
    total: int,
    opened: Callable[[Point], dict[str, Any]],
    *,
    objectives: Sequence[Objective],
) -> Any:
    """Return Ray Tune's searcher over planned trials, then over what `inner` suggests.

    Args:
        planned: configurations of the trials with known points.
        inner: the model-based searcher.
        total: trials of this start of the sweep.
        opened: opens a trial at a point and returns its configuration.
        objectives: a trial counts with its best evaluation by the first one, not with its last.
    """
    sign = 1.0 if objectives[0].mode == "max" else -1.0

    from ray.tune.search import Searcher

    class Numbered(Searcher):  # type: ignore[misc]
        """Gives every trial its number; only optuna's model takes the results of planned points."""

        def __init__(self) -> None:
            super().__init__()
            self.queue = deque(planned)
            self.given = 0
            self.own: set[str] = set()
            self.planned: dict[str, Point] = {}
            self.best: dict[str, dict[str, Any]] = {}

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True  # the model has its own already

        def suggest(self, trial_id: str) -> Any:
            if self.given >= total:
                return Searcher.FINISHED
            if self.queue:
                self.given += 1
                config = self.queue.popleft()
                self.planned[trial_id] = {key: value for key, value in config.items() if not key.startswith("_")}
                return config
            point = inner.suggest(trial_id)
            if point is None or point == Searcher.FINISHED:
                return point
            self.given += 1
            self.own.add(trial_id)
            return opened({key: _plain(value) for key, value in point.items()})

        def keep(self, trial_id: str, result: dict[str, Any]) -> None:
            before = self.best.get(trial_id)
            if SCORE in result and (before is None or sign * result[SCORE] > sign * before[SCORE]):
                self.best[trial_id] = result

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            self.keep(trial_id, result)
            if trial_id in self.own:
                inner.on_trial_result(trial_id, result)

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self.keep(trial_id, result or {})  # the result that stops a trial comes only here
            best = self.best.pop(trial_id, None)
            if trial_id in self.own:
                inner.on_trial_complete(trial_id, result=best, error=error or best is None)
            elif isinstance(inner, OptunaModel) and best is not None and not error:
                inner.add(self.planned[trial_id], [float(best[o.report_key]) for o in objectives])

        def on_pause(self, trial_id: str) -> None:
            if trial_id in self.own:
                inner.on_pause(trial_id)

        def on_unpause(self, trial_id: str) -> None:
            if trial_id in self.own:
                inner.on_unpause(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Do nothing: a sweep is resumed from trials.jsonl."""

        def restore(self, checkpoint_path: str) -> None:
            """Do nothing: a sweep is resumed from trials.jsonl."""

    return Numbered()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
