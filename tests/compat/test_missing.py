"""What Torch-RecHub has and this package does not is an ImportError that lists what is there."""

from __future__ import annotations

import importlib

import pytest

# of torch-rechub 0.9.0
MODULES = {
    "basic": "activation layers metaoptimizer",
    "data": "convert dataset",
    "models.generative": "hllm rqvae tiger",
    "models.matching": "comirec dssm dssm_facebook dssm_senet gru4rec mind narm sasrec sine stamp youtube_sbc",
    "models.multi_task": "aitm esmm mmoe ple shared_bottom",
    "models.ranking": "afm autoint bst dcn dcn_v2 deepffm deepfm dien din edcn fibinet widedeep",
    "serving": "annoy base faiss milvus",
    "trainers": "rqvae_trainer",
    "utils": "model_utils onnx_export quantization visualization",
}


@pytest.mark.parametrize("name", [f"{package}.{name}" for package, names in MODULES.items() for name in names.split()])
def test_a_module_that_is_not_there(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        importlib.import_module(f"rechub_ray.compat.{name}")
    text = str(caught.value)
    assert any(f"does not have Torch-RecHub's {part} yet" in text for part in (name, name.rpartition(".")[0]))
    assert "models.ranking (AFM, AutoInt, " in text
    assert "trainers (CTRTrainer, MTLTrainer, MatchTrainer, SeqTrainer, evaluate_multi_task)" in text
    assert "build" not in text, "of no use to a script"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from rechub_ray.compat.utils.match import Milvus", "does not have Torch-RecHub's Milvus yet"),
        ("from rechub_ray.compat.models.generative import HLLMModel", "does not have Torch-RecHub's HLLMModel yet"),
        ("import rechub_ray.compat.serving", "does not have Torch-RecHub's serving yet"),
        ("from rechub_ray.compat.basic.loss_func import HingeLoss", "has: BPRLoss, RegularizationLoss"),
        ("from rechub_ray.compat.utils.data import TigerSeqDataset", "has: DataGenerator"),
        ("from rechub_ray.compat.utils.mtl import gradnorm", "has: MetaBalance, shared_task_layers"),
    ],
)
def test_imports(line: str, words: str) -> None:
    with pytest.raises(ImportError, match=words):
        exec(line, {})


def test_other_packages_are_as_they_were() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'rechub_ray.no_such_module'$"):
        importlib.import_module("rechub_ray.no_such_module")
