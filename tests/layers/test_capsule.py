"""Routing as procedure 1 of Sabour et al. writes it, with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rechub_ray.layers.capsule import interests_of, route, squash


def routed(votes: np.ndarray, logits: np.ndarray, times: int) -> np.ndarray:
    """Capsules of one list's votes, (K, T, D)."""
    logits = logits.copy()
    capsules = np.zeros((len(votes), votes.shape[2]))
    for _ in range(times):
        shares = np.exp(logits) / np.exp(logits).sum(0)
        for k in range(len(votes)):
            total = sum((shares[k, t] * votes[k, t] for t in range(votes.shape[1])), np.zeros(votes.shape[2]))
            length = math.sqrt(total @ total)
            capsules[k] = length**2 / (1 + length**2) * total / length if length else total
        logits += np.einsum("kd,ktd->kt", capsules, votes)
    return capsules


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_capsules_are_those_of_the_procedure(times: int, shared: bool) -> None:
    rng = np.random.default_rng(0)
    votes, logits = rng.normal(size=(4, 5, 2) if shared else (4, 3, 5, 2)), rng.normal(size=(3, 5))
    lengths, numbers = [5, 0, 3, 1], [3, 1, 2, 1]
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    active = torch.arange(3) < torch.tensor(numbers).unsqueeze(1)
    tensors = torch.from_numpy(votes), torch.from_numpy(logits), mask
    some, every = (route(*tensors, routing_times=times, active=chosen).numpy() for chosen in (active, None))
    for row, (length, number) in enumerate(zip(lengths, numbers, strict=True)):
        own = np.broadcast_to(votes[row], (3, 5, 2))[:, :length]
        np.testing.assert_allclose(every[row], routed(own, logits[:, :length], times), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            some[row, :number], routed(own[:number], logits[:number, :length], times), rtol=1e-6, atol=1e-8
        )
        assert not some[row, number:].any()


def test_weights_are_constants_to_the_gradient() -> None:
    torch.manual_seed(0)
    votes, logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 4).double()
    mask = torch.ones(2, 4, dtype=torch.bool)
    route(votes, logits, mask, routing_times=2).sum().backward()
    first = squash(logits.softmax(0) @ votes.detach())
    fixed = (logits + first @ votes.detach().transpose(1, 2)).softmax(1)
    again = votes.detach().clone().requires_grad_()
    squash(fixed @ again).sum().backward()
    torch.testing.assert_close(votes.grad, again.grad)


def test_squashed_vectors_keep_their_direction_and_are_shorter_than_1() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.03, 0.04]], dtype=torch.float64)
    lengths = np.array([25 / 26, 0, 0.0025 / 1.0025])
    np.testing.assert_allclose(squash(x).norm(dim=1).numpy(), lengths, rtol=1e-6)
    torch.testing.assert_close(squash(x)[0] / squash(x)[0].norm(), x[0] / 5)


def test_short_lists_have_fewer_interests() -> None:
    lengths = list(range(70))
    expected = [max(1, min(5, length.bit_length() - 1)) for length in lengths]
    found = interests_of(torch.tensor(lengths), 5)
    assert found.sum(1).tolist() == expected
    assert (found.long().diff(dim=1) <= 0).all(), "the first ones"
