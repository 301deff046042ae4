"""Bases of losses that compare vectors of a step with each other."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.attention import towards
from rechub_ray.layers.gather import gather_rows
from rechub_ray.losses.base import Columns, PairLoss, RowNegatives, Rows, Scope
from rechub_ray.losses.pairs import BlockSum, SessionLoss
from rechub_ray.outputs import Link, Output, OutputKind, find
from rechub_ray.schema import PositiveInt, Schema
from rechub_ray.world import World

_BLOCK = 2**21
"""Similarities that are held at once: 8 MiB a tensor in float32."""


@dataclasses.dataclass(slots=True)
class Block:
    """Some rows of this rank, and the columns of the step that they are compared with.

    Args:
        places: of the rows among this rank's, (R,).
        rows: this rank's.
        columns: all C rows of the step.
    """

    places: Tensor
    rows: Rows
    columns: Columns

    @property
    def listed(self) -> RowNegatives | None:
        """The negatives of the rows alone; None where there are no such ones."""
        return self.columns.listed

    def own(self, similarity: Tensor) -> Tensor:
        """Return each row's similarity to itself.

        Shapes:
            (R, C) -> (R, 1)
        """
        return similarity.gather(1, self.own_places)

    @property
    def own_places(self) -> Tensor:
        """The rows' places among the columns, (R, 1)."""
        if self.listed is not None and self.listed.are_all:
            return torch.zeros_like(self.places).unsqueeze(1)
        places, column_of = self.places + self.columns.first, self.columns.column_of
        return (places if column_of is None else column_of[places]).unsqueeze(1)

    def others(self) -> Tensor:
        """Return which columns take part beside the row itself, (R, C) bool."""
        theirs = self.columns.rows
        shape = len(self.places), len(theirs.target)
        others = torch.ones(shape, dtype=torch.bool, device=self.places.device)
        if theirs.is_there is not None:
            others &= theirs.is_there
        return others.scatter_(1, self.own_places, False)

    def same_label(self) -> Tensor:
        """Return which columns have a row's label, (R, C) bool."""
        return self.rows.target[self.places].unsqueeze(1) == self.columns.rows.target

    def same_group(self) -> Tensor:
        """Return which columns have a row's group, (R, C) bool."""
        assert self.rows.group is not None  # asked for where there is one
        assert self.columns.rows.group is not None
        return self.rows.group[self.places].unsqueeze(1) == self.columns.rows.group


class VectorLoss(PairLoss):
    """Base of losses of single rows, each computed from its similarities to all rows of the step.

    A subclass says what a row loses (`of_rows`). The rows' losses, times their sample weights, are summed and divided
    by the number of rows that count and whose weight is not zero. Rows of weight 0 stand in the losses of others; rows
    whose label is missing do not. Similarities are computed in blocks of rows, each with its gradient, so that memory
    does not grow with their number.

    Vectors are outputs of kind `vector`, (B, D), of the model.
    """

    heads: tuple[OutputKind, ...] = ("vector",)
    link: Link | None = None
    scope: Scope = "batch"

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        rows = self.rows(batch)
        mine, others = self.vectors(outputs, batch)
        theirs, candidates = self.columns(batch, rows), batch.candidates
        count = len(theirs.target) if candidates is None else len(candidates.ids)
        if (mine.dim(), others.dim()) != (2, 2) or others.shape != (count, mine.shape[1]):
            raise ConfigError(
                f"loss '{self.registered_name}' cannot compare these vectors",
                expected="(B, D) each" if candidates is None else f"(B, D) and ({count}, D)",
                got=f"{tuple(mine.shape)} and {tuple(others.shape)}",
            )
        return self.total_over(mine, rows, self.compared(others, theirs, batch, world))

    def compared(self, others: Tensor, theirs: Rows, batch: Batch, world: World | None) -> Columns:
        """Return what this rank's rows are compared with: columns of all ranks.

        Args:
            others: the vectors of this rank's columns, (C, D).
            theirs: their data.
            batch: this rank's rows.
            world: the ranks.
        """
        return self._columns(others, theirs, world)

    @abc.abstractmethod
    def vectors(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what stands in the rows and in the columns of the similarities, (B, D) and (C, D)."""

    def columns(self, batch: Batch, rows: Rows) -> Rows:
        """Return the data of the columns, of which the first ones are the rows; here there are no others."""
        return rows

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        """Return the losses of rows; every subclass has it, but one that computes the total itself.

        Shapes:
            mine (R, D), others (C, D) -> (R,)
        """
        raise NotImplementedError

    def counts(self, rows: Rows) -> Tensor:
        """Return the factors of the rows' losses, (B,): weights, 0 for rows that do not count."""
        return torch.ones_like(rows.target) if rows.weight is None else rows.weight

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        weight = self.counts(rows)
        places = weight.nonzero().squeeze(1)
        every = slice(0, len(columns.prediction))
        size = every.stop if columns.listed is None else columns.listed.size(every.stop, prediction.shape[1])
        blocks = [(block, every) for block in torch.split(places, max(1, _BLOCK // max(1, size)))]

        def of_block(mine: Tensor, others: Tensor, block: tuple[Tensor, slice]) -> Tensor:
            return (self.of_rows(mine, others, Block(block[0], rows, columns)) * weight[block[0]]).sum()

        total: Tensor = BlockSum.apply(prediction, columns.prediction, blocks, of_block)  # type: ignore[no-untyped-call]
        return total

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        rows = self.rows(batch)  # no column is read, so none is gathered
        return self.count_over(rows, Columns(rows.target, rows))

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        return (self.counts(rows) != 0).sum().float()


class MetricLoss(VectorLoss, SessionLoss):
    """Base of losses of one vector a row, whose neighbours shall have its label.

    Positives of a row are the others of its label, in its session where `session_name` is given. All the rest are
    negatives, those of its label in other sessions too. Vectors are divided by their norms.

    Args:
        schema: has the labels and the group column.
        output: the vector; may be left out where the model has one.
        session_name: the schema's group column; None compares by label alone. Either way rows of the whole step are
            compared.
        common: `label`, `weight` and `learn_loss_weight`, as in `Loss`.
    """

    label_kinds = ("binary", "multiclass", "regression")

    def __init__(self, schema: Schema, *, session_name: str | None = None, **common: Any) -> None:
        super().__init__(schema, session_name=session_name, **common)
        self.scope = "batch"
        self.use(schema.label(self._named).name)

    def bind(self, outputs: Sequence[Output], *, where: str) -> None:
        self.output = vector(outputs, self.output, None, where=f"{where}.output").name

    def vectors(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        mine = F.normalize(outputs[self.output or "logit"], dim=-1, eps=1e-6)
        return mine, mine

    def positives(self, block: Block) -> Tensor:
        """Return which columns are positives of a row, (R, C) bool."""
        positives = block.same_label() & block.others()
        return positives if self.session_name is None else positives & block.same_group()


class TowerLoss(VectorLoss):
    """Base of losses of two vectors a row, of a user and of the item that was chosen.

    Rows whose label is above 0 count, and all rows of data without labels. What a user is compared with are the
    items of all rows of the step, and, of a model for retrieval, the candidates (`negatives` of the run): a column of
    the row's own item is no negative, and a row without negatives, or whose item is not in the item table, does not
    count. An item that several of a row's columns hold counts as often; in losses of `takes_counts` it is compared
    once, by the vector of its first column (an item's columns differ by dropout in its tower alone). Of several vectors
    a user a row has one: that which suits its own item best, or what the output's `attention_power` makes of them.

    Args:
        schema: has the labels and features.
        output: the user's vector; may be left out where the model has one of part `user`.
        item: the item's vector; may be left out where the model has one of part `item`.
        item_id: sparse feature: other rows of the same item are no negatives. None takes all other rows; with
            candidates their ids tell.
        similarity: `dot`, or `cosine`: of the vectors divided by their norms.
        temperature: T, > 0; similarities are divided by it.
        hardest_negatives: only the so many most similar negatives of a row count, >= 1; None takes all.
        common: `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Attributes:
        usual_negatives: sources of negatives of a model for retrieval, where a run names none.
        takes_counts: whether columns of one item may be one column, with their number.

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.
    """

    label_kinds = ("binary", "regression")
    needs_label = False
    takes_drawn: ClassVar[bool] = True
    takes_lists: ClassVar[bool] = True
    takes_all: ClassVar[bool] = False
    takes_counts: ClassVar[bool] = False
    usual_negatives: ClassVar[tuple[str, ...]] = ("in_batch",)

    def __init__(
        self,
        schema: Schema,
        *,
        output: str | None = None,
        item: str | None = None,
        item_id: str | None = None,
        similarity: Literal["dot", "cosine"] = "dot",
        temperature: Annotated[float, Gt(0)] = 1.0,
        hardest_negatives: PositiveInt | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, output=output, **common)
        self.label = None
        if schema.labels:
            self.use(schema.label(self._named).name)
        self.item, self.similarity, self.temperature = item, similarity, temperature
        self.hardest_negatives = hardest_negatives
        if hardest_negatives is not None and not self.takes_lists:
            raise ConfigError(f"loss '{self.registered_name}' takes all negatives, and no 'hardest_negatives'")
        self._id: int | None = None
        self._power: float | None = None
        if item_id is not None:
            names = [feature.name for feature in schema.sparse]
            if item_id not in names:
                raise ConfigError(
                    f"loss '{self.registered_name}': 'item_id' is '{item_id}'",
                    expected=f"a sparse feature: {', '.join(names) or 'the schema has none'}",
                )
            self._id = names.index(item_id)

    def bind(self, outputs: Sequence[Output], *, where: str) -> None:
        user = vector(outputs, self.output, "user", where=f"{where}.output")
        self.output, self._power = user.name, user.attention_power
        self.item = vector(outputs, self.item, "item", where=f"{where}.item").name

    def rows(self, batch: Batch) -> Rows:
        rows, candidates = super().rows(batch), batch.candidates
        if candidates is None:
            return dataclasses.replace(rows, group=None if self._id is None else batch.features.sparse[:, self._id])
        own = candidates.own_ids(batch.rows)
        weight = torch.ones_like(rows.target) if rows.weight is None else rows.weight
        return dataclasses.replace(rows, group=own, weight=torch.where(own < 0, 0, weight))

    def columns(self, batch: Batch, rows: Rows) -> Rows:
        if batch.candidates is None:
            return rows
        ids = batch.candidates.negatives(batch.rows)
        return Rows(rows.target.new_zeros(len(ids)), None, ids >= 0, ids)

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        if batch.candidates is None:
            return super().count(batch, world)
        rows, candidates = self.rows(batch), batch.candidates
        assert rows.group is not None
        assert rows.weight is not None
        negatives = torch.zeros_like(rows.group)
        if candidates.is_shared:
            ids = candidates.negatives(batch.rows)
            ids = (ids if world is None else gather_rows(world, ids)[0]).sort().values
            start, stop = (torch.searchsorted(ids, rows.group, right=right) for right in (False, True))
            negatives += (ids >= 0).sum() - (stop - start)
        if candidates.listed is not None:
            negatives += RowNegatives.of(candidates, batch.rows).are_negatives(rows.group).sum(1)
        rows.weight = torch.where(negatives > 0, rows.weight, 0)
        return self.count_over(rows, Columns(rows.target, rows))

    def vectors(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        user, item = outputs[self.output or "user"], outputs[self.item or "item"]
        if self.similarity == "cosine":
            user, item = (F.normalize(tower, dim=-1, eps=1e-6) for tower in (user, item))
        if user.dim() == 3 and user.shape[2] == item.shape[1]:
            own = None if batch.candidates is None else batch.candidates.own
            user = towards(user, item[: len(user)] if own is None else item[own.clamp(min=0)], self._power)
        return user, item

    @property
    def needs_negatives(self) -> bool:
        """Whether rows without negatives teach nothing."""
        return True

    def counts(self, rows: Rows) -> Tensor:
        return torch.where(rows.target > 0, super().counts(rows), 0)

    def compared(self, others: Tensor, theirs: Rows, batch: Batch, world: World | None) -> Columns:
        candidates = batch.candidates
        if candidates is None or candidates.listed is None:
            columns = super().compared(others, theirs, batch, world)
            counts = self.takes_counts and candidates is not None and candidates.in_batch and not self.hardest_negatives
            return _each_item_once(columns) if counts else columns
        lists, count = RowNegatives.of(candidates, batch.rows), len(theirs.target)
        columns = self._columns(others[:count], theirs, None if lists.are_all else world)
        return dataclasses.replace(columns, prediction=torch.cat([columns.prediction, others[count:]]), listed=lists)

    def similarities(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        """Return the products of rows with the columns of all rows (or their own one alone), then with their lists'.

        Shapes:
            mine (R, D), others (C, D) -> (R, C), or with lists (R, C + K) or (R, 1 + K)
        """
        lists = block.listed
        if lists is None:
            return mine @ others.T
        count, ids, places = len(block.columns.rows.target), lists.ids[block.places], lists.places[block.places]
        if lists.are_all:
            shared = (mine * others[block.places]).sum(1, keepdim=True)
        else:
            shared = mine @ others[:count].T
        listed = F.embedding(torch.where(ids < 0, 0, places + count), others)
        return torch.cat([shared, torch.einsum("rd,rkd->rk", mine, listed)], 1)

    def negatives(self, block: Block) -> Tensor:
        """Return which columns are negatives of a row, (R, C) bool; in the order of `similarities`."""
        lists, group = block.listed, block.rows.group
        if lists is None:
            others = block.others()
            return others if group is None else others.logical_and_(~block.same_group())
        assert group is not None
        shared = torch.zeros_like(block.own_places, dtype=torch.bool)
        if not lists.are_all:
            shared = block.others().logical_and_(~block.same_group())
        return torch.cat([shared, lists.are_negatives(group)[block.places]], 1)

    def chosen(self, values: Tensor, block: Block) -> Tensor:
        """Return which columns are negatives of a row that count, (R, C) bool: those of its largest values."""
        negatives = self.negatives(block)
        if self.hardest_negatives is None:
            return negatives
        hidden = values.detach().masked_fill(~negatives, -math.inf)
        largest = hidden.topk(min(self.hardest_negatives, hidden.shape[1]), 1)
        return torch.zeros_like(negatives).scatter_(1, largest.indices, largest.values > -math.inf)

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        return super().total_over(prediction / self.temperature, rows, columns)

    def cross_entropy(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        """Return `log(sum_j exp(s_ij)) - s_ii` over a row itself and its negatives, with `s = mine @ others.T`.

        Shapes:
            mine (R, D), others (C, D) -> (R,)
        """
        if block.listed is not None or self.hardest_negatives is not None:
            similarity = self.similarities(mine, others, block)
            return self.or_own(similarity, block).logsumexp(1) - block.own(similarity).squeeze(1)
        columns = block.columns
        left_out: Tensor | None = None
        if block.rows.group is not None and columns.column_of is None:
            left_out = block.same_group()
        if columns.rows.is_there is not None:
            missing = ~columns.rows.is_there
            left_out = missing if left_out is None else left_out.logical_or_(missing)
        losses: Tensor = _CrossEntropy.apply(mine, others, block.own_places, left_out, columns.log_count)  # type: ignore[no-untyped-call]
        return losses

    def or_own(self, similarity: Tensor, block: Block) -> Tensor:
        """Return the similarities with -inf in columns that are neither a negative of a row nor the row itself.

        Shapes:
            (R, C) -> (R, C)
        """
        is_free = block.rows.group is None and block.columns.rows.is_there is None
        if is_free and block.listed is None and self.hardest_negatives is None:  # all of them are: no mask, no copy
            return similarity
        return similarity.masked_fill((~self.chosen(similarity, block)).scatter_(1, block.own_places, False), -math.inf)

    def mean_over_negatives(self, losses: Tensor, block: Block) -> Tensor:
        """Return the means of the rows' losses over their negatives; 0 where there is none.

        Shapes:
            (R, C) -> (R,)
        """
        negatives = self.chosen(losses, block)
        return torch.where(negatives, losses, 0).sum(1) / negatives.sum(1).clamp(min=1)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of one column of a product of matrices, whose values are written over by each step after it.

    Args:
        own: (R, 1), the columns.
        left_out: (R, C) or (C,) bool, columns that do not take part, the own one aside; None where all do.
        more: (C,), what is added to the products of columns that are not the own one.
    """

    @staticmethod
    def forward(
        ctx: Any, mine: Tensor, others: Tensor, own: Tensor, left_out: Tensor | None, more: Tensor | None
    ) -> Tensor:
        values = mine @ others.T
        chosen = values.gather(1, own)
        if more is not None:
            values += more
        if left_out is not None:
            values.masked_fill_(left_out, -math.inf)
        if more is not None or left_out is not None:
            values.scatter_(1, own, chosen)
        largest = values.amax(1, keepdim=True)
        total = values.sub_(largest).exp_().sum(1, keepdim=True)
        ctx.save_for_backward(mine, others, own, values, total)
        return (total.log() + largest - chosen).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        mine, others, own, values, total = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        values = values.mul_(gradient / total).scatter_add_(1, own, -gradient)
        return values @ others, values.T @ mine, None, None, None


def _each_item_once(columns: Columns) -> Columns:
    """Return the first column of every item, with the number of its columns; the columns as they are where few repeat.

    An item's vector is the same in all of its columns, so that a product more says no more than their number.
    """
    ids = columns.rows.group
    assert ids is not None  # of candidates
    distinct, column_of, numbers = torch.unique(ids, return_inverse=True, return_counts=True)
    if 4 * len(distinct) > 3 * len(ids):
        return columns
    every = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(distinct, len(ids)).scatter_reduce_(0, column_of, every, "amin")
    is_there = columns.rows.is_there
    rows = Rows(columns.rows.target[first], None, None if is_there is None else is_there[first], distinct)
    once = columns.prediction[first]
    return dataclasses.replace(
        columns, prediction=once, rows=rows, column_of=column_of, log_count=numbers.to(once.dtype).log()
    )


def vector(outputs: Sequence[Output], name: str | None, part: str | None, *, where: str) -> Output:
    """Return the vector called `name`, or the one of a part of the model where the name is left out.

    Args:
        outputs: the model's.
        name: of an output.
        part: `user` or `item`; None takes any.
        where: the argument's place in the configuration, for messages.

    Raises:
        ConfigError: no such output, one of another kind, or several that could be meant.
    """
    wanted = "a vector of one number or more a row" if part is None else f"a vector of part '{part}'"
    if name is not None:
        found = find(outputs, name, where=where)
        if found.kind != "vector" or found.per != "row":
            raise ConfigError(f"'{where}': output '{name}' is of kind {found.kind}", expected=wanted)
        return found
    vectors = [o for o in outputs if o.kind == "vector" and o.per == "row" and part in (None, o.part)]
    if len(vectors) != 1:
        raise ConfigError(
            f"'{where}': the model has {len(vectors) or 'no'} such outputs",
            expected=f"{wanted}, or the name of one",
            got=", ".join(f"{o.name} ({o.kind}{f' of {o.part}' if o.part else ''})" for o in outputs) or "no output",
        )
    return vectors[0]
