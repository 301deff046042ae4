"""Tables by feature, in a checkpoint and back: the weights, and what optimizers keep of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rechub_ray.batch import Batch, Features, RaggedSequences
from rechub_ray.checkpoint import read
from rechub_ray.errors import CheckpointError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.learner import Learner
from rechub_ray.optimizers import BuiltOptimizer, build_optimizers
from rechub_ray.schema import Label, Schema, SparseFeature
from rechub_ray.table_format import (
    load_packed,
    pack_optimizer,
    pack_tables,
    table_rows,
    tables_named,
    unpack_optimizer,
)
from rechub_ray.world import World

FEATURES = (SparseFeature("user", 5), SparseFeature("item", 3), SparseFeature("city", 2, embed_dim=2))
ADAPTIVE = ["rowwise_adagrad", "sparse_adagrad", "lazy_adam", "adagrad", "adam"]


class Net(nn.Module):
    def __init__(self, features: tuple[SparseFeature, ...] = FEATURES) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = EmbeddingBank(Schema(features, (Label("y"),)), dim=4, init_std=1.0)
        self.out = nn.Linear(4, 1)

    def loss(self, seed: int) -> Tensor:
        """Something that reaches some rows of all tables."""
        draw = torch.Generator().manual_seed(seed)
        total = self.out.bias.sum()
        for name, size in (("user", 5), ("item", 3), ("city", 2)):
            rows = self.embedding.rows(name, torch.randint(0, size, (2,), generator=draw))
            total = total + (rows * torch.randn(rows.shape, generator=draw)).sum()
        return total


def trained(net: Net, name: str, *, steps: int = 3) -> list[BuiltOptimizer]:
    built = build_optimizers([{"name": name, "params": "embedding.*"}, "adam"], net)
    train(net, built, range(steps))
    return built


def train(net: Net, built: list[BuiltOptimizer], seeds: range) -> None:
    for seed in seeds:
        net.loss(seed).backward()
        for item in built:
            item.optimizer.step()
            item.optimizer.zero_grad()


def packed(net: Net, built: list[BuiltOptimizer]) -> list[dict[str, Any]]:
    """The states as they come out of a file."""
    rows = table_rows(net)
    file = io.BytesIO()
    torch.save([pack_optimizer(item.optimizer.state_dict(), item.parameters, rows) for item in built], file)
    file.seek(0)
    result: list[dict[str, Any]] = torch.load(file, weights_only=True)
    return result


def test_tables_are_parts_of_the_weights() -> None:
    net = Net()
    tensors = pack_tables(net, net.state_dict())
    tables = {f"embedding.tables.{name}": net.embedding.rows(name) for name in ("user", "item", "city")}
    assert set(tensors) == {*tables, "out.weight", "out.bias"}
    for name, table in tables.items():
        assert torch.equal(tensors[name], table)
        assert tensors[name].data_ptr() == table.data_ptr(), "no copy"
    assert pack_tables(net, tensors).keys() == tensors.keys()


def test_another_order_of_features_makes_no_difference() -> None:
    net, other = Net(), Net(FEATURES[::-1])
    torch.nn.init.zeros_(other.embedding.weights["4"])
    load_packed(other, {**pack_tables(net, net.state_dict()), "more": torch.zeros(1)})
    assert not torch.equal(other.embedding.weights["4"], net.embedding.weights["4"])
    for name in ("user", "item", "city"):
        assert torch.equal(other.embedding.rows(name), net.embedding.rows(name))
    assert torch.equal(other.out.weight, net.out.weight)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_optimizer_goes_on_as_if_nothing_had_happened(name: str) -> None:
    net = Net()
    built = trained(net, name)
    tensors = {key: tensor.clone() for key, tensor in pack_tables(net, net.state_dict()).items()}
    states = packed(net, built)
    train(net, built, range(3, 6))

    other = Net(FEATURES[::-1])
    again = trained(other, name, steps=0)
    load_packed(other, tensors)
    for item, state in zip(again, states, strict=True):
        own = item.optimizer.state_dict()
        item.optimizer.load_state_dict(unpack_optimizer(state, own, item.parameters, table_rows(other)))
    train(other, again, range(3, 6))
    for key, tensor in pack_tables(other, other.state_dict()).items():
        assert torch.equal(tensor, pack_tables(net, net.state_dict())[key])


def test_what_a_table_keeps_stands_by_feature() -> None:
    net = Net()
    built = trained(net, "lazy_adam")
    entries = packed(net, built)[0]["state"]
    assert set(entries) == {"embedding.tables.user", "embedding.tables.item", "embedding.tables.city"}
    moments = built[0].optimizer.state[net.embedding.weights["4"]]["first"]
    assert torch.equal(entries["embedding.tables.user"]["rows"]["first"], moments[:5])
    assert torch.equal(entries["embedding.tables.item"]["rows"]["first"], moments[5:])
    assert {int(entry["whole"]["step"]) for entry in entries.values()} == {3}


def test_one_step_count_is_not_taken_for_rows() -> None:
    """What has one number in all, or as many as one of the tables has rows, is not cut."""
    net = Net()
    names, rows = ["embedding.weights.4"], table_rows(net)
    values = {
        "moment": torch.randn(8, 4),
        "columns": torch.arange(4.0),
        "step": torch.tensor(3.0),
        "five": torch.ones(5),
    }
    own = {"state": {0: values}, "param_groups": [{"lr": 1.0, "params": [0]}]}
    state = pack_optimizer(own, names, rows)
    assert state["param_groups"] == [{"lr": 1.0, "params": ["embedding.tables.user", "embedding.tables.item"]}]
    back = unpack_optimizer(state, own, names, rows)
    assert back["param_groups"] == own["param_groups"]
    assert back["state"][0].keys() == values.keys()
    assert all(torch.equal(back["state"][0][key], value) for key, value in values.items())


def test_an_optimizer_of_other_tables() -> None:
    net, other = Net(), Net((*FEATURES[:1], SparseFeature("shop", 3), FEATURES[2]))
    state = packed(net, trained(net, "rowwise_adagrad"))[0]
    item = trained(other, "rowwise_adagrad", steps=0)[0]
    with pytest.raises(
        CheckpointError, match=r"other parameters. Expected: embedding.tables.shop. Got: embedding.tables.item"
    ):
        unpack_optimizer(state, item.optimizer.state_dict(), item.parameters, table_rows(other))


def test_names_of_tables() -> None:
    net = Net()
    tensors = pack_tables(net, net.state_dict())
    assert tables_named("embedding.tables.item", tensors) == ["embedding.tables.item"]
    assert tables_named("embedding.weights.4", tensors) == ["embedding.tables.user", "embedding.tables.item"]
    assert tables_named("embedding.weights.2", tensors) == ["embedding.tables.city"]
    assert tables_named("out.weight", tensors) == ["out.weight"]
    for unknown in ("weights.4", "embedding.weights.8", "embedding.weights", "out"):
        assert tables_named(unknown, tensors) == []


# --- the first format -----------------------------------------------------------------------------------------------

FORMAT_1 = Path(__file__).parent / "fixtures" / "format_1"  # written before there was a second one
STEP_3 = FORMAT_1 / "step_0000000003"


def a_batch(step: int, rows: int = 8) -> Batch:
    """The batches that the checkpoint's run was trained with."""
    draw = np.random.default_rng(step)
    sparse = np.stack([draw.integers(0, size, rows) for size in (11, 7, 5)], 1)
    lengths = [draw.integers(0, 4, rows), draw.integers(0, 3, rows)]
    values = np.concatenate([draw.integers(0, size, k.sum()) for size, k in zip((7, 6), lengths, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    dense = torch.from_numpy(draw.normal(size=(rows, 1)).astype(np.float32))
    lists = RaggedSequences(torch.from_numpy(values), torch.from_numpy(offsets))
    labels = torch.from_numpy(draw.integers(0, 2, (rows, 1)).astype(np.float32))
    return Batch(Features(torch.from_numpy(sparse), dense, lists), labels)


def test_the_first_format_is_read() -> None:
    old, found = load_file(STEP_3 / "model.safetensors"), read(STEP_3, optimizers=True)
    weights = {name: old.pop(name) for name in list(old) if "weights" in name}
    assert set(weights) == {"embedding.weights.4", "embedding.weights.2", "linear.embedding.weights.1"}
    tables = {
        "embedding.tables.user": weights["embedding.weights.4"][:11],
        "embedding.tables.item": weights["embedding.weights.4"][11:],
        "embedding.tables.city": weights["embedding.weights.2"][:5],
        "embedding.tables.tags": weights["embedding.weights.2"][5:],
        "linear.embedding.tables.user": weights["linear.embedding.weights.1"][:11],
        "linear.embedding.tables.item": weights["linear.embedding.weights.1"][11:],
    }
    assert found.model.keys() == {*tables, *old}
    assert all(torch.equal(found.model[name], tensor) for name, tensor in {**tables, **old}.items())
    model = found.build_model()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in {**weights, **old}.items())
    states = torch.load(STEP_3 / "optimizers.pt", weights_only=True)
    assert found.optimizers is not None
    entries = found.optimizers[0]["state"]
    assert torch.equal(entries["embedding.tables.item"]["rows"]["sum"], states[0]["state"][0]["sum"][11:])


def test_a_run_of_the_first_format_goes_on() -> None:
    found = read(STEP_3, optimizers=True)
    learner = Learner(found.config, found.schema, world=World(), device=torch.device("cpu"), total_steps=10)
    learner.restore(found)
    for step in range(3, 6):
        learner.train_step(a_batch(step), step=step)
    expected = load_file(FORMAT_1 / "after_step_6.safetensors")
    # in front of batch norm a bias has no gradient but rounding, which Adam makes into steps; the mean follows it
    rounding = ("mlp.0.bias", "mlp.1.running_mean")
    for name, tensor in learner.model.state_dict().items():
        if name not in rounding:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5, msg=name)
