"""Numbers of parameters that others published for Frappe_x1 (embeddings of width 10)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.published import MODELS as PUBLISHED
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature

# how many more were published
MORE = {
    "dnn": 364_001,  # a second tower; one alone is the published DLRM without numeric columns and with concatenation
    "finalnet_1b": 10 * 10,  # one more id in each column
    "finalnet_2b": 10 * 10,
    "finalmlp": 12 * 10 + 1,  # and two biases at the end
}


@pytest.fixture(scope="module")
def frappe(data_dir: Callable[[str], Path]) -> Schema:
    """Vocabularies of the training file, and one id for everything else, in every column."""
    sizes = pd.read_csv(data_dir("frappe") / "train.csv").drop(columns="label").nunique()
    return Schema(
        features=tuple(SparseFeature(str(name), int(size) + 1) for name, size in sizes.items()),
        labels=(Label("label"),),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_as_many_parameters_as_published(name: str, frappe: Schema) -> None:
    with torch.device("meta"):
        model = MODELS.build(PUBLISHED[name].model, frappe)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name].parameters - MORE.get(name, 0)
