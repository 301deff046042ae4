"""The picture of a model; torchview is an optional package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.models import DeepFM
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.trainers.visualization import draw

SCHEMA = Schema(
    (SparseFeature("user", 9), DenseFeature("price"), DenseFeature("vector", dim=3), SequenceFeature("history", 9)),
    (Label("click"),),
)


def test_the_graph_names_the_layers(tmp_path: Path) -> None:
    pytest.importorskip("torchview")
    pytest.importorskip("graphviz")
    model = DeepFM(SCHEMA, embedding_dim=4, hidden_units=(8,)).train()
    graph = draw(model, save_path=tmp_path / "graphs" / "deepfm.gv", depth=4)
    source = (tmp_path / "graphs" / "deepfm.gv").read_text()
    assert source == graph.visual_graph.source
    for layer in ("VectorInput", "FMInteraction", "MLP"):
        assert layer in source
    assert model.training


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchview", None)
    monkeypatch.setitem(sys.modules, "graphviz", type(sys)("graphviz"))
    with pytest.raises(ConfigError, match=r"torchview.*pip install rechub_ray\[visualization\]"):
        draw(DeepFM(SCHEMA))
