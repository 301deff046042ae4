from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from torch import nn

from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.optimizers import OPTIMIZERS, build_optimizers, state_shapes
from rechub_ray.optimizers.base import takes_row_gradients
from rechub_ray.schema import Label, Schema, SparseFeature

ARGUMENTS: dict[str, dict[str, Any]] = {
    "Adam": {"betas": [0.8, 0.9], "amsgrad": True},
    "AdamW": {"weight_decay": 0.2},
    "SGD": {"momentum": 0.9, "dampening": 0.1},
    "SparseAdam": {"betas": [0.8, 0.9]},
    "Rprop": {"step_sizes": [1e-6, 1]},
}
NAMES = [name for name in torch.optim.__all__ if isinstance(getattr(torch.optim, name), type)]
NAMES = [name for name in NAMES if name not in ("Optimizer", "LBFGS")]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        schema = Schema((SparseFeature("user", 50), SparseFeature("item", 20)), (Label("click"),))
        self.embedding, self.linear = EmbeddingBank(schema, dim=4), EmbeddingBank(schema, dim=1)
        self.mlp = nn.Linear(8, 1)


def node_of(name: str) -> dict[str, Any]:
    return {"name": f"torch.optim.{name}", "lr": 0.05, **ARGUMENTS.get(name, {})}


def test_all_of_torch_are_here() -> None:
    assert {"Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SparseAdam"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_that_of_torch(problem: Any, name: str) -> None:
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in node_of(name).items()}
    del arguments["name"]
    mine = problem.run(lambda p: OPTIMIZERS.build(node_of(name), p), dense=name != "SparseAdam")
    theirs = problem.run(lambda p: getattr(torch.optim, name)(p, **arguments), dense=name != "SparseAdam")
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, problem.start)


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trip_is_exact(problem: Any, name: str) -> None:
    tables = [torch.nn.Parameter(problem.start.clone()) for _ in range(2)]
    optimizers = [OPTIMIZERS.build(node_of(name), [table]) for table in tables]

    def step(which: int, at: int) -> None:
        gradient = problem.sparse(at)
        tables[which].grad = gradient if name == "SparseAdam" else gradient.to_dense()
        optimizers[which].step()

    for at in range(4):
        step(0, at)
    file = io.BytesIO()
    torch.save(optimizers[0].state_dict(), file)
    file.seek(0)
    tables[1].data.copy_(tables[0].data)
    optimizers[1].load_state_dict(torch.load(file, weights_only=True))
    for at in range(4, 8):
        step(0, at)
        step(1, at)
    assert torch.equal(*tables)
    found = {k: tuple(v.shape) if torch.is_tensor(v) else () for k, v in optimizers[1].state[tables[1]].items()}
    assert found == state_shapes(node_of(name), tables[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_checked_node_reads_back_the_same(name: str) -> None:
    checked = json.dumps(OPTIMIZERS.validate(node_of(name)))
    assert json.dumps(OPTIMIZERS.validate(json.loads(checked))) == checked


def test_a_dotted_name_of_this_library_is_its_own() -> None:
    assert OPTIMIZERS.validate("rechub_ray.optimizers.LazyAdam")["name"] == "lazy_adam"
    assert "torch.optim.RAdam" not in OPTIMIZERS.names()


def test_dense_gradients_for_tables_but_with_sparse_adam() -> None:
    model = Model()
    nodes = [{"name": "torch.optim.SparseAdam", "params": "embedding.*"}, "torch.optim.RAdam"]
    build_optimizers(nodes, model)
    assert model.embedding.sparse_grad
    assert not model.linear.sparse_grad
    assert takes_row_gradients(OPTIMIZERS.get("torch.optim.SparseAdam"))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("torch.optim.Radam", "Did you mean 'torch.optim.RAdam'"),
        ("torch.nn.Linear", "unknown optimizer"),
        ("torch.optim.LBFGS", "one gradient a step.*computes the loss by itself"),
        ("torch.optim.Muon", "torch.optim.Muon does not take its arguments, or the parameters.*2D"),
        ({"name": "torch.optim.RAdam", "beta1": 0.9}, "has no argument 'beta1'"),
        ({"name": "torch.optim.RAdam", "betas": [0.9]}, "'optimizers.0.betas.1' is missing"),
        ({"name": "torch.optim.RAdam", "lr": -1}, "does not take its arguments.*learning rate: -1"),
        ("torch.optim.SparseAdam", "updates embedding tables only"),
    ],
)
def test_errors(node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_optimizers(node, Model())
