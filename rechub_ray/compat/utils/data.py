"""Data loaders under Torch-RecHub's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Subset, random_split

from rechub_ray.compat.missing import refuse
from rechub_ray.compat.utils.sequences import SeqDataset, SequenceDataGenerator
from rechub_ray.errors import ConfigError, DataError

__all__ = [
    "DataGenerator",
    "MatchDataGenerator",
    "PredictDataset",
    "SeqDataset",
    "SequenceDataGenerator",
    "TorchDataset",
    "df_to_dict",
    "get_auto_embedding_dim",
    "pad_sequences",
]
_MISSING = (
    "EmbDataset", "TigerSeqDataset", "Trie",
    "array_replace_with_dict", "create_seq_features", "generate_seq_feature", "get_loss_func", "get_metric_func",
    "neg_sample",
)  # fmt: skip

Row = tuple[dict[str, Any], Any]


class PredictDataset(Dataset[Any]):
    """Columns in memory, for prediction: without labels.

    Args:
        x: one array of equal length a feature, (N,) or (N, T); a DataFrame's rows count by position, not by index.

    Raises:
        DataError: no columns, or of different lengths.
    """

    def __init__(self, x: Mapping[str, Any] | pd.DataFrame) -> None:
        self.x = {str(name): np.asarray(values) for name, values in x.items()}
        lengths = {name: len(values) for name, values in self.x.items()}
        if len(set(lengths.values())) != 1:
            raise DataError("the columns do not make a table", expected="columns of one length", got=lengths or "none")

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def __getitem__(self, index: int) -> Any:
        return {name: values[index] for name, values in self.x.items()}

    def batch(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return some rows, stacked: far faster than row by row."""
        return {name: torch.as_tensor(values[rows]) for name, values in self.x.items()}


class TorchDataset(PredictDataset):
    """Columns in memory with a label each; see `PredictDataset`.

    Args:
        x: the features.
        y: (N,) labels, or (N, T); a DataFrame's columns are the tasks' names for models with features by name.

    Raises:
        DataError: features and labels differ in length; otherwise as for `PredictDataset`.
    """

    def __init__(self, x: Mapping[str, Any] | pd.DataFrame, y: Any) -> None:
        super().__init__(x)
        self.label_names = [str(name) for name in y.columns] if isinstance(y, pd.DataFrame) else None
        self.y = np.asarray(y)
        if len(self.y) != len(self):
            raise DataError("features and labels differ in length", expected=len(self), got=len(self.y))

    def __getitem__(self, index: int) -> Row:
        return super().__getitem__(index), self.y[index]

    def batch(self, rows: npt.NDArray[np.int64]) -> Row:
        """Return some rows and their labels, stacked."""
        return super().batch(rows), torch.as_tensor(self.y[rows])


class _Batches(Dataset[Any]):
    """A data set, or a part of it, which a DataLoader reads in batches that are stacked already."""

    def __init__(self, rows: PredictDataset | Subset[Any]) -> None:
        self.dataset = rows

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        rows = np.asarray(indices)
        if isinstance(self.dataset, Subset):
            whole: Any = self.dataset.dataset
            return whole.batch(np.asarray(self.dataset.indices)[rows])
        return self.dataset.batch(rows)


class DataGenerator:
    """Loaders of the three splits from columns in memory.

    Args:
        x: one array a feature; all rows, or those of the training split.
        y: their labels; see `TorchDataset`.
    """

    def __init__(self, x: Mapping[str, Any] | pd.DataFrame, y: Any) -> None:
        self.dataset = TorchDataset(x, y)

    def generate_dataloader(
        self,
        x_val: Any = None,
        y_val: Any = None,
        x_test: Any = None,
        y_test: Any = None,
        split_ratio: Sequence[float] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
        """Return the loaders for training (shuffled), validation and test.

        Args:
            x_val: features of the validation rows.
            y_val: their labels.
            x_test: features of the test rows.
            y_test: their labels.
            split_ratio: shares of training and validation, the rest is for the test; the rows are drawn at random.
            batch_size: rows of a batch.
            num_workers: processes that load.

        Raises:
            ConfigError: neither a ratio nor the other splits' rows.
        """
        parts: Sequence[TorchDataset | Subset[Any]]
        if split_ratio is not None:
            rows = len(self.dataset)
            first, second = int(rows * split_ratio[0]), int(rows * split_ratio[1])
            parts = random_split(self.dataset, [first, second, rows - first - second])
        elif x_val is None or x_test is None:
            raise ConfigError(
                "generate_dataloader needs three splits", expected="split_ratio, or x_val, y_val, x_test and y_test"
            )
        else:
            parts = [self.dataset, TorchDataset(x_val, y_val), TorchDataset(x_test, y_test)]
        train, valid, test = (
            DataLoader(_Batches(part), batch_size, shuffle=i == 0, num_workers=num_workers, collate_fn=_as_it_is)
            for i, part in enumerate(parts)
        )
        return train, valid, test


class MatchDataGenerator:
    """Loaders of a matching model's training rows, of users to recommend to, and of all items.

    Args:
        x: one array a feature: the training rows.
        y: their labels; none for pair-wise training.
    """

    def __init__(self, x: Mapping[str, Any] | pd.DataFrame, y: Any = ()) -> None:
        self.dataset = TorchDataset(x, y) if len(y) else PredictDataset(x)

    def generate_dataloader(
        self, x_test_user: Any, x_all_item: Any, batch_size: int, num_workers: int = 8
    ) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
        """Return the loaders of the training rows (shuffled), of the users, and of the items, in their order.

        Args:
            x_test_user: columns of users.
            x_all_item: columns of items.
            batch_size: rows of a batch.
            num_workers: processes that load; batches are stacked here already, so few are needed.
        """
        parts = [self.dataset, PredictDataset(x_test_user), PredictDataset(x_all_item)]
        train, users, items = (
            DataLoader(_Batches(part), batch_size, shuffle=i == 0, num_workers=num_workers, collate_fn=_as_it_is)
            for i, part in enumerate(parts)
        )
        return train, users, items


def _as_it_is(batch: Any) -> Any:
    return batch


def df_to_dict(data: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Return the columns as arrays; lists of one length become a matrix."""
    return {str(name): np.array(data[name].tolist()) for name in data.columns}


def get_auto_embedding_dim(num_classes: int) -> int:
    """Return floor(6 * num_classes^(1/4)), the rule of Wang et al., arXiv 1708.05123, section 3.1.

    Example:
        >>> get_auto_embedding_dim(10_000)
        60
    """
    return int(np.floor(6 * num_classes**0.25))


def pad_sequences(
    sequences: Sequence[Sequence[Any]],
    maxlen: int | None = None,
    dtype: str = "int32",
    padding: Literal["pre", "post"] = "pre",
    truncating: Literal["pre", "post"] = "pre",
    value: float = 0.0,
) -> npt.NDArray[Any]:
    """Return the sequences as a rectangle (N, maxlen).

    Args:
        sequences: of any lengths.
        maxlen: width; None takes the longest one's.
        dtype: of the result.
        padding: whether `value` stands before or after a short sequence.
        truncating: whether a long sequence loses its start or its end.
        value: fills up short sequences.

    Example:
        >>> pad_sequences([[1], [2, 3, 4]], maxlen=2).tolist()
        [[0, 1], [3, 4]]
    """
    width = max(map(len, sequences), default=0) if maxlen is None else maxlen
    result = np.full((len(sequences), width), value, dtype=dtype)
    for row, sequence in zip(result, sequences, strict=True):
        kept = sequence[max(len(sequence) - width, 0) :] if truncating == "pre" else sequence[:width]
        start = width - len(kept) if padding == "pre" else 0
        row[start : start + len(kept)] = kept
    return result


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
