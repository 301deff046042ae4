"""The comparison: what rows it draws, and what it expects of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rechub_ray.batch import RaggedSequences
from rechub_ray.export.parity import Check, cases, training_features
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature


def test_every_batch_size_meets_every_length(schema: Schema) -> None:
    drawn = list(cases(schema, (1, 7)))
    assert [(rows, length) for _, rows, length in drawn] == [
        (rows, length) for rows in (1, 7) for length in ("1", "random", "max_length")
    ]
    for inputs, rows, length in drawn:
        assert list(inputs) == schema.feature_names
        assert inputs["vector"].shape == (rows, 3)
        assert inputs["age"].dtype == np.float32
        longest = {"1": (1, 1), "max_length": (4, 3)}.get(length or "")
        assert longest in (None, (inputs["history"].shape[1], inputs["tags"].shape[1]))


def test_first_last_unknown_and_negative_ids_are_among_the_rows(schema: Schema) -> None:
    inputs, rows, _ = list(cases(schema, (40,)))[-1]
    assert rows == 40
    assert {0, 49, 50, 2**40, -1, -(2**40)} <= set(inputs["user"].tolist())
    lengths = (inputs["history"] >= 0).sum(1)
    assert {0, 4} <= set(lengths.tolist())
    assert ((np.arange(4) < lengths[:, None]) == (inputs["history"] >= 0)).all()  # padding is on the right


def test_without_sequences_there_is_one_case_a_batch_size() -> None:
    schema = Schema((SparseFeature("user", 3), DenseFeature("age")), (Label("click"),))
    assert [length for _, _, length in cases(schema, (1, 2))] == [None, None]


def test_training_features_are_ragged_with_known_ids() -> None:
    schema = Schema(
        (SparseFeature("a", 3), SequenceFeature("s", 4), DenseFeature("x", dim=2), SequenceFeature("t", 9)),
        (Label("click"),),
    )
    inputs = {
        "a": np.array([3, -5, 2]),
        "s": np.array([[1, 4], [-1, -1], [3, -1]]),
        "x": np.ones((3, 2), np.float32),
        "t": np.array([[8], [-1], [9]]),
    }
    features = training_features(schema, inputs)
    assert features.sparse.tolist() == [[0], [0], [2]]
    assert features.dense.shape == (3, 2)
    assert isinstance(features.sequences, RaggedSequences)
    assert features.sequences.values.tolist() == [1, 0, 3, 8, 0]
    assert features.sequences.offsets.tolist() == [0, 2, 2, 3, 4, 4, 5]


@pytest.mark.parametrize(("difference", "passed"), [(1e-7, True), (2e-7, False), (math.nan, False)])
def test_a_check_passes_within_its_tolerance(difference: float, passed: bool) -> None:
    assert Check(1, None, "logit", difference, 1.5e-7).passed is passed
