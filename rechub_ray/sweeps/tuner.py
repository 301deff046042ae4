"""A sweep with the interface of Ray Tune: it only builds a `Sweep`, and `tune` does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rechub_ray import config as config_module
from rechub_ray.config import RunConfig
from rechub_ray.errors import ConfigError
from rechub_ray.sweeps import sweep as sweep_module
from rechub_ray.sweeps.launch import tune
from rechub_ray.sweeps.ray_names import settings_of, split_space
from rechub_ray.sweeps.sweep import Sweep


class Tuner:
    """A sweep with the interface of `ray.tune.Tuner`.

    Args:
        base: the base configuration: a file, a mapping, or a `RunConfig`.
        param_space: path of the configuration -> Ray Tune's search space (`tune.loguniform(1e-4, 1e-1)`), our own
            (`{"loguniform": [1e-4, 1e-1]}`), or a value that is the same in all trials.
        tune_config: `ray.tune.TuneConfig` or a mapping with its keys: metric, mode, num_samples, max_concurrent_trials,
            time_budget_s, search_alg and scheduler (ours: a name, or a mapping). A mapping may have any key of a sweep
            file too, as in `{"num_samples": 20, "scheduler": "asha", "refit": True}`.
        run_config: `ray.tune.RunConfig` or a mapping: name, storage_path (the sweep's folder is `storage_path/name`),
            failure_config, verbose.
        overrides: of the sweep, as for `tune`: `base.<path>`, or a key of a sweep file.

    Raises:
        ConfigError: a setting is wrong, or a sweep does not have it.

    Example:
        >>> results = Tuner("configs/demo.yaml", param_space={...}).fit()  # doctest: +SKIP
        >>> results.get_best_result().checkpoint  # doctest: +SKIP
    """

    def __init__(
        self,
        base: str | Path | Mapping[str, Any] | RunConfig,
        *,
        param_space: Mapping[str, Any],
        tune_config: Any = None,
        run_config: Any = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        space, fixed = split_space(param_space)
        settings = settings_of(tune_config, run_config, space)
        self._verbose = bool(settings.pop("verbose", True))
        data = base.model_dump(mode="json") if isinstance(base, RunConfig) else config_module.read_yaml(base)
        if "space" in data:
            raise ConfigError("'base' is a sweep", expected="a configuration", hint="rechub_ray.tune(...) runs sweeps.")
        self.sweep: Sweep | None = sweep_module.load(
            {"base": data, "overrides": fixed, "space": space, **settings}, overrides
        )
        self._directory = self.sweep.directory()
        self._changes: Sequence[str] | Mapping[str, Any] = ()

    def fit(self) -> Any:
        """Run the sweep; `rechub_ray.tune` says what is left in its folder.

        Returns:
            Ray Tune's `ResultGrid` over all trials; the checkpoint of its best result is the one in `best/`, in the
            trial's own folder.

        Raises:
            RechubError: anything that a user can mend.
        """
        if self.sweep is None:
            return tune(resume=self._directory, overrides=self._changes, verbose=self._verbose).grid
        return tune(self.sweep.model_dump(mode="json"), verbose=self._verbose).grid

    def get_results(self) -> Any:
        """Return the `ResultGrid` of the trials so far."""
        from rechub_ray.sweeps.result_grid import SweepGrid

        return SweepGrid(self._directory)

    @classmethod
    def restore(
        cls, path: str | Path, *, overrides: Sequence[str] | Mapping[str, Any] = (), verbose: bool = True
    ) -> Tuner:
        """Return the sweep in a folder, with which `fit` goes on from where it was interrupted.

        Args:
            path: the sweep's folder; what is trained is written there.
            overrides: settings that may change, as in `{"trials": 50}`.
            verbose: show progress.

        Raises:
            ConfigError: the folder does not hold a sweep.
        """
        if not cls.can_restore(path):
            raise ConfigError(f"no sweep to restore in '{path}'", expected="a folder with sweep.yaml and trials.jsonl")
        tuner = cls.__new__(cls)
        tuner.sweep, tuner._directory, tuner._changes, tuner._verbose = None, str(path), overrides, verbose
        return tuner

    @classmethod
    def can_restore(cls, path: str | Path) -> bool:
        """Return whether a folder holds a sweep that `restore` takes."""
        return all((Path(path) / name).is_file() for name in ("sweep.yaml", "trials.jsonl"))
