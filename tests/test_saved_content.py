"""Checkpoints edited by hand, checksums and all: a wrong value is an error that names its file, never a traceback."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rechub_ray import checkpoint, config
from rechub_ray.checkpoint import Store, read
from rechub_ray.config import CheckpointSection
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, ConfigError, RechubError
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import train, validate
from rechub_ray.tracking import read_history

JUNK: list[Any] = [
    None, True, -1, 0.5, 10**30, 1e308, float("nan"), float("inf"),
    "", "x", "../..", [], [[["x"]]], {}, {"a": {"b": [1]}},
]  # fmt: skip
MISSING = object()


def mutations(value: Any, *, seed: int, number: int) -> list[tuple[str, Any]]:
    """Copies of a value with one thing in it changed, and what: `number` of all keys, items and kinds of junk."""
    every = [(path, junk) for path in _paths(value) for junk in (MISSING, *JUNK)]
    result = []
    for path, junk in random.Random(seed).sample(every, min(number, len(every))):
        changed = copy.deepcopy(value)
        here = changed
        for key in path[:-1]:
            here = here[key]
        if junk is MISSING:
            del here[path[-1]]
        else:
            here[path[-1]] = junk
        result.append((f"{'.'.join(map(str, path))} = {'(missing)' if junk is MISSING else repr(junk)}", changed))
    return result


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (key,)
        for path in _paths(inner):
            yield (key, *path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run that stopped in the middle of an epoch, with every kind of state."""
    root = tmp_path_factory.mktemp("edited")
    write_click_logs(root / "data", rows=300, seed=3, files=1, row_group_rows=64)
    train(settings(root, root / "run", steps=3))
    return root


def settings(root: Path, folder: Path, *, steps: int) -> config.RunConfig:
    return config.load(
        {
            "data": {"root": str(root / "data"), "batch_size": 32},
            "model": {"name": "fm", "embedding_dim": 2},
            "optimizers": [
                {"name": "rowwise_adagrad", "params": "embedding.*"},
                {"name": "adam", "schedule": "reduce_on_plateau"},
            ],
            "train": {"steps": steps, "threads": 1, "early_stopping": {"patience": 9}},
            "checkpoint": {"keep": 1},
            "trackers": [],
            "export": {"onnx": False},
            "model_dir": str(folder),
        }
    )


@pytest.fixture
def edited(run: Path, tmp_path: Path) -> Callable[[str, Any], Path]:
    """Makes a copy of the run whose checkpoint holds another content of one file, with the checksum that it needs."""

    def edit(name: str, content: Any) -> Path:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / "run", folder)
        place = Path(Store(str(folder)).path(3))
        if name == "optimizers.pt":
            torch.save(content, place / name)
        else:
            (place / name).write_text(yaml.safe_dump(content) if name.endswith(".yaml") else json.dumps(content))
        if name != "manifest.json":
            manifest = json.loads((place / "manifest.json").read_text())
            manifest["files"][name] = {"bytes": (place / name).stat().st_size, "crc32": checkpoint._crc32(place / name)}
            (place / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return edit


def content(run: Path, name: str) -> Any:
    place = Path(Store(str(run / "run")).path(3), name)
    if name == "optimizers.pt":
        return torch.load(place, weights_only=True)
    text = place.read_text()
    return yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)


def tried(use: Callable[[], Any], name: str, what: str) -> bool:
    """Whether it was taken; whatever is refused is refused in one line."""
    try:
        use()
    except RechubError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            pytest.fail(f"{name}: {what}: not one line: {error}")
        return False
    except Exception as error:
        raise AssertionError(f"{name}: {what}: {type(error).__name__}: {error}") from error
    return True


EVERY = pytest.param(10**6, marks=[pytest.mark.long, pytest.mark.timeout(1200)])  # thousands: minutes each


@pytest.mark.parametrize("number", [25, EVERY])
@pytest.mark.parametrize("name", ["state.json", "optimizers.pt", "manifest.json", "config.yaml", "schema.json"])
def test_no_edit_ends_a_resumed_run_with_a_traceback(
    run: Path, edited: Callable[[str, Any], Path], name: str, number: int
) -> None:
    outcomes = []
    for what, changed in mutations(content(run, name), seed=7, number=number):
        folder = edited(name, changed)
        outcomes.append(tried(lambda folder=folder: train(settings(run, folder, steps=5)), name, what))  # type: ignore[misc]
    assert not all(outcomes)


@pytest.mark.parametrize("number", [25, EVERY])
@pytest.mark.parametrize("name", ["state.json", "manifest.json", "config.yaml", "schema.json"])
def test_no_edit_ends_an_evaluation_with_a_traceback(
    run: Path, edited: Callable[[str, Any], Path], name: str, number: int
) -> None:
    outcomes = []
    for what, changed in mutations(content(run, name), seed=8, number=number):
        folder = edited(name, changed)
        outcomes.append(tried(lambda folder=folder: evaluate(folder, split="valid"), name, what))  # type: ignore[misc]
    assert not all(outcomes)


@pytest.mark.parametrize(
    ("name", "path", "junk", "words"),
    [
        ("state.json", ["position", "cuts"], [{"lanes": 8}], r"'position\.cuts\.0\.global_batch' is missing"),
        ("state.json", ["rows"], -1, r"state\.json: 'rows': .* got -1"),
        ("state.json", ["fingerprint"], MISSING, r"state\.json has no 'fingerprint'"),
        ("state.json", ["schedules", 1, "factor"], "x", r"state\.json does not fit .*'schedules\.1': 'factor'"),
        ("state.json", ["schedules"], [], r"state\.json does not fit"),
        ("state.json", ["position", "lanes"], 10**9, r"'position\.lanes'"),
        ("optimizers.pt", [1, "state", "linear.bias", "exp_avg"], MISSING, r"optimizers\.pt does not .*other values"),
        ("optimizers.pt", [0, "state", "embedding.tables.user", "rows", "sum"], torch.zeros(3), r"does not .*values"),
        ("optimizers.pt", [0, "state", "embedding.tables.user"], MISSING, r"'embedding\.tables\.user' is missing"),
        ("optimizers.pt", [0], MISSING, r"optimizers\.pt does not fit"),
        ("optimizers.pt", [0, "state"], 5, r"optimizers\.pt does not fit"),
        ("config.yaml", ["model", "embedding_dim"], 10**15, "do not fit the model 'fm'"),
        ("schema.json", ["features", 0, "vocab_size"], 10**15, "do not fit the model 'fm'"),
    ],
)  # fmt: skip
def test_file_and_key_are_named(
    run: Path, edited: Callable[[str, Any], Path], name: str, path: list[Any], junk: Any, words: str
) -> None:
    changed = content(run, name)
    here = changed
    for key in path[:-1]:
        here = here[key]
    if junk is MISSING:
        del here[path[-1]]
    else:
        here[path[-1]] = junk
    folder = edited(name, changed)
    evaluates = name in ("config.yaml", "schema.json")
    with pytest.raises(CheckpointError, match=words):
        evaluate(folder, split="valid") if evaluates else train(settings(run, folder, steps=5))


@pytest.mark.parametrize("index", ["5", "[]", '{"best": 5}', '{"best": "../run"}', '{"best": null}', "[" * 10**5])
def test_an_index_of_another_content_is_passed_over(run: Path, edited: Callable[[str, Any], Path], index: str) -> None:
    folder = edited("state.json", content(run, "state.json"))
    (folder / "checkpoints" / "index.json").write_text(index)
    train(settings(run, folder, steps=5))
    assert Store(str(folder)).newest() == "step_0000000005"


# --- resuming -------------------------------------------------------------------------------------------------------


def test_the_driver_compares_without_reading_weights(
    run: Path, edited: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited("state.json", content(run, "state.json"))

    def no(*_: object, **__: object) -> None:
        pytest.fail("the weights are read")

    monkeypatch.setattr(checkpoint, "load_file", no)
    monkeypatch.setattr(torch, "load", no)
    assert "OK" in validate(settings(run, folder, steps=5))
    other = settings(run, folder, steps=5).model_copy(update={"seed": 1})
    with pytest.raises(ConfigError, match="another run, which differs in seed"):
        validate(other)
    assert read(folder, weights=False).model == {}


def test_going_back_to_an_older_checkpoint_says_which_why_and_what_it_costs(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = settings(run, tmp_path / "run", steps=7)
    first = first.model_copy(
        update={"checkpoint": CheckpointSection(every_steps=2, keep=9), "trackers": [{"name": "jsonl"}]}
    )
    whole = train(first)
    expected = read_history(tmp_path / "run" / "metrics.jsonl")
    damaged = Path(Store(str(tmp_path / "run")).path(7), "model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    caplog.clear()
    again = train(first)
    line, *_ = [record.getMessage() for record in caplog.records]  # others say what is doubtful about the data
    assert "step_0000000007' is damaged: model.safetensors" in line
    assert line.endswith("Going on from step_0000000006: 1 steps are trained again.")
    assert again.metrics == whole.metrics
    steps = [line["step"] for line in read_history(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [line["step"] for line in expected], "no step stands twice in the history"
