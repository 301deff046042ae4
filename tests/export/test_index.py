"""Searches of items' vectors: what NumPy finds by sorting, whatever is left out; indexes that are the same twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError, DataError, ExportError
from rechub_ray.export import index as index_module
from rechub_ray.export import search as search_module
from rechub_ray.export.index import INDEXES, build, checked, read, write
from rechub_ray.export.search import LeftOut, Search, recall

RNG = np.random.default_rng(5)
VECTORS = RNG.normal(size=(900, 12)).astype(np.float32)
USERS = RNG.normal(size=(37, 12)).astype(np.float32)
SEVERAL = RNG.normal(size=(37, 3, 12)).astype(np.float32)


def by_sorting(users: np.ndarray, number: int, left_out: LeftOut | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The places and the products in float64, by a whole sort."""
    products = users.astype(np.float64) @ VECTORS.astype(np.float64).T
    products = products.max(1) if products.ndim == 3 else products
    if left_out is not None:
        products[left_out.rows, left_out.places] = -np.inf
    places = np.argsort(-products, 1)[:, :number]
    return places, np.take_along_axis(products, places, 1)


def searched(name: str | None) -> Search:
    if name is None:
        return Search(VECTORS)
    settings = INDEXES.build({"name": name})
    return Search(VECTORS, build(settings, VECTORS), settings)


@pytest.fixture(params=[0, 99], ids=["PyTorch", "NumPy"])
def small_blocks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(search_module, "FEW", request.param)
    monkeypatch.setattr(search_module, "_USERS", 16)
    monkeypatch.setattr(search_module, "_ITEMS", 200)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("users", [USERS, SEVERAL], ids=["one vector", "three vectors"])
@pytest.mark.parametrize("name", [None, "flat"])
def test_the_first_items_are_those_of_a_sort(name: str | None, users: np.ndarray) -> None:
    places, scores = by_sorting(users, 3)
    found = searched(name)(users, 3)
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", [None, "flat", "hnsw", "ivf"])
def test_items_are_left_out_and_none_is_missing(name: str | None) -> None:
    """One user is left with two items, for whom an index gives too few; another one is not given the best three."""
    best, _ = by_sorting(USERS, 3)
    rows = np.concatenate([np.full(898, 4), np.full(3, 20)])
    left_out = LeftOut(rows, np.concatenate([np.arange(898), best[20]]))
    found = searched(name)(USERS, 5, left_out)
    assert found.places[4].tolist()[2:] == [-1] * 3
    assert sorted(found.places[4, :2]) == [898, 899]
    assert np.isneginf(found.scores[4, 2:]).all()
    places, scores = by_sorting(USERS, 5, left_out)
    assert not set(found.places[20]) & set(best[20])
    assert (np.delete(found.places, 4, 0) >= 0).all()
    assert (np.diff(found.scores[:4], axis=1) <= 0).all()
    if name in (None, "flat"):
        np.testing.assert_array_equal(np.delete(found.places, 4, 0), np.delete(places, 4, 0))
        np.testing.assert_allclose(found.scores[4, :2], scores[4, :2], atol=1e-5)


def test_more_items_than_there_are() -> None:
    found = Search(VECTORS[:3])(USERS, 7)
    assert found.places.shape == (37, 3)
    assert (np.sort(found.places, 1) == np.arange(3)).all()


def test_no_user_and_no_pair() -> None:
    assert Search(VECTORS)(USERS[:0], 4).places.shape == (0, 4)
    assert len(LeftOut.none().of(np.array([3])).rows) == 0


@pytest.mark.parametrize(
    ("node", "least"),
    [
        ("hnsw", 0.95),
        ({"name": "hnsw", "m": 4, "ef_search": 10}, 0.3),
        ("ivf", 0.4),
        ({"name": "ivf", "nprobe": 90}, 1),
    ],
)
def test_an_approximate_index_finds_most_and_its_scores_are_products(node: Any, least: float) -> None:
    settings = INDEXES.build(node)
    search = Search(VECTORS, build(settings, VECTORS), settings)
    share = recall(search, USERS, 10)
    places, _ = by_sorting(USERS, 10)
    found = search.from_index(USERS, 10)
    assert least <= share <= 1
    assert share == pytest.approx(np.mean([len({*a} & {*b}) / 10 for a, b in zip(places, found.places, strict=True)]))
    products = np.take_along_axis(USERS @ VECTORS.T, found.places.clip(0), 1)
    np.testing.assert_allclose(found.scores[found.places >= 0], products[found.places >= 0], atol=1e-5)


@pytest.mark.parametrize("name", ["flat", "hnsw", "ivf"])
def test_an_index_is_the_same_again_and_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    files = [
        Path(write(build(INDEXES.build({"name": name}), VECTORS), str(tmp_path / folder))) for folder in ("a", "b")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    settings = INDEXES.build({"name": name})
    again = Search(VECTORS, read(str(tmp_path / "a")), settings)(USERS, 5)
    np.testing.assert_array_equal(again.places, searched(name)(USERS, 5).places)


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown index 'hnws'.*Did you mean 'hnsw'"):
        checked("hnws", where="index")
    with pytest.raises(ConfigError, match="no argument 'lists'"):
        checked({"name": "ivf", "lists": 3}, where="index")
    with pytest.raises(ExportError, match=r"more lists than items.*at most 900.*1000"):
        build(INDEXES.build({"name": "ivf", "nlist": 1000}), VECTORS)
    with pytest.raises(DataError, match=r"cannot be read as an index.*--index"):
        read(str(tmp_path))
    (tmp_path / "index.faiss").write_bytes(b"no index")
    with pytest.raises(DataError, match="cannot be read as an index"):
        read(str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr(index_module.importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name))
    with pytest.raises(ExportError, match=r"'export.index: hnsw' needs faiss.*pip install 'rechub_ray\[faiss\]'"):
        checked("hnsw", where="export.index")
