"""Bases of losses that compare rows within sessions, and of those that add up pairs of rows."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.autograd.function import once_differentiable

from rechub_ray.batch import Batch
from rechub_ray.errors import ConfigError
from rechub_ray.losses.base import Columns, PairLoss, Rows
from rechub_ray.outputs import Link, OutputKind
from rechub_ray.schema import LabelKind, Schema
from rechub_ray.world import World

_BLOCK = 2**21
"""Pairs that are held at once: 8 MiB a tensor in float32."""
_ROWS = 512
"""Rows of a block within sessions: few enough that they meet little more than their own sessions."""
_DIGIT = 16
"""Bits of a loss that one pass over the pairs settles, in the search for the hardest ones."""


class SessionLoss(PairLoss):
    """Base of losses that compare the rows of a session, or all rows of a step.

    Args:
        schema: has the labels and the group column.
        session_name: the schema's group column, with `data.group_by: true`; None compares all rows of a step.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Raises:
        ConfigError: `session_name` is not the schema's group column.
    """

    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("binary", "regression")
    heads: tuple[OutputKind, ...] = ("logit", "value")
    link: Link | None = None

    def __init__(self, schema: Schema, *, session_name: str | None = None, **common: Any) -> None:
        super().__init__(schema, **common)
        if session_name is not None and session_name != schema.group:
            raise ConfigError(
                f"loss '{self.registered_name}': 'session_name' is '{session_name}'",
                expected=f"the schema's group column, '{schema.group}'" if schema.group else "a group column",
                hint=None if schema.group else "Name one as 'group' in the recipe of `rechub-ray prepare`.",
            )
        self.session_name = session_name
        self.scope = "batch" if session_name is None else "group"


@dataclasses.dataclass(slots=True)
class _Choice:
    """The pairs of a step that count, chosen by their losses.

    Args:
        above: a loss above it counts.
        share: factor of a loss that equals it, in [0, 1].
        count: number of pairs that count, on all ranks.
    """

    above: float
    share: float
    count: float


_Block: TypeAlias = tuple[Tensor, slice]


@dataclasses.dataclass(slots=True)
class _Plan:
    """The blocks that a step's pairs are computed in.

    Args:
        others: the columns; within sessions, those of a session lie together.
        order: the places of `others` among the columns; None where they are in their own order.
        blocks: places of rows, and the stretch of `others` that they are compared with. There is at least one, since
            every rank differentiates the columns.
    """

    others: Rows
    order: Tensor | None
    blocks: list[_Block]


class Pairwise(SessionLoss):
    """Base of losses of pairs (i, j) of rows with y_i > y_j: a subclass says what one pair loses.

    Labels are binary or graded. A pair has the weight of row i; row j stands in it whatever its weight. The sum is
    divided by the number of pairs whose weight is not zero; no pair gives 0. Pairs are computed in blocks of rows, each
    with its gradient, so that memory does not grow with their number; rows that are first in no pair are left out.

    Where losses choose the pairs (`ohem_ratio`, or `limit` of a subclass), the divisor is not known before forward: the
    total is a mean already, `count` is 1, and the scope is `batch` also within sessions.

    Args:
        schema: has the labels and the group column.
        temperature: T, > 0; scores are divided by it.
        ohem_ratio: part of the pairs that counts, in (0, 1]: of n pairs (over all ranks) whose weight is not zero, the
            `max(1, rint(n ohem_ratio))` with the largest weighted losses. The mean is taken over those whose loss is
            above 0; pairs that tie for the last places share them. No such pair gives 0, where EasyRec gives NaN.
        common: the arguments of `SessionLoss`.

    Attributes:
        limit: pairs whose difference of scores is not below it do not count.

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference of `ohem_ratio`: Shrivastava et al., Training Region-based Object Detectors with Online Hard Example
    Mining, arXiv 1604.03540.
    """

    limit: float = math.inf

    def __init__(
        self,
        schema: Schema,
        *,
        temperature: Annotated[float, Gt(0)] = 1.0,
        ohem_ratio: Annotated[float, Gt(0), Le(1)] = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.temperature, self.ohem_ratio = temperature, ohem_ratio
        if self.chooses:
            self.scope = "batch"

    @property
    def chooses(self) -> bool:
        """Whether the losses of a step decide which of its pairs count."""
        return self.ohem_ratio < 1 or self.limit < math.inf

    def score(self, prediction: Tensor) -> Tensor:
        """Return the scores that are compared, (B,)."""
        return prediction / self.temperature

    @abc.abstractmethod
    def of_pairs(self, difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return the losses of pairs, >= 0; also of rows that are no pair, where it must be finite.

        Args:
            difference: of the scores, s_i - s_j.
            first: labels y_i.
            second: labels y_j.

        Shapes:
            difference (R, C), first (R, 1), second (C,) -> (R, C)
        """

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        return 1.0 if self.chooses else super().count(batch, world)

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        plan = self._plan(rows, columns)
        total = torch.zeros((), dtype=torch.float64, device=rows.target.device)
        for block in plan.blocks:
            total += self._are_pairs(block, rows, plan).sum()
        return total.float()

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        plan = self._plan(rows, columns)
        mine, others = self.score(prediction), self.score(columns.prediction)
        others = others if plan.order is None else others[plan.order]
        choice = self._choose(mine.detach(), others.detach(), rows, columns, plan) if self.chooses else None

        def of_block(first: Tensor, second: Tensor, block: _Block) -> Tensor:
            losses, are_pairs = self._losses(first, second, block, rows, plan)
            if choice is not None:
                losses = losses * ((losses > choice.above) + choice.share * (losses == choice.above))
            return torch.where(are_pairs, losses, 0).sum()

        total: Tensor = BlockSum.apply(mine, others, plan.blocks, of_block)  # type: ignore[no-untyped-call]
        return total if choice is None else total * (columns.ranks / max(choice.count, 1.0))

    def _plan(self, rows: Rows, columns: Columns) -> _Plan:
        first, others = _first(rows, columns), columns.rows
        if self.session_name is None:
            every = slice(0, len(others.target))
            return _Plan(others, None, [(block, every) for block in _split(first, every)])
        assert rows.group is not None  # the schema has the column
        assert others.group is not None
        groups, order = others.group.sort(stable=True)
        is_there = None if others.is_there is None else others.is_there[order]
        others = Rows(others.target[order], None, is_there, groups)
        if len(first) == 0:
            return _Plan(others, order, [(first, slice(0, 0))])
        mine, by_group = rows.group[first].sort(stable=True)
        last = torch.arange(_ROWS - 1, len(mine) + _ROWS - 1, _ROWS, device=mine.device).clamp(max=len(mine) - 1)
        starts = torch.searchsorted(groups, mine[::_ROWS].contiguous()).tolist()
        stops = torch.searchsorted(groups, mine[last], right=True).tolist()
        blocks = []
        for some, start, stop in zip(torch.split(first[by_group], _ROWS), starts, stops, strict=True):
            blocks += [(block, slice(start, stop)) for block in _split(some, slice(start, stop))]
        return _Plan(others, order, blocks)

    def _losses(self, mine: Tensor, others: Tensor, block: _Block, rows: Rows, plan: _Plan) -> tuple[Tensor, Tensor]:
        """Return the weighted losses of a block, of its rows' and columns' scores, and which of them are pairs."""
        first, stretch = block
        difference = mine.unsqueeze(1) - others
        losses = self.of_pairs(difference, rows.target[first].unsqueeze(1), plan.others.target[stretch])
        if rows.weight is not None:
            losses = losses * rows.weight[first].unsqueeze(1)
        are_pairs = self._are_pairs(block, rows, plan)
        if self.limit < math.inf:
            are_pairs &= difference < self.limit
        return losses, are_pairs

    def _are_pairs(self, block: _Block, rows: Rows, plan: _Plan) -> Tensor:
        first, stretch = block
        are_pairs = rows.target[first].unsqueeze(1) > plan.others.target[stretch]
        if plan.others.is_there is not None:
            are_pairs &= plan.others.is_there[stretch]
        if self.session_name is not None:
            assert rows.group is not None  # the schema has the column
            assert plan.others.group is not None
            are_pairs &= rows.group[first].unsqueeze(1) == plan.others.group[stretch]
        return are_pairs

    @torch.no_grad()
    def _choose(self, mine: Tensor, others: Tensor, rows: Rows, columns: Columns, plan: _Plan) -> _Choice:
        def found() -> Iterator[Tensor]:
            for block in plan.blocks:
                losses, are_pairs = self._losses(mine[block[0]], others[block[1]], block, rows, plan)
                yield losses[are_pairs]

        if self.ohem_ratio < 1:
            return _largest(found, self.ohem_ratio, columns, like=mine)
        count = mine.new_tensor(sum(len(losses) for losses in found()), dtype=torch.float64)
        return _Choice(-math.inf, 0.0, columns.sum_(count).item())


class BlockSum(torch.autograd.Function):
    """The sum of a function over blocks. Forward takes each block's gradient with it, and keeps nothing else of it.

    Recomputing blocks in backward would need a graph node a block: their small allocations lie between the large ones,
    and freed memory is too scattered to be used again.

    Shapes:
        mine (B, ...), others (C, ...) -> scalar
    """

    @staticmethod
    def forward(
        ctx: Any, mine: Tensor, others: Tensor, blocks: list[_Block], of_block: Callable[..., Tensor]
    ) -> Tensor:
        total, gradients = mine.new_zeros(()), (torch.zeros_like(mine), torch.zeros_like(others))
        differentiates = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        for first, stretch in blocks:
            with torch.set_grad_enabled(differentiates):
                scores = [part.detach().requires_grad_(differentiates) for part in (mine[first], others[stretch])]
                value = of_block(*scores, (first, stretch))
            total += value.detach()
            if differentiates:
                of_mine, of_others = torch.autograd.grad(value, scores)
                gradients[0][first] += of_mine
                gradients[1][stretch] += of_others
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_mine, of_others = ctx.saved_tensors
        return gradient * of_mine, gradient * of_others, None, None


def _first(rows: Rows, columns: Columns) -> Tensor:
    """Return the places of this rank's rows that may be first in a pair."""
    others = columns.rows
    labels = others.target if others.is_there is None else torch.where(others.is_there, others.target, math.inf)
    may_be = rows.target > labels.amin()
    return (may_be if rows.weight is None else may_be & (rows.weight != 0)).nonzero().squeeze(1)


def _split(first: Tensor, stretch: slice) -> tuple[Tensor, ...]:
    """Return the places in blocks that hold at most `_BLOCK` pairs with the stretch; one where there are none."""
    return torch.split(first, max(1, _BLOCK // (stretch.stop - stretch.start)))


def _largest(found: Callable[[], Iterator[Tensor]], ratio: float, columns: Columns, *, like: Tensor) -> _Choice:
    """Return the choice of the largest losses over all ranks, exactly, whatever their number.

    The bits of floats >= 0, read as whole numbers, have their order. So passes over all losses count digits of 16 bits,
    from the highest, each among the losses that share the digits before it.

    Args:
        found: iterates over this rank's losses, in blocks, the same in every pass.
        ratio: part of the losses to take.
        columns: sums over ranks.
        like: has the losses' type and device.
    """
    size = like.element_size() * 8
    whole = {32: torch.int32, 64: torch.int64}[size]
    bits, left, taken = 0, 0, 0
    for shift in range(size - _DIGIT, -1, -_DIGIT):
        histogram = torch.zeros(2**_DIGIT, dtype=torch.float64, device=like.device)
        is_highest = shift == size - _DIGIT
        for losses in found():
            values = losses.abs().view(whole) >> shift  # -0.0 is 0
            if not is_highest:
                values = values[values >> _DIGIT == bits] & (2**_DIGIT - 1)
            histogram += torch.bincount(values, minlength=2**_DIGIT)
        from_above = columns.sum_(histogram).flip(0).cumsum(0)
        if is_highest:
            number = from_above[-1].item()
            if number == 0:
                return _Choice(math.inf, 0.0, 0.0)
            taken = left = max(1, round(number * ratio))  # half to even
        place = int((from_above < left).sum())
        if place:
            left -= int(from_above[place - 1])
        bits = bits << _DIGIT | 2**_DIGIT - 1 - place
    above = torch.tensor(bits, dtype=whole).view(like.dtype).item()
    if above == 0:
        return _Choice(0.0, 0.0, float(taken - left))
    equal = from_above[place] - (from_above[place - 1] if place else 0)
    return _Choice(above, left / equal.item(), float(taken))
