"""The least that Ray Train does: a TorchTrainer on two workers that imports torch and takes one step.

Usage: python -m benchmarks.bare_trainer FOLDER; prints the time at which the step was known on the driver.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def step(_: dict[str, Any]) -> None:
    """Take one step of a linear model."""
    import torch

    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(8, 4)).sum().backward()
    optimizer.step()
    ray.train.report({"time": time.time()})


def main() -> None:
    run_config = RunConfig(name="bare", storage_path=sys.argv[1])
    result = TorchTrainer(step, scaling_config=ScalingConfig(num_workers=2), run_config=run_config).fit()
    assert result.metrics is not None
    print(json.dumps({"time": result.metrics["time"]}))


if __name__ == "__main__":
    main()
