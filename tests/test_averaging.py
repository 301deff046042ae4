from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor

from rechub_ray.averaging import WeightAverage
from rechub_ray.errors import CheckpointError
from rechub_ray.optimizers import OPTIMIZERS

DECAY = 0.8


class Run:
    """A table with row gradients and a dense weight, trained for some steps with their average."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(30, 3))
        self.dense = torch.nn.Parameter(torch.randn(4))
        self.optimizers = [OPTIMIZERS.build({"name": "sparse_adagrad", "lr": 0.1}, [self.table]),
                           OPTIMIZERS.build({"name": "sgd", "lr": 0.1}, [self.dense])]  # fmt: skip
        self.average = WeightAverage([self.table, self.dense], decay=DECAY)
        self.plain = [self.table.detach().clone(), self.dense.detach().clone()]  # the definition, on every row

    def step(self, at: int) -> None:
        torch.manual_seed(100 + at)
        rows = torch.randperm(29)[:4].sort().values.unsqueeze(0)  # row 29 never moves
        self.table.grad = torch.sparse_coo_tensor(
            rows, torch.randn(4, 3), (30, 3), is_coalesced=True, check_invariants=False
        )
        self.dense.grad = torch.randn(4)
        with self.average.following(at):
            for optimizer in self.optimizers:
                optimizer.step()
        for plain, weight in zip(self.plain, (self.table, self.dense), strict=True):
            plain.mul_(DECAY).add_(weight.detach(), alpha=1 - DECAY)

    def averages(self, step: int) -> list[Tensor]:
        with self.average.applied(step):
            return [self.table.detach().clone(), self.dense.detach().clone()]


def test_rows_brought_up_to_date_late_are_those_of_the_definition() -> None:
    run = Run()
    start = run.table.detach().clone()
    for at in range(40):
        run.step(at)
        if at % 9 == 0:
            own = run.table.detach().clone()
            torch.testing.assert_close(run.averages(at + 1), run.plain, rtol=1e-5, atol=1e-6)
            assert torch.equal(run.table, own)
    table, _ = run.averages(40)
    torch.testing.assert_close(run.averages(40), run.plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(table[29], start[29])
    assert not torch.equal(table, run.table)


def test_looking_at_the_average_changes_nothing() -> None:
    looked, other = Run(), Run()
    for at in range(20):
        for run in (looked, other):
            run.step(at)
        looked.averages(at + 1)
    assert all(torch.equal(a, b) for a, b in zip(looked.averages(20), other.averages(20), strict=True))
    with pytest.raises(KeyError, match="inside"), looked.average.applied(20):
        raise KeyError("inside")
    assert torch.equal(looked.table, other.table)


def test_before_the_first_step_it_is_the_weights() -> None:
    run = Run()
    assert torch.equal(run.averages(0)[0], run.table)
    run.average.load_state_dict(run.average.state_dict())
    run.average.take_weights()
    assert torch.equal(run.averages(0)[0], Run().table)


def saved(run: Run, step: int) -> bytes:
    file = io.BytesIO()
    with run.average.applied(step):
        torch.save(run.average.state_dict(), file)
    return file.getvalue()


def test_a_resumed_one_goes_on_to_the_bit() -> None:
    whole, second = Run(), Run()
    for at in range(10):
        whole.step(at)
    with torch.no_grad():  # as from a checkpoint, whose model has the average
        for mine, average in zip((second.table, second.dense), whole.averages(10), strict=True):
            mine.copy_(average)
    second.average.load_state_dict(torch.load(io.BytesIO(saved(whole, 10)), weights_only=True))
    second.average.take_weights()
    assert torch.equal(second.table, whole.table)
    assert second.average.state[second.table]["step"].dtype == torch.int32
    for mine, other in zip(second.optimizers, whole.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(other.state_dict()))  # which shares its tensors
    for at in range(10, 20):
        whole.step(at)
        second.step(at)
    assert all(torch.equal(a, b) for a, b in zip(whole.averages(20), second.averages(20), strict=True))


@pytest.mark.parametrize("key", ["average", "weights", "step"])
def test_a_state_of_other_shapes_is_refused(key: str) -> None:
    run = Run()
    run.step(0)
    state = torch.load(io.BytesIO(saved(run, 1)), weights_only=True)
    state["state"][0][key] = state["state"][0][key][:5]
    run.average.load_state_dict(state)
    with pytest.raises(CheckpointError, match="other shapes"):
        run.average.take_weights()
