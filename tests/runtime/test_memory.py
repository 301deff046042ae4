"""What a run takes of memory: as much as the optimizers and gradients really take, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rechub_ray import config
from rechub_ray.errors import ResourceError
from rechub_ray.models import MODELS
from rechub_ray.optimizers import build_optimizers
from rechub_ray.runtime import memory
from rechub_ray.runtime.memory import Need, check_fits, human, needs
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature

SCHEMA = Schema((SparseFeature("user", 1000), SparseFeature("item", 50), DenseFeature("age")), (Label("click"),))


def found(optimizers: Any, **more: Any) -> dict[str, Need]:
    run = config.load(
        {"model": {"name": "fm", "embedding_dim": 8}, "optimizers": optimizers, "data": {"batch_size": 10}, **more}
    )
    with torch.device("meta"):
        model = MODELS.build(run.model, SCHEMA)
    parts = needs(run, model, build_optimizers(run.optimizers, model))
    assert [part.total for part in parts] == sorted((part.total for part in parts), reverse=True)
    return {part.name: part for part in parts}


def test_dense_gradients_and_moments_are_as_large_as_the_table() -> None:
    table = found("adam")["embedding.weights.8"]
    size = 1050 * 8 * 4
    assert (table.weights, table.gradient) == (size, size)
    assert table.optimizer == pytest.approx(2 * size, abs=8)  # and a count of steps
    assert "rows of user: 1,000, item: 50" in str(table)
    assert found("adam", scaling={"num_workers": 2})["embedding.weights.8"].gradient == 2 * size


def test_row_gradients_are_as_large_as_the_step_s_lookups() -> None:
    nodes = [{"name": "rowwise_adagrad", "params": "*embedding.*"}, "adam"]
    table = found(nodes)["embedding.weights.8"]
    assert table.optimizer == 1050 * 4
    assert table.gradient == 20 * (8 * 4 + 8) * 2
    assert found([{"name": "adagrad", "params": "*embedding.*"}, "adam"])["embedding.weights.8"].optimizer >= 1050 * 32


def test_an_average_of_the_weights_is_as_large_as_they_are_and_once_more_while_it_is_in_use() -> None:
    table = found("adam", train={"ema_decay": 0.9})["embedding.weights.8"]
    assert table.average == 2 * 1050 * 8 * 4
    assert table.total == found("adam")["embedding.weights.8"].total + table.average
    assert "average 65.6 KiB" in str(table)


@pytest.mark.parametrize(
    "name",
    ["adam", "adamw", "sgd", "adagrad", "rmsprop", "lion", "ftrl", "rowwise_adagrad", "lazy_adam", "sparse_ftrl",
     "torch.optim.Adafactor", "torch.optim.SparseAdam"],
)  # fmt: skip
def test_the_states_of_every_optimizer_have_the_predicted_sizes(name: str) -> None:
    nodes = [{"name": name, "params": "*embedding.weights.8"}, "adam"]
    predicted = found(nodes)["embedding.weights.8"].optimizer
    model = MODELS.build({"name": "fm", "embedding_dim": 8}, SCHEMA)
    built = build_optimizers(nodes, model)
    table = dict(model.named_parameters())["embedding.weights.8"]
    gradient = torch.ones_like(table)
    table.grad = gradient.to_sparse(1) if model.embedding.row_gradients["8"] else gradient
    built[0].optimizer.step()
    states = [value for value in built[0].optimizer.state[table].values() if isinstance(value, torch.Tensor)]
    assert predicted == pytest.approx(sum(value.nbytes for value in states), abs=8)


def test_what_does_not_fit_is_told_largest_first_in_one_line() -> None:
    parts = [Need(f"layer_{i}", 2**30 * (9 - i), 0, 0) for i in range(8)]
    total = sum(part.total for part in parts)
    check_fits(parts, total, where="the host")
    with pytest.raises(ResourceError, match=r"fit into the host.*most 44 GiB.*Got: 44 GiB: layer_0 9 GiB \(") as caught:
        check_fits(parts, total - 1, where="the host")
    assert "5 smaller ones" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_model_of_a_process_that_evaluates_counts_too() -> None:
    parts = [Need("table", 2**30, 2**30, 2**30)]
    check_fits(parts, 2 * 3 * 2**30 + 2**30, workers=2, evaluators=1, where="the host")
    with pytest.raises(ResourceError, match=r"Got: 7 GiB = 2 workers x 3 GiB \+ 1 GiB where .*\(train\.eval_method\)"):
        check_fits(parts, 7 * 2**30 - 1, workers=2, evaluators=1, where="the host")


def test_dense_gradients_of_a_table_are_told_the_way_out() -> None:
    parts = list(found("adam").values())
    with pytest.raises(ResourceError, match="give tables to rowwise_adagrad"):
        check_fits(parts, 1, where="the host")


def test_a_control_group_counts_where_it_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.host_memory()
    monkeypatch.setattr(Path, "read_text", lambda path, **_: "1048576" if path.name == "memory.max" else "max")
    assert memory.host_memory() == 2**20 < whole
    monkeypatch.setattr(Path, "read_text", lambda path, **_: "max")
    assert memory.host_memory() >= whole


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (1010 * 2**20, "1,010 MiB"), (2**50, "1,024 TiB")],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


@pytest.mark.parametrize(
    ("cpuinfo", "missing"),
    [
        ("processor : 0\nflags : fpu amx_bf16\n", None),
        ("processor : 0\nflags : fpu avx512f\n", "avx512_bf16 or amx_bf16"),
        ("Features : fp asimd bf16\n", None),
        ("Features : fp asimd\n", "bf16"),
        ("cpu : POWER9\n", None),
        ("", None),
    ],
)
def test_the_flag_that_is_missing(cpuinfo: str, missing: str | None) -> None:
    assert memory.missing_bfloat16_flags(cpuinfo) == missing


def test_any_parameter_has_states(tmp_path: Path) -> None:
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))
    run = config.load({"model": "lr", "optimizers": ["adam"]})
    assert len(needs(run, model, build_optimizers(run.optimizers, model))) == 2
