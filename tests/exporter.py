"""What tests that export many models share."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """The exporter lists its operators anew for each model: a quarter of a small one's time."""
    name = "torch.onnx._internal.exporter._registration"
    with pytest.MonkeyPatch.context() as patch:
        cls = getattr(importlib.import_module(name), "ONNXRegistry", None)
        if hasattr(cls, "from_torchlib"):
            patch.setattr(cls, "from_torchlib", staticmethod(functools.cache(cls.from_torchlib)))
        yield
