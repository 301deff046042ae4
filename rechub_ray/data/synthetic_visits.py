"""A seeded synthetic log of visits as raw files, for retrieval: a planted taste with a known best ranking."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from rechub_ray.errors import ConfigError

RECENT = 3
"""The last visits that the next one depends on."""
_SEGMENTS, _COUNTRIES, _CATEGORIES, _RANK, _TOP = 12, 6, 10, 6, 10

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Visits:
    """A written log.

    Args:
        out: its folder, with `visits.csv`, `items.csv` and `truth.json`.
        rows: of the log.
        best: by metric, the score that the true probabilities have on the last visit of every user, which is what
            `leave_last_out` tests: no model can expect more.
    """

    out: Path
    rows: int
    best: dict[str, float]


def write_visits(out: str | Path, *, users: int = 4000, items: int = 300, visits: int = 20, seed: int = 0) -> Visits:
    """Write a log of visits, one line each in order of time, and a table of the items.

    The item of a visit is drawn from a softmax over all items of
    `popularity_i + <segment + country + mean of the last three items, item i>`: a user is known by a segment, a
    country and the visits before. The same arguments give the same bytes.

    Args:
        out: a folder; it is made.
        users: >= 1.
        items: >= 20.
        visits: of each user, >= 3.
        seed: of every draw, >= 0.

    Raises:
        ConfigError: a number is too small.
    """
    if users < 1 or items < 2 * _TOP or visits < 3:
        raise ConfigError(
            "too little to write", expected="users >= 1, items >= 20, visits >= 3", got=f"{users}, {items}, {visits}"
        )
    root, draw = Path(out), np.random.default_rng([seed, 4])
    root.mkdir(parents=True, exist_ok=True)
    category = draw.integers(0, _CATEGORIES, items)
    vectors = draw.normal(0, 0.5, (_CATEGORIES, _RANK))[category] + draw.normal(0, 0.3, (items, _RANK))
    popularity = draw.permutation(-0.5 * np.log(np.arange(1, items + 1)))
    segment, country = draw.integers(0, _SEGMENTS, users), draw.integers(0, _COUNTRIES, users)
    known = draw.normal(0, 0.9, (_SEGMENTS, _RANK))[segment] + draw.normal(0, 0.5, (_COUNTRIES, _RANK))[country]
    chosen = np.zeros((users, visits), dtype=np.int64)
    logits = np.zeros((users, items))
    for visit in range(visits):
        recent = chosen[:, max(visit - RECENT, 0) : visit]
        taste = known + (vectors[recent].mean(1) if visit else 0.0)
        logits = popularity + taste @ vectors.T
        chosen[:, visit] = (logits + draw.gumbel(size=logits.shape)).argmax(1)  # a draw from their softmax
    own = np.take_along_axis(logits, chosen[:, -1:], 1)
    best = _scores((logits > own).sum(1))
    # a visit a day, at a time of its own
    seconds = 1_700_000_000 + 86_400 * np.arange(visits) + draw.integers(0, 80_000, (users, visits))
    order = np.argsort(seconds.ravel(), kind="stable")
    user = np.repeat(np.arange(users), visits)[order]
    names = {"user": "u", "item": "i", "segment": "s", "country": "c"}
    values = {"user": user, "item": chosen.ravel()[order], "segment": segment[user], "country": country[user]}
    table = pa.table({"time": seconds.ravel()[order]} | {key: _named(names[key], ids) for key, ids in values.items()})
    pyarrow.csv.write_csv(table, root / "visits.csv")
    price = np.round(np.exp(draw.normal(3, 0.5, items)), 2)
    side = {"item": _named("i", np.arange(items)), "category": _named("k", category), "price": price}
    pyarrow.csv.write_csv(pa.table(side), root / "items.csv")
    # last, because a folder with it counts as finished
    (root / "truth.json").write_text(json.dumps({"best": best, "seed": seed}, indent=2) + "\n", encoding="utf-8")
    return Visits(root, table.num_rows, best)


def _scores(ranks: npt.NDArray[np.int64]) -> dict[str, float]:
    """Return the metrics of ranks, which count from 0: each has one item that is meant."""
    hit = (ranks < _TOP).astype(np.float64)
    gains = {"recall": hit, "ndcg": hit / np.log2(ranks + 2), "mrr": hit / (ranks + 1)}
    return {f"{name}@{_TOP}": float(gain.mean()) for name, gain in gains.items()}


def _named(letter: str, ids: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array([f"{letter}{i}" for i in ids.tolist()])
