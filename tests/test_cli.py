"""The command line: what each command writes and prints, its exit codes, and that it does not keep anyone waiting."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import rechub_ray.runtime.launch
from rechub_ray import cli
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.shard import SealedWriter
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.lock import locked

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "name": "cli",
    "data": {"batch_size": 64, "eval_batch_size": 100},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [8]},
    "optimizers": ["adam"],
    "train": {"epochs": 1, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose test split has row ids, a configuration, and the run that came of it."""
    folder = tmp_path_factory.mktemp("home")
    write_click_logs(folder / "data", rows=1500, seed=3, files=2, row_group_rows=256)
    for split in ("train", "valid", "test"):
        for i, file in enumerate(sorted((folder / "data" / split).glob("*.parquet"))):
            table = pq.read_table(file)
            names = [f"{split}-{i}-{row}" for row in range(table.num_rows)]
            table = table.append_column("impression", [names])
            with SealedWriter(file, table.schema) as writer:
                writer.write_table(table, 256)
    schema = json.loads((folder / "data" / "schema.json").read_text())
    (folder / "data" / "schema.json").write_text(json.dumps({**schema, "row_id": "impression"}))
    (folder / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "data": {**CONFIG["data"], "root": str(folder / "data")}}))
    assert cli.main(["train", str(folder / "c.yaml"), "--model-dir", str(folder / "run")]) == 0
    return folder


def saved(model_dir: Path | str) -> dict[str, Any]:
    return read(model_dir).config.model_dump(mode="json")


# --- train ----------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_and_prints_its_numbers(home: Path, run: Run) -> None:
    code, out, err = run("train", home / "c.yaml", "--model-dir", "run", "export.onnx=true")
    assert (code, err) == (0, "")
    result = json.loads(Path("run/result.json").read_text())
    assert f"{result['test_metrics']['auc']:.6f}" in out
    assert "18 steps" in out
    for place in (result["best_checkpoint"], result["onnx"], str(Path("run").absolute())):
        assert place in out
        assert Path(place).exists()
    assert {p.name for p in Path("run").iterdir()} >= {"config.yaml", "checkpoints", "metrics.jsonl", "model.onnx"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["@", "model.embedding_dim=3", "train.steps=2", "train.epochs=null", "--model-dir", "run"],
        ["@", "--model-dir", "run", "model.embedding_dim=3", "train.steps=2", "train.epochs=null"],
        ["--model-dir", "run", "@", "model.embedding_dim=3", "train.steps=2", "train.epochs=null"],
        ["@", "train.steps=2", "--model_dir=run", "--model.embedding_dim=3", "--train.epochs=null"],
        ["@", "train.epochs=null", "--resume", "never", "train.steps=2", "model_dir=run", "model.embedding_dim=3"],
        ["@", "--edit-config-json", '{"model.embedding_dim": 3, "train": {"steps": 2}}', "model_dir=run"],
        ["@", "--edit_config_json", '{"model.embedding_dim": 3, "train.steps": 2}', "train.epochs=null",
         "model_dir=run"],
        ["@", "--edit-config-json", '{"model.embedding_dim": 3, "model_dir": "x"}', "model.embedding_dim=9",
         "train.epochs=null", "train.steps=2", "--model-dir", "run"],
    ],
)  # fmt: skip
def test_overrides_and_options_come_in_any_order(home: Path, run: Run, arguments: list[str]) -> None:
    code, _, err = run("train", *[str(home / "c.yaml") if x == "@" else x for x in arguments])
    assert (code, err) == (0, "")
    config = saved("run")
    assert config["model"]["embedding_dim"] == 3
    assert (config["train"]["steps"], config["train"]["epochs"]) == (2, None)
    assert Store("run").newest() == "step_0000000002"


def test_resume_auto_must_and_never(home: Path, run: Run) -> None:
    train = ("train", home / "c.yaml", "--model-dir", "run")
    for option in (["--resume", "must"], ["--continue-train"], ["--continue_train"]):
        code, _, err = run(*train, *option)
        assert code == 2
        assert "nothing to resume" in err
    assert run(*train)[0] == 0
    assert run(*train, "train.epochs=2", "--continue-train")[0] == 0
    assert json.loads(Path("run/result.json").read_text())["details"]["steps"] == 36
    assert run(*train, "--resume=never")[0] == 0
    assert json.loads(Path("run/result.json").read_text())["details"]["steps"] == 18
    assert Store("run").names() == ["step_0000000018"]
    assert Path("run/checkpoints.1/step_0000000036").is_dir()


def test_ctrl_c_gives_130_and_the_same_command_goes_on(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", home / "c.yaml", "--model-dir", "run", "checkpoint.every_steps=5")
    fill, saves = rechub_ray.checkpoint.write, []

    def interrupted(*arguments: Any, **more: Any) -> None:
        fill(*arguments, **more)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rechub_ray.checkpoint, "write", interrupted)
        code, _, err = run(*train)
    assert code == 130
    assert err == "rechub-ray: interrupted; the same command goes on from the last checkpoint\n"
    assert Store("run").names() == ["step_0000000005"]
    assert run(*train, "--resume", "must")[0] == 0
    ours, whole = read("run").model, read(home / "run").model
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_output_that_nobody_reads_any_more_ends_the_command_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rechub_ray", "schema", "run"]
    with os.fdopen(writing, "w") as gone:
        ended = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
def test_sigint_to_a_process_gives_130(home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rechub_ray.cli", "train", str(home / "c.yaml"), "--model-dir", "run"]
    process = subprocess.Popen(
        [*command, "train.epochs=5000", "checkpoint.every_steps=10"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    store, deadline = Store(str(tmp_path / "run")), time.monotonic() + 60
    while store.newest() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.count("\n") == 1


# --- validate -------------------------------------------------------------------------------------------------------


def test_validate_trains_nothing(home: Path, run: Run) -> None:
    code, out, err = run("validate", home / "c.yaml", "--model-dir", "run", "train.epochs=3")
    assert (code, err) == (0, "")
    assert "OK: deepfm for 3 epochs; 64 rows a step, 18 steps an epoch" in out
    assert "train 1,200 rows" in out
    assert not Path("run").exists()


@pytest.mark.parametrize("options", [[], ["--resume", "never"]])
def test_a_run_that_does_not_fit_changes_nothing(home: Path, run: Run, tmp_path: Path, options: list[str]) -> None:
    def contents() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in (tmp_path / "old").rglob("*")}

    shutil.copytree(home / "run", tmp_path / "old")
    before = contents()
    too_much = ["data.batch_size=1", "scaling.num_workers=900", "scaling.cpus_per_worker=100"]
    for name in ("old", "new"):
        code, _, err = run("train", home / "c.yaml", "--model-dir", tmp_path / name, *too_much, *options)
        assert code == 2
        assert "900 workers x 100 CPU" in err
    assert contents() == before
    assert not (tmp_path / "new").exists()


def test_validate_knows_the_run_in_the_folder(home: Path, run: Run) -> None:
    assert run("validate", home / "c.yaml", "--model-dir", home / "run", "train.epochs=3")[0] == 0
    code, _, err = run("validate", home / "c.yaml", "--model-dir", home / "run", "model.embedding_dim=3")
    assert code == 2
    assert "differs in model" in err


# --- evaluate and predict -------------------------------------------------------------------------------------------


def test_evaluate_gives_the_numbers_of_the_run(home: Path, run: Run) -> None:
    result = json.loads((home / "run" / "result.json").read_text())
    for split, metrics in (("valid", result["metrics"]), ("test", result["test_metrics"])):
        code, out, err = run("evaluate", home / "run", "--split", split)
        assert (code, err) == (0, "")
        numbers = dict(re.findall(r"^(\w+) +([\d.,]+)$", out, re.MULTILINE))
        assert numbers["auc"] == f"{metrics['auc']:.6f}"
        assert numbers["rows_seen"] == "150"


def test_evaluate_and_predict_read_a_checkpoint_and_shards_and_nothing_else(
    home: Path, run: Run, tmp_path: Path
) -> None:
    checkpoint = sorted((home / "run" / "checkpoints").glob("step_*"))[0]
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", checkpoint, moved], check=True)
    subprocess.run(["cp", "-r", home / "data" / "test", tmp_path / "shards"], check=True)
    _, expected, _ = run("evaluate", home / "run")
    code, out, err = run("evaluate", "elsewhere", "--split", "shards", "data.root=gone")
    assert (code, err) == (0, "")
    assert out.replace("shards", "  test") == expected
    assert run("predict", "elsewhere", "--split", tmp_path / "shards", "--out", "p", "data.root=gone")[0] == 0


def test_predict_writes_row_ids_and_what_the_model_says(home: Path, run: Run) -> None:
    code, out, err = run("predict", home / "run", "--out", "p", "data.eval_batch_size=64")
    assert (code, err) == (0, "")
    assert "150 rows -> p" in out
    assert run("predict", home / "run", "--out", "l", "--logits")[0] == 0
    table, logits = pq.read_table("p"), pq.read_table("l")
    assert [p.name for p in Path("p").iterdir()] == ["part-00000.parquet"]
    assert table.column_names == ["impression", "probability"]
    assert logits.column_names == ["impression", "logit"]
    files = sorted((home / "data" / "test").glob("*.parquet"))
    names = [name for file in files for name in pq.read_table(file)["impression"].to_pylist()]
    assert table["impression"].to_pylist() == logits["impression"].to_pylist() == names
    expected = 1 / (1 + np.exp(-logits["logit"].to_numpy().astype(np.float64)))
    np.testing.assert_allclose(table["probability"].to_numpy(), expected, rtol=1e-5)
    labels = np.concatenate([pq.read_table(file)["click"].to_numpy() for file in files])
    order = table["probability"].to_numpy()
    pairs = order[labels == 1][:, None] - order[labels == 0][None, :]
    auc = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert auc == pytest.approx(json.loads((home / "run" / "result.json").read_text())["test_metrics"]["auc"])


def test_predict_needs_no_labels(home: Path, run: Run) -> None:
    Path("shards").mkdir()
    for file in (home / "data" / "test").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["click", "user_id"]), Path("shards") / file.name)
    assert run("predict", home / "run", "--out", "p", "--split", "shards")[0] == 0
    assert run("predict", home / "run", "--out", "q")[0] == 0
    assert pq.read_table("p").equals(pq.read_table("q"))
    code, _, err = run("evaluate", home / "run", "--split", "shards")
    assert code == 2
    assert "has no column 'click'" in err


def test_predictions_are_never_written_over(home: Path, run: Run) -> None:
    assert run("predict", home / "run", "--out", "p")[0] == 0
    before = Path("p/part-00000.parquet").read_bytes()
    code, _, err = run("predict", home / "run", "--out", "p", "--logits")
    assert code == 2
    assert "holds predictions already" in err
    assert Path("p/part-00000.parquet").read_bytes() == before


def test_a_prediction_that_fails_leaves_no_folder(home: Path, run: Run) -> None:
    assert run("predict", home / "run", "--out", "p", "--split", "nowhere")[0] == 2
    assert not Path("p").exists()


@pytest.mark.parametrize(
    "override", ["seed=1", "model.embedding_dim=2", "optimizers.0.lr=1", "losses.0.weight=2", "name=x"]
)
def test_what_is_trained_cannot_be_overridden(home: Path, run: Run, override: str) -> None:
    code, _, err = run("evaluate", home / "run", override)
    assert code == 2
    assert f"'{override.partition('=')[0].partition('.')[0]}' of a finished training" in err


def test_other_metrics_of_a_checkpoint(home: Path, run: Run) -> None:
    code, out, _ = run("evaluate", home / "run", "metrics=[accuracy]")
    assert code == 0
    assert "accuracy" in out
    assert "auc" not in out


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("translated_once")
def test_export_writes_a_model_that_answers(home: Path, run: Run) -> None:
    code, out, err = run("export", home / "run", "--out", "m.onnx")
    assert (code, err) == (0, "")
    assert "m.onnx: largest difference from PyTorch" in out
    assert onnxruntime.InferenceSession("m.onnx").get_outputs()


@pytest.mark.usefixtures("translated_once")
def test_an_export_without_out_never_lies_in_a_checkpoint(home: Path, run: Run, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "r")
    step = next((tmp_path / "r" / "checkpoints").glob("step_*"))
    shutil.copytree(step, tmp_path / "alone")
    before = sorted(step.iterdir())
    for given, out in (("r", "r/model.onnx"), (f"{step}/", f"r/{step.name}.onnx"), ("alone", "alone.onnx")):
        code, said, err = run("export", given)
        assert (code, err) == (0, "")
        assert f"{out}: largest difference" in said
        assert Path(out).is_file()
    assert sorted(step.iterdir()) == before
    assert sorted(path.name for path in Path("alone").iterdir()) == [path.name for path in before]


# --- prepare --------------------------------------------------------------------------------------------------------


def test_prepare_writes_shards_that_train(run: Run) -> None:
    rows = [f"{i % 7},{(i * 3) % 5},{i % 2}" for i in range(300)]
    Path("raw").mkdir()
    for name, part in {"train": rows[:200], "valid": rows[200:250], "test": rows[250:]}.items():
        Path(f"raw/{name}.csv").write_text("\n".join(["user,item,label", *part]) + "\n")
    recipe = {
        "source": "elsewhere",
        "files": {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"},
        "split": {"by": "file"},
        "labels": [{"name": "label"}],
        "features": [{"kind": "categorical", "columns": ["user", "item"]}],
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = run("prepare", "recipe.yaml", "source=raw", "out=shards")
    assert (code, err) == (0, "")
    assert "2 features -> " in out
    Path("c.yaml").write_text("model: lr\ndata: {root: shards, batch_size: 50}\ntrackers: []\nexport: {onnx: false}\n")
    assert run("train", "c.yaml", "train.threads=1")[0] == 0
    assert run("prepare", "recipe.yaml", "source=raw", "out=shards")[0] == 2
    assert run("prepare", "recipe.yaml", "sorce=raw", "out=other")[0] == 2


# --- errors, help and speed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], *[[command, "--help"] for command in cli.COMMANDS]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert "usage: rechub-ray" in capsys.readouterr().out


def test_the_version_and_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{rechub_ray.__version__}\n"
    command = [sys.executable, "-m", "rechub_ray", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{rechub_ray.__version__}\n"


def test_an_error_of_ours_is_no_paragraph(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rechub_ray.runtime.launch, "check", broken)
    with pytest.raises(ZeroDivisionError):
        run("train", home / "c.yaml")


# one after the other in a process: what an earlier command imports is there for the later ones too
SPARING: list[tuple[list[str], int, list[str]]] = [
    (["--help"], 0, ["torch", "ray", "pyarrow", "pydantic"]),
    (["train", "nowhere.yaml"], 2, ["ray", "onnx", "sklearn", "rechub_ray.runtime"]),
    (["train", "@", "model.nam=x"], 2, ["ray", "onnx", "sklearn", "rechub_ray.runtime"]),
    (["list", "models"], 0, ["ray", "onnx", "sklearn", "pandas"]),
    (["validate", "@"], 0, ["ray", "onnx", "sklearn", "pandas"]),
    (["train", "@", "train.epochs=null", "train.steps=1"], 0, ["ray", "onnx", "sklearn"]),
    (["evaluate", "@RUN"], 0, ["ray", "onnx", "sklearn"]),
    (["predict", "@RUN", "--out", "p"], 0, ["ray", "onnx", "sklearn"]),
]


@pytest.mark.slow
def test_nothing_is_imported_that_is_not_needed(home: Path, tmp_path: Path) -> None:
    places = {"@": str(home / "c.yaml"), "@RUN": str(home / "run")}
    script = (
        "import json, sys\n"
        "from rechub_ray.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try:\n        code = main(arguments)\n"
        "    except SystemExit as error:\n        code = error.code or 0\n"
        "    print('imported:', json.dumps([code, *sys.modules]))\n"
    )
    commands = [[places.get(x, x) for x in arguments] for arguments, _, _ in SPARING]
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [json.loads(line) for line in re.findall("^imported: (.*)$", done.stdout, re.MULTILINE)]
    assert len(told) == len(SPARING), done.stderr
    for (arguments, wanted, absent), (code, *modules) in zip(SPARING, told, strict=True):
        assert code == wanted, (arguments, done.stderr)
        assert "rechub_ray.cli" in modules
        assert not set(modules) & set(absent), arguments


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["configs/x.yaml", "seed=1"], ["train", "configs/x.yaml", "seed=1"]),
        (["evaluate", "run"], ["evaluate", "run"]),
        (["--help"], ["--help"]),
        ([], ["train"]),
        (["--model-dir", "x", "c.yaml"], ["train", "--model-dir", "x", "c.yaml"]),
    ],
)
def test_the_shim_trains_unless_told_otherwise(
    arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    monkeypatch.setattr(cli, "main", lambda given: heard.append(given) or 0)
    with pytest.raises(SystemExit):
        cli.shim()
    assert heard == [expected]


# --- the disk, and other runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 400, 1500, 6000])
def test_a_disk_that_is_full_is_one_line_and_the_same_command_goes_on(
    home: Path, tmp_path: Path, run: Run, file_limit: Callable[[int | None], None], size: int
) -> None:
    command = ["train", str(home / "c.yaml"), "--model-dir", str(tmp_path / "run"), "checkpoint.every_steps=5"]
    file_limit(size)
    code, _, err = run(*command)
    file_limit(None)
    assert code == 2
    assert "Traceback" not in err
    assert "cannot write" in err.splitlines()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith((".writing", ".lock"))]
    code, _, err = run(*command)
    assert (code, err) == (0, "")


@pytest.mark.usefixtures("translated_once")
def test_predictions_and_exports_that_cannot_be_written_leave_nothing(
    home: Path, tmp_path: Path, run: Run, file_limit: Callable[[int | None], None]
) -> None:
    for command in (
        ["predict", str(home / "run"), "--out", str(tmp_path / "out")],
        ["export", str(home / "run"), "--out", str(tmp_path / "out" / "model.onnx")],
    ):
        file_limit(300)
        code, _, err = run(*command)
        file_limit(None)
        assert code == 2
        assert "cannot write" in err
        assert len(err.splitlines()) == 1
        assert not list((tmp_path / "out").glob("*"))
    assert run("predict", str(home / "run"), "--out", str(tmp_path / "out"))[0] == 0


@pytest.mark.usefixtures("translated_once")
def test_a_second_run_in_the_same_folder_is_refused_while_others_may_read(home: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    shutil.copytree(home / "run", folder)
    before = (folder / "metrics.jsonl").read_bytes()
    with locked(str(folder), what="'model_dir'", hint=""):
        for resume in ("auto", "never"):
            code, _, err = run("train", str(home / "c.yaml"), "--model-dir", str(folder), "--resume", resume)
            assert code == 2
            assert re.search(rf"another run is at work in '{folder}'.*process {os.getpid()}, since 20", err)
            assert len(err.splitlines()) == 1
        assert run("evaluate", str(folder))[0] == 0
        assert run("predict", str(folder), "--out", str(tmp_path / "out"))[0] == 0
        assert run("export", str(folder))[0] == 0
    assert (folder / "metrics.jsonl").read_bytes() == before


# --- numbers --------------------------------------------------------------------------------------------------------


def strict(text: str) -> Any:
    """JSON as its standard has it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_metric_that_is_not_defined_is_said_once_and_is_null_in_files(
    home: Path, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(home / "data", data)
    for file in (data / "valid").glob("*.parquet"):
        table = pq.read_table(file)
        label = table.schema.get_field_index("click")
        ones = np.ones(table.num_rows, dtype=table["click"].to_numpy().dtype)
        pq.write_table(table.set_column(label, "click", [ones]), file, row_group_size=256)
    command = [
        "train", home / "c.yaml", f"data.root={data}", "train.epochs=3", "train.early_stopping.patience=1",
        "train.initial_evaluation=false", "--model-dir", "run",
    ]  # fmt: skip
    code, out, _ = run(*command)
    assert code == 0
    said = [record.getMessage() for record in caplog.records if "not defined" in record.getMessage()]
    assert len(said) == 1
    assert "val/auc" in said[0]
    result = strict(Path("run/result.json").read_text())
    assert result["metrics"]["auc"] is None
    assert result["details"]["epochs"] == 3, "patience is not used up by what is not defined"
    assert re.search(r"auc\s+undefined", out)
    lines = [strict(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["val/auc"] for line in lines if "val/auc" in line] == [None] * 3
    for state in Path("run/checkpoints").glob("*/state.json"):
        assert strict(state.read_text())["metrics"]["auc"] is None
    assert run(*command[:-2], "train.epochs=4", "--model-dir", "run")[0] == 0, "resumes"


def test_the_rate_of_a_resumed_run_is_that_of_its_own_rows(home: Path, run: Run) -> None:
    assert run("train", home / "c.yaml", "--model-dir", "run")[0] == 0
    first = json.loads(Path("run/result.json").read_text())["details"]
    assert first["rows_here"] == first["rows"] == 1152
    code, out, _ = run("train", home / "c.yaml", "--model-dir", "run", "train.epochs=2")
    details = json.loads(Path("run/result.json").read_text())["details"]
    assert (details["rows"], details["rows_here"]) == (2304, 1152)
    rate = float(re.search(r"\(([\d,]+) rows/s\)", out).group(1).replace(",", ""))  # type: ignore[union-attr]
    assert rate == pytest.approx(1152 / details["seconds"]["train"], rel=0.01)
    code, out, _ = run("train", home / "c.yaml", "--model-dir", "run", "train.epochs=2")
    assert code == 0
    assert "rows/s" not in out, "nothing was trained"
