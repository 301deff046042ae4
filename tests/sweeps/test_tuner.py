"""The Tuner: Ray's words become a sweep's, and a sweep's folder becomes Ray's ResultGrid."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune import ResultGrid
from ray.tune.schedulers import ASHAScheduler

from rechub_ray import Tuner, load_config, load_model
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, RechubError
from rechub_ray.runtime.inference import evaluate
from rechub_ray.space import Space
from rechub_ray.sweeps.ray_names import settings_of, split_space
from rechub_ray.sweeps.result_grid import SweepGrid

ROOT = Path(__file__).resolve().parents[2]
LR = {"optimizers.0.lr": tune.loguniform(1e-4, 1e-1)}


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (tune.uniform(0, 0.5), {"uniform": [0, 0.5]}),
        (tune.quniform(0.1, 0.5, 0.1), {"quniform": [pytest.approx(0.1), pytest.approx(0.5), 0.1]}),
        (tune.loguniform(1e-4, 1e-1), {"loguniform": [1e-4, 1e-1]}),
        (tune.randint(2, 9), {"randint": [2, 9]}),
        (tune.qrandint(2, 9), {"randint": [2, 9]}),
        (tune.qrandint(8, 65, 16), {"quniform": [16, 64, 16]}),
        (tune.choice(["a", "b"]), {"choice": ["a", "b"]}),
        (tune.grid_search([1, 2]), {"grid": [1, 2]}),
        ({"uniform": [0, 1]}, {"uniform": [0, 1]}),
    ],
)
def test_spaces_of_ray(given: Any, ours: dict[str, Any]) -> None:
    space, fixed = split_space({"a.b": given, "c": 3})
    assert (space, fixed) == ({"a.b": ours}, {"c": 3})
    assert Space.parse(space).variables[0].path == "a.b"


def test_the_same_values_are_drawn_as_ray_draws() -> None:
    for domain in (tune.quniform(0.1, 0.5, 0.1), tune.qrandint(8, 65, 16), tune.randint(2, 6), tune.qrandint(2, 6)):
        variable = Space.parse(split_space({"a": domain})[0]).variables[0]
        drawn = {round(float(x), 9) for x in domain.sample(size=400)}
        low, high = (round(float(x), 9) for x in variable.extremes())
        assert (min(drawn), max(drawn)) == (low, high)
        assert all(round(float(variable.clip(x)), 9) == x for x in drawn)


def test_nested_spaces_and_components_with_a_space() -> None:
    deepfm = {"name": "deepfm", "embedding_dim": 8, "dropout": tune.uniform(0, 0.5)}
    nested = {"optimizers": [{"name": "adam"}], "model": tune.choice(["lr", deepfm]), "train": {"epochs": 2}}
    space, fixed = split_space({**nested, "regularization": {"embedding_l2": tune.uniform(0, 1), "dense_l2": 0.1}})
    option = {"name": "deepfm", "embedding_dim": 8, "space": {"dropout": {"uniform": [0, 0.5]}}}
    assert space == {"model": {"choice": ["lr", option]}, "regularization.embedding_l2": {"uniform": [0, 1]}}
    assert fixed == {
        "optimizers": [{"name": "adam"}], "train": {"epochs": 2}, "regularization.dense_l2": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"a": tune.randn(0, 1)}, r"'param_space\.a'.*qrandint.*Got: Float"),
        ({"a": tune.lograndint(1, 9)}, r"'param_space\.a'.*LogUniform"),
        ({"a": tune.qloguniform(1e-3, 1, 1e-3)}, r"'param_space\.a'"),
        ({"a": tune.sample_from(lambda spec: 1)}, r"'param_space\.a'.*Function"),
        ({"optimizers": [{"lr": tune.uniform(0, 1)}]}, r"'param_space\.optimizers\.0\.lr'.*optimizers\.0\.lr'"),
        ({"model": tune.choice([{"hidden_units": [tune.randint(1, 9)]}])}, r"model\.0\.hidden_units\.0"),
    ],
)
def test_other_spaces_are_errors(space: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split_space(space)


def test_configurations_of_ray() -> None:
    varies = {"a": {"uniform": [0, 1]}}
    config = tune.TuneConfig(
        metric="auc", mode="max", num_samples=7, max_concurrent_trials=2, scheduler="asha", search_alg="optuna",
        time_budget_s=datetime.timedelta(minutes=1),
    )  # fmt: skip
    run = tune.RunConfig(
        name="n", storage_path="/s", verbose=0, failure_config=tune.FailureConfig(max_failures=3),
        stop={"plateau_trials": 4},
    )  # fmt: skip
    assert settings_of(config, run, varies) == {
        "metric": "auc", "mode": "max", "trials": 7, "max_concurrent": 2, "scheduler": "asha", "search": "optuna",
        "stop": {"seconds": 60.0, "plateau_trials": 4}, "name": "n", "sweep_dir": "/s/n", "retries": 3, "verbose": 0,
    }  # fmt: skip
    assert settings_of(tune.TuneConfig(), tune.RunConfig(), varies) == {"trials": 1}  # Ray's own default
    assert settings_of(None, None, varies) == {}
    assert settings_of({"refit": True, "keep": None}, {"name": "x"}, varies) == {
        "refit": True, "keep": None, "name": "x",
    }  # fmt: skip
    several = settings_of(tune.TuneConfig(metric=["auc", "num_parameters"], mode=["max", "min"]), None, varies)
    assert several["objectives"] == [{"metric": "auc", "mode": "max"}, {"metric": "num_parameters", "mode": "min"}]


def test_samples_are_counted_as_ray_counts_them() -> None:
    grid = {"a": {"grid": [1, 2]}, "b": {"grid": [1, 2, 3]}}
    assert settings_of(tune.TuneConfig(), None, grid) == {"search": "grid"}
    assert settings_of({"num_samples": 4}, None, {**grid, "c": {"uniform": [0, 1]}}) == {"trials": 24}
    with pytest.raises(ConfigError, match="'seeds' repeats them"):
        settings_of({"num_samples": 2}, None, grid)


@pytest.mark.parametrize(
    ("tune_config", "run_config", "words"),
    [
        (
            tune.TuneConfig(scheduler=ASHAScheduler()),
            None,
            r"'tune_config\.scheduler' is an object.*\"name\": \"asha\"",
        ),
        ({"search_alg": object()}, None, r"'tune_config\.search_alg' is an object.*optuna"),
        ({"num_sample": 3}, None, "Did you mean 'num_samples'"),
        ({"refitt": True}, None, "Did you mean 'refit'"),
        ({"num_samples": -1}, None, "whole number"),
        ({"metric": ["auc", "gauc"], "mode": ["max"]}, None, "2 of them"),
        ({"space": {}}, None, r"'tune_config\.space'"),
        (None, tune.RunConfig(stop=lambda trial, result: True), r"'run_config\.stop' is an object.*plateau_trials"),
        (None, tune.RunConfig(callbacks=[]), r"base\.trackers"),
        (None, tune.RunConfig(checkpoint_config=tune.CheckpointConfig(num_to_keep=2)), r"base\.checkpoint"),
        (tune.RunConfig(), None, "ray.tune.TuneConfig or a mapping"),
    ],
)
def test_what_a_sweep_does_not_know_is_an_error(tune_config: Any, run_config: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_of(tune_config, run_config, {"a": {"uniform": [0, 1]}})


def test_a_tuner_is_a_sweep(tmp_path: Path) -> None:
    base = load_config({"model": "lr"})
    tuner = Tuner(base, param_space={**LR, "train.epochs": 3}, overrides=["refit=true", "base.seed=5", "trials=4"])
    assert tuner.sweep is not None
    assert (tuner.sweep.base["train"]["epochs"], tuner.sweep.base["seed"]) == (3, 5)
    assert (tuner.sweep.trials, tuner.sweep.refit, tuner.sweep.space) == (
        4,
        True,
        {"optimizers.0.lr": {"loguniform": [1e-4, 1e-1]}},
    )
    assert not Tuner.can_restore(tmp_path)
    with pytest.raises(ConfigError, match="no sweep to restore"):
        Tuner.restore(tmp_path)
    with pytest.raises(RechubError, match="no sweep to read"):
        tuner.get_results()
    with pytest.raises(ConfigError, match=r"rechub_ray\.tune"):
        Tuner(ROOT / "tune_configs" / "smoke.yaml", param_space=LR)


def test_results_of_a_folder(tmp_path: Path) -> None:
    common = {"steps": 2, "rows": 3, "seed": 0, "epochs": 2.0, "seconds": 1.5, "best_params": None, "reason": None}
    trials = [
        {"score": 0.6, "metrics": {"auc": 0.6, "loss": 0.3}, "status": "finished", "params": {"a": 1}},
        {"score": 0.7, "metrics": {"auc": 0.7, "loss": 0.5}, "status": "stopped_early", "params": {"a": 2}},
        {"score": None, "metrics": {}, "status": "failed", "reason": "NaN", "params": {"a": 3}},
    ]
    for i, trial in enumerate(trials):
        trial.update({**common, **trial}, trial_id=f"trial_{i}", test_metrics={"auc": 0.5} if i == 1 else {})
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials))
    (tmp_path / "sweep.json").write_text(json.dumps({"metric": "auc", "mode": "max", "best_trial": "trial_1"}))
    history = [{"step": 0, "epoch": -1, "val/auc": 0.9}, {"step": 1, "epoch": 0, "val/auc": 0.5, "val/loss": 0.1}]
    history += [{"step": 1, "train/loss": 0.1}, {"step": 2, "epoch": 1, "val/auc": 0.6, "val/loss": 0.3}]
    (tmp_path / "trials" / "trial_0").mkdir(parents=True)
    (tmp_path / "trials" / "trial_0" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in history))
    grid = SweepGrid(tmp_path)
    assert isinstance(grid, ResultGrid)
    assert (len(grid), grid.num_errors, grid.num_terminated) == (3, 1, 2)
    assert [str(error) for error in grid.errors] == ["NaN."]
    best = grid.get_best_result()
    assert (best.metrics["auc"], best.metrics["test/auc"], best.config) == (0.7, 0.5, {"a": 2})
    assert best.checkpoint is None  # there are no files
    assert grid[0].metrics_dataframe["auc"].tolist() == [0.5, 0.6]
    assert grid.get_best_result("loss", "min").config == {"a": 1}
    assert grid.get_best_result("auc", "min").config == {"a": 1}
    table = grid.get_dataframe("loss", "min")
    assert table["config/a"].tolist() == [1, 2, 3]
    assert (table["loss"][0], table["auc"][0], table["loss"][1]) == (0.1, 0.5, 0.5)
    assert "trial_1" in repr(grid)
    for given, words in (
        (("los", "min"), "Did you mean 'loss'"),
        (("loss",), "max or min"),
        (("auc", "max", "last"), "all"),
    ):
        with pytest.raises(ConfigError, match=words):
            grid.get_best_result(*given)


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_the_example_of_the_documentation_runs(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), flags=re.S)
    (tmp_path / "configs").mkdir()
    demo = (ROOT / "configs" / "demo.yaml").read_text() + "export: {onnx: false}\n"
    (tmp_path / "configs" / "demo.yaml").write_text(demo)
    monkeypatch.setattr("rechub_ray.sweeps.launch.write_report", lambda directory: f"{directory}/report.html")
    write_click_logs(tmp_path / "demo" / "data", rows=6000, seed=3)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code[0], found)
    results, best = found["results"], found["best"]
    assert isinstance(results, ResultGrid)
    assert (len(results), len(found["more"])) == (2, 3)
    assert evaluate(best.checkpoint.path, split="valid")["auc"] == pytest.approx(best.metrics["auc"], abs=1e-9)
    assert evaluate(best.checkpoint.path)["auc"] == pytest.approx(best.metrics["test/auc"], abs=1e-9)
    assert best.metrics["auc"] == max(r.metrics["auc"] for r in results)
    assert best.metrics["auc"] == best.metrics_dataframe["auc"].max()
    assert found["model"].state_dict().keys() == load_model(best.checkpoint.path).state_dict().keys()
    now, shipped = found["more"].get_best_result(), tmp_path / "sweeps" / "by_tuner" / "best" / "checkpoint"
    assert evaluate(shipped)["auc"] == pytest.approx(now.metrics["test/auc"], abs=1e-9)
    assert (shipped / "manifest.json").read_text() == Path(now.checkpoint.path, "manifest.json").read_text()
    again = Tuner.restore("sweeps/by_tuner").get_results()
    assert again.get_dataframe().equals(found["more"].get_dataframe())
