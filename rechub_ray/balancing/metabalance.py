"""MetaBalance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from rechub_ray.balancing.base import BALANCING, Balancing
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.layers.embedding import tables_of
from rechub_ray.schema import Label


@BALANCING.register("metabalance")
class MetaBalance(Balancing):
    """Gradients scaled towards the magnitude that the target task's has, for each shared parameter and each table.

    With m_t the moving average of the norm of task t's gradient, `m_t <- beta m_t + (1 - beta) |g_t|` from 0, the
    gradient of every other task becomes `r (m_target / m_t) g_t + (1 - r) g_t`, and they are added up. The target's
    gradient stays as it is. Each table of an embedding weight that several features share has norms of its own.

    Deviation from the paper: the factor is 1 where m_target or m_t is 0, so what the target does not reach is trained.

    Args:
        tasks: the labels that have losses, at least two.
        relax_factor: r in [0, 1]; 0 adds the gradients as they are, 1 makes the magnitudes equal.
        beta: of the moving averages, in [0, 1); 0 takes each step's norms.
        strategy: `A` scales only gradients that are larger than the target's, `B` only smaller ones, `C` both.
        target: the label whose performance counts; None takes the first.

    Raises:
        ConfigError: no task is called `target`.

    Reference: He et al., MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient Magnitudes of
    Auxiliary Tasks, arXiv 2203.06801, algorithm 1.
    """

    needs_gradients = True
    fewest_tasks = 2
    norms: Tensor

    def __init__(
        self,
        tasks: Sequence[Label],
        *,
        relax_factor: Annotated[float, Ge(0), Le(1)] = 0.7,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9,
        strategy: Literal["A", "B", "C"] = "C",
        target: str | None = None,
    ) -> None:
        super().__init__(tasks)
        names = [task.name for task in self.tasks]
        if target is not None and target not in names:
            raise ConfigError(f"'balancing.target': no task is called '{target}'", hint=nearest(target, names))
        self.relax_factor, self.beta, self.strategy = relax_factor, beta, strategy
        self._target = 0 if target is None else names.index(target)
        self._places: dict[str, slice] = {}
        self.register_buffer("norms", torch.zeros(0, len(names)))

    def bind(self, model: nn.Module) -> None:
        super().bind(model)
        for name, (bank, key) in tables_of(model).items():
            own = [table.rows.start for table in bank.tables.values() if table.weight == key]
            self.table_starts[name] = torch.tensor(sorted(own))
        count = 0
        for name, _ in model.named_parameters():
            self._places[name] = slice(count, count + (len(self.table_starts[name]) if name in self.tables else 1))
            count = self._places[name].stop
        self.norms = self.norms.new_zeros(count, len(self.tasks))

    @torch.no_grad()
    def coefficients(
        self, products: Mapping[str, Tensor], losses: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        result = {}
        for name, gram in products.items():
            norms = self.norms[self._places[name]]
            now = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
            norms.mul_(self.beta).add_((1 - self.beta) * now.reshape(norms.shape).to(norms))
            mine, target = norms.to(gram), norms[:, self._target, None].to(gram)
            scaled = (mine > 0) & (target > 0)
            if self.strategy != "C":
                scaled &= mine > target if self.strategy == "A" else mine < target
            ratios = torch.where(scaled, target / mine, 1)
            result[name] = (self.relax_factor * ratios + 1 - self.relax_factor).view(gram.shape[:-1])
        return result
