"""The least that Ray Train does: a TorchTrainer on two workers that imports torch and takes one step.

Usage: python -m benchmarks.bare_trainer FOLDER; prints the time at which the first worker had taken its step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def step(given: dict[str, Any]) -> None:
    """Take one step of a linear model, and write down when."""
    import torch

    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(8, 4)).sum().backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        Path(given["file"]).write_text(str(time.time()))


def main() -> None:
    file = Path(sys.argv[1]) / "time"
    run_config = RunConfig(name="bare", storage_path=sys.argv[1])
    given = {"file": str(file)}
    TorchTrainer(
        step, train_loop_config=given, scaling_config=ScalingConfig(num_workers=2), run_config=run_config
    ).fit()
    print(json.dumps({"time": float(file.read_text())}))


if __name__ == "__main__":
    main()
