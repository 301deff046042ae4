"""The benchmark of published models goes on where it was, and its configurations are those of the table."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import published, quality_frappe, quality_plain, workload
from benchmarks.__main__ import BENCHMARKS, joined
from benchmarks.process import Finished
from benchmarks.settings import ROOT, Settings
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature

COLUMNS = ("user", "item", "daytime", "city")


def test_the_files_are_those_of_the_table() -> None:
    for name in published.MODELS:
        assert published.path(name).read_text() == published.text(name), "run `python -m benchmarks.published`"
    assert {path.stem for path in (ROOT / "configs" / "frappe").iterdir()} == {*published.MODELS} - {*published.FIRST}


def test_a_name_of_two_words_is_one_benchmark() -> None:
    assert joined(["quality", "frappe", "frappe", "ids", "quality"], [*BENCHMARKS]) == [
        "quality frappe",
        "frappe",
        "ids",
        "quality",
    ]
    assert joined(["quality", "plan", "ids"], [*BENCHMARKS]) == ["quality plan", "ids"], "as it was typed"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were trained, of which the 41st fails until there is a file called `go`."""
    names: list[str] = []
    schema = Schema(tuple(SparseFeature(name, 5) for name in COLUMNS), (Label("label"),))
    schema.save(tmp_path / "schema.json")

    def run_training(settings: Settings, name: str, given: dict[str, Any], *, go_on: bool) -> Any:
        if len(names) == 40 and not (tmp_path / "go").exists():
            raise SystemExit("killed")
        names.append(name)
        auc = published.MODELS[name.split("-")[1]].auc + (given["seed"] - 2027) / 1000
        return types.SimpleNamespace(
            test_metrics={"auc": auc, "log_loss": 0.25},
            metrics={"auc": 0.5},
            details={"epochs": given["train"]["epochs"]},
            process=types.SimpleNamespace(cpu_seconds=9.0),
            went_on=name == "quality-fm-2028",
        )

    monkeypatch.setattr(quality_frappe, "prepared", lambda settings: tmp_path)
    monkeypatch.setattr(quality_frappe, "run_training", run_training)
    monkeypatch.setattr(quality_frappe, "AT_ONCE", 1)
    return names


def test_it_goes_on_seed_by_seed_and_a_mended_model_is_trained_alone(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, count = Settings(work=tmp_path), len(published.MODELS)
    with pytest.raises(SystemExit, match="killed"):
        quality_frappe.run(settings)
    assert [name.split("-")[2] for name in trained[:count]] == ["2026"] * count
    assert len(trained) == 40
    (tmp_path / "go").touch()
    result = quality_frappe.run(settings)
    assert len(trained) == len({*trained}) == 3 * count
    shown = quality_frappe.table(result)
    assert "| FM | configs/fm_frappe.yaml | 3 | 0.967108 (0.0020) | 0.967108 | +0.0000 | 0.2500 (0.2065) " in shown
    assert [found["seconds"] for key, found in result["cells"].items() if key.startswith("fm ")] == [9.0, 9.0, None]
    assert "(LR: 0.0005): none." in shown
    trained.clear()
    quality_frappe.run(Settings(work=tmp_path, quick=True))
    assert len(trained) == count, "quick runs are others"
    mended = dataclasses.replace(published.MODELS["lr"], r=1.0, auc=0.9)
    monkeypatch.setitem(published.MODELS, "lr", mended)
    (tmp_path / "lr.yaml").write_text(published.text("lr"))
    usual = published.path
    monkeypatch.setattr(quality_frappe, "path", lambda name: tmp_path / "lr.yaml" if name == "lr" else usual(name))
    trained.clear()
    assert len(quality_frappe.run(settings)["cells"]) == 3 * count
    assert trained == [f"quality-lr-{seed}" for seed in quality_frappe.SEEDS]


def test_a_run_that_was_interrupted_goes_on_where_its_configuration_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []

    def run_process(command: list[str], *, log: Path, memory: bool) -> Finished:
        folder = Path(command[-1])
        begun.append((folder / "checkpoints" / "step_0000000001").exists())
        (folder / "checkpoints" / "step_0000000001").mkdir(parents=True, exist_ok=True)
        if len(begun) != 3:
            raise SystemExit("killed")
        (folder / "result.json").write_text('{"details": {}, "metrics": {}, "test_metrics": {}}')
        (folder / "metrics.jsonl").touch()
        return Finished(0.0, 1.0, 1.0, 0, {})

    monkeypatch.setattr(workload, "run_process", run_process)
    settings, given = Settings(work=tmp_path), {"seed": 1}
    for config in ({"seed": 2}, given):
        with pytest.raises(SystemExit, match="killed"):
            workload.run_training(settings, "a", config, go_on=True)
    assert workload.run_training(settings, "a", given, go_on=True).went_on
    with pytest.raises(SystemExit, match="killed"):
        workload.run_training(settings, "a", given, go_on=True)
    with pytest.raises(SystemExit, match="killed"):
        workload.run_training(settings, "a", given)
    assert begun == [False, False, True, False, False]


def test_what_is_far_is_named() -> None:
    keys = ("test_auc", "test_log_loss", "valid_auc", "epochs", "parameters", "seconds")
    cells = {"lr 1 a": dict.fromkeys(keys, 0.9365)}
    assert "(LR: 0.0005): LR (+0.0009)." in quality_frappe.table({"cells": cells})


def test_without_the_data_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECHUB_DATA", str(tmp_path))
    assert quality_frappe.table(quality_frappe.run(Settings(work=tmp_path))).startswith("Left out: set RECHUB_DATA")


def test_plain_pytorch_has_the_same_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frappe").mkdir()
    rows = [f"{i % 3 == 0:d},{','.join(str((i * k) % 5) for k in range(1, 11))}" for i in range(60)]
    header = "label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"
    for split in ("train", "valid", "test"):
        (tmp_path / "frappe" / f"{split}.csv").write_text("\n".join([header, *rows]))
    monkeypatch.setenv("RECHUB_DATA", str(tmp_path))
    settings = Settings(work=tmp_path, quick=True)
    found = quality_plain.run(settings)["cells"]
    assert [name.split()[0] for name in found] == [*quality_plain.PLAIN]
    assert quality_plain.run(settings)["cells"] == found, "finished runs are kept"

    sizes, _ = quality_plain.splits(tmp_path / "frappe")
    schema = Schema(tuple(SparseFeature(f"f{i}", size) for i, size in enumerate(sizes)), (Label("label"),))
    for name, cell in zip(quality_plain.PLAIN, found.values(), strict=True):
        model = MODELS.build(published.MODELS[name].model, schema, where="model")
        assert cell["parameters"] == sum(weight.numel() for weight in model.parameters()), name
