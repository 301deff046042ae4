"""What happens to the gradients between backward and the optimizers' step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rechub_ray.errors import TrainingError
from rechub_ray.layers.embedding import tables_of
from rechub_ray.layers.rows import RowGradient, coalesce
from rechub_ray.regularization import Regularization
from rechub_ray.world import World


class Gradients:
    """Makes every rank's gradients into the one gradient that the optimizers take.

    In this order: sparse gradients are coalesced; all are averaged over ranks (dense ones in one
    flat all-reduce, rows in one all-gather, with the same bits on every rank); the penalties' gradients are added;
    the global norm is taken over everything and, if asked, clipped as `torch.nn.utils.clip_grad_norm_` does.

    A dense parameter that took no part in the loss gets a gradient of zeros, whatever the number of ranks.

    Args:
        model: has the parameters. Whether a table's gradients are sparse is read from its bank at each call.
        world: the ranks to average over.
        clip_norm: largest global norm, > 0; None does not clip.
        regularization: penalties whose gradients are added. Whole tables where gradients are dense, the rows in the
            batch where they are sparse.
    """

    def __init__(
        self,
        model: nn.Module,
        world: World,
        *,
        clip_norm: float | None = None,
        regularization: Regularization | None = None,
    ) -> None:
        self._world, self._clip_norm, self._regularization = world, clip_norm, regularization
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._tables = tables_of(model)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Finishes the gradients of one step; those of several backward calls have added up.

        Returns:
            The global norm before clipping, a scalar on the model's device; not finite where a gradient is not.

        Raises:
            TrainingError: a table's gradient is dense although its optimizer takes rows.
        """
        by_rows = {name for name, (bank, key) in self._tables.items() if bank.row_gradients[key]}
        sparse = {name: p for name, p in self._parameters.items() if name in by_rows}
        dense = {name: p for name, p in self._parameters.items() if name not in sparse}
        scale = 1.0 / self._world.size
        self._average_dense(list(dense.values()), scale)
        rows = self._average_rows(sparse, scale)

        if self._regularization is not None:
            for name, parameter in dense.items():
                assert parameter.grad is not None
                self._regularization.add_gradient(parameter.grad, parameter, embedding=name in self._tables)
            for parameter, (where, values) in zip(sparse.values(), rows, strict=True):
                if any(self._regularization.coefficients(embedding=True)):
                    self._regularization.add_gradient(values, parameter.index_select(0, where), embedding=True)
        gradients = [p.grad for p in dense.values() if p.grad is not None] + [values for _, values in rows]
        norm = self._clip(gradients)
        for parameter, (where, values) in zip(sparse.values(), rows, strict=True):
            parameter.grad = torch.sparse_coo_tensor(
                where.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False
            )
        return norm

    def _average_dense(self, parameters: list[nn.Parameter], scale: float) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._world.size > 1 and gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._world.sum_(flat)
            gradients = list(torch.split(flat, [p.numel() for p in parameters]))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.view_as(parameter)
        if scale != 1:
            torch._foreach_mul_(gradients, scale)

    def _average_rows(self, parameters: dict[str, nn.Parameter], scale: float) -> list[RowGradient]:
        gradients = []
        for name, parameter in parameters.items():
            gradient = parameter.grad
            if gradient is None:
                empty = torch.empty(0, dtype=torch.int64, device=parameter.device)
                gradients.append((empty, parameter.new_empty(0, parameter.shape[1])))
            elif gradient.is_sparse:
                gradients.append((gradient._indices()[0], gradient._values()))
            else:
                raise TrainingError(
                    f"the table '{name}' has a dense gradient, but its optimizer takes row gradients",
                    hint="Something besides embedding lookups uses the table; give it an optimizer such as adam.",
                )
        sizes = [parameter.shape[0] for parameter in parameters.values()]
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
        """Every rank's rows of each table one behind the other, in rank order: one message for all tables."""
        pieces: list[Tensor] = []
        before: Tensor | None = None
        for (rows, values), size in zip(gradients, sizes, strict=True):
            # values without rows: the rows are those of the table before
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

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        )
        if self._clip_norm is not None:
            factor = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, factor)
        return norm
