from __future__ import annotations

import numpy as np
import pytest

from rechub_ray.errors import ConfigError
from tests.by_hand import LISTS, Histories, softmax


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_attention_to_what_a_search_finds(keep: int) -> None:
    case = Histories({"name": "sim", "keep": keep, "num_heads": 2})
    of_history, of_target, query, key, value = (
        case.state[f"interests.0.{name}.weight"] for name in ("of_history", "of_target", "query", "key", "value")
    )
    interests = []
    for ids, v in zip(LISTS, case.items, strict=True):
        history = case.table[ids]
        scores = (history @ of_history.T) @ (of_target @ v) / 2**0.5
        general = (scores[:, None] * history).sum(0) / max(1, len(ids))
        found = history[np.argsort(-scores, kind="stable")[:keep]]
        exact = np.zeros(2)
        for head in range(2 if len(ids) else 0):  # each is one number wide
            weights = softmax((found @ key[head]) * (query[head] @ v), 0)
            exact[head] = weights @ (found @ value[head])
        interests.append(np.concatenate([general, exact]))
    np.testing.assert_allclose(case.logit, case.expected(interests), rtol=1e-9)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"num_heads.*width 2.*Got: 3"):
        Histories({"name": "sim", "num_heads": 3})
