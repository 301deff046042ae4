"""Ranks among all items, in NumPy by sorting; ties, lists that are left out, and several vectors a user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.evaluation import corpus as corpus_module
from rechub_ray.evaluation.corpus import Corpus, Ranking, item_vectors
from rechub_ray.export.search import Search
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import Items, Schema, SparseFeature
from rechub_ray.world import World
from tests.small_retrieval import SCHEMA, write_retrieval
from tests.worlds import on_ranks

ALL = {"rank": Ranking(), "rank/seen": Ranking(0, 4), "rank/short": Ranking(1)}


def catalogue_of(ids: np.ndarray) -> Catalogue:
    schema = Schema((SparseFeature("item", int(ids.max()) + 1),), (), items=Items("item")).item_side
    features = Features(torch.from_numpy(ids).unsqueeze(1), torch.zeros(len(ids), 0))
    return Catalogue(schema, features, torch.ones(len(ids), dtype=torch.int64))


@pytest.fixture(params=[(16, 4), (4096, 128)], ids=["small blocks", "large blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    items, users = request.param
    monkeypatch.setattr(corpus_module, "_ITEMS", items)
    monkeypatch.setattr(corpus_module, "_USERS", users)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("several", [False, True])
def test_ranks_are_those_of_sorting(several: bool) -> None:
    rng = np.random.default_rng(0)
    ids = np.sort(rng.permutation(np.arange(1, 200))[:90])
    vectors = rng.normal(size=(90, 6)).astype(np.float32)
    users = rng.normal(size=(23, 3, 6) if several else (23, 6)).astype(np.float32)
    targets = rng.choice(ids, 23)
    targets[5] = int(np.setdiff1d(np.arange(1, 200), ids)[0])  # not in the table
    seen = [rng.integers(0, 200, rng.integers(0, 30)).tolist() for _ in range(23)]
    seen[2] += [int(targets[2]), seen[1][0] if seen[1] else 1, int(targets[2])]  # the own item stays
    short = [row[:2] for row in seen]
    values = torch.tensor([i for rows in (seen, short) for row in rows for i in row])
    offsets = torch.tensor([0, *(len(row) for rows in (seen, short) for row in rows)]).cumsum(0)
    found = Corpus(torch.from_numpy(vectors), catalogue_of(ids)).compare(
        torch.from_numpy(users), torch.from_numpy(targets), RaggedSequences(values, offsets), ALL
    )
    products = users.astype(np.float64) @ vectors.T.astype(np.float64)
    products = products.max(1) if several else products
    for name, out in (("rank", [[]] * 23), ("rank/seen", seen), ("rank/short", short)):
        for i in range(23):
            left = [j for j in range(90) if ids[j] == targets[i] or ids[j] not in out[i]]
            order = sorted(left, key=lambda j, i=i: -products[i, j])
            place = [k for k, j in enumerate(order) if ids[j] == targets[i]]
            assert int(found[name][i]) == (place[0] if place else 90), (name, i)
    for i in range(23):
        left = [j for j in range(90) if ids[j] == targets[i] or ids[j] not in seen[i]]
        assert found["rank/seen/top"][i].tolist() == sorted(left, key=lambda j, i=i: -products[i, j])[:4]


@pytest.mark.usefixtures("blocks")
def test_the_cross_entropy_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(1, 91)
    vectors, users = (torch.from_numpy(rng.normal(size=(n, 6)) * 3).float() for n in (90, 23))
    targets = torch.from_numpy(rng.choice(ids, 23))
    asked = {"a": Ranking(temperature=0.3), "b": Ranking()}
    found = Corpus(vectors, catalogue_of(ids)).compare(users, targets, None, asked)
    expected = torch.nn.functional.cross_entropy(users @ vectors.T / 0.3, targets - 1, reduction="none")
    torch.testing.assert_close(found["a/loss"], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found["a"], found["b"])
    assert "b/loss" not in found


@pytest.mark.parametrize("items", [1, 37, 3000, 5000])
@pytest.mark.parametrize("width", [1, 7, 16, 64, 100])
def test_a_model_whose_items_are_all_alike_ranks_every_item_last(items: int, width: int) -> None:
    rng = np.random.default_rng(1)
    vectors = torch.from_numpy(rng.normal(size=(1, width))).float().expand(items, -1)
    users = torch.from_numpy(rng.normal(size=(150, width))).float()
    ids = np.arange(1, items + 1)
    targets = torch.from_numpy(rng.choice(ids, 150))
    ranks = Corpus(vectors, catalogue_of(ids)).compare(users, targets, None, {"rank": Ranking()})["rank"]
    assert ranks.tolist() == [items - 1] * 150


def test_what_is_not_finite_does_not_win() -> None:
    ids = np.arange(1, 11)
    corpus = Corpus(torch.ones(10, 2), catalogue_of(ids))
    users = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])
    ranks = corpus.compare(users, torch.tensor([3, 4]), None, {"rank": Ranking()})["rank"]
    assert ranks.tolist() == [9, 9]
    vectors = torch.ones(10, 2)
    vectors[4] = float("nan")
    ranks = Corpus(vectors, catalogue_of(ids)).compare(
        torch.ones(2, 2), torch.tensor([5, 4]), None, {"rank": Ranking()}
    )
    assert ranks["rank"].tolist() == [9, 9]


def test_no_rows_have_no_ranks() -> None:
    corpus = Corpus(torch.ones(10, 2), catalogue_of(np.arange(1, 11)))
    found = corpus.compare(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), None, {"rank": Ranking()})
    assert found["rank"].shape == (0,)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_workers_share_the_items_and_have_the_same_bits(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "_ITEMS", 16)  # 4 blocks: one of five workers has none
    catalogue = Catalogue.read(str(write_retrieval(tmp_path / "data", train=100, valid=10)), SCHEMA)
    model: Any = MODELS.build("dssm", SCHEMA)
    assert isinstance(model, Retriever)
    model.eval()

    def work(world: World) -> Tensor:
        return item_vectors(model, catalogue, world=world, device=torch.device("cpu"))

    whole = work(World())
    assert whole.shape == (catalogue.rows, 64)
    with torch.no_grad():
        torch.testing.assert_close(whole, model.item_vectors(catalogue.features), rtol=1e-5, atol=1e-6)
    for found in on_ranks(size, work):
        assert torch.equal(found, whole)


def test_ranks_and_first_items_have_the_same_bits_on_one_and_two_threads() -> None:
    random = torch.Generator().manual_seed(0)
    ids = np.arange(1, 5001)
    users, items = (torch.randn(n, 24, generator=random) for n in (700, len(ids)))  # three blocks of users
    targets = torch.randint(1, len(ids) + 1, (700,), generator=random)
    corpus, search = Corpus(items, catalogue_of(ids)), Search(items.numpy())
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ranks = corpus.compare(users, targets, None, {"": Ranking(None, 9)})
            first = search(users.numpy(), 9)
            found.append([*ranks.values(), torch.from_numpy(first.places), torch.from_numpy(first.scores)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
