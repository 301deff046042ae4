"""Metrics of ranks, in plain Python from the lists that they are about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.metrics import METRICS, Accumulator, MetricSet
from rechub_ray.metrics.ranks import Asked, RankMetric
from rechub_ray.outputs import Output
from rechub_ray.schema import Items, Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.world import World
from tests.worlds import on_ranks

SCHEMA = Schema(
    (SparseFeature("item", 50), SequenceFeature("seen", 50, shared_with="item"), SequenceFeature("words", 50)),
    (),
    group="user",
    items=Items("item", lists=("shown",)),
)
WEIGHTED = Schema(SCHEMA.features, (), group="user", weight="w", items=SCHEMA.items)
NAMES = [name for name in METRICS.names() if issubclass(METRICS.get(name), RankMetric) and name.endswith("_at_k")]
NAMES.remove("coverage_at_k")


def rows(count: int = 40, *, weighted: bool = False) -> tuple[Outputs, Batch]:
    rng = np.random.default_rng(3)
    group = torch.from_numpy(np.sort(rng.integers(0, 12, count)))
    rank = torch.zeros(count, dtype=torch.int64)
    for user in group.unique():  # several answers of one list have ranks of their own
        mine = group == user
        rank[mine] = torch.from_numpy(rng.permutation(25)[: int(mine.sum())])
    weight = torch.from_numpy(rng.integers(0, 3, count)).float() if weighted else None
    nothing = torch.zeros(count, 0)
    order = torch.from_numpy(rng.permutation(count))
    batch = Batch(Features(nothing.long(), nothing), nothing, None if weight is None else weight[order], group[order])
    return {"rank": rank[order]}, batch


def of_list(name: str, ranks: list[int], k: int) -> float:
    """The number of one list with right answers at some places."""
    right = [place in ranks for place in range(max(ranks) + 1)]
    hits = [place for place in range(min(k, len(right))) if right[place]]
    if name == "recall_at_k":
        return len(hits) / len(ranks)
    if name == "hit_at_k":
        return float(bool(hits))
    if name == "mrr_at_k":
        return 1 / (1 + hits[0]) if hits else 0.0
    if name == "map_at_k":
        return sum(sum(right[: place + 1]) / (place + 1) for place in hits) / min(len(ranks), k)
    best = sum(1 / math.log2(place + 2) for place in range(min(len(ranks), k)))
    return sum(1 / math.log2(place + 2) for place in hits) / best


def expected(name: str, given: tuple[Outputs, Batch], k: int, *, per_group: bool) -> float:
    outputs, batch = given
    assert batch.group is not None
    weight = torch.ones(batch.rows) if batch.weight is None else batch.weight
    keys = batch.group if per_group else torch.arange(batch.rows)
    values, weights = [], []
    for key in keys[weight > 0].unique():
        mine = (keys == key) & (weight > 0)
        values.append(of_list(name, outputs["rank"][mine].tolist(), k))
        weights.append(float(weight[mine].double().mean()))
    return float(np.average(values, weights=weights))


def compute(metric: Any, parts: list[tuple[Outputs, Batch]]) -> float:
    accumulator = Accumulator(metric)
    for part in parts:
        accumulator.add(metric.add(*part))
    state = accumulator.merged(World(), device=torch.device("cpu"))
    return metric.compute(state)


def take(given: tuple[Outputs, Batch], index: Any) -> tuple[Outputs, Batch]:
    outputs, batch = given
    assert batch.group is not None
    weight = None if batch.weight is None else batch.weight[index]
    features = Features(batch.features.sparse[index], batch.features.dense[index])
    return {key: value[index] for key, value in outputs.items()}, Batch(
        features, batch.labels[index], weight, batch.group[index]
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_the_list(name: str, per_group: bool, weighted: bool) -> None:
    given = rows(weighted=weighted)
    for k in (1, 3, 10, 30):
        metric = METRICS.build({"name": name, "k": k, "per_group": per_group}, WEIGHTED if weighted else SCHEMA)
        number = expected(name, given, k, per_group=per_group)
        assert compute(metric, [given]) == pytest.approx(number, rel=1e-12)
        assert compute(metric, [take(given, slice(0, 7)), take(given, slice(7, 40))]) == pytest.approx(
            number, rel=1e-12
        )


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_ranks_give_the_number_of_the_whole(name: str, per_group: bool) -> None:
    given = rows(weighted=True)
    metric = METRICS.build({"name": name, "k": 5, "per_group": per_group}, WEIGHTED)

    def work(world: World) -> float | None:
        accumulator = Accumulator(metric)
        if world.rank < 2:  # the third has no rows
            accumulator.add(metric.add(*take(given, slice(0, 11) if world.rank == 0 else slice(11, 40))))
        state = accumulator.merged(world, device=torch.device("cpu"))
        return None if state is None else metric.compute(state)

    assert on_ranks(3, work)[0] == pytest.approx(expected(name, given, 5, per_group=per_group), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_have_no_number(name: str) -> None:
    assert math.isnan(compute(METRICS.build(name, SCHEMA), [take(rows(), slice(0, 0))]))


def test_the_cross_entropy_is_averaged_over_rows_whose_item_is_known() -> None:
    metric = METRICS.build({"name": "full_log_loss", "temperature": 0.5}, WEIGHTED)
    assert isinstance(metric, RankMetric)
    metric.items = 8
    outputs, batch = take(rows(weighted=True), slice(0, 3))
    batch.weight = torch.tensor([1.0, 3.0, 2.0])
    outputs |= {metric.reads: torch.tensor([0, 7, 8]), f"{metric.reads}/loss": torch.tensor([0.5, 2.5, torch.nan])}
    assert compute(metric, [(outputs, batch)]) == (0.5 + 3 * 2.5) / 4
    assert (metric.key, metric.asked.temperature) == ("full_log_loss", 0.5)
    assert torch.equal(metric.empty(torch.device("cpu"))["weight"], torch.tensor(0.0, dtype=torch.float64))


def test_coverage_is_the_share_of_items_that_someone_gets() -> None:
    metric = METRICS.build({"name": "coverage", "k": 2}, WEIGHTED)
    assert isinstance(metric, RankMetric)
    metric.items = 8
    outputs, batch = take(rows(weighted=True), slice(0, 3))
    batch.weight = torch.tensor([1.0, 0.0, 2.0])
    outputs["rank/top"] = torch.tensor([[0, 3, 7], [5, 6, 7], [3, 1, 7]])
    assert compute(metric, [(outputs, batch)]) == 3 / 8

    def work(world: World) -> float | None:
        accumulator = Accumulator(metric)
        if world.rank == 0:
            accumulator.add(metric.add(outputs, batch))
        state = accumulator.merged(world, device=torch.device("cpu"))
        return None if state is None else metric.compute(state)

    assert on_ranks(2, work)[0] == 3 / 8


def test_names_with_a_length() -> None:
    nodes: list[Any] = [
        "recall@20",
        {"name": "ndcg@5", "exclude": "seen"},
        {"name": "map", "k": 3, "per_group": True},
        {"name": "recall", "k": 7},
    ]
    metrics = MetricSet(SCHEMA, nodes)
    assert metrics.keys == ("recall@20", "ndcg@5_without_seen", "map@3_per_user", "recall@7")
    assert metrics.default_key() == "recall@20"
    assert metrics.resolve("recall@7") == "recall@7"
    assert metrics.mode("map@3_per_user") == "max"
    assert metrics.rankings(50) == {"rank": Asked(), "rank/seen": Asked("seen")}
    assert METRICS.validate("recall")["name"] == "recall", "that of a threshold"
    with pytest.raises(ConfigError, match="unknown metric"):
        METRICS.validate("recal@20")


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ConfigError, match=r"'exclude' is 'words'.*lists of items: seen"):
        METRICS.build({"name": "recall@5", "exclude": "words"}, SCHEMA)
    with pytest.raises(ConfigError, match=r"metric 'recall@5': 'per_group' needs a group column.*Name one as 'group'"):
        METRICS.build({"name": "recall@5", "per_group": True}, Schema(SCHEMA.features, (), items=SCHEMA.items))
    with pytest.raises(ConfigError, match=r"'metrics.0': metric 'recall@5' ranks items.*model for retrieval"):
        MetricSet(SCHEMA, ["recall@5"]).bind({}, (Output("logit"),))


def test_a_misspelt_name_is_named_as_it_was_written() -> None:
    with pytest.raises(
        ConfigError, match=r"'metrics\.0\.name': unknown metric 'recal@10'\. Did you mean 'recall@10'\?"
    ):
        METRICS.validate("recal@10", where="metrics.0")


def test_names_of_ranks_among_a_few() -> None:
    nodes: list[Any] = [
        {"name": "hit@10", "candidates": 99},
        {"name": "hit@10", "candidates": 99, "seed": 3, "exclude": "seen"},
        {"name": "ndcg@10", "candidates": "shown", "per_group": True},
    ]
    metrics = MetricSet(SCHEMA, nodes)
    assert metrics.keys == (
        "hit@10_among_99_drawn",
        "hit@10_among_99_drawn_seed_3_without_seen",
        "ndcg@10_among_shown_per_user",
    )
    assert [*metrics.rankings(50).values()] == [
        Asked(candidates=99),
        Asked("seen", 99, seed=3),
        Asked(candidates="shown"),
    ]
    with pytest.raises(ConfigError, match=r"'candidates' is 'seen'.*a number, or a list of items: shown"):
        METRICS.build({"name": "hit@10", "candidates": "seen"}, SCHEMA)


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_rows_without_candidates_and_rows_of_label_0_do_not_count(name: str, per_group: bool) -> None:
    outputs, batch = rows()
    kept = torch.arange(40) % 3 != 1
    metric = METRICS.build({"name": name, "k": 3, "per_group": per_group}, SCHEMA)
    given = {"rank": torch.where(kept, outputs["rank"], -1)}
    number = expected(name, take((outputs, batch), kept), 3, per_group=per_group)
    assert compute(metric, [(given, batch)]) == pytest.approx(number, rel=1e-12)
    labelled = Schema(SCHEMA.features, (Label("click"),), group="user", items=SCHEMA.items)
    batch.labels = kept.float().unsqueeze(1)
    metric = METRICS.build({"name": name, "k": 3, "per_group": per_group}, labelled)
    assert compute(metric, [(outputs, batch)]) == pytest.approx(number, rel=1e-12)
