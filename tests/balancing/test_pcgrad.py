from __future__ import annotations

import numpy as np
import pytest
import torch

from rechub_ray.balancing import BALANCING, PCGrad
from rechub_ray.errors import ConfigError
from rechub_ray.schema import Label


def directly(gradients: np.ndarray, orders: list[list[int]]) -> np.ndarray:
    """Algorithm 1 on the vectors themselves."""
    total = np.zeros(gradients.shape[1])
    for i, order in enumerate(orders):
        mine = gradients[i].copy()
        for j in order:
            if j != i and mine @ gradients[j] < 0:
                mine -= mine @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
        total += mine
    return total


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_it_equals_the_projection_of_the_vectors(tasks: int) -> None:
    for seed in range(20):
        gradients = np.random.default_rng(seed).normal(size=(tasks, 7))
        parts = {"a": gradients[:, :3], "b": gradients[:, 3:]}
        products = {name: torch.from_numpy(part @ part.T) for name, part in parts.items()}
        balancing = PCGrad([Label(str(i)) for i in range(tasks)])
        found = balancing.coefficients(products, torch.ones(tasks), torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]
        merged = np.concatenate([found[name].numpy() @ part for name, part in parts.items()])
        np.testing.assert_allclose(merged, directly(gradients, orders), rtol=0, atol=2e-14)


def test_gradients_that_agree_are_added_and_opposite_ones_lose_what_opposes() -> None:
    balancing = PCGrad([Label("a"), Label("b")])
    generator = torch.Generator()
    agree = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert balancing.coefficients({"w": agree}, torch.ones(2), generator)["w"].tolist() == [1, 1]
    oppose = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    assert balancing.coefficients({"w": oppose}, torch.ones(2), generator)["w"].tolist() == [1.5, 1.5]
    silent = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert balancing.coefficients({"w": silent}, torch.ones(2), generator)["w"].tolist() == [1, 1]


def test_one_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 labels with losses. Got: click"):
        BALANCING.build("pcgrad", [Label("click")])
