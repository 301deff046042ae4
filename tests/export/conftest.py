"""Exports of the whole room share the exporter's list of operators."""

from __future__ import annotations

from tests.exporter import one_registry

__all__ = ["one_registry"]
