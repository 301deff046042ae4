"""Counts of predictions by score, against scikit-learn and sums over the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.evaluation.profile import MOST_SEGMENTS, Profile, bins_of, segment_of
from rechub_ray.outputs import Output, Prediction, default_prediction
from rechub_ray.schema import Label, Schema, SparseFeature
from rechub_ray.world import World
from tests.worlds import on_ranks

CPU = torch.device("cpu")
SCHEMA = Schema(
    features=(SparseFeature("user", 5000), SparseFeature("day", 8), SparseFeature("sex", 3)),
    labels=(
        Label("click", optional=True),
        Label("price", kind="regression"),
        Label("kind", kind="multiclass", num_classes=3),
    ),
    weight="w",
)


def predictions(schema: Schema) -> dict[str, Prediction]:
    kinds: dict[str, Any] = {"binary": "logit", "regression": "value", "multiclass": "classes"}
    found = {}
    for label in schema.labels:
        own = default_prediction(label)
        found[label.name] = Prediction(Output(label.name, kinds[label.kind], label.name), label, own.link)
    return found


def rows(count: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], Batch]:
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2, 1.5, count)
    click = (rng.uniform(size=count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    click[rng.uniform(size=count) < 0.1] = np.nan
    price, classes = rng.lognormal(3, 1, count), rng.normal(size=(count, 3))
    labels = np.stack([click, price * rng.uniform(0.5, 1.5, count), rng.integers(0, 3, count)], 1).astype(np.float32)
    sparse = np.stack([rng.integers(0, 5000, count), rng.integers(0, 8, count), rng.integers(0, 3, count)], 1)
    weight = rng.choice([0.0, 1.0, 2.5], count)
    outputs = {
        "click": torch.tensor(logit).float(),
        "price": torch.tensor(price).float(),
        "kind": torch.tensor(classes).float(),
    }
    features = Features(torch.tensor(sparse), torch.zeros((count, 0)))
    return outputs, Batch(features, torch.tensor(labels), torch.tensor(weight).float())


def test_sums_and_segments_are_those_of_the_rows() -> None:
    outputs, batch = rows(20_000)
    profile = Profile(SCHEMA, predictions(SCHEMA), segment="day", device=CPU)
    for start in range(0, 20_000, 3_000):
        stop = slice(start, start + 3_000)
        part = Batch(
            Features(batch.features.sparse[stop], batch.features.dense[stop]), batch.labels[stop], batch.weight[stop]
        )  # type: ignore[index]
        profile.update({name: value[stop] for name, value in outputs.items()}, part)
    profile.merge(World())
    found = profile.summary()
    assert "failure" not in found
    weight, labels = batch.weight.double().numpy(), batch.labels.double().numpy()  # type: ignore[union-attr]
    known = ~np.isnan(labels[:, 0])
    probability = torch.sigmoid(outputs["click"]).double().numpy()
    sums = np.array(found["labels"]["click"]["bins"]).sum(0)
    expected = [
        (weight * known).sum(),
        (weight * known * np.nan_to_num(labels[:, 0])).sum(),
        (weight * known * probability).sum(),
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    price = np.array(found["labels"]["price"]["bins"])
    np.testing.assert_allclose(
        price.sum(0),
        [weight.sum(), (weight * labels[:, 1]).sum(), (weight * outputs["price"].numpy()).sum()],
        rtol=1e-4,
    )
    assert (np.diff(price[:, 2] / price[:, 0]) > 0).all(), "bins rise with the prediction"
    best = outputs["kind"].softmax(1).max(1)
    kind = np.array(found["labels"]["kind"]["bins"]).sum(0)
    right = best.indices.numpy() == labels[:, 2]
    np.testing.assert_allclose(
        kind, [weight.sum(), (weight * right).sum(), (weight * best.values.numpy()).sum()], rtol=1e-4
    )
    day = batch.features.sparse[:, 1].numpy()
    assert found["segments"]["feature"] == "day"
    for row in found["segments"]["labels"]["click"]:
        own = known & (day == row["id"])
        auc = roc_auc_score(labels[own, 0], probability[own], sample_weight=weight[own])
        assert row["auc"] == pytest.approx(auc, abs=5e-4)
        assert row["rows"] == pytest.approx(weight[own].sum(), rel=1e-6)
        assert row["label"] == pytest.approx(np.average(labels[own, 0], weights=weight[own]), rel=1e-6)
        assert row["prediction"] == pytest.approx(np.average(probability[own], weights=weight[own]), rel=1e-6)


def test_ranks_add_up_to_the_whole() -> None:
    def share(world: World) -> dict[str, Any]:
        profile = Profile(SCHEMA, predictions(SCHEMA), segment="sex", device=CPU)
        for seed in range(world.rank, 4, world.size):
            profile.update(*rows(500, seed))
        profile.merge(world)
        return profile.summary()

    whole = share(World())
    for found in on_ranks(2, share):
        for name, label in whole["labels"].items():
            np.testing.assert_allclose(found["labels"][name]["bins"], label["bins"], rtol=1e-6)
        assert found["segments"] == whole["segments"]


def test_rows_that_cannot_be_counted_cost_no_evaluation() -> None:
    outputs, batch = rows(100)
    outputs["click"][:50] = torch.nan
    profile = Profile(SCHEMA, predictions(SCHEMA), segment="user", device=CPU)
    profile.update(outputs, batch)
    known = ~batch.labels[50:, 0].isnan()
    assert np.array(profile.summary()["labels"]["click"]["bins"])[:, 0].sum() == pytest.approx(
        float(batch.weight[50:][known].sum())
    )  # type: ignore[index]
    assert len(profile.summary()["segments"]["labels"]["click"]) <= MOST_SEGMENTS
    assert profile.summary()["segments"]["last_is_rest"]
    profile.update({"click": torch.zeros(3)}, batch)
    assert "RuntimeError" in profile.summary()["failure"]
    profile.reset()
    assert profile.summary()["labels"] == {}


def test_bins_rise_with_scores_of_any_size() -> None:
    scores = torch.tensor([-torch.inf, -1e30, -40.0, -7.0, -6.9, 0.0, 0.05, 7.0, 1e30, torch.inf], dtype=torch.float64)
    for is_value in (False, True):
        bins = bins_of(scores, is_value=is_value)
        assert (bins.diff() >= 0).all()
    assert len({*bins_of(scores[2:8], is_value=False).tolist()}) == 6


def test_hits_of_ranks() -> None:
    schema = Schema(features=(SparseFeature("user", 5),), labels=())
    profile = Profile(schema, {}, ranks=("rank",), segment="user", device=CPU)
    ranks = torch.tensor([0, 3, 3, 5000, -1])
    profile.update(
        {"rank": ranks},
        Batch(Features(torch.zeros((5, 1), dtype=torch.int64), torch.zeros((5, 0))), torch.zeros((5, 0))),
    )
    found = profile.summary()["ranks"]["rank"]
    assert found["rows"] == 4
    assert found["hits"][:5] == [0.25, 0.25, 0.25, 0.75, 0.75]
    assert found["hits"][-1] == 0.75


def test_the_feature_to_divide_by() -> None:
    assert segment_of(SCHEMA, None) == "day"
    assert segment_of(SCHEMA, "user") == "user"
    assert segment_of(Schema(features=(SparseFeature("user", 50),), labels=()), None) is None
    with pytest.raises(ConfigError, match=r"'report.segment': 'dey' .*\n?.*Did you mean 'day'"):
        segment_of(SCHEMA, "dey")
