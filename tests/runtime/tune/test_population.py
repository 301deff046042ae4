"""PBT and PB2 change values at every exploit and stay in their ranges; PB2's model learns. Without Ray's processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rechub_ray.runtime.tune.schedulers import SCORE, TIME, Pb2, Pbt, build
from rechub_ray.runtime.tune.space import Point, Space

SPACE = Space.parse(
    {
        "lr": {"loguniform": [1e-5, 1.0]},
        "dropout": {"quniform": [0.1, 0.6, 0.05]},
        "layers": {"randint": [1, 9]},
        "seed": {"uniform": [0, 1]},
    }
)
PATHS = ["lr", "dropout", "layers"]


class Member:
    """What the schedulers know of a trial."""

    def __init__(self, number: int, point: Point) -> None:
        self.name, self.config, self.experiment_tag = f"t{number}", {**point, "_trial": f"t{number}"}, ""
        self.status = "RUNNING"

    def __str__(self) -> str:
        return self.name


def gain(config: dict[str, Any]) -> float:
    """An epoch's gain: best at lr 1e-3, which is nowhere near the middle of the range unless it is taken as a log."""
    return math.exp(-((math.log10(config["lr"]) + 3) ** 2))


def evolve(settings: Pbt | Pb2, epochs: int, seed: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The donor's values and the new ones of each exploit, with the worst of 4 trials copying the best each epoch."""
    from ray.tune.schedulers.pbt import _PBTTrialState

    rng = np.random.default_rng(seed)
    scheduler = build(settings, SPACE, epochs=epochs, exploited=lambda exploit: None)
    scheduler.set_search_properties(SCORE, "max")
    members = [Member(i, SPACE.sample(rng)) for i in range(4)]
    scheduler._trial_state = {m: _PBTTrialState(m) for m in members}
    scores = dict.fromkeys(members, 0.0)
    made = []
    for epoch in range(1, epochs + 1):
        for m in members:
            scores[m] += gain(m.config)
            result = {SCORE: scores[m], TIME: float(epoch), "step": epoch}
            scheduler._save_trial_state(scheduler._trial_state[m], float(epoch), result, m)
        order = sorted(members, key=scores.__getitem__)
        worst, best = order[0], order[-1]
        new, _ = scheduler._get_new_config(worst, best)
        made.append((dict(best.config), dict(new)))
        assert new["_trial"] == worst.name, "each trial keeps its own identity"
        assert new["seed"] == best.config["seed"], "what is not in paths is copied"
        worst.config, scores[worst] = new, scores[best]
    return made


def inside(config: dict[str, Any]) -> bool:
    steps = config["dropout"] / 0.05
    return (
        1e-5 <= config["lr"] <= 1.0
        and 0.1 <= config["dropout"] <= 0.6
        and abs(steps - round(steps)) < 1e-6
        and config["layers"] in range(1, 9)
        and type(config["layers"]) is int
    )


@pytest.mark.parametrize(
    "settings",
    [Pbt(paths=PATHS), Pbt(paths=PATHS, resample_probability=0, factors=[100.0, 100.0]), Pb2(paths=PATHS)],
    ids=["pbt", "pbt-at-the-end-of-its-ranges", "pb2"],
)
def test_every_exploit_changes_values_within_their_ranges(settings: Pbt | Pb2) -> None:
    pytest.importorskip("ray")
    np.random.seed(0)
    for donor, new in evolve(settings, 8, seed=1):
        assert inside(new), new
        assert [donor[name] for name in PATHS] != [new[name] for name in PATHS]


def test_the_model_of_pb2_knows_what_gains_most() -> None:
    pytest.importorskip("ray")
    np.random.seed(0)
    near = [abs(math.log10(new["lr"]) + 3) < 0.25 for _, new in evolve(Pb2(paths=["lr"]), 24, seed=0)]
    assert sum(near[8:]) / 16 > 0.25  # it explores as well; by chance a tenth would be as near


def test_a_model_that_cannot_be_fitted_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def singular(*given: Any, **settings: Any) -> Any:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("ray.tune.schedulers.pb2._select_config", singular)
    for donor, new in evolve(Pb2(paths=PATHS), 5, seed=1):
        assert inside(new)
        assert [donor[name] for name in PATHS] != [new[name] for name in PATHS]
