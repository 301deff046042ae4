"""Any scheduler of torch by its dotted name, as in `torch.optim.lr_scheduler.StepLR`."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
from torch.optim import lr_scheduler

from rechub_ray.errors import ConfigError
from rechub_ray.registry import borrowed_arguments, keyword_class
from rechub_ray.schedules.base import SCHEDULES, Schedule


class TorchSchedule(Schedule):
    """The rates that a scheduler of torch gives an optimizer of one group, after the warmup if there is one.

    The scheduler takes one `step()` an optimizer step (an epoch, where `per` is `epoch`) after the warmup. It is run
    beside the training, on an optimizer without a use, and from the start when a run is resumed: it is a function of
    the step, though computed from one step to the next.

    Args:
        total_steps: see `Schedule`; a scheduler that takes `total_steps` gets the steps after the warmup for it.
        base_lr: see `Schedule`.
        arguments: the scheduler's own, under torch's names, and those of `Schedule`.

    Raises:
        ConfigError: the scheduler does not take the arguments, or changes more than the rate.
    """

    scheduler_class: ClassVar[type[Any]]

    def start(self, arguments: dict[str, Any]) -> None:
        """Take the scheduler's own arguments, and make it."""
        self._arguments = arguments
        self._restart()

    def after_warmup(self, step: int) -> float:
        at = min(step - self.warmup_steps, getattr(self._scheduler, "total_steps", math.inf) - 1)
        if at < self._at:
            self._restart()
        while self._at < at:
            self._scheduler.step()
            self._at += 1
        return self._now()

    def _now(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"]) / self._top

    def _restart(self) -> None:
        self._top, self._at = self.base_lr or 1.0, 0
        parameter = torch.nn.Parameter(torch.zeros(1))
        self._optimizer = torch.optim.SGD([parameter], lr=self._top, momentum=0.9)
        before = {key: value for key, value in self._optimizer.param_groups[0].items() if key not in ("params", "lr")}
        name = f"{self.scheduler_class.__module__}.{self.scheduler_class.__name__}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._scheduler = self.scheduler_class(self._optimizer, **self._arguments)
                self._optimizer.step()  # once, or the scheduler warns that none has come before its own
        except (TypeError, ValueError, ZeroDivisionError, AssertionError) as error:
            raise ConfigError(f"schedule '{name}' does not take these arguments", got=error) from None
        changed = [key for key, value in before.items() if self._optimizer.param_groups[0][key] != value]
        if changed:
            raise ConfigError(
                f"schedule '{name}' changes {', '.join(changed)} beside the learning rate",
                expected="a schedule of the rate alone",
                hint="Switch that off (cycle_momentum: false, for instance).",
            )


class TorchPlateau(TorchSchedule):
    """`torch.optim.lr_scheduler.ReduceLROnPlateau` on the early-stopping score, whose direction is its `mode`.

    Scores that are not finite are passed over. The state is the list of scores, from which it is run again.
    """

    def start(self, arguments: dict[str, Any]) -> None:
        self._mode, self._scores = "", list[float]()
        super().start(arguments)

    def after_warmup(self, step: int) -> float:
        return self._now()

    def observe(self, score: float, *, mode: str) -> None:
        if not math.isfinite(score):
            return
        if mode != self._mode:
            self._arguments, self._mode = {**self._arguments, "mode": mode}, mode
            self._restart()
        self._scores.append(float(score))
        self._scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        return {"mode": self._mode, "scores": list(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mode, self._scores = "", []
        for score in state["scores"]:
            self.observe(float(score), mode=state["mode"])


@SCHEDULES.adopt_with
def adopt(cls: type[Any]) -> type[Schedule] | None:
    """Return a schedule of the scheduler class `cls`; None where it is no scheduler.

    Raises:
        ConfigError: it takes functions or other schedulers.
    """
    if not isinstance(cls, type) or not issubclass(cls, lr_scheduler.LRScheduler) or cls is lr_scheduler.LRScheduler:
        return None
    base = TorchPlateau if issubclass(cls, lr_scheduler.ReduceLROnPlateau) else TorchSchedule
    skip = ["optimizer", "last_epoch", "verbose", *(["mode"] if base is TorchPlateau else [])]
    arguments = borrowed_arguments(cls, skip=skip)

    def init(self: Any, total_steps: int, base_lr: float, /, **given: Any) -> None:
        own = {key: value for key, value in given.items() if key in arguments}
        Schedule.__init__(self, total_steps, base_lr, **{key: given[key] for key in given if key not in own})
        if "total_steps" in own and own["total_steps"] is None and own.get("epochs") is None:
            own["total_steps"] = self.length
        self.start(own)

    made = keyword_class(base, init, arguments, common=True)
    made.scheduler_class = cls
    return made
