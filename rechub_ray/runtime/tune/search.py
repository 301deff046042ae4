"""Where the next point comes from: the searches of a sweep, and the numbering of its trials."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rechub_ray.config import Section
from rechub_ray.errors import ConfigError
from rechub_ray.runtime.tune.schedulers import SCORE
from rechub_ray.runtime.tune.space import Point, Space

PACKAGES = {"optuna": ["optuna"], "hyperopt": ["hyperopt"], "bohb": ["ConfigSpace", "hpbandster"]}


class Search(Section):
    """Where points come from.

    Args:
        name: `random`, `grid` (every combination), `optuna` (TPE), `hyperopt` (TPE) or `bohb` (with scheduler: bohb).
        initial_points: random points before optuna's or hyperopt's model is used.
    """

    name: Literal["random", "grid", "optuna", "hyperopt", "bohb"] = "random"
    initial_points: Annotated[int, Ge(1)] = 10


def check_packages(name: str) -> None:
    """ConfigError when a package that the search or scheduler needs is not installed."""
    for package in {**PACKAGES, "pb2": ["GPy", "sklearn"]}.get(name, []):
        try:
            importlib.import_module(package)
        except ImportError:
            raise ConfigError(
                f"'{name}' needs the package {package}, which is not installed",
                hint="pip install 'rechub_ray[tune]'",
            ) from None


def model_based(settings: Search, space: Space, *, mode: str, seed: int) -> Any:
    """Ray Tune's searcher, or None for `random` and `grid`, whose points are known beforehand."""
    common = {"metric": SCORE, "mode": mode}
    if settings.name == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(n_startup_trials=settings.initial_points, seed=seed)
        return OptunaSearch(space=space.domains(), sampler=sampler, **common)
    if settings.name == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        points, space_ = settings.initial_points, space.domains()
        return HyperOptSearch(space_, n_initial_points=points, random_state_seed=seed, **common)
    if settings.name == "bohb":
        from ray.tune.search.bohb import TuneBOHB

        return TuneBOHB(TuneBOHB.convert_search_space(space.domains()), seed=seed, **common)
    return None


def listed(configs: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Ray Tune's search algorithm and space for trials that are all known beforehand, in their order."""
    from ray import tune
    from ray.tune.search import BasicVariantGenerator

    # Ray wants a space, and the points must lie in it
    space = {key: tune.choice(list(dict.fromkeys(config[key] for config in configs))) for key in configs[0]}
    return BasicVariantGenerator(points_to_evaluate=configs), space


def numbered(planned: list[dict[str, Any]], inner: Any, total: int, opened: Callable[[Point], dict[str, Any]]) -> Any:
    """Ray Tune's searcher over planned trials, then over what `inner` suggests.

    Args:
        planned: what trials with known points are given.
        inner: the model-based searcher.
        total: trials of this start of the sweep.
        opened: opens a trial at a point; returns what it is given.
    """
    from ray.tune.search import Searcher

    class Numbered(Searcher):  # type: ignore[misc]
        """Gives every trial its number; the model hears only of its own points."""

        def __init__(self) -> None:
            super().__init__()
            self.queue = deque(planned)
            self.given = 0
            self.own: set[str] = set()

        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
            return True  # the model has its own already

        def suggest(self, trial_id: str) -> Any:
            if self.given >= total:
                return Searcher.FINISHED
            if self.queue:
                self.given += 1
                return self.queue.popleft()
            point = inner.suggest(trial_id)
            if point is None or point == Searcher.FINISHED:
                return point
            self.given += 1
            self.own.add(trial_id)
            return opened({key: _plain(value) for key, value in point.items()})

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if trial_id in self.own:
                inner.on_trial_result(trial_id, result)

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if trial_id in self.own:
                inner.on_trial_complete(trial_id, result=result, error=error or SCORE not in (result or {}))

        def on_pause(self, trial_id: str) -> None:
            if trial_id in self.own:
                inner.on_pause(trial_id)

        def on_unpause(self, trial_id: str) -> None:
            if trial_id in self.own:
                inner.on_unpause(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """A sweep is resumed from trials.jsonl."""

        def restore(self, checkpoint_path: str) -> None:
            """A sweep is resumed from trials.jsonl."""

    return Numbered()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
