"""Runs of models of sequences: they learn, resume exactly, and do not depend on parts and ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import read
from rechub_ray.errors import ConfigError
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import check
from tests.small_sequences import write_sequences
from tests.test_retrieval import Interrupt, weights
from tests.worlds import train_in_processes

SASREC: dict[str, Any] = {"name": "sasrec", "embedding_dim": 16, "num_blocks": 1, "dropout": 0.1}
BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 64, "eval_batch_size": 96},
    "model": SASREC,
    "losses": ["sampled_bce"],
    "negatives": ["uniform_per_row"],
    "optimizers": [{"name": "adam", "lr": 0.01}],
    "metrics": ["recall@1", "recall@5"],
    "train": {"epochs": 2, "log_every_steps": 5, "threads": 1},
    "trackers": [],
    "export": {"onnx": False},
}
POPULAR: list[Any] = ["in_batch", {"name": "popularity", "number": 16, "alpha": 0.5}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequences(tmp_path_factory.mktemp("s") / "data")


def settings(data: Path, model_dir: Path, **overrides: Any) -> config_module.RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir)}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


@pytest.mark.parametrize(
    ("model", "loss", "negatives"),
    [
        (SASREC, "sampled_bce", ["uniform_per_row"]),
        ({"name": "gru4rec", "embedding_dim": 16}, "sampled_softmax", POPULAR),
        ({"name": "bert4rec", "embedding_dim": 16, "num_blocks": 1}, "full_softmax", None),
        ({"name": "hstu", "embedding_dim": 16, "num_layers": 1}, "sampled_softmax", POPULAR),
    ],
)
def test_it_learns_which_item_comes_next(data: Path, tmp_path: Path, model: Any, loss: str, negatives: Any) -> None:
    """The next item of a ring comes in nine of ten steps; a user without any item cannot be known."""
    given = {"model": model, "losses": [loss], "negatives": negatives, "train__epochs": 10}
    result = train(settings(data, tmp_path / "r", **given))
    assert result.metrics["rows_seen"] == 160
    assert result.metrics["recall@5"] > 0.6


def test_defaults_follow_the_loss(data: Path, tmp_path: Path) -> None:
    for loss, negatives in (("full_softmax", "all"), ("bpr", "in_batch")):
        config = check(settings(data, tmp_path / "r", losses=[loss], negatives=None)).config
        assert [node["name"] for node in config.negatives or []] == [negatives]
    config = check(settings(data, tmp_path / "r", losses=None, negatives=None)).config
    assert [node["name"] for node in [*(config.losses or []), *(config.negatives or [])]] == [
        "sampled_bce",
        "uniform_per_row",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"losses": ["full_softmax", "bpr"], "negatives": ["all", "in_batch"]}, r"with all items.*negatives: \[all\]"),
        ({"losses": ["full_softmax"], "negatives": ["in_batch"]}, r"with all items.*Got: in_batch"),
        ({"losses": ["sampled_softmax"], "negatives": ["all"]}, r"some items, not with all.*negatives: \[in_batch\]"),
        ({"negatives": ["in_batch", "hard"]}, "'negatives.1': 'hard' has items for rows.*several positions a row"),
    ],
)
def test_negatives_that_no_loss_reads_are_refused(data: Path, tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(settings(data, tmp_path / "r", **given))


def test_rows_that_repeat_histories_are_warned_of(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = tmp_path / "data"
    shutil.copytree(data, both)
    shutil.copytree(data / "train", both / "windows")
    said = []
    for given in ({"data__train": "windows"}, {"model__positions": "last"}, {}):
        caplog.clear()
        check(settings(both, tmp_path / "r", **given))
        said.append("'windows' has each item once" in caplog.text)
    assert said == [False, False, True]


@pytest.mark.parametrize("loss", ["sampled_bce", "full_softmax"])
def test_models_of_two_towers_train_with_them_too(data: Path, tmp_path: Path, loss: str) -> None:
    given = {"losses": [loss], "model": {"name": "dssm", "user_units": [8], "item_units": [8]}}
    given["negatives"] = ["uniform_per_row"] if loss == "sampled_bce" else None
    result = train(
        settings(data, tmp_path / "r", train__epochs=None, train__steps=3, train__eval_method="none", **given)
    )
    assert result.details["steps"] == 3


@pytest.mark.parametrize("model", [SASREC, {"name": "bert4rec", "embedding_dim": 8, "num_blocks": 1}])
def test_resume_in_the_middle_of_an_epoch_is_bit_equal(data: Path, tmp_path: Path, model: Any) -> None:
    every = {"checkpoint__every_steps": 4, "model": model, "losses": ["sampled_bce"], "negatives": ["uniform_per_row"]}
    whole = train(settings(data, tmp_path / "whole", **every))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **every), trackers=[Interrupt(10)])
    resumed = train(settings(data, tmp_path / "parts", **every), resume="must")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert resumed.metrics == whole.metrics


def test_a_loss_that_is_not_finite_is_explained(data: Path, tmp_path: Path) -> None:
    given = {"optimizers": [{"name": "sgd", "lr": 1e30}], "train__eval_method": "none"}
    with pytest.raises(Exception, match="not finite at step"):
        train(settings(data, tmp_path / "r", **given))


EXACT: dict[str, Any] = {"model__dropout": 0.0, "optimizers": [{"name": "sgd", "lr": 0.5}], "train__clip_norm": 1.0}


def close(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("loss", "negatives"), [("full_softmax", None), ("sampled_bce", ["uniform_per_row"])])
def test_a_step_in_parts_is_the_whole_step(data: Path, tmp_path: Path, loss: str, negatives: Any) -> None:
    given = {**EXACT, "losses": [loss], "negatives": negatives, "train__epochs": 1, "train__eval_method": "none"}
    train(settings(data, tmp_path / "one", **given))
    train(settings(data, tmp_path / "two", **given, data__batch_size=32, train__accumulate_steps=2))
    close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sampled_bce", "full_softmax", "sampled_softmax"])
def test_two_processes_give_the_numbers_of_one_with_twice_the_batch(data: Path, tmp_path: Path, loss: str) -> None:
    given = {
        **EXACT,
        "losses": [loss],
        "negatives": {"sampled_softmax": POPULAR, "sampled_bce": ["uniform_per_row"], "full_softmax": None}[loss],
    }
    one = train(settings(data, tmp_path / "one", **given, train__epochs=1))
    train_in_processes(
        2, tmp_path / "g", settings(data, tmp_path / "two", **given, train__epochs=1, data__batch_size=32)
    )
    close(tmp_path / "one", tmp_path / "two")
    assert read(tmp_path / "two").state["metrics"]["recall@5"] == pytest.approx(one.metrics["recall@5"], abs=0.01)
