"""What every registered loss must hold, whatever it computes."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.losses import LOSSES, Loss
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World
from tests.worlds import on_ranks

ROWS, CLASSES = 12, 4


def of(name: str) -> Any:
    """`tests/losses/test_<name>.py`: LABEL_KIND (what it learns by default), reference(s, y, w, group, **arguments) in
    NumPy, and VARIANTS, more arguments to try; a loss without such a file fails here. WEIGHTLESS_ROWS_STAY says that
    what it computes over the step has the rows of weight 0; WIDTH is the number of predictions a row.
    WEIGHTS_ARE_RELATIVE says that a factor of all weights does not matter, ORDER_MATTERS that rows meet by place,
    HAS_FIXED_FACTORS that its gradient takes factors of the value for constants.
    ARGUMENTS are those that it cannot be without; OTHERS are labels whose logits it reads beside its own label's; PARTS
    are the towers whose vectors it reads, each WIDTH / len(PARTS) of the numbers of a row. NEEDS_CANDIDATES says that
    only models for retrieval have what it reads: its own tests hold all of it."""
    return importlib.import_module(f"tests.losses.test_{name}")


CASES = [
    pytest.param({"name": name, **arguments}, id="-".join([name, *(f"{k}={v}" for k, v in arguments.items())]))
    for name in LOSSES.names()
    if not getattr(of(name), "NEEDS_CANDIDATES", False)
    for required in [getattr(of(name), "ARGUMENTS", {})]
    for arguments in [required, *({**required, **more} for more in of(name).VARIANTS)]
]


@dataclasses.dataclass
class Rows:
    """What a loss is computed from; the prediction is (ROWS,), (ROWS, WIDTH), or (ROWS, CLASSES) of classes."""

    prediction: Tensor
    label: Tensor
    weight: Tensor | None
    group: Tensor

    def take(self, rows: Any) -> Rows:
        weight = None if self.weight is None else self.weight[rows]
        return Rows(self.prediction[rows], self.label[rows], weight, self.group[rows])

    def batch(self) -> Batch:
        count = len(self.label)
        features = Features(torch.zeros(count, 0, dtype=torch.int64), torch.zeros(count, 0))
        return Batch(features, self.label.unsqueeze(1), self.weight, self.group)


def build(node: dict[str, Any], *, optional: bool = False) -> Loss:
    kind = of(node["name"]).LABEL_KIND
    label = Label("y", kind, optional, CLASSES if kind == "multiclass" else None)  # type: ignore[arg-type]
    others, parts = (getattr(of(node["name"]), name, ()) for name in ("OTHERS", "PARTS"))
    schema = Schema((), (label, *(Label(name) for name in others)), group="user", weight="w")
    loss = LOSSES.build(node, schema)
    if others:
        loss.bind([Output("logit", label="y"), *(Output(name, label=name) for name in others)], where="losses.0")
    if parts:
        loss.bind(
            [Output("logit", label="y"), *(Output(part, "vector", part=part) for part in parts)], where="losses.0"
        )
    return loss


def outputs(loss: Loss, prediction: Tensor) -> Outputs:
    """The predictions by the names of the outputs that a loss reads."""
    others, parts = (getattr(of(loss.registered_name), name, ()) for name in ("OTHERS", "PARTS"))
    if parts:
        return dict(zip(parts, prediction.chunk(len(parts), 1), strict=True))
    return dict(zip(["logit", *others], prediction.unbind(1), strict=True)) if others else {"logit": prediction}


def draw(node: dict[str, Any], dtype: torch.dtype = torch.float64) -> Rows:
    """Predictions, labels of every kind of value, weights, one of which is 0, and groups that lie together."""
    rng = np.random.default_rng(0)
    kind = of(node["name"]).LABEL_KIND
    weight = rng.uniform(0.2, 3, ROWS)
    weight[3] = 0
    width = CLASSES if kind == "multiclass" else getattr(of(node["name"]), "WIDTH", None)
    shape = (ROWS,) if width is None else (ROWS, width)
    label = {
        "binary": (np.arange(ROWS) % 3 == 0).astype(float),
        "regression": rng.normal(size=ROWS),
        "multiclass": (np.arange(ROWS) % CLASSES).astype(float),
    }[kind]
    arrays = rng.normal(size=shape) * 2, label, weight
    prediction, labels, weights = (torch.from_numpy(array).to(dtype) for array in arrays)
    return Rows(prediction, labels, weights, torch.arange(ROWS) // 4)


def value(loss: Loss, rows: Rows, *, prediction: Tensor | None = None, world: World | None = None) -> Tensor:
    batch = rows.batch()
    total: Tensor = loss(outputs(loss, rows.prediction if prediction is None else prediction), batch, world)
    return (total / torch.as_tensor(loss.count(batch, world)).clamp(min=1)).sum()


@pytest.mark.parametrize("node", CASES)
def test_it_equals_numpy(node: dict[str, Any]) -> None:
    loss, rows = build(node), draw(node)
    arguments = {key: argument for key, argument in node.items() if key != "name"}
    for weights in (rows.weight, None):
        ones = np.ones(ROWS) if weights is None else weights.numpy()
        reference = of(node["name"]).reference
        expected = reference(rows.prediction.numpy(), rows.label.numpy(), ones, rows.group.numpy(), **arguments)
        assert value(loss, dataclasses.replace(rows, weight=weights)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("node", CASES)
def test_its_gradient_is_the_difference_quotient(node: dict[str, Any]) -> None:
    if getattr(of(node["name"]), "HAS_FIXED_FACTORS", False):
        pytest.skip("its own tests compare the gradient")
    loss, rows = build(node), draw(node)
    prediction = rows.prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: value(loss, rows, prediction=s), (prediction,))


@pytest.mark.parametrize("node", CASES)
def test_huge_predictions_give_finite_losses_and_gradients(node: dict[str, Any]) -> None:
    loss, rows = build(node), draw(node, torch.float32)
    prediction = (rows.prediction.sign() * 1e4).requires_grad_()
    result = value(loss, rows, prediction=prediction)
    result.backward()
    assert torch.isfinite(result)
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("node", CASES)
def test_a_weight_of_zero_removes_the_row(node: dict[str, Any]) -> None:
    if getattr(of(node["name"]), "WEIGHTLESS_ROWS_STAY", False):
        pytest.skip("its reference says what it makes of rows of weight 0")
    loss, rows = build(node), draw(node)
    assert rows.weight is not None
    kept = rows.weight != 0
    if build(node).scope != "rows":  # there, the row still stands in the pairs of others
        rows.label[~kept] = rows.label.max()
    without = value(loss, rows.take(kept))
    torch.testing.assert_close(value(loss, rows), without)
    rows.prediction[~kept] = 77.0
    torch.testing.assert_close(value(loss, rows), without)


@pytest.mark.parametrize("node", CASES)
def test_a_missing_label_removes_the_row(node: dict[str, Any]) -> None:
    for weighted in (True, False):
        rows = draw(node)
        rows = rows if weighted else dataclasses.replace(rows, weight=None)
        missing = torch.tensor([False, True] * (ROWS // 2))
        expected = rows.take(~missing)
        expected.prediction.requires_grad_()
        without = value(build(node), expected)
        without.backward()
        rows.label[missing] = float("nan")
        rows.prediction.requires_grad_()
        found = value(build(node, optional=True), rows)
        found.backward()
        torch.testing.assert_close(found, without)
        assert rows.prediction.grad is not None
        torch.testing.assert_close(rows.prediction.grad[~missing], expected.prediction.grad)
        assert torch.equal(rows.prediction.grad[missing], torch.zeros_like(rows.prediction.grad[missing]))


@pytest.mark.parametrize("node", CASES)
def test_nothing_to_count_gives_zero_and_no_nan(node: dict[str, Any]) -> None:
    rows = draw(node)
    rows.label[:] = float("nan")
    rows.prediction.requires_grad_()
    result = value(build(node, optional=True), rows)
    result.backward()
    assert result.item() == 0
    assert torch.equal(torch.as_tensor(rows.prediction.grad), torch.zeros_like(rows.prediction))


@pytest.mark.parametrize("node", CASES)
def test_it_scales_with_the_weights(node: dict[str, Any]) -> None:
    loss, rows = build(node), draw(node)
    assert rows.weight is not None
    tripled = dataclasses.replace(rows, weight=3 * rows.weight)
    factor = 1 if getattr(of(node["name"]), "WEIGHTS_ARE_RELATIVE", False) else 3
    torch.testing.assert_close(value(loss, tripled), factor * value(loss, rows))
    ones, none = (dataclasses.replace(rows, weight=w) for w in (torch.ones_like(rows.weight), None))
    torch.testing.assert_close(value(loss, ones), value(loss, none), rtol=1e-12, atol=0)


@pytest.mark.parametrize("node", CASES)
def test_the_order_of_rows_does_not_matter(node: dict[str, Any]) -> None:
    if getattr(of(node["name"]), "ORDER_MATTERS", False):
        pytest.skip("its reference says which rows meet")
    loss, rows = build(node), draw(node)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(value(loss, rows.take(order)), value(loss, rows))


@pytest.mark.parametrize("node", CASES)
def test_parts_add_up_to_the_whole_as_far_as_its_scope_says(node: dict[str, Any]) -> None:
    loss, rows = build(node), draw(node)
    if loss.scope == "batch":
        pytest.skip("a loss of scope `batch` takes no parts; Task refuses them")
    pieces = [rows.take(slice(0, 4)), rows.take(slice(4, 12))]  # whole groups
    total = sum(loss(outputs(loss, piece.prediction), piece.batch()) for piece in pieces)
    count = sum(torch.as_tensor(loss.count(piece.batch())) for piece in pieces)
    torch.testing.assert_close((total / count).sum(), value(loss, rows))


@pytest.mark.parametrize("node", CASES)
def test_ranks_compute_the_whole_batch_and_its_gradient(node: dict[str, Any]) -> None:
    whole = draw(node)
    whole.prediction.requires_grad_()
    expected = value(build(node), whole)
    expected.backward()
    shares = [slice(0, 4), slice(4, 12)]  # unequal, in whole groups

    def work(world: World) -> tuple[Tensor, Tensor]:
        loss, mine = build(node), draw(node).take(shares[world.rank])
        mine.prediction = mine.prediction.clone().requires_grad_()
        batch = mine.batch()
        count = world.sum_(torch.as_tensor(loss.count(batch, world), dtype=torch.float64)) / world.size
        total = (loss(outputs(loss, mine.prediction), batch, world) / count).sum()
        total.backward()
        assert mine.prediction.grad is not None
        return total.detach(), mine.prediction.grad / world.size

    totals, gradients = zip(*on_ranks(2, work), strict=True)
    torch.testing.assert_close(torch.stack(totals).mean(), expected.detach())
    torch.testing.assert_close(torch.cat(gradients), whole.prediction.grad)
