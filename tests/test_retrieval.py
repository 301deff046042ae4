"""Runs of models for retrieval: resuming is exact, and ranks do not change the numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import train, validate
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import Schema
from rechub_ray.tracking import Tracker, read_history
from tests.small_retrieval import SCHEMA, write_retrieval
from tests.worlds import train_in_processes, train_until_killed

MIXED: list[Any] = ["in_batch", {"name": "uniform", "number": 11}, {"name": "popularity", "number": 5}]
OF_ROWS: list[Any] = [
    {"name": "uniform", "number": 11},
    {"name": "hard", "number": 2, "refresh_steps": 4},
    {"name": "column", "column": "shown"},
]
METRICS = ["recall@10", "ndcg@10", "mrr@10"]
BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 64, "eval_batch_size": 96},
    "model": {
        "name": "dssm",
        "embedding_dim": 8,
        "vector_dim": 8,
        "user_units": [16],
        "item_units": [16],
        "dropout": 0.2,
        "init_std": 0.1,
    },
    "negatives": MIXED,
    "optimizers": [{"name": "rowwise_adagrad", "params": "embedding.*", "lr": 0.05}, {"name": "adam", "lr": 0.01}],
    "train": {"epochs": 2, "log_every_steps": 5, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_retrieval(tmp_path_factory.mktemp("r") / "data")


def settings(data: Path, model_dir: Path, **overrides: Any) -> config_module.RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir)}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    store = Store(str(model_dir))
    return read(f"{store.location}/{store.newest()}").model


class Interrupt(Tracker):
    """Ends the process's run, as Ctrl-C does, at the first log from `step` on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("model", ["dssm", "youtube_dnn", "mind"])
def test_it_learns_what_users_choose(data: Path, tmp_path: Path, model: str) -> None:
    """A user's items are a fifth of all, the first ones most often: the best possible recall@5 is about 0.7."""
    given = {"train__epochs": 6, "train__evaluate_every_epochs": 3, "metrics": ["recall@5", "ndcg@5", "coverage@5"]}
    if model == "youtube_dnn":
        given["model"] = {"name": model, "embedding_dim": 8, "hidden_units": [32], "init_std": 0.1}
    if model == "mind":
        given["model"] = {"name": model, "embedding_dim": 8, "hidden_units": [32], "interest_num": 2}
    result = train(settings(data, tmp_path / "r", **given))
    history = [line for line in read_history(tmp_path / "r" / "metrics.jsonl") if "val/recall@5" in line]
    assert history[0]["val/recall@5"] < 0.25
    assert result.metrics["recall@5"] > 0.45
    assert result.metrics["rows_seen"] == 200
    assert result.test_metrics["recall@5"] > 0.45
    assert result.metrics["coverage@5"] > 0.4


def test_resume_in_the_middle_of_an_epoch_is_bit_equal(data: Path, tmp_path: Path) -> None:
    every = {"checkpoint__every_steps": 4}
    whole = train(settings(data, tmp_path / "whole", **every))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **every), trackers=[Interrupt(10)])
    resumed = train(settings(data, tmp_path / "parts", **every), resume="must")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert resumed.metrics == whole.metrics
    with pytest.raises(ConfigError, match="differs in negatives"):
        train(settings(data, tmp_path / "parts", negatives=["in_batch"]), resume="must")


def test_a_killed_run_goes_on_with_the_same_hard_negatives(data: Path, tmp_path: Path) -> None:
    """It is killed between refreshes, and checkpoints do not fall on the steps of refreshes."""
    hard = {"name": "hard", "number": 3, "skip": 1, "pool": 40, "refresh_steps": 5}
    given = {"negatives": [*MIXED, hard, {"name": "column", "column": "shown"}], "train__epochs": 4}
    given |= {
        "checkpoint__every_steps": 7,
        "train__log_every_steps": 1,
        "train__initial_evaluation": False,
        "train__evaluate_every_epochs": 4,
    }
    whole = train(settings(data, tmp_path / "whole", **given))
    train_until_killed(settings(data, tmp_path / "killed", **given), 23)
    assert Store(str(tmp_path / "killed")).newest() == "step_0000000021"
    again = train(settings(data, tmp_path / "killed", **given), resume="must")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert again.test_metrics == whole.test_metrics


def test_saves_take_no_part_in_a_run_without_hard_negatives_and_refreshes_do_in_one(data: Path, tmp_path: Path) -> None:
    """What a resumed run cannot know is forgotten at a save: so refreshes, and only they, follow the saves."""
    found = {}
    for name, negatives in (("plain", MIXED), ("hard", [{"name": "hard", "number": 4, "refresh_steps": 1000}])):
        for every in (3, 1000):
            given = {"negatives": negatives, "checkpoint__every_steps": every, "train__epochs": 1}
            train(settings(data, tmp_path / f"{name}{every}", **given))
            found[name, every] = weights(tmp_path / f"{name}{every}")
    for name in ("plain", "hard"):
        a, b = found[name, 3], found[name, 1000]
        assert all(torch.equal(a[key], b[key]) for key in a) == (name == "plain")


def test_hard_negatives_teach_what_ranks_first(data: Path, tmp_path: Path) -> None:
    given = {"negatives": ["in_batch", {"name": "hard", "number": 5, "skip": 12, "refresh_steps": 10}]}
    given |= {"train__epochs": 6, "metrics": ["recall@5"]}
    assert train(settings(data, tmp_path / "r", **given)).metrics["recall@5"] > 0.45


@pytest.mark.parametrize("loss", ["bpr_max", "sampled_softmax"])
def test_a_step_in_parts_of_rows_with_negatives_of_their_own_is_the_whole_step(
    data: Path, tmp_path: Path, loss: str
) -> None:
    hard = {"name": "hard", "number": 2, "pool": 30, "refresh_steps": 4}
    given = {"negatives": ["uniform_per_row", hard, {"name": "column", "column": "shown"}], "losses": [loss]}
    given |= {"model__dropout": 0.0, "train__epochs": 1, "train__eval_method": "none"}
    given |= {"optimizers": [{"name": "sgd", "lr": 0.05}]}
    train(settings(data, tmp_path / "one", **given))
    train(settings(data, tmp_path / "two", **given, data__batch_size=32, train__accumulate_steps=2))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5)


def test_metrics_among_a_few_items(data: Path, tmp_path: Path) -> None:
    metrics = ["recall@5", {"name": "hit@5", "candidates": 20}, {"name": "hit@5", "candidates": "shown"}]
    metrics += [{"name": "hit@1", "candidates": 20, "exclude": "history", "per_group": True, "seed": 1}]
    run = train(settings(data, tmp_path / "r", metrics=metrics))
    found = run.metrics
    assert found["hit@5_among_20_drawn"] > found["recall@5"]
    assert found["hit@5_among_shown"] > 0.5  # lists of at most four: a rank below 5, unless the item is unknown
    assert 0 < found["hit@1_among_20_drawn_seed_1_without_history_per_user"] < 1
    again = evaluate(run.best_checkpoint, split="valid", overrides={"data.eval_batch_size": 7})
    assert {key: again[key] for key in found} == pytest.approx(found, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("negatives", [MIXED, OF_ROWS], ids=["of all rows", "of single rows"])
def test_two_processes_give_the_numbers_of_one_with_twice_the_batch(
    data: Path, tmp_path: Path, negatives: list[Any]
) -> None:
    plain = {"model__dropout": 0.0, "train__epochs": 1, "train__clip_norm": 1.0, "model__batch_norm": True}
    plain |= {"negatives": negatives, "metrics": [*METRICS, {"name": "hit@5", "candidates": 20}]}
    plain["model__batch_norm"] = negatives == MIXED  # its moments are of a worker's distinct items, otherwise
    plain |= {"optimizers__1": {"name": "sgd", "lr": 0.05}}
    one = train(settings(data, tmp_path / "one", **plain))
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "two", **plain, data__batch_size=32))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
    found = read(tmp_path / "two").state["metrics"]
    assert found["rows_seen"] == 200
    for key in (*METRICS, "hit@5_among_20_drawn"):
        assert found[key] == pytest.approx(one.metrics[key], abs=0.01)


def test_defaults_of_a_model_for_retrieval(data: Path, tmp_path: Path) -> None:
    config = check(settings(data, tmp_path / "r", negatives=None)).config
    assert [node["name"] for node in config.losses or []] == ["sampled_softmax"]
    assert config.negatives == [{"name": "in_batch"}]
    assert [(node["name"], node["k"]) for node in config.metrics or []] == [
        ("recall_at_k", 10),
        ("ndcg_at_k", 10),
        ("mrr_at_k", 10),
    ]
    overridden = config_module.load(
        {"model": "dssm"},
        ["losses.0.temperature=0.2", "negatives.1=uniform", "metrics.0.k=20", "metrics.0.name=recall_at_k"],
    )
    assert overridden.losses is not None
    assert overridden.losses[0]["name"] == "sampled_softmax"
    assert [node["name"] for node in overridden.negatives or []] == ["in_batch", "uniform"]
    assert "labels none" in validate(settings(data, tmp_path / "r"))


@pytest.mark.parametrize(
    "loss", ["info_nce", "bpr", "bpr_max", "hinge", "softmax_cross_entropy", "svg_softmax", "sampled_bce"]
)
def test_other_losses_of_two_towers_train_with_drawn_items(data: Path, tmp_path: Path, loss: str) -> None:
    negatives = MIXED if loss == "svg_softmax" else [*MIXED, *OF_ROWS]
    given = {
        "losses": [loss],
        "negatives": negatives,
        "train__epochs": None,
        "train__steps": 3,
        "train__eval_method": "none",
    }
    result = train(settings(data, tmp_path / "r", **given))
    assert result.details["steps"] == 3


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"negatives": []}, ConfigError, "'negatives' is empty, and loss 'sampled_softmax'"),
        ({"negatives": [], "losses": ["sampled_bce"]}, ConfigError, "'negatives' is empty"),
        (
            {"negatives": [{"name": "column", "column": "show"}]},
            ConfigError,
            "'negatives.0.column'.*Did you mean 'shown'",
        ),
        ({"negatives": ["hard"], "losses": ["svg_softmax"]}, ConfigError, "'losses.0'.*all rows with the same items"),
        ({"metrics": [{"name": "hit@5", "candidates": "seen"}]}, ConfigError, "'candidates' is 'seen'.*shown"),
        ({"negatives": [{"name": "uniform", "count": 3}]}, ConfigError, "'negatives.0'.*no argument 'count'"),
        ({"losses": ["nce"]}, ConfigError, r"'losses.0': loss 'nce' compares the rows .*negatives: \[in_batch\]"),
        ({"losses": ["bce"]}, ConfigError, "no label"),
        ({"metrics": ["auc"]}, ConfigError, "no label"),
        ({"metrics": [{"name": "recall@5", "exclude": "words"}]}, ConfigError, "'exclude' is 'words'.*history"),
        ({"train.accumulate_steps": 2}, ConfigError, "accumulate_steps=1.*uniform_per_row"),
        (
            {"train.accumulate_steps": 2, "losses": ["bpr"], "negatives": ["in_batch_drawn"]},
            ConfigError,
            "accumulate_steps=1",
        ),
        ({"model": {"name": "lr"}, "metrics": None}, ConfigError, "'negatives' are for models for retrieval"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    data: Path, tmp_path: Path, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(settings(data, tmp_path / "r", **given))


def test_data_without_an_item_table_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "items")
    with pytest.raises(DataError, match="no item table"):
        check(settings(tmp_path / "data", tmp_path / "r"))
    Schema(SCHEMA.features, (), row_id="row").save(tmp_path / "data" / "schema.json")
    with pytest.raises(ConfigError, match="no items"):
        check(settings(tmp_path / "data", tmp_path / "r"))


def test_a_loss_that_is_not_finite_names_the_learning_rates(data: Path, tmp_path: Path) -> None:
    given = {"optimizers": [{"name": "sgd", "lr": 1e30}], "model__similarity": "dot", "train__eval_method": "none"}
    with pytest.raises(Exception, match="not finite at step"):
        train(settings(data, tmp_path / "r", **given))
