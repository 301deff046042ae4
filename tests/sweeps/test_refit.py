"""The refit: the winner's configuration on train + validation, as long as it took to its best score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.config import RunConfig
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, TrainingError
from rechub_ray.runtime import launch
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.preflight import check
from rechub_ray.sweeps import refit as refit_module
from rechub_ray.sweeps.refit import Refit, check_refit, refit, refit_config
from rechub_ray.tracking import Tracker, read_history

BASE: dict[str, Any] = {
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 16, "init_std": 0.05, "hidden_units": [32]},
    "optimizers": [{"name": "adam", "lr": 0.05, "schedule": {"name": "warmup_cosine", "warmup_steps": 2}}],
    "metrics": ["auc"],
    "train": {"epochs": 6, "threads": 1, "early_stopping": {"patience": 2}},
    "trackers": ["console", "jsonl"],
    "export": {"onnx": False},
}
Make = Callable[..., RunConfig]
ROWS, PER_EPOCH = 1600 + 200, (1600 + 200) // 128


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=2000, seed=3, files=2, row_group_rows=256)
    return root


@pytest.fixture
def make(data: Path, tmp_path: Path) -> Make:
    return lambda **given: config_module.load(
        BASE, {"data.root": str(data), "model_dir": str(tmp_path / "trial"), **given}
    )


@pytest.fixture
def sweep(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder with a winner in it, best after 3 epochs of 6, whose refit runs in this process."""
    launch.train(make(**{"checkpoint.keep": 100}))
    best = tmp_path / "best"
    shutil.copytree(tmp_path / "trial" / "checkpoints" / f"step_{3 * (1600 // 128):010d}", best / "checkpoint")
    (best / "metrics.json").write_text(json.dumps({"trial_id": "t", "test_metrics": evaluate(best / "checkpoint")}))
    monkeypatch.setattr(
        refit_module,
        "_train_somewhere",
        lambda run, bundle, retries: refit_module._train(run.model_dump(mode="json"), bundle),
    )
    return tmp_path


def start(sweep: Path) -> Refit:
    return refit(str(sweep), "t", bundle={"CPU": 1}, retries=0, say=lambda text: None)


def best_epochs(sweep: Path) -> int:
    return int(read(sweep / "best" / "checkpoint").state["position"]["epoch"])


class Interrupt(Tracker):
    """Ends the process's run, as Ctrl-C does, at the first log from `step` on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def test_all_rows_the_winners_epochs_and_its_learning_rates(sweep: Path, make: Make) -> None:
    told = start(sweep)
    assert told.epochs == best_epochs(sweep) == 3
    by_hand = {
        "data.train": ["train", "valid"], "data.valid": None, "train.epochs": best_epochs(sweep),
        "train.schedule_epochs": 6, "train.early_stopping.patience": None, "model_dir": str(sweep / "hand"),
    }  # fmt: skip
    expected = launch.train(make(**by_hand))
    found = read(sweep / "best" / "refit" / "checkpoint")
    assert found.state["rows"] == told.epochs * PER_EPOCH * 128
    wanted = read(expected.best_checkpoint).model
    assert all(torch.equal(found.model[name], wanted[name]) for name in wanted)
    rates = [
        {line["step"] // per: line["learning_rate"] for line in read_history(folder / "metrics.jsonl")
         if "learning_rate" in line and line["step"] % per == 0}
        for folder, per in ((sweep / "trial", 1600 // 128), (sweep / "refit" / "t", PER_EPOCH))
    ]  # fmt: skip
    assert rates[1].keys() == set(range(1, int(told.epochs) + 1))
    assert all(rates[1][epoch] == pytest.approx(rates[0][epoch], rel=0.02) for epoch in rates[1])


def test_what_is_the_refits_and_what_the_trials_is_clear(sweep: Path) -> None:
    own = read(sweep / "best" / "checkpoint").model
    told = start(sweep)
    best = sweep / "best"
    assert {p.name for p in best.iterdir()} == {"checkpoint", "metrics.json", "refit"}
    assert {p.name for p in (best / "refit").iterdir()} == {"checkpoint", "config.yaml", "metrics.json"}
    assert all(torch.equal(own[name], tensor) for name, tensor in read(best / "checkpoint").model.items())
    both = json.loads((best / "metrics.json").read_text())
    trial, again = evaluate(best / "checkpoint")["auc"], evaluate(best / "refit" / "checkpoint")["auc"]
    assert (both["test_metrics"]["auc"], both["refit"]["test_metrics"]["auc"]) == pytest.approx((trial, again))
    assert told.test_metrics["auc"] == pytest.approx(again)
    saved = json.loads((best / "refit" / "metrics.json").read_text())
    assert saved["trained_on"] == ["train", "valid"]
    assert saved["test_metrics_of_the_trial"] == both["test_metrics"]
    assert config_module.load(best / "refit" / "config.yaml").data.train == ["train", "valid"]


def test_an_interrupted_refit_goes_on_and_a_finished_one_is_not_repeated(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(sweep)
    wanted = read(str(whole.checkpoint)).model
    shutil.rmtree(sweep / "refit")
    shutil.rmtree(sweep / "best" / "refit")
    with monkeypatch.context() as patched:
        patched.setattr(
            refit_module, "train", lambda run, executor: launch.train(run, trackers=[Interrupt(PER_EPOCH + 1)])
        )
        with pytest.raises(KeyboardInterrupt):
            start(sweep)
    assert not (sweep / "best" / "refit").exists()
    assert Store(str(sweep / "refit" / "t")).newest() == f"step_{PER_EPOCH:010d}"
    again = start(sweep)
    assert again.test_metrics == whole.test_metrics
    found = read(str(again.checkpoint)).model
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)

    def never(run: RunConfig, executor: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(refit_module, "train", never)
    shutil.rmtree(sweep / "best" / "refit")  # as a resumed sweep does
    assert start(sweep) == again
    assert (sweep / "best" / "refit" / "checkpoint" / "manifest.json").exists()


def test_a_best_score_within_an_epoch_is_repeated_in_steps(make: Make) -> None:
    job = check(make())
    run = refit_config(job, epochs=2.5, directory="x")
    assert (run.train.epochs, run.train.steps, run.train.schedule_epochs) == (None, 35, 6)
    assert run.checkpoint.every_steps == PER_EPOCH
    assert [node["name"] for node in run.trackers] == ["jsonl"]
    by_steps = check(make(**{"train.epochs": None, "train.steps": 30, "checkpoint.every_steps": 5}))
    run = refit_config(by_steps, epochs=2.0, directory="x")
    assert (run.train.epochs, run.train.steps, run.train.schedule_epochs) == (2, None, 2.5)
    assert run.checkpoint.every_steps == 5


def test_a_schedule_that_listens_to_the_validation_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"'refit' trains without a validation split: 'optimizers\.0\.schedule'"):
        check_refit(check(make(**{"optimizers.0.schedule": "reduce_on_plateau"})))


def test_what_fails_is_told_and_the_winner_stays(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(run: RunConfig, executor: Any) -> None:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(refit_module, "train", fails)
    told = start(sweep)
    assert (told.checkpoint, told.error) == (None, "the loss is not finite.")
    assert {p.name for p in (sweep / "best").iterdir()} == {"checkpoint", "metrics.json"}


def test_an_export_that_fails_costs_only_the_file(make: Make, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rechub_ray.errors import ExportError

    calls = []

    def exports(run: RunConfig, executor: Any) -> launch.RunResult:
        calls.append(run.export.onnx)
        if run.export.onnx:
            raise ExportError("no such operator")
        return launch.train(run)

    monkeypatch.setattr(refit_module, "train", exports)
    run = make(**{"export.onnx": True, "model_dir": str(sweep / "other"), "train.epochs": 1})
    outcome = refit_module._train(run.model_dump(mode="json"), {"CPU": 1})
    assert calls == [True, False]
    assert outcome["error"] == "no ONNX: no such operator."
    assert outcome["test_metrics"]["rows_seen"] == 200
