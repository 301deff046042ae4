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
    with pytest.raises(ImportError, match=r"create_seq_features yet.*DataGenerator"):
        from rechub_ray.compat.utils.data import create_seq_features  # noqa: F401
    with pytest.raises(AttributeError):
        _ = data.nonsense


def test_rows_of_ranking_from_a_log() -> None:
    np.random.seed(0)
    log = pd.DataFrame(
        {
            "u": ["b"] * 5 + ["a"] * 3 + ["c"],
            "i": [30, 10, 20, 50, 40, 10, 20, 30, 60],
            "t": [5, 1, 2, 4, 3, 1, 2, 3, 1],
        }
    )
    log["c"] = log["i"] // 20
    train, valid, test = data.generate_seq_feature(log, "u", "i", "t", ["c"], shuffle=False, max_len=6)
    columns = ["label", "target_item_id", "u", "hist_item_id", "hist_c", "target_c"]
    assert [list(part.columns) for part in (train, valid, test)] == [columns] * 3
    # the log's own values became numbers from 1: in time, user 2 (b) chose 1 2 4 5 3, user 1 (a) 1 2 3
    assert (log["u"].max(), log["i"].max(), log["c"].max()) == (3, 6, 4)
    assert train[train.label == 1][["u", "target_item_id"]].to_numpy().tolist() == [[2, 2], [2, 4]]
    assert valid[valid.label == 1][["u", "target_item_id"]].to_numpy().tolist() == [[1, 2], [2, 5]]
    assert test[test.label == 1][["u", "target_item_id"]].to_numpy().tolist() == [[1, 3], [2, 3]]
    assert test["hist_item_id"].tolist()[2] == [1, 2, 4, 5, 0, 0]
    assert test["hist_c"].tolist()[2] == [1, 2, 3, 3, 0, 0]
    category = dict(zip(log["i"], log["c"], strict=True))
    for part in (train, valid, test):
        assert part["label"].tolist() == [1, 0] * (len(part) // 2)
        assert part["target_c"].tolist() == [category[item] for item in part["target_item_id"]]
        drawn = part[part.label == 0]
        assert all(
            item not in {1: {1, 2, 3}, 2: {1, 2, 3, 4, 5}}[u] for u, item in drawn[["u", "target_item_id"]].values
        )
    assert sum(map(len, data.generate_seq_feature(log, "u", "i", "t", min_item=4))) == 8


@pytest.mark.parametrize(
    ("change", "columns", "words"),
    [
        ({}, ("user", "i", "t"), r"columns that are not in the log.*\['u', 'i', 't'\].*\['user'\]"),
        ({"i": [3, None, 5]}, ("u", "i", "t"), r"columns with empty cells.*\['i'\]"),
        ({}, ("u", "i", "t"), "no item is left to draw"),
    ],
)
def test_a_log_that_does_not_fit_is_left_alone(
    change: dict[str, Any], columns: tuple[str, str, str], words: str
) -> None:
    log = pd.DataFrame({"u": [7, 7, 7], "i": [3, 4, 5], "t": [1, 2, 3], **change})
    before = log.copy()
    with pytest.raises(DataError, match=words):
        data.generate_seq_feature(log, *columns)
    pd.testing.assert_frame_equal(log, before)


def test_values_stand_for_others() -> None:
    assert data.array_replace_with_dict(np.array([[2, 1], [1, 2]]), {1: "x", 2: "y"}).tolist() == [
        ["y", "x"],
        ["x", "y"],
    ]
    with pytest.raises(DataError, match=r"Got: \[3\]"):
        data.array_replace_with_dict([1, 3], {1: 0})


def test_lists_of_different_lengths_are_for_a_collate_fn() -> None:
    rows = data.TorchDataset({"h": [[1], [2, 3], [4]]}, [0, 1, 1])

    def padded(batch: list[Any]) -> Any:
        lists = [torch.tensor(row["h"]) for row, _ in batch]
        return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True), [y for _, y in batch]

    [(ids, labels)] = DataLoader(rows, batch_size=3, collate_fn=padded)
    assert ids.tolist() == [[1, 0], [2, 3], [4, 0]]
    assert labels == [0, 1, 1]
    with pytest.raises(DataError, match="pad_sequences"):
        rows.batch(np.array([0, 1]))
