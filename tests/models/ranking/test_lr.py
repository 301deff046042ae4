from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError


def test_it_is_the_linear_term_with_a_bias(by_hand: Any) -> None:
    case = by_hand({"name": "lr"})
    np.testing.assert_allclose(case.logit, case.linear + case.state["linear.bias"], rtol=1e-12)


def test_unknown_features_are_an_error(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"wide_features.*'usr'.*Did you mean 'user'"):
        by_hand({"name": "lr", "wide_features": ["usr"]})
