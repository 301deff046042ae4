"""Data loaders under Torch-RecHub's names."""

from __future__ import annotations

import itertools
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
    "array_replace_with_dict",
    "df_to_dict",
    "generate_seq_feature",
    "get_auto_embedding_dim",
    "pad_sequences",
]
_MISSING = (
    "EmbDataset", "TigerSeqDataset", "Trie", "create_seq_features", "get_loss_func", "get_metric_func", "neg_sample",
)  # fmt: skip

Row = tuple[dict[str, Any], Any]


class PredictDataset(Dataset[Any]):
    """Columns in memory, for prediction: without labels.

    Args:
        x: one array of equal length a feature, (N,) or (N, T); a DataFrame's rows count by position, not by index.
            Lists of different lengths are for a DataLoader with a `collate_fn` of one's own, which pads them.

    Raises:
        DataError: no columns, or of different lengths.
    """

    def __init__(self, x: Mapping[str, Any] | pd.DataFrame) -> None:
        self.x = {str(name): _column(values) for name, values in x.items()}
        lengths = {name: len(values) for name, values in self.x.items()}
        if len(set(lengths.values())) != 1:
            raise DataError("the columns do not make a table", expected="columns of one length", got=lengths or "none")

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def __getitem__(self, index: int) -> Any:
        return {name: values[index] for name, values in self.x.items()}

    def batch(self, rows: npt.NDArray[np.int64]) -> Any:
        """Return some rows, stacked: far faster than row by row.

        Raises:
            DataError: a column has lists of different lengths, or texts.
        """
        uneven = [name for name, values in self.x.items() if values.dtype == object]
        if uneven:
            raise DataError("columns that are no arrays of numbers", expected="pad_sequences before", got=uneven)
        return {name: torch.as_tensor(values[rows]) for name, values in self.x.items()}


def _column(values: Any) -> npt.NDArray[Any]:
    """Return an array; of objects where they are lists of different lengths."""
    try:
        return np.asarray(values)
    except ValueError:
        column = np.empty(len(values), object)
        column[:] = [*values]
        return column


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


def array_replace_with_dict(array: npt.ArrayLike, dic: Mapping[Any, Any]) -> npt.NDArray[Any]:
    """Return the values that stand for those of an array.

    Args:
        array: of any shape.
        dic: what stands for each of its values.

    Raises:
        DataError: a value of the array is not among them.

    Example:
        >>> array_replace_with_dict([[1, 2], [2, 1]], {1: 10, 2: 20}).tolist()
        [[10, 20], [20, 10]]
    """
    values, place = np.unique(np.asarray(array), return_inverse=True)
    absent = [value for value in values.tolist() if value not in dic]
    if absent:
        raise DataError("values that nothing stands for", expected=f"keys of `dic`, {len(dic)} in all", got=absent[:5])
    return np.array([dic[value] for value in values.tolist()])[place].reshape(np.shape(array))


def generate_seq_feature(
    data: pd.DataFrame,
    user_col: str,
    item_col: str,
    time_col: str,
    item_attribute_cols: Sequence[str] = (),
    min_item: int = 0,
    shuffle: bool = True,
    max_len: int = 50,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return training, validation and test rows of ranking: each user's item, and a drawn one that it never chose.

    A user's last item is for the test, the one before for validation. Columns are `label`, `target_item_id`, the user,
    `hist_item_id`, and for each attribute `hist_<attribute>` and `target_<attribute>`. `np.random.seed` decides what is
    drawn.

    Args:
        data: the log; in it, as Torch-RecHub does, every column becomes numbers from 1 in the order of its values.
        user_col: its column of users.
        item_col: its column of items.
        time_col: its column that rows are ordered by.
        item_attribute_cols: columns of which an item has one value.
        min_item: users with fewer rows are left out.
        shuffle: whether the rows of each part come in a random order.
        max_len: width of histories, filled up with 0 behind; a user's rows after as many are left out.

    Raises:
        DataError: a column is not there or has empty cells, or a user has chosen all items, so that none can be drawn.
    """
    if missing := [name for name in (user_col, item_col, time_col, *item_attribute_cols) if name not in data.columns]:
        raise DataError("columns that are not in the log", expected=[*data.columns], got=missing)
    if empty := [name for name in data.columns if data[name].isna().any()]:
        raise DataError("columns with empty cells", expected="a value in each row: dropna() or fillna()", got=empty)
    numbers = {name: np.unique(data[name].to_numpy(), return_inverse=True)[1].astype(np.int32) + 1 for name in data}
    log = pd.DataFrame(numbers)
    items = int(log[item_col].max())
    attributes = {name: log.set_index(item_col)[name].to_dict() for name in item_attribute_cols}
    parts: tuple[list[list[Any]], ...] = ([], [], [])
    for user, rows in log.sort_values(time_col, kind="stable").groupby(user_col):
        chosen = rows[item_col].tolist()
        if len(chosen) < min_item:
            continue
        others = np.setdiff1d(np.arange(1, items + 1), chosen)
        if not len(others):
            raise DataError("no item is left to draw", expected="an item that the user has not chosen", got=f"{user=}")
        drawn = np.random.choice(others, len(chosen)).tolist()
        histories = [chosen, *(rows[name].tolist() for name in attributes)]
        for at in range(1, min(len(chosen), max_len)):
            before = [history[:at] + [0] * (max_len - at) for history in histories]
            part = parts[{len(chosen) - 1: 2, len(chosen) - 2: 1}.get(at, 0)]
            for label, item in ((1, chosen[at]), (0, drawn[at])):
                own = [[history, attributes[name][item]] for name, history in zip(attributes, before[1:], strict=True)]
                part.append([label, item, user, before[0], *itertools.chain(*own)])
    columns = ["label", "target_item_id", user_col, "hist_item_id"]
    columns += [f"{place}_{name}" for name in attributes for place in ("hist", "target")]
    frames = [pd.DataFrame(part, columns=columns) for part in parts]
    for name, values in numbers.items():  # last: what ends with an error leaves the caller's log alone
        data[name] = values
    if shuffle:
        frames = [frame.iloc[np.random.permutation(len(frame))].reset_index(drop=True) for frame in frames]
    return frames[0], frames[1], frames[2]


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
