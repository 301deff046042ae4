"""What scripts of HSTU use beside the model, under Torch-RecHub's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.compat.missing import refuse
from rechub_ray.errors import DataError

__all__ = ["VocabMask"]
_MISSING = ("RelPosBias", "RelativeBucketedTimeAndPositionBias")
_LAST = -1e9  # a score below all others


class VocabMask(nn.Module):
    """Puts items last that are never to be recommended.

    Args:
        vocab_size: number of ids.
        invalid_items: ids that no row is to get; those that do not exist are passed over.
    """

    mask: Tensor

    def __init__(self, vocab_size: int, invalid_items: Sequence[int] | None = None) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        allowed = torch.ones(vocab_size, dtype=torch.bool)
        allowed[[item for item in invalid_items or () if 0 <= item < vocab_size]] = False
        self.register_buffer("mask", allowed)

    def apply_mask(self, logits: Tensor, invalid_ids: Tensor | None = None) -> Tensor:
        """Return the scores with -1e9 for invalid items.

        Args:
            logits: (..., V).
            invalid_ids: (N,) or (B, N) more items, of all rows or of each; then `logits` is (B, V).

        Raises:
            DataError: the shapes do not fit.
        """
        scores = logits.masked_fill(~self.mask, _LAST)
        if invalid_ids is None:
            return scores
        rows = invalid_ids.to(scores.device).long()
        rows = rows.expand(len(scores), -1) if rows.dim() == 1 else rows
        if scores.dim() != 2 or rows.dim() != 2 or len(rows) != len(scores):
            raise DataError(
                "'invalid_ids'", expected="(B, N) for scores (B, V)", got=(tuple(rows.shape), tuple(scores.shape))
            )
        known = (rows >= 0) & (rows < self.vocab_size)
        # one column more takes the ids that do not exist
        beside = torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=1)
        return beside.scatter(1, rows.masked_fill(~known, self.vocab_size), _LAST)[:, :-1]


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
