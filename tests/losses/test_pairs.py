"""Blocks, memory, and the hardest pairs of a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, pairs
from rechub_ray.losses.pair_wise import PairWise
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World
from tests.worlds import on_ranks

SCHEMA = Schema((), (Label("rating", "regression", optional=True),), group="session")


def batch(labels: Tensor, session: Tensor | None = None) -> Batch:
    rows = len(labels)
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    return Batch(
        features, labels.unsqueeze(1), None, torch.zeros(rows, dtype=torch.int64) if session is None else session
    )


def mean(name: str, logit: Tensor, rows: Batch, world: World | None = None, **arguments: object) -> Tensor:
    loss = LOSSES.build({"name": name, **arguments}, SCHEMA)
    total: Tensor = loss({"logit": logit}, rows, world)
    return total / loss.count(rows, world)


def test_blocks_of_one_row_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = batch(torch.randn(20, generator=generator), torch.arange(20) // 5)
    first = torch.randn(20, generator=generator)
    for arguments in ({}, {"session_name": "session"}, {"ohem_ratio": 0.3}):
        results = []
        for block in (2**22, 20):
            monkeypatch.setattr(pairs, "_BLOCK", block)
            monkeypatch.setattr(pairs, "_ROWS", 3 if block == 20 else 512)
            logit = first.clone().requires_grad_()
            value = mean("pairwise_logistic", logit, rows, **arguments)
            value.backward()
            results.append((value.detach(), logit.grad))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("pairwise_logistic", {}), ("pairwise_focal", {}), ("pairwise_hinge", {"ohem_ratio": 0.1, "use_exponent": True})],
)
def test_no_tensor_of_all_pairs_is_made(name: str, arguments: dict[str, object]) -> None:
    count = 6_000  # 144 MB of pairs in float32
    labels = (torch.arange(count) % 2).float()
    logit = torch.randn(count, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        mean(name, logit, batch(labels), **arguments).backward()
    # 8 MB each; integers of 32 and 64 bits for a moment
    assert 0 < max(event.self_cpu_memory_usage for event in profile.events()) < 4 * 2**21 * 2.5
    assert logit.grad is not None
    assert torch.isfinite(logit.grad).all()


def test_the_hardest_pairs_are_found_among_any_number_in_both_types() -> None:
    generator = np.random.default_rng(0)
    for kind in (torch.float32, torch.float64):
        for ratio in (0.001, 0.31, 0.999):
            scores = torch.from_numpy(generator.normal(size=300)).to(kind)
            labels = torch.from_numpy(generator.normal(size=300)).to(kind)
            lost = torch.nn.functional.softplus(-(scores.unsqueeze(1) - scores))[labels.unsqueeze(1) > labels]
            expected = lost.topk(round(len(lost) * ratio)).values.mean()
            found = mean("pairwise_logistic", scores, batch(labels), ohem_ratio=ratio)
            torch.testing.assert_close(found, expected)


def test_pairs_that_tie_for_the_last_place_share_it() -> None:
    """3 pairs, of which 2 count: the hardest one, and half of each of two equal ones."""
    logit = torch.tensor([0.0, 0.0, 0.0, 1.0]).requires_grad_()
    value = mean("pairwise_hinge", logit, batch(torch.tensor([1.0, 0, 0, 0])), ohem_ratio=0.6)
    value.backward()
    assert value.item() == 1.5
    assert logit.grad is not None
    assert logit.grad.tolist() == [-1.0, 0.25, 0.25, 0.5]


def test_sessions_cost_what_their_own_pairs_cost() -> None:
    """In sessions of 4, the 10,000 rows that may be first meet about 1,024 others each, not 20,000."""
    count = 20_000
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    seen = []

    class Counted(PairWise):
        def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
            seen.append(difference.numel())
            return super().of_pairs(difference, first, second)

    loss = Counted(SCHEMA, session_name="session")
    rows = batch((torch.arange(count) % 4 // 2).float()[order], (torch.arange(count) // 4)[order])
    total = loss({"logit": torch.zeros(count)}, rows)
    assert (total / loss.count(rows)).item() == pytest.approx(np.log(2))
    assert loss.count(rows) == count
    assert sum(seen) <= count / 2 * 2 * 512


@pytest.mark.parametrize("arguments", [{}, {"session_name": "session"}, {"ohem_ratio": 0.5}])
def test_without_pairs_it_is_zero(arguments: dict[str, object]) -> None:
    logit = torch.tensor([0.8, -0.4, 0.3]).requires_grad_()
    loss, rows = LOSSES.build({"name": "PAIR_WISE_LOSS", **arguments}, SCHEMA), batch(torch.ones(3))
    total = loss({"logit": logit}, rows)
    total.backward()
    assert total.item() == 0
    assert float(loss.count(rows)) == float("ohem_ratio" in arguments)
    assert torch.equal(torch.as_tensor(logit.grad), torch.zeros(3))


def test_no_pair_is_chosen_from_none_and_from_none_that_loses() -> None:
    easy = torch.tensor([9.0, -9.0])
    for labels, ratio in ((torch.zeros(2), 0.5), (torch.tensor([1.0, 0.0]), 0.6), (torch.tensor([1.0, 0.0]), 0.1)):
        logit = easy.clone().requires_grad_()
        value = mean("pairwise_hinge", logit, batch(labels), ohem_ratio=ratio)
        value.backward()
        assert value.item() == 0
        assert torch.equal(torch.as_tensor(logit.grad), torch.zeros(2))


def test_a_rank_without_any_pair_takes_part() -> None:
    labels, logits = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 1.0, -1.0, 0.2])
    for arguments in ({}, {"ohem_ratio": 0.5}):
        whole = logits.clone().requires_grad_()
        mean("pairwise_logistic", whole, batch(labels), **arguments).backward()

        def work(world: World, arguments: dict[str, float] = arguments) -> Tensor:
            mine = slice(2 * world.rank, 2 * world.rank + 2)
            logit = logits[mine].clone().requires_grad_()
            loss = LOSSES.build({"name": "pairwise_logistic", **arguments}, SCHEMA)
            count = world.sum_(torch.as_tensor(loss.count(batch(labels[mine]), world))) / 2
            (loss({"logit": logit}, batch(labels[mine]), world) / count).backward()
            assert logit.grad is not None
            return logit.grad / 2

        torch.testing.assert_close(torch.cat(on_ranks(2, work)), whole.grad)


def test_a_session_is_the_group_column() -> None:
    with pytest.raises(ConfigError, match=r"loss 'pair_wise': 'session_name' is 'user'.*'session'"):
        LOSSES.build({"name": "PAIR_WISE_LOSS", "session_name": "user"}, SCHEMA)
