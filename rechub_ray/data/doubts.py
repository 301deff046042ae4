"""What is doubtful about data, seen in a sample of its rows: what says nothing or too much, and splits that differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rechub_ray.data.block import Array, Block, Ragged
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import read_piece
from rechub_ray.schema import Schema

ROWS = 8_192
"""Rows of a split that are looked at."""
FILES = 8
"""Row groups, and files, that they are taken from."""
_LEAST = 100
"""Fewer rows say nothing about a split."""
_LEAKS, _DIFFERS, _UNSEEN = 0.99, 0.3, 0.3
"""From these on a line is said: AUC of a feature alone, total variation of two splits, share of unseen values."""
_BINS, _IDS = 16, 64
"""Numbers are compared in so many bins, ids by the most frequent ones and the rest."""
_COUNTED = 1 << 17
"""Ids up to here are counted by their place in an array."""
_EACH = 25
"""Rows of each class, in each half of a sample, without which a feature is not looked at alone."""
_NAMED = 5


def sample(manifest: Manifest, schema: Schema, rows: int = ROWS) -> Block:
    """Return features and labels of some rows, the same ones each time, from row groups all over the files.

    Args:
        manifest: the files.
        schema: of the rows.
        rows: how many are wanted, >= 1.

    Raises:
        DataError: a file cannot be read, or holds a value that the schema forbids.
    """
    bare = looked_at(schema)
    rng, blocks = np.random.default_rng(0), []
    groups = [manifest.row_groups[place] for place in _spread(len(manifest.row_groups))]
    for group in groups:
        piece = Piece(0, group.file, group.index, group.rows, 0, group.rows, None, group.checksum)
        block = read_piece(piece, bare)
        blocks.append(block.take(np.sort(rng.permutation(block.rows)[: -(-rows // len(groups))])))
    return Block(
        np.concatenate([block.sparse for block in blocks]),
        np.concatenate([block.dense for block in blocks]),
        tuple(Ragged.concat(lists) for lists in zip(*(block.sequences for block in blocks), strict=True)),
        np.concatenate([block.labels for block in blocks]),
    )


def looked_at(schema: Schema) -> Schema:
    """Return the schema of what `doubts` reads of rows: features and labels."""
    return dataclasses.replace(schema, group=None, weight=None, row_id=None, teachers=())


def _spread(count: int) -> list[int]:
    """Return at most FILES places of `count` ones, from the first to the last, ascending."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, FILES))})


def doubts(splits: Mapping[str, Block], schema: Schema, *, constants: bool = True) -> list[str]:
    """Return a line for each kind of doubt, with the features, their figures, and what to do.

    Vectors of numbers are not looked at; of lists their values are, all together.

    Args:
        splits: samples of the splits, the training split first.
        schema: of the rows.
        constants: also of features and labels with one value; False where they are known already.
    """
    (train, rows), *others = splits.items()
    if rows.rows < _LEAST:
        return []
    lines = [*(_constant(train, rows, schema) if constants else ()), *_leaking(train, rows, schema)]
    others = [(name, block) for name, block in others if block.rows >= _LEAST]
    return [*lines, *_differing(train, rows, others, schema)]


def _columns(block: Block, schema: Schema) -> Iterator[tuple[str, Array]]:
    """Yield the features with one value a row, and these."""
    for place, sparse in enumerate(schema.sparse):
        yield sparse.name, block.sparse[:, place]
    start = 0
    for dense in schema.dense:
        if dense.dim == 1:
            yield dense.name, block.dense[:, start]
        start += dense.dim


def _values(block: Block, schema: Schema) -> dict[str, Array]:
    """Return the values of each feature, of lists those of all rows."""
    found = dict(_columns(block, schema))
    for feature, lists in zip(schema.sequences, block.sequences, strict=True):
        found[feature.name] = lists.trimmed().values.astype(np.float32 if feature.numbers else np.int64)
    return found


def _constant(train: str, block: Block, schema: Schema) -> Iterator[str]:
    found = [f"'{name}'" for name, values in _columns(block, schema) if values.min() == values.max()]
    if found:
        yield (
            f"one value in all {block.rows:,} rows of {train} that were looked at: {listed(found)}. Such a feature "
            "says nothing: leave it out, or look at how its column is read"
        )
    labels = schema.labels if schema.items is None else ()  # rows of retrieval are what was liked
    for place, label in enumerate(labels):
        known = block.labels[:, place][~np.isnan(block.labels[:, place])]
        if len(known) >= _LEAST and known.min() == known.max():
            yield (
                f"label '{label.name}' is {known[0]:g} in all {len(known):,} rows of {train} that were looked at: "
                "there is nothing to learn. Look at the label's expression, and at what chooses the rows"
            )


def _leaking(train: str, block: Block, schema: Schema) -> Iterator[str]:
    order = np.random.default_rng(0).permutation(block.rows)
    columns = {name: _coded([values[order]], most=None)[0] for name, values in _columns(block, schema)}
    for place, label in enumerate(schema.labels):
        if label.kind != "binary":
            continue
        labels = block.labels[order, place]
        scores = {name: auc_alone(codes, labels) for name, codes in columns.items()}
        found = sorted(((score, name) for name, score in scores.items() if score > _LEAKS), reverse=True)
        if found:
            named = listed([f"'{name}' (AUC {score:.4f} on rows of {train})" for score, name in found])
            yield (
                f"label '{label.name}' is told by one feature alone: {named}. It may be made "
                "of the label, or known only after it: leave it out (data.features, or in the recipe) unless it is "
                "known when predictions are made"
            )


def auc_alone(codes: Array, labels: Array) -> float:
    """Return the AUC, on every other row, of the mean label that each value of a feature has on the rest.

    Args:
        codes: the values, as whole numbers from 0.
        labels: 0, 1, or NaN where there is none.

    Returns:
        .5 where there are too few rows of a class.
    """
    known = ~np.isnan(labels)
    codes, labels = codes[known], labels[known].astype(np.float64)
    ones = [labels[half::2].sum() for half in (0, 1)]
    zeros = [len(labels[half::2]) - ones[half] for half in (0, 1)]
    if min(*ones, *zeros) < _EACH:
        return 0.5
    size = int(codes.max()) + 1
    count, total = np.bincount(codes[::2], minlength=size), np.bincount(codes[::2], labels[::2], minlength=size)
    mean = (total + labels[::2].mean()) / (count + 1)  # a value that is not there has the mean of all
    _, ranks = np.unique(mean, return_inverse=True)
    ranks = ranks[codes[1::2]]
    positive, negative = np.bincount(ranks, labels[1::2]), np.bincount(ranks, 1 - labels[1::2])
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (ones[1] * zeros[1]))


def _differing(train: str, block: Block, others: Sequence[tuple[str, Block]], schema: Schema) -> Iterator[str]:
    own, ids = _values(block, schema), {feature.name for feature in schema.embedded}
    unseen: dict[str, list[str]] = {}
    differs: dict[str, list[tuple[float, str]]] = {}
    for split, other in others:
        theirs = _values(other, schema)
        for name, values in own.items():
            if not len(values) or not len(theirs[name]):
                continue
            if name in ids and (theirs[name] == 0).mean() - (values == 0).mean() > _UNSEEN:
                unseen.setdefault(name, []).append(f"{(theirs[name] == 0).mean():.0%} in {split}")
                continue
            distance = variation(*_coded([values, theirs[name]], most=_IDS if name in ids else _BINS))
            if distance > _DIFFERS:
                differs.setdefault(name, []).append((distance, f"{distance:.2f} {split}"))
        yield from _other_labels(train, block, split, other, schema)
    if unseen:
        found = [f"'{name}' ({', '.join(where)})" for name, where in unseen.items()]
        yield (
            f"values that {train} does not have, or none at all: {listed(found)}. The model knows nothing of them: "
            "split otherwise, hash them (hash_buckets), or lower min_frequency"
        )
    if differs:
        ordered = sorted(differs.items(), key=lambda item: -max(item[1])[0])
        found = [f"'{name}' ({', '.join(text for _, text in where)})" for name, where in ordered]
        yield (
            f"distributions that differ from those in {train} (total variation, 0 to 1): {listed(found)}. "
            "Scores there may say little: leave out what counts time or rows, or split otherwise"
        )


def _other_labels(train: str, block: Block, split: str, other: Block, schema: Schema) -> Iterator[str]:
    for place, label in enumerate(schema.labels):
        known = [some.labels[:, place][~np.isnan(some.labels[:, place])] for some in (block, other)]
        if label.kind != "binary" or min(map(len, known)) < _LEAST:
            continue
        ours, theirs = (float(some.mean()) for some in known)
        noise = np.sqrt(sum(mean * (1 - mean) / len(some) for mean, some in zip((ours, theirs), known, strict=True)))
        if abs(ours - theirs) > 6 * noise and 0 < 2 * min(ours, theirs) < max(ours, theirs):
            yield (
                f"label '{label.name}' is 1 in {ours:.3g} of the rows of {train} and {theirs:.3g} of {split}: "
                "probabilities will be off by as much. Draw the rows of both in one way"
            )


def variation(one: Array, two: Array) -> float:
    """Return the total variation between two samples of codes, less what samples of one distribution would have.

    Args:
        one: whole numbers from 0.
        two: the same of the other sample.
    """
    size = int(max(one.max(), two.max())) + 1
    shares = [np.bincount(some, minlength=size) / len(some) for some in (one, two)]
    pooled = (shares[0] + shares[1]) / 2
    noise = np.sqrt(2 / np.pi * pooled * (1 - pooled) * (1 / len(one) + 1 / len(two))).sum() / 2
    return max(0.0, float(np.abs(shares[0] - shares[1]).sum() / 2 - noise))


def _coded(columns: Sequence[Array], *, most: int | None) -> list[Array]:
    """Return columns as whole numbers from 0, equal ones for equal values; of numbers for those of a bin.

    Args:
        columns: of one feature: ids, or numbers (float).
        most: of ids so many are told apart, the most frequent ones; None: all. Of numbers so many bins; None: 256.
    """
    joined = np.concatenate(columns)
    if joined.dtype.kind == "f":
        edges = _edges(joined, most or 256)
        return [np.searchsorted(edges, column, "right") for column in columns]
    if joined.max() > _COUNTED:  # counting would take more memory and time than sorting
        joined = np.unique(joined, return_inverse=True)[1]
    if most is not None:
        counts = np.bincount(joined)
        places = np.full(len(counts), most - 1)
        frequent = np.argsort(-counts, kind="stable")[: most - 1]
        places[frequent] = np.arange(len(frequent))
        joined = places[joined]
    return np.split(joined, np.cumsum([len(column) for column in columns])[:-1])


def _edges(numbers: Array, most: int) -> Array:
    """Return the lower ends of bins but the first: one a value, or as many bins of about as many numbers."""
    ordered = np.sort(numbers)
    places = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    if len(places) < most:
        return ordered[places]
    return np.unique(ordered[(np.arange(1, most) * len(ordered)) // most])


def listed(texts: Sequence[str]) -> str:
    """Return the first few texts, and how many more there are."""
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")
