"""Broken configurations, data sets and command lines: each must end with one paragraph and exit code 2.

`tests/test_mutations.py` runs them in one process. `python -m benchmarks.mutations` runs every one in a process of its
own, as a user would, and prints how long they took and what they said.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rechub_ray import config as config_module
from rechub_ray.data.synthetic import write_click_logs

ROOT = Path(__file__).resolve().parents[1]
Keys = tuple[str | int, ...]

# small enough that a mutation which nobody notices ends soon
SMALL = {
    "data.root": "@DATA",
    "data.batch_size": 64,
    "data.eval_batch_size": 256,
    "train.epochs": 1,
    "train.threads": 1,
    "trackers": ["jsonl"],
    "scaling.num_workers": 0,
    "export.onnx": False,
}
SOURCES = {"demo": ROOT / "configs/demo.yaml", "frappe": ROOT / "configs/deepfm_frappe.yaml"}
FRAPPE_COLUMNS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


@dataclasses.dataclass
class Mutation:
    """One thing that is wrong.

    Args:
        name: says what is wrong.
        base: `demo` or `frappe`.
        expect: texts that the message holds: the key, the column, the file.
        config: the whole configuration, or the text of its file; "@DATA" stands for the data's folder.
        damage: spoils a copy of the data.
        arrange: prepares the working folder (given the run that is there) and may do so in place.
        arguments: of the command line; "@CONFIG", "@RUN" and "@DATA" stand for places.
        is_found_in_training: only reading the rows can tell, so a run is under way by then.
    """

    name: str
    base: str
    expect: tuple[str, ...]
    config: dict[str, Any] | str
    damage: Callable[[Path], None] | None = None
    arrange: Callable[[Path, Path], None] | None = None
    arguments: tuple[str, ...] = ("train", "@CONFIG", "--model-dir", "@RUN")
    is_found_in_training: bool = False


# --- where it all starts --------------------------------------------------------------------------


def base_config(base: str) -> dict[str, Any]:
    """A published configuration, small, with every default filled in and no model_dir."""
    data = config_module.load(SOURCES[base], SMALL).model_dump(mode="json")
    del data["model_dir"]
    return data


def write_data(base: str, folder: Path) -> None:
    """Sound data for a base."""
    if base == "demo":
        write_click_logs(folder, rows=1500, seed=3, files=2, row_group_rows=256)
        return
    rng = np.random.default_rng(4)
    for split, rows in {"train": 1200, "valid": 150, "test": 150}.items():
        columns = {name: pa.array(rng.integers(0, 9, rows, np.int32)) for name in FRAPPE_COLUMNS}
        columns["label"] = pa.array(rng.integers(0, 2, rows).astype(np.float32))
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / split / "part-00000.parquet", row_group_size=256)
    schema = {
        "version": 1,
        "features": [{"kind": "sparse", "name": name, "vocab_size": 9} for name in FRAPPE_COLUMNS],
        "labels": [{"name": "label", "kind": "binary"}],
    }
    (folder / "schema.json").write_text(json.dumps(schema))


# --- every key and every value of a configuration -------------------------------------------------


def walk(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every place in a configuration with its value, sections and lists included."""
    if keys:
        yield keys, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*keys, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from walk(item, (*keys, i))


def replaced(config: dict[str, Any], keys: Keys, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(config)
    here: Any = result
    for key in keys[:-1]:
        here = here[key]
    here[keys[-1]] = value
    return result


def renamed(config: dict[str, Any], keys: Keys) -> tuple[dict[str, Any], str]:
    result = copy.deepcopy(config)
    here: Any = result
    for key in keys[:-1]:
        here = here[key]
    old = str(keys[-1])
    new = f"{old}_" if len(old) < 4 else old[: len(old) // 2] + old[len(old) // 2 + 1 :]
    here[new] = here.pop(old)
    return result, new


def wrong_values(value: Any) -> dict[str, Any]:
    """Values of a wrong type or out of range for a place that holds `value`, by a word for each."""
    anything = {"a mapping": {"a": 1}}
    if value is None:
        return {**anything, "true": True, "a list of lists": [[1]]}
    if isinstance(value, bool):
        return {**anything, "text": "abc", "yes as text": "yes", "a number": 1, "a list": [True], "null": None}
    if isinstance(value, int):
        return {**anything, "text": "abc", "true": True, "a list": [1], "a fraction": 2.5, "negative": -1}
    if isinstance(value, float):
        return {**anything, "text": "abc", "true": True, "a list": [1.0], "NaN": math.nan, "infinity": math.inf}
    if isinstance(value, str):
        return {**anything, "a number": 5, "true": True, "a list of numbers": [5], "empty": ""}
    if isinstance(value, list):
        return {**anything, "a number": 5, "a list of nulls": [None], "a list of lists": [[1]]}
    return {"a number": 5, "text": "no such thing", "a list": [1]}


def systematic(base: str) -> Iterator[Mutation]:
    config = base_config(base)
    for keys, value in walk(config):
        path = ".".join(map(str, keys))
        if isinstance(keys[-1], str):
            changed, new = renamed(config, keys)
            is_component = keys[-1] == "name" and len(keys) > 1
            meant = f"Write 'name' instead of '{new}'" if is_component else f"Did you mean '{keys[-1]}'?"
            yield Mutation(f"{path} renamed to {new}", base, (new, meant), changed)
        for what, wrong in wrong_values(value).items():
            if what == "empty" and "params" in keys:
                continue  # a pattern that matches nothing, beside one that does
            yield Mutation(f"{path} is {what}", base, _names(keys), replaced(config, keys, wrong))
        if isinstance(value, float) and keys[-1] not in ("min_delta",):
            yield Mutation(f"{path} is negative", base, _names(keys), replaced(config, keys, -0.5))


def _names(keys: Keys) -> tuple[str, ...]:
    """What a message about a place must name: the whole path, less an index at its end."""
    keys = keys[:-1] if isinstance(keys[-1], int) and len(keys) > 1 else keys
    return (".".join(map(str, keys)),)


# --- what only a person would think of ------------------------------------------------------------


def chosen_values() -> Iterator[Mutation]:
    """Values of the right type that cannot be right."""
    wrong: list[tuple[str, Any, tuple[str, ...]]] = [
        ("model", "deepfn", ("model.name", "Did you mean 'deepfm'?")),
        ("model.name", "DeepFM", ("model.name", "Did you mean 'deepfm'?")),
        ("losses", ["bec"], ("losses.0", "Did you mean 'bce'?")),
        ("losses", [], ("losses",)),
        ("losses.0.label", "clik", ("losses.0", "clik", "Did you mean 'click'?")),
        ("losses.0.output", "logits", ("losses.0", "logits")),
        ("metrics", ["acu"], ("metrics.0", "Did you mean 'auc'?")),
        ("metrics", ["auc", "auc"], ("metrics.1", "auc")),
        ("metrics", [{"name": "auc", "label": "nope"}], ("metrics.0", "nope")),
        ("metrics", [], ("metric",)),
        ("metrics", ["calibration"], ("metric", "calibration")),
        ("optimizers", [], ("optimizers",)),
        ("optimizers", ["adamm"], ("optimizers.0", "Did you mean 'adam'?")),
        ("optimizers", ["rowwise_adagrad"], ("optimizers.0.params", "embedding")),
        ("optimizers.0.params", ["embeding.*"], ("optimizers.0.params", "embeding.*")),
        ("optimizers.1.params", ["mlp.*"], ("optimizers", "no optimizer updates")),
        ("optimizers.1.schedule", "warmup_cosin", ("optimizers.1.schedule", "Did you mean 'warmup_cosine'?")),
        (
            "optimizers.1.schedule",
            {"name": "manual_step", "boundaries": [9, 3], "rates": [1, 1]},
            ("optimizers.1.schedule",),
        ),
        ("optimizers.1.schedule", {"name": "manual_step"}, ("optimizers.1.schedule", "boundaries")),
        ("optimizers.1.beta1", 1.0, ("optimizers.1.beta1",)),
        ("trackers", ["jsonll"], ("trackers.0", "Did you mean 'jsonl'?")),
        ("trackers", ["jsonl", "jsonl"], ("trackers.1", "jsonl")),
        ("model.activation", "rely", ("model.activation",)),
        ("model.dropout", 1.0, ("model.dropout",)),
        ("model.hidden_units", [64, 0], ("model.hidden_units.1",)),
        ("model.fm_features", ["usr"], ("model.fm_features", "Did you mean 'user'?")),
        ("model.deep_features", [], ("model.deep_features",)),
        ("model.embedding_dim", 10**12, ("model", "memory")),
        ("model.embedding_dim", 10**30, ("model.embedding_dim",)),
        ("model.hidden_units", [10**9, 10**9], ("model", "memory")),
        ("data.features", ["user", "pice"], ("data.features.1", "Did you mean 'price'?")),
        ("data.features", [], ("data.features",)),
        ("data.batch_size", 10**9, ("data.batch_size", "rows")),
        ("data.batch_size", 0, ("data.batch_size",)),
        ("data.root", "no/such/folder", ("no/such/folder", "data.root")),
        ("data.schema_file", "shema.json", ("shema.json",)),
        ("data.train", "trian", ("data.train", "trian", "Did you mean 'train'?")),
        ("data.valid", "validation", ("data.valid", "validation")),
        ("data.test", "tests", ("data.test", "tests", "Did you mean 'test'?")),
        ("train.epochs", 0, ("train.epochs",)),
        ("train.steps", 5, ("train", "epochs", "steps")),
        ("train.clip_norm", 0, ("train.clip_norm",)),
        ("train.precision", "float16", ("train.precision",)),
        ("train.device", "gpu", ("train.device",)),
        ("train.threads", 10**9, ("train.threads",)),
        ("train.accumulate_steps", 10**6, ("accumulate_steps", "rows")),
        ("train.early_stopping.metric", "auk", ("train.early_stopping.metric", "Did you mean 'auc'?")),
        ("train.early_stopping.metric", "accuracy", ("train.early_stopping.metric", "accuracy")),
        ("train.early_stopping.metric", "calibration", ("train.early_stopping.metric", "direction")),
        ("train.early_stopping.mode", "maximum", ("train.early_stopping.mode",)),
        ("train.early_stopping.mode", "min", ("train.early_stopping.mode", "auc")),
        ("train.early_stopping.patience", 0, ("train.early_stopping.patience",)),
        ("data.valid", None, ("train.early_stopping.patience", "data.valid")),
        ("train.evaluate_every_epochs", 0, ("train.early_stopping.patience", "train.evaluate_every_epochs")),
        ("checkpoint.keep", 0, ("checkpoint.keep",)),
        ("checkpoint.every_steps", 0, ("checkpoint.every_steps",)),
        ("checkpoint.every_seconds", 0, ("checkpoint.every_seconds",)),
        ("scaling.num_workers", 10**6, ("scaling.num_workers",)),
        ("seed", 2**70, ("seed",)),
        ("name", "a/b", ("name",)),
        ("name", "..", ("name",)),
        ("imports", ["no_such_module_at_all"], ("imports", "no_such_module_at_all")),
        ("imports", "no_such_module_at_all", ("imports", "list")),
        ("init_from", "no/such/run", ("init_from", "no/such/run")),
        ("init_map", "map.tsv", ("init_map", "init_from")),
    ]
    for path, value, expect in wrong:
        keys = tuple(int(key) if key.isdigit() else key for key in path.split("."))
        yield Mutation(f"{path} = {value!r:.60}", "demo", expect, replaced(base_config("demo"), keys, value))
    plateau = replaced(base_config("frappe"), ("data", "valid"), None)
    plateau["train"]["early_stopping"]["patience"] = None
    yield Mutation("a plateau schedule without validation", "frappe", ("optimizers.0.schedule",), plateau)
    grouped = replaced(base_config("frappe"), ("metrics",), ["auc", "gauc"])
    yield Mutation("gauc without a group column", "frappe", ("metrics.1", "group"), grouped)


def resources() -> Iterator[Mutation]:
    """Requests that the machine cannot meet."""
    config = base_config("demo")
    many = replaced(replaced(config, ("scaling", "num_workers"), 1000), ("data", "batch_size"), 1)
    arithmetic = ("1000 workers x 0.5 CPU + 1 CPU for reading = 501 CPU", "scaling.num_workers=")
    validate = ("validate", "@CONFIG", "--model-dir", "@RUN")
    yield Mutation("1000 workers on this machine", "demo", arithmetic, many, arguments=validate)
    device = replaced(many, ("train", "device"), "cuda")
    yield Mutation("CUDA on workers without GPUs", "demo", ("train.device", "scaling.use_gpu"), device)
    device = replaced(many, ("train", "device"), "cpu")
    device["scaling"]["use_gpu"] = True
    yield Mutation("GPUs reserved for a run on CPUs", "demo", ("train.device", "scaling.use_gpu"), device)
    batch = replaced(many, ("data", "batch_size"), 512)
    yield Mutation("a step of more rows than there are", "demo", ("data.batch_size", "x workers 1000"), batch)


def without_gpu() -> Iterator[Mutation]:
    """Requests for a GPU, wrong where there is none."""
    config = base_config("demo")
    for device in ("cuda", "cuda:7"):
        changed = replaced(config, ("train", "device"), device)
        yield Mutation(f"train.device={device}", "demo", ("train.device", "CUDA"), changed)
    changed = replaced(config, ("scaling", "use_gpu"), True)
    yield Mutation("scaling.use_gpu in this process", "demo", ("scaling.use_gpu", "CUDA"), changed)
    changed = replaced(changed, ("scaling", "num_workers"), 1)
    validate = ("validate", "@CONFIG", "--model-dir", "@RUN")
    yield Mutation("a worker with a GPU", "demo", ("GPU", "scaling.use_gpu=false"), changed, arguments=validate)


# --- data -----------------------------------------------------------------------------------------


def _file(root: Path, split: str = "train") -> Path:
    return sorted((root / split).glob("*.parquet"))[0]


def _column(name: str, make: Callable[[pa.Array], Any]) -> Callable[[Path], None]:
    """Replaces a column of the first training file."""

    def damage(root: Path) -> None:
        file = _file(root)
        table = pq.read_table(file)
        values = pa.array(make(table[name].combine_chunks()))
        pq.write_table(table.set_column(table.column_names.index(name), name, values), file, row_group_size=256)

    return damage


def _one(value: Any, kind: Any = None) -> Callable[[pa.Array], pa.Array]:
    """The column with another value in its last row."""

    def make(values: pa.Array) -> pa.Array:
        return pa.array([*values.to_pylist()[:-1], value], kind or values.type)

    return make


def _schema(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = json.loads((root / "schema.json").read_text())
        result = change(data)
        (root / "schema.json").write_text(json.dumps(data if result is None else result))

    return damage


def _feature(i: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["features"][i].update(changes)


def _text(text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text
    return lambda root: (root / "schema.json").write_bytes(content) and None


def _shorten(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _blank(file: Path) -> None:
    """Zeros over the first pages; the footer stays whole."""
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(bytes(content))


def _no_rows(root: Path, split: str) -> None:
    for file in (root / split).glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 0), file)


def _empty(root: Path, split: str) -> None:
    for file in (root / split).iterdir():
        file.unlink()


def _foreign(root: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2], "y": ["a", "b"]}), _file(root))


def _without(column: str) -> Callable[[Path], None]:
    return lambda root: pq.write_table(pq.read_table(_file(root)).drop_columns([column]), _file(root))


def _misnamed(old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        table = pq.read_table(_file(root))
        pq.write_table(table.rename_columns([new if name == old else name for name in table.column_names]), _file(root))

    return damage


def damaged_data() -> Iterator[Mutation]:
    """What the checks before training find."""
    part = "part-00000.parquet"
    schema = "schema.json"
    found: list[tuple[str, Callable[[Path], None], tuple[str, ...]]] = [
        ("no schema", lambda root: (root / schema).unlink(), (schema, "prepare")),
        ("the schema is cut off", lambda root: _shorten(root / schema), (schema, "JSON")),
        ("the schema is empty", _text(""), (schema, "JSON")),
        ("the schema is binary", _text(b"\xff\xfe\x00"), (schema, "JSON")),
        ("the schema is a list", _text("[]"), (schema, "object")),
        ("the schema is of a later version", _schema(lambda d: d.update(version=99)), (schema, "version 99")),
        ("the schema has an unknown key", _schema(lambda d: d.update(labls=[])), ("labls", "Did you mean 'labels'?")),
        ("the schema has no labels", _schema(lambda d: d.pop("labels") and None), (schema, "label")),
        ("the schema's features are no list", _schema(lambda d: d.update(features=5)), (schema, "features")),
        ("the schema's group is a number", _schema(lambda d: d.update(group=5)), (schema, "group")),
        ("a feature of an unknown kind", _schema(_feature(0, kind="sparze")), (schema, "sparze", "feature 0")),
        (
            "a feature with a misspelt key",
            _schema(_feature(0, embed_dmi=4)),
            ("embed_dmi", "Did you mean 'embed_dim'?"),
        ),
        ("a vocabulary of none", _schema(_feature(0, vocab_size=0)), ("'user'", "vocab_size")),
        ("a vocabulary in words", _schema(_feature(0, vocab_size="many")), ("'user'", "vocab_size")),
        ("a vocabulary that is true", _schema(_feature(0, vocab_size=True)), ("'user'", "vocab_size")),
        ("a vocabulary beyond memory", _schema(_feature(0, vocab_size=10**13)), ("model", "memory")),
        ("a feature is no object", _schema(lambda d: d["features"].append("age")), (schema, "feature 10")),
        ("a feature is there twice", _schema(lambda d: d["features"].append(d["features"][0])), ("user", "two roles")),
        ("a table is shared with nobody", _schema(_feature(9, shared_with="categry")), ("Did you mean 'category'?",)),
        ("tables of two sizes are shared", _schema(_feature(9, shared_with="item")), ("history", "item", "vocab_size")),
        ("a label of an unknown kind", _schema(lambda d: d["labels"][0].update(kind="clicks")), ("label 0", "kind")),
        ("no training folder", lambda root: shutil.rmtree(root / "train"), ("data.train", "train")),
        ("no validation folder", lambda root: shutil.rmtree(root / "valid"), ("data.valid", "valid")),
        ("no test folder", lambda root: shutil.rmtree(root / "test"), ("data.test", "test")),
        ("an empty training folder", lambda root: _empty(root, "train"), ("data.train", "empty")),
        ("a training split without rows", lambda root: _no_rows(root, "train"), ("data.train", "no rows")),
        ("a validation split without rows", lambda root: _no_rows(root, "valid"), ("data.valid", "no rows")),
        ("a file is cut off", lambda root: _shorten(_file(root)), (part, "parquet")),
        ("a test file is cut off", lambda root: _shorten(_file(root, "test")), ("test/part-00000.parquet",)),
        ("a file is empty", lambda root: _file(root).write_bytes(b"") and None, (part, "parquet")),
        ("a file is a CSV", lambda root: _file(root).write_text("a,b\n1,2\n" * 99) and None, (part, "parquet")),
        ("a file of another data set", _foreign, (part, "'user'")),
        ("a column is missing", _without("price"), (part, "'price'")),
        ("the label is missing", _without("click"), (part, "'click'")),
        ("the group is missing", _without("user_id"), (part, "'user_id'")),
        ("a column is misnamed", _misnamed("price", "prise"), (part, "'price'", "Did you mean 'prise'?")),
        ("ids are text", _column("city", lambda x: x.cast(pa.string())), (part, "'city'", "string")),
        ("ids are numbers with a point", _column("city", lambda x: x.cast(pa.float32())), (part, "'city'", "float")),
        ("numbers are text", _column("price", lambda x: x.cast(pa.string())), (part, "'price'", "string")),
        ("a sequence is no list", _column("history", lambda x: [1] * len(x)), (part, "'history'", "int64")),
        ("a sequence of text", _column("history", lambda x: [["a"]] * len(x)), (part, "'history'", "string")),
        ("labels are text", _column("click", lambda x: x.cast(pa.string())), (part, "'click'", "string")),
    ]
    for name, damage, expect in found:
        yield Mutation(name, "demo", expect, base_config("demo"), damage=damage)


def damaged_rows() -> Iterator[Mutation]:
    """What only reading the rows finds."""
    part = "part-00000.parquet"
    found: list[tuple[str, Callable[[Path], None], tuple[str, ...]]] = [
        ("an id beyond the vocabulary", _column("city", _one(21)), (part, "'city'", "21")),
        ("a negative id", _column("city", _one(-1)), (part, "'city'", "-1")),
        ("a null id", _column("city", _one(None)), (part, "'city'", "null")),
        ("a NaN", _column("price", _one(math.nan)), (part, "'price'")),
        ("an infinity", _column("price", _one(math.inf)), (part, "'price'")),
        ("a null number", _column("price", _one(None)), (part, "'price'", "null")),
        ("a label of 2", _column("click", _one(2.0)), (part, "'click'", "2")),
        ("a label of 0.5", _column("click", _one(0.5)), (part, "'click'", "0.5")),
        ("a null label", _column("click", _one(None)), (part, "'click'", "null")),
        ("a NaN label", _column("click", _one(math.nan)), (part, "'click'")),
        ("an id in a list beyond the vocabulary", _column("history", _one([1, 9])), (part, "'history'", "9")),
        ("a null in a list", _column("history", _one([1, None])), (part, "'history'", "null")),
        ("a null group", _column("user_id", _one(None)), (part, "'user_id'", "null")),
        ("pages full of zeros", lambda root: _blank(_file(root)), (part,)),
    ]
    for name, damage, expect in found:
        longer = replaced(base_config("demo"), ("train", "epochs"), 2)
        yield Mutation(name, "demo", expect, longer, damage=damage, is_found_in_training=True)


# --- files and the command line -------------------------------------------------------------------


def broken_files() -> Iterator[Mutation]:
    """Configurations that are not YAML, or not a configuration."""
    good = yaml.safe_dump(base_config("demo"))
    texts = {
        "an open bracket": ("model: [deepfm", ("config.yaml", "YAML")),
        "a tab": ("model:\n\tname: deepfm\n", ("config.yaml", "YAML")),
        "two documents": ("a: 1\n---\nb: 2\n", ("config.yaml", "YAML")),
        "an alias of nothing": ("model: *nobody\n", ("config.yaml", "nobody")),
        "an object of Python": ("model: !!python/object/apply:os.getcwd []\n", ("config.yaml", "YAML")),
        "a key twice": (good + "seed: 1\n", ("config.yaml", "'seed' is given twice")),
        "a loop": ("model: &a\n  name: *a\n", ("config.yaml",)),
        "a date that is none": ("name: 2026-13-45\nmodel: deepfm\n", ("config.yaml",)),
        "nothing": ("", ("config.yaml", "mapping")),
        "a list": ("- 1\n", ("config.yaml", "mapping")),
        "a word": ("deepfm\n", ("config.yaml", "mapping")),
        "no model": ("seed: 1\n", ("model",)),
        "a number as a key": (good + "5: 1\n", ("'5'",)),
    }
    for name, (text, expect) in texts.items():
        yield Mutation(f"the configuration is {name}", "demo", expect, text)


def command_lines() -> Iterator[Mutation]:
    """Overrides, options and places that are wrong."""
    config = base_config("demo")
    train = ("train", "@CONFIG", "--model-dir", "@RUN")
    overrides: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (("train.epochs",), ("train.epochs", "path=value")),
        (("=3",), ("=3", "path=value")),
        (("train.epochs=[1",), ("train.epochs", "YAML")),
        (("train.epochs=",), ("train.epochs",)),
        (("trian.epochs=2",), ("trian", "Did you mean 'train'?")),
        (("train.epoch=2",), ("train.epoch", "Did you mean 'epochs'?")),
        (("train..epochs=2",), ("train.",)),
        (("train.epochs.x=2",), ("train.epochs",)),
        (("optimizers.7.lr=1",), ("optimizers", "7")),
        (("optimizers.first.lr=1",), ("optimizers", "first")),
        (("optimizers.0.rate=1",), ("rate",)),
        (("--optimizers.0.lr=fast",), ("optimizers.0.lr",)),
        (("--train.epochs",), ("--train.epochs", "VALUE")),
        (("--model-dri", "x"), ("--model-dri", "Did you mean '--model-dir'?")),
        (("--resum=must",), ("--resum", "Did you mean '--resume'?")),
        (("--resume", "maybe"), ("--resume", "maybe")),
        (("--resume",), ("--resume",)),
        (("-x=1",), ("-x",)),
        (("--edit-config-json", "{"), ("--edit-config-json", "JSON")),
        (("--edit-config-json", "[1]"), ("--edit-config-json", "path")),
        (("--edit-config-json", '{"model.dropot": 0.1}'), ("dropot", "Did you mean 'dropout'?")),
        (("--model-dir", ""), ("model_dir",)),
        (("model.embedding_dim=4",), ("differs in model", "--resume never")),
        (("seed=1",), ("differs in seed", "--resume never")),
        (("data.features=[user,item]",), ("differs in", "data.features")),
    ]
    for arguments, expect in overrides:
        yield Mutation(" ".join(arguments), "demo", expect, config, arguments=(*train, *arguments))
    commands: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        ((), ("COMMAND",)),
        (("trian", "@CONFIG"), ("trian", "train")),
        (("train",), ("config",)),
        (("train", "@RUN"), ("@RUN", "Did you mean '@RUN/config.yaml'?")),
        (("train", "confg.yaml"), ("confg.yaml", "Did you mean 'config.yaml'?")),
        (("train", "@CONFIG", "--model-dir", "fresh", "--resume", "must"), ("nothing to resume", "fresh")),
        (("train", "@CONFIG", "--model-dir", "fresh", "--continue-train"), ("nothing to resume", "fresh")),
        (("train", "@CONFIG", "--model-dir", "@CONFIG"), ("model_dir", "config.yaml")),
        (("train", "@CONFIG", "--model-dir", "@CONFIG/run"), ("model_dir", "config.yaml")),
        (("train", "@CONFIG", "--model-dir", "/proc/run"), ("model_dir", "/proc/run")),
        (("train", "@CONFIG", "--model-dir", "nothing://run"), ("nothing://run",)),
        (("validate", "@CONFIG", "--resume", "must"), ("--resume",)),
        (("evaluate", "@CONFIG"), ("no complete checkpoint", "config.yaml")),
        (("evaluate", "nowhere"), ("no complete checkpoint", "nowhere")),
        (("evaluate", "@RUN", "--split", "tset"), ("--split", "tset")),
        (("evaluate", "@RUN", "metrics.0.name=acu"), ("metrics.0", "Did you mean 'auc'?")),
        (("evaluate", "@RUN", "model.embedding_dim=2"), ("model",)),
        (("evaluate", "@RUN", "data.root=nowhere"), ("nowhere",)),
        (("evaluate", "@RUN", "--out", "x"), ("--out",)),
        (("predict", "@RUN"), ("--out",)),
        (("predict", "nowhere", "--out", "predictions"), ("no complete checkpoint", "nowhere")),
        (("predict", "@RUN", "--out", "@CONFIG"), ("config.yaml",)),
        (("export", "nowhere"), ("no complete checkpoint", "nowhere")),
        (("export", "@RUN", "seed=1"), ("seed=1",)),
        (("list", "model"), ("model", "Did you mean 'models'?")),
        (("list", "models", "deepfn"), ("deepfn", "Did you mean 'deepfm'?")),
        (("list", "models", "seed=1"), ("seed=1",)),
        (("list", "models", "deepfm", "seed=1"), ("seed=1",)),
        (("prepare", "nowhere.yaml"), ("nowhere.yaml",)),
        (("prepare", "@CONFIG"), ("files",)),
    ]
    for arguments, expect in commands:
        yield Mutation(f"$ {' '.join(arguments)}", "demo", expect, config, arguments=arguments)


def _checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").glob("step_*"))[-1]


def damaged_checkpoints() -> Iterator[Mutation]:
    """A run whose only checkpoint was spoiled."""
    config = base_config("demo")

    def spoil(name: str, change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
        return lambda work, run: change(_checkpoint(run) / name)

    def later(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))

    changes: list[tuple[str, str, Callable[[Path], None], tuple[str, ...]]] = [
        ("weights cut off", "model.safetensors", _shorten, ("damaged", "model.safetensors")),
        ("weights missing", "model.safetensors", Path.unlink, ("damaged", "model.safetensors")),
        ("a schema changed", "schema.json", lambda p: p.write_text("{}") and None, ("damaged", "schema.json")),
        ("a manifest cut off", "manifest.json", _shorten, ("damaged", "manifest.json")),
        ("a manifest of a later version", "manifest.json", later, ("version 99", "version 1")),
        ("a manifest of something else", "manifest.json", lambda p: p.write_text("{}") and None, ("not a checkpoint",)),
        ("a manifest missing", "manifest.json", Path.unlink, ("no complete checkpoint",)),
    ]
    for name, file, change, expect in changes:
        yield Mutation(
            f"evaluate: {name}", "demo", expect, config, arrange=spoil(file, change), arguments=("evaluate", "@RUN")
        )
    states = ("optimizers.pt", _shorten)
    resume = ("train", "@CONFIG", "--model-dir", "@RUN", "train.epochs=3")
    yield Mutation(
        "resume: optimizers cut off", "demo", ("damaged", "optimizers.pt"), config,
        arrange=spoil(*states), arguments=resume,
    )  # fmt: skip


def all_mutations() -> list[Mutation]:
    """Everything that is wrong on any machine."""
    return [
        *systematic("demo"), *systematic("frappe"), *chosen_values(), *resources(), *damaged_data(), *damaged_rows(),
        *broken_files(), *command_lines(), *damaged_checkpoints(),
    ]  # fmt: skip


# --- running one ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Stage:
    """Sound data and a finished run of one base, to be copied."""

    folder: Path
    base: str

    @classmethod
    def build(cls, folder: Path, base: str) -> Stage:
        from rechub_ray import cli

        stage = cls(folder / base, base)
        write_data(base, stage.data)
        (stage.folder / "sound.yaml").write_text(yaml.safe_dump(_placed(base_config(base), stage.data)))
        with contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(["train", str(stage.folder / "sound.yaml"), "--model-dir", str(stage.run)])
        if code != 0:
            raise RuntimeError(f"the sound {base} configuration does not train")
        return stage

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"


@dataclasses.dataclass
class Case:
    """A mutation set up in a working folder: what to run there, and what must be so afterwards."""

    mutation: Mutation
    folder: Path
    run: Path
    arguments: list[str]
    expect: list[str]
    before: dict[str, str]

    @classmethod
    def set_up(cls, mutation: Mutation, stage: Stage, folder: Path) -> Case:
        data, run = stage.data, folder / "run"
        shutil.copytree(stage.run, run)
        if mutation.damage is not None:
            data = folder / "data"
            shutil.copytree(stage.data, data)
            mutation.damage(data)
        config = mutation.config
        text = config if isinstance(config, str) else yaml.safe_dump(_placed(config, data), sort_keys=False)
        (folder / "config.yaml").write_text(text)
        if mutation.arrange is not None:
            mutation.arrange(folder, run)
        places = {"@CONFIG": str(folder / "config.yaml"), "@RUN": str(run), "@DATA": str(data)}

        def place(text: str) -> str:
            for mark, path in places.items():
                text = text.replace(mark, path)
            return text

        return cls(
            mutation, folder, run, [place(x) for x in mutation.arguments], [place(x) for x in mutation.expect],
            fingerprints(run),
        )  # fmt: skip

    def complaints(self, code: int | None, stderr: str) -> list[str]:
        """What is not as it must be."""
        found = []
        if code != 2:
            found.append(f"exit code {code} instead of 2")
        text = stderr.strip()
        if not text.startswith("rechub-ray: ") or "\n" in text or len(text) > 1200:
            found.append("not one paragraph")
        found += [f"does not say {wanted!r}" for wanted in self.expect if wanted not in text]
        after = fingerprints(self.run)
        changed = sorted(key for key in {*self.before, *after} if self.before.get(key) != after.get(key))
        if self.mutation.is_found_in_training:  # the run went on: it has another end now, and more history
            changed = [key for key in changed if key not in ("config.yaml", "metrics.jsonl")]
        if changed:
            found.append(f"changed in the run's folder: {', '.join(changed)}")
        return found


def fingerprints(folder: Path) -> dict[str, str]:
    """Every file under a folder with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def _placed(config: dict[str, Any], data: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(config).replace('"@DATA"', json.dumps(str(data))))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="run each n-th mutation only")
    options = parser.parse_args()
    mutations = all_mutations()[:: options.every]
    seconds, wrong = [], []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        stages = {base: Stage.build(Path(folder), base) for base in SOURCES}
        for i, mutation in enumerate(mutations):
            work = Path(folder) / f"case-{i}"
            work.mkdir()
            case = Case.set_up(mutation, stages[mutation.base], work)
            started = time.perf_counter()
            command = [sys.executable, "-m", "rechub_ray.cli", *case.arguments]
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
            seconds.append((time.perf_counter() - started, mutation.name))
            complaints = case.complaints(done.returncode, done.stderr)
            if complaints:
                wrong.append(f"{mutation.base}: {mutation.name}: {'; '.join(complaints)}\n    {done.stderr.strip()}")
            shutil.rmtree(work)
    seconds.sort(reverse=True)
    print(f"{len(mutations)} mutations, {len(mutations) - len(wrong)} end with one right paragraph and exit code 2")
    print(f"seconds: median {seconds[len(seconds) // 2][0]:.2f}, worst {seconds[0][0]:.2f} ({seconds[0][1]})")
    print("\n".join(wrong))


if __name__ == "__main__":
    main()
