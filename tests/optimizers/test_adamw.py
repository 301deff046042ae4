from __future__ import annotations

from typing import Any

import torch


def test_is_torch_adamw(full_problem: Any) -> None:
    mine = full_problem.run(
        full_problem.of("adamw", lr=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.2), dense=True
    )
    theirs = full_problem.run(
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2, foreach=False), dense=True
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_decay_alone_shrinks_the_weights(full_problem: Any) -> None:
    full_problem.steps = [(rows, torch.zeros_like(values)) for rows, values in full_problem.steps]
    mine = full_problem.run(full_problem.of("adamw", lr=0.1, weight_decay=0.5), dense=True)
    torch.testing.assert_close(mine, full_problem.start * (1 - 0.1 * 0.5) ** len(full_problem.steps))
