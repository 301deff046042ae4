"""The configuration: overrides merged before validation, every default filled in, errors that name the key."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rechub_ray import config
from rechub_ray.config import RunConfig, Section
from rechub_ray.errors import ConfigError

LR = {"model": "lr"}


def leaves(model: type[Section]) -> dict[str, Any]:
    """Dotted path -> default of every key that is no section."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= {f"{name}.{key}": value for key, value in leaves(field.annotation).items()}
        else:
            found[name] = field.default
    return found


def at(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


# --- defaults -------------------------------------------------------------------------------------------------------


def test_every_default_is_filled_in() -> None:
    data = config.load(LR).model_dump(mode="json")
    for path, default in leaves(RunConfig).items():
        if path == "train.epochs":
            assert at(data, path) == 1
        elif path not in ("model", "optimizers", "trackers"):
            assert at(data, path) == default, path
    assert data["losses"] is None  # the labels decide
    assert data["metrics"] is None
    optimizer = data["optimizers"][0]
    assert (optimizer["name"], optimizer["lr"], optimizer["params"]) == ("adam", 0.001, ["*"])
    assert optimizer["schedule"]["name"] == "constant"
    assert [node["name"] for node in data["trackers"]] == ["console", "jsonl"]
    assert data["model"]["name"] == "lr"


def test_it_is_frozen() -> None:
    loaded = config.load(LR)
    with pytest.raises(pydantic.ValidationError):
        loaded.seed = 1  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError):
        loaded.train.steps = 1  # type: ignore[misc]


def test_two_loads_share_nothing() -> None:
    config.load(LR).optimizers[0]["lr"] = 5.0
    assert config.load(LR).optimizers[0]["lr"] == 0.001


def test_the_folder_has_a_default() -> None:
    assert config.load(LR, ["name=x"]).directory() == "runs/x"
    assert config.load(LR, ["model_dir=a/b"]).directory() == "a/b"


# --- overrides ------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "model": {"name": "deepfm", "hidden_units": [8, 4]},
    "losses": ["bce"],
    "optimizers": [{"name": "sgd", "params": "embedding.*"}, "adam"],
    "train": {"epochs": 3},
}


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("--seed=7", "seed", 7),
        ("train.epochs=7", "train.epochs", 7),
        ("data.train=[train, more]", "data.train", ["train", "more"]),
        ("--train.early_stopping.patience=3", "train.early_stopping.patience", 3),
        ("train.early_stopping={patience: 4}", "train.early_stopping.patience", 4),
        ("train.clip_norm=1e-1", "train.clip_norm", 0.1),
        ("train.initial_evaluation=false", "train.initial_evaluation", False),
        ("train.initial_evaluation=False", "train.initial_evaluation", False),
        ("train.epochs=00010", "train.epochs", 10),  # of YAML 1.2; version 1.1 has octal numbers
        ("train.epochs=0x10", "train.epochs", 16),
        ("name=no", "name", "no"),
        ("data.root=1_000", "data.root", "1_000"),
        ("data.root=12:30:45", "data.root", "12:30:45"),
        ("data.valid=null", "data.valid", None),
        ("data.valid=~", "data.valid", None),
        ("data.root=a=b", "data.root", "a=b"),
        ("name='007'", "name", "007"),
        ("name=2026-01-31", "name", "2026-01-31"),
        ("data.features=[a, b]", "data.features", ["a", "b"]),
        ("model.hidden_units=[5]", "model.hidden_units", [5]),
        ("model.hidden_units.0=5", "model.hidden_units", [5, 4]),
        ("model.hidden_units.2=5", "model.hidden_units", [8, 4, 5]),
        ("model=lr", "model.name", "lr"),
        ("optimizers.0.lr=0.5", "optimizers.0.lr", 0.5),
        ("optimizers.1.lr=0.5", "optimizers.1.lr", 0.5),  # a bare name becomes a node
        ("optimizers.1.schedule=warmup_cosine", "optimizers.1.schedule.name", "warmup_cosine"),
        ("optimizers.2=sgd", "optimizers.2.name", "sgd"),
        ("losses.0.weight=2", "losses.0.weight", 2.0),
        ("metrics.0.name=mse", "metrics.0.name", "mse"),  # a list that the file leaves out has its default
        ("metrics.2=mse", "metrics.2.name", "mse"),
        ("metrics=auc", "metrics.0.name", "auc"),
        ("trackers=[]", "trackers", []),
    ],
)
def test_one_override(override: str, path: str, value: Any) -> None:
    found = at(config.load(BASE, [override]).model_dump(mode="json"), path)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_may_build_on_earlier_ones() -> None:
    loaded = config.load(BASE, ["optimizers=adam", "optimizers.0.lr=1", "optimizers.0.schedule.name=warmup_cosine",
                                "optimizers.0.schedule.hold_steps=5", "seed=1", "seed=2"])  # fmt: skip
    assert loaded.optimizers[0]["lr"] == 1
    assert loaded.optimizers[0]["schedule"]["hold_steps"] == 5
    assert loaded.seed == 2


@pytest.mark.parametrize("optimizers", ["adam", {"name": "adam"}, ["adam"], [{"name": "adam"}]])
def test_one_component_stands_for_a_list_of_one(optimizers: Any) -> None:
    assert config.load({**LR, "optimizers": optimizers}, ["optimizers.0.lr=0.5"]).optimizers[0]["lr"] == 0.5


def test_overrides_leave_what_they_are_given_alone() -> None:
    nested = {"patience": 3}
    config.merge(BASE, {"train.early_stopping": nested, "train.early_stopping.patience": 4, "losses.0.weight": 2})
    assert nested == {"patience": 3}
    assert BASE["losses"] == ["bce"]


def test_values_of_python_become_plain() -> None:
    loaded = config.load(
        BASE, {"data.root": Path("x"), "seed": np.int64(5), "train.clip_norm": np.float32(0.5),
               "model.hidden_units": (3, 2), "name": datetime.date(2026, 1, 31)}
    )  # fmt: skip
    assert (loaded.data.root, loaded.seed, loaded.train.clip_norm) == ("x", 5, 0.5)
    assert loaded.model["hidden_units"] == (3, 2)
    assert loaded.name == "2026-01-31"


def test_epochs_and_steps_unset_each_other_by_null() -> None:
    loaded = config.load(BASE, ["train.epochs=null", "train.steps=9"])
    assert (loaded.train.epochs, loaded.train.steps) == (None, 9)
    assert config.load(BASE, ["train.epochs=null"]).train.epochs == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", ["path=value", "'seed'"]),
        ("=1", ["path=value"]),
        ("--=1", ["path=value"]),
        ("seed=[1", ["override 'seed'", "not YAML"]),
        ("seed={a: 1, a: 2}", ["'a' is given twice"]),
        ("sede=1", ["'sede'", "Did you mean 'seed'?"]),
        ("train.epoch=1", ["'train.epoch'", "Did you mean 'epochs'?"]),
        ("train..epochs=1", ["'train.'"]),
        ("data.train=[train, 1]", ["'data.train'", "list of folders"]),
        ("data.train=[]", ["'data.train'", "list of folders"]),
        ("data.train=true", ["'data.train'", "list of folders"]),
        ("model.name.x=1", ["override 'model.name.x'", "'model.name' holds a value"]),
        ("train.epochs.x=1", ["'train.epochs' holds a value"]),
        ("optimizers.2.lr=1", ["'optimizers' is a list of 2", "0 to 1"]),
        ("optimizers.3=sgd", ["'optimizers' is a list of 2"]),
        ("optimizers.-1.lr=1", ["'optimizers' is a list of 2"]),
        ("optimizers.one.lr=1", ["'optimizers' is a list of 2"]),
        ("optimizers.0.lrr=1", ["'optimizers.0'", "Did you mean 'lr'?"]),
        ("optimizers.0.schedul=constant", ["Did you mean 'schedule'?"]),
        ("optimizers.0.schedule.decay=1", ["'optimizers.0.schedule'", "no 'name'"]),
        ("model.hidden_units.5=1", ["'model.hidden_units' is a list of 2"]),
        ("train.steps=5", ["train.epochs", "train.steps", "not both"]),
        ("train.epochs=1:30", ["'train.epochs'", "'1:30'"]),
        ("train.initial_evaluation=no", ["'train.initial_evaluation' is a switch", "true or false"]),
        ("optimizers.².lr=1", ["'optimizers' is a list of 2"]),
        (f"optimizers.{'9' * 5000}.lr=1", ["'optimizers' is a list of 2"]),
        (f"train.epochs={'9' * 5000}", ["override 'train.epochs'", "not YAML"]),
        ("data.train=[train, ./train/]", ["data.train holds one folder twice"]),
        ("data.train=[a, valid]", ["data.valid is a folder that data.train holds"]),
        ("data.test=x/../train", ["data.test is a folder that data.train holds"]),
    ],
)
def test_wrong_overrides(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(BASE, [override])
    assert all(word in str(caught.value) for word in words), caught.value


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
KEYS = st.text("abcxyz_", min_size=1, max_size=4)


@given(
    st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x, max_size=3), max_leaves=8),
    st.lists(KEYS, min_size=1, max_size=4),
)
def test_a_value_set_at_a_new_place_is_found_there(value: Any, keys: list[str]) -> None:
    merged = config.merge({}, {".".join(["zz", *keys]): value})
    assert at(merged["zz"], ".".join(keys)) == value


# --- files ----------------------------------------------------------------------------------------------------------


def test_dump_and_load_are_inverse_for_every_published_configuration() -> None:
    for file in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")):
        loaded = config.load(file)
        assert config.load(yaml.safe_load(config.dump(loaded))) == loaded, file


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.text("abc.-_0", min_size=1, max_size=4).filter(lambda x: x[0].isalnum()),
            "seed": st.integers(0, 2**63 - 1),
            "model_dir": st.text(min_size=1).filter(lambda x: "\0" not in x and x.isprintable()),
            "data": st.fixed_dictionaries({"valid": st.sampled_from([None, "yes", "1e-3", "null", "a: b", "ä"])}),
            "train": st.fixed_dictionaries({"clip_norm": st.floats(1e-300, 1e300), "steps": st.integers(1)}),
            "regularization": st.fixed_dictionaries({"dense_l1": st.floats(0, 1e-5)}),
            "optimizers": st.lists(st.fixed_dictionaries({"name": st.just("adam"), "lr": st.floats(0, 9)}), min_size=1),
        },
    )
)
def test_dump_and_load_are_inverse(data: dict[str, Any]) -> None:
    loaded = config.load({**LR, **data})
    assert config.load(yaml.safe_load(config.dump(loaded))) == loaded


def test_a_file_with_anchors_is_read_as_it_is(tmp_path: Path) -> None:
    text = (
        "model: {name: deepfm}\noptimizers:\n- &a {name: adam, lr: 1e-2, params: 'embedding*'}\n- {<<: *a, params: '*'}"
    )
    (tmp_path / "c.yaml").write_text(text)
    assert [node["lr"] for node in config.load(tmp_path / "c.yaml").optimizers] == [0.01, 0.01]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"model: [", ["not YAML"]),
        (b"\xff\xfe\x00", ["not YAML"]),
        (b"- 1", ["not a configuration", "list"]),
        (b"", ["not a configuration", "NoneType"]),
        (b"seed: 1\nseed: 2", ["'seed' is given twice", "line 2"]),
        (b"train: {epochs: 1, epochs: 2}", ["'epochs' is given twice"]),
        (b"model: &a {name: *a}", ["not YAML"]),
        (b"model: !!python/object/apply:os.system [echo]", ["not YAML"]),
        (b"model: !!binary aGk=", ["'model' holds a bytes"]),
        (b"train: {epochs: !!int many}", ["not YAML"]),
        (b"x: [" * 2000, ["not YAML"]),
        (b"# " + b"x" * 2**24, ["not a configuration", "at most"]),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: bytes, words: list[str]) -> None:
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "c.yaml")
    assert all(word in str(caught.value) for word in ["c.yaml" if "holds" not in words[0] else "", *words]), (
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("model: lr")
    with pytest.raises(ConfigError, match=r"demoo\.yaml'\. Got: No such file or directory\. Did you mean .*demo\.yaml"):
        config.load(tmp_path / "demoo.yaml")
    with pytest.raises(ConfigError, match="Got: Is a directory"):
        config.load(tmp_path)


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": None}, ["'model'"]),
        ({"losses": []}, ["'losses' is empty"]),
        ({"optimizers": []}, ["'optimizers' is empty"]),
        ({"metrics": 5}, ["'metrics' is not a list"]),
        ({"balancing": "ulw"}, ["'balancing.name'", "Did you mean 'uwl'"]),
        ({"data": {"labels": []}}, ["'data.labels'"]),
        ({"trackers": 5}, ["'trackers' is not a list"]),
        ({"imports": "json"}, ["'imports'", "a list"]),
        ({"imports": [5]}, ["'imports'", "a list"]),
        ({"imports": ["no_such_module_here"]}, ["'imports': cannot import 'no_such_module_here'"]),
        ({"train": None}, ["'train' is not a section"]) ,
        ({"train": {"early_stopping": 3}}, ["'train.early_stopping' is not a section"]),
        ({"data": {"valid": ""}}, ["'data.valid'"]),
        ({"model_dir": ""}, ["'model_dir'"]),
        ({"name": ".."}, ["'name'"]),
        ({"seed": True}, ["'seed' is not a switch"]),
        ({"scaling": {"use_gpu": 1}}, ["'scaling.use_gpu' is a switch"]),
        ({"train": {"clip_norm": float("inf")}}, ["'train.clip_norm'"]),
        ({"optimizers": [{"name": "adam", "lr": True}]}, ["'optimizers.0.lr' is not a switch"]),
        ({"optimizers": [{"name": "adam", "schedule": {"name": "exponential", "decay_steps": 0}}]},
         ["'optimizers.0.schedule.decay_steps'"]),
    ],
)  # fmt: skip
def test_wrong_values(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load({**LR, **change})
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_model() -> None:
    with pytest.raises(ConfigError, match=r"'model' is missing\. Known models: .*deepfm"):
        config.load({})


def test_a_module_of_ones_own_brings_its_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tracker_for_the_test.py").write_text(
        "from rechub_ray.tracking import TRACKERS, Tracker\n\n"
        "@TRACKERS.register('of_my_own')\n"
        "class Mine(Tracker):\n"
        "    '''Mine.'''\n"
        "    def __init__(self, run, *, colour: str = 'red') -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {**LR, "imports": ["my_tracker_for_the_test"], "trackers": ["of_my_own"]}
    try:
        assert config.load(own).trackers == [{"name": "of_my_own", "colour": "red"}]
    finally:
        from rechub_ray.tracking import TRACKERS

        TRACKERS._classes.pop("of_my_own", None)
        sys.modules.pop("my_tracker_for_the_test", None)


# --- fingerprint ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", {"seed"}),
        ("model.embedding_dim=3", {"model"}),
        ("optimizers.0.lr=3", {"optimizers"}),
        ("losses.0.weight=3", {"losses"}),
        ("regularization.dense_l2=1", {"regularization"}),
        ("train.clip_norm=1", {"train"}),
        ("train.clip_value=1", {"train"}),
        ("train.ema_decay=0.9", {"train"}),
        ("optimizers.0.clip_norm=1", {"optimizers"}),
        ("train.precision=bfloat16", {"train"}),
        ("data.features=[a]", {"data.features"}),
        ("train.epochs=9", set()),
        ("scaling.num_workers=3", set()),
        ("data.batch_size=3", set()),
        ("trackers=[]", set()),
        ("checkpoint.keep=9", set()),
        ("name=other", set()),
    ],
)
def test_what_a_resumed_run_must_share(override: str, changed: set[str]) -> None:
    old, new = config.load(BASE).fingerprint(), config.load(BASE, [override]).fingerprint()
    assert {key for key in old if old[key] != new[key]} == changed


def test_written_configurations_hold_no_keys() -> None:
    run = config.load({"model": "lr"}, ["data.root=s3://KEY:SECRET@bucket/data", "name=x"])
    assert run.data.root == "s3://KEY:SECRET@bucket/data"
    assert config.load(yaml.safe_load(config.dump(run))).data.root == "s3://***@bucket/data"
    assert config.flat(run)["data.root"] == "s3://***@bucket/data"
