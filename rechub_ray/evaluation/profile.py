"""Counts of an evaluation's predictions by their score: what calibration, ROC curves and the like are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.outputs import PAIR, Prediction
from rechub_ray.schema import Schema
from rechub_ray.world import World

BINS = 2000
MOST_RANKS = 1000
MOST_SEGMENTS = 64
_USUAL_SEGMENTS = 24
_MIDDLE = 8.0  # half of the bins lie between log-odds of -8 and 8, with more of them near 0
_LARGEST = float(np.arcsinh(1e9))


def segment_of(schema: Schema, wanted: str | None) -> str | None:
    """Return the feature by whose values an evaluation is divided: the wanted one, or the largest small vocabulary.

    Raises:
        ConfigError: `wanted` is no feature with one id a row.
    """
    sparse = {feature.name: feature for feature in schema.sparse}
    if wanted is not None:
        if wanted not in sparse:
            raise ConfigError(
                f"'report.segment': '{wanted}' is no feature with one id a row", hint=nearest(wanted, list(sparse))
            )
        return wanted
    small = [feature for feature in sparse.values() if 3 <= feature.vocab_size <= _USUAL_SEGMENTS]
    return max(small, key=lambda feature: feature.vocab_size).name if small else None


class Profile:
    """Adds up an evaluation's rows by label and score, in memory that does not depend on their number.

    For each label there are the sums of weights, weighted labels and weighted predictions over 2,000 bins of the score:
    the log-odds of a binary label, the value of a regression label, the log-odds of the likeliest class of a multiclass
    one (its label is then whether that class is right). Rows that lack the label, or whose prediction is NaN, do not
    count. Of a model for retrieval there is the number of rows by the rank of their item.

    Args:
        schema: has the labels, and the feature to divide by.
        predictions: by label, how the model's output is read.
        ranks: names of ranks among the outputs.
        segment: the feature by whose ids binary labels are divided: the 63 first ids, and the rest.
        device: where the rows are.
    """

    def __init__(
        self,
        schema: Schema,
        predictions: Mapping[str, Prediction],
        *,
        ranks: Sequence[str] = (),
        segment: str | None = None,
        device: torch.device,
    ) -> None:
        names = [feature.name for feature in schema.sparse]
        self._columns = [label.name for label in schema.labels]
        self._predictions = {
            name: one
            for name, one in predictions.items()
            if one.output.kind != "distribution" and one.output.per == "row"
        }
        self.segment = None if ranks else segment
        self._place = names.index(self.segment) if self.segment in names else None
        self.segments = 1
        if self._place is not None:
            self.segments = min(schema.sparse[self._place].vocab_size, MOST_SEGMENTS)
        self._first = bool(schema.labels) and bool(ranks)
        self._sums = {
            name: torch.zeros((3, self._parts(one) * BINS), dtype=torch.float64, device=device)
            for name, one in self._predictions.items()
        }
        self._ranks = {name: torch.zeros(MOST_RANKS + 1, dtype=torch.float64, device=device) for name in ranks}
        self.failure: str | None = None

    def _parts(self, prediction: Prediction) -> int:
        return self.segments if prediction.label.kind == "binary" else 1

    def reset(self) -> None:
        """Forget all rows."""
        for tensor in (*self._sums.values(), *self._ranks.values()):
            tensor.zero_()

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Take in one batch, without waiting for the device; after an error none is taken any more."""
        if self.failure is not None:
            return
        try:
            self._update(outputs, batch)
        except Exception as error:  # the evaluation is worth more than its picture
            self.failure = f"{type(error).__name__}: {error}"

    def _update(self, outputs: Outputs, batch: Batch) -> None:
        ones = torch.ones(batch.rows, dtype=torch.float64, device=batch.labels.device)
        weight = ones if batch.weight is None else batch.weight.double()
        part = None
        if self._place is not None:
            part = batch.features.sparse[:, self._place].clamp(max=self.segments - 1)
        for name, prediction in self._predictions.items():
            if prediction.output.name not in outputs:
                continue
            score, target = prediction.score(outputs).double(), batch.labels[:, self._columns.index(name)].double()
            if prediction.label.kind == "multiclass":
                likeliest = score.softmax(1).max(1)
                target = torch.where(target.isnan(), target, (likeliest.indices == target).double())
                score = likeliest.values.clamp(1e-12, 1 - 1e-12).logit()
            counts = weight * ~(score.isnan() | target.isnan())
            score, target = score.nan_to_num(), target.nan_to_num()
            is_value = prediction.label.kind == "regression"
            index = bins_of(score, is_value=is_value)
            if part is not None and prediction.label.kind == "binary":
                index = index + BINS * part
            sums = self._sums[name]
            for i, values in enumerate((counts, counts * target, counts * (score if is_value else score.sigmoid()))):
                sums[i].index_add_(0, index, values)
        for name, sums in self._ranks.items():
            rank = outputs[name]
            counts = torch.where(rank < 0, 0.0, weight)
            if self._first:
                counts = torch.where(batch.labels[:, 0] > 0, counts, 0.0)
            sums.index_add_(0, rank.clamp(0, MOST_RANKS), counts)

    def merge(self, world: World) -> None:
        """Add up the sums of all ranks; each one calls this once an evaluation."""
        for tensor in (*self._sums.values(), *self._ranks.values()):
            world.sum_(tensor)

    def summary(self) -> dict[str, Any]:
        """Return what a report is drawn from, as plain data: labels, segments, and ranks.

        A label's `bins` are (weight, weighted labels, weighted predictions) of those that are not empty, by rising
        score. `hits` of ranks are the rows whose item is among the first 1, 2, ... items, as shares.
        """
        labels, segments = {}, {}
        for name, prediction in self._predictions.items():
            sums = self._sums[name].view(3, -1, BINS).cpu().numpy()
            whole = sums.sum(1)
            if whole[0].sum() <= 0:
                continue
            kept = whole[:, whole[0] > 0].T
            labels[name] = {
                "kind": prediction.label.kind,
                "is_probability": prediction.output.name != PAIR,
                "bins": [[float(f"{value:.7g}") for value in row] for row in kept],
            }
            if self._place is not None and prediction.label.kind == "binary":
                segments[name] = [
                    {"id": i, "rows": float(part[0].sum()), "label": float(part[1].sum() / part[0].sum()),
                     "prediction": float(part[2].sum() / part[0].sum()), "auc": auc_of(part[0], part[1])}
                    for i, part in enumerate(sums.transpose(1, 0, 2)) if part[0].sum() > 0
                ]  # fmt: skip
        ranks = {}
        for name, counts in self._ranks.items():
            total = float(counts.sum())
            if total > 0:
                ranks[name] = {"rows": total, "hits": [round(x, 6) for x in (counts[:-1].cumsum(0) / total).tolist()]}
        found: dict[str, Any] = {"labels": labels, "ranks": ranks}
        if segments:
            found["segments"] = {
                "feature": self.segment,
                "last_is_rest": self.segments == MOST_SEGMENTS,
                "labels": segments,
            }
        if self.failure is not None:
            found["failure"] = self.failure
        return found


def bins_of(score: Tensor, *, is_value: bool) -> Tensor:
    """Return the bin of each score, rising with it, for scores of any size: log-odds, or values.

    Shapes:
        (B,) -> (B,) int64
    """
    score = score.clamp(-1e30, 1e30)
    share = score.asinh() / _LARGEST if is_value else score / (_MIDDLE + score.abs())
    return ((share.nan_to_num(0.0) + 1) * (BINS / 2)).long().clamp(0, BINS - 1)


def auc_of(weight: Any, positive: Any) -> float | None:
    """Return the area under the ROC curve of binned rows, ties within a bin counting half; None with one class.

    Args:
        weight: of the rows in each bin, by rising score.
        positive: of those with label 1.
    """
    negative = weight - positive
    below = np.cumsum(negative) - negative
    both = float(positive.sum() * negative.sum())
    return float((positive * (below + negative / 2)).sum()) / both if both > 0 else None
