"""Labels of every kind at once, and missing ones, for each model that takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from rechub_ray.batch import Batch, Features
from rechub_ray.models import MODELS
from rechub_ray.registry import keyword_arguments
from rechub_ray.schema import Label
from rechub_ray.task import Task, shared_parameters

NAMES = [name for name in MODELS.names() if "heads" in keyword_arguments(MODELS.get(name))]
LABELS = (
    Label("click", optional=True),
    Label("price", "regression", optional=True),
    Label("stars", "multiclass", num_classes=3, optional=True),
)
LOSSES = [("bce", "click"), ("mse", "price"), ("cross_entropy", "stars")]


def built(name: str, by_hand: Any) -> tuple[Task, Batch]:
    case = by_hand({"name": name}, *LABELS)
    model, features = case.model.float().train(), case.features
    task = Task(model, model.schema, [{"name": loss, "label": label} for loss, label in LOSSES])
    labels = torch.randint(0, 2, (6, 3), generator=torch.Generator().manual_seed(0)).float()
    return task, Batch(Features(features.sparse, features.dense.float()), labels)


def test_all_multi_task_models_but_esmm_take_labels_of_any_kind() -> None:
    assert NAMES == ["aitm", "mmoe", "ple", "shared_bottom", "stem"]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_label_counts_for_the_other_labels_only(name: str, by_hand: Any) -> None:
    task, batch = built(name, by_hand)
    whole = task(batch).parts
    batch.labels[2:5, 1] = torch.nan
    terms = task(batch)
    price = task.model(batch.features)["value/price"].detach()
    there = torch.tensor([0, 1, 5])
    expected = (price[there] - batch.labels[there, 1]).square().mean()
    torch.testing.assert_close(terms.parts["mse/price"], expected)
    for other in ("bce/click", "cross_entropy/stars"):
        torch.testing.assert_close(terms.parts[other], whole[other])
    terms.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_a_label_that_is_missing_in_all_rows_trains_nothing_of_its_own(name: str, by_hand: Any) -> None:
    task, batch = built(name, by_hand)
    last = dataclasses.replace(batch, labels=batch.labels.clone())
    last.labels[:, 2] = torch.nan
    terms = task(last)
    assert terms.parts["cross_entropy/stars"] == 0
    terms.total.backward()
    own = {n for n, _ in task.model.named_parameters() if n.startswith("towers.stars.")}
    own -= set(shared_parameters(task.model))
    assert own
    for name in own:
        gradient = task.model.get_parameter(name).grad
        assert gradient is None or not gradient.any()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_in_a_tower_is_shared(name: str, by_hand: Any) -> None:
    model = built(name, by_hand)[0].model
    outside = {n for n, _ in model.named_parameters() if not n.startswith("towers.")}
    shared = set(shared_parameters(model))
    assert outside <= shared
    if name not in ("aitm", "ple"):  # which pass on what other labels' modules give
        assert outside == shared
