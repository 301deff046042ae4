"""Metrics of scores and of lists of items under Torch-RecHub's names, as NumPy counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rechub_ray.compat.missing import refuse
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.metrics.pairs import count_pairs

__all__ = [
    "auc_score",
    "coverage_score",
    "diversity_score",
    "gauc_score",
    "hit_score",
    "log_loss",
    "mrr_score",
    "ndcg_score",
    "novelty_score",
    "precision_score",
    "recall_score",
    "topk_metrics",
]
_MISSING = ("get_user_pred",)
_LEAST = 1e-10  # of a popularity, and of a vector's length

Lists = Mapping[Any, Sequence[Any]]
Said = dict[str, list[str]]


def auc_score(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """Return the share of pairs, one of each class, that are in order; equal scores count half.

    Args:
        y_true: (N,), 0 or 1.
        y_pred: (N,) scores.

    Raises:
        DataError: there is one class only, or the lengths differ.
    """
    [(auc, _)] = _aucs(y_true, y_pred, np.zeros(np.size(y_true), np.int64))
    return auc


def gauc_score(
    y_true: npt.ArrayLike, y_pred: npt.ArrayLike, users: npt.ArrayLike, weights: Mapping[Any, float] | None = None
) -> float:
    """Return the mean of each user's AUC.

    Args:
        y_true: (N,), 0 or 1.
        y_pred: (N,) scores.
        users: (N,), of any type.
        weights: of each user in the mean; None: the number of its rows.

    Raises:
        DataError: a user has one class only, or the lengths differ.
    """
    names, place = np.unique(np.asarray(users), return_inverse=True)
    found = _aucs(y_true, y_pred, place)
    own = [rows if weights is None else weights[name] for name, (_, rows) in zip(names.tolist(), found, strict=True)]
    return float(np.average([auc for auc, _ in found], weights=own))


def _aucs(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, group: npt.NDArray[Any]) -> list[tuple[float, int]]:
    """Return (AUC, rows) of the groups 0, 1, ..."""
    label, score = np.asarray(y_true, np.float64).reshape(-1), np.asarray(y_pred, np.float64).reshape(-1)
    if not len(label) == len(score) == len(group):
        raise DataError("labels, scores and users differ in length", expected=len(label), got=(len(score), len(group)))
    both = torch.from_numpy(score), torch.from_numpy(label > 0.5).long()
    aucs = count_pairs(*both, weight=None, group=torch.from_numpy(group)).auc.tolist()
    if any(math.isnan(auc) for auc in aucs):
        raise DataError("an AUC needs rows of both classes, each user's own too", expected="labels 0 and 1", got="one")
    return list(zip(aucs, np.bincount(group).tolist(), strict=True))


def log_loss(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> float:
    """Return the mean of -log p(label), in nats.

    Args:
        y_true: (N,), 0 or 1.
        y_pred: (N,) probabilities in (0, 1).
    """
    label, p = np.asarray(y_true, np.float64), np.asarray(y_pred, np.float64)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))


def topk_metrics(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> Said:
    """Return NDCG, MRR, Recall, Hit and Precision as lines such as `NDCG@10: 0.1234`, one for each k.

    `Hit` is the share of all chosen items that are found, over all users together, as Torch-RecHub has it; the others
    are means over the users. A user without chosen items has 0.

    Args:
        y_true: by user, the items that it chose.
        y_pred: by user, the items recommended, best first; at least k.
        topKs: numbers k >= 1; None: 5.

    Raises:
        ConfigError: `topKs` are no numbers >= 1.
        DataError: a user has no recommendations, or fewer than k.
    """
    said: Said = {name: [] for name in ("NDCG", "MRR", "Recall", "Hit", "Precision")}
    for k in _numbers(topKs):
        discounts = 1 / np.log2(np.arange(2, k + 2))
        sums, found_of_all, chosen_of_all = dict.fromkeys(said, 0.0), 0, 0
        for user, items in y_true.items():
            if len(y_pred.get(user, ())) < k:
                raise DataError("recommendations of a user", expected=f"{k} items of {user!r}", got=y_pred.get(user))
            chosen = set(items)
            if not chosen:
                continue
            found = np.array([item in chosen for item in y_pred[user][:k]])
            sums["NDCG"] += discounts[found].sum() / discounts[: len(items)].sum()
            sums["MRR"] += 1 / (1 + found.argmax()) if found.any() else 0.0
            sums["Recall"] += found.sum() / len(items)
            sums["Precision"] += found.sum() / k
            found_of_all, chosen_of_all = found_of_all + int(found.sum()), chosen_of_all + len(items)
        means = {name: total / max(len(y_true), 1) for name, total in sums.items()}
        means["Hit"] = found_of_all / max(chosen_of_all, 1)
        for name, lines in said.items():
            lines.append(f"{name}@{k}: {round(float(means[name]), 4)}")
    return said


def ndcg_score(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> list[str]:
    """Return the lines of `NDCG`; see `topk_metrics`."""
    return topk_metrics(y_true, y_pred, topKs)["NDCG"]


def hit_score(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> list[str]:
    """Return the lines of `Hit`; see `topk_metrics`."""
    return topk_metrics(y_true, y_pred, topKs)["Hit"]


def mrr_score(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> list[str]:
    """Return the lines of `MRR`; see `topk_metrics`."""
    return topk_metrics(y_true, y_pred, topKs)["MRR"]


def recall_score(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> list[str]:
    """Return the lines of `Recall`; see `topk_metrics`."""
    return topk_metrics(y_true, y_pred, topKs)["Recall"]


def precision_score(y_true: Lists, y_pred: Lists, topKs: Sequence[int] | None = None) -> list[str]:
    """Return the lines of `Precision`; see `topk_metrics`."""
    return topk_metrics(y_true, y_pred, topKs)["Precision"]


def diversity_score(
    y_pred: Lists, item_embeddings: Mapping[Any, Any] | npt.NDArray[Any], topKs: Sequence[int] | None = None
) -> Said:
    """Return one less the cosine of two recommended items, the mean of a user's pairs and then of users.

    Args:
        y_pred: by user, the items recommended, best first.
        item_embeddings: vectors by item, or (items, D) by number; items without one are left out.
        topKs: numbers k; None: 5. Users with fewer than two items count for nothing.

    Raises:
        ConfigError: `topKs` are no numbers >= 1.
    """
    known = item_embeddings if isinstance(item_embeddings, Mapping) else dict(enumerate(item_embeddings))

    def of(items: Sequence[Any]) -> float | None:
        vectors = np.array([known[item] for item in items if item in known], np.float64)
        if len(vectors) < 2:
            return None
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST)
        return float(1 - (unit @ unit.T)[np.triu_indices(len(unit), k=1)].mean())

    return _of_users("Diversity", y_pred, topKs, of)


def novelty_score(y_pred: Lists, item_popularity: Mapping[Any, float], topKs: Sequence[int] | None = None) -> Said:
    """Return -log2 of a recommended item's popularity, the mean of a user's items and then of users.

    Args:
        y_pred: by user, the items recommended, best first.
        item_popularity: each item's share of all rows, in (0, 1]; under 1e-10, or not there, it is 1e-10.
        topKs: numbers k; None: 5. Users without items count for nothing.

    Raises:
        ConfigError: `topKs` are no numbers >= 1.
    """

    def of(items: Sequence[Any]) -> float | None:
        shares = [max(item_popularity.get(item, _LEAST), _LEAST) for item in items]
        return float(-np.log2(shares).mean()) if shares else None

    return _of_users("Novelty", y_pred, topKs, of)


def coverage_score(y_pred: Lists, all_items: Collection[Hashable], topKs: Sequence[int] | None = None) -> Said:
    """Return the share of all items that some user is recommended.

    Args:
        y_pred: by user, the items recommended, best first.
        all_items: each once.
        topKs: numbers k; None: 5.

    Raises:
        ConfigError: `topKs` are no numbers >= 1.
    """
    covered = [(k, len({item for items in y_pred.values() for item in items[:k]})) for k in _numbers(topKs)]
    return {"Coverage": [f"Coverage@{k}: {round(count / len(all_items), 4)}" for k, count in covered]}


def _numbers(topKs: Sequence[int] | None) -> Sequence[int]:
    """Return the numbers k."""
    numbers = (5,) if topKs is None else topKs
    if not isinstance(numbers, Sequence) or not numbers or any(k < 1 for k in numbers):
        raise ConfigError("'topKs'", expected="numbers >= 1, as in [5, 10]", got=topKs)
    return numbers


def _of_users(
    name: str, y_pred: Lists, topKs: Sequence[int] | None, of: Callable[[Sequence[Any]], float | None]
) -> Said:
    """Return a line for each k with the mean of what `of` finds for users' first k items; 0 where it finds nothing."""
    lines = []
    for k in _numbers(topKs):
        found = [value for items in y_pred.values() if (value := of(items[:k])) is not None]
        lines.append(f"{name}@{k}: {round(float(np.mean(found)), 4) if found else 0.0}")
    return {name: lines}


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
