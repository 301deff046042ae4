"""What a sequence of vectors says about one vector: pooling, recurrence and a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rechub_ray.layers.activation import Activation
from rechub_ray.layers.attention import last_vector, masked_softmax
from rechub_ray.layers.field_attention import check_heads, join_heads, split_heads
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP


class LocalActivation(nn.Module):
    """`sum_t a(h_t, v) h_t` with `a = mlp([v, h_t, v - h_t, v * h_t])`.

    Args:
        dim: width of the vectors.
        units: widths of the hidden layers.
        activation: after each hidden layer.
        softmax: whether the weights of a row are normalised; the paper leaves them, to keep how strong an interest is.

    Shapes:
        history (B, T, dim), zeros where mask (B, T) is False, target v (B, dim) -> (B, dim); zeros without a history

    Reference: Zhou et al., Deep Interest Network, arXiv 1706.06978, eq. 3 and figure 2.
    """

    def __init__(self, dim: int, units: Sequence[int], *, activation: Activation, softmax: bool) -> None:
        super().__init__()
        self.mlp, self.softmax = MLP(4 * dim, units, output_dim=1, activation=activation), softmax

    def forward(self, history: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        wide = target.unsqueeze(1).expand_as(history)
        x = torch.cat([wide, history, wide - history, wide * history], 2).flatten(0, 1)
        if self.training:  # places without an id would count in what dice normalises by
            places = mask.flatten().nonzero().squeeze(1)
            own = self.mlp(x.index_select(0, places)).squeeze(1)
            scores = own.new_zeros(x.shape[0]).index_copy(0, places, own).view(mask.shape)
        else:
            scores = self.mlp(x).view(mask.shape)
        weights = masked_softmax(scores, mask) if self.softmax else scores * mask.to(scores.dtype)
        return (weights.unsqueeze(2) * history).sum(1)


class AttentionalGRU(nn.Module):
    """A GRU whose update gates are multiplied by weights: `h_t = (1 - a_t u_t) h_{t-1} + a_t u_t c_t`.

    `r, u = sigmoid(W x_t + U h_{t-1} + b)`, `c = tanh(W_c x_t + r * (U_c h_{t-1}) + b_c)`, h_0 = 0. Without weights it
    is a GRU. A step reads the rows alone that are so long, as one product.

    Args:
        dim: width of x and h.

    Shapes:
        x (B, T, dim), mask (B, T), True up to each row's end, weights (B, T) or None -> states (B, T, dim), of which
        those behind a row's end have no meaning, and the last state of each row (B, dim), zeros where it is empty

    Reference: Zhou et al., Deep Interest Evolution Network, arXiv 1809.03672 (AUGRU).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.input, self.state = Linear(dim, 3 * dim), Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        matrix = self.state.weight
        if torch.compiler.is_exporting():
            kept = mask.to(x.dtype) if weights is None else weights  # a step of weight 0 leaves h as it is
            states = _in_graph(self.input(x), kept, x.new_zeros(x.shape[0], x.shape[2]), matrix)
            return states, states[:, -1]
        rows, longest = mask.shape
        order = mask.sum(1).argsort(descending=True, stable=True)
        places = mask.index_select(0, order).t().flatten().nonzero().squeeze(1)  # step by step, the longest row first
        places = order[places % rows] * longest + places // rows
        inputs = self.input(x.flatten(0, 1).index_select(0, places)).to(matrix.dtype)
        own = None if weights is None else weights.flatten().index_select(0, places).unsqueeze(1).to(matrix.dtype)
        states = _Recurrence.apply(inputs, own, matrix, mask.sum(0).tolist())  # type: ignore[no-untyped-call]
        states = states.new_zeros(rows * longest, matrix.shape[1]).index_copy(0, places, states)
        states = states.view(rows, longest, -1)
        return states, last_vector(states, mask)


class _Recurrence(torch.autograd.Function):
    """The states of an `AttentionalGRU`, whose gradient is computed step by step, too, not operation by operation.

    Args:
        inputs: W x + b, the rows of the first step before those of the second one, the longest row first in each.
        weights: a of the same, or None.
        matrix: U.
        sizes: rows of each step, descending.

    Shapes:
        inputs (N, 3 dim), weights (N, 1), matrix (3 dim, dim) -> (N, dim)
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weights: Tensor | None, matrix: Tensor, sizes: list[int]) -> Tensor:
        width, begin = matrix.shape[1], 0
        gates, of_state = torch.empty_like(inputs), inputs.new_empty(inputs.shape[0], width)
        states, h = torch.empty_like(of_state), inputs.new_zeros(max(sizes, default=0), width)
        with torch.autocast(inputs.device.type, enabled=False):
            for size in sizes:
                here = slice(begin, begin + size)
                own, gate, h = inputs[here], gates[here], h[:size]
                of_h = h @ matrix.t()
                of_state[here] = of_h[:, 2 * width :]
                torch.add(own[:, : 2 * width], of_h[:, : 2 * width], out=gate[:, : 2 * width]).sigmoid_()
                reset, update, candidate = gate.chunk(3, 1)
                torch.addcmul(own[:, 2 * width :], reset, of_state[here], out=candidate).tanh_()
                h = torch.lerp(h, candidate, _times(update, weights, here), out=states[here])
                begin += size
        ctx.save_for_backward(gates, of_state, states, weights, matrix)
        ctx.sizes = sizes
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, of_state, states, weights, matrix = ctx.saved_tensors
        end = states.shape[0]
        gradient, before = gradient.clone(), torch.zeros_like(states)
        of_inputs, of_products = torch.empty_like(gates), torch.empty_like(gates)
        of_weights = None if weights is None else torch.empty_like(weights)
        carried = gradient[:0]
        for i in reversed(range(len(ctx.sizes))):
            size = ctx.sizes[i]
            here = slice(end - size, end)
            if i:
                start = end - size - ctx.sizes[i - 1]
                before[here] = states[start : start + size]
            g, h, (reset, update, candidate) = gradient[here], before[here], gates[here].chunk(3, 1)
            g[: carried.shape[0]] += carried
            step = _times(update, weights, here)
            of_step = g * (candidate - h)
            if weights is not None and of_weights is not None:
                torch.sum(of_step * update, 1, keepdim=True, out=of_weights[here])
                of_step = of_step * weights[here]
            of_candidate = torch.ops.aten.tanh_backward(g * step, candidate)
            of_reset = torch.ops.aten.sigmoid_backward(of_candidate * of_state[here], reset)
            of_update = torch.ops.aten.sigmoid_backward(of_step, update)
            torch.cat([of_reset, of_update, of_candidate], 1, out=of_inputs[here])
            torch.cat([of_reset, of_update, of_candidate * reset], 1, out=of_products[here])
            carried = torch.addmm(torch.addcmul(g, g, step, value=-1), of_products[here], matrix)
            end -= size
        return of_inputs, of_weights, of_products.t() @ before, None


def _times(update: Tensor, weights: Tensor | None, here: slice) -> Tensor:
    return update if weights is None else update * weights[here]


def _step(own: Tensor, weight: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
    of_x, of_h = own.chunk(3, 1), F.linear(h, matrix).chunk(3, 1)
    reset, update = torch.sigmoid(of_x[0] + of_h[0]), torch.sigmoid(of_x[1] + of_h[1])
    return h + weight * update * (torch.tanh(of_x[2] + reset * of_h[2]) - h)


def _in_graph(inputs: Tensor, weights: Tensor, h: Tensor, matrix: Tensor) -> Tensor:
    """Return the states by a loop of an exported graph's own, so that its lists may have any length."""
    places = torch.arange(inputs.shape[1]).unsqueeze(1)

    def goes_on(t: Tensor, h: Tensor, states: Tensor) -> Tensor:
        return t < inputs.shape[1]

    def advance(t: Tensor, h: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, weight = inputs.index_select(1, t.view(1)).squeeze(1), weights.index_select(1, t.view(1))
        h = _step(own, weight, h, matrix)
        return t + 1, h, torch.where(places == t, h.unsqueeze(1), states)

    start = (torch.zeros((), dtype=torch.int64), h, torch.zeros_like(inputs[..., : h.shape[1]]))
    result: Tensor = torch.while_loop(goes_on, advance, start)[2]  # type: ignore[no-untyped-call]
    return result


class BehaviourTransformer(nn.Module):
    """A transformer's encoder on the target and the history; gives what becomes of the target.

    Places are counted from the target: 0 is the target's own, 1 the last id's. A layer is `s = LN(x + drop(heads(x)))`,
    `LN(s + drop(W_2 leaky_relu(W_1 s + b_1) + b_2))`. Of the last layer, only the target's place is computed.

    Args:
        dim: width of the vectors, a multiple of `heads`.
        heads: >= 1.
        num_layers: >= 1.
        units: of the feed-forward part.
        max_length: longest history.
        dropout: in [0, 1).

    Shapes:
        history (B, T, dim), mask (B, T), target (B, dim) -> (B, dim)

    Raises:
        ConfigError: `dim` is no multiple of `heads`.

    Reference: Chen et al., Behavior Sequence Transformer, arXiv 1905.06874, section 2. Deviations: places instead of
    times; the target's result alone goes on, since histories differ in length.
    """

    def __init__(
        self, dim: int, *, heads: int, num_layers: int, units: int, max_length: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(dim, heads, key="the embeddings' width")
        self.places = nn.Parameter(torch.empty(max_length + 1, dim))
        nn.init.normal_(self.places, std=0.02)
        self.layers = nn.ModuleList(_EncoderLayer(dim, heads, units, dropout) for _ in range(num_layers))

    def forward(self, history: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        behind = mask.sum(1, keepdim=True) - torch.arange(history.shape[1], device=mask.device)
        place = F.embedding(behind.clamp(0, self.places.shape[0] - 1), self.places)
        x = torch.cat([(target + self.places[0]).unsqueeze(1), history + place], 1)
        seen = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        for layer in self.layers[:-1]:
            x = layer(x, x, seen)
        result: Tensor = self.layers[-1](x[:, :1], x, seen)
        return result.squeeze(1)


class _EncoderLayer(nn.Module):
    """One layer: places (B, P, dim) that look at x (B, T, dim) where seen (B, T) -> (B, P, dim)."""

    def __init__(self, dim: int, heads: int, units: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.factor = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value, self.joined = (Linear(dim, dim) for _ in range(4))
        self.wide, self.narrow = Linear(dim, units), Linear(units, dim)
        self.norm_1, self.norm_2, self.dropout = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, places: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        query = split_heads(self.query(places), self.heads)
        key, value = (split_heads(layer(x), self.heads) for layer in (self.key, self.value))
        scores = query @ key.transpose(2, 3) * self.factor
        weights = self.dropout(masked_softmax(scores, seen.unsqueeze(1).unsqueeze(1)))
        attended = self.norm_1(places + self.dropout(self.joined(join_heads(weights @ value))))
        forward = self.narrow(F.leaky_relu(self.wide(attended)))
        result: Tensor = self.norm_2(attended + self.dropout(forward))
        return result


class SearchedInterest(nn.Module):
    """Two looks at a long history: a cheap one at all of it, and attention to the `keep` places that it finds.

    The first scores each place by `r_t = <W_b h_t, W_a v> / sqrt(dim)` and gives `sum_t r_t h_t / T`, T the number of
    ids. The second attends from v to the places with the largest r, in heads.

    Args:
        dim: width of the vectors, a multiple of `heads`.
        keep: places that are kept, >= 1.
        heads: of the attention, >= 1.

    Shapes:
        history (B, T, dim), mask (B, T), target v (B, dim) -> (B, 2 dim); zeros without a history

    Raises:
        ConfigError: `dim` is no multiple of `heads`.

    Reference: Qi et al., Search-based User Interest Modeling, arXiv 2006.05639, general and exact search units.
    Deviations: the mean in place of the sum; no times.
    """

    def __init__(self, dim: int, *, keep: int, heads: int) -> None:
        super().__init__()
        check_heads(dim, heads, key="the embeddings' width")
        self.keep, self.heads = keep, heads
        self.of_history, self.of_target = Linear(dim, dim, bias=False), Linear(dim, dim, bias=False)
        self.query, self.key, self.value = (Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, history: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        present = mask.to(history.dtype)
        scores = (self.of_history(history) * self.of_target(target).unsqueeze(1)).sum(2) * history.shape[2] ** -0.5
        general = ((scores * present).unsqueeze(2) * history).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
        # more places than are kept, whatever the batch's longest list
        lowest = torch.finfo(scores.dtype).min
        padded = F.pad(scores.masked_fill(~mask, lowest), (0, self.keep), value=lowest)
        found = padded.topk(self.keep, 1).indices.clamp(max=mask.shape[1] - 1)
        kept = history.gather(1, found.unsqueeze(2).expand(-1, -1, history.shape[2]))
        order = torch.arange(self.keep, device=mask.device)
        valid = order < mask.sum(1, keepdim=True)  # the places of ids come first
        query = split_heads(self.query(target).unsqueeze(1), self.heads)
        key, value = (split_heads(layer(kept), self.heads) for layer in (self.key, self.value))
        weights = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        exact = join_heads(masked_softmax(weights, valid.unsqueeze(1).unsqueeze(1)) @ value).squeeze(1)
        return torch.cat([general, exact], 1)
