"""What training minimises: the sum of the losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.batch import Batch, LossTerms, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, Loss
from rechub_ray.schema import Schema
from rechub_ray.world import World

EXTRA = "loss/"
"""Prefix of outputs that are losses themselves: scalars, means already, added as they are (parts by their rows)."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepSize:
    """What the losses of one optimizer step are divided by, however many parts its rows come in.

    Args:
        counts: one a loss, over all parts and ranks, seen from one rank (divided by the number of ranks).
        rows: of all parts; this rank's, or where ranks differ in them all ranks', divided like the counts.
    """

    counts: list[Tensor | float]
    rows: Tensor | float


class Objective(nn.Module):
    """Weighted sum of losses: `total = sum_k weight_k * sum_k(rows) / count_k + sum of the model's own losses`.

    Each loss is divided by its count over all ranks, seen from one rank: `count * 1 / world.size`. So averaging the
    ranks' totals, or their gradients, gives the global batch's mean exactly, also where ranks hold different numbers
    of rows that count. Likewise the totals of a step's parts, each with the step's size, add up to the whole batch's.
    A count of zero gives a loss of zero.

    Args:
        schema: has the labels.
        loss_nodes: `{name: bce, <arguments>}` each.
        world: the ranks that train together; None takes the current ones.
        equal_rows: every rank has as many rows in a step as the others, so that what depends on their number only
            need not be added up over the ranks. False with whole groups (`data.group_by`).

    Attributes:
        names: the losses' keys in `LossTerms.parts`: `bce`, or `bce/<label>` where the schema has several labels; the
            second of that name is `bce_2`. Parts are before `weight`; the model's own ones have the name behind
            `loss/`.

    Raises:
        ConfigError: unknown loss or argument.
        SchemaError: unknown label.
    """

    def __init__(
        self, schema: Schema, loss_nodes: Sequence[Any], *, world: World | None = None, equal_rows: bool = True
    ) -> None:
        super().__init__()
        self.world, self.equal_rows = world or World.current(), equal_rows
        self.losses = nn.ModuleList(
            LOSSES.build(node, schema, where=f"losses.{i}") for i, node in enumerate(loss_nodes)
        )
        self.names: list[str] = []
        for loss in self._losses():
            name = f"{loss.registered_name}/{loss.label}" if len(schema.labels) > 1 else loss.registered_name
            same = sum(other == name or other.startswith(f"{name}_") for other in self.names)
            self.names.append(f"{name}_{same + 1}" if same else name)

    def check(self, output_names: tuple[str, ...]) -> None:
        """ConfigError when a loss reads what the model does not produce, or when there is nothing to minimise."""
        for i, loss in enumerate(self._losses()):
            loss.check(output_names, where=f"losses.{i}")
        extra = [name.removeprefix(EXTRA) for name in output_names if name.startswith(EXTRA)]
        if not self.names and not extra:
            raise ConfigError("'losses' is empty", hint=f"Known: {', '.join(LOSSES.names())}.")
        for name in set(extra) & set(self.names):
            raise ConfigError(f"the model's own loss '{EXTRA}{name}' has the name of a loss", got=name)

    def size(self, parts: Sequence[Batch]) -> StepSize:
        """The size of the step whose rows are those of `parts`; called alike on every rank."""
        counts: list[Tensor | float] = [sum((loss.count(part) for part in parts), start=0.0) for loss in self._losses()]
        counts.append(float(sum(part.rows for part in parts)))
        if not self.equal_rows and self.world.size > 1:
            like = parts[0].labels
            counts = [count if isinstance(count, Tensor) else like.new_tensor(count) for count in counts]
        data_dependent = [count for count in counts if isinstance(count, Tensor)]
        if data_dependent:
            shared = self.world.sum_(torch.stack(data_dependent)) / self.world.size
            # a count of zero comes with a sum of zero
            each = iter(torch.where(shared > 0, shared, 1))
            counts = [next(each) if isinstance(count, Tensor) else count for count in counts]
        *counts, rows = [count if isinstance(count, Tensor) else max(count, 1.0) for count in counts]
        return StepSize(counts, rows)

    def forward(self, outputs: Outputs, batch: Batch, size: StepSize | None = None) -> LossTerms:
        """The loss of this rank's rows (outputs in float32); with `size` the batch's share in that step's loss."""
        size = size or self.size([batch])
        values = [loss(outputs, batch) / count for loss, count in zip(self._losses(), size.counts, strict=True)]
        share = batch.rows / size.rows  # the model's own losses are means already
        extra = {name.removeprefix(EXTRA): value * share for name, value in outputs.items() if name.startswith(EXTRA)}
        weighted = [loss.weight * value for loss, value in zip(self._losses(), values, strict=True)]
        total = torch.stack([*weighted, *extra.values()]).sum()
        parts = {**dict(zip(self.names, values, strict=True)), **extra}
        return LossTerms(total, {name: value.detach() for name, value in parts.items()})

    def _losses(self) -> list[Loss]:
        return [loss for loss in self.losses if isinstance(loss, Loss)]
