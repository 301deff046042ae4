"""Evaluation beside training: the same scores, taken one evaluation later, and nothing of it is lost."""

from __future__ import annotations

import dataclasses
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.config import RunConfig
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.early_stopping import EarlyStopper
from rechub_ray.errors import CheckpointError, ConfigError, RechubError, TrainingError
from rechub_ray.runtime import separate, worker
from rechub_ray.runtime.inference import InferenceJob, evaluate
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import Job, check, evaluating_cpus
from rechub_ray.tracking import Tracker, read_history

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [8]},
    "optimizers": [{"name": "adam", "lr": 0.05, "schedule": {"name": "reduce_on_plateau", "decay": 0.5}}],
    "train": {"steps": 15, "log_every_steps": 2, "threads": 1, "evaluate_every_steps": 3, "evaluate_every_epochs": 0},
    "checkpoint": {"every_steps": 1, "keep": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}
SCORES = re.compile(r"val/(?!rows)")
Beside = Callable[..., "Inline"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=2500, seed=3, files=2, row_group_rows=256)
    return root


def settings(data: Path, model_dir: Path, **overrides: Any) -> RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir), "train.eval_method": "separate"}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


class Inline:
    """Evaluates in this process, at the last moment: a checkpoint that was not kept is gone by then.

    Args:
        job: the run.
        fails: number of the evaluation that fails (from 1), and how.
    """

    def __init__(self, job: Job, fails: tuple[int, RechubError | None] | None = None) -> None:
        assert job.valid is not None
        self.job = InferenceJob("", job.config, job.schema, job.valid)
        self.fails, self.paths, self.is_closed = fails, [], False
        self.waits: list[float] = []

    def start(self, path: str) -> None:
        self.paths.append(path)

    def result(self, seconds: float) -> dict[str, float] | None:
        self.waits.append(seconds)
        if self.fails is not None and len(self.paths) == self.fails[0]:
            if self.fails[1] is not None:
                raise self.fails[1]
            return None
        found = separate.answer(dataclasses.replace(self.job, checkpoint=self.paths[-1]))
        assert not isinstance(found, RechubError), found
        return found

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Beside:
    """`beside(fails=...)` has the next runs evaluate in this process; `.last` is the evaluator of the last one."""

    def use(fails: tuple[int, RechubError | None] | None = None) -> Any:
        def make(job: Job) -> Inline:
            use.last = Inline(job, fails)  # type: ignore[attr-defined]
            return use.last  # type: ignore[attr-defined, no-any-return]

        monkeypatch.setattr(worker, "open_evaluator", make)

    return use


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "open_evaluator", Inline)
        train(settings(data, folder))
    return folder


class Interrupt(Tracker):
    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def scores(model_dir: Path) -> dict[int, dict[str, float]]:
    """The evaluations by step; the last one counts where one was repeated."""
    lines = read_history(model_dir / "metrics.jsonl")
    found = {int(x["step"]): {k: v for k, v in x.items() if SCORES.match(k)} for x in lines if "val/auc" in x}
    return dict(sorted(found.items()))


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    store = Store(str(model_dir))
    return read(f"{store.location}/{store.newest()}").model


def assert_same_run(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert not [name for name in first if not torch.equal(first[name], second[name])]
    assert scores(a) == scores(b)
    assert Store(str(a)).best() == Store(str(b)).best()
    ours, theirs = (read(Store(str(x)).path(15), weights=False).state for x in (a, b))
    assert ours == theirs


def test_the_scores_and_the_best_are_those_of_the_workers(data: Path, tmp_path: Path, beside: Beside) -> None:
    constant = {"optimizers__0__schedule": "constant"}
    theirs = train(settings(data, tmp_path / "workers", train__eval_method="workers", **constant))
    beside()
    heard: list[tuple[int, float]] = []
    ours = train(settings(data, tmp_path / "separate", **constant), callback_fn=lambda *x: heard.append(x))
    assert list(scores(tmp_path / "separate")) == [0, *range(3, 16, 3)]
    for step, wanted in scores(tmp_path / "workers").items():
        assert scores(tmp_path / "separate")[step] == pytest.approx(wanted, abs=1e-6), step
    assert heard == [(-1, heard[0][1]), *[(0, score) for _, score in heard[1:]]]
    assert Path(ours.best_checkpoint).name == Path(theirs.best_checkpoint).name
    assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-6)
    assert ours.test_metrics == pytest.approx(theirs.test_metrics, abs=1e-6)
    assert beside.last.is_closed  # type: ignore[attr-defined]


def test_early_stopping_acts_at_the_evaluation_after(data: Path, tmp_path: Path, beside: Beside) -> None:
    beside()
    patience = {"train__early_stopping": {"metric": "auc", "patience": 2}, "train__steps": 90}
    result = train(settings(data, tmp_path / "r", **patience))
    steps, stopper = [], EarlyStopper(metric="auc", mode="max", patience=2)
    for step, found in scores(tmp_path / "r").items():
        if step > 0:
            assert not stopper.should_stop
            stopper.observe(found["val/auc"], step=step, metrics={})
            steps.append(step)
    assert stopper.should_stop
    assert result.details["steps"] == steps[-1] + 3 < 90
    assert result.details["stopped_early"]
    assert Path(result.best_checkpoint).name == f"step_{stopper.best_step:010d}"
    assert result.metrics["auc"] == stopper.best_score


@pytest.mark.parametrize("step", [1, 6, 13])
def test_a_resumed_run_evaluates_again_what_it_had_not_taken(
    data: Path, whole: Path, tmp_path: Path, beside: Beside, step: int
) -> None:
    beside()
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts"), trackers=[Interrupt(step)])
    saved = Store(str(tmp_path / "parts")).newest()
    assert saved is not None
    at = int(saved.removeprefix("step_"))
    pending = read(f"{tmp_path}/parts/checkpoints/{saved}", weights=False).state["pending"]
    assert [one["step"] for one in pending] == [at // 3 * 3]
    train(settings(data, tmp_path / "parts"), resume="must")
    assert Path(beside.last.paths[0]).name == f"step_{pending[0]['step']:010d}"  # type: ignore[attr-defined]
    assert_same_run(whole, tmp_path / "parts")


@pytest.mark.parametrize("number", [1, 3, 6])
def test_an_evaluation_that_fails_ends_the_run_and_is_done_again(
    data: Path, whole: Path, tmp_path: Path, beside: Beside, number: int
) -> None:
    beside(fails=(number, TrainingError("no memory")))
    with pytest.raises(TrainingError, match="no memory"):
        train(settings(data, tmp_path / "parts"))
    assert beside.last.is_closed  # type: ignore[attr-defined]
    assert (
        Store(str(tmp_path / "parts")).newest() == f"step_{min(number * 3, 15):010d}"
    )  # nothing that was trained is lost
    beside()
    train(settings(data, tmp_path / "parts"), resume="must")
    assert_same_run(whole, tmp_path / "parts")


def test_one_that_hangs_is_waited_for_and_given_up(
    data: Path, tmp_path: Path, beside: Beside, caplog: pytest.LogCaptureFixture
) -> None:
    beside(fails=(2, None))
    with pytest.raises(
        TrainingError, match=r"evaluation of step 3 beside training has not ended in 7 s.*eval_method=w"
    ):
        train(settings(data, tmp_path / "r", scaling__collective_timeout_seconds=7))
    assert beside.last.waits == [2.0, 2.0, 7.0]  # type: ignore[attr-defined]
    assert "waiting for the evaluation of step 3 beside training, at most 7 s" in caplog.text


@pytest.mark.parametrize(("method", "kept"), [("workers", True), ("none", False)])
def test_another_method_may_take_over(
    data: Path, tmp_path: Path, beside: Beside, caplog: pytest.LogCaptureFixture, method: str, kept: bool
) -> None:
    beside()
    plain = {"optimizers__0__schedule": "constant"}
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "r", **plain, checkpoint__every_steps=None), trackers=[Interrupt(8)])
    result = train(settings(data, tmp_path / "r", **plain, train__eval_method=method), resume="must")
    assert result.details["steps"] == 15
    assert (6 in scores(tmp_path / "r")) is kept
    assert ("the scores of step 6 are left out" in caplog.text) is not kept


def test_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path / "r", train__steps=2, train__eval_method="workers")
    result = train(given)
    job = check(settings(data, tmp_path / "r"))
    evaluator = separate.open_evaluator(job)
    assert isinstance(evaluator, separate.ProcessEvaluator)
    try:
        assert evaluator.result(0.01) is None
        evaluator.start(result.best_checkpoint)
        found = evaluator.result(100)
        assert found == pytest.approx(evaluate(result.best_checkpoint, split="valid"), abs=1e-6)
        evaluator.start(str(tmp_path / "nothing"))
        with pytest.raises(CheckpointError, match="no complete checkpoint"):
            evaluator.result(100)
        evaluator._child.send_signal(signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"process that evaluates has ended.*-9.*eval_method=workers"):
            evaluator.result(100)
    finally:
        evaluator.close()
    assert evaluator._child.poll() is not None


def test_a_run_with_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path / "r", train__steps=6))
    assert list(scores(tmp_path / "r")) == [0, 3, 6]


# --- none -----------------------------------------------------------------------------------------------------------


def test_none_evaluates_nothing(data: Path, tmp_path: Path) -> None:
    plain = {"train__eval_method": "none", "optimizers__0__schedule": "constant"}
    result = train(settings(data, tmp_path / "r", **plain))
    assert not scores(tmp_path / "r")
    assert (result.metrics, result.test_metrics) == ({}, {})
    assert Path(result.best_checkpoint).name == "step_0000000015"
    assert evaluate(tmp_path / "r", split="valid")["auc"] > 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, r"optimizers.0.schedule.*scores.*Got: train.eval_method is none"),
        (
            {"optimizers__0__schedule": "constant", "train__early_stopping__patience": 2},
            r"train.early_stopping.patience.*Got: train.eval_method is none",
        ),
    ],
)
def test_none_has_no_scores_to_go_by(data: Path, tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(settings(data, tmp_path / "r", train__eval_method="none", **overrides))


@pytest.mark.parametrize(
    ("overrides", "cpus"),
    [
        ({}, 0.5),
        ({"scaling__eval_cpus": 2}, 2),
        ({"scaling__eval_cpus": 2, "train__eval_method": "workers"}, 0),
        ({"data__valid": None, "optimizers__0__schedule": "constant"}, 0),
    ],
)
def test_its_cpus_are_reserved_where_it_runs(
    data: Path, tmp_path: Path, overrides: dict[str, Any], cpus: float
) -> None:
    assert evaluating_cpus(check(settings(data, tmp_path / "r", scaling__num_workers=2, **overrides)).config) == cpus
