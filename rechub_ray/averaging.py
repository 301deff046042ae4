"""The moving average of the weights: what is evaluated, saved and exported, beside what is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.errors import CheckpointError
from rechub_ray.layers.rows import read_rows, write_rows


class WeightAverage(torch.optim.Optimizer):
    """The exponential moving average of parameters: a <- decay * a + (1 - decay) * w after each step, from a = w.

    Of a table with row gradients a step reads and writes the rows in the gradient alone. A row that has not moved for k
    steps is brought up to date when it is needed, by a <- w + decay^k (a - w): the same as k single steps, but for
    rounding.

    It is an optimizer in form, so that its state lies in a checkpoint as those of optimizers do: of each parameter
    `average` (a), `weights` (w: the model in the checkpoint has the average), and of a table with row gradients `step`,
    (V, 1), the number of steps that each row's average stands for.

    Buffers (the moments of batch norm) are not averaged here; they are the model's own.

    Args:
        parameters: the parameters to average.
        decay: in (0, 1).

    Reference:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 30 (1992);
        here the older steps count less.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, decay: float) -> None:
        super().__init__(list(parameters), {"decay": decay})
        self._decay = decay

    @contextlib.contextmanager
    def following(self, step: int) -> Iterator[None]:
        """Take the optimizers' step, which the caller makes in the context, into the average.

        Args:
            step: steps done before it.
        """
        with torch.no_grad():
            for parameter in self._parameters():
                self._begin(parameter, step)
            yield
            for parameter in self._parameters():
                self._add(parameter, step)

    @contextlib.contextmanager
    def applied(self, step: int) -> Iterator[None]:
        """Give the model the average in the context, and its own weights afterwards.

        Tables with row gradients take the memory of another copy of them for that time.

        Args:
            step: steps done.
        """
        taken = [parameter for parameter in self._parameters() if parameter in self.state]  # none before a first step
        try:
            for parameter in taken:
                state = self.state[parameter]
                average = self._at(parameter, state, step)
                state["weights"], parameter.data = parameter.data, average
            yield
        finally:
            for parameter in taken:
                if "weights" in self.state[parameter]:
                    parameter.data = self.state[parameter].pop("weights")

    def take_weights(self) -> None:
        """Give the model its own weights, after this state and the average in the model were read from a checkpoint.

        Raises:
            CheckpointError: the state has other shapes than the parameters.
        """
        for parameter in self._parameters():
            if parameter not in self.state:  # saved before the first step
                continue
            state = self.state[parameter]
            shapes = {"average": parameter.shape, "weights": parameter.shape}
            if "step" in state:
                shapes["step"] = torch.Size((parameter.shape[0], 1))
                state["step"] = torch.as_tensor(state["step"]).to(parameter.device)  # torch leaves a `step` where it is
            found = {key: value.shape if isinstance(value, Tensor) else None for key, value in state.items()}
            if found != shapes:
                raise CheckpointError("the average of the weights has other shapes", expected=shapes, got=found)
            with torch.no_grad():
                parameter.copy_(state.pop("weights"))

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    def _begin(self, parameter: nn.Parameter, step: int) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["average"] = parameter.detach().clone()
            if gradient is not None and gradient.is_sparse:
                state["step"] = torch.full((parameter.shape[0], 1), step, dtype=torch.int32, device=parameter.device)
        if gradient is not None and gradient.is_sparse:
            rows = _rows(gradient)
            since = step - state["step"].view(-1).index_select(0, rows)
            average = read_rows(state["average"], rows)
            write_rows(state["average"], rows, average.lerp_(read_rows(parameter, rows), self._share(since, parameter)))

    def _add(self, parameter: nn.Parameter, step: int) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if "step" not in state:
            state["average"].lerp_(parameter, 1 - self._decay)
        elif gradient is not None:
            rows = _rows(gradient)
            average = read_rows(state["average"], rows).lerp_(read_rows(parameter, rows), 1 - self._decay)
            write_rows(state["average"], rows, average)
            state["step"].view(-1).index_fill_(0, rows, step + 1)

    def _at(self, parameter: nn.Parameter, state: dict[str, Any], step: int) -> Tensor:
        """Return the average after `step` steps; of dense parameters without a copy."""
        average: Tensor = state["average"]
        if "step" not in state:
            return average
        with torch.no_grad():
            return average.lerp(parameter, self._share(step - state["step"].view(-1), parameter))

    def _share(self, since: Tensor, like: Tensor) -> Tensor:
        """Return the share of the present weights after that many steps at them, (N,) to (N, 1)."""
        return (1 - self._decay ** since.double()).to(like.dtype).unsqueeze(1)


def _rows(gradient: Tensor) -> Tensor:
    return gradient.coalesce().indices()[0]
