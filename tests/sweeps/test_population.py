"""PBT and PB2 change values at every exploit and stay in their ranges; PB2's model learns. Without Ray's processes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rechub_ray.space import Point, Space
from rechub_ray.sweeps.population import Exploit
from rechub_ray.sweeps.schedulers import SCORE, TIME, Pb2, Pbt, build

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
        self.trial_id, self.status, self.checkpoint = self.name, "RUNNING", f"checkpoint of {number}"
        self.temporary_state = SimpleNamespace(saving_to=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(_latest_checkpoint_result=None))

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")

    def set_experiment_tag(self, tag: str) -> None: ...

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def __str__(self) -> str:
        return self.name


class Controller:
    """As much of Ray's controller as a comparison asks for, with trials that all wait."""

    search_alg = None

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def get_trials(self) -> list[Member]:
        return self.members

    def get_live_trials(self) -> list[Member]:
        return [m for m in self.members if m.status != "TERMINATED"]

    def _schedule_trial_save(self, member: Member, result: dict[str, Any]) -> str:
        return member.checkpoint

    def pause_trial(self, member: Member, should_checkpoint: bool) -> None:
        member.status = "PAUSED"


def gain(config: dict[str, Any]) -> float:
    """An epoch's gain: best at lr 1e-3, which is nowhere near the middle of the range unless it is taken as a log."""
    return math.exp(-((math.log10(config["lr"]) + 3) ** 2))


def evolve(settings: Pbt | Pb2, epochs: int, seed: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The donor's values and the new ones of each exploit, with the worst of 4 trials copying the best each epoch."""
    from ray.tune.schedulers.pbt import _PBTTrialState

    rng = np.random.default_rng(seed)
    scheduler = build(settings, SPACE, epochs=epochs, takes_turns=True, exploited=lambda exploit: None)
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


@pytest.mark.long  # a default test shows that PB2 draws within its ranges, this one that it draws well
def test_the_model_of_pb2_knows_what_gains_most() -> None:
    pytest.importorskip("ray")
    np.random.seed(0)
    near = [abs(math.log10(new["lr"]) + 3) < 0.25 for _, new in evolve(Pb2(paths=["lr"]), 16, seed=0)]
    assert sum(near[8:]) / 8 > 0.25  # it explores as well; by chance a tenth would be as near


def test_a_model_that_cannot_be_fitted_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")

    def singular(*given: Any, **settings: Any) -> Any:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("ray.tune.schedulers.pb2._select_config", singular)
    for donor, new in evolve(Pb2(paths=PATHS), 5, seed=1):
        assert inside(new)
        assert [donor[name] for name in PATHS] != [new[name] for name in PATHS]


@pytest.mark.parametrize("settings", [Pbt(paths=PATHS), Pb2(paths=PATHS)], ids=["pbt", "pb2"])
@pytest.mark.parametrize("how", ["error", "complete"])
def test_nobody_waits_for_a_trial_that_is_gone(settings: Pbt | Pb2, how: str) -> None:
    pytest.importorskip("ray")
    from ray.tune.schedulers.pbt import _PBTTrialState

    told: list[Exploit] = []
    scheduler = build(settings, SPACE, epochs=4, takes_turns=True, exploited=told.append)
    scheduler.set_search_properties(SCORE, "max")
    rng = np.random.default_rng(0)
    members = [Member(i, SPACE.sample(rng)) for i in range(4)]
    controller = Controller(members)
    scheduler._trial_state = {m: _PBTTrialState(m) for m in members}

    def report(number: int, epochs: float, score: float) -> str:
        return scheduler.on_trial_result(controller, members[number], {SCORE: score, TIME: epochs, "step": 10})

    for number in range(3):
        assert report(number, 1.0, 0.5 + number / 10) == "PAUSE"
        members[number].status = "PAUSED"
    assert scheduler.choose_trial_to_run(controller) is None, "all wait for the fourth"
    assert not told
    if how == "error":
        scheduler.on_trial_error(controller, members[3])
        members[3].status = "ERROR"
    else:
        scheduler.on_trial_complete(controller, members[3], {})
        members[3].status = "TERMINATED"
    (exploit,) = told
    assert (exploit.trial["_trial"], exploit.donor["_trial"]) == ("t0", "t2")
    assert (exploit.score, exploit.donor_score, exploit.step) == (0.5, 0.7, 10)
    assert members[0].run_metadata.checkpoint_manager._latest_checkpoint_result.checkpoint == "checkpoint of 2"
    assert exploit.trial == members[0].config
    assert exploit.checkpoint == "checkpoint of 2"
    order = []
    while (member := scheduler.choose_trial_to_run(controller)) is not None:
        order.append(member)
        member.status = "RUNNING"
        assert report(members.index(member), 2.0, 0.8 + len(order) / 100) == "PAUSE"
        member.status = "PAUSED"
        if len(order) == 3:
            break
    assert set(order) == set(members[:3])
    assert len(told) == 2, "nor at the next comparison"
    assert told[1].trial["_trial"] == order[0].name
    assert report(1, 4.0, 0.9) == "CONTINUE", "whose run is over waits for nobody"
