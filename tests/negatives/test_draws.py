"""The random numbers of negatives, and what each source makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.errors import ConfigError
from rechub_ray.negatives import NEGATIVES
from rechub_ray.negatives.base import uniform_numbers
from tests.small_retrieval import SCHEMA, write_retrieval

CPU = torch.device("cpu")
MASK = 2**64 - 1


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue.read(str(write_retrieval(tmp_path_factory.mktemp("r") / "data")), SCHEMA)


def splitmix(state: int) -> tuple[int, int]:
    """One step of the generator as it is published: the new state, and a number of 64 bits."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return state, z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 2**63 + 5])
def test_they_are_those_of_the_published_generator(seed: int) -> None:
    """A stream's state begins with the generator's number `stream + 1` after the seed."""
    _, state = splitmix((seed + 2 * 0x9E3779B97F4A7C15) & MASK)
    numbers = []
    for _ in range(50):
        state, number = splitmix(state)
        numbers.append((number >> 11) / 2**53)
    assert uniform_numbers(seed, 2, 0, 50, device=CPU).tolist() == numbers


def test_parts_join_to_the_whole_and_streams_and_seeds_differ() -> None:
    whole = uniform_numbers(3, 1, 0, 1000, device=CPU)
    parts = [
        uniform_numbers(3, 1, start, stop, device=CPU) for start, stop in ((0, 1), (1, 400), (400, 400), (400, 1000))
    ]
    assert torch.equal(torch.cat(parts), whole)
    others = [uniform_numbers(3, 0, 0, 1000, device=CPU), uniform_numbers(4, 1, 0, 1000, device=CPU)]
    for other in others:
        assert abs(np.corrcoef(whole.numpy(), other.numpy())[0, 1]) < 0.1
        assert len({*whole.tolist()} & {*other.tolist()}) == 0


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        ("uniform", lambda n: np.ones(len(n))),
        ({"name": "popularity", "alpha": 0.5}, lambda n: np.maximum(n, 1) ** 0.5),
        ({"name": "popularity", "alpha": 1}, lambda n: np.maximum(n, 1)),
    ],
)
def test_items_are_drawn_as_often_as_they_should(catalogue: Catalogue, node: Any, weights: Any) -> None:
    source = NEGATIVES.build(node, catalogue)
    expected = weights(catalogue.count.numpy().astype(float))
    expected = expected / expected.sum()
    np.testing.assert_allclose(source.probabilities().numpy(), expected, rtol=1e-12)
    places = source.places(uniform_numbers(1, 0, 0, 200_000, device=CPU)).numpy()
    found = np.bincount(places, minlength=catalogue.rows)
    assert len(found) == catalogue.rows
    chi2 = ((found - 200_000 * expected) ** 2 / (200_000 * expected)).sum()
    assert chi2 < catalogue.rows + 5 * np.sqrt(2 * catalogue.rows)


@pytest.mark.parametrize("node", ["uniform", "popularity"])
def test_the_largest_and_the_smallest_number_draw_an_item(catalogue: Catalogue, node: str) -> None:
    places = NEGATIVES.build(node, catalogue).places(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert places.tolist() == [0, catalogue.rows - 1]


def test_items_of_rows_are_as_frequent_as_in_training(catalogue: Catalogue) -> None:
    count = catalogue.count.numpy()
    found = NEGATIVES.build("in_batch", catalogue).probabilities().numpy()
    np.testing.assert_allclose(found, np.maximum(count, 1) / count.sum(), rtol=1e-12)


@pytest.mark.parametrize("node", [{"name": "uniform", "number": 0}, {"name": "popularity", "alpha": -1}, "hardest"])
def test_wrong_arguments_are_refused(node: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"negatives\.1"):
        NEGATIVES.validate(node, where="negatives.1")
