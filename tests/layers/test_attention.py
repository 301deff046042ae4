"""Attention over lists of which some are empty, and over interests, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rechub_ray.layers.attention import AttentionWeights, last_vector, masked_softmax, towards


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


def test_places_behind_the_end_have_no_share() -> None:
    scores = drawn(3, 4)
    mask = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
    found = masked_softmax(scores, mask).numpy()
    for row, length in zip(range(3), (2, 0, 4), strict=True):
        shares = np.exp(scores[row, :length].numpy())
        expected = [*(shares / max(shares.sum(), 1e-9)), *[0] * (4 - length)]
        np.testing.assert_allclose(found[row], expected, rtol=1e-12)
    empty = scores.clone().requires_grad_()
    masked_softmax(empty, torch.zeros_like(mask)).sum().backward()
    assert not torch.as_tensor(empty.grad).any()


def test_the_last_vector_of_an_empty_list_is_its_first() -> None:
    x = drawn(3, 4, 2)
    mask = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])
    torch.testing.assert_close(last_vector(x, mask), torch.stack([x[0, 1], x[1, 0], x[2, 3]]))


def test_heads_weigh_the_places_of_a_list() -> None:
    torch.manual_seed(0)
    layer, x = AttentionWeights(3, 5, 2).double(), drawn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    w_1, w_2 = (part.weight.detach().numpy() for part in (layer.hidden, layer.heads))
    for row, length in enumerate((2, 4)):
        shares = np.exp(np.tanh(x[row, :length].numpy() @ w_1.T) @ w_2.T)
        expected = np.zeros((2, 4))
        expected[:, :length] = (shares / shares.sum(0)).T
        np.testing.assert_allclose(layer(x, mask)[row].detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("power", [1.0, 2.5, None])
def test_interests_are_weighed_by_what_the_item_makes_of_them(power: float | None) -> None:
    interests, item = drawn(5, 4, 3), drawn(5, 3)
    interests[2, 1:3] = interests[2, 0]  # as of a short history
    found = towards(interests, item, power).numpy()
    for row in range(5):
        kept = [k for k in range(4) if row != 2 or k in (0, 3)]
        u = interests[row].numpy()[kept]
        s = u @ item[row].numpy()
        shares = np.exp(np.sign(s) * np.abs(s) ** (power or 1))
        expected = u[s.argmax()] if power is None else shares @ u / shares.sum()
        np.testing.assert_allclose(found[row], expected, rtol=1e-10)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_gradient_of_the_weights(power: float) -> None:
    inputs = drawn(3, 4, 2).requires_grad_(), drawn(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: towards(u, v, power), inputs)
    zeros = torch.zeros(2, 3, 2, requires_grad=True)
    towards(zeros, torch.zeros(2, 2), power).sum().backward()
    assert torch.isfinite(torch.as_tensor(zeros.grad)).all()
