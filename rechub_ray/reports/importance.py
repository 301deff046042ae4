"""The importance of each hyperparameter for the rank of a trial."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rechub_ray.reports.read import Parameter, SweepData

FEWEST_TRIALS = 6
SURE_TRIALS = 30
LEAST_R2 = 0.2
_FOLDS = 5
_TREES = 60
_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Importance:
    """Shares that sum to 1, in the order of the parameters, with the forest's R² on held-out trials.

    What a setting below a choice brings counts in both shares.
    """

    shares: tuple[float, ...]
    r2: float
    trials: int


def importance(data: SweepData) -> Importance | None:
    """Return the permutation importance in a random forest that predicts a trial's rank from its hyperparameters.

    A forest is fitted to four fifths of the scored trials, and its squared error on the other fifth is compared with
    that after one hyperparameter's values were shuffled among them (5 folds, 5 shuffles). The share of a
    hyperparameter is its mean rise of the error over the sum of all rises; below zero counts as zero. Ranks stand for
    scores, so that one run that diverged does not decide. A category is one column for each label; a hyperparameter
    that a trial does not have is a label, or a value below all others.

    A choice is shuffled together with the settings below it, `model` with `model.hidden_units`: no trial gets settings
    that its model does not have. Settings below a choice are shuffled among the trials that have them.

    Returns:
        None with fewer than 6 scored trials, or nothing that varies.

    Reference:
        Breiman, Random Forests, 2001, section 10, on held-out folds instead of out-of-bag rows.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    trials = data.ranked()
    if len(trials) < FEWEST_TRIALS or not data.parameters:
        return None
    scores = np.array([trial.score for trial in trials])
    ranks = np.searchsorted(np.sort(scores), scores) / len(scores)
    if ranks.max() == ranks.min():
        return None
    groups = [_columns(p, [p.position(trial.params) for trial in trials]) for p in data.parameters]
    columns = np.concatenate(groups, axis=1)
    own = np.split(np.arange(columns.shape[1]), np.cumsum([g.shape[1] for g in groups])[:-1])
    paths = [p.path for p in data.parameters]
    places = [
        np.concatenate([o for o, other in zip(own, paths, strict=True) if f"{other}.".startswith(f"{path}.")])
        for path in paths
    ]
    has = np.array([[path in trial.params for trial in trials] for path in paths])
    rng = np.random.default_rng(0)
    rises, errors = np.zeros(len(groups)), 0.0
    for train, held in KFold(_FOLDS, shuffle=True, random_state=0).split(columns):
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0).fit(columns[train], ranks[train])
        cases = [columns[held]]
        for place, mine in zip(places, has[:, held], strict=True):
            rows = np.flatnonzero(mine)
            for _ in range(_REPEATS):
                shuffled = columns[held].copy()
                shuffled[np.ix_(rows, place)] = shuffled[np.ix_(rng.permutation(rows), place)]
                cases.append(shuffled)
        predicted = forest.predict(np.concatenate(cases)).reshape(
            len(cases), len(held)
        )  # one call: a call takes longer than a row
        error, *shuffled_errors = np.square(predicted - ranks[held]).sum(axis=1)
        errors += float(error)
        rises += (np.reshape(shuffled_errors, (len(places), _REPEATS)) - error).mean(axis=1)
    rises = np.maximum(rises, 0)
    shares = rises / rises.sum() if rises.sum() > 0 else rises
    r2 = 1 - errors / float(np.square(ranks - ranks.mean()).sum())
    return Importance(tuple(map(float, shares)), r2, len(trials))


def _columns(parameter: Parameter, positions: list[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    known = [x for x in positions if x is not None]
    absent = min(known, default=0.0) - 1
    values = np.array([absent if x is None else x for x in positions])
    if parameter.scale != "category":
        return values[:, None]
    return np.asarray(values[:, None] == np.unique(values), dtype=np.float64)
