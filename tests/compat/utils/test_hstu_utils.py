"""Items that are never to be recommended."""

from __future__ import annotations

import pytest
import torch

from rechub_ray.compat.utils.hstu_utils import VocabMask
from rechub_ray.errors import DataError


def test_invalid_items_come_last() -> None:
    mask, scores = VocabMask(5, invalid_items=[0, 7, -1]), torch.arange(10.0).view(2, 5)
    assert (mask.apply_mask(scores) == -1e9).nonzero().tolist() == [[0, 0], [1, 0]]
    assert scores[0, 0] == 0, "a copy"
    seen = torch.tensor([[1, 9], [-1, 4]])
    assert (mask.apply_mask(scores, seen) == -1e9).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 4]]
    assert (mask.apply_mask(scores, torch.tensor([2])) == -1e9).sum() == 4
    assert mask.apply_mask(torch.zeros(2, 3, 5)).shape == (2, 3, 5)
    assert "mask" in mask.state_dict()
    with pytest.raises(DataError, match="'invalid_ids'"):
        mask.apply_mask(scores, seen[:1])
