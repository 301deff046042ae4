"""The gradients between backward and the optimizers' step: averaged over ranks, penalised, clipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rechub_ray.cpu import coordinates
from rechub_ray.errors import TrainingError
from rechub_ray.layers.embedding import tables_of
from rechub_ray.layers.rows import RowGradient, coalesce
from rechub_ray.regularization import Regularization, embedding_weights
from rechub_ray.world import World


@dataclasses.dataclass
class Averaged:
    """Gradients averaged over ranks, the same bits on every rank.

    Args:
        dense: by parameter; zeros where it took no part.
        rows: by table, the distinct rows in ascending order and their gradients.
        reached: the parameters that took part.
    """

    dense: dict[str, Tensor]
    rows: dict[str, RowGradient]
    reached: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Clip:
    """The bounds of some parameters' gradients.

    Args:
        names: the parameters.
        norm: largest norm of all their gradients together, > 0; None does not bound it.
        value: largest absolute value of an entry, > 0; None does not bound it. Entries are bounded before the norm.
    """

    names: frozenset[str]
    norm: float | None = None
    value: float | None = None


class Gradients:
    """Makes every rank's gradients into the one gradient that the optimizers take.

    In this order: sparse gradients are coalesced; all are averaged over ranks (dense ones in one
    flat all-reduce, rows in one all-gather, with the same bits on every rank); the penalties' gradients are added;
    the global norm is taken over everything; then gradients are clipped, if asked: each group's entries and norm, and
    the entries and norm of them all, as `torch.nn.utils.clip_grad_value_` and `clip_grad_norm_` do.

    A dense parameter that took no part in the loss gets a gradient of zeros, whatever the number of ranks.

    Args:
        model: has the parameters. Whether a table's gradients are sparse is read from its bank at each call.
        world: the ranks to average over.
        clip_norm: largest global norm, > 0; None does not clip.
        clip_value: largest absolute value of any entry, > 0; None does not clip.
        groups: bounds of single groups of parameters, those of losses and balancing among them.
        regularization: penalties whose gradients are added: to whole tables where gradients are dense, to the rows in
            the batch where they are sparse.
        objective: parameters of losses and balancing, by name; averaged too, but without penalties, norm and clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        world: World,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        groups: Sequence[Clip] = (),
        regularization: Regularization | None = None,
        objective: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self._world, self._regularization = world, regularization
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._objective = dict(objective or {})
        everything = Clip(frozenset(self._parameters), clip_norm, clip_value)
        self._clips = [clip for clip in (*groups, everything) if clip.norm is not None or clip.value is not None]
        # the norm that is logged is then the one to clip by
        self._only_norm = clip_norm if self._clips == [everything] and clip_value is None else None
        self._tables, self._embeddings = tables_of(model), embedding_weights(model)

    def take(self) -> dict[str, Tensor]:
        """Take this rank's gradients off their parameters, by name; parameters that took no part are left out."""
        found = {}
        for name, parameter in self._all().items():
            if parameter.grad is not None:
                found[name], parameter.grad = parameter.grad, None
        return found

    def give(self, gradients: Mapping[str, Tensor]) -> None:
        """Put gradients that were taken back onto their parameters, so that backward adds to them."""
        for name, parameter in self._all().items():
            parameter.grad = gradients.get(name)

    def average(self) -> Averaged:
        """Average the gradients of one step over ranks; those of several backward calls have added up.

        Raises:
            TrainingError: a table's gradient is dense although its optimizer takes rows.
        """
        return self.average_each([self.take()])[0]

    @torch.no_grad()
    def average_each(self, taken: Sequence[Mapping[str, Tensor]]) -> list[Averaged]:
        """Average several tasks' gradients over ranks, in one exchange; rows that tasks share are sorted once.

        Args:
            taken: of each task, what `take` returned.

        Raises:
            TrainingError: a table's gradient is dense although its optimizer takes rows.
        """
        by_rows = {name for name, (bank, key) in self._tables.items() if bank.row_gradients[key]}
        sparse = {name: p for name, p in self._parameters.items() if name in by_rows}
        dense = {name: p for name, p in self._all().items() if name not in sparse}
        scale = 1.0 / self._world.size
        of_dense = self._average_dense([(p, mine.get(name)) for mine in taken for name, p in dense.items()], scale)
        # table by table: neighbours have the same rows
        of_rows = self._average_rows([(name, p, mine.get(name)) for name, p in sparse.items() for mine in taken], scale)
        return [
            Averaged(
                dict(zip(dense, of_dense[len(dense) * i :], strict=False)),
                dict(zip(sparse, of_rows[i :: len(taken)], strict=True)),
                frozenset(mine),
            )
            for i, mine in enumerate(taken)
        ]

    @torch.no_grad()
    def put(self, averaged: Averaged) -> Tensor:
        """Add penalties, clip, and put the gradients onto their parameters.

        Returns:
            The global norm before clipping, a scalar on the model's device; not finite where a gradient is not.
        """
        dense = {name: gradient for name, gradient in averaged.dense.items() if name not in self._objective}
        if self._regularization is not None:
            for name, gradient in dense.items():
                embedding = name in self._embeddings
                self._regularization.add_gradient(gradient, self._parameters[name], embedding=embedding)
            for name, (where, values) in averaged.rows.items():
                if any(self._regularization.coefficients(embedding=True)):
                    weight = self._parameters[name].index_select(0, where)
                    self._regularization.add_gradient(values, weight, embedding=True)
        rows = {name: values for name, (_, values) in averaged.rows.items()}
        norm = _norm([*dense.values(), *rows.values()])
        if self._only_norm is not None:
            _scale([*dense.values(), *rows.values()], norm, self._only_norm)
        else:
            for clip in self._clips:
                _apply(clip, [tensor for name, tensor in {**averaged.dense, **rows}.items() if name in clip.names])
        parameters = self._all()
        for name, gradient in averaged.dense.items():
            parameters[name].grad = gradient
        for name, (where, values) in averaged.rows.items():
            parameters[name].grad = torch.sparse_coo_tensor(
                where.unsqueeze(0), values, parameters[name].shape, is_coalesced=True, check_invariants=False
            )
        return norm

    def _all(self) -> dict[str, nn.Parameter]:
        return {**self._parameters, **self._objective}

    def _average_dense(self, given: Sequence[tuple[Tensor, Tensor | None]], scale: float) -> list[Tensor]:
        """Return the averages of parameters' gradients; None is one of zeros."""
        gradients = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in given]
        if self._world.size > 1 and gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._world.sum_(flat)
            split = torch.split(flat, [p.numel() for p, _ in given])
            gradients = [gradient.view_as(p) for gradient, (p, _) in zip(split, given, strict=True)]
        if scale != 1:
            for gradient in gradients:
                gradient.mul_(scale)
        return gradients

    def _average_rows(self, given: Sequence[tuple[str, Tensor, Tensor | None]], scale: float) -> list[RowGradient]:
        """Return the averages of tables' gradients, by name and table; None is one without rows."""
        gradients = []
        for name, parameter, gradient in given:
            if gradient is None:
                empty = torch.empty(0, dtype=torch.int64, device=parameter.device)
                gradients.append((empty, parameter.new_empty(0, parameter.shape[1])))
            elif gradient.is_sparse:
                gradients.append(coordinates(gradient))
            else:
                raise TrainingError(
                    f"the table '{name}' has a dense gradient, but its optimizer takes row gradients",
                    hint="Something reads the table without a lookup: use bank.rows(feature), or adam for it.",
                )
        sizes = [parameter.shape[0] for _, parameter, _ in given]
        if self._world.size > 1 and gradients:
            if not self._world.shares_memory(gradients[0][1].device):  # a shorter message is worth a second sorting
                gradients = coalesce(gradients, sizes)
            gradients = self._gather(gradients, sizes)
        gradients = coalesce(gradients, sizes)
        if scale != 1:
            for _, values in gradients:
                values.mul_(scale)
        return gradients

    def _gather(self, gradients: list[RowGradient], sizes: list[int]) -> list[RowGradient]:
        """Return every rank's rows of each table, joined in rank order; one message carries all tables."""
        pieces: list[Tensor] = []
        before: Tensor | None = None
        for (rows, values), size in zip(gradients, sizes, strict=True):
            # tables often have the same rows: they travel once, and values without rows have those of the table before
            is_same = before is not None and before.shape == rows.shape and torch.equal(before, rows)
            before = rows
            pieces += [(rows[:0] if is_same else rows).to(torch.int32 if size < 2**31 else torch.int64), values]
        parts = self._world.gather_all(pieces)
        result: list[RowGradient] = []
        theirs = [part[0] for part in parts]
        for at, (_, values) in enumerate(gradients):
            theirs = [
                own if own.numel() or not part[2 * at + 1].numel() else last
                for part, last in zip(parts, theirs, strict=True)
                for own in [part[2 * at]]
            ]
            their_values = [part[2 * at + 1].view(-1, values.shape[1]) for part in parts]
            result.append((torch.cat(theirs).long(), torch.cat(their_values)))
        return result


def _norm(gradients: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    return norm


def _apply(clip: Clip, gradients: list[Tensor]) -> None:
    """Clip gradients in place."""
    if clip.value is not None:
        for gradient in gradients:
            gradient.clamp_(-clip.value, clip.value)
    if clip.norm is not None and gradients:
        _scale(gradients, _norm(gradients), clip.norm)


def _scale(gradients: list[Tensor], norm: Tensor, largest: float) -> None:
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def products(
    gradients: Sequence[Averaged], names: Sequence[str], table_starts: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the inner products of several tasks' gradients of each parameter, in float64.

    Args:
        gradients: one a task.
        names: the parameters.
        table_starts: of weights whose tables are taken apart, the first row of each table, ascending, (P,).

    Shapes:
        (T, T) each; (P, T, T) of a weight in `table_starts`
    """
    result = {}
    for name in names:
        starts, rows = (table_starts or {}).get(name), None
        if name in gradients[0].dense:
            values = torch.stack([g.dense[name] for g in gradients])
        else:
            rows, values = _on_common_rows([g.rows[name] for g in gradients])
        if starts is None:
            flat = values.reshape(len(gradients), -1).double()
            result[name] = flat @ flat.T
        else:
            ends = starts[1:] if rows is None else torch.searchsorted(rows, starts[1:].to(rows.device))
            tables = [part.flatten(1).double() for part in values.tensor_split(ends.cpu(), dim=1)]
            result[name] = torch.stack([flat @ flat.T for flat in tables])
    return result


def merged(
    gradients: Sequence[Averaged],
    coefficients: Mapping[str, Tensor],
    table_starts: Mapping[str, Tensor] | None = None,
) -> Averaged:
    """Return the sum of several tasks' gradients, each parameter's times its coefficients.

    Args:
        gradients: one a task.
        coefficients: by parameter, (T,), or (P, T) of a weight in `table_starts`; 1 of parameters that it lacks.
        table_starts: as for `products`.
    """
    first = gradients[0]
    ones = torch.ones(len(gradients))

    def added(name: str, values: Tensor, rows: Tensor | None = None) -> Tensor:
        factors = coefficients.get(name, ones).to(values)
        if factors.dim() == 1:
            result: Tensor = torch.tensordot(factors, values, dims=1)
            return result
        rows = torch.arange(values.shape[1], device=values.device) if rows is None else rows
        starts = (table_starts or {})[name].to(values.device)
        of_rows = factors[torch.searchsorted(starts, rows, right=True) - 1]
        return (of_rows.T.unsqueeze(-1) * values).sum(0)

    dense = {name: added(name, torch.stack([g.dense[name] for g in gradients])) for name in first.dense}
    rows = {}
    for name in first.rows:
        where, values = _on_common_rows([g.rows[name] for g in gradients])
        rows[name] = (where, added(name, values, where))
    reached = frozenset[str]().union(*(g.reached for g in gradients))
    return Averaged(dense, rows, reached)


def _on_common_rows(gradients: Sequence[RowGradient]) -> tuple[Tensor, Tensor]:
    """Return the rows that any of the gradients has, ascending, (U,), and each gradient's values there, (T, U, D)."""
    first = gradients[0][0]
    if all(rows.shape == first.shape and torch.equal(rows, first) for rows, _ in gradients[1:]):
        return first, torch.stack([values for _, values in gradients])
    union = torch.unique(torch.cat([rows for rows, _ in gradients]))
    values = gradients[0][1].new_zeros(len(gradients), len(union), gradients[0][1].shape[1])
    for mine, (rows, theirs) in zip(values, gradients, strict=True):
        mine.index_copy_(0, torch.searchsorted(union, rows), theirs)
    return union, values
