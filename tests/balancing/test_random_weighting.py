from __future__ import annotations

import torch

from rechub_ray.balancing import RandomWeighting
from rechub_ray.schema import Label

TASKS = tuple(Label(name) for name in "abc")


def drawn(seed: int) -> torch.Tensor:
    balancing = RandomWeighting(TASKS)
    balancing.draw(torch.Generator().manual_seed(seed))
    return balancing.weights().clone()


def test_weights_are_a_function_of_the_generator_and_add_up_to_one() -> None:
    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    assert torch.allclose(drawn(3).sum(), torch.ones(()))
    expected = torch.randn(3, generator=torch.Generator().manual_seed(3)).exp()
    torch.testing.assert_close(drawn(3), expected / expected.sum())


def test_no_task_is_preferred() -> None:
    mean = torch.stack([drawn(seed) for seed in range(3000)]).mean(0)
    torch.testing.assert_close(mean, torch.full((3,), 1 / 3), atol=0.02, rtol=0)


def test_losses_are_weighted() -> None:
    balancing = RandomWeighting(TASKS)
    balancing.draw(torch.Generator().manual_seed(0))
    losses = torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(balancing.combine(losses, 1.0), (balancing.weights() * losses).sum())
