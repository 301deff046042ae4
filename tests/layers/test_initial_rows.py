"""Initial rows depend on the seed, the table and the row alone, and are normal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.initial_rows import draw_initial_rows
from rechub_ray.schema import Label, Schema, SequenceFeature, SparseFeature

LABELS = (Label("click"),)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(count: int, width: int = 16, *, name: str = "embedding/user", seed: int = 7, std: float = 1.0) -> Tensor:
    table = torch.empty(count, width)
    torch.manual_seed(seed)
    draw_initial_rows(table, name, std=std)
    return table


def test_the_numbers_stay_what_they_are() -> None:
    """Checkpoints do not hold initial rows: another NumPy or another processor must draw the same ones."""
    expected = [[-0.053629342, -0.63938487, -0.91136175], [0.013966564, 1.6062937, 0.6624815]]
    np.testing.assert_array_equal(rows(2, 3).numpy(), np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("width", [1, 3, 16, 70_000])
def test_rows_do_not_depend_on_how_many_there_are(width: int) -> None:
    count = 300_000 // width + 3  # several streams
    many = rows(count, width)
    for few in (1, 2, count // 2, count - 1):
        assert torch.equal(rows(few, width), many[:few])
    assert len(torch.unique(many)) > 0.95 * many.numel(), "no stream comes twice"


@pytest.mark.usefixtures("threads")
def test_rows_do_not_depend_on_the_number_of_threads() -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(rows(40_000))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_rows_do_not_depend_on_what_was_drawn_before() -> None:
    expected = rows(10)
    torch.manual_seed(7)
    torch.rand(3)
    table = torch.empty(10, 16)
    draw_initial_rows(table, "embedding/user", std=1.0)
    assert torch.equal(table, expected)
    before = torch.get_rng_state()
    draw_initial_rows(table, "embedding/user", std=1.0)
    assert torch.equal(torch.get_rng_state(), before), "and drawing them takes nothing from the generator"


def test_each_seed_name_and_width_has_rows_of_its_own() -> None:
    tables = [
        rows(4000),
        rows(4000, seed=8),
        rows(4000, name="embedding/item"),
        rows(4000, name="linear/user"),
        rows(8000, 8).view(4000, 16),
    ]
    correlation = np.corrcoef([table.flatten().numpy() for table in tables])
    assert np.abs(correlation - np.eye(len(tables))).max() < 0.02  # 64,000 numbers: five standard errors


def test_rows_are_normal() -> None:
    values = np.sort(rows(62_500, std=0.1).numpy().ravel() / 0.1)
    count = len(values)
    erf = torch.erf(torch.from_numpy(values).double() / 2**0.5).numpy()
    distance = np.abs((1 + erf) / 2 - (np.arange(count) + 0.5) / count).max()
    assert distance < 2.0 / count**0.5  # Kolmogorov and Smirnov: passed by 99.9% of all seeds, and by this one
    assert rows(5, std=0.0).eq(0).all()


def test_other_types_get_the_same_rows_rounded() -> None:
    table = torch.empty(5000, 16, dtype=torch.bfloat16)
    torch.manual_seed(7)
    draw_initial_rows(table, "embedding/user", std=1.0)
    torch.testing.assert_close(table.float(), rows(5000), rtol=2**-8, atol=0)


def test_a_table_is_the_same_in_every_bank() -> None:
    item = SparseFeature("item", 20)
    history = SequenceFeature("history", 20, shared_with="item")
    schemas = [
        Schema((item,), LABELS),
        Schema((SparseFeature("user", 50), item, history), LABELS),
        Schema((SparseFeature("item", 33),), LABELS),
    ]
    banks = []
    for schema in schemas:
        torch.manual_seed(3)
        torch.rand(len(banks))
        banks.append(EmbeddingBank(schema, dim=4))
    torch.manual_seed(3)
    banks.append(EmbeddingBank(schemas[1], dim=4, features=["history"]))
    for bank in banks:
        assert torch.equal(bank.rows(bank.features[-1].name)[:20], banks[0].rows("item"))
    user, item_rows = banks[1].rows("user").detach(), banks[1].rows("item").detach()
    assert not torch.equal(user[:20], item_rows)
    torch.manual_seed(3)
    other = EmbeddingBank(schemas[0], dim=4, name="other")
    assert not torch.equal(other.rows("item"), banks[0].rows("item"))


def test_drawing_anew() -> None:
    torch.manual_seed(3)
    bank = EmbeddingBank(Schema((SparseFeature("user", 50),), LABELS), dim=4)
    first = bank.rows("user").detach().clone()
    torch.manual_seed(4)
    bank.reset_parameters()
    assert not torch.equal(bank.rows("user"), first)
    torch.manual_seed(3)
    bank.reset_parameters()
    assert torch.equal(bank.rows("user"), first)
