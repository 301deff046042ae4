"""Whole groups: the plan's promises by brute force, the same batches from real files, and what is refused."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings

from rechub_ray.data.groups import Group, Groups
from rechub_ray.data.manifest import DataFile, Manifest
from rechub_ray.data.plan import Cut, EpochPlan, Position, geometry, lanes_for, permutation
from rechub_ray.data.reader import pick, read_piece, read_whole
from rechub_ray.data.source import ThreadReader, TrainSource
from rechub_ray.errors import DataError
from rechub_ray.world import World

# row groups of groups of rows
row_groups = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=8)


def split_of(sizes: list[list[int]]) -> tuple[Manifest, Groups]:
    manifest = Manifest(tuple(DataFile(f"f{i}", (sum(some),)) for i, some in enumerate(sizes)))
    return manifest, Groups(tuple(np.array(some, np.uint8) for some in sizes), Group(0, max(map(max, sizes)), "f0"))


def plan_of(split, *, world_size, global_batch, epoch=0, cuts=(), seed=3) -> EpochPlan:
    manifest, groups = split
    lanes, _ = geometry(manifest, groups, global_batch=global_batch, world_size=world_size)
    return EpochPlan(manifest, seed=seed, epoch=epoch, lanes=lanes, global_batch=global_batch, cuts=cuts, groups=groups)


def replay(split, plan, world_size, start=0, stop=None):
    """The groups of every rank and step: {(rank, step): [(file, group), ...]}; a group in two batches is an error."""
    groups = split[1]
    stop = plan.steps if stop is None else stop
    batches = {}
    for rank in range(world_size):
        pieces, queues = iter(plan.pieces(rank, world_size, start, stop)), collections.defaultdict(collections.deque)
        for step in range(start, stop):
            rows = []
            for lane in plan.owned(rank, world_size):
                while len(queues[lane]) < plan.rows_of(lane, step):
                    piece = next(pieces)
                    at = int(piece.file[1:])
                    assert piece.by_group
                    order = permutation(len(groups.sizes[at]), *piece.key)
                    owners = np.repeat(order, groups.sizes[at][order])
                    queues[piece.lane].extend((piece.file, g) for g in owners[piece.start : piece.stop].tolist())
                rows += [queues[lane].popleft() for _ in range(plan.rows_of(lane, step))]
            found = [group for group, _ in itertools.groupby(rows)]
            for file, group in found:
                assert rows.count((file, group)) == groups.sizes[int(file[1:])][group], "a group is not whole"
            assert len(found) == len(set(found)), "the rows of a group are not together"
            assert found, "a rank has no rows"
            batches[rank, step] = found
        assert next(pieces, None) is None
        assert not any(queues.values())
    return batches


def steps_of(batches) -> dict[int, frozenset]:
    steps = collections.defaultdict(list)
    for (_, step), found in batches.items():
        steps[step] += found
    assert all(len(set(found)) == len(found) for found in steps.values())
    return {step: frozenset(found) for step, found in steps.items()}


def all_of(sizes) -> set:
    return {(f"f{i}", group) for i, some in enumerate(sizes) for group in range(len(some))}


@given(row_groups, st.integers(1, 20), st.sampled_from([1, 2, 3, 4, 5, 8]))
@settings(max_examples=80, deadline=None)
def test_an_epoch_holds_every_group_once(sizes, batch_size, world_size):
    split, global_batch = split_of(sizes), batch_size * world_size
    manifest, groups = split
    assume(global_batch <= manifest.rows)
    assume(world_size <= groups.count)
    plan = plan_of(split, world_size=world_size, global_batch=global_batch, epoch=2)
    lanes, steps = geometry(manifest, groups, global_batch=global_batch, world_size=world_size)
    assert (plan.lanes, plan.steps) == (lanes, steps)
    assert lanes % world_size == 0
    assert 1 <= steps <= manifest.rows // global_batch
    batches = replay(split, plan, world_size)
    found = [group for batch in batches.values() for group in batch]
    assert len(found) == groups.count
    assert set(found) == all_of(sizes)
    for step, members in steps_of(batches).items():
        rows = sum(sizes[int(file[1:])][group] for file, group in members)
        assert plan.rows_before(step + 1) - plan.rows_before(step) == rows
    assert plan.rows_before(steps) == manifest.rows


@given(row_groups, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_steps_are_the_same_for_world_sizes_that_divide_eight(sizes, eighth):
    split = split_of(sizes)
    manifest, groups = split
    assume(manifest.rows >= 8 * eighth)
    per_step = groups.count // (manifest.rows // (8 * eighth))
    found = []
    for world_size in (1, 2, 4, 8):
        if world_size > max(per_step, 1):  # each rank needs a group
            break
        plan = plan_of(split, world_size=world_size, global_batch=8 * eighth)
        found.append(steps_of(replay(split, plan, world_size)))
    assert len(found) == 4 or per_step < 8
    assert all(other == found[0] for other in found)


def test_enough_groups_make_steps_of_about_the_batch_size():
    rng = np.random.default_rng(1)
    sizes = [rng.integers(1, 12, 400).tolist() for _ in range(20)]
    split = split_of(sizes)
    plan = plan_of(split, world_size=2, global_batch=400)
    assert plan.steps == split[0].rows // 400
    rows = np.diff([plan.rows_before(step) for step in range(plan.steps + 1)])
    assert abs(rows - 400).max() < 8 * 12 + 400 / plan.steps
    found = replay(split, plan, 2)
    assert all(len({file for file, _ in found[0, step] + found[1, step]}) >= 7 for step in range(plan.steps))


def test_a_large_group_makes_one_step_larger_and_leaves_no_rank_without_rows():
    sizes = [[1] * 40, [200], [1] * 40]
    for world_size in (1, 2, 4, 8):
        plan = plan_of(split_of(sizes), world_size=world_size, global_batch=16)
        rows = np.diff([plan.rows_before(step) for step in range(plan.steps + 1)])
        assert sorted(rows)[-1] >= 200
        replay(split_of(sizes), plan, world_size)


@given(row_groups, st.data())
@settings(max_examples=60, deadline=None)
def test_any_stop_resumes_exactly(sizes, data):
    world_size, batch_size = data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 10))
    split = split_of(sizes)
    assume(split[0].rows >= world_size * batch_size)
    assume(split[1].count >= world_size)
    plan = plan_of(split, world_size=world_size, global_batch=world_size * batch_size)
    whole = replay(split, plan, world_size)
    for stop in range(plan.steps + 1):
        assert replay(split, plan, world_size, 0, stop) | replay(split, plan, world_size, stop) == whole


@given(
    row_groups, st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 9), st.floats(0, 1)), max_size=4)
)
@settings(max_examples=80, deadline=None)
def test_changes_of_geometry_train_no_group_twice_and_skip_none(sizes, stretches):
    split = split_of(sizes)
    seen, cuts, rows = [], (), 0
    for world_size, batch_size, share in [*stretches, (2, 3, 1.0)]:
        plan = plan_of(split, world_size=world_size, global_batch=world_size * batch_size, cuts=cuts)
        assert plan.rows_left == split[0].rows - rows
        steps = int(plan.steps * share)
        for found in replay(split, plan, world_size, 0, steps).values():
            seen += found
        rows += plan.rows_before(steps)
        assert rows == sum(sizes[int(file[1:])][group] for file, group in seen)
        if steps:
            cuts = (*cuts, Cut(plan.lanes, plan.global_batch, steps))
    assert len(set(seen)) == len(seen)
    left = all_of(sizes) - set(seen)
    assert not left or split[0].rows - rows < 6 or len(left) < plan.lanes


@pytest.mark.parametrize(
    ("groups_per_step", "lanes"),
    [(1, [1, 2, 3, 4, 8]), (3, [2, 2, 3, 4, 8]), (8, [8, 8, 6, 8, 8]), (500, [8, 8, 9, 8, 8])],
)
def test_lanes(groups_per_step, lanes):
    assert [lanes_for(world_size, groups_per_step) for world_size in (1, 2, 3, 4, 8)] == lanes


# files


@pytest.fixture
def schema(schema):
    return dataclasses.replace(schema, group="session")


def write(folder, table, sizes, name="part-0.parquet"):
    """The table's rows in row groups of the given groups of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / name, table.schema) as writer:
        start = 0
        for some in sizes:
            writer.write_table(table.slice(start, sum(some)), row_group_size=sum(some))
            start += sum(some)
    return folder


def with_groups(table: pa.Table, values) -> pa.Table:
    return table.set_column(table.column_names.index("session"), "session", pa.array(values))


@pytest.fixture
def clustered(tmp_path, schema, write_shards):
    """Two files whose groups are together; their values ascend nowhere."""
    table = write_shards(tmp_path / "raw", schema, rows=600, files=1)
    rng = np.random.default_rng(5)
    sizes, left = [], 600
    while left:
        sizes.append(int(min(rng.integers(1, 9), left)))
        left -= sizes[-1]
    table = with_groups(table, np.repeat(rng.permutation(len(sizes)) * 7 - 50, sizes))
    cuts = np.array_split(np.array(sizes), 12)
    rows = sum(int(some.sum()) for some in cuts[:5])
    write(tmp_path / "train", table.slice(0, rows), [some.tolist() for some in cuts[:5]], "part-0.parquet")
    write(tmp_path / "train", table.slice(rows), [some.tolist() for some in cuts[5:]], "part-1.parquet")
    return tmp_path / "train", table, sizes


def source_of(clustered, schema, *, batch_size=16, rank=0, size=1, reader=None, seed=7) -> TrainSource:
    manifest = Manifest.scan(clustered[0], schema)
    return TrainSource(
        manifest,
        schema,
        batch_size=batch_size,
        seed=seed,
        world=World(rank, size),
        reader=reader or ThreadReader(prefetch=2),
        groups=Groups.scan(manifest, "session"),
    )


def test_the_scan_finds_the_borders(clustered, schema):
    groups = Groups.scan(Manifest.scan(clustered[0], schema), "session", threads=2)
    assert [int(size) for sizes in groups.sizes for size in sizes] == clustered[2]
    assert (groups.count, groups.rows) == (len(clustered[2]), 600)
    assert {sizes.dtype for sizes in groups.sizes} == {np.dtype(np.uint8)}
    session = clustered[1].column("session").to_pylist()
    largest = groups.largest
    assert (session.count(largest.value), largest.rows) == (max(clustered[2]), max(clustered[2]))
    assert largest.file.endswith(".parquet")


def cached(piece, schema, *, targets=True):
    return pick(read_whole(piece, schema, targets=targets), piece)


@pytest.mark.parametrize("reader", [ThreadReader(), ThreadReader(threads=3), ThreadReader(read=cached)])
def test_batches_hold_whole_groups_with_the_rows_of_the_file(clustered, schema, reader):
    rows_of = collections.defaultdict(list)
    for row in clustered[1].to_pylist():
        rows_of[row["session"]].append((row["user"], row["item"], row["click"]))
    source = source_of(clustered, schema, reader=reader)
    batches, seen, position = list(source.epoch(Position(epoch=1))), set(), Position(epoch=1)
    assert len(batches) == source.steps_per_epoch == 600 // 16
    for batch in batches:
        assert source.rows_at(position) == batch.rows
        position = source.advance(position, 1)
        rows = zip(batch.group.tolist(), batch.features.sparse.tolist(), batch.labels[:, 0].tolist(), strict=True)
        for group, members in itertools.groupby(rows, key=lambda row: row[0]):
            assert group not in seen
            seen.add(group)
            assert [(*sparse, label) for _, sparse, label in members] == rows_of[group]
    assert len(seen) == len(clustered[2])
    assert position == source.normalise(Position(epoch=2))


def test_readers_give_the_same_batches_and_epochs_differ(clustered, schema):
    found = [
        [batch.group.tolist() for batch in source_of(clustered, schema, reader=reader).epoch(Position(epoch=epoch))]
        for reader, epoch in [
            (ThreadReader(), 0),
            (ThreadReader(read=cached), 0),
            (ThreadReader(), 1),
        ]
    ]
    assert found[0] == found[1] != found[2]


def test_workers_side_by_side_are_one_worker_with_their_batches_together(clustered, schema):
    one = source_of(clustered, schema, batch_size=40).epoch(Position())
    ranks = [source_of(clustered, schema, batch_size=20, rank=r, size=2) for r in (0, 1)]
    assert ranks[0].steps_per_epoch == ranks[1].steps_per_epoch == 600 // 40
    unequal = 0
    for whole, *halves in zip(one, *(rank.epoch(Position()) for rank in ranks), strict=True):
        assert whole.group.tolist() == [value for half in halves for value in half.group.tolist()]
        unequal += halves[0].rows != halves[1].rows
    assert unequal


def test_resuming_anywhere_goes_on_with_the_same_batches(clustered, schema):
    source = source_of(clustered, schema)
    whole = [batch.group.tolist() for batch in source.epoch(Position(), another_follows=True)]
    following = [batch.group.tolist() for batch in source.epoch(Position(epoch=1))]
    source.close()
    position, rows = source.normalise(Position()), 0
    for step in range(len(whole)):
        assert position.rows_done == rows
        saved = Position.from_dict(json.loads(json.dumps(position.to_dict())))
        assert [batch.group.tolist() for batch in source_of(clustered, schema).epoch(saved)] == whole[step:]
        rows += len(whole[step])
        position = source.advance(position, 1)
    assert [batch.group.tolist() for batch in source_of(clustered, schema).epoch(position)] == following


def test_changed_numbers_of_workers_within_an_epoch(clustered, schema):
    position, seen = Position(), []
    for size, batch_size, steps in ((2, 8, 7), (1, 24, 3), (4, 4, 6), (3, 5, None)):
        sources = [source_of(clustered, schema, batch_size=batch_size, rank=r, size=size) for r in range(size)]
        ends = {source.advance(position, steps or 0) for source in sources}
        assert len(ends) == 1
        for source in sources:
            for batch in itertools.islice(source.epoch(position), steps):
                seen += batch.group.tolist()
        if steps:
            position = ends.pop()
            assert position.rows_done == len(seen)
    counts = collections.Counter(seen)
    assert counts == collections.Counter(clustered[1].column("session").to_pylist())


def test_moved_borders_are_other_data(clustered, schema):
    manifest = Manifest.scan(clustered[0], schema)
    groups = Groups.scan(manifest, "session")
    moved = dataclasses.replace(groups, sizes=(groups.sizes[0][::-1], *groups.sizes[1:]))
    given = {"batch_size": 16, "seed": 7, "world": World(), "reader": ThreadReader()}
    prints = {TrainSource(manifest, schema, groups=each, **given).fingerprint for each in (None, groups, moved)}
    assert len(prints) == 3
    position = TrainSource(manifest, schema, groups=groups, **given).advance(Position(), 3)
    with pytest.raises(DataError, match="the data or the seed changed"):
        TrainSource(manifest, schema, groups=None, **given).normalise(position)


def test_files_written_anew_are_noticed(clustered, schema):
    source = source_of(clustered, schema, batch_size=8)
    table = pq.read_table(clustered[0] / "part-1.parquet")
    sizes = [pq.ParquetFile(clustered[0] / "part-1.parquet").metadata.row_group(i).num_rows for i in range(7)]
    write(clustered[0], with_groups(table, np.arange(len(table)) // 2), [[size] for size in sizes], "part-1.parquet")
    with pytest.raises(DataError, match=r"part-1\.parquet, row group \d changed"):
        list(source.epoch(Position()))


@pytest.mark.parametrize(
    ("values", "sizes", "words"),
    [
        ([1, 1, 1, 2, 2, 3, 3, 4], [[3], [3], [2]],
         r"group 3 of column 'session' lies in row group 1 of \S+part-0\.parquet and in row group 2 of .*cluster_by"),
        ([1, 1, 2, 1, 3, 3, 3, 3], [[4], [4]],
         r"group 1 .* two places of row group 0 of \S+part-0.*one group.*cluster_by"),
        ([1, 2, 1, 2, 1, 2, 1, 2], [[4], [4]], "2 groups that are not"),
        ([1, 1, 2, None, 3, 3, 3, 3], [[4], [4]], r"row group 0: group column 'session', row 3, holds null"),
    ],
)  # fmt: skip
def test_groups_that_are_not_whole_are_refused(tmp_path, schema, write_shards, values, sizes, words):
    table = with_groups(write_shards(tmp_path / "raw", schema, rows=8, files=1), values)
    manifest = Manifest.scan(write(tmp_path / "train", table, sizes), schema)
    with pytest.raises(DataError, match=words):
        Groups.scan(manifest, "session")


def test_a_group_in_two_files_is_refused(tmp_path, schema, write_shards):
    table = write_shards(tmp_path / "raw", schema, rows=4, files=1)
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / "train", with_groups(table, [1, 1, 2, 2]), [[4]], name)
    with pytest.raises(DataError, match=r"row group 0 of \S+a\.parquet and in row group 0 of \S+b\.parquet"):
        Groups.scan(Manifest.scan(tmp_path / "train", schema), "session")


def test_too_few_groups_for_the_workers(clustered, schema):
    manifest = Manifest.scan(clustered[0], schema)
    groups = Groups.scan(manifest, "session")
    workers = groups.count + 1
    with pytest.raises(DataError, match=rf"{groups.count} groups, too few.*{workers} workers"):
        TrainSource(
            manifest, schema, batch_size=1, seed=1, world=World(0, workers), reader=ThreadReader(), groups=groups
        )


def test_a_piece_needs_its_whole_groups_only(clustered, schema):
    source = source_of(clustered, schema)
    pieces = source._plan(0, ()).pieces(0, 1)
    for piece in pieces[:5]:
        block = read_piece(piece, schema)
        assert block.rows == piece.rows
        session = block.group.tolist()
        assert len({*session}) == len([*itertools.groupby(session)])
