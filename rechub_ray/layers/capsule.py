"""Capsules: vectors that the vectors of a list are routed to, by how well they agree."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.layers.attention import masked_softmax


def squash(vectors: Tensor) -> Tensor:
    """Return the vectors with lengths in [0, 1): `n / (1 + n^2) x` of a vector x of length n.

    Reference: Sabour, Frosst and Hinton, Dynamic Routing Between Capsules (NeurIPS 2017), eq. 1.
    """
    square = vectors.square().sum(-1, keepdim=True)
    # not the root of a sum with a small number, which onnxruntime leaves out: 0 / 0
    return vectors * (square.clamp(min=1e-12).sqrt() / (1 + square))


def route(votes: Tensor, logits: Tensor, mask: Tensor, *, routing_times: int, active: Tensor | None = None) -> Tensor:
    """Return capsules by dynamic routing: each place of a list gives its vote more to those that agree with it.

    Each time `w_kt = softmax_k(b_kt)`, `c_k = squash(sum_t w_kt v_kt)`, `b_kt <- b_kt + c_k v_kt`. The weights are
    constants to the gradient, which flows through the votes of the last time alone, as in the authors' code.

    Args:
        votes: v, of each place for each capsule, or, with one dimension less, the same for all capsules.
        logits: b at the start.
        mask: which places there are.
        routing_times: how often, >= 1.
        active: which capsules there are; None: all. The first one always is; the others are zeros.

    Shapes:
        votes (B, K, T, D) or (B, T, D), logits (K, T), mask (B, T), active (B, K) -> (B, K, D)

    Reference: Sabour, Frosst and Hinton, Dynamic Routing Between Capsules (NeurIPS 2017), procedure 1.
    """
    fixed, logits = votes.detach(), logits.unsqueeze(0)
    there = mask.unsqueeze(1) if active is None else mask.unsqueeze(1) & active.unsqueeze(2)
    for time in range(routing_times):
        weights = masked_softmax(logits, there, 1)
        if time == routing_times - 1:
            break
        capsules = squash(_sums(weights, fixed))
        logits = logits + (
            capsules @ fixed.transpose(1, 2) if fixed.dim() == 3 else (fixed @ capsules.unsqueeze(3)).squeeze(3)
        )
    return squash(_sums(weights, votes))


def _sums(weights: Tensor, votes: Tensor) -> Tensor:
    return weights @ votes if votes.dim() == 3 else (weights.unsqueeze(2) @ votes).squeeze(2)


def interests_of(lengths: Tensor, number: int) -> Tensor:
    """Return which of `number` capsules a list of each length has: `max(1, min(number, log2(length)))` of them.

    Shapes:
        (B,) -> (B, number) bool

    Reference: Li et al., Multi-Interest Network with Dynamic Routing for Recommendation at Tmall (CIKM 2019), eq. 9.
    """
    # whole numbers: the logarithm of a power of 2 may be rounded to less than its exponent
    least = 2 ** torch.arange(1, number + 1, device=lengths.device)
    return (lengths.unsqueeze(1) >= least) | (torch.arange(number, device=lengths.device) == 0)
