"""The loop: resume is exact, workers do not change the numbers, and what falls due happens."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray import loop as loop_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.shard import SealedWriter
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, ConfigError, DataError, TrainingError
from rechub_ray.learner import Learner
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import train
from rechub_ray.schema import Schema
from rechub_ray.tracking import Tracker, read_history
from tests.worlds import train_in_processes, train_until_killed

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 256, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [16, 8], "dropout": 0.2},
    "optimizers": [
        {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
        {"name": "adam", "lr": 0.01},
    ],
    "train": {"epochs": 2, "log_every_steps": 5, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=6000, seed=3, files=3, row_group_rows=512)
    return root


@pytest.fixture(scope="module")
def weighted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows with weights, 0 for half of them: so parts and workers hold different numbers that count."""
    root = tmp_path_factory.mktemp("weighted")
    for file in data.glob("*/*.parquet"):
        table = pq.read_table(file)
        weight = np.where(table["age"].to_numpy() > 0, table["recency"].to_numpy(), 0).astype(np.float32)
        (root / file.parent.name).mkdir(exist_ok=True)
        table = table.append_column("w", [weight])
        with SealedWriter(root / file.parent.name / file.name, table.schema) as writer:
            writer.write_table(table, 512)
    dataclasses.replace(Schema.load(data / "schema.json"), weight="w").save(root / "schema.json")
    return root


def settings(data: Path, model_dir: Path, **overrides: Any) -> config_module.RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir)}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


def weights(model_dir: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    store = Store(str(model_dir))
    name = store.newest() if step is None else f"step_{step:010d}"
    return read(f"{store.location}/{name}").model


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


class Interrupt(Tracker):
    """Ends the process's run, as Ctrl-C does, at the first log from `step` on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted_at", [10, 15, 25])
def test_resume_in_the_middle_of_an_epoch_is_bit_equal(data: Path, tmp_path: Path, interrupted_at: int) -> None:
    every = {"checkpoint__every_steps": 4, "checkpoint__keep": 20}
    whole = train(settings(data, tmp_path / "whole", **every))
    assert whole.details["steps"] == 36
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **every), trackers=[Interrupt(interrupted_at)])
    saved = Store(str(tmp_path / "parts")).newest()
    assert saved is not None
    assert saved == f"step_{(interrupted_at - 1) // 4 * 4 if interrupted_at < 18 else 24:010d}"
    resumed = train(settings(data, tmp_path / "parts", **every), resume="must")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert_same(weights(tmp_path / "whole", 28), weights(tmp_path / "parts", 28))
    assert resumed.metrics == whole.metrics
    assert resumed.test_metrics == whole.test_metrics
    assert resumed.details["rows"] == whole.details["rows"] == 36 * 256
    history = read_history(tmp_path / "parts" / "metrics.jsonl")
    steps = [line["step"] for line in history if "train/loss" in line]
    assert steps == sorted(set(steps)), "a step was logged twice"


def test_a_file_that_is_replaced_is_refused_while_running_and_on_resume(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    file = sorted((root / "train").glob("*.parquet"))[1]

    class Reverse(Interrupt):
        def log(self, metrics: Any, *, step: int) -> None:
            if step >= self.step and file.with_suffix(".kept") not in (root / "train").iterdir():
                table = pq.read_table(file.rename(file.with_suffix(".kept")))
                with SealedWriter(file, table.schema) as writer:
                    writer.write_table(table.take(list(range(table.num_rows))[::-1]), 512)

    given = settings(root, tmp_path / "r", checkpoint__every_steps=4)
    with pytest.raises(DataError, match=rf"{file}, row group \d changed since the run looked at it"):
        train(given, trackers=[Reverse(5)])
    with pytest.raises(DataError, match=rf"'data.train': {file} is not the file that this run began with"):
        train(given, resume="must")
    file.with_suffix(".kept").rename(file)
    assert train(given, resume="must").details["steps"] == 36


def test_a_killed_process_resumes_bit_equal(data: Path, tmp_path: Path) -> None:
    given = {"train__epochs": 4, "checkpoint__every_steps": 10, "train__initial_evaluation": False}
    whole = train(settings(data, tmp_path / "whole", **given))
    train_until_killed(settings(data, tmp_path / "killed", **given), 45)
    assert Store(str(tmp_path / "killed")).newest() == "step_0000000040"
    again = train(settings(data, tmp_path / "killed", **given), resume="must")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert again.test_metrics == whole.test_metrics


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(data: Path, tmp_path: Path) -> None:
    whole = train(settings(data, tmp_path / "whole"))
    every = {"checkpoint__every_steps": 6, "checkpoint__keep": 9}
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **every), trackers=[Interrupt(15)])
    store = Store(str(tmp_path / "parts"))
    newest = tmp_path / "parts" / "checkpoints" / str(store.newest()) / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    resumed = train(settings(data, tmp_path / "parts", **every))
    assert resumed.metrics == whole.metrics


@pytest.mark.slow
@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_two_workers_give_the_numbers_of_one_with_twice_the_batch(
    data: Path, weighted: Path, tmp_path: Path, accumulate_steps: int
) -> None:
    plain = {"model__dropout": 0.0, "train__epochs": 1, "regularization__embedding_l2": 1e-3, "train__clip_norm": 1.0}
    parts = {"data__batch_size": 128 // accumulate_steps, "train__accumulate_steps": accumulate_steps}
    if accumulate_steps > 1:  # with weights, too; batch norm sees each part on its own
        data, plain["model__batch_norm"] = weighted, False
    one = train(settings(data, tmp_path / "one", **plain, data__batch_size=256))
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "two", **plain, **parts))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
    state = read(tmp_path / "two").state
    assert state["rows"] == one.details["rows"]
    assert state["metrics"]["rows_seen"] == state["metrics"]["rows_expected"] == 600
    assert abs(state["metrics"]["auc"] - one.metrics["auc"]) < 1e-4


@pytest.mark.slow
def test_two_workers_average_the_weights_of_one(data: Path, tmp_path: Path) -> None:
    given = {"model__dropout": 0.0, "train__epochs": 1, "train__ema_decay": 0.9, "model__batch_norm": False}
    one = train(settings(data, tmp_path / "one", **given, data__batch_size=256))
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "two", **given, data__batch_size=128))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert abs(read(tmp_path / "two").state["metrics"]["auc"] - one.metrics["auc"]) < 1e-4


@pytest.mark.slow
def test_the_number_of_workers_may_change_in_the_middle_of_an_epoch(data: Path, tmp_path: Path) -> None:
    plain = {"model__dropout": 0.0, "train__epochs": 1, "checkpoint__every_steps": 7}
    whole = train(settings(data, tmp_path / "whole", **plain))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **plain), trackers=[Interrupt(10)])
    assert Store(str(tmp_path / "parts")).newest() == "step_0000000007"
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "parts", **plain, data__batch_size=128))
    state = read(tmp_path / "parts").state
    assert (state["step"], state["rows"]) == (18, 18 * 256)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:  # the same global batches from the seventh step on
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5)
    assert whole.details["steps"] == 18


@pytest.mark.parametrize("has_weights", [False, True])
def test_accumulating_is_one_step_of_the_joined_batch(
    data: Path, weighted: Path, tmp_path: Path, has_weights: bool
) -> None:
    data = weighted if has_weights else data
    plain = {"model__dropout": 0.0, "model__batch_norm": False, "train__epochs": 1}
    train(settings(data, tmp_path / "joined", **plain))
    train(settings(data, tmp_path / "parts", **plain, data__batch_size=64, train__accumulate_steps=4))
    a, b = weights(tmp_path / "joined"), weights(tmp_path / "parts")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5)


def test_evaluations_callbacks_and_log_keys(data: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    result = train(
        settings(data, tmp_path / "r", train__epochs=3, metrics=["log_loss", "auc"]),
        callback_fn=lambda epoch, score: heard.append((epoch, score)),
    )
    assert [epoch for epoch, _ in heard] == [-1, 0, 1, 2]
    assert result.details["best_score"] == min(score for _, score in heard[1:])
    lines = read_history(tmp_path / "r" / "metrics.jsonl")
    training = next(line for line in lines if "train/loss" in line)
    assert {"learning_rate", "epoch", "data/rows", "rows_per_second", "train/grad_norm"} <= training.keys()
    assert [line["epoch"] for line in lines if "val/auc" in line] == [-1, 0, 1, 2]
    assert training["data/rows"] == training["step"] * 256


def test_best_and_last_are_both_kept(data: Path, tmp_path: Path) -> None:
    # all labels are 1 in training and 0 in validation: every epoch makes the validation's loss larger
    root = tmp_path / "data"
    for split, label in {"train": 1.0, "valid": 0.0, "test": 0.0}.items():
        (root / split).mkdir(parents=True)
        for file in (data / split).glob("*.parquet"):
            table = pq.read_table(file)
            at = table.column_names.index("click")
            table = table.set_column(at, table.field(at), pa.array(np.full(len(table), label, np.float32)))
            with SealedWriter(root / split / file.name, table.schema) as writer:
                writer.write_table(table, 512)
    shutil.copy(data / "schema.json", root)
    overrides = {"metrics": ["log_loss"], "train__epochs": 4, "checkpoint__keep": 1}
    scores: list[float] = []
    result = train(settings(root, tmp_path / "r", **overrides), callback_fn=lambda epoch, score: scores.append(score))
    assert scores == sorted(set(scores))
    store = Store(str(tmp_path / "r"))
    assert store.names() == ["step_0000000018", "step_0000000072"]
    assert store.best() == "step_0000000018"
    assert result.best_checkpoint.endswith("step_0000000018")
    assert result.metrics == read(tmp_path / "r").state["metrics"]


def test_early_stopping_ends_the_run_and_a_finished_run_does_not_go_on(data: Path, tmp_path: Path) -> None:
    stop = {"train__early_stopping": {"patience": 2, "min_delta": 0.5}, "train__epochs": 50}
    result = train(settings(data, tmp_path / "r", **stop))
    assert result.details["stopped_early"]
    assert result.details["epochs"] == 3, "one gain, then two evaluations without"
    again = train(settings(data, tmp_path / "r", **stop))
    assert again.details["steps"] == result.details["steps"]
    assert again.metrics == result.metrics


def test_a_longer_end_continues_a_finished_run(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path / "r", train__epochs=1))
    longer = train(settings(data, tmp_path / "r", train__epochs=2))
    train(settings(data, tmp_path / "whole", train__epochs=2))
    assert longer.details["steps"] == 36
    assert_same(weights(tmp_path / "r"), weights(tmp_path / "whole"))


def test_schedules_may_run_over_more_epochs_than_the_run(data: Path, tmp_path: Path) -> None:
    cosine = {"optimizers__1__schedule": {"name": "warmup_cosine", "warmup_steps": 3}, "checkpoint__keep": 9}
    train(settings(data, tmp_path / "whole", **cosine, train__epochs=2))
    train(settings(data, tmp_path / "half", **cosine, train__epochs=1, train__schedule_epochs=2))
    assert_same(weights(tmp_path / "half"), weights(tmp_path / "whole", step=18))


def test_schedules_per_epoch_and_of_torch_go_on_where_they_were(data: Path, tmp_path: Path) -> None:
    given = {
        "optimizers__0__schedule": {"name": "torch.optim.lr_scheduler.CyclicLR", "base_lr": 0.01, "max_lr": 0.05,
                                    "step_size_up": 7, "cycle_momentum": False},
        "optimizers__1__schedule": {"name": "exponential", "decay": 0.5, "decay_steps": 1, "per": "epoch"},
        "train__epochs": None, "train__schedule_epochs": 3, "train__log_every_steps": 1,
    }  # fmt: skip
    train(settings(data, tmp_path / "r", **given, train__steps=23))
    train(settings(data, tmp_path / "r", **given, train__steps=45))
    train(settings(data, tmp_path / "whole", **given, train__steps=45))
    assert_same(weights(tmp_path / "r"), weights(tmp_path / "whole"))
    lines = [line for line in read_history(tmp_path / "r" / "metrics.jsonl") if "learning_rate/1" in line]
    rates = {line["step"]: line["learning_rate/1"] for line in lines}
    assert [rates[step] for step in (1, 18, 19, 36, 37, 45)] == pytest.approx([0.01] * 2 + [0.005] * 2 + [0.0025] * 2)


@pytest.mark.parametrize(
    "nodes",
    [
        [{"name": "sparse_ftrl", "params": "linear.embedding.*", "lr": 0.1, "l1": 1e-4},
         {"name": "torch.optim.SparseAdam", "params": "embedding.*", "lr": 0.01}, {"name": "lion", "lr": 0.001}],
        [{"name": "ftrl", "params": "linear.*", "lr": 0.1, "l1": 1e-4},
         {"name": "torch.optim.Adafactor", "params": "embedding.*", "lr": 0.01}, {"name": "rmsprop", "lr": 0.001}],
    ],
    ids=["rows", "dense"],
)  # fmt: skip
def test_other_optimizers_go_on_to_the_bit(data: Path, tmp_path: Path, nodes: list[Any]) -> None:
    given = {"optimizers": nodes, "train__epochs": None, "train__schedule_epochs": 1}
    train(settings(data, tmp_path / "r", **given, train__steps=7))
    train(settings(data, tmp_path / "r", **given, train__steps=14))
    train(settings(data, tmp_path / "whole", **given, train__steps=14))
    assert_same(weights(tmp_path / "r"), weights(tmp_path / "whole"))
    states = [torch.load(Path(tmp_path / name / "checkpoints" / "step_0000000014" / "optimizers.pt"), weights_only=True)
              for name in ("r", "whole")]  # fmt: skip
    assert_same(*({str(i): t for i, t in enumerate(tensors_in(state))} for state in states))
    assert len(list(tensors_in(states[0]))) > 20


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists and mappings, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(inner)


def test_an_optimizers_own_bounds_hold_for_its_parameters(data: Path, tmp_path: Path) -> None:
    nodes = [
        {"name": "sgd", "params": "*embedding.*", "lr": 1.0, "clip_norm": 1e-3},
        {"name": "sgd", "lr": 1.0, "clip_value": 1e-4},
    ]
    one = {"optimizers": nodes, "train__epochs": None, "train__steps": 1, "train__initial_evaluation": False}
    train(settings(data, tmp_path / "r", **one))
    train(settings(data, tmp_path / "still", **one, optimizers__0__lr=0, optimizers__1__lr=0))
    before, after = weights(tmp_path / "still"), weights(tmp_path / "r")
    moved = {name: (after[name] - before[name]).double() for name in after if after[name].is_floating_point()}
    tables = [change.norm() for name, change in moved.items() if "embedding." in name]
    others = [float(change.abs().max()) for name, change in moved.items() if "embedding." not in name]
    assert float(torch.stack(tables).norm()) == pytest.approx(1e-3, rel=1e-2)
    assert max(others) == pytest.approx(1e-4, rel=1e-2)


AVERAGED: dict[str, Any] = {"train__ema_decay": 0.9, "train__epochs": None, "train__schedule_epochs": 1}


def test_the_average_of_the_weights_is_evaluated_saved_and_goes_on(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path / "r", **AVERAGED, train__steps=7))
    train(settings(data, tmp_path / "r", **AVERAGED, train__steps=14))
    result = train(settings(data, tmp_path / "whole", **AVERAGED, train__steps=14))
    train(settings(data, tmp_path / "plain", **{**AVERAGED, "train__ema_decay": None}, train__steps=14))
    folders = [tmp_path / name / "checkpoints" / "step_0000000014" for name in ("r", "whole")]
    assert_same(weights(tmp_path / "r"), weights(tmp_path / "whole"))
    states = [torch.load(folder / "optimizers.pt", weights_only=True) for folder in folders]
    assert_same(*({str(i): t for i, t in enumerate(tensors_in(state))} for state in states))
    # the weights that go on are those of a run without an average; the model in the checkpoint has others
    saved, plain = weights(tmp_path / "whole"), weights(tmp_path / "plain")
    own = {name: entry.get("rows", entry) for name, entry in states[1][-1]["state"].items()}
    assert "embedding.tables.user" in own
    for name, entry in own.items():
        assert torch.equal(entry["weights"], plain[name]), name
        assert not torch.equal(saved[name], plain[name]), name
    again = evaluate(folders[1], split="valid")
    assert again["log_loss"] == pytest.approx(result.metrics["log_loss"], rel=1e-6)
    assert again["log_loss"] != pytest.approx(evaluate(tmp_path / "plain", split="valid")["log_loss"], rel=1e-3)


def test_training_on_two_splits_trains_the_rows_of_both(data: Path, tmp_path: Path) -> None:
    both = settings(data, tmp_path / "r", data__train=["train", "valid"], data__valid=None, train__epochs=1)
    assert train(both).details["steps"] == (4800 + 600) // 256
    assert evaluate(tmp_path / "r", split="train")["rows_seen"] == 5400
    assert config_module.load(tmp_path / "r" / "config.yaml").data.train == ["train", "valid"]


def test_steps_as_the_end_and_evaluation_by_steps(data: Path, tmp_path: Path) -> None:
    given = {
        "train__epochs": None,
        "train__steps": 23,
        "train__evaluate_every_epochs": 0,
        "train__evaluate_every_steps": 10,
    }
    result = train(settings(data, tmp_path / "r", **given, train__initial_evaluation=False))
    lines = read_history(tmp_path / "r" / "metrics.jsonl")
    assert [line["step"] for line in lines if "val/auc" in line] == [10, 20, 23]
    assert result.details["steps"] == 23


def test_without_validation_there_is_no_score(data: Path, tmp_path: Path) -> None:
    result = train(settings(data, tmp_path / "r", data__valid=None, train__epochs=1))
    assert result.details["best_score"] is None
    assert result.metrics == {}
    assert result.test_metrics["rows_seen"] == 600


def test_a_loss_that_is_not_finite_names_step_and_column_and_keeps_the_last_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write_click_logs(root, rows=6000, seed=3, files=3, row_group_rows=512)
    file = sorted((root / "train").glob("*.parquet"))[0]
    table = pq.read_table(file)
    price = table["price"].to_numpy().copy()
    price[:] = 3e38
    changed = table.set_column(table.column_names.index("price"), "price", [price])
    pq.write_table(changed, file, row_group_size=512)
    with pytest.raises(TrainingError) as caught:
        train(settings(root, tmp_path / "r", train__initial_evaluation=False))
    assert "'price' (largest |value| 3e+38)" in str(caught.value)
    assert "at step 0" in str(caught.value)
    assert "'age'" not in str(caught.value)
    assert Store(str(tmp_path / "r")).newest() is None


def test_a_rate_that_is_too_high_blames_no_column(data: Path, tmp_path: Path) -> None:
    wild = {"optimizers": [{"name": "sgd", "lr": 1e30}], "model__batch_norm": False, "checkpoint__every_steps": 1}
    with pytest.raises(TrainingError, match="no single column is to blame"):
        train(settings(data, tmp_path / "r", **wild))


def test_another_run_in_the_folder_is_refused_and_never_loses_nothing(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path / "r", train__epochs=1))
    with pytest.raises(ConfigError, match="differs in model"):
        train(settings(data, tmp_path / "r", model__embedding_dim=8))
    train(settings(data, tmp_path / "r", model__embedding_dim=8, train__epochs=1), resume="never")
    assert (tmp_path / "r" / "checkpoints.1" / "step_0000000018" / "manifest.json").exists()


def test_must_resume_wants_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(settings(data, tmp_path / "r"), resume="must")


def test_bfloat16_learns(data: Path, tmp_path: Path) -> None:
    result = train(settings(data, tmp_path / "r", train__precision="bfloat16", train__epochs=4))
    reference = train(settings(data, tmp_path / "f", train__epochs=4))
    assert abs(result.metrics["auc"] - reference.metrics["auc"]) < 0.05


def test_fine_tuning_starts_from_another_runs_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings(data, tmp_path / "old", train__epochs=1))
    frozen: dict[str, Any] = {
        "optimizers": [{"name": "sgd", "lr": 0.0}],
        "train__epochs": 1,
        "init_from": str(tmp_path / "old"),
    }
    train(settings(data, tmp_path / "new", **frozen, trackers=["console"]))
    report = json.loads((tmp_path / "new" / "fine_tuning.json").read_text())
    assert (report["source"], report["new"], report["skipped"]) == (Store(str(tmp_path / "old")).path(18), [], [])
    assert f"weights from {report['source']}: {len(report['restored'])} restored" in capsys.readouterr().err
    old, new = weights(tmp_path / "old"), weights(tmp_path / "new")
    tables = [name for name in old if name.startswith("embedding.tables.")]
    assert len(tables) > 1
    assert all(torch.equal(old[name], new[name]) for name in tables)
    (tmp_path / "map").write_text(f"{tables[0]}\t{tables[0]}\n")
    train(settings(data, tmp_path / "mapped", **frozen, init_map=str(tmp_path / "map")))
    mapped = weights(tmp_path / "mapped")
    assert torch.equal(old[tables[0]], mapped[tables[0]])
    assert not torch.equal(old[tables[1]], mapped[tables[1]])
    assert not torch.equal(old[_a_matrix(old)], mapped[_a_matrix(old)])


def _a_matrix(state: dict[str, torch.Tensor]) -> str:
    return next(name for name in state if name.startswith("mlp") and name.endswith("weight") and state[name].dim() == 2)


def test_the_rate_is_that_of_training_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes 1 s, an evaluation 100 s and a checkpoint 30 s."""
    now = [0.0]

    def takes(seconds: float, cls: type[Any], name: str) -> None:
        work = getattr(cls, name)

        def slowly(*args: Any, **kwargs: Any) -> Any:
            now[0] += seconds
            return work(*args, **kwargs)

        monkeypatch.setattr(cls, name, slowly)

    takes(1, Learner, "train_step")
    takes(100, Learner, "evaluate")
    takes(30, Store, "save")
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0]))
    train(settings(data, tmp_path / "r", train__log_every_steps=4, checkpoint__every_steps=7))
    lines = [line for line in read_history(tmp_path / "r" / "metrics.jsonl") if "train/loss" in line]
    assert len(lines) > 6
    assert {line["rows_per_second"] for line in lines} == {256.0}
