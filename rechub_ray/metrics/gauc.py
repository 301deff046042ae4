"""AUC within groups (users, sessions), averaged over the groups."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.metrics.base import METRICS, Metric, State
from rechub_ray.metrics.pairs import count_pairs, scored_rows
from rechub_ray.schema import Schema

_SHOWN = 10  # groups at each end


@METRICS.register("gauc", "session_auc")
class GAUC(Metric):
    """Mean of each group's exact AUC, by its impressions or clicks or plainly; groups of one class are skipped.

    GAUC = sum_g n_g AUC_g / sum_g n_g over the groups with both classes. With sample weights, AUC_g is the weighted
    AUC and n_g the sum of the weights. Keeps 13 bytes a row (17 with weights) until `compute`, and then needs about 100
    a row on rank 0; see `auc`.

    Args:
        weighting: `impressions` (n_g is the number of rows), `clicks` (the number of rows with label 1) or `equal` (1:
            the plain mean over the groups).
        common: `output`, `label` and `where`, as in `Metric`.

    Raises:
        ConfigError: the schema has no group column.

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, arXiv:1706.06978, equation 8.
    """

    merging = {"score": "concat", "label": "concat", "weight": "concat", "group": "concat"}
    mode = "max"

    def __init__(
        self,
        schema: Schema,
        *,
        weighting: Literal["impressions", "clicks", "equal"] = "impressions",
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        if schema.group is None:
            raise ConfigError(
                "metric 'gauc' needs a group column (a user or session id) and the schema has none",
                hint="Name one as 'group' in the configuration of `rechub-ray prepare`, or leave 'gauc' out.",
            )
        self.weighting = weighting

    def update(self, outputs: Outputs, batch: Batch) -> State:
        assert batch.group is not None  # the schema has a group column
        rows = scored_rows(self.prediction(outputs), self.target(batch), batch)
        return {**rows, "group": batch.group.clone()}

    def compute(self, state: State) -> float:
        score, weight = state["score"], state["weight"]
        if not len(score) or bool(score.isnan().any()):
            return float("nan")
        pairs = count_pairs(score, state["label"], weight=weight if len(weight) else None, group=state["group"])
        both = (pairs.positives > 0) & (pairs.negatives > 0)
        auc = pairs.auc[both]
        if self.wants_groups:
            ids = torch.unique(state["group"])[both]
            self.groups = _extremes(ids, auc, pairs.positives[both], pairs.negatives[both])
        size = {
            "impressions": pairs.positives[both] + pairs.negatives[both],
            "clicks": pairs.positives[both],
            "equal": torch.ones_like(auc),
        }[self.weighting].double()
        return float((auc * size).sum() / size.sum())


def _extremes(group: Tensor, auc: Tensor, positives: Tensor, negatives: Tensor) -> list[dict[str, float]]:
    """Return the largest quarter of the groups' best and worst, at most 20: small ones are often 0 or 1 by chance."""
    size = positives + negatives
    large = size.argsort(descending=True, stable=True)[: max(len(size) // 4, min(len(size), 2 * _SHOWN))]
    order = large[auc[large].argsort(descending=True, stable=True)]
    if len(order) > 2 * _SHOWN:
        order = torch.cat([order[:_SHOWN], order[-_SHOWN:]])
    columns = [tensor[order].tolist() for tensor in (group, auc, size, positives)]
    return [dict(zip(("group", "auc", "rows", "positives"), row, strict=True)) for row in zip(*columns, strict=True)]
