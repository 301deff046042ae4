from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from rechub_ray.compat.utils import data
from rechub_ray.compat.utils.data import DataGenerator, df_to_dict, get_auto_embedding_dim, pad_sequences
from rechub_ray.errors import ConfigError, DataError


def test_loaders_give_every_row_once_with_its_label() -> None:
    x = {"item": np.arange(100), "history": np.arange(300).reshape(100, 3)}
    loaders = DataGenerator(x, np.arange(100) * 10).generate_dataloader(split_ratio=[0.7, 0.1], batch_size=16)
    items = []
    for loader in loaders:
        assert loader.batch_size == 16
        for batch, y in loader:
            assert torch.equal(batch["item"] * 10, y)
            assert torch.equal(batch["history"][:, 0], batch["item"] * 3)
            items += batch["item"].tolist()
    assert sorted(items) == list(range(100))
    assert [len(loader.dataset) for loader in loaders] == [70, 10, 20]
    assert items[:70] != sorted(items[:70])


def test_splits_of_ones_own_and_rows_by_position() -> None:
    frame = pd.DataFrame({"item": [5, 6, 7]}, index=[9, 0, 9])
    _, valid, test = DataGenerator(frame, [0, 1, 0]).generate_dataloader(frame, [0, 1, 0], frame.iloc[1:], [1, 0])
    assert [batch["item"].tolist() for batch, _ in valid] == [[5, 6, 7]]
    assert [(batch["item"].tolist(), y.tolist()) for batch, y in test] == [([6, 7], [1, 0])]


def test_loading_in_other_processes() -> None:
    x = {"item": np.arange(40)}
    train, _, _ = DataGenerator(x, x["item"]).generate_dataloader(split_ratio=[1.0, 0.0], batch_size=8, num_workers=1)
    assert sorted(item for batch, _ in train for item in batch["item"].tolist()) == list(range(40))


def test_a_loader_of_ones_own() -> None:
    rows = data.PredictDataset({"item": np.arange(5), "history": np.arange(10).reshape(5, 2)})
    batches = list(DataLoader(rows, batch_size=2))
    assert [batch["item"].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[1]["history"].tolist() == [[4, 5], [6, 7]]
    [(batch, y)] = DataLoader(data.TorchDataset(rows.x, np.arange(10).reshape(5, 2)), batch_size=5)
    assert torch.equal(batch["history"], y)


def test_the_labels_names_are_kept() -> None:
    labels = pd.DataFrame({"click": [0, 1, 0, 1], "buy": [0, 1, 0, 0]})
    train, _, _ = DataGenerator({"item": np.arange(4)}, labels).generate_dataloader(split_ratio=[0.5, 0.5])
    part: Any = train.dataset
    assert part.dataset.dataset.label_names == ["click", "buy"]


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(DataError, match="differ in length"):
        DataGenerator({"item": [1, 2]}, [0])
    with pytest.raises(DataError, match="do not make a table"):
        DataGenerator({"item": [1, 2], "user": [1]}, [0, 1])
    with pytest.raises(ConfigError, match="split_ratio"):
        DataGenerator({"item": [1, 2]}, [0, 1]).generate_dataloader()


def test_frames_become_arrays() -> None:
    arrays = df_to_dict(pd.DataFrame({"item": [1, 2], "history": [[1, 0], [3, 4]]}))
    assert arrays["item"].shape == (2,)
    assert arrays["history"].tolist() == [[1, 0], [3, 4]]


@pytest.mark.parametrize(
    ("padding", "truncating", "expected"),
    [
        ("pre", "pre", [[0, 0], [0, 1], [3, 4]]),
        ("post", "pre", [[0, 0], [1, 0], [3, 4]]),
        ("post", "post", [[0, 0], [1, 0], [2, 3]]),
    ],
)
def test_padding(padding: str, truncating: str, expected: list[list[int]]) -> None:
    padded = pad_sequences([[], [1], [2, 3, 4]], maxlen=2, padding=padding, truncating=truncating)  # type: ignore[arg-type]
    assert padded.tolist() == expected
    assert pad_sequences([[1], [2, 3]], value=9).tolist() == [[9, 1], [2, 3]]


def test_embedding_widths() -> None:
    assert [get_auto_embedding_dim(n) for n in (1, 16, 10_000)] == [6, 12, 60]


def test_a_name_that_is_missing_says_so() -> None:
    with pytest.raises(ImportError, match=r"generate_seq_feature yet.*DataGenerator"):
        from rechub_ray.compat.utils.data import generate_seq_feature  # noqa: F401
    with pytest.raises(AttributeError):
        _ = data.nonsense
