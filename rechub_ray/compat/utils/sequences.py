"""Loaders of sequences of tokens under Torch-RecHub's names, which `rechub_ray.compat.utils.data` has too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, random_split

from rechub_ray.errors import DataError


class SeqDataset(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Sequences of tokens in memory, each with the one that comes next.

    Args:
        seq_tokens: ids, 0 is padding, (N, T).
        seq_positions: they are not read; models count positions themselves.
        targets: (N,) ids.
        seq_time_diffs: seconds from each token to the row's moment, (N, T).

    Raises:
        DataError: the arrays differ in length.
    """

    def __init__(self, seq_tokens: Any, seq_positions: Any, targets: Any, seq_time_diffs: Any) -> None:
        self.columns = [np.asarray(values) for values in (seq_tokens, seq_positions, seq_time_diffs, targets)]
        lengths = [len(values) for values in self.columns]
        if len(set(lengths)) != 1:
            raise DataError("the sequences do not make a table", expected="arrays of one length", got=lengths)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens, positions, times, targets = (torch.as_tensor(values[index]) for values in self.columns)
        return tokens.long(), positions.long(), times.float(), targets.long()


class SequenceDataGenerator:
    """Loaders of `(seq_tokens, seq_positions, seq_time_diffs, targets)`; see `SeqDataset`."""

    def __init__(self, seq_tokens: Any, seq_positions: Any, targets: Any, seq_time_diffs: Any) -> None:
        self.dataset = SeqDataset(seq_tokens, seq_positions, targets, seq_time_diffs)

    def generate_dataloader(
        self,
        batch_size: int = 32,
        num_workers: int = 0,
        split_ratio: Sequence[float] | None = None,
        shuffle: bool = True,
    ) -> tuple[DataLoader[Any], ...]:
        """Return one loader, or those of three random parts.

        Args:
            batch_size: rows of a batch.
            num_workers: processes that load.
            split_ratio: shares of the training, validation and test rows, which add up to 1; None makes one loader.
            shuffle: of one loader; of three, the training rows always are.

        Raises:
            DataError: the shares do not add up to 1.
        """
        if split_ratio is None:
            return (DataLoader(self.dataset, batch_size, shuffle=shuffle, num_workers=num_workers),)
        if len(split_ratio) != 3 or abs(sum(split_ratio) - 1) > 1e-6:
            raise DataError("'split_ratio'", expected="three shares that add up to 1", got=list(split_ratio))
        parts = random_split(self.dataset, list(split_ratio))
        return tuple(
            DataLoader(part, batch_size, shuffle=i == 0, num_workers=num_workers) for i, part in enumerate(parts)
        )
