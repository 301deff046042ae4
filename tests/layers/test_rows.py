from __future__ import annotations

import numpy as np
import pytest
import torch

from rechub_ray.layers.rows import coalesce, read_rows, write_rows


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reading_and_writing_rows(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(50, width, dtype=dtype))
    before = table.detach().numpy().copy()
    rows = torch.tensor([0, 7, 8, 49])
    values = torch.randn(4, width, dtype=dtype)
    with torch.no_grad():
        assert np.array_equal(read_rows(table, torch.tensor([7, 7, 0])).numpy(), before[[7, 7, 0]])
        write_rows(table, rows, values)
        after = before.copy()
        after[rows.numpy()] = values.numpy()
        assert np.array_equal(table.numpy(), after)


def test_writing_rows_that_are_not_contiguous() -> None:
    table = torch.zeros(6, 4)
    write_rows(table, torch.tensor([1, 5]), torch.arange(8.0).view(4, 2).t())
    assert table[1].tolist() == [0, 2, 4, 6]
    assert table[5].tolist() == [1, 3, 5, 7]


def test_no_rows() -> None:
    table, rows = torch.ones(5, 3), torch.empty(0, dtype=torch.int64)
    assert read_rows(table, rows).shape == (0, 3)
    write_rows(table, rows, torch.empty(0, 3))
    assert table.eq(1).all()
    ((unique, values),) = coalesce([(rows, torch.empty(0, 3))], [5])
    assert unique.shape == (0,)
    assert values.shape == (0, 3)


@pytest.mark.parametrize(("count", "distinct"), [(1, 1), (1000, 7), (1000, 5000), (40_000, 300)])
@pytest.mark.parametrize("size", [5000, 2**40])
def test_coalesce_sums_equal_rows(count: int, distinct: int, size: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.integers(0, distinct, count) * (size // distinct)
    wide, narrow = rng.normal(size=(count, 16)), rng.normal(size=(count, 1))
    tables = [(torch.from_numpy(rows), torch.from_numpy(values)) for values in (wide, narrow)]
    for (unique, summed), values in zip(coalesce(tables, [size, size]), (wide, narrow), strict=True):
        expected_rows, inverse = np.unique(rows, return_inverse=True)
        expected = np.zeros((len(expected_rows), values.shape[1]))
        np.add.at(expected, inverse, values)
        assert unique.dtype == torch.int64
        assert np.array_equal(unique.numpy(), expected_rows)
        np.testing.assert_allclose(summed.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_coalesce_does_not_share_the_order_between_tables_with_other_rows() -> None:
    first, second = torch.tensor([3, 1, 3]), torch.tensor([2, 2, 0])
    (rows, values), (other_rows, other_values) = coalesce(
        [(first, torch.tensor([[1.0], [2], [4]])), (second, torch.tensor([[1.0], [2], [4]]))], [4, 4]
    )
    assert (rows.tolist(), values.tolist()) == ([1, 3], [[2], [5]])
    assert (other_rows.tolist(), other_values.tolist()) == ([0, 2], [[4], [3]])


def test_coalesce_has_the_same_bits_with_any_number_of_threads() -> None:
    torch.manual_seed(0)
    rows, values = torch.randint(0, 200, (50_000,)), torch.randn(50_000, 16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(coalesce([(rows, values)], [200])[0][1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
