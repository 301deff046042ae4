from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from rechub_ray.optimizers import OPTIMIZERS, SparseOptimizer, takes_row_gradients

SPARSE = [name for name in OPTIMIZERS.names() if takes_row_gradients(OPTIMIZERS.get(name))]
PENALTY = {"sparse_ftrl": {"l1": 0.1, "l2": 0.1}}


def test_which_optimizers_take_rows() -> None:
    assert SPARSE == ["lazy_adam", "rowwise_adagrad", "sparse_adagrad", "sparse_ftrl"]
    assert takes_row_gradients(OPTIMIZERS.get("torch.optim.SparseAdam"))
    assert not takes_row_gradients(OPTIMIZERS.get("torch.optim.RAdam"))
    assert takes_row_gradients(OPTIMIZERS.build("lazy_adam", [torch.nn.Parameter(torch.zeros(1, 1))]))


@pytest.mark.parametrize("name", SPARSE)
def test_rows_outside_the_gradient_stay_to_the_bit(problem: Any, name: str) -> None:
    problem.steps = problem.steps[:1]
    after = problem.run(problem.of(name, lr=0.1, **PENALTY.get(name, {"weight_decay": 0.1})))
    touched = torch.zeros(len(after), dtype=torch.bool)
    touched[problem.steps[0][0]] = True
    assert torch.equal(after[~touched], problem.start[~touched])
    assert after[touched].ne(problem.start[touched]).all()


@pytest.mark.parametrize("name", SPARSE)
def test_blocks_of_rows_are_only_a_matter_of_speed(problem: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem.run(problem.of(name, lr=0.1))
    monkeypatch.setattr("rechub_ray.optimizers.base._BLOCK_ROWS", 3)
    torch.testing.assert_close(problem.run(problem.of(name, lr=0.1)), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_state_round_trip_is_exact(problem: Any, name: str) -> None:
    dense = name not in SPARSE

    def step(table: torch.nn.Parameter, optimizer: torch.optim.Optimizer, at: int) -> None:
        table.grad = problem.sparse(at).to_dense() if dense else problem.sparse(at)
        optimizer.step()

    table = torch.nn.Parameter(problem.start.clone())
    optimizer = OPTIMIZERS.build({"name": name, "lr": 0.1}, [table])
    for at in range(4):
        step(table, optimizer, at)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = torch.nn.Parameter(table.detach().clone())
    loaded = OPTIMIZERS.build({"name": name, "lr": 0.7}, [other])
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for at in range(4, 8):
        step(table, optimizer, at)
        step(other, loaded, at)
    assert torch.equal(table, other)


@pytest.mark.parametrize("name", SPARSE)
def test_gradients_that_are_not_coalesced_count_the_same(problem: Any, name: str) -> None:
    expected = problem.run(problem.of(name, lr=0.1))
    halves = copy.copy(problem)
    halves.sparse = lambda step: torch.sparse_coo_tensor(
        torch.cat([problem.steps[step][0].flip(0)] * 2).unsqueeze(0),
        torch.cat([problem.steps[step][1].flip(0) / 2] * 2),
        problem.start.shape,
        check_invariants=False,
    )
    torch.testing.assert_close(halves.run(problem.of(name, lr=0.1)), expected)


@pytest.mark.parametrize("name", SPARSE)
def test_a_step_makes_nothing_as_large_as_the_table(name: str) -> None:
    table = torch.nn.Parameter(torch.zeros(100_000, 4))
    optimizer = OPTIMIZERS.build({"name": name, **PENALTY.get(name, {"weight_decay": 0.1})}, [table])
    rows = torch.arange(0, 100_000, 1000).unsqueeze(0)
    table.grad = torch.sparse_coo_tensor(
        rows, torch.ones(100, 4), table.shape, is_coalesced=True, check_invariants=False
    )
    optimizer.step()  # makes the state
    with torch.profiler.profile(profile_memory=True) as profiler:
        torch.ones(1)  # what the profiler must see at least: a compiled update makes nothing
        optimizer.step()
    assert 0 < max(abs(event.cpu_memory_usage) for event in profiler.events() or []) < 100_000


@pytest.mark.parametrize("name", SPARSE)
def test_no_gradient_and_no_rows(name: str) -> None:
    table = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = OPTIMIZERS.build(name, [table])
    optimizer.step()
    table.grad = torch.sparse_coo_tensor(
        torch.empty(1, 0, dtype=torch.int64), torch.empty(0, 2), (5, 2), check_invariants=False
    )
    optimizer.step()
    assert table.eq(1).all()


def test_step_calls_its_closure() -> None:
    table = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = OPTIMIZERS.build("rowwise_adagrad", [table])
    assert isinstance(optimizer, SparseOptimizer)

    def closure() -> float:
        loss = torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum()
        torch.autograd.backward(loss)
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert table[1].ne(1).all()
