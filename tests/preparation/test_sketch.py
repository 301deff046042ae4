"""Summaries: merged in any cut they equal NumPy's answer for the whole."""

from __future__ import annotations

import pickle
from collections import Counter as Count

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from rechub_ray.preparation import sketch
from rechub_ray.preparation.sketch import Counter, Moments, Quantiles, SampledRows


def test_counter_counts_and_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "_PENDING_ROWS", 50)
    words = [str(x) for x in np.random.default_rng(0).zipf(1.3, 5000) % 400]
    total = Counter()
    for part in np.array_split(np.array(words, dtype=object), 13):
        counter = Counter()
        counter.add(pa.array([None, *part], pa.string()))
        total.merge(pickle.loads(pickle.dumps(counter)))
    expected = sorted(Count(words).items(), key=lambda item: (-item[1], item[0].encode()))
    table = total.table()
    assert list(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)) == expected
    assert total.table(min_frequency=3).num_rows == sum(count >= 3 for _, count in expected)
    assert total.table(max_values=7)["value"].to_pylist() == [word for word, _ in expected[:7]]
    assert Counter().table().num_rows == 0


def test_moments_equal_numpy_far_from_zero() -> None:
    values = 1e9 + np.random.default_rng(1).normal(size=10_001)
    total = Moments()
    for part in np.array_split(values, 17):
        moments = Moments()
        moments.add(part)
        total.merge(moments)
    assert total.count == len(values)
    np.testing.assert_allclose([total.mean, total.std], [values.mean(), values.std()], rtol=1e-9)
    assert (total.minimum, total.maximum) == (values.min(), values.max())


def test_quantiles_are_exact_for_few_values() -> None:
    values = np.random.default_rng(2).integers(0, 1000, 30_000).astype(float)
    total = Quantiles()
    for part in np.array_split(values, 7):
        total.add(part)
    fractions = [0.001, 0.25, 0.5, 0.9, 1.0]
    expected = np.quantile(values, fractions, method="inverted_cdf")
    assert total.at(fractions) == expected.tolist()


def test_quantiles_of_many_values_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch, "QUANTILE_POINTS", 1000)
    values = np.random.default_rng(3).normal(size=200_000)
    total = Quantiles()
    for part in np.array_split(values, 20):
        total.add(part)
    assert len(total.values) <= 1000
    ranks = np.searchsorted(np.sort(values), total.at([0.1, 0.5, 0.9])) / len(values)
    np.testing.assert_allclose(ranks, [0.1, 0.5, 0.9], atol=20 / 2000)


def test_rows_by_chance_are_as_many_as_wanted_and_from_everywhere() -> None:
    whole = SampledRows(400)
    for part in range(5):
        rows = SampledRows(400, [part])
        for start in range(0, 3000, 700):
            rows.add(pa.table({"row": np.arange(start, min(start + 700, 3000)) + 3000 * part}))
        whole.merge(pickle.loads(pickle.dumps(rows)))
    found = whole.table()["row"].to_numpy()
    assert len(set(found.tolist())) == len(found) == 400
    counts = np.bincount(found // 1000, minlength=15)
    assert (counts > 0).all()
    assert chisquare(counts).pvalue > 0.01
    few = SampledRows(400)
    few.add(pa.table({"row": np.arange(7)}))
    assert few.table()["row"].to_pylist() == list(range(7))
