from __future__ import annotations

import itertools

import numpy as np
import torch

from rechub_ray.layers.fm import FMInteraction


def test_it_is_the_sum_over_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 5, 3))
    pairs = itertools.combinations(range(5), 2)
    expected = sum((vectors[:, i] * vectors[:, j]).sum(1) for i, j in pairs)
    np.testing.assert_allclose(FMInteraction()(torch.from_numpy(vectors)).numpy(), expected, rtol=1e-12)


def test_one_vector_has_no_pair() -> None:
    assert FMInteraction()(torch.randn(3, 1, 4, dtype=torch.float64)).abs().max() < 1e-12


def test_its_gradient() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FMInteraction(), (vectors,))
