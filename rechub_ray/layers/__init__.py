"""Building blocks of models: plain modules that know tensors and the schema, nothing of training."""

from rechub_ray.layers.activation import Activation, build_activation
from rechub_ray.layers.cross import CrossNet, CrossNetMix
from rechub_ray.layers.embedding import EmbeddingBank, Embeddings, EmbeddingView
from rechub_ray.layers.first_order import FirstOrder
from rechub_ray.layers.fm import FMInteraction
from rechub_ray.layers.inputs import Columns, DeepInput, VectorInput
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.layers.norm import BatchNorm1d

__all__ = [
    "MLP",
    "Activation",
    "BatchNorm1d",
    "Columns",
    "CrossNet",
    "CrossNetMix",
    "DeepInput",
    "EmbeddingBank",
    "EmbeddingView",
    "Embeddings",
    "FMInteraction",
    "FirstOrder",
    "HiddenUnits",
    "Linear",
    "Probability",
    "VectorInput",
    "build_activation",
]
