"""Broken configurations, data sets and command lines: each must end with one paragraph and exit code 2.

What a person would think of is in mutations.yaml; every key and value of two configurations is spoiled here.
`tests/test_mutations.py` runs them in one process. `python -m benchmarks.mutations` runs every one in a process of its
own, as a user would, and prints how long they took and what they said.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rechub_ray.config import load, merge
from rechub_ray.data.shard import SealedWriter
from rechub_ray.data.synthetic import write_click_logs

ROOT = Path(__file__).resolve().parents[1]
Keys = tuple[str | int, ...]

# small enough that a mutation which nobody notices ends soon
SMALL: dict[str, Any] = {"data.root": "@DATA", "data.batch_size": 64, "data.eval_batch_size": 256, "train.epochs": 1}
SMALL |= {"train.threads": 1, "trackers": ["jsonl"], "scaling.num_workers": 0, "export.onnx": False}
LISTED: dict[str, list[Any]] = yaml.safe_load((ROOT / "benchmarks/mutations.yaml").read_text())
SOURCES = {"demo": ROOT / "configs/demo.yaml", "frappe": ROOT / "configs/deepfm_frappe.yaml"}
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C: there are thousands of configurations
PART = "part-00000.parquet"
TRAIN = ("train", "@CONFIG", "--model-dir", "@RUN")
FRESH = ("train", "@CONFIG", "--model-dir", "fresh")  # what only reading the rows can tell
FRAPPE_COLUMNS = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")


@dataclasses.dataclass
class Mutation:
    """One thing that is wrong.

    Args:
        name: says what is wrong.
        expect: texts that the message holds: the key, the column, the file.
        config: the whole configuration, or the text of its file; "@DATA" stands for the data's folder.
        base: `demo` or `frappe`.
        arguments: of the command line; "@CONFIG" and "@RUN" stand for places.
        damage: spoils a copy of the data. spoil: spoils the run that is there.
    """

    name: str
    expect: Sequence[str]
    config: dict[str, Any] | str
    base: str = "demo"
    arguments: Sequence[str] = TRAIN
    damage: Callable[[Path], object] | None = None
    spoil: Callable[[Path], object] | None = None


@functools.cache
def base_config(base: str) -> dict[str, Any]:
    """A published configuration, small, with every default filled in and no model_dir."""
    data = load(SOURCES[base], SMALL).model_dump(mode="json")
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
        _write(pa.table(columns), folder / split / "part-00000.parquet")
    features = [{"kind": "sparse", "name": name, "vocab_size": 9} for name in FRAPPE_COLUMNS]
    schema = {"version": 1, "features": features, "labels": [{"name": "label", "kind": "binary"}]}
    (folder / "schema.json").write_text(json.dumps(schema))


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


def renamed(config: dict[str, Any], keys: Keys) -> tuple[dict[str, Any], str]:
    old = str(keys[-1])
    new = f"{old}_" if len(old) < 4 else old[: len(old) // 2] + old[len(old) // 2 + 1 :]
    here: Any = (result := copy.deepcopy(config))
    for key in keys[:-1]:
        here = here[key]
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
            yield Mutation(f"{path} renamed to {new}", (new, meant), changed, base)
        wrong = wrong_values(value)
        if isinstance(value, float) and keys[-1] != "min_delta":
            wrong["negative"] = -0.5
        # a message must name the whole path, less an index at its end
        named = keys[:-1] if isinstance(keys[-1], int) and len(keys) > 1 else keys
        for what, bad in wrong.items():
            yield Mutation(f"{path} is {what}", (".".join(map(str, named)),), merge(config, {path: bad}), base)


def thought_of(section: str) -> Iterator[Mutation]:
    """The rows of one section of mutations.yaml."""
    config = base_config("frappe" if section == "frappe" else "demo")
    for what, *expect in LISTED[section]:
        name = what if isinstance(what, str) else ", ".join(f"{path} = {value!r:.60}" for path, value in what.items())
        damage = functools.partial(DAMAGES[section], what=what) if section in DAMAGES else None
        match section:
            case "options":
                yield Mutation(name, expect, config, arguments=(*TRAIN, *shlex.split(what)))
            case "commands":
                yield Mutation(f"$ {name}", expect, config, arguments=shlex.split(what))
            case "text":
                yield Mutation(f"text: {name!r}", expect, what.replace("@SOUND", yaml.safe_dump(config)))
            case "rows":
                yield Mutation(f"last row: {name}", [PART, *expect], config, arguments=FRESH, damage=damage)
            case _ if damage is not None:
                yield Mutation(f"{section}: {name!r}", expect, config, damage=damage)
            case _:
                arguments = ("validate", *TRAIN[1:]) if section == "validate" else TRAIN
                base = section if section in SOURCES else "demo"
                yield Mutation(name, expect, merge(config, what), base, arguments)


def _file(root: Path, split: str = "train") -> Path:
    return min((root / split).glob("*.parquet"))


def _rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    _write(change(pq.read_table(file)), file)


def _write(table: pa.Table, file: Path) -> None:
    with SealedWriter(file, table.schema) as writer:
        writer.write_table(table, 256)


def _no_rows(file: Path) -> None:
    _rewrite(file, lambda table: table.slice(0, 0))


def _misnamed(table: pa.Table) -> pa.Table:
    return table.rename_columns([name.replace("price", "prise") for name in table.column_names])


def _schema(root: Path, what: dict[str, Any]) -> None:
    file = root / "schema.json"
    file.write_text(json.dumps(merge(json.loads(file.read_text()), what)))


def _columns(root: Path, what: dict[str, Any], *, rows: int | None = None) -> None:
    """Other values in the last rows of a column of the first training file (in all, of whatever type they are)."""

    def change(table: pa.Table) -> pa.Table:
        for name, value in what.items():
            kept = [] if rows is None else table[name].to_pylist()[:-rows]
            values = pa.array([*kept, *[value] * (len(table) - len(kept))], table[name].type if kept else None)
            table = table.set_column(table.column_names.index(name), name, values)
        return table

    _rewrite(_file(root), change)


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _blank(file: Path) -> None:
    """Zeros over the first pages; the footer stays whole."""
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(396) + content[400:])


def _each(root: Path, split: str, change: Callable[[Path], object]) -> None:
    for file in (root / split).iterdir():
        change(file)


DAMAGES: dict[str, Callable[..., None]] = {
    "schema": _schema,
    "schema text": lambda root, what: (root / "schema.json").write_text(what),
    "columns": _columns,
    "rows": functools.partial(_columns, rows=1),
    "without": lambda root, what: _rewrite(_file(root), lambda table: table.drop_columns([what])),
}


def damaged_files() -> Iterator[Mutation]:
    schema = "schema.json"
    found: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
        ("no schema", lambda root: (root / schema).unlink(), (schema, "prepare")),
        ("the schema is cut off", lambda root: _shorten(root / schema), (schema, "JSON")),
        ("the schema is binary", lambda root: (root / schema).write_bytes(b"\xff\xfe\x00"), (schema, "JSON")),
        ("no training folder", lambda root: shutil.rmtree(root / "train"), ("data.train", "train")),
        ("no validation folder", lambda root: shutil.rmtree(root / "valid"), ("data.valid", "valid")),
        ("no test folder", lambda root: shutil.rmtree(root / "test"), ("data.test", "test")),
        ("an empty training folder", lambda root: _each(root, "train", Path.unlink), ("data.train", "empty")),
        ("a training split without rows", lambda root: _each(root, "train", _no_rows), ("data.train", "no rows")),
        ("a validation split without rows", lambda root: _each(root, "valid", _no_rows), ("data.valid", "no rows")),
        ("a file is cut off", lambda root: _shorten(_file(root)), (PART, "parquet")),
        ("a test file is cut off", lambda root: _shorten(_file(root, "test")), (f"test/{PART}",)),
        ("a file is empty", lambda root: _file(root).write_bytes(b""), (PART, "parquet")),
        ("a file is a CSV", lambda root: _file(root).write_text("a,b\n1,2\n" * 99), (PART, "parquet")),
        ("a file of other data", lambda root: _rewrite(_file(root), lambda _: pa.table({"x": [1]})), (PART, "'user'")),
        ("a column is misnamed", lambda root: _rewrite(_file(root), _misnamed), ("'price'", "Did you mean 'prise'?")),
    ]  # fmt: skip
    config = base_config("demo")
    for name, damage, expect in found:
        yield Mutation(name, expect, config, damage=damage)
    yield Mutation("pages full of zeros", (PART,), config, arguments=FRESH, damage=lambda root: _blank(_file(root)))


def damaged_checkpoints() -> Iterator[Mutation]:
    """A run whose only checkpoint was spoiled."""

    def later(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))

    changes: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
        ("model.safetensors", _shorten, ("damaged", "model.safetensors")),
        ("model.safetensors", Path.unlink, ("damaged", "model.safetensors")),
        ("schema.json", lambda path: path.write_text("{}"), ("damaged", "schema.json")),
        ("manifest.json", _shorten, ("damaged", "manifest.json")),
        ("manifest.json", later, ("version 99", "version 2")),
        ("manifest.json", lambda path: path.write_text("{}"), ("not a checkpoint",)),
        ("manifest.json", Path.unlink, ("no complete checkpoint",)),
        ("optimizers.pt", _shorten, ("damaged", "optimizers.pt")),
    ]
    for i, (file, change, expect) in enumerate(changes):

        def spoil(run: Path, file: str = file, change: Callable[[Path], object] = change) -> object:
            return change(max((run / "checkpoints").glob("step_*")) / file)

        arguments = (*TRAIN, "train.epochs=3") if file == "optimizers.pt" else ("evaluate", "@RUN")
        yield Mutation(f"{file} spoiled, {i}", expect, base_config("demo"), arguments=arguments, spoil=spoil)


LONG = ["model.name", "losses.0", "metrics.0.label", "train.precision", "train.device", "name", "seed", "init_from"]
LONG += ["data.root", "data.train", "data.valid", "data.schema_file", "optimizers.0.params", "imports"]


def long_names() -> Iterator[Mutation]:
    """Names and values of ten thousand signs, with and without spaces: the message is short all the same."""
    config = base_config("demo")
    for what, name in (("long", "x" * 10_000), ("long, with spaces", "x " * 5_000)):
        for path in LONG:
            named = {"data.schema_file": "the schema", "metrics.0.label": "metrics.0"}.get(path, path)
            value = [name] if path == "imports" else name
            yield Mutation(f"{path} is {what}", (named,), merge(config, {path: value}))
        yield Mutation(f"a feature is {what}", ("data.features.0",), merge(config, {"data.features": [name]}))
        yield Mutation(f"a key is {what}", (f"unknown key '{name[:20]}",), {**config, name: 1})
        yield Mutation(f"an argument is {what}", ("model", name[:20]), merge(config, {f"model.{name}": 1}))
        for where, option in (("path", f"{name}.y=1"), ("value", f"train.epochs={name}"), ("text", f"--{name}")):
            yield Mutation(f"an option's {where} is {what}", (name[:20],), config, arguments=(*TRAIN, option))
        for command in ("evaluate", "export", "train", name):
            yield Mutation(f"$ {command[:20]} {what}", (name[:20],), config, arguments=(command, name))


def all_mutations() -> list[Mutation]:
    """Everything that is wrong on any machine."""
    listed = itertools.chain(*(thought_of(section) for section in LISTED if section != "without_gpu"))
    return [
        *systematic("demo"),
        *systematic("frappe"),
        *listed,
        *long_names(),
        *damaged_files(),
        *damaged_checkpoints(),
    ]


def build_stage(folder: Path, base: str) -> Path:
    """A folder with sound data (`data`) and a finished run (`run`) of a base, to be copied."""
    from rechub_ray import cli

    stage = folder / base
    write_data(base, stage / "data")
    (stage / "sound.yaml").write_text(yaml.safe_dump(_placed(base_config(base), stage / "data")))
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["train", str(stage / "sound.yaml"), "--model-dir", str(stage / "run")])
    if code != 0:
        raise RuntimeError(f"the sound {base} configuration does not train")
    return stage


class Case:
    """A mutation set up in a working folder: what to run there, and what must be so afterwards."""

    def __init__(self, mutation: Mutation, stage: Path, folder: Path) -> None:
        self.mutation, self.folder, self.run, data = mutation, folder, folder / "run", stage / "data"
        shutil.copytree(stage / "run", self.run)
        if mutation.damage is not None:
            data = shutil.copytree(data, folder / "data")
            mutation.damage(data)
        config = mutation.config
        text = config if isinstance(config, str) else yaml.dump(_placed(config, data), Dumper=_DUMPER, sort_keys=False)
        (folder / "config.yaml").write_text(text)
        if mutation.spoil is not None:
            mutation.spoil(self.run)
        places = {"@CONFIG": str(folder / "config.yaml"), "@RUN": str(self.run)}

        def place(text: str) -> str:
            return re.sub("@CONFIG|@RUN", lambda mark: places[mark[0]], text)

        self.arguments, self.expect = [*map(place, mutation.arguments)], [*map(place, mutation.expect)]
        self.before = fingerprints(self.run)

    def run_alone(self) -> list[str]:
        """Runs it in a process of its own; gives the complaints."""
        command = [sys.executable, "-m", "rechub_ray.cli", *self.arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        found = self.complaints(done.returncode, done.stderr)
        return [*found, done.stderr.strip()] if found else []

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
    with tempfile.TemporaryDirectory() as temporary:
        stages = {base: build_stage(Path(temporary), base) for base in SOURCES}
        for mutation in mutations:
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                case = Case(mutation, stages[mutation.base], Path(folder))
                started = time.perf_counter()
                complaints = case.run_alone()
                seconds.append((time.perf_counter() - started, mutation.name))
                if complaints:
                    wrong.append(f"{mutation.base}: {mutation.name}: {'; '.join(complaints)}")
    seconds.sort(reverse=True)
    print(f"{len(mutations)} mutations, {len(mutations) - len(wrong)} end with one right paragraph and exit code 2")
    print(f"seconds: median {seconds[len(seconds) // 2][0]:.2f}, worst {seconds[0][0]:.2f} ({seconds[0][1]})")
    print("\n".join(wrong))


if __name__ == "__main__":
    main()
