"""The picture of a model; torchview is an optional package."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.models import DSSM, DeepFM
from rechub_ray.schema import DenseFeature, Items, Label, Schema, SequenceFeature, SparseFeature
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


def test_of_a_model_for_retrieval_the_user_tower_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchview calls the model on the inputs; here it is a stand-in, which does that alone."""
    stand_in = types.ModuleType("torchview")
    stand_in.draw_graph = lambda served, *, input_data, **_: served(*input_data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchview", stand_in)
    monkeypatch.setitem(sys.modules, "graphviz", types.ModuleType("graphviz"))
    features = (*SCHEMA.features, SparseFeature("item", 7))
    model = DSSM(
        Schema(features, SCHEMA.labels, items=Items("item", (SparseFeature("brand", 3),))), vector_dim=6
    ).eval()
    (vectors,) = draw(model, rows=3)
    assert vectors.shape == (3, 6)
    assert not model.training


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchview", None)
    monkeypatch.setitem(sys.modules, "graphviz", type(sys)("graphviz"))
    with pytest.raises(ConfigError, match=r"torchview.*pip install rechub_ray\[visualization\]"):
        draw(DeepFM(SCHEMA))
