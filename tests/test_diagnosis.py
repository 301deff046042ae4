"""Who is to blame for a loss that is not finite: the column that was planted, and no other."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rechub_ray.batch import Batch, Features, LossTerms, RaggedSequences
from rechub_ray.diagnosis import Doubts, explain_non_finite
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema
from rechub_ray.task import Task
from rechub_ray.world import World

ROWS = 6
LENGTHS = [[1, 0, 2, 3, 1, 1], [0, 0, 1, 0, 1, 3]]


def make_batch(schema: Schema) -> Batch:
    torch.manual_seed(0)
    offsets = [0]
    for length in [n for feature in LENGTHS for n in feature]:
        offsets.append(offsets[-1] + length)
    return Batch(
        features=Features(
            torch.stack([torch.arange(ROWS) + 1, torch.arange(ROWS) + 2], dim=1),
            torch.randn(ROWS, 4),
            RaggedSequences(torch.arange(offsets[-1]) % 8 + 1, torch.tensor(offsets)),
        ),
        labels=torch.tensor([[0.0, 1.0]] * ROWS),
        weight=torch.ones(ROWS),
        group=torch.zeros(ROWS, dtype=torch.int64),
    )


def explain(schema: Schema, batch: Batch | None, model: nn.Module, forward: Any) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    error = explain_non_finite(
        model, schema, batch, forward, world=World(), step=41, learning_rates=[0.1, 0.002]
    )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) or tensor.isnan().any() for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert "\n" not in str(error)
    assert "at step 41" in str(error)
    return str(error)


def real_forward(schema: Schema, model: Any) -> Any:
    return Task(model, dataclasses.replace(schema, labels=schema.labels[:1]), ["bce"])


@pytest.mark.parametrize(("column", "place"), [("age", 0), ("vector", 2)])
def test_a_number_that_is_too_large(schema: Schema, column: str, place: int) -> None:
    model = MODELS.build({"name": "lr"}, schema)
    batch = make_batch(schema)
    batch.features.dense[3, place] = math.inf
    text = explain(schema, batch, model, real_forward(schema, model))
    assert f"finite again without '{column}' (largest |value| inf)" in text
    assert text.count("without") == 1


@pytest.mark.parametrize("column", ["user", "item", "history", "tags"])
def test_a_row_of_a_table_that_is_broken(schema: Schema, column: str) -> None:
    schema = Schema(  # every feature with a table of its own, so that one alone can be broken
        tuple(f if f.name != "history" else type(f)("history", 20, max_length=4) for f in schema.features),  # type: ignore[call-arg]
        schema.labels,
        weight=schema.weight,
    )
    model = MODELS.build({"name": "lr"}, schema)
    bank = next(m for m in model.modules() if isinstance(m, EmbeddingBank))
    with torch.no_grad():
        bank.rows(column)[1:] = math.nan  # row 0 is the neutral one
    text = explain(schema, make_batch(schema), model, real_forward(schema, model))
    assert f"finite again without '{column}'" in text
    assert text.count("without") == 1


def test_nobody_is_to_blame(schema: Schema) -> None:
    model = MODELS.build({"name": "lr"}, schema)

    def forward(batch: Batch) -> LossTerms:
        total = sum(p.sum() for p in model.parameters()) * math.inf
        assert isinstance(total, Tensor)
        return LossTerms(total, {"bce": total.detach()})

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        dict(model.named_parameters())["linear.dense.weight"].view(-1)[2] = -70.0
    text = explain(schema, make_batch(schema), model, forward)
    assert "no single column is to blame; the largest weight is 70 in linear.dense.weight" in text
    assert "now 0.1, 0.002" in text


def test_two_columns_that_break_it_together_are_not_blamed_singly(schema: Schema) -> None:
    model = MODELS.build({"name": "lr"}, schema)
    batch = make_batch(schema)
    batch.features.dense[0, 0] = batch.features.dense[1, 1] = math.inf
    assert "no single column is to blame" in explain(schema, batch, model, real_forward(schema, model))


def test_later_on_only_the_parameters_can_tell(schema: Schema) -> None:
    model = MODELS.build({"name": "lr"}, schema)
    with torch.no_grad():
        dict(model.named_parameters())["linear.dense.weight"].view(-1)[2] = math.nan
    text = explain(schema, None, model, real_forward(schema, model))
    assert "parameters not finite: linear.dense.weight." in text
    assert "Lower the learning rate" in text


# --- numbers that are finite, and wrong -----------------------------------------------------------------------------


def doubts(*labels: Label) -> tuple[Doubts, list[str]]:
    said: list[str] = []
    return Doubts(Schema((), labels or (Label("click"),)), said.append), said


def test_an_undefined_metric_is_said_once() -> None:
    found, said = doubts()
    for _ in range(3):
        found.evaluated({"auc": math.nan, "log_loss": 0.3, "click/gauc": math.nan})
    assert len(said) == 1
    assert said[0].startswith("val/auc, val/click/gauc: not defined on the validation split (all rows of one class")


@pytest.mark.parametrize(
    ("value", "says"), [(0.69, False), (2.0, False), (2.1, True), (31295.0, True), (math.inf, True)]
)
def test_a_log_loss_far_above_a_constant_prediction_s_is_a_run_that_diverges(value: float, says: bool) -> None:
    found, said = doubts()
    for key in ("log_loss", "like/log_loss"):
        found.evaluated({key: value, "mse": 1e9})
    assert len(said) == says
    assert all("the run diverges: val/log_loss is" in line and "learning rates" in line for line in said)
    many, said = doubts(Label("kind", "multiclass", num_classes=1000))
    many.evaluated({"log_loss": 6.9})
    assert not said


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([0.7, 0.5, 60.0, 1e9], True),
        ([0.7, 0.5, 0.9], False),
        ([1e-6, 1e-3, 0.9], False),
        ([900.0, 40.0, 300.0], False),
    ],
)
def test_a_loss_that_rises_by_orders_of_magnitude(losses: list[float], says: bool) -> None:
    found, said = doubts()
    for loss in losses:
        found.trained(loss)
    assert len(said) == says
