"""Rows of matching models: histories, and drawn items."""

from __future__ import annotations

import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rechub_ray.compat.utils.match import Annoy, Faiss, gen_model_input, generate_seq_feature_match, negative_sample
from rechub_ray.errors import ConfigError, DataError

LOG = pd.DataFrame(
    {"u": [1, 1, 1, 1, 2, 2, 3], "i": [5, 6, 7, 5, 6, 8, 9], "t": [3, 1, 2, 9, 1, 2, 1], "c": [1, 2, 3, 1, 2, 4, 5]}
)


def test_rows_have_what_came_before() -> None:
    np.random.seed(0)
    train, test = generate_seq_feature_match(LOG, "u", "i", "t", ["c"], mode=0, neg_ratio=2)
    # in time, user 1 had 6 7 5 5 and user 2 had 6 8; user 3 has no history
    assert list(train.columns) == ["u", "i", "hist_i", "histlen_i", "hist_c", "label"]
    chosen = train[train["label"] == 1].sort_values("histlen_i")
    assert chosen[["u", "i"]].to_numpy().tolist() == [[1, 7], [1, 5]]
    assert chosen["hist_i"].tolist() == [[6], [6, 7]]
    assert chosen["hist_c"].tolist() == [[2], [2, 3]]
    assert len(train[train["label"] == 0]) == 4
    assert set(train["i"]) <= set(LOG["i"])
    assert test.sort_values("u")[["u", "i", "histlen_i"]].to_numpy().tolist() == [[1, 5, 3], [2, 8, 1]]
    assert test["label"].tolist() == [1, 1]


def test_negatives_beside_the_rows() -> None:
    np.random.seed(0)
    pairs, _ = generate_seq_feature_match(LOG, "u", "i", "t", mode=1)
    lists, _ = generate_seq_feature_match(LOG, "u", "i", "t", mode=2, neg_ratio=3, sample_method=1)
    few, last = generate_seq_feature_match(LOG, "u", "i", "t", min_item=4)
    assert all(isinstance(item, int) for item in pairs["neg_items"])
    assert [len(some) for some in lists["neg_items"]] == [3, 3]
    assert {*few["u"]} == {*last["u"]} == {1}
    for arguments in ({"mode": 3}, {"mode": 2}):
        with pytest.raises(ConfigError):
            generate_seq_feature_match(LOG, "u", "i", "t", **arguments)


@pytest.mark.parametrize("method", [0, 1, 2])
def test_items_are_drawn_by_their_counts(method: int) -> None:
    np.random.seed(0)
    counts = {7: 100, 3: 10, 5: 1}
    weights = {0: [1, 1, 1], 1: [100**0.75, 10**0.75, 1], 2: [np.log(101), np.log(11), np.log(2)]}[method]
    found = Counter(negative_sample(counts, 60_000, method).tolist())
    expected = np.array(weights) / sum(weights) * 60_000
    assert [found[i] for i in counts] == pytest.approx(expected, abs=4 * 60_000**0.5)


def test_items_without_replacement_and_methods_that_are_not_there() -> None:
    assert sorted(negative_sample({7: 9, 3: 2, 5: 1}, 3, 3).tolist()) == [3, 5, 7]
    with pytest.raises(ConfigError, match="no such method"):
        negative_sample({7: 9}, 1, 4)


def test_columns_of_users_and_items_are_joined_and_lists_padded() -> None:
    rows = pd.DataFrame({"u": [2, 1], "i": [6, 5], "hist_i": [[1, 2, 3], []]})
    users, items = pd.DataFrame({"u": [1, 2], "sex": [7, 8]}), pd.DataFrame({"i": [5, 6], "tag_x": [[4], [1, 2, 3]]})
    found = gen_model_input(rows, users, "u", items, "i", seq_max_len=2)
    assert {name: values.tolist() for name, values in found.items()} == {
        "u": [2, 1], "i": [6, 5], "hist_i": [[2, 3], [0, 0]], "sex": [8, 7], "tag_x": [[2, 3], [0, 4]],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "index_type", "arguments"),
    [("l2", "flat", {}), ("ip", "Flat", {}), ("ip", "ivf", {"nlist": 2}), ("l2", "hnsw", {"m": 8})],
)
def test_faiss_finds_the_nearest(metric: str, index_type: str, arguments: dict[str, int], tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    query = vectors[:5] * 0.9
    index = Faiss(8, index_type, metric=metric, **arguments)
    index.set_query_arguments(nprobe=2, efSearch=200)
    index.fit(torch.tensor(vectors))
    scores = query @ vectors.T if metric == "ip" else -((query[:, None] - vectors) ** 2).sum(2)
    ids, distances = index.query(torch.tensor(query), 3)
    assert ids == (-scores).argsort(1)[:, :3].tolist()
    best = np.sort(scores, axis=1)[:, ::-1][:, :3]
    np.testing.assert_allclose(distances, best if metric == "ip" else -best, rtol=1e-4, atol=1e-5)
    index.save_index(str(tmp_path / "index"))
    again = Faiss(8, index_type, metric=metric, **arguments)
    again.load_index(str(tmp_path / "index"))
    again.set_query_arguments(nprobe=2, efSearch=200)
    assert again.query(query[0], 3)[0] == ids[:1]
    with pytest.raises(ConfigError, match="'metric'"):
        Faiss(8, metric="cosine")
    with pytest.raises(ConfigError, match="no vectors yet"):
        Faiss(8).query(query, 3)
    for wrong in (lambda: index.fit(vectors[:, :5]), lambda: index.query(query[0, :5], 3)):
        with pytest.raises(DataError, match=r"vectors of another shape. Expected: \(N, 8\)"):
            wrong()
    with pytest.raises(DataError, match=r"too few vectors for the lists of ivf\. Expected: 100"):
        Faiss(8, "ivf").fit(vectors[:50])


class ExactIndex:
    """What of `annoy.AnnoyIndex` is used, with an exact search: annoy has no wheels, so it is not everywhere."""

    def __init__(self, f: int, metric: str) -> None:
        assert metric == "angular"
        self.f, self.items, self.trees = f, dict[int, Any](), 0

    def add_item(self, number: int, vector: Any) -> None:
        self.items[number] = np.asarray(vector) / np.linalg.norm(vector)

    def build(self, n_trees: int) -> None:
        self.trees = n_trees

    def get_nns_by_vector(self, vector: Any, n: int, search_k: int, include_distances: bool) -> Any:
        assert (self.trees, search_k, include_distances) == (20, 10_000, True)
        far = {i: float(np.linalg.norm(v - vector / np.linalg.norm(vector))) for i, v in self.items.items()}
        ids = sorted(far, key=far.__getitem__)[:n]
        return ids, [far[i] for i in ids]


@pytest.mark.parametrize("package", ["annoy", "a stand-in"])
def test_annoy_finds_the_nearest(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "annoy":
        pytest.importorskip("annoy", reason="annoy is not installed")
    else:
        monkeypatch.setitem(sys.modules, "annoy", types.SimpleNamespace(AnnoyIndex=ExactIndex))  # type: ignore[arg-type]
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    index = Annoy(n_trees=20)
    with pytest.raises(ConfigError, match="fit"):
        index.query(vectors[0], 3)
    index.fit(vectors)
    index.set_query_arguments(search_k=10_000)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, distances = index.query(torch.tensor(vectors[7]), 4)
    assert ids == (-unit[7] @ unit.T).argsort()[:4].tolist()
    np.testing.assert_allclose(distances, np.sqrt(np.maximum(2 - 2 * unit[7] @ unit[ids].T, 0)), atol=1e-3)
    with pytest.raises(DataError, match=r"Expected: \(N, 8\)"):
        index.query(vectors[0, :5], 3)
    with pytest.raises(ConfigError, match=r"'metric'.*angular"):
        Annoy(metric="cosine")


def test_an_index_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "annoy", None)
    with pytest.raises(ConfigError, match="pip install annoy"):
        Annoy()
