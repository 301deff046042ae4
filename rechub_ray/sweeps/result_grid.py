"""A sweep's folder as Ray Tune's ResultGrid: all trials of all starts, each with its best evaluation and checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from ray.tune import Checkpoint, Result, ResultGrid

from rechub_ray.errors import CheckpointError, ConfigError, TrainingError, nearest
from rechub_ray.files import absolute
from rechub_ray.sweeps.ledger import FINAL, Record
from rechub_ray.sweeps.trial import best_of
from rechub_ray.tracking import read_history


class SweepGrid(ResultGrid):  # type: ignore[misc]
    """What `Tuner.fit` returns.

    A result's metrics are those of the trial's best evaluation, `test/<metric>` where the test split was evaluated, and
    `config` (path -> value); its checkpoint is the one of that evaluation, or None where `keep` dropped it.

    Args:
        directory: the sweep's folder.

    Raises:
        CheckpointError: the folder does not hold a sweep, or a damaged one.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(absolute(str(directory)))
        try:
            self._facts: dict[str, Any] = json.loads((self._directory / "sweep.json").read_text(encoding="utf-8"))
            lines = (self._directory / "trials.jsonl").read_text(encoding="utf-8").splitlines()
            self._records: list[Record] = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no sweep to read in '{directory}'", got=str(error)) from None
        self._results = [self._result(record) for record in self._records]

    @property
    def experiment_path(self) -> str:
        """The sweep's folder."""
        return str(self._directory)

    @property
    def filesystem(self) -> Any:
        """Where the folder lies."""
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem()

    @property
    def num_errors(self) -> int:
        """Failed trials."""
        return sum(record["status"] == "failed" for record in self._records)

    @property
    def num_terminated(self) -> int:
        """Trials that came to their end or were stopped."""
        return sum(record["status"] in FINAL and record["status"] != "failed" for record in self._records)

    def get_best_result(
        self, metric: str | None = None, mode: str | None = None, scope: str = "all", filter_nan_and_inf: bool = True
    ) -> Result:
        """Return the sweep's winner, or the best trial by another metric.

        Args:
            metric: the metric to compare; None takes the sweep's own, by which the winner in `best/` was chosen.
            mode: `max` or `min`; None takes the sweep's own, with its own metric only.
            scope: `all`, since a trial's metrics are those of its best evaluation.
            filter_nan_and_inf: leave out trials whose metric is not finite.

        Raises:
            ConfigError: the scope is another one, a metric has no mode, or no trial has the metric.
            TrainingError: no trial came to an evaluation.
        """
        if scope != "all":
            raise ConfigError(
                f"'scope' is {scope}, but a trial's metrics and its checkpoint are those of its best evaluation",
                expected="all",
                hint="A result's metrics_dataframe has every evaluation.",
            )
        own = self._facts["metric"]
        if metric in (None, own) and mode in (None, self._facts["mode"]):
            winner = self._facts.get("best_trial")
            if winner is None:
                raise TrainingError("no trial of the sweep came to an evaluation")
            return next(result for result in self._results if result.metrics["trial_id"] == winner)
        key = metric or own
        if mode not in ("max", "min"):
            raise ConfigError(f"'mode' of '{key}'", expected="max or min", got=mode)
        scored = [r for r in self._results if isinstance(r.metrics.get(key), (int, float))]
        scored = [r for r in scored if not filter_nan_and_inf or math.isfinite(r.metrics[key])]
        if not scored:
            known = {name for r in self._results for name, x in r.metrics.items() if isinstance(x, float)}
            raise ConfigError(f"no trial has the metric '{key}'", hint=nearest(key, known))
        return (max if mode == "max" else min)(scored, key=lambda r: r.metrics[key])

    def get_dataframe(self, filter_metric: str | None = None, filter_mode: str | None = None) -> pd.DataFrame:
        """Return one row a trial, with `config/<path>` columns.

        Args:
            filter_metric: take each trial's evaluation that is best by this metric; None takes the one that is best by
                the sweep's own.
            filter_mode: `max` or `min`, of `filter_metric`; None takes `max`.
        """
        rows = []
        for result in self._results:
            row = {key: value for key, value in result.metrics.items() if key != "config"}
            table = result.metrics_dataframe
            if filter_metric is not None and filter_metric in table:
                sign = -1 if filter_mode == "min" else 1
                row.update(table.loc[(sign * table[filter_metric]).idxmax()].to_dict())
            rows.append({**row, **{f"config/{path}": value for path, value in result.config.items()}})
        return pd.DataFrame(rows)

    def _result(self, record: Record) -> Result:
        folder = self._directory / "trials" / record["trial_id"]
        found = best_of(str(folder), self._facts["metric"], self._facts["mode"])
        metrics = {
            **record["metrics"],
            **{f"test/{key}": value for key, value in record["test_metrics"].items()},
            **{key: record[key] for key in ("score", "steps", "rows", "seed", "status", "trial_id")},
            "epochs": record["epochs"],
            "time_total_s": record["seconds"],
            "done": record["status"] in FINAL,
            "config": record["best_params"] or record["params"],
        }
        # not the one in `best/`, which changes when the sweep goes on and finds a better one
        checkpoint = Checkpoint(found[0]) if found is not None else None
        failed = record["status"] == "failed"
        return Result(
            metrics=metrics,
            checkpoint=checkpoint,
            error=TrainingError(str(record["reason"])) if failed else None,
            path=str(folder),
            metrics_dataframe=_evaluations(folder / "metrics.jsonl"),
            best_checkpoints=[(checkpoint, metrics)] if checkpoint is not None else [],
        )


def _evaluations(path: Path) -> pd.DataFrame:
    """Return every evaluation of a trial, one row each, without the one before training."""
    history = read_history(path) if path.exists() else []
    lines = [line for line in history if any(key.startswith("val/") for key in line) and line["epoch"] >= 0]
    return pd.DataFrame(
        [
            {"step": line["step"], "epoch": line["epoch"]}
            | {key.removeprefix("val/"): value for key, value in line.items() if key.startswith("val/")}
            for line in lines
        ]
    )
