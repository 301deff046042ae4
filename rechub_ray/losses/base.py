"""The base of losses: a sum over rows, the count to divide it by, and how much of a step a loss must see at once."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.batch import Batch, Candidates, Outputs
from rechub_ray.errors import ConfigError, named
from rechub_ray.layers.gather import gather_rows
from rechub_ray.outputs import Link, Output, OutputKind, claim
from rechub_ray.registry import Registry
from rechub_ray.schema import Label, LabelKind, Schema
from rechub_ray.world import World

Scope = Literal["rows", "group", "batch"]
"""The rows that a loss must see at once: single ones, whole groups, or all rows of a step on all ranks."""


@dataclasses.dataclass(slots=True)
class Rows:
    """The data that a loss reads beside the prediction.

    Shapes:
        target: (B,) float32; 0 where the label is missing.
        weight: (B,) float32 >= 0, 0 where the label is missing; None where every row counts as 1.
        is_there: (B,) bool; None where no label is missing.
        group: (B,) int64.
    """

    target: Tensor
    weight: Tensor | None = None
    is_there: Tensor | None = None
    group: Tensor | None = None


class Loss(nn.Module, abc.ABC):
    """Base of all losses: a sum (`forward`) and what to divide it by (`count`).

    They are apart so that the mean is exact where a step's rows come in several parts, or lie on several workers. Rows
    whose label is missing are replaced here, before a subclass computes: NaN times 0 is NaN in backward.

    A subclass sets `label_kinds`, `heads` (the kinds of output that it reads; the first is the one that a model with
    free heads builds for it) and `link` (how such an output is served; None leaves that to other losses of the label).
    It sets `trains` to False where it makes no prediction of the label, so that the label needs another loss, and
    `needs_label` to False where it does without one in data that has none: every row counts then.

    Args:
        schema: has the labels.
        output: the model output that the loss reads; None takes the label's.
        label: the label; None takes the output's, or the schema's first.
        weight: factor of this loss in the sum, >= 0.
        learn_loss_weight: learn the factor instead: the loss counts as `c exp(-a) L + a / 2`, with a free number a that
            starts at 0, and `weight` is left out (Kendall et al., arXiv 1705.07115, with a = log sigma^2).

    Attributes:
        scope: see `Scope`; a subclass of `PairLoss` sets it in its constructor.
        learned_factor: c: 1/2 for a squared error, else 1.

    Raises:
        SchemaError: unknown label.
        ConfigError: the label is not of a kind that the loss learns.
    """

    registered_name: ClassVar[str]
    label: str | None
    needs_label: ClassVar[bool] = True
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("binary",)
    heads: tuple[OutputKind, ...] = ("logit",)
    link: Link | None = "sigmoid"
    learned_factor: ClassVar[float] = 1.0
    trains: ClassVar[bool] = True
    scope: Scope = "rows"

    def __init__(
        self,
        schema: Schema,
        *,
        output: str | None = None,
        label: str | None = None,
        weight: Annotated[float, Ge(0)] = 1.0,
        learn_loss_weight: bool = False,
    ) -> None:
        super().__init__()
        self._schema, self._named, self.output, self.weight = schema, label, output, weight
        self.log_variance = nn.Parameter(torch.zeros(())) if learn_loss_weight else None
        if label is not None or (output is None and self.needs_label):  # else the output says which, in `bind`
            self.use(schema.label(label).name)

    def bind(self, outputs: Sequence[Output], *, where: str) -> None:
        """Settle which output and label the names mean.

        Args:
            outputs: the model's.
            where: the loss's place in the configuration, for messages.

        Raises:
            ConfigError: the names do not fit the model or each other, or the output is not of a kind that it reads.
        """
        output, label = claim(outputs, self._schema, output=self.output, label=self._named, where=where)
        self.use(label)
        if output.kind not in self.heads:
            raise ConfigError(
                f"'{where}': loss '{self.registered_name}' cannot read output '{output.name}' of kind {output.kind}",
                expected=f"an output of kind {' or '.join(self.heads)}",
                hint="A model with an argument `heads` builds another head for a label.",
            )
        self.output = output.name

    def use(self, label: str) -> None:
        """Take the label called `label` as the one to learn.

        Raises:
            SchemaError: unknown label.
            ConfigError: it is not of a kind that the loss learns.
        """
        found = self._schema.label(label)
        if found.kind not in self.label_kinds:
            raise ConfigError(
                f"loss '{self.registered_name}' cannot learn label '{found.name}'",
                expected=f"a {' or '.join(self.label_kinds)} label",
                got=f"kind: {found.kind}",
            )
        self.label = found.name

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        """Return the (weighted) sum over one batch's rows, a scalar, or (K,) sums whose means are added up.

        Args:
            outputs: the model's, in float32.
            batch: this rank's rows.
            world: the ranks that hold the rest of the step; only losses of scope `batch` ask for it.
        """
        return self.total(outputs[self.output or "logit"], self.rows(batch))

    def draw(self, generator: torch.Generator) -> None:
        """Draw the random numbers of one step, before its rows come; here there are none.

        Args:
            generator: a function of seed and step alone, equal on every rank.
        """
        return

    def weighted(self, value: Tensor, share: Tensor | float) -> Tensor:
        """Return what the loss adds to its task's.

        Args:
            value: the loss, a scalar, as this part of this rank contributes to the step's.
            share: this part's share in the rows of the step; the mean over ranks of all parts' sums is 1.
        """
        if self.log_variance is None:
            return self.weight * value
        return self.learned_factor * torch.exp(-self.log_variance) * value + share * self.log_variance / 2

    @torch.no_grad()
    def learned_weight(self) -> Tensor | None:
        """Return the factor that was learned so far, a scalar; None where `weight` is the factor."""
        return None if self.log_variance is None else self.learned_factor * torch.exp(-self.log_variance)

    @abc.abstractmethod
    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        """Return the (weighted) sum over the rows, a scalar or (K,); of a shape that one row more can be added to."""

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        """Return the divisor of the sum; here the number of rows whose weight is not zero and whose label is there.

        A float where it depends on the batch's size only, else a float32 tensor: a scalar, or (K,) for K sums.
        """
        weight = self.rows(batch).weight
        return float(batch.rows) if weight is None else (weight != 0).sum().float()

    def rows(self, batch: Batch) -> Rows:
        """Return this loss's labels and weights of a batch, with weight 0 where the label is missing.

        A loss without a label takes every row for one of label 1.
        """
        if self.label is None:
            return Rows(batch.labels.new_ones(batch.rows), batch.weight, None, batch.group)
        return self.column(batch, self._schema.target(self.label))

    def column(self, batch: Batch, column: Label) -> Rows:
        """Return a label column of a batch as `rows` does."""
        target = batch.labels[:, self._schema.targets.index(column)]
        if not column.optional:
            return Rows(target, batch.weight, None, batch.group)
        is_there = ~target.isnan()
        weight = is_there.float() if batch.weight is None else torch.where(is_there, batch.weight, 0)
        return Rows(torch.where(is_there, target, 0), weight, is_there, batch.group)


@dataclasses.dataclass(slots=True)
class RowNegatives:
    """The negatives that each of this rank's rows has for itself.

    Args:
        ids: theirs; -1 where a row has fewer than K.
        places: of their vectors, counted from the first after the columns of all rows; -1 or less where there is none.
        are_all: whether rows have no other negatives.

    Shapes:
        (B, K) each
    """

    ids: Tensor
    places: Tensor
    are_all: bool

    @classmethod
    def of(cls, candidates: Candidates, rows: int) -> RowNegatives:
        """Return those of candidates that have them, of a batch of `rows` rows."""
        listed = candidates.listed
        assert listed is not None
        ids = torch.where(listed < 0, -1, candidates.ids[listed.clamp(min=0)])
        return cls(ids, listed - rows - (candidates.drawn or 0), not candidates.is_shared)

    def are_negatives(self, own: Tensor) -> Tensor:
        """Return which of them are negatives, (B, K) bool, of the ids of the rows' own items, (B,)."""
        return (self.ids >= 0) & (self.ids != own.unsqueeze(1))

    def size(self, columns: int, width: int) -> int:
        """Return how many numbers the similarities of a row take to compute, with vectors of `width`."""
        return (0 if self.are_all else columns) + self.ids.shape[1] * (width + 1)


@dataclasses.dataclass(slots=True)
class Columns:
    """The rows that this rank's rows are compared with: those of its groups, or of the whole step.

    Args:
        prediction: theirs.
        rows: their labels, weights, groups.
        first: place of this rank's first row among them.
        world: the ranks that they were gathered from; None where they are this rank's own.
        listed: the negatives of single rows, whose predictions come after those of the columns; None without any.
        column_of: int64, the column of each row of `first` and after; None where columns are the rows themselves.
        log_count: of a column that stands for several, the logarithm of their number; None where none does.

    Shapes:
        column_of (rows of the step,), log_count (C,)
    """

    prediction: Tensor
    rows: Rows
    first: int = 0
    world: World | None = None
    listed: RowNegatives | None = None
    column_of: Tensor | None = None
    log_count: Tensor | None = None

    @property
    def ranks(self) -> int:
        """The number of ranks that the rows come from."""
        return 1 if self.world is None else self.world.size

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over those ranks, in place."""
        return tensor if self.world is None else self.world.sum_(tensor)


class PairLoss(Loss):
    """Base of losses that compare rows: with the others of their group, or with all rows of the step.

    In scope `group` a part of a step holds whole groups (`data.group_by`), so that sums and counts add up as those of
    rows do. In scope `batch` each rank compares its own rows with the columns of all ranks, gathered once.
    """

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        rows = self.rows(batch)
        prediction = outputs[self.output or "logit"]
        return self.total_over(prediction, rows, self._columns(prediction, rows, world))

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        rows = self.rows(batch)
        return self.count_over(rows, self._columns(rows.target, rows, world))

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return self.total_over(prediction, rows, Columns(prediction, rows))

    @abc.abstractmethod
    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        """Return the sum of this rank's rows against the columns, a scalar."""

    @abc.abstractmethod
    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        """Return the divisor of the sum, a scalar float32 tensor; `columns.prediction` must not be read."""

    def _columns(self, prediction: Tensor, rows: Rows, world: World | None) -> Columns:
        if self.scope != "batch" or world is None or world.size == 1:
            return Columns(prediction, rows)
        whole, first = gather_rows(world, prediction)
        theirs = [
            None if mine is None else gather_rows(world, mine)[0]
            for mine in (rows.target, rows.weight, rows.is_there, rows.group)
        ]
        target, weight, is_there, group = theirs
        assert target is not None
        return Columns(whole, Rows(target, weight, is_there, group), first, world)


def weighted_sum(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the sum of (B,) values times their weights: scaling all weights by c scales it by c."""
    return values.sum() if weight is None else (values * weight).sum()


LOSSES: Registry[Loss] = Registry("loss", __package__)


def build_losses(nodes: Sequence[Any], schema: Schema) -> list[Loss]:
    """Return the losses of a configuration's list.

    Args:
        nodes: `{name: bce, <arguments>}` each.
        schema: has the labels.

    Raises:
        ConfigError: unknown loss, argument or label; names its place in the list.
    """
    losses = []
    for i, node in enumerate(nodes):
        with named(f"losses.{i}"):
            losses.append(LOSSES.build(node, schema, where=f"losses.{i}"))
    return losses
