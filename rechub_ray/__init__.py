"""rechub_ray: recommender models from parquet click logs to verified ONNX, on one machine or on a Ray cluster.

Names are imported when they are first used, so that `import rechub_ray` takes no time.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rechub_ray.checkpoint import load_model
    from rechub_ray.config import RunConfig
    from rechub_ray.config import load as load_config
    from rechub_ray.errors import RechubError
    from rechub_ray.export.onnx import export_model, export_onnx
    from rechub_ray.export.towers import export_towers
    from rechub_ray.models import MODELS, Model
    from rechub_ray.preparation import Encoder, PrepareResult, prepare
    from rechub_ray.runtime.inference import evaluate, predict
    from rechub_ray.runtime.launch import RunResult, train
    from rechub_ray.runtime.predictor import Predictor, load
    from rechub_ray.runtime.recommend import Recommender, recommend
    from rechub_ray.schema import DenseFeature, Items, Label, Schema, SequenceFeature, SparseFeature
    from rechub_ray.sweeps import SweepResult, Tuner, tune
    from rechub_ray.task import shared_task_layers
    from rechub_ray.trainers import CTRTrainer, MatchTrainer, MTLTrainer, SeqTrainer, evaluate_multi_task

    __version__: str

# Read when PyTorch is first imported. Its threads spin at the end of every parallel loop, by default for milliseconds:
# where another process wants the core, each of a step's hundred loops waits for a thread that is not running.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__all__ = [
    "CTRTrainer",
    "DenseFeature",
    "Encoder",
    "Items",
    "Label",
    "MODELS",
    "MTLTrainer",
    "MatchTrainer",
    "Model",
    "Predictor",
    "PrepareResult",
    "Recommender",
    "RechubError",
    "RunConfig",
    "RunResult",
    "Schema",
    "SeqTrainer",
    "SequenceFeature",
    "SparseFeature",
    "SweepResult",
    "Tuner",
    "__version__",
    "evaluate",
    "evaluate_multi_task",
    "export_model",
    "export_onnx",
    "export_towers",
    "load",
    "load_config",
    "load_model",
    "predict",
    "prepare",
    "recommend",
    "shared_task_layers",
    "train",
    "tune",
]

_MODULES = {
    "checkpoint": ("load_model",),
    "config": ("RunConfig", "load_config"),
    "errors": ("RechubError",),
    "export.onnx": ("export_model", "export_onnx"),
    "export.towers": ("export_towers",),
    "models": ("MODELS", "Model"),
    "preparation": ("Encoder", "PrepareResult", "prepare"),
    "runtime.inference": ("evaluate", "predict"),
    "runtime.launch": ("RunResult", "train"),
    "runtime.predictor": ("Predictor", "load"),
    "runtime.recommend": ("Recommender", "recommend"),
    "sweeps": ("SweepResult", "Tuner", "tune"),
    "schema": ("DenseFeature", "Items", "Label", "Schema", "SequenceFeature", "SparseFeature"),
    "task": ("shared_task_layers",),
    "trainers": ("CTRTrainer", "MTLTrainer", "MatchTrainer", "SeqTrainer", "evaluate_multi_task"),
}
_NAMES = {"load_config": "load"}  # under another name in their module


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rechub_ray")
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"rechub_ray.{module}"), _NAMES.get(name, name))
            globals()[name] = value
            return value
    raise AttributeError(f"module 'rechub_ray' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
