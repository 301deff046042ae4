"""`list`: components of every kind, keys of configurations, files of the package."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from rechub_ray import builtin, cli
from rechub_ray.config import RunConfig, TrainSection
from rechub_ray.models import MODELS
from rechub_ray.runtime.summary import FAMILIES

Listed = Callable[..., str]


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Listed:
    def run(*words: str) -> str:
        assert cli.main(["list", *words]) == 0
        return capsys.readouterr().out

    return run


def test_every_component_is_named(listed: Listed) -> None:
    out = listed()
    for family, registry in FAMILIES.items():
        assert re.search(rf"^{family}$", out, re.MULTILINE)
        assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in registry.names())


@pytest.mark.parametrize(
    ("one", "many"), [("model", "models"), ("loss", "losses"), ("index", "indexes"), ("metric", "metrics"),
                      ("optimizer", "optimizers"), ("schedule", "schedules"), ("tracker", "trackers"),
                      ("negative", "negatives"), ("balancing", "balancings"), ("config", "run"), ("search", "searches"),
                      ("scheduler", "schedulers"), ("split", "splits"), ("feature", "features")]
)  # fmt: skip
def test_one_and_many(listed: Listed, one: str, many: str) -> None:
    assert listed(one) == listed(many)


def test_models_come_by_family_with_paper_and_arguments(listed: Listed) -> None:
    out = listed("models")
    assert sorted(re.findall(r"^  (\w+) ", out, re.MULTILINE)) == MODELS.names()
    assert re.findall(r"^(\w+) models$", out, re.MULTILINE) == ["matching", "multi_task", "ranking", "sequential"]
    block = re.search(r"^  deepfm .*\n(    .*\n)+", out, re.MULTILINE)
    assert block is not None
    assert "arXiv 1703.04247" in block[0]
    assert "hidden_units: [256, 128]" in block[0]


def test_one_component_has_its_documentation_and_arguments(listed: Listed) -> None:
    for words in (("models", "deepfm"), ("model", "DeepFM")):
        out = listed(*words)
        assert "arXiv 1703.04247" in out
        for key in set(MODELS.validate("deepfm")) - {"name"}:
            assert re.search(rf"^  {key} += ", out, re.MULTILINE)
    assert re.search(r"milestones +\(required\)|\(required\)", listed("schedules", "manual_step"))


def test_a_section_has_all_of_its_keys_with_defaults_and_meanings(listed: Listed) -> None:
    out = listed("train")
    for key, field in TrainSection.model_fields.items():
        line = re.search(rf"^  {key}( .*)$", out, re.MULTILINE)
        assert line is not None
        assert field.default is not True or "= true" in line[1]
        assert ": " in line[1]
    assert listed("early_stopping") in out
    assert "keep_bytes" in listed("data")
    assert all(re.search(rf"^  {key} ", listed("run"), re.MULTILINE) for key in ("name", "seed", "init_from"))
    assert "reduction_factor" in listed("sweep")
    assert "min_frequency" in listed("recipe")


def test_sections_of_sweeps_and_recipes(listed: Listed) -> None:
    assert re.search(r"^scheduler, name: asha: ", listed("scheduler"), re.MULTILINE)
    assert "leave_last_out" in listed("split")
    assert "hash_buckets" in listed("features")


def test_every_section_can_be_listed(listed: Listed) -> None:
    sections = {
        key for key in RunConfig.model_fields if hasattr(RunConfig.model_fields[key].annotation, "model_fields")
    }
    assert {"data", "train", "scaling"} <= sections
    assert all(listed(key) for key in sections)


@pytest.mark.parametrize(("word", "kind"), [("configs", "configuration"), ("recipes", "recipe"), ("sweeps", "sweep")])
def test_the_files_of_the_package(listed: Listed, word: str, kind: str) -> None:
    assert re.findall(r"builtin:(\S+)  ?", listed(word)) == builtin.names(kind)


@pytest.mark.parametrize("words", [["modles"], ["train", "epochs"], ["models", "deepfn"]])
def test_what_is_not_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
