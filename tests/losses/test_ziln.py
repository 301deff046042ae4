"""Zero-inflated log-normal labels: likelihood, the head that a model builds, what is served, exported and measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.batch import Batch, Features
from rechub_ray.defaults import build_task, links, resolved
from rechub_ray.errors import ConfigError
from rechub_ray.export import export_model
from rechub_ray.losses.ziln import ZILN
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.outputs import ZeroInflatedLogNormal, predictions
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature
from rechub_ray.world import World

SCHEMA = Schema((SparseFeature("user", 9), DenseFeature("age")), (Label("spend", "regression"), Label("click")))
LABEL_KIND = "regression"
WIDTH = 3
VARIANTS: list[dict[str, Any]] = [
    {"max_sigma": 0.6, "class_weight": 0.5, "reg_weight": 2.0, "mu_reg": 0.2, "sigma_reg": 0.0}
]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, max_sigma: float = 5.0,
    class_weight: float = 1.0, reg_weight: float = 1.0, mu_reg: float = 0.01, sigma_reg: float = 0.01,
) -> float:  # fmt: skip
    logit, mu, h = s.T
    p, sigma = 1 / (1 + np.exp(-logit)), np.clip(np.log1p(np.exp(h)), 1e-7**0.5, max_sigma)
    total = 0.0
    for i in range(len(y)):
        bce = -np.log(p[i] if y[i] > 0 else 1 - p[i])
        total += w[i] * (class_weight * bce + mu_reg * mu[i] ** 2 + sigma_reg * h[i] ** 2) / (w != 0).sum()
        if y[i] > 0:
            z = (np.log(y[i]) - mu[i]) / sigma[i]
            density = np.exp(-z * z / 2) / (y[i] * sigma[i] * np.sqrt(2 * np.pi))
            total += reg_weight * w[i] * -np.log(density) / ((w != 0) & (y > 0)).sum()
    return float(total)


def run(**arguments: Any) -> config_module.RunConfig:
    losses = [{"name": "ZILN_LOSS", "label": "spend", **arguments}, {"name": "bce", "label": "click"}]
    return config_module.load({"model": {"name": "shared_bottom", "init_std": 0.3}, "losses": losses})


def draw(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    sparse = torch.randint(0, 9, (rows, 1), generator=generator)
    age = torch.randn(rows, 1, generator=generator)
    spend = torch.where(torch.arange(rows) % 3 == 0, 0, torch.exp(1 + age[:, 0]))
    return Batch(Features(sparse, age), torch.stack([spend, (spend > 3).float()], 1))


def test_the_expectation_is_that_of_draws() -> None:
    link, value = ZeroInflatedLogNormal(), torch.tensor([[0.7, 0.5, 0.3]], dtype=torch.float64)
    logit, mean, sigma = link.parameters(value)
    normal = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.sigmoid(logit) * torch.exp(mean + sigma * normal).mean()
    torch.testing.assert_close(link(value), expected, rtol=0.01, atol=0)


def test_the_expectation_is_finite_whatever_the_numbers() -> None:
    values = torch.tensor([[1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0.0, 0.0, -1e4]], requires_grad=True)
    served = ZeroInflatedLogNormal()(values)
    served.sum().backward()
    assert served[0].item() == pytest.approx(np.exp(20), rel=1e-5)
    assert torch.isfinite(served).all()
    assert torch.isfinite(torch.as_tensor(values.grad)).all()


def test_a_model_builds_the_head_and_rmse_reads_the_expectation() -> None:
    config = resolved(run(max_sigma=0.5), SCHEMA)
    assert config.model["heads"] == {"spend": "distribution", "click": "logit"}
    torch.manual_seed(0)
    model = MODELS.build(config.model, SCHEMA).eval()
    batch = draw(12)
    outputs = model(batch.features)
    assert outputs["distribution/spend"].shape == (12, 3)
    read_as = links(config, SCHEMA, model.outputs)
    metrics = MetricSet(SCHEMA, config.metrics or []).bind(predictions(model.outputs, SCHEMA, read_as), model.outputs)
    metrics.update({name: value.detach() for name, value in outputs.items()}, batch)
    expected = ZeroInflatedLogNormal(0.5)(outputs["distribution/spend"]).detach()
    rmse = float((expected - batch.labels[:, 0]).square().mean().sqrt())
    world, device = World(), torch.device("cpu")
    assert metrics.compute(world, device=device)["spend/rmse"] == pytest.approx(rmse)
    metrics.reset()
    assert np.isnan(metrics.compute(world, device=device)["spend/rmse"])  # no rows


@pytest.mark.parametrize("probabilities", [True, False])
def test_its_export_serves_the_expectation(probabilities: bool, tmp_path: Path) -> None:
    config = resolved(run(), SCHEMA)
    torch.manual_seed(0)
    model = MODELS.build(config.model, SCHEMA).eval()
    read_as = links(config, SCHEMA, model.outputs)
    report = export_model(model, SCHEMA, tmp_path / "model.onnx", links=read_as, probabilities=probabilities)
    assert all(check.passed for check in report.checks)
    name = "value/spend" if probabilities else "distribution/spend"
    assert [(port.name, port.shape) for port in report.outputs] == [
        (name, ("batch",) if probabilities else ("batch", 3)),
        ("probability/click" if probabilities else "logit/click", ("batch",)),
    ]
    features = draw(7).features
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    (got,) = session.run([name], {"user": features.sparse[:, 0].numpy(), "age": features.dense[:, 0].numpy()})
    expected = model(features)["distribution/spend"].detach()
    expected = ZeroInflatedLogNormal()(expected) if probabilities else expected
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)


def test_parts_of_a_step_are_exact_though_they_differ_in_positive_rows() -> None:
    config, batch = resolved(run(), SCHEMA), draw(12)
    order = torch.argsort(batch.labels[:, 0])  # the first part has zeros alone
    batch = Batch(Features(batch.features.sparse[order], batch.features.dense[order]), batch.labels[order])
    torch.manual_seed(0)
    task = build_task(config, SCHEMA, MODELS.build(config.model, SCHEMA))
    parts = [
        dataclasses.replace(
            batch, features=Features(batch.features.sparse[some], batch.features.dense[some]), labels=batch.labels[some]
        )
        for some in (slice(0, 4), slice(4, 12))
    ]
    size = task.size(parts)
    torch.testing.assert_close(sum(task(part, size).total for part in parts), task(batch).total)


def test_it_finds_the_distribution() -> None:
    """Labels of one log-normal with a third of zeros: 300 steps find its three numbers."""
    generator = torch.Generator().manual_seed(0)
    rows = 4000
    spend = torch.exp(1.2 + 0.7 * torch.randn(rows, generator=generator)) * (torch.arange(rows) % 3 > 0)
    schema = Schema((), (Label("spend", "regression"),))
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    batch = Batch(features, spend.unsqueeze(1))
    loss = ZILN(schema, mu_reg=0, sigma_reg=0)
    numbers = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([numbers], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (loss({"logit": numbers.expand(rows, 3)}, batch) / loss.count(batch)).sum().backward()
        optimizer.step()
    logit, mean, sigma = ZeroInflatedLogNormal().parameters(numbers.detach())
    assert [float(logit.sigmoid()), float(mean), float(sigma)] == pytest.approx([2 / 3, 1.2, 0.7], abs=0.02)


def test_a_model_without_that_head_says_so() -> None:
    config = config_module.load({"model": "deepfm", "losses": [{"name": "ziln", "label": "spend"}]})
    with pytest.raises(ConfigError, match=r"'ziln' cannot read output 'logit' of kind logit.*of kind distribution"):
        resolved(config, SCHEMA.select(None, ["spend"]))
