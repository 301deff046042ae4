"""What runs import and compile on their way, done once in the process of which `worlds.py` forks others."""

from __future__ import annotations

import numba  # noqa: F401
import pandas  # noqa: F401
import scipy.linalg  # noqa: F401
import torch
import torch.distributed

import rechub_ray.runtime.launch  # noqa: F401
from rechub_ray import config
from rechub_ray.cpu import kernels

torch.set_num_threads(1)  # threads do not survive a fork
torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports PyTorch's compiler
config.load({"model": "lr"})  # imports all components
_ROWS = torch.tensor([0])
kernels.update_rowwise_adagrad(
    torch.ones(1, 4), torch.ones(1), _ROWS, torch.ones(1, 4), lr=0.1, eps=1e-8, weight_decay=0.0
)
