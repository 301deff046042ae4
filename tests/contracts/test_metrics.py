"""What every registered metric owes: merges that do not depend on the split, weights, NaN, plain floats."""

from __future__ import annotations

import copy
import inspect
import math
import os

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.metrics import METRICS, Accumulator, Metric, MetricSet
from rechub_ray.metrics.ranks import RankMetric
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World
from tests.worlds import in_processes, on_ranks

NAMES = [name for name in METRICS.names() if not issubclass(METRICS.get(name), RankMetric)]
CPU = torch.device("cpu")


def build(name: str, *, weighted: bool, optional: bool = False) -> Metric:
    label = Label("y", METRICS.get(name).label_kinds[0], optional)
    schema = Schema(features=(), labels=(label,), group="g", weight="w" if weighted else None)
    return METRICS.build(name, schema)


def make_rows(count: int, *, weighted: bool, seed: int = 0) -> tuple[Outputs, Batch]:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, generator=generator) * 2).round(decimals=1)  # with ties
    labels = torch.randint(0, 2, (count, 1), generator=generator).float()
    weight = torch.randint(0, 4, (count,), generator=generator) / 2
    group = torch.randint(0, 5, (count,), generator=generator)
    empty = torch.zeros((count, 0))
    return {"logit": logits}, Batch(
        features=Features(empty.long(), empty), labels=labels, weight=weight if weighted else None, group=group
    )


def take(rows: tuple[Outputs, Batch], index: Tensor) -> tuple[Outputs, Batch]:
    outputs, batch = rows
    assert batch.group is not None
    return {"logit": outputs["logit"][index]}, Batch(
        features=Features(batch.features.sparse[index], batch.features.dense[index]),
        labels=batch.labels[index],
        weight=None if batch.weight is None else batch.weight[index],
        group=batch.group[index],
    )


def over_ranks(metric: Metric, parts: list[list[tuple[Outputs, Batch]]]) -> list[float]:
    """The number that each rank gets; `parts` has the batches of each."""

    def work(world: World) -> float:
        accumulator = Accumulator(metric)
        for rows in parts[world.rank]:
            accumulator.add(metric.add(*rows))
        state = accumulator.merged(world, device=CPU)
        assert (state is None) == (world.rank > 0)
        number: float = world.broadcast(metric.compute(state) if state is not None else None)
        return number

    return on_ranks(len(parts), work)


def whole(metric: Metric, rows: tuple[Outputs, Batch]) -> float:
    return metric.compute(metric.update(*rows))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whole_is_the_merge_of_any_split(name, weighted, data):
    count = data.draw(st.integers(1, 60))
    metric = build(name, weighted=weighted)
    rows = make_rows(count, weighted=weighted, seed=data.draw(st.integers(0, 1000)))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    ranks = data.draw(st.integers(1, 3))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), min_size=4, max_size=4)))
    pieces = [order[a:b] for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    parts = [[take(rows, piece) for piece in pieces[rank::ranks]] for rank in range(ranks)]
    expected = whole(metric, rows)
    for result in over_ranks(metric, parts):
        assert result == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_rank_without_a_batch_takes_part(name, weighted):
    metric, rows = build(name, weighted=weighted), make_rows(50, weighted=weighted)
    expected = whole(metric, rows)
    assert math.isfinite(expected)
    assert over_ranks(metric, [[], [rows], []]) == pytest.approx([expected] * 3, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_merging_leaves_the_rank_s_own_state(name):
    class Twins(World):
        """Two ranks that saw the same rows."""

        def sum_(self, tensor: Tensor) -> Tensor:
            return tensor.mul_(2)

        def gather_to_main(self, tensor: Tensor) -> list[Tensor]:
            return [tensor, tensor]

    metric = build(name, weighted=True)
    accumulator = Accumulator(metric)
    accumulator.add(metric.update(*make_rows(50, weighted=True)))
    first = copy.deepcopy(accumulator.merged(Twins(0, 2), device=CPU))
    again = accumulator.merged(Twins(0, 2), device=CPU)
    assert first is not None
    assert again is not None
    assert all(torch.equal(first[state], again[state]) for state in metric.merging)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_is_nan(name):
    metric = build(name, weighted=True)
    state = metric.empty(CPU)
    assert set(state) == set(metric.merging)
    assert math.isnan(metric.compute(state))


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_logit_is_nan(name):
    metric, (outputs, batch) = build(name, weighted=False), make_rows(50, weighted=False)
    outputs["logit"][7] = math.nan
    assert math.isnan(whole(metric, (outputs, batch)))


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_removes_the_row_and_scale_does_not_matter(name):
    metric, rows = build(name, weighted=True), make_rows(200, weighted=True, seed=3)
    weight = rows[1].weight
    assert weight is not None
    assert bool((weight == 0).any())
    expected = whole(metric, rows)
    assert whole(metric, take(rows, weight.nonzero()[:, 0])) == pytest.approx(expected, rel=1e-12)
    weight *= 8
    assert whole(metric, rows) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_label_removes_the_row(name, weighted):
    rows = make_rows(200, weighted=weighted, seed=5)
    missing = torch.arange(200) % 3 == 0
    expected = whole(build(name, weighted=weighted), take(rows, (~missing).nonzero()[:, 0]))
    rows[1].labels[missing] = math.nan
    metric = build(name, weighted=weighted, optional=True)
    assert metric.compute(metric.add(*rows)) == pytest.approx(expected, rel=1e-12)
    rows[1].labels[:] = math.nan
    assert math.isnan(metric.compute(metric.add(*rows)))


@pytest.mark.parametrize("name", NAMES)
def test_weight_two_is_the_row_twice(name):
    rows = make_rows(100, weighted=True, seed=4)
    weight = rows[1].weight
    assert weight is not None
    weight *= 2
    doubled = take(rows, torch.arange(100).repeat_interleave(weight.long()))
    doubled[1].weight = None
    weighted = whole(build(name, weighted=True), rows)
    assert weighted == pytest.approx(whole(build(name, weighted=False), doubled), rel=1e-12)
    assert weighted != pytest.approx(whole(build(name, weighted=False), make_rows(100, weighted=False, seed=4)))


@pytest.mark.parametrize("name", NAMES)
def test_update_leaves_its_arguments_and_numbers_are_plain(name):
    metric, rows = build(name, weighted=True), make_rows(50, weighted=True)
    before = copy.deepcopy(rows)
    assert type(whole(metric, rows)) is float
    assert torch.equal(rows[0]["logit"], before[0]["logit"])
    assert torch.equal(rows[1].labels, before[1].labels)
    assert metric.mode in ("max", "min", None)


@pytest.mark.parametrize("name", [name for name in NAMES if METRICS.get(name).mode is not None])
def test_better_predictions_move_in_the_direction(name):
    metric, (outputs, batch) = build(name, weighted=False), make_rows(400, weighted=False)
    sign = 1 if metric.mode == "max" else -1
    good = {"logit": batch.labels[:, 0] * 8 - 4 if "binary" in metric.label_kinds else batch.labels[:, 0]}
    assert sign * whole(metric, (good, batch)) > sign * whole(metric, (outputs, batch))


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_file(name):
    assert inspect.getmodule(METRICS.get(name)).__name__ == f"rechub_ray.metrics.{name}"


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    schema = Schema(features=(), labels=(Label("y"),), group="g")
    metrics = MetricSet(schema, ["auc", "auc_histogram", "gauc", "log_loss", "calibration", "ne", "recall", "pr_auc"])
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(90, generator=generator), torch.randint(0, 2, (90, 1), generator=generator).float()
    group = torch.randint(0, 4, (90,), generator=generator)

    def numbers(world, part):
        metrics.reset()
        empty = torch.zeros((len(part), 0))
        if len(part):
            batch = Batch(features=Features(empty.long(), empty), labels=labels[part], group=group[part])
            metrics.update({"logit": logits[part]}, batch)
        return metrics.compute(world)

    expected = numbers(World(), torch.arange(90))
    for cut in (25, 0, 90):
        part = torch.arange(cut) if rank == 0 else torch.arange(cut, 90)
        found = numbers(World.current(), part)
        assert all(abs(found[k] - expected[k]) < 1e-12 for k in expected), (found, expected)
    dist.barrier()  # a rank that leaves early takes the connection of a slower one with it
    os._exit(0)  # gloo's threads now and then abort a process that ends in order


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    in_processes(2, _rank, str(tmp_path))
