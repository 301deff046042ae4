"""The schedule of the Transformer."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("transformer")
class Transformer(Schedule):
    """A straight rise over W = warmup_steps, then a fall with the inverse square root of the step.

    lr_t = lr * hidden_size^-0.5 * min((k t + 1) * (k W)^-1.5, (k t + 1)^-0.5), with k = step_scaling_rate.

    The rise is a part of the curve, so `warmup_lr` has no meaning here.

    Args:
        total_steps: see `Schedule`; has no part in it.
        base_lr: see `Schedule`.
        hidden_size: the model's width d, >= 1.
        warmup_steps: steps of the rise, >= 1.
        step_scaling_rate: how many steps of the curve one step counts for, > 0.
        per: see `Schedule`.

    Reference:
        Vaswani et al., Attention Is All You Need, arXiv:1706.03762, equation 3 (k = 1 and t + 1 for the step).
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        hidden_size: Annotated[int, Ge(1)],
        warmup_steps: Annotated[int, Ge(1)] = 4000,
        step_scaling_rate: Annotated[float, Gt(0)] = 1.0,
        per: Literal["step", "epoch"] = "step",
    ) -> None:
        super().__init__(total_steps, base_lr, per=per)
        self._scale, self._rise, self._rate = hidden_size**-0.5, step_scaling_rate * warmup_steps, step_scaling_rate

    def after_warmup(self, step: int) -> float:
        at = self._rate * step + 1
        return float(self._scale * min(at * self._rise**-1.5, at**-0.5))
