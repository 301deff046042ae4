"""Optimizers, and which parameters each one updates."""

from rechub_ray.optimizers.adagrad import Adagrad
from rechub_ray.optimizers.adam import Adam
from rechub_ray.optimizers.adamw import AdamW
from rechub_ray.optimizers.base import OPTIMIZERS, SparseOptimizer, takes_row_gradients
from rechub_ray.optimizers.groups import BuiltOptimizer, build_optimizers, validate_optimizer
from rechub_ray.optimizers.lazy_adam import LazyAdam
from rechub_ray.optimizers.rowwise_adagrad import RowwiseAdagrad
from rechub_ray.optimizers.sgd import SGD
from rechub_ray.optimizers.sparse_adagrad import SparseAdagrad

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BuiltOptimizer",
    "LazyAdam",
    "RowwiseAdagrad",
    "SparseAdagrad",
    "SparseOptimizer",
    "build_optimizers",
    "takes_row_gradients",
    "validate_optimizer",
]
