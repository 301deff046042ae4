"""The task that is optimised, as one module: a model, its losses, and the balancing between its labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.balancing import BALANCING, Balancing
from rechub_ray.batch import Batch, Features, LossTerms, Outputs, PaddedSequences
from rechub_ray.device import autocast
from rechub_ray.errors import ConfigError, TrainingError
from rechub_ray.gradients import Averaged, Gradients, merged, products
from rechub_ray.losses import LOSSES, Loss, build_losses
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.models import Model
from rechub_ray.outputs import Link, check_outputs, output_of, predictions, untrained_hint
from rechub_ray.schema import Schema
from rechub_ray.world import World

MODEL = "model."
"""Prefix of the model's parameters among a task's; patterns and checkpoints leave it out."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepSize:
    """The divisors of one optimizer step's losses, the same for any number of parts that its rows come in.

    Args:
        counts: one a loss, or (K,) of its K sums, over all parts and ranks, divided by the number of ranks.
        rows: of all parts: this rank's, or, where ranks differ in number, those of all ranks, divided like the counts.
    """

    counts: list[Tensor | float]
    rows: Tensor | float


class Task(nn.Module):
    """A model with its losses and balancing: optimised, averaged, saved, resumed and cloned as one.

    A label with losses is a task; its loss is `L_t = sum_k weight_k * sum_k(rows) / count_k` over them. A loss
    may learn its weight (`learn_loss_weight`). What is minimised is the sum of the tasks' losses, or what `balancing`
    makes of them, plus the model's own losses.

    Each loss is divided by its count over all ranks, seen from one rank: `count / world.size`. So averaging the
    ranks' gradients gives the global batch's exactly, also where ranks hold different numbers of rows that count.
    Likewise the totals of a step's parts, each with the step's size, add up to the whole batch's. A count of zero gives
    a loss of zero. A loss without a label belongs to no task and is added to the sum, as the model's own are. Losses of
    scope `batch` compare a rank's rows with those of all ranks, and take no parts.

    Args:
        model: what is trained.
        schema: has the labels.
        losses: `{name: bce, <arguments>}` each.
        balancing: `{name: uwl, <arguments>}`; None adds the tasks' losses up.
        world: the ranks that train together; None takes the current ones.
        parts: forward passes a step (`train.accumulate_steps`).
        grouped: whether a step's parts hold whole groups (`data.group_by`); ranks' rows may differ then.
        alone: whether rows have negatives of their own alone, so that losses of two towers compare no rows.
        precision: of the forward pass, `float32` or `bfloat16`; losses are always float32.

    Attributes:
        names: the losses' keys in `LossTerms.parts`: `bce`, or `bce/<label>` where the schema has several labels; the
            second of that name is `bce_2`. Parts are before `weight`.

    Raises:
        ConfigError: unknown loss or argument; a loss that does not fit the model or its label; a label that no loss
            trains; losses of one label that want different links; a loss whose scope the run does not give.
        SchemaError: unknown label.
    """

    def __init__(
        self,
        model: Model,
        schema: Schema,
        losses: Sequence[Any],
        balancing: Any = None,
        *,
        world: World | None = None,
        parts: int = 1,
        grouped: bool = False,
        alone: bool = False,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.model, self.world, self.precision = model, world or World.current(), precision
        self._schema, self._grouped, self._is_checked = schema, grouped, False
        built = build_losses(losses, schema)
        for i, loss in enumerate(built):
            loss.bind(model.outputs, where=f"losses.{i}")
            _check_scope(loss, f"losses.{i}", parts=parts, grouped=grouped, alone=alone)
        self.losses = nn.ModuleList(built)
        self.own_losses = tuple(output.name for output in model.outputs if output.kind == "loss")
        self._has_own = bool(self.own_losses) or any(loss.label is None for loss in built)
        trained = {loss.label for loss in built if loss.trains and loss.label is not None}
        self.labels = tuple(label for label in schema.labels if label.name in trained)
        self.names: list[str] = []
        for loss in built:
            is_one_of_several = len(schema.labels) > 1 and loss.label is not None
            name = f"{loss.registered_name}/{loss.label}" if is_one_of_several else loss.registered_name
            same = sum(other == name or other.startswith(f"{name}_") for other in self.names)
            self.names.append(f"{name}_{same + 1}" if same else name)
        self._check(trained)
        self.links = links_of(built)
        self.balancing: Balancing | None = None
        self._watched: tuple[str, ...] = ()
        if balancing is not None:
            self.balancing = BALANCING.build(balancing, self.labels, where="balancing")
            self.balancing.bind(model)
            if self.balancing.watches:
                self._watched = tuple(self.balancing.watched(shared_parameters(model)))

    def _check(self, trained: set[str]) -> None:
        if not self.names and not self.own_losses:
            raise ConfigError("'losses' is empty", hint=f"Known: {', '.join(LOSSES.names())}.")
        for name in set(self.own_losses) & set(self.names):
            raise ConfigError(f"the model's own loss '{name}' has the name of a loss", got=name)
        for label in self._schema.labels:
            if self.names and label.name not in trained:
                hint = untrained_hint(self._schema, self.model.outputs)
                if output_of(self.model.outputs, self._schema, label.name) is not None:
                    rest = [x.name for x in self._schema.labels if x.name in trained]
                    hint = f"Add a loss with label: {label.name}, or leave the label out with data.labels={rest}."
                raise ConfigError(f"'losses': no loss trains label '{label.name}'", hint=hint)

    def objective_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of losses and balancing, by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith(MODEL) and p.requires_grad}

    def objective_state(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of losses and balancing that a checkpoint holds, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(MODEL)}

    def load_objective_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `objective_state` returned.

        Raises:
            ConfigError: the names or shapes are others.
        """
        mine = self.objective_state()
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in state.items()}:
            raise ConfigError(
                "the checkpoint's state of losses and balancing does not fit this run's",
                expected=", ".join(sorted(mine)) or "none",
                got=", ".join(sorted(state)) or "none",
            )
        with torch.no_grad():
            for name, value in state.items():
                mine[name].copy_(value)

    def loss_weights(self) -> dict[str, float]:
        """Return the factors that balancing or `learn_loss_weight` give, by `task_<i>` or loss, for the log."""
        factors = self.balancing.weights() if self.balancing is not None else None
        found = {f"task_{i}": factor for i, factor in enumerate([] if factors is None else factors.tolist())}
        for name, loss in zip(self.names, self._losses(), strict=True):
            learned = loss.learned_weight()
            if learned is not None:
                found[name] = learned.item()
        return found

    def size(self, parts: Sequence[Batch]) -> StepSize:
        """Return the size of the step whose rows are those of `parts`; called alike on every rank."""
        counts: list[Tensor | float] = [
            sum((loss.count(part, self.world) for part in parts), start=0.0) for loss in self._losses()
        ]
        counts.append(float(sum(part.rows for part in parts)))
        if (self._grouped or parts[0].places is not None) and self.world.size > 1:  # ranks differ in rows
            like = parts[0].labels
            counts = [count if isinstance(count, Tensor) else like.new_tensor(count) for count in counts]
        data_dependent = [count for count in counts if isinstance(count, Tensor)]
        if data_dependent:
            flat = torch.cat([count.reshape(-1) for count in data_dependent])
            shared = self.world.sum_(flat) / self.world.size
            # a count of zero comes with a sum of zero
            each = iter(torch.split(torch.where(shared > 0, shared, 1), [count.numel() for count in data_dependent]))
            counts = [next(each).view_as(count) if isinstance(count, Tensor) else count for count in counts]
        *counts, rows = [count if isinstance(count, Tensor) else max(count, 1.0) for count in counts]
        return StepSize(counts, rows)

    def forward(self, batch: Batch, size: StepSize | None = None) -> LossTerms:
        """Return the loss of this rank's rows; with `size`, the batch's share in that step's loss."""
        size = size or self.size([batch])
        tasks, own, parts = self._terms(batch, size)
        return LossTerms(self._combined(tasks, batch.rows / size.rows) + own, parts)

    def backward(self, parts: Sequence[Batch], gradients: Gradients, *, seed: int) -> tuple[LossTerms, Averaged]:
        """Compute the losses of one step and their one gradient, averaged over ranks.

        Args:
            parts: this rank's rows of the step.
            gradients: averages over ranks; its parameters have no gradients yet.
            seed: of random numbers of losses and balancing: a function of seed and step, equal on every rank.

        Returns:
            The losses of all parts (detached), and the averaged gradient.

        Raises:
            TrainingError: nothing that is trained takes part in the losses.
        """
        generator = torch.Generator().manual_seed(seed ^ 1)  # not the numbers that balancing gets
        for loss in self._losses():
            loss.draw(generator)
        if self.balancing is not None:
            self.balancing.draw(torch.Generator().manual_seed(seed ^ 2))
        size = self.size(parts)
        if self.balancing is not None and self.balancing.needs_gradients:
            return self._balanced(parts, size, gradients, self.balancing, seed)
        terms = []
        seen = _Seen([self.model.get_parameter(name) for name in self._watched], len(self.labels))
        for part in parts:
            tasks, own, values = self._terms(part, size)
            seen.add(tasks)
            total = self._combined(tasks, part.rows / size.rows) + own
            if not total.requires_grad:
                raise TrainingError("no parameter that is trained takes part in the losses", hint="See train.freeze.")
            torch.autograd.backward(total)
            terms.append(LossTerms(total.detach(), values))
        if self.balancing is not None and self._watched:
            self.balancing.observe(*seen.products(self.world))
        return _added(terms), gradients.average()

    def _balanced(
        self, parts: Sequence[Batch], size: StepSize, gradients: Gradients, balancing: Balancing, seed: int
    ) -> tuple[LossTerms, Averaged]:
        """Do one backward a task (and one for the model's own losses), then merge the gradients into one."""
        count = len(self.labels) + self._has_own
        taken: list[dict[str, Tensor]] = [{} for _ in range(count)]
        terms, totals = [], torch.zeros(len(self.labels), device=parts[0].labels.device)
        for part in parts:
            tasks, own, values = self._terms(part, size)
            roots = [*tasks.unbind(), *([own] if self._has_own else [])]
            for i, root in enumerate(roots):
                if not root.requires_grad:  # all that it is computed from is frozen
                    continue
                gradients.give(taken[i])
                torch.autograd.backward(root, retain_graph=i < count - 1)
                taken[i] = gradients.take()
            terms.append(LossTerms((tasks.sum() + own).detach(), values))
            totals += tasks.detach()
        averaged = gradients.average_each(taken)
        of_tasks = averaged[: len(self.labels)]
        names = [name for name in _shared(of_tasks) if not name.startswith(("losses.", "balancing."))]
        generator = torch.Generator().manual_seed(seed)
        losses = self.world.sum_(totals) / self.world.size
        gram = products(of_tasks, names, balancing.table_starts)
        coefficients = balancing.coefficients(gram, losses, generator)
        if self._has_own:
            coefficients = {name: nn.functional.pad(c, (0, 1), value=1.0) for name, c in coefficients.items()}
        return _added(terms), merged(averaged, coefficients, balancing.table_starts)

    def _terms(self, batch: Batch, size: StepSize) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the tasks' losses (T,), the sum of those of no task, and all parts by name (detached)."""
        items = batch.candidates
        with autocast(batch.labels.device, self.precision):
            inputs = (batch.features,) if items is None else (batch.features, items.features)
            outputs = self.model(*inputs) if batch.places is None else self.model(*inputs, batch.places)
        outputs = {name: value.float() for name, value in outputs.items()}
        if not self._is_checked:
            count = None if items is None else len(items.ids)
            check_outputs(self.model.outputs, outputs, batch.rows, model=type(self.model).__name__, items=count)
            self._is_checked = True
        values = [
            (loss(outputs, batch, self.world) / count).sum()
            for loss, count in zip(self._losses(), size.counts, strict=True)
        ]
        share = batch.rows / size.rows  # the model's own losses are means already
        own = {name: outputs[name] * share for name in self.own_losses}
        zero = torch.zeros((), device=batch.labels.device)
        alone = [x.weighted(v, share) for x, v in zip(self._losses(), values, strict=True) if x.label is None]
        tasks = [
            torch.stack(
                [x.weighted(v, share) for x, v in zip(self._losses(), values, strict=True) if x.label == label.name]
            )
            for label in self.labels
        ]
        totals = torch.stack([task.sum() for task in tasks]) if tasks else zero.new_zeros(0)
        parts = {**dict(zip(self.names, values, strict=True)), **own}
        return totals, sum([*own.values(), *alone], start=zero), {name: value.detach() for name, value in parts.items()}

    def _combined(self, tasks: Tensor, share: Tensor | float) -> Tensor:
        return tasks.sum() if self.balancing is None else self.balancing.combine(tasks, share)

    def _losses(self) -> Iterator[Loss]:
        return (loss for loss in self.losses if isinstance(loss, Loss))


class _Seen:
    """The gradients of the tasks' losses of a few parameters, added up over the parts of a step.

    Args:
        parameters: none where nothing is watched.
        tasks: their number, T.
    """

    def __init__(self, parameters: Sequence[Tensor], tasks: int) -> None:
        self._parameters = parameters
        count = sum(parameter.numel() for parameter in parameters)
        self._sums = torch.zeros(tasks, count + 1, device=parameters[0].device) if parameters else None

    def add(self, losses: Tensor) -> None:
        """Add the gradients of one part's losses (T,), whose graph is kept."""
        if self._sums is None:
            return
        for mine, loss in zip(self._sums, losses, strict=True):
            found = torch.autograd.grad(loss, self._parameters, retain_graph=True, materialize_grads=True)
            mine[:-1] += torch.cat([gradient.flatten() for gradient in found])
            mine[-1] += loss.detach()

    def products(self, world: World) -> tuple[Tensor, Tensor]:
        """Return the inner products (T, T), in float64, of the averages over ranks, and the losses (T,)."""
        assert self._sums is not None
        sums = world.sum_(self._sums) / world.size
        flat = sums[:, :-1].double()
        return flat @ flat.T, sums[:, -1]


def links_of(losses: Sequence[Loss]) -> dict[str, Link]:
    """Return how each label's output is served, as far as its losses say.

    Raises:
        ConfigError: two losses of one label want different links.
    """
    links: dict[str, Link] = {}
    by: dict[str, str] = {}
    for i, loss in enumerate(losses):
        if loss.link is None or loss.label is None:
            continue
        if links.setdefault(loss.label, loss.link) != loss.link:
            raise ConfigError(
                f"'losses.{i}': '{loss.registered_name}' and '{by[loss.label]}' read the output of label "
                f"'{loss.label}' in different ways, so it could not be served",
                got=f"{loss.link} and {links[loss.label]}",
                hint="Give the label one of them.",
            )
        by.setdefault(loss.label, loss.registered_name)
    return links


def shared_task_layers(model: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that several of the model's labels are computed from, and those that one alone is.

    Args:
        model: with an output for each of several labels; its frozen parameters are in neither list.

    Example:
        >>> shared_params, task_params = shared_task_layers(model)  # doctest: +SKIP
    """
    named, times = dict(model.named_parameters()), _labels_reached(model)
    shared = [named[name] for name, labels in times.items() if labels > 1]
    return shared, [named[name] for name, labels in times.items() if labels == 1]


def shared_parameters(model: Model) -> list[str]:
    """Return the names of the parameters that two or more of the model's labels are computed from.

    Args:
        model: with an output for each of several labels.
    """
    return [name for name, labels in _labels_reached(model).items() if labels > 1]


def _labels_reached(model: Model) -> dict[str, int]:
    """Return by parameter how many labels are computed from it, by differentiating each label's output on one row."""
    features = _example(model.schema, next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        outputs: Outputs = model(features)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        reached: dict[str, int] = {}
        for prediction in predictions(model.outputs, model.schema).values():
            total = outputs[prediction.output.name].sum()
            if not total.requires_grad:
                continue
            found = torch.autograd.grad(total, [p for _, p in named], retain_graph=True, allow_unused=True)
            for (name, _), gradient in zip(named, found, strict=True):
                reached[name] = reached.get(name, 0) + (gradient is not None)
    finally:
        model.train(was_training)
    return reached


def _example(schema: Schema, device: torch.device) -> Features:
    """Return one row of ids and values 0, with one id in each sequence."""
    ids = torch.zeros((1, 1), dtype=torch.int64, device=device)
    return Features(
        ids.expand(1, len(schema.sparse)),
        torch.zeros((1, schema.dense_dim), device=device),
        PaddedSequences(tuple(ids for _ in schema.sequences)) if schema.sequences else None,
    )


def _check_scope(loss: Loss, where: str, *, parts: int, grouped: bool, alone: bool) -> None:
    if loss.scope == "batch" and parts > 1 and not (alone and isinstance(loss, TowerLoss)):
        raise ConfigError(
            f"'{where}': loss '{loss.registered_name}' compares all rows of a step, which {parts} accumulated parts "
            "do not hold at once",
            expected="train.accumulate_steps=1",
            hint="A larger data.batch_size, or more workers, give it as many rows."
            + (
                " With `negatives` of single rows alone, as uniform_per_row, rows do not meet."
                if isinstance(loss, TowerLoss)
                else ""
            ),
        )
    if loss.scope == "group" and not grouped:
        raise ConfigError(
            f"'{where}': loss '{loss.registered_name}' compares the rows of a group, and steps hold no whole groups",
            expected="data.group_by=true",
        )


def _shared(gradients: Sequence[Averaged]) -> list[str]:
    """Return the names of the parameters that took part in the losses of two or more tasks."""
    names = [*gradients[0].dense, *gradients[0].rows]
    return [name for name in names if sum(name in mine.reached for mine in gradients) > 1]


def _added(terms: Sequence[LossTerms]) -> LossTerms:
    total = torch.stack([term.total for term in terms]).sum()
    names = terms[0].parts
    return LossTerms(total, {name: torch.stack([term.parts[name] for term in terms]).sum() for name in names})
