"""Attention over the places of lists of which some are empty: what lies behind a list's end has no share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rechub_ray.layers.linear import Linear


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return the softmax over the places where `mask` is true; zeros elsewhere, and where it is true nowhere.

    Args:
        scores: of any shape.
        mask: bool, of a shape that fits.
        dim: the dimension of the places.
    """
    lowest = torch.finfo(scores.dtype).min  # not -inf, of which a softmax over nothing would be NaN
    return scores.masked_fill(~mask, lowest).softmax(dim) * mask.to(scores.dtype)


def last_vector(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return the vector at each list's last place; at the first one of an empty list.

    Shapes:
        vectors (B, T, D), mask (B, T) -> (B, D)
    """
    place = (mask.sum(1) - 1).clamp(min=0).view(-1, 1, 1)
    return vectors.gather(1, place.expand(-1, 1, vectors.shape[2])).squeeze(1)


def towards(interests: Tensor, item: Tensor, power: float | None) -> Tensor:
    """Return one vector a row of its several: label-aware attention of the row's own item.

    With `s_k` the product of interest k and the item, the weights are `softmax_k(s_k^p)`, where the power keeps the
    sign of s_k. Interests that repeat the first one count once.

    Args:
        interests: K vectors a row.
        item: the item that each row is about.
        power: p, >= 1; None, its limit, takes the interest of the largest product alone.

    Shapes:
        interests (B, K, D), item (B, D) -> (B, D)

    Reference: Li et al., Multi-Interest Network with Dynamic Routing for Recommendation at Tmall (CIKM 2019), section
    4.4; without power, Cen et al., Controllable Multi-Interest Framework for Recommendation (KDD 2020), eq. 7.
    """
    scores = torch.einsum("bkd,bd->bk", interests, item)
    if power is None:
        best = scores.argmax(1).view(-1, 1, 1)
        return interests.gather(1, best.expand(-1, 1, interests.shape[2])).squeeze(1)
    scores = scores * scores.abs().clamp(min=1e-12) ** (power - 1)
    repeats = (interests[:, 1:] == interests[:, :1]).all(2)
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(repeats, -math.inf)], 1)
    return torch.einsum("bk,bkd->bd", scores.softmax(1), interests)


class AttentionWeights(nn.Module):
    """Weights of a list's places by what stands there: `softmax_t(W_2 tanh(W_1 x_t))`, one row of W_2 a head.

    Args:
        input_dim: width of x.
        hidden_dim: rows of W_1, >= 1.
        heads: number of heads, >= 1.

    Shapes:
        x (B, T, input_dim), mask (B, T) -> (B, heads, T); zeros behind a list's end

    Reference: Lin et al., A Structured Self-attentive Sentence Embedding (ICLR 2017), eq. 5 and 6.
    """

    def __init__(self, input_dim: int, hidden_dim: int, heads: int = 1) -> None:
        super().__init__()
        self.hidden = Linear(input_dim, hidden_dim, bias=False)
        self.heads = Linear(hidden_dim, heads, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.heads(self.hidden(x).tanh())
        return masked_softmax(scores.transpose(1, 2), mask.unsqueeze(1))
