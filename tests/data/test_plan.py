"""The plan's promises, checked by replaying it row by row with a consumer of the test's own."""

from __future__ import annotations

import collections
import dataclasses
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from rechub_ray.data.manifest import DataFile, Manifest
from rechub_ray.data.plan import Cut, EpochPlan, EvalPlan, Position, lanes_for, permutation

manifests = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5), min_size=1, max_size=5).map(
    lambda files: Manifest(tuple(DataFile(f"f{i}", tuple(groups)) for i, groups in enumerate(files)))
)


def replay(plan: EpochPlan, world_size: int, start: int = 0, stop: int | None = None):
    """The rows of every rank and step: {(rank, step): [(file, row group, permuted row), ...]}."""
    stop = plan.steps if stop is None else stop
    batches = {}
    for rank in range(world_size):
        pieces = plan.pieces(rank, world_size, start, stop)
        queues = collections.defaultdict(collections.deque)
        arrived = 0
        for step in range(start, stop):
            rows = []
            for lane in plan.owned(rank, world_size):
                need = plan.rows_of(lane, step)
                while len(queues[lane]) < need:
                    piece = pieces[arrived]
                    arrived += 1
                    queues[piece.lane].extend((piece.file, piece.row_group, i) for i in range(piece.start, piece.stop))
                rows += [queues[lane].popleft() for _ in range(need)]
            batches[rank, step] = rows
        assert arrived == len(pieces)
        assert not any(queues.values()), "pieces beyond the last step"
    return batches


def steps_of(batches, world_size):
    """Rows of each global step, as a set; no row may be in two places of it."""
    steps = collections.defaultdict(list)
    for (_, step), rows in batches.items():
        steps[step] += rows
    for rows in steps.values():
        assert len(set(rows)) == len(rows)
    return {step: frozenset(rows) for step, rows in steps.items()}


@given(manifests, st.integers(1, 40), st.sampled_from([1, 2, 3, 5, 8]))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_each_row_at_most_once_and_drops_less_than_a_batch(manifest, batch_size, world_size):
    global_batch = batch_size * world_size
    plan = EpochPlan(manifest, seed=1, epoch=2, lanes=lanes_for(world_size), global_batch=global_batch)
    batches = replay(plan, world_size)
    assert plan.steps == manifest.rows // global_batch
    assert {len(rows) for rows in batches.values()} <= {batch_size}
    rows = [row for batch in batches.values() for row in batch]
    assert len(rows) == len(set(rows)) == manifest.rows // global_batch * global_batch
    sizes = {(group.file, group.index): group.rows for group in manifest.row_groups}
    assert all(0 <= row < sizes[file, group] for file, group, row in rows)


@given(manifests, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_global_steps_are_the_same_for_world_sizes_that_divide_eight(manifest, eighth):
    found = []
    for world_size in (1, 2, 4, 8):
        plan = EpochPlan(manifest, seed=0, epoch=0, lanes=lanes_for(world_size), global_batch=8 * eighth)
        found.append(steps_of(replay(plan, world_size), world_size))
    assert found[0] == found[1] == found[2] == found[3]


def test_batches_of_one_worker_are_those_of_two_side_by_side():
    manifest = Manifest((DataFile("a", (40, 40, 40)), DataFile("b", (33, 7))))
    plan = EpochPlan(manifest, seed=0, epoch=0, lanes=8, global_batch=12)
    one, two = replay(plan, 1), replay(plan, 2)
    for step in range(plan.steps):
        assert one[0, step] == two[0, step] + two[1, step]


@given(manifests, st.data())
@settings(max_examples=60, deadline=None)
def test_any_stop_resumes_exactly(manifest, data):
    world_size, batch_size = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 10))
    plan = EpochPlan(manifest, seed=3, epoch=1, lanes=8, global_batch=world_size * batch_size)
    whole = replay(plan, world_size)
    stop = data.draw(st.integers(0, plan.steps))
    resumed = replay(plan, world_size, 0, stop) | replay(plan, world_size, stop)
    assert resumed == whole


@given(manifests, st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 9), st.floats(0, 1)), max_size=4))
@settings(max_examples=80, deadline=None)
def test_changes_of_geometry_train_no_row_twice_and_skip_none(manifest, stretches):
    seen, cuts = [], ()
    for world_size, batch_size, share in [*stretches, (2, 3, 1.0)]:
        geometry = {"lanes": lanes_for(world_size), "global_batch": world_size * batch_size}
        plan = EpochPlan(manifest, seed=5, epoch=0, cuts=cuts, **geometry)
        assert plan.rows_left == manifest.rows - len(seen)
        steps = int(plan.steps * share)
        for rows in replay(plan, world_size, 0, steps).values():
            seen += rows
        if steps:
            cuts = (*cuts, Cut(steps=steps, **geometry))
    assert len(set(seen)) == len(seen)
    assert manifest.rows - len(seen) < 6


def test_epochs_and_seeds_differ_and_are_reproducible():
    manifest = Manifest(tuple(DataFile(f"f{i}", (10, 10)) for i in range(10)))

    def rows(seed, epoch):
        return replay(EpochPlan(manifest, seed=seed, epoch=epoch, lanes=8, global_batch=16), 1)

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)
    dropped = []
    for epoch in (0, 1, 2):
        plan = EpochPlan(manifest, seed=0, epoch=epoch, lanes=8, global_batch=64)
        kept = {row for batch in replay(plan, 1).values() for row in batch}
        dropped.append({(f"f{i}", g, r) for i in range(10) for g in range(2) for r in range(10)} - kept)
    assert [len(rows) for rows in dropped] == [8, 8, 8]
    assert len({frozenset(rows) for rows in dropped}) == 3


def test_a_batch_mixes_row_groups():
    manifest = Manifest(tuple(DataFile(f"f{i}", (100,)) for i in range(16)))
    plan = EpochPlan(manifest, seed=0, epoch=0, lanes=8, global_batch=32)
    assert all(len({file for file, _, _ in rows}) == 8 for rows in replay(plan, 1).values())


def test_pieces_come_in_the_order_of_need():
    manifest = Manifest(tuple(DataFile(f"f{i}", (7, 11, 5)) for i in range(20)))
    plan = EpochPlan(manifest, seed=0, epoch=0, lanes=8, global_batch=9)
    taken = dict.fromkeys(range(8), 0)
    needs = []
    for piece in plan.pieces(0, 1):
        needs.append(taken[piece.lane] // plan.rows_of(piece.lane, 0))
        taken[piece.lane] += piece.rows
    assert needs == sorted(needs)


@given(manifests, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_evaluation_covers_every_row_once_in_order(manifest, world_size):
    plan = EvalPlan(manifest)
    rows, counts = [], []
    for rank in range(world_size):
        pieces = plan.pieces(rank, world_size)
        assert all(piece.key is None for piece in pieces)
        counts.append(sum(piece.rows for piece in pieces))
        rows += [(piece.file, piece.row_group, i) for piece in pieces for i in range(piece.start, piece.stop)]
    assert rows == [(group.file, group.index, i) for group in manifest.row_groups for i in range(group.rows)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("world_size", "lanes"), [(1, 8), (2, 8), (3, 9), (4, 8), (5, 10), (7, 14), (8, 8), (9, 9)])
def test_lanes(world_size, lanes):
    assert lanes_for(world_size) == lanes


def test_permutation_is_pinned_for_ever():
    assert permutation(8, 1, 2, 3).tolist() == [1, 3, 7, 5, 2, 0, 4, 6]
    assert sorted(permutation(1000, 5).tolist()) == list(range(1000))
    assert permutation(0, 1).tolist() == []


def test_permutation_has_no_visible_bias():
    first = np.bincount([permutation(10, seed)[0] for seed in range(5000)], minlength=10)
    assert (abs(first - 500) < 100).all()


def test_position_survives_json():
    cuts = (Cut(8, 64, 5), Cut(9, 27, 1))
    position = Position(epoch=3, cuts=cuts, step=7, lanes=8, global_batch=32, rows_done=571, data="abc")
    assert Position.from_dict(json.loads(json.dumps(position.to_dict()))) == position
    assert Position.from_dict(Position().to_dict()) == Position()
    assert position.steps_done == 13


def test_a_position_that_does_not_say_its_rows_had_equal_steps():
    position = Position(epoch=3, cuts=(Cut(8, 64, 5), Cut(9, 27, 1)), step=7, lanes=8, global_batch=32, data="abc")
    old = position.to_dict()
    del old["rows_done"]
    assert Position.from_dict(old) == dataclasses.replace(position, rows_done=64 * 5 + 27 + 7 * 32)
