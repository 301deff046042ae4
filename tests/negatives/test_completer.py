"""Batches with candidates: rows' items in order, drawn ones behind them, and how often each is expected."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray.batch import Batch, Features, RaggedSequences, split
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.negatives import NEGATIVES, hard
from rechub_ray.negatives.base import Rows, Seen, uniform_numbers
from rechub_ray.negatives.completer import Completer
from rechub_ray.world import World
from tests.small_retrieval import SCHEMA, write_retrieval
from tests.worlds import on_ranks

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


def with_lists(rows: Batch, shown: list[list[int]]) -> Batch:
    values, lengths = torch.tensor([i for some in shown for i in some]), torch.tensor([0, *map(len, shown)])
    return dataclasses.replace(rows, lists=RaggedSequences(values, lengths.cumsum(0)))


def of_each_row(done: Batch) -> list[list[int]]:
    """The ids of the negatives that each row has for itself."""
    candidates = done.candidates
    assert candidates is not None
    assert candidates.listed is not None
    return [[int(candidates.ids[j]) for j in some if j >= 0] for some in candidates.listed.tolist()]


@pytest.mark.parametrize("shared", [[], MIXED])
def test_a_row_gets_the_items_of_its_list(root: Path, catalogue: Catalogue, rows: Batch, shared: list[Any]) -> None:
    known, shown = {*catalogue.ids.tolist()}, pq.read_table(root / "train")["shown"].to_pylist()[:64]
    assert [] in shown
    nodes = [*shared, {"name": "column", "column": "shown"}]
    done = Completer(SCHEMA, catalogue, nodes, rows=64)(with_lists(rows, shown), seed=5)
    assert of_each_row(done) == [[i for i in some if i in known] for some in shown]
    alone = Completer(SCHEMA, catalogue, shared, rows=64)(rows, seed=5).candidates
    candidates = done.candidates
    assert candidates is not None
    assert alone is not None
    first = 64 + (17 if shared else 0)
    assert torch.equal(candidates.ids[:first], alone.ids[:first])
    assert candidates.is_shared == bool(shared)
    assert torch.equal(candidates.negatives(64), alone.negatives(64))
    # an item that several lists name has one column
    assert sorted(candidates.ids[first:].tolist()) == sorted({i for some in shown for i in some} & known)
    fewer = Completer(SCHEMA, catalogue, [{"name": "column", "column": "shown", "number": 2}], rows=64)
    assert of_each_row(fewer(with_lists(rows, shown), seed=5)) == [
        [i for i in some[:2] if i in known] for some in shown
    ]
    if not shared:
        assert candidates.log_q.tolist() == [0.0] * len(candidates.ids)
        return
    # in as many columns as all rows have, an item of the row's own list is there once more
    share = torch.zeros(len(catalogue.ids), dtype=torch.float64)
    n = catalogue.count.double()
    for number, weight in ((64, n.clamp(min=1) / n.sum()), (10, torch.ones(len(n)) / len(n))):
        share += number * weight
    share += 7 * n.clamp(min=1).sqrt() / n.clamp(min=1).sqrt().sum()
    expected = ((share + 1) / 81).log()[catalogue.rows_of(candidates.ids[first:])]
    torch.testing.assert_close(candidates.log_q[first:].double(), expected, rtol=1e-6, atol=1e-6)


def test_without_sources_a_row_has_its_own_item_alone(catalogue: Catalogue, rows: Batch) -> None:
    candidates = Completer(SCHEMA, catalogue, [], rows=64)(rows, seed=5).candidates
    assert candidates is not None
    assert not candidates.is_shared
    assert len(candidates.ids) == 64
    assert candidates.listed is not None
    assert candidates.listed.shape == (64, 0)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("skip", "pool"), [(0, None), (2, None), (0, 9), (1, 500)])
def test_hard_ones_are_the_largest_products(
    catalogue: Catalogue, rows: Batch, skip: int, pool: int | None, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    count, own = len(catalogue.ids), catalogue.rows_of(rows.features.sparse[:, 1])
    items = torch.randn(count, 4, generator=generator)
    users = torch.randn(64, 3, 4, generator=generator) if several else torch.randn(64, 4, generator=generator)
    node = {"name": "hard", "number": 3, "skip": skip, "pool": pool, "refresh_steps": 7}
    complete = Completer(SCHEMA, catalogue, ["in_batch", node], rows=64)
    assert complete.refresh_steps == 7
    complete.vectors = items
    found = of_each_row(complete(rows, seed=3, users=lambda features: users))
    chosen = range(count)
    if pool is not None:
        numbers = uniform_numbers(3, 0, 0, pool, device=torch.device("cpu"))
        chosen = sorted({int(u * count) for u in numbers.tolist()})
    for i in range(64):
        products = (users[i].view(-1, 4) @ items.T).amax(0)
        order = sorted((j for j in chosen if j != int(own[i])), key=lambda j, p=products: -float(p[j]))
        assert found[i] == catalogue.ids[order[skip : skip + 3]].tolist(), i
    monkeypatch.setattr(hard, "_BLOCK", 100)
    assert of_each_row(complete(rows, seed=3, users=lambda features: users)) == found


def test_hard_ones_are_as_many_as_there_are_items(catalogue: Catalogue, rows: Batch) -> None:
    complete = Completer(SCHEMA, catalogue, [{"name": "hard", "number": 1000}], rows=64)
    complete.vectors = torch.randn(len(catalogue.ids), 4, generator=torch.Generator().manual_seed(0))
    own, users = rows.features.sparse[:, 1].tolist(), torch.ones(64, 4)
    for i, found in enumerate(of_each_row(complete(rows, seed=3, users=lambda features: users))):
        assert sorted(found) == [j for j in catalogue.ids.tolist() if j != own[i]]


def test_several_sources_of_rows_stand_side_by_side(root: Path, catalogue: Catalogue, rows: Batch) -> None:
    shown = pq.read_table(root / "train")["shown"].to_pylist()[:64]
    complete = Completer(
        SCHEMA, catalogue, [{"name": "hard", "number": 2}, {"name": "column", "column": "shown"}], rows=64
    )
    complete.vectors = torch.randn(len(catalogue.ids), 4, generator=torch.Generator().manual_seed(0))
    users, known = torch.ones(64, 4), {*catalogue.ids.tolist()}
    found = of_each_row(complete(with_lists(rows, shown), seed=3, users=lambda features: users))
    assert [some[2:] for some in found] == [[i for i in some if i in known] for some in shown]
    best = catalogue.ids[(complete.vectors.sum(1)).argsort(descending=True)].tolist()
    assert found[0][:2] == [j for j in best if j != int(rows.features.sparse[0, 1])][:2]


def test_rows_draw_items_of_other_rows_the_same_on_any_number_of_workers(catalogue: Catalogue, rows: Batch) -> None:
    complete = Completer(SCHEMA, catalogue, [{"name": "in_batch_drawn", "number": 500}], rows=64)
    own = rows.features.sparse[:, 1].tolist()
    candidates = complete(rows, seed=3).candidates
    assert candidates is not None
    assert candidates.listed is not None
    found = of_each_row(complete(rows, seed=3))
    known = {*catalogue.ids.tolist()}
    for i, some in enumerate(found):
        others = [j for k, j in enumerate(own) if k != i and j in known]
        assert {*some} == {*others}
        counts = np.bincount(some, minlength=100)[sorted({*others})]
        expected = 500 * np.bincount(others, minlength=100)[sorted({*others})] / 63
        assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 6 * np.sqrt(2 * len(counts))
    shares = [slice(0, 20), slice(20, 64)]

    def work(world: World) -> list[list[int]]:
        mine = split_rows(rows, shares[world.rank])
        return of_each_row(complete(mine, seed=3, part=world.rank, parts=2, world=world))

    one, two = on_ranks(2, work)
    assert one + two == found
    alone = complete(split_rows(rows, slice(0, 1)), seed=3)
    assert of_each_row(alone) == [[]]


def split_rows(rows: Batch, part: slice) -> Batch:
    sequences = rows.features.sequences
    assert isinstance(sequences, RaggedSequences)
    features = Features(rows.features.sparse[part], rows.features.dense[part], None)
    return Batch(features, rows.labels[part])


def listed(batch: Batch) -> torch.Tensor:
    """The ids of the items that were drawn for each row."""
    assert batch.candidates is not None
    assert batch.candidates.listed is not None
    return batch.candidates.ids[batch.candidates.listed]


def seen(batch: Batch) -> list[set[int]]:
    """The items of each row: its own and those of its history."""
    sequences = batch.features.sequences
    assert isinstance(sequences, RaggedSequences)
    lists = np.split(sequences.values.numpy(), sequences.offsets[1:-1].numpy())[: batch.rows]
    return [{*items.tolist(), int(own)} for items, own in zip(lists, batch.features.sparse[:, 1], strict=True)]


def test_items_drawn_for_rows_are_none_of_theirs_and_all_others_alike(catalogue: Catalogue, rows: Batch) -> None:
    complete, found = Completer(SCHEMA, catalogue, [{"name": "uniform_per_row", "number": 50}], rows=64), []
    for seed in range(40):
        candidates = complete(rows, seed=seed).candidates
        assert candidates is not None
        assert candidates.listed is not None
        assert candidates.listed.shape == (64, 50)
        assert candidates.negatives(64).tolist() == [-1] * 64
        found.append(candidates.ids[candidates.listed])
    for row, theirs in enumerate(seen(rows)):
        drawn = torch.cat([ids[row] for ids in found])
        free = sorted({*catalogue.ids.tolist()} - theirs)
        count = np.bincount(np.searchsorted(free, drawn.numpy()), minlength=len(free))
        assert {*drawn.tolist()} == {*free}
        expected = len(drawn) / len(free)
        assert ((count - expected) ** 2 / expected).sum() < len(free) + 6 * np.sqrt(2 * len(free))


def test_parts_draw_for_rows_what_the_whole_draws(catalogue: Catalogue, rows: Batch) -> None:
    nodes: list[Any] = [{"name": "uniform_per_row", "number": 3}, "uniform"]
    complete = Completer(SCHEMA, catalogue, nodes, rows=64)
    whole = listed(complete(rows, seed=9))
    halves = [listed(complete(half, seed=9, part=i, parts=2)) for i, half in enumerate(split(rows, 2))]
    assert torch.equal(torch.cat(halves), whole)


def test_a_row_that_has_seen_everything_gets_nothing(catalogue: Catalogue) -> None:
    source = NEGATIVES.build("uniform_per_row", catalogue)
    every = torch.arange(catalogue.rows)
    of_rows = Seen.of(
        torch.cat([every * 0, torch.tensor([1])]), torch.cat([every, torch.tensor([3])]), count=2, items=catalogue.rows
    )
    last = torch.full((2, 1), 1 - 2.0**-53, dtype=torch.float64)
    asked: dict[str, Any] = dict.fromkeys([field.name for field in dataclasses.fields(Rows)])
    asked |= {"of": torch.arange(2), "draw_each": lambda number: last, "seen": lambda: of_rows}
    drawn = source.of_rows(Rows(**asked))
    assert drawn.tolist() == [[-1], [catalogue.rows - 1]]


def test_all_items_are_the_table_itself(catalogue: Catalogue, rows: Batch) -> None:
    candidates = Completer(SCHEMA, catalogue, ["all"], rows=64)(rows, seed=5).candidates
    assert candidates is not None
    assert candidates.features is catalogue.features
    own = rows.features.sparse[:, 1].tolist()
    table = catalogue.ids.tolist()
    assert torch.as_tensor(candidates.own).tolist() == [table.index(i) if i in table else -1 for i in own]
    assert candidates.own_ids(64).tolist() == [i if i in table else -1 for i in own]
