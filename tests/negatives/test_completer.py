"""Batches with candidates: rows' items in order, drawn ones behind them, and how often each is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray.batch import Batch, RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.negatives.completer import Completer
from tests.small_retrieval import SCHEMA, write_retrieval

MIXED: list[Any] = ["in_batch", {"name": "uniform", "number": 10}, {"name": "popularity", "number": 7, "alpha": 0.5}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_retrieval(tmp_path_factory.mktemp("r") / "data")


@pytest.fixture(scope="module")
def catalogue(root: Path) -> Catalogue:
    return Catalogue.read(str(root), SCHEMA)


@pytest.fixture(scope="module")
def rows(root: Path) -> Batch:
    return batch_from_table(pq.read_table(root / "train").slice(0, 64), SCHEMA)


def test_rows_items_come_first_and_drawn_ones_behind_them(root: Path, catalogue: Catalogue, rows: Batch) -> None:
    done = Completer(SCHEMA, catalogue, MIXED, rows=64)(rows, seed=5)
    assert done.candidates is not None
    ids = done.candidates.ids
    assert ids.shape == (64 + 17,)
    table = pq.read_table(root / "items").to_pandas().set_index("item")
    own = pq.read_table(root / "train")["item"].to_numpy()[:64]
    assert ids[:64].tolist() == [i if i in table.index else -1 for i in own]
    assert -1 in ids[:64].tolist()
    assert {*ids[64:].tolist()} <= {*table.index}
    features = done.candidates.features
    known = (ids >= 0).numpy()
    of = table.loc[ids[known].numpy()]
    assert features.sparse[known].tolist() == [[i, g] for i, g in zip(of.index, of["genre"], strict=True)]
    np.testing.assert_array_equal(features.dense[known, 0].numpy(), of["price"].to_numpy())
    assert isinstance(features.sequences, RaggedSequences)
    lists = np.split(features.sequences.values.numpy(), features.sequences.offsets[1:-1].numpy())
    assert [lists[i].tolist() for i in np.flatnonzero(known)] == [tags.tolist() for tags in of["tags"]]


def test_what_the_user_tower_gets_has_no_item(catalogue: Catalogue, rows: Batch) -> None:
    done = Completer(SCHEMA, catalogue, ["in_batch"], rows=64)(rows, seed=5)
    assert torch.equal(done.features.sparse, rows.features.sparse[:, :1])
    assert done.features.sequences is rows.features.sequences
    assert [f.name for f in SCHEMA.user_side.features] == ["user", "age", "history", "words"]


@pytest.mark.parametrize("nodes", [MIXED, MIXED[:1], MIXED[1:], MIXED[::-1]])
def test_the_expected_share_is_that_of_all_sources(catalogue: Catalogue, rows: Batch, nodes: list[Any]) -> None:
    done = Completer(SCHEMA, catalogue, nodes, rows=256)(rows, seed=5)
    assert done.candidates is not None
    n = catalogue.count.numpy().astype(float)
    root = np.sqrt(np.maximum(n, 1))
    by_name = {
        "in_batch": 256 * np.maximum(n, 1) / n.sum(),
        "uniform": 10 * np.ones(len(n)) / len(n),
        "popularity": 7 * root / root.sum(),
    }
    names = [node if isinstance(node, str) else node["name"] for node in nodes]
    number = sum({"in_batch": 256, "uniform": 10, "popularity": 7}[name] for name in names)
    share = sum(by_name[name] for name in names) / number
    ids = done.candidates.ids
    places = np.searchsorted(catalogue.ids.numpy(), ids.numpy())
    known = (ids >= 0).numpy()
    np.testing.assert_allclose(done.candidates.log_q.numpy()[known], np.log(share)[places[known]], rtol=1e-6)
    assert done.candidates.in_batch == ("in_batch" in names)
    expected = ids if "in_batch" in names else torch.cat([torch.full((64,), -1), ids[64:]])
    assert torch.equal(done.candidates.negatives(64), expected)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_a_step_draw_what_the_whole_draws(catalogue: Catalogue, rows: Batch, parts: int) -> None:
    complete = Completer(SCHEMA, catalogue, MIXED[1:], rows=64)
    whole = complete(rows, seed=9).candidates
    pieces = [complete(rows, seed=9, part=i, parts=parts).candidates for i in range(parts)]
    assert whole is not None
    shares = [piece.ids[64:] for piece in pieces if piece is not None]
    # each part has its share of every source
    found = sorted(torch.cat(shares).tolist())
    assert found == sorted(whole.ids[64:].tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_draws_depend_on_the_seed_alone(catalogue: Catalogue, rows: Batch) -> None:
    complete = Completer(SCHEMA, catalogue, MIXED, rows=64)
    torch.manual_seed(1)
    first = complete(rows, seed=9).candidates
    torch.manual_seed(2)
    again, other = complete(rows, seed=9).candidates, complete(rows, seed=10).candidates
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids[64:], other.ids[64:])


def test_candidates_move_with_their_batch(catalogue: Catalogue, rows: Batch) -> None:
    done = Completer(SCHEMA, catalogue, MIXED, rows=64)(rows, seed=9)
    moved = done.to(torch.device("meta"))
    assert moved.candidates is not None
    assert moved.candidates.ids.is_meta
    assert moved.candidates.log_q.is_meta
    assert moved.candidates.features.sparse.is_meta
