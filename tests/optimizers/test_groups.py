from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rechub_ray.config import validate
from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.towers import Towers
from rechub_ray.optimizers import RowwiseAdagrad, build_optimizers, validate_optimizer
from rechub_ray.schema import Label, Schema, SparseFeature

SCHEMA = Schema((SparseFeature("user", 50), SparseFeature("item", 20, embed_dim=2)), (Label("click"),))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = EmbeddingBank(SCHEMA, dim=4)
        self.linear = EmbeddingBank(SCHEMA, dim=1)
        self.mlp = nn.Linear(6, 1)


def test_one_optimizer_takes_all_by_default() -> None:
    model = Model()
    (built,) = build_optimizers("adam", model)
    assert built.parameters == tuple(name for name, _ in model.named_parameters())
    assert built.schedule_node is None
    assert not model.embedding.sparse_grad
    assert [id(p) for p in built.optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_first_match_wins_and_tables_learn_what_gradients_they_get() -> None:
    model = Model()
    nodes = [
        {
            "name": "rowwise_adagrad",
            "params": ["embedding.*.4", "linear.*"],
            "lr": 0.5,
            "schedule": {"name": "constant"},
        },
        {"name": "adam", "params": "*"},
    ]
    first, second = build_optimizers(nodes, model)
    assert isinstance(first.optimizer, RowwiseAdagrad)
    assert first.parameters == ("embedding.weights.4", "linear.weights.1")
    assert first.optimizer.param_groups[0]["lr"] == 0.5
    assert first.schedule_node == {"name": "constant"}
    assert second.parameters == ("embedding.weights.2", "mlp.weight", "mlp.bias")
    assert model.embedding.row_gradients == {"4": True, "2": False}
    assert model.linear.sparse_grad
    assert not model.embedding.sparse_grad
    build_optimizers("adam", model)
    assert not model.linear.sparse_grad


class TwoTasks(nn.Module):
    """A table, something shared, and towers of labels whose names are no modules' names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = EmbeddingBank(SCHEMA, dim=2)
        self.bottom = nn.Linear(4, 4)
        labels = (Label("click"), Label("a.b"), Label("type"))
        self.towers = Towers(Schema(SCHEMA.features, labels), 4, ())


def test_each_label_has_its_rate_and_the_rest_the_nodes() -> None:
    schedule = {"name": "exponential", "decay": 0.5, "decay_steps": 10}
    node = {"name": "adam", "lr": 0.1, "schedule": schedule, "task_specific_lr": {"click": 0.2, "a.b": 0.3, "type": 1}}
    built = build_optimizers([{"name": "rowwise_adagrad", "params": "embedding.*"}, node], TwoTasks())
    rates = {name: one.optimizer.param_groups[0]["lr"] for one in built[1:] for name in one.parameters}
    ends = ("mlp.0.weight", "mlp.0.bias")
    towers = {"click": 0.2, "a_b": 0.3, "type_": 1.0}
    expected = {f"towers.{key}.{end}": rate for key, rate in towers.items() for end in ends}
    assert rates == {**expected, "bottom.weight": 0.1, "bottom.bias": 0.1}
    assert all(one.schedule_node == schedule for one in built[1:])


def test_a_run_resolves_rates_by_label_once() -> None:
    node = {"name": "adam", "lr": 0.1, "params": "*", "task_specific_lr": {"click": 0.2}}
    config = validate({"model": "mmoe", "optimizers": [node]})
    assert [(one["params"], one["lr"]) for one in config.optimizers] == [(["towers.click.*"], 0.2), (["*"], 0.1)]
    assert validate(config.model_dump()).optimizers == config.optimizers
    plain = {key: value for key, value in node.items() if key != "task_specific_lr"}
    for nothing in ({}, None):
        found = validate({"model": "mmoe", "optimizers": [{**node, "task_specific_lr": nothing}]})
        assert found.optimizers == validate({"model": "mmoe", "optimizers": [plain]}).optimizers


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (0.1, r"'optimizers.0.task_specific_lr'.*\{click: 0.001\}.*0.1"),
        ({"clik": 0.1}, r"'towers.clik.\*' matches no parameter. Did you mean 'towers.click.\*'"),
        ({"click": -0.1}, r"'optimizers.0.lr'"),
    ],
)
def test_rates_that_fit_no_label_are_refused(rates: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizers({"name": "adam", "task_specific_lr": rates}, TwoTasks())


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.mlp.requires_grad_(False)
    (built,) = build_optimizers({"name": "lazy_adam"}, model)
    assert built.parameters == ("embedding.weights.2", "embedding.weights.4", "linear.weights.1")
    assert build_optimizers({"name": "adam", "params": ["*embedding.*", "linear.*", "mlp.*"]}, model)
    with pytest.raises(ConfigError, match=r"gets no parameter.*frozen"):
        build_optimizers(["adam", {"name": "sgd", "params": "mlp.*"}], model)


def test_works_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Model()
    for name in ("rowwise_adagrad", "sparse_adagrad", "lazy_adam"):
        build_optimizers([{"name": name, "params": ["embedding.*", "linear.*"]}, "sgd"], model)
    for name in ("adam", "adamw", "adagrad"):
        build_optimizers(name, model)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (["adam", {"name": "sgd", "params": "mlp.*"}], "'optimizers.1.params' gets no parameter.*taken.*mlp.weight"),
        (
            [{"name": "adam", "params": "mpl.weight"}, "sgd"],
            "'optimizers.0.params': the pattern 'mpl.weight' matches no parameter.*Did you mean 'mlp.weight'",
        ),
        (
            [{"name": "lazy_adam", "params": ["embedding.*", "liner.*"]}, "sgd"],
            "'optimizers.0.params': the pattern 'liner.*' matches no parameter. Did you mean 'linear.*'",
        ),
        (["sgd", {"name": "adam", "params": ["mlp.*", "tower.*"]}], "'optimizers.1.params': the pattern 'tower.*'"),
        ([{"name": "adam", "params": "mlp.*"}], "no optimizer updates embedding.weights.2, embedding.weights.4.*last"),
        (
            "rowwise_adagrad",
            "'optimizers.0.params': rowwise_adagrad updates embedding tables only.*mlp.weight, mlp.bias.*"
            r"params: \['embedding.weights.\*', 'linear.weights.\*'\]",
        ),
        ([{"name": "lazy_adam", "params": "mlp.*"}, "sgd"], r"embedding tables only.*mlp.weight.*embedding.weights.\*"),
        ([{"name": "adam", "params": 3}], "'optimizers.0.params' does not say which.*embedding.*Got: 3"),
        ([{"name": "adam", "params": []}], "'optimizers.0.params' does not say which"),
        ([{"name": "adamm"}], "'optimizers.0.name': unknown optimizer 'adamm'.*Did you mean 'adam'"),
        ([{"name": "adam", "lr": -1}], "'optimizers.0.lr'"),
        ([{"name": "adam", "clip_norm": 0}], "'optimizers.0.clip_norm': .*greater than 0"),
        ([{"name": "adam", "clip_value": True}], "'optimizers.0.clip_value' is not a switch"),
        ([3], "'optimizers.0': not an optimizer"),
    ],
)
def test_what_a_user_can_get_wrong(nodes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizers(nodes, Model())


def test_a_checked_node_has_every_default() -> None:
    node = validate_optimizer({"name": "sgd", "lr": "1e-3", "params": "mlp.*"}, where="optimizers.0")
    assert node == {
        "name": "sgd",
        "lr": 0.001,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "params": ["mlp.*"],
        "schedule": None,
        "clip_norm": None,
        "clip_value": None,
    }
    assert validate_optimizer(node) == node
