"""The vectors that losses read, blocks, and what a row is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, vectors
from rechub_ray.models.base import Model
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema, SparseFeature
from rechub_ray.task import Task
from rechub_ray.world import World
from tests.worlds import on_ranks

SCHEMA = Schema((SparseFeature("user", 50), SparseFeature("item", 50)), (Label("y"),))
OUTPUTS = (Output("u", "vector", part="user"), Output("logit"), Output("v", "vector", part="item"))
TOWERS = ["softmax_cross_entropy", "info_nce", "nce", "bpr", "hinge"]


def batch(labels: Tensor, items: Tensor | None = None) -> Batch:
    items = torch.arange(len(labels)) if items is None else items
    return Batch(Features(torch.stack([items * 0, items], 1), torch.zeros(len(labels), 0)), labels.unsqueeze(1))


def mean(name: str, u: Tensor, v: Tensor, rows: Batch, world: World | None = None, **arguments: Any) -> Tensor:
    loss = LOSSES.build({"name": name, **arguments}, SCHEMA)
    loss.bind(OUTPUTS if name in TOWERS else OUTPUTS[1:], where="losses.0")
    return loss({"u": u, "v": v}, rows, world) / torch.as_tensor(loss.count(rows, world)).clamp(min=1)


def of_row(name: str, u: Tensor, v: Tensor) -> float:
    """What the first of some rows loses against the others."""
    lead = v[1:] @ u[0] - u[0] @ v[0]
    if name == "bpr":
        return torch.log(1 + lead.exp()).mean().item()
    if name == "hinge":
        return (1 + lead).clamp(min=0).mean().item()
    if name == "nce":
        own = u[0] @ v[0]
        views = [torch.cat([others @ z - own for others in (u[1:], v[1:])]) for z in (u[0], v[0])]
        return sum(torch.log(1 + view.exp().sum()).item() for view in views) / 2
    return torch.log(1 + lead.exp().sum()).item()


def drawn(rows: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(2))
    return u, v, (torch.arange(rows) % 3 > 0).float()


@pytest.mark.parametrize("name", [*TOWERS, "circle", "multi_similarity"])
def test_blocks_of_one_row_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for block in (2**21, 20):
        monkeypatch.setattr(vectors, "_BLOCK", block)
        u, v, labels = drawn(20)
        value = mean(name, u, v, batch(labels))
        value.backward()
        results.append((value.detach(), u.grad if name in TOWERS else v.grad, v.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "circle"])
def test_no_tensor_of_all_similarities_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_BLOCK", 2**18)
    u, v, labels = drawn(3000)  # 36 MB of similarities in float32
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        mean(name, u, v, batch(labels)).backward()
    assert 0 < max(event.self_cpu_memory_usage for event in profile.events()) < 4 * 2**18 * 2.5


@pytest.mark.parametrize("name", TOWERS)
def test_another_row_of_the_same_item_is_no_negative_on_any_rank(name: str) -> None:
    """What is left of each row are the items of other ids, its own once."""
    u, v = (tower.detach() for tower in drawn(6)[:2])
    items, ones = torch.tensor([3, 1, 3, 1, 2, 3]), torch.ones(6)
    arguments = {"positive_regularization": 0.0} if name == "softmax_cross_entropy" else {"temperature": 1.0}
    kept = [[0, 1, 3, 4], [1, 0, 2, 4, 5], [2, 1, 3, 4], [3, 0, 2, 4, 5], [4, 0, 1, 2, 3, 5], [5, 1, 3, 4]]
    expected = np.mean([of_row(name, u[places].double(), v[places].double()) for places in kept])
    assert mean(name, u, v, batch(ones, items), item_id="item", **arguments).item() == pytest.approx(expected)

    def work(world: World) -> float:
        mine = slice(0, 2) if world.rank == 0 else slice(2, 6)
        value = mean(name, u[mine], v[mine], batch(ones[mine], items[mine]), world, item_id="item", **arguments)
        return value.item() * (2 if world.rank == 0 else 4)

    assert sum(on_ranks(2, work)) / 6 == pytest.approx(expected)
    assert mean(name, u, v, batch(ones, items * 0), item_id="item", **arguments).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_tower_leaves_the_other_its_gradient(frozen: int) -> None:
    expected, found = drawn(8), drawn(8)
    mean("info_nce", expected[0], expected[1], batch(expected[2])).backward()
    found[frozen].requires_grad_(False)
    mean("info_nce", found[0], found[1], batch(found[2])).backward()
    torch.testing.assert_close(found[1 - frozen].grad, expected[1 - frozen].grad)


def test_all_classes_are_told_apart(golden: Callable[[str], Any]) -> None:
    """The value of the multi-similarity loss, as it is meant, on the other implementation's inputs; three classes."""
    inputs = {name: torch.tensor(value) for name, value in golden("losses.json")["inputs"].items()}
    loss = LOSSES.build("MULTI_SIMILARITY_LOSS", Schema((), (Label("y"),)))
    loss.bind(OUTPUTS[2:], where="losses.0")
    rows = batch(inputs["y"])
    assert (loss({"v": inputs["E"]}, rows) / loss.count(rows)).item() == pytest.approx(1.2028949, abs=1e-6)
    three = LOSSES.build("CIRCLE_LOSS", Schema((), (Label("y", "multiclass", num_classes=3),)))
    three.bind(OUTPUTS[2:], where="losses.0")
    apart = torch.eye(3).repeat(2, 1)
    values = [three({"v": apart}, batch(torch.tensor(y))).item() for y in ([0.0, 1, 2, 0, 1, 2], [0.0, 0, 1, 1, 2, 2])]
    assert values[0] == pytest.approx(6 * np.log(1 + 4 * np.exp(-4)))
    assert values[1] > 100 * values[0]


class TwoTowers(Model):
    outputs = OUTPUTS

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.user, self.item = torch.nn.Embedding(50, 8), torch.nn.Embedding(50, 8)

    def forward(self, features: Features) -> Outputs:
        u, v = self.user(features.sparse[:, 0]), self.item(features.sparse[:, 1])
        return {"u": u, "v": v, "logit": (u * v).sum(1)}


@pytest.mark.parametrize("name", TOWERS)
def test_a_model_of_two_towers_learns_who_chose_what(name: str) -> None:
    torch.manual_seed(0)
    task = Task(TwoTowers(SCHEMA), SCHEMA, [{"name": name, "item_id": "item"}])
    optimizer = torch.optim.Adam(task.parameters(), lr=0.1)
    users = torch.arange(50)
    rows = Batch(Features(torch.stack([users, (users * 7 + 3) % 50], 1), torch.zeros(50, 0)), torch.ones(50, 1))
    for _ in range(60):
        optimizer.zero_grad()
        task(rows).total.backward()
        optimizer.step()
    outputs = task.model(rows.features)
    assert ((outputs["u"] @ outputs["v"].T).argmax(1) == users).float().mean() > 0.95


@pytest.mark.parametrize(
    ("node", "outputs", "message"),
    [
        (
            {},
            OUTPUTS[:2],
            r"'losses.0.item': the model has no such outputs. Expected: a vector of part 'item'.*u \(vec",
        ),
        ({}, (*OUTPUTS, Output("v2", "vector", part="item")), "'losses.0.item': the model has 2 such outputs"),
        ({"output": "logit"}, OUTPUTS, "'losses.0.output': output 'logit' is of kind logit"),
        ({"item": "w"}, OUTPUTS, "'losses.0.item': the model has no output 'w'"),
        ({"item_id": "shop"}, OUTPUTS, "'item_id' is 'shop'. Expected: a sparse feature: user, item"),
    ],
)
def test_vectors_that_are_not_there_are_named(node: dict[str, Any], outputs: tuple[Output, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOSSES.build({"name": "info_nce", **node}, SCHEMA).bind(outputs, where="losses.0")


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("power", [None, 2.0])
def test_of_several_vectors_a_row_has_the_one_that_its_item_makes(name: str, power: float | None) -> None:
    """What each loss makes of K interests is what it makes of one vector a row: of (K, D) and the row's own item."""
    _, v, labels = drawn(9)
    interests = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(1))
    outputs = (dataclasses.replace(OUTPUTS[0], attention_power=power), *OUTPUTS[1:])
    loss = LOSSES.build({"name": name}, SCHEMA)
    loss.bind(outputs, where="losses.0")
    found = loss({"u": interests, "v": v}, batch(labels)).item()
    scores = (interests * v.detach().unsqueeze(1)).sum(2)
    weights = torch.nn.functional.one_hot(scores.argmax(1), 3).float()
    if power is not None:
        weights = (scores.sign() * scores.abs() ** power).softmax(1)
    one = (weights.unsqueeze(2) * interests).sum(1)
    assert found == pytest.approx(loss({"u": one, "v": v}, batch(labels)).item(), rel=1e-5)
    assert found != pytest.approx(loss({"u": interests[:, 0], "v": v}, batch(labels)).item(), rel=1e-3)


def test_vectors_of_other_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(B, D\) each.*\(4, 2, 5\) and \(4, 3\)"):
        mean("info_nce", torch.zeros(4, 2, 5), torch.zeros(4, 3), batch(torch.ones(4)))
    with pytest.raises(ConfigError, match="accumulate_steps=1"):
        Task(TwoTowers(SCHEMA), SCHEMA, ["info_nce"], parts=2)
