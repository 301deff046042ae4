"""Diagnosis of a run's numbers: why a loss is not finite, whether it diverges, which metrics are not defined."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from rechub_ray.batch import Batch, LossTerms, RaggedSequences
from rechub_ray.errors import TrainingError
from rechub_ray.schema import Schema
from rechub_ray.world import World


def explain_non_finite(
    model: nn.Module,
    schema: Schema,
    batch: Batch | None,
    forward: Callable[[Batch], LossTerms],
    *,
    world: World,
    step: int,
    learning_rates: list[float],
) -> TrainingError:
    """Return the error that explains a loss or gradient that is not finite, for the caller to raise.

    Every rank calls it alike, since the model may hold collectives. Without a batch, only the parameters are checked.

    A column is to blame when the loss and its gradient become finite once the column's values are neutral (zero, id 0,
    empty list). That takes one forward and backward pass a column, in a run that has ended anyway.
    """
    message = f"the loss or its gradient is not finite at step {step}"
    hint = "The last checkpoint is from before this. "
    rates = ", ".join(f"{lr:g}" for lr in learning_rates)
    if batch is None:
        broken = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
        return TrainingError(
            message, got=f"parameters not finite: {', '.join(broken[:5]) or 'none'}", hint=hint + _advice(rates)
        )
    terms = forward(batch)
    parts = ", ".join(f"{name} {float(value):.6g}" for name, value in terms.parts.items())
    blamed = _columns_to_blame(model, schema, batch, forward, world)
    if blamed:
        return TrainingError(
            f"{message} ({parts})",
            got=f"it is finite again without {' or without '.join(blamed)}",
            hint=f"{hint}Look at the values of that column (`rechub-ray prepare` can scale them: log1p, standardise).",
        )
    largest = max(
        ((float(p.detach().abs().max()), name) for name, p in model.named_parameters() if p.numel()), default=(0.0, "-")
    )
    return TrainingError(
        f"{message} ({parts})",
        got=f"no single column is to blame; the largest weight is {largest[0]:.3g} in {largest[1]}",
        hint=hint + _advice(rates),
    )


def _advice(rates: str) -> str:
    return f"Lower the learning rate (now {rates}) or set train.clip_norm, and resume."


def _columns_to_blame(
    model: nn.Module, schema: Schema, batch: Batch, forward: Callable[[Batch], LossTerms], world: World
) -> list[str]:
    names, fine = [], []
    for name, largest, neutral in _neutral_variants(schema, batch):
        names.append(f"'{name}'" + (f" (largest |value| {largest:.6g})" if largest is not None else ""))
        fine.append(float(_is_finite(model, forward, neutral)))
    # a rank whose rows are harmless is finite with all of them: a column is to blame where its removal helps all ranks
    helps = world.sum_(torch.tensor(fine)) == world.size
    return [name for name, help_ in zip(names, helps.tolist(), strict=True) if help_]


def _is_finite(model: nn.Module, forward: Callable[[Batch], LossTerms], batch: Batch) -> bool:
    model.zero_grad(set_to_none=True)
    total = forward(batch).total
    torch.autograd.backward(total)
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    result = bool(total.isfinite()) and all(bool(v.isfinite().all()) for v in values)
    model.zero_grad(set_to_none=True)
    return result


def _neutral_variants(schema: Schema, batch: Batch) -> Iterator[tuple[str, float | None, Batch]]:
    """Yield for each column its name, its largest magnitude (numeric ones), and the batch with it neutralised."""
    features = batch.features
    start = 0
    for dense in schema.dense:
        columns = slice(start, start + dense.dim)
        start += dense.dim
        changed = features.dense.clone()
        changed[:, columns] = 0
        largest = float(features.dense[:, columns].abs().max())
        yield dense.name, largest, dataclasses.replace(batch, features=dataclasses.replace(features, dense=changed))
    for i, sparse in enumerate(schema.sparse):
        changed = features.sparse.clone()
        changed[:, i] = 0
        yield sparse.name, None, dataclasses.replace(batch, features=dataclasses.replace(features, sparse=changed))
    sequences = features.sequences
    if isinstance(sequences, RaggedSequences) and batch.places is None:  # places are those of tokens that are there
        lengths = (sequences.offsets[1:] - sequences.offsets[:-1]).view(len(schema.sequences), features.rows)
        for s, feature in enumerate(schema.sequences):
            kept = lengths.clone()
            kept[s] = 0
            first, last = int(sequences.offsets[s * features.rows]), int(sequences.offsets[(s + 1) * features.rows])
            values = torch.cat([sequences.values[:first], sequences.values[last:]])
            offsets = torch.cat([kept.new_zeros(1), kept.view(-1).cumsum(0)])
            changed_sequences = RaggedSequences(values, offsets)
            yield (
                feature.name,
                None,
                dataclasses.replace(batch, features=dataclasses.replace(features, sequences=changed_sequences)),
            )


class Doubts:
    """Warns of suspicious numbers of a run, once for each kind.

    Args:
        schema: has the labels.
        say: takes one line.
    """

    def __init__(self, schema: Schema, say: Callable[[str], None]) -> None:
        classes = max((label.num_classes or 2 for label in schema.labels), default=2)
        self._constant, self._say = math.log(classes), say
        self._said: set[str] = set()
        self._least_loss = math.inf

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Take a validation's metrics; warn of undefined ones, and of a log loss far above a constant prediction's."""
        undefined = [key for key, value in metrics.items() if math.isnan(value)]
        if undefined:
            self._once(
                "undefined",
                f"val/{', val/'.join(undefined)}: not defined on the validation split (all rows of one class, or "
                "predictions that are not finite); null in files, and passed over by early stopping and schedules",
            )
        for key, value in metrics.items():
            if key.rpartition("/")[2] == "log_loss" and value > 3 * self._constant:
                self._diverged(
                    f"val/{key} is {value:,.4g}, that of a constant prediction is at most {self._constant:.2g}"
                )

    def trained(self, loss: float) -> None:
        """Take the mean loss since the last log point; warn where it rises by orders of magnitude."""
        if loss > 100 * max(self._least_loss, 1e-2):
            self._diverged(f"train/loss is {loss:,.4g} and was {self._least_loss:,.4g}")
        self._least_loss = min(self._least_loss, loss)

    def _diverged(self, how: str) -> None:
        self._once(
            "diverged", f"the run diverges: {how}. Lower the learning rates, or set train.clip_norm (1.0 for instance)"
        )

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._say(text)
