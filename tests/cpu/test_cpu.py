"""Without any entry of the room, and without any of its private names, the numbers are the same up to rounding."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rechub_ray import config, cpu
from rechub_ray.cpu import ENTRIES, PRIVATE_NAMES, SWITCH, coordinates, is_on
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.ray_private import find
from rechub_ray.tracking import read_history

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    """The switch is read again."""
    is_on.cache_clear()
    yield
    is_on.cache_clear()


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_exists_in_the_pinned_version_and_has_an_entry(name: str) -> None:
    assert find(name) is not None
    assert PRIVATE_NAMES[name] in ENTRIES


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_its_figure(entry: str) -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    section = results.partition("## What each entry of cpu/ gives")[2].partition("\n## ")[0]
    assert f"| {entry} |" in section


def test_without_numba_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "numba" else found(name, *more)
    )
    assert [entry for entry in ENTRIES if not is_on(entry)] == ["adagrad_kernel"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=3000, seed=3)
    return root


def losses(data: Path, folder: Path) -> list[float]:
    given = {
        "name": "t",
        "model_dir": str(folder),
        "data": {"root": str(data), "valid": None, "test": None, "batch_size": 512},
        "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [16, 8]},
        "optimizers": [
            {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
            {"name": "adam", "lr": 0.01},
        ],
        "train": {"epochs": 2, "log_every_steps": 1, "threads": 2, "initial_evaluation": False},
        "trackers": ["jsonl"],
        "export": {"onnx": False},
    }
    train(config.load(given))
    return [line["train/loss"] for line in read_history(folder / "metrics.jsonl") if "train/loss" in line]


# one process neither exchanges nor takes the allocator's setting back: test_gradients.py compares sockets and memory
@pytest.mark.parametrize("entry", ["all", *(name for name in ENTRIES if name not in ("exchange", "freed_memory"))])
def test_the_numbers_without_an_entry_are_those_with_it(
    entry: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = losses(data, tmp_path / "on")
    monkeypatch.setenv(SWITCH, entry)
    is_on.cache_clear()
    as_off = [name for name in ENTRIES if not is_on(name)]
    assert as_off == (list(ENTRIES) if entry == "all" else [entry])
    assert losses(data, tmp_path / "off") == pytest.approx(expected, rel=1e-4)
    assert len(expected) > 5


def test_an_unknown_entry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "exchange,hugepages")
    with pytest.raises(ConfigError, match=r"unknown entry 'hugepages'.*exchange"):
        is_on("exchange")


def test_coordinates_without_the_private_names(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.sparse_coo_tensor(torch.tensor([[3, 1, 3]]), torch.ones(3, 2), (5, 2))
    assert coordinates(gradient)[0].tolist() == [3, 1, 3]
    monkeypatch.setattr(cpu, "is_on", lambda entry: False)
    rows, values = coordinates(gradient)
    assert rows.tolist() == [1, 3]
    assert values.tolist() == [[1, 1], [2, 2]]
