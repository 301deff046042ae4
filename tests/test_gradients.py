from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rechub_ray import world as world_module
from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.errors import TrainingError
from rechub_ray.gradients import Clip, Gradients
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.regularization import Regularization
from rechub_ray.schema import Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.world import World
from tests.worlds import in_processes

SCHEMA = Schema(
    (SparseFeature("user", 30), SparseFeature("item", 20), SequenceFeature("history", 20, shared_with="item")),
    (Label("click"),),
)
PENALTIES = {"embedding_l1": 0.01, "embedding_l2": 0.02, "dense_l1": 0.03, "dense_l2": 0.04}


class Model(nn.Module):
    def __init__(self, *, sparse_grad: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = EmbeddingBank(SCHEMA, dim=3, init_std=1.0)
        self.linear = EmbeddingBank(SCHEMA, dim=1, init_std=1.0, features=["user", "item"])
        self.embedding.sparse_grad = self.linear.sparse_grad = sparse_grad
        self.mlp = nn.Linear(9, 1)
        self.idle = nn.Linear(2, 1)

    def forward(self, features: Features) -> Tensor:
        first: Tensor = self.linear.flat(features).sum(1)
        deep: Tensor = self.mlp(self.embedding.flat(features)).squeeze(1)
        return first + deep


def batch(rows: int, seed: int) -> tuple[Features, Tensor]:
    """Random rows; row b has b % 3 ids in its history."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (torch.randint(0, size, (rows, 1), generator=generator) for size in (30, 20))
    lengths = torch.arange(rows) % 3
    values = torch.randint(0, 20, (int(lengths.sum()),), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    features = Features(torch.cat([users, items], 1), torch.zeros(rows, 0), RaggedSequences(values, offsets))
    return features, torch.randint(0, 2, (rows,), generator=generator).float()


def backward(model: Model, features: Features, labels: Tensor) -> Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(model(features), labels)
    loss.backward()
    return loss


def finish(gradients: Gradients) -> Tensor:
    return gradients.put(gradients.average())


def dense_gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.as_tensor(p.grad).to_dense().clone() for name, p in model.named_parameters()}


def test_sparse_gradients_become_coalesced_and_equal_the_dense_ones() -> None:
    sparse, dense = Model(sparse_grad=True), Model(sparse_grad=False)
    norms = []
    for model in (sparse, dense):
        backward(model, *batch(40, seed=1))
        norms.append(finish(Gradients(model, World())))
    gradient = torch.as_tensor(sparse.embedding.weights["3"].grad)
    assert gradient.is_sparse
    assert gradient.is_coalesced()
    assert gradient.indices()[0].diff().gt(0).all()
    torch.testing.assert_close(dense_gradients(sparse), dense_gradients(dense))
    torch.testing.assert_close(*norms)


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.05, 100.0])
def test_clipping_is_that_of_torch(sparse_grad: bool, clip_norm: float | None) -> None:
    mine, theirs = Model(sparse_grad=sparse_grad), Model(sparse_grad=False)
    backward(mine, *batch(40, seed=1))
    backward(theirs, *batch(40, seed=1))
    norm = finish(Gradients(mine, World(), clip_norm=clip_norm))
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or float("inf"))
    torch.testing.assert_close(norm, expected)
    theirs.idle.weight.grad, theirs.idle.bias.grad = torch.zeros(1, 2), torch.zeros(1)
    torch.testing.assert_close(dense_gradients(mine), dense_gradients(theirs))


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_clipping_by_value_and_by_group_is_that_of_torch(sparse_grad: bool, clip_norm: float | None) -> None:
    mine, theirs = Model(sparse_grad=sparse_grad), Model(sparse_grad=False)
    backward(mine, *batch(40, seed=1))
    backward(theirs, *batch(40, seed=1))
    tables = [name for name, _ in theirs.named_parameters() if name.startswith("embedding.")]
    groups = [
        Clip(frozenset(tables), norm=0.01, value=0.003),
        Clip(frozenset({"mlp.bias"}), value=1e-4),
        Clip(frozenset()),
    ]
    before = {name: p.grad.to_dense().clone() for name, p in mine.named_parameters() if p.grad is not None}
    norm = finish(Gradients(mine, World(), clip_norm=clip_norm, clip_value=0.004, groups=groups))
    theirs.idle.weight.grad, theirs.idle.bias.grad = torch.zeros(1, 2), torch.zeros(1)
    torch.testing.assert_close(norm, nn.utils.get_total_norm(before.values()))
    own = [p for name, p in theirs.named_parameters() if name in tables]
    nn.utils.clip_grad_value_(own, 0.003)
    nn.utils.clip_grad_norm_(own, 0.01)
    nn.utils.clip_grad_value_([theirs.mlp.bias], 1e-4)
    nn.utils.clip_grad_value_(theirs.parameters(), 0.004)
    nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or float("inf"))
    after = dense_gradients(mine)
    torch.testing.assert_close(after, dense_gradients(theirs))
    assert all(not torch.equal(after[name], before[name]) for name in (*tables, "mlp.bias", "mlp.weight"))


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_the_gradients_of_several_backward_calls_add_up(sparse_grad: bool) -> None:
    model = Model(sparse_grad=sparse_grad)
    batches = [batch(20, seed=seed) for seed in range(3)]
    expected: dict[str, Tensor] = {}
    for features, labels in batches:
        model.zero_grad()
        backward(model, features, labels)
        finish(Gradients(model, World()))
        for name, gradient in dense_gradients(model).items():
            expected[name] = expected.get(name, 0) + gradient
    model.zero_grad()
    for features, labels in batches:
        backward(model, features, labels)
    finish(Gradients(model, World()))
    torch.testing.assert_close(dense_gradients(model), expected)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_penalties_join_the_gradients_before_the_norm(sparse_grad: bool) -> None:
    model, expected = Model(sparse_grad=sparse_grad), Model(sparse_grad=False)
    features, labels = batch(40, seed=1)
    backward(model, features, labels)
    norm = finish(Gradients(model, World(), regularization=Regularization(**PENALTIES)))

    loss = nn.functional.binary_cross_entropy_with_logits(expected(features), labels)
    for name, parameter in expected.named_parameters():
        weight: Tensor = parameter
        if name.startswith(("embedding", "linear")):
            if sparse_grad:  # the rows in the batch only
                used = torch.zeros(len(parameter), dtype=torch.bool)
                used[torch.as_tensor(dict(model.named_parameters())[name].grad).indices()[0]] = True
                weight = parameter[used]
            loss = loss + 0.01 * weight.abs().sum() + 0.02 * weight.square().sum()
        else:
            loss = loss + 0.03 * weight.abs().sum() + 0.04 * weight.square().sum()
    loss.backward()
    torch.testing.assert_close(dense_gradients(model), dense_gradients(expected))
    torch.testing.assert_close(norm, nn.utils.get_total_norm([torch.as_tensor(p.grad) for p in expected.parameters()]))


def test_parameters_without_a_part_in_the_loss_get_zeros() -> None:
    model = Model(sparse_grad=True)
    model.mlp(torch.ones(1, 9)).sum().backward()
    finish(Gradients(model, World()))
    assert torch.as_tensor(model.idle.weight.grad).eq(0).all()
    table = torch.as_tensor(model.embedding.weights["3"].grad)
    assert table.is_sparse
    assert table._nnz() == 0


def test_frozen_parameters_get_none() -> None:
    model = Model(sparse_grad=True)
    model.linear.requires_grad_(False)
    model.idle.requires_grad_(False)
    backward(model, *batch(10, seed=0))
    finish(Gradients(model, World()))
    assert model.linear.weights["1"].grad is None
    assert model.idle.weight.grad is None


@pytest.mark.parametrize("where", ["embedding.weights.3", "mlp.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(where: str, value: float) -> None:
    model = Model(sparse_grad=True)
    backward(model, *batch(10, seed=0))
    gradient = torch.as_tensor(dict(model.named_parameters())[where].grad)
    (gradient._values() if gradient.is_sparse else gradient)[0, 0] = value
    assert not finish(Gradients(model, World(), clip_norm=1.0)).isfinite()


def test_a_dense_gradient_on_a_table_of_rows_is_refused() -> None:
    model = Model(sparse_grad=True)
    (model.embedding.weights["3"] ** 2).sum().backward()
    with pytest.raises(TrainingError, match=r"'embedding.weights.3' has a dense gradient"):
        finish(Gradients(model, World()))


def run_rank(rank: int, folder: Path, way: str) -> None:
    torch.set_num_threads(1)
    if way == "sockets":
        world_module.open_exchange = lambda rank, size, **_: None  # as on several hosts
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    result = {}
    for sparse_grad in (False, True):
        model = Model(sparse_grad=sparse_grad)
        gradients = Gradients(model, World.current(), clip_norm=0.1, regularization=Regularization(**PENALTIES))
        for _ in range(2):
            backward(model, *rank_batch(rank))
        result[f"{sparse_grad}/norm"] = finish(gradients)
        result |= {f"{sparse_grad}/{name}": gradient for name, gradient in dense_gradients(model).items()}
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()  # a rank that leaves early takes the connection of a slower one with it
    os._exit(0)  # gloo's threads now and then abort a process that ends in order


def rank_batch(rank: int) -> tuple[Features, Tensor]:
    """Half of the rows; without history, so that halves of one batch are easy to cut."""
    features, labels = batch(60, seed=5)
    cut = slice(30 * rank, 30 * rank + 30)
    nothing = RaggedSequences(torch.empty(0, dtype=torch.int64), torch.zeros(31, dtype=torch.int64))
    if rank == 1:  # ranks differ in the number of rows they send
        features.sparse[cut] = features.sparse[30]
    return Features(features.sparse[cut], features.dense[cut], nothing), labels[cut]


@pytest.mark.parametrize("way", ["sockets", "memory"])
def test_two_ranks_get_the_same_bits_and_what_one_rank_gets_from_all_rows(tmp_path: Path, way: str) -> None:
    in_processes(2, run_rank, tmp_path, way)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    halves = [rank_batch(rank) for rank in range(2)]
    whole = Features(
        torch.cat([half.sparse for half, _ in halves]),
        torch.cat([half.dense for half, _ in halves]),
        RaggedSequences(torch.empty(0, dtype=torch.int64), torch.zeros(61, dtype=torch.int64)),
    )
    for sparse_grad in (False, True):
        model = Model(sparse_grad=sparse_grad)
        for _ in range(2):
            backward(model, whole, torch.cat([labels for _, labels in halves]))
        norm = finish(Gradients(model, World(), clip_norm=0.1, regularization=Regularization(**PENALTIES)))
        torch.testing.assert_close(first[f"{sparse_grad}/norm"], norm)
        for name, gradient in dense_gradients(model).items():
            torch.testing.assert_close(first[f"{sparse_grad}/{name}"], gradient)


class Recorded(World):
    """A world of two: what rank 0 sent, and this rank."""

    sent: ClassVar[list[list[Tensor]]] = []

    def gather_all(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        self.sent.append([tensor.reshape(-1) for tensor in tensors])
        return self.sent


def test_tables_with_the_same_rows_send_them_once_also_where_only_one_rank_has_them() -> None:
    ids = [torch.tensor([5, 5, 1]), torch.tensor([2]), torch.tensor([5, 5, 1]), torch.empty(0, dtype=torch.int64)]
    # by table, rows of rank 0 and of rank 1: equal on one rank, empty on one, equal on both
    tables = [(ids[0], ids[0]), (ids[2], ids[1]), (ids[1], ids[1]), (ids[1], ids[3]), (ids[3], ids[3])]
    given = [
        [(rows[rank], torch.randn(rows[rank].numel(), 2 + at)) for at, rows in enumerate(tables)] for rank in range(2)
    ]
    Recorded.sent.clear()
    sizes = [10, 2**33, 10, 10, 10]
    for rank in range(2):
        result = Gradients(Model(sparse_grad=True), Recorded(rank, 2))._gather(given[rank], sizes)
    assert Recorded.sent[0][2].numel() == 0
    assert Recorded.sent[1][2].numel() == 1
    for at, (rows, values) in enumerate(result):
        assert rows.tolist() == [*tables[at][0].tolist(), *tables[at][1].tolist()]
        assert rows.dtype == torch.int64
        torch.testing.assert_close(values, torch.cat([given[0][at][1], given[1][at][1]]), rtol=0, atol=0)
