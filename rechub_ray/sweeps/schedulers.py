"""The schedulers of a sweep, which decide what trials go on: their settings, and what they need of Ray Tune."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from rechub_ray.config import Section
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.space import Space
from rechub_ray.sweeps.population import Exploit, population

_log = logging.getLogger(__name__)

TIME, SCORE = "epochs", "score"  # names in a trial's reports
Epochs = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


class Fifo(Section):
    """Every trial runs to its end."""

    name: Literal["fifo"] = "fifo"


class Asha(Section):
    """Asynchronous successive halving: at each rung the best 1/reduction_factor of the trials so far go on.

    Args:
        grace_epochs: epochs of the first rung.
        reduction_factor: factor from rung to rung; the best 1/reduction_factor go on.
        max_epochs: epochs of a trial; null takes the run's.

    Reference:
        Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934.
    """

    name: Literal["asha"] = "asha"
    grace_epochs: Epochs = 1.0
    reduction_factor: Annotated[float, Gt(1)] = 3.0
    max_epochs: Epochs | None = None


class HyperBand(Section):
    """HyperBand: brackets of trials that wait for each other at each rung; the worse ones stop there.

    Args:
        reduction_factor: factor from rung to rung; the best 1/reduction_factor go on.
        max_epochs: epochs of a trial; null takes the run's.

    Reference:
        Li et al., Hyperband, arXiv:1603.06560.
    """

    name: Literal["hyperband"] = "hyperband"
    reduction_factor: Annotated[float, Gt(1)] = 3.0
    max_epochs: Annotated[int, Ge(2)] | None = None


class Bohb(HyperBand):
    """HyperBand that fills its largest bracket first, as BOHB's search (search: bohb) needs it.

    Reference:
        Falkner et al., BOHB, arXiv:1807.01774.
    """

    name: Literal["bohb"] = "bohb"  # type: ignore[assignment]


class Median(Section):
    """Stops a trial whose best score is worse than the median of the others' means so far.

    Args:
        grace_epochs: epochs before which no trial stops.
        min_trials: other trials that must have come as far.
    """

    name: Literal["median"] = "median"
    grace_epochs: Epochs = 1.0
    min_trials: Annotated[int, Ge(1)] = 3


class Pbt(Section):
    """Population based training: the worst trials go on from copies of the best, with changed hyperparameters.

    Args:
        interval_epochs: epochs between comparisons.
        burn_in_epochs: epochs before the first comparison.
        quantile: share of the trials that is replaced.
        resample_probability: chance of a new value instead of a change of the donor's.
        factors: a number is multiplied by one of them.
        paths: what may change during training; null takes the whole space.
        synchronous: trials wait for each other and are compared after equally many epochs; otherwise each is compared
            with where the others stand. null waits where not all trials run at the same time: those that run late
            in a round would be compared with scores from the round before.

    Reference:
        Jaderberg et al., Population Based Training of Neural Networks, arXiv:1711.09846.
    """

    name: Literal["pbt"] = "pbt"
    interval_epochs: Epochs = 1.0
    burn_in_epochs: Annotated[float, Ge(0)] = 0.0
    quantile: Annotated[float, Gt(0), Le(0.5)] = 0.25
    resample_probability: Fraction = 0.25
    factors: Annotated[list[Annotated[float, Gt(0)]], MinLen(2)] = [0.8, 1.2]
    paths: Annotated[list[str], MinLen(1)] | None = None
    synchronous: bool | None = None


class Pb2(Section):
    """Population based bandits: as pbt, but a Gaussian process over the population's history chooses the new values.

    Args:
        interval_epochs: epochs between comparisons.
        quantile: share of the trials that is replaced.
        paths: what may change (ranges only); null takes the whole space.
        synchronous: as of pbt.

    Reference:
        Parker-Holder et al., Provably Efficient Online Hyperparameter Optimization, arXiv:2002.02518.
    """

    name: Literal["pb2"] = "pb2"
    interval_epochs: Epochs = 1.0
    quantile: Annotated[float, Gt(0), Lt(0.5)] = 0.25
    paths: Annotated[list[str], MinLen(1)] | None = None
    synchronous: bool | None = None


Scheduler = Fifo | Asha | HyperBand | Bohb | Median | Pbt | Pb2
SCHEDULERS: dict[str, type[Section]] = {
    "fifo": Fifo, "asha": Asha, "hyperband": HyperBand, "bohb": Bohb, "median": Median, "pbt": Pbt, "pb2": Pb2,
}  # fmt: skip


def rungs(settings: Scheduler, epochs: float) -> list[float]:
    """Return the epochs at which trials are compared, lowest first; empty where there are no rungs.

    Args:
        settings: the scheduler's settings.
        epochs: epochs of a whole run.

    Example:
        >>> rungs(Asha(grace_epochs=1, reduction_factor=3), 10)
        [1.0, 3.0, 9.0]
    """
    if not isinstance(settings, (Asha, HyperBand)):
        return []
    last = settings.max_epochs or epochs
    found = []
    if isinstance(settings, Asha):
        at = settings.grace_epochs
        while at < last:
            found.append(at)
            at *= settings.reduction_factor
    else:
        at = float(last)
        while at >= 1 and len(found) < 64:
            at /= settings.reduction_factor
            if int(at) >= 1:
                found.append(float(int(at)))
        found.sort()
    return found


def varying(settings: Pbt | Pb2, space: Space) -> list[str]:
    """Return the names of the variables that change during training.

    Raises:
        ConfigError: one of `paths` is not in the space, or cannot change.
    """
    known = [v.path for v in space.variables if v.parent is None]
    for path in settings.paths or []:
        if path not in known:
            raise ConfigError(f"'scheduler.paths': '{path}' is not in the space", hint=nearest(path, known))
    for v in space.variables:
        wanted = settings.paths is None or v.path in settings.paths
        if wanted and (v.parent is not None or isinstance(next(iter(v.options.values()), None), dict)):
            raise ConfigError(f"'space.{v.name}': {settings.name} cannot exchange components during training")
        if wanted and isinstance(settings, Pb2) and not v.is_range:
            raise ConfigError(f"'space.{v.name}': pb2 changes ranges only", got=v.kind, hint="scheduler.paths chooses.")
    return [v.name for v in space.variables if settings.paths is None or v.path in settings.paths]


def build(
    settings: Scheduler,
    space: Space,
    *,
    epochs: float,
    takes_turns: bool,
    exploited: Callable[[Exploit], None],
) -> Any:
    """Return Ray Tune's scheduler.

    Args:
        settings: the scheduler's settings.
        space: the sweep's space.
        epochs: epochs of a whole run.
        takes_turns: not all trials run at the same time.
        exploited: called at each exploit of PBT or PB2.
    """
    from ray.tune import schedulers as ray_schedulers

    common: dict[str, Any] = {"time_attr": TIME}  # Tune sets metric and mode
    if isinstance(settings, Asha):
        return ray_schedulers.ASHAScheduler(
            **common,
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
            # Ray would put a rung at the very end too, and stop trials that are done there
            max_t=max((settings.max_epochs or epochs) * (1 - 1e-9), settings.grace_epochs),
            stop_last_trials=settings.max_epochs is not None,
        )
    if isinstance(settings, HyperBand):
        cls = ray_schedulers.HyperBandForBOHB if isinstance(settings, Bohb) else ray_schedulers.HyperBandScheduler
        return cls(
            **common,
            max_t=max(int(settings.max_epochs or epochs), 1),
            reduction_factor=settings.reduction_factor,
            stop_last_trials=settings.max_epochs is not None,
        )
    if isinstance(settings, Median):
        return ray_schedulers.MedianStoppingRule(
            **common,
            grace_period=settings.grace_epochs,
            min_samples_required=settings.min_trials,
            min_time_slice=float("inf"),
        )
    if isinstance(settings, (Pbt, Pb2)):
        given: dict[str, Any] = {
            "perturbation_interval": settings.interval_epochs,
            "quantile_fraction": settings.quantile,
        }
        if isinstance(settings, Pbt):
            given["burn_in_period"] = settings.burn_in_epochs
            given["resample_probability"] = settings.resample_probability
            given["perturbation_factors"] = tuple(settings.factors)
        synch = takes_turns if settings.synchronous is None else settings.synchronous
        given |= {**common, "synch": synch, "log_config": False}
        names = varying(settings, space)
        scheduler = population(settings.name, space, names, given, epochs=epochs, exploited=exploited)
        if scheduler is not None:
            return scheduler
        _log.warning(
            "this version of Ray has another %s inside: trials run to their end as under fifo, and exchange no weights",
            settings.name,
        )
    return ray_schedulers.FIFOScheduler()
