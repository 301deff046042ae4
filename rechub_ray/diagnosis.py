"""Why a loss or a gradient is not finite: the loss terms, and the columns to blame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

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
    """The error to raise. Called on every rank alike, since the model may hold collectives.

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
    # on the ranks whose rows are harmless every column looks innocent: a column is to blame where removing it helps all
    helps = world.sum_(torch.tensor(fine)) == world.size
    return [name for name, help_ in zip(names, helps.tolist(), strict=True) if help_]


def _is_finite(model: nn.Module, forward: Callable[[Batch], LossTerms], batch: Batch) -> bool:
    model.zero_grad(set_to_none=True)
    total = forward(batch).total
    torch.autograd.backward(total)
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    values = [g._values() if g.is_sparse else g for g in gradients]
    result = bool(total.isfinite()) and all(bool(v.isfinite().all()) for v in values)
    model.zero_grad(set_to_none=True)
    return result


def _neutral_variants(schema: Schema, batch: Batch) -> Iterator[tuple[str, float | None, Batch]]:
    """For each column: its name, its largest magnitude (numeric ones), and the batch with it neutralised."""
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
    if isinstance(sequences, RaggedSequences):
        lengths = (sequences.offsets[1:] - sequences.offsets[:-1]).view(len(schema.sequences), batch.rows)
        for s, feature in enumerate(schema.sequences):
            kept = lengths.clone()
            kept[s] = 0
            first, last = int(sequences.offsets[s * batch.rows]), int(sequences.offsets[(s + 1) * batch.rows])
            values = torch.cat([sequences.values[:first], sequences.values[last:]])
            offsets = torch.cat([kept.new_zeros(1), kept.view(-1).cumsum(0)])
            changed_sequences = RaggedSequences(values, offsets)
            yield (
                feature.name,
                None,
                dataclasses.replace(batch, features=dataclasses.replace(features, sequences=changed_sequences)),
            )
