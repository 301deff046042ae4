"""Ranks among a few items: the lists that rows give, and drawn ones; in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import RaggedSequences
from rechub_ray.evaluation import candidates as module
from rechub_ray.evaluation.candidates import drawn, without
from rechub_ray.evaluation.corpus import Corpus, Pairs
from tests.evaluation.test_corpus import catalogue_of

NONE = Pairs(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def by_row(pairs: Pairs, rows: int) -> list[list[int]]:
    return [pairs.places[pairs.rows == i].sort().values.tolist() for i in range(rows)]


def pairs_of(lists: list[list[int]], items: int) -> Pairs:
    rows = torch.tensor([i for i, some in enumerate(lists) for _ in some])
    return Pairs.of(rows, torch.tensor([j for some in lists for j in some]), items)


@pytest.mark.parametrize("several", [False, True])
def test_a_rank_counts_the_listed_items_that_are_not_behind(several: bool) -> None:
    rng = np.random.default_rng(0)
    ids, rows = np.arange(1, 301), 300  # more than a block of users
    vectors = rng.normal(size=(300, 5)).astype(np.float32)
    vectors[20:30] = vectors[20]  # ties
    users = rng.normal(size=(rows, 3, 5) if several else (rows, 5)).astype(np.float32)
    targets = rng.integers(1, 301, rows)
    targets[:10], targets[4] = np.arange(21, 31), 999
    lists = [rng.integers(0, 320, rng.integers(0, 40)).tolist() for _ in range(rows)]
    lists[3] += [int(targets[3]), *range(21, 31), *range(21, 31)]  # its own item, and all that tie with it twice
    lists[5] = []
    corpus = Corpus(torch.from_numpy(vectors), catalogue_of(ids))
    values = torch.tensor([0, 0, 0, *(i for some in lists for i in some)])
    offsets = torch.tensor([0, *([0] * (rows - 1)), 3, *(len(some) for some in lists)]).cumsum(0)
    places = corpus.catalogue.rows_of(torch.from_numpy(targets))
    listed = corpus.listed(RaggedSequences(values, offsets), 1, places)
    found = corpus.ranks_among(torch.from_numpy(users), places, listed)
    products = users.astype(np.float64) @ vectors.T.astype(np.float64)
    products = products.max(1) if several else products
    for i in range(rows):
        others = {j for j in lists[i] if 1 <= j <= 300} - {int(targets[i])}
        own = products[i, targets[i] - 1] if targets[i] <= 300 else -np.inf
        rank = 300 if targets[i] > 300 else sum(bool(products[i, j - 1] >= own - 1e-9) for j in others)
        assert int(found[i]) == (rank if others else -1), i
    scores = corpus.scores(torch.from_numpy(users), places)
    assert scores[4] == -torch.inf
    np.testing.assert_allclose(scores[7], products[7, targets[7] - 1], rtol=1e-5)


@pytest.mark.parametrize(("number", "items"), [(99, 3000), (99, 120), (5, 6), (50, 30)])
def test_drawn_ones_are_different_and_none_is_excluded(number: int, items: int) -> None:
    rng = np.random.default_rng(1)
    excluded = [rng.integers(0, items, rng.integers(0, 9)).tolist() for _ in range(300)]
    found = by_row(drawn(number, pairs_of(excluded, items), rows=torch.arange(300), items=items, seed=0), 300)
    for some, out in zip(found, excluded, strict=True):
        assert len(some) == len({*some}) == min(number, items - len({*out}))
        assert not {*some} & {*out}
        assert min(some, default=0) >= 0
        assert max(some, default=0) < items


def test_each_item_is_drawn_as_often_as_any_other() -> None:
    found = drawn(5, NONE, rows=torch.arange(20_000), items=20, seed=0)
    counts = np.bincount(found.places.numpy(), minlength=20)
    assert ((counts - 5000) ** 2 / (5000 * 0.75)).sum() < 20 + 5 * np.sqrt(40)


def test_a_row_gets_the_same_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    excluded = [rng.integers(0, 90, 7).tolist() for _ in range(40)]

    def of(start: int, stop: int, seed: int = 0) -> list[list[int]]:
        rows: Tensor = torch.arange(start, stop)
        return by_row(drawn(60, pairs_of(excluded[start:stop], 90), rows=rows, items=90, seed=seed), stop - start)

    whole = of(0, 40)
    assert of(0, 13) + of(13, 40) == whole
    assert of(0, 40, seed=1) != whole
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "_NUMBERS", 100)
    assert of(0, 40) == whole


def test_what_is_excluded_is_no_candidate() -> None:
    left = without(pairs_of([[3, 1], [2], [5]], 9), pairs_of([[1, 8], [], [5]], 9), 9)
    assert by_row(left, 3) == [[3], [2], []]
