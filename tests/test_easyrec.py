"""EasyRec's keys are the ones that docs/easyrec.md puts beside them, and a run takes them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rechub_ray import cli, config
from rechub_ray.checkpoint import read
from rechub_ray.config import RunConfig, parse_override
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.easyrec import translated
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "easyrec.md").read_text(encoding="utf-8")

# every key and word of EasyRec's training manual
WORDS = re.findall(
    r"\S+",
    """
log_step_count_steps optimizer_config adam_optimizer adagrad_optimizer learning_rate exponential_decay_learning_rate
constant_learning_rate initial_learning_rate decay_steps decay_factor min_learning_rate initial_accumulator_value
sync_replicas train_distribute NoStrategy PSStrategy MirroredStrategy MultiWorkerMirroredStrategy num_gpus_per_worker
num_steps fine_tune_checkpoint fine_tune_ckpt_var_map save_checkpoints_steps save_checkpoints_secs keep_checkpoint_max
save_summary_steps loss_type losses weight learn_loss_weight f1_reweighted_loss f1_reweight_loss f1_beta_square gamma
alpha session_name hinge_margin ohem_ratio temperature margin label_smoothing binary_focal_loss pairwise_focal_loss
--pipeline_config_path --continue_train --model_dir --edit_config_json train_config eval_config data_config
feature_config negative_sampler input_path -Dtrain_tables -Deval_tables -Dcluster -Dconfig -Dcmd -Darn -DossHost
-Dbuckets -Deval_method separate none master -Dselected_cols -Dmodel_dir -Dedit_config_json -wn -wc -wm -wg -pn -pc
-pm -t -a -f -m -c
CLASSIFICATION L2_LOSS SIGMOID_L2_LOSS CROSS_ENTROPY_LOSS CIRCLE_LOSS MULTI_SIMILARITY_LOSS
SOFTMAX_CROSS_ENTROPY_WITH_NEGATIVE_MINING BINARY_FOCAL_LOSS PAIR_WISE_LOSS PAIRWISE_FOCAL_LOSS PAIRWISE_LOGISTIC_LOSS
JRC_LOSS F1_REWEIGHTED_LOSS
""",
)


def rows(width: int) -> list[list[str]]:
    """The tables' lines of so many cells."""
    lines = re.findall(r"^\| (`.*) \|$", TEXT, re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r" \|(?= |$)", line)] for line in lines]
    return [row for row in cells if len(row) == width]


def pairs(text: str) -> list[tuple[str, Any]]:
    """The overrides in a cell: `path=value path=value`, where values may hold blanks."""
    return [parse_override(part) for part in re.split(r" (?=[a-z_]+(?:[.\[][\w.\[\]]*)?=)", text.strip("`"))]


def load(overrides: list[tuple[str, Any]]) -> RunConfig:
    data: dict[str, Any] = {"model": {"name": "deepfm"}, "optimizers": [{"name": "adam"}]}
    for pair in overrides:
        for path, value in translated([pair], data, lambda line: None):
            data = config.merge(data, {path: value})
    return config.validate(data)


def ids(row: list[str]) -> str:
    return row[0].strip("`")[:60]


@pytest.mark.parametrize("row", rows(3), ids=ids)
def test_the_two_sides_of_a_table_are_the_same_run(row: list[str]) -> None:
    theirs, ours, _ = row
    if not ours:
        with pytest.raises(ConfigError, match=r"no counterpart|no parameter servers"):
            load(pairs(theirs))
        return
    assert load(pairs(theirs)) == load(config.merge({"model": "deepfm"}, dict(pairs(ours))).items()), theirs
    assert "_config" not in ours


def test_the_tables_are_read() -> None:
    assert len(rows(3)) > 30
    assert len(rows(2)) > 35


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_manual_is_there(word: str) -> None:
    assert re.search(rf"(?<!\w)(?<!\w-){re.escape(word)}(?!\w)", TEXT)


def test_the_losses_are_those_of_the_registry() -> None:
    names = [row for row in rows(2) if row[0].strip("`").isupper() or row[0].startswith(("`L2", "`F1"))]
    assert len(names) == 13
    for theirs, ours in names:
        assert LOSSES.get(theirs.strip("`")) is LOSSES.get(ours.split("`")[1])


def overrides_of_the_commands() -> Iterator[str]:
    for _, ours in rows(2):
        for code in re.findall(r"`([^`]*)`", ours):
            yield from (part for part in re.split(r" (?=[a-z_.]+=)", code) if re.match(r"[a-z_.]+=", part))


@pytest.mark.parametrize("override", sorted(set(overrides_of_the_commands())))
def test_what_a_command_is_here_loads(override: str) -> None:
    config.load({"model": "lr"}, [override])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "train_config.num_stepz",
            5,
            r"'train_config.num_stepz' has no counterpart here.*Did you mean 'train_config.nu",
        ),
        ("eval_config.metrics_set", {"auc": {}}, r"no counterpart here.*validation split is `data.valid`"),
        ("data_config.negative_sampler.input_path", "x", r"negative_sampler.input_path.*no counterpart"),
        ("feature_config", {"features": {"input_names": "a"}}, r"'feature_config.features.input_names'.*prepare"),
        ("train_config", 5, r"'train_config' has no counterpart"),
        ("train_config.num_gpus_per_worker", 4, r"is 4.*Expected: 0 or 1.*scaling.num_workers"),
        (
            "train_config.train_distribute",
            "MirrorStrategy",
            r"Expected: NoStrategy or.*Did you mean 'MirroredStrategy'",
        ),
        ("train_config.optimizer_config", "adam", r"optimizer_config'.*adam_optimizer or adagrad_optimizer"),
        ("train_config.optimizer_config", {"adamx_optimizer": {}}, r"adamx_optimizer.*Did you mean 'adam_optimizer'"),
        ("train_config.optimizer_config", {"adam_optimizer": {"beta3": 1}}, r"'beta3'.*Did you mean 'beta"),
        (
            "train_config.optimizer_config",
            {"adam_optimizer": {"learning_rate": 0.1}},
            r"constant_learning_rate or expo",
        ),
        ("train_config.optimizer_config", [{"adam_optimizer": {}}] * 4, r"has 4 optimizers.*1 to 3"),
        ("train_config.optimizer_config.adam_optimizer.lr", 1, r"adam_optimizer' knows no 'lr'"),
        ("train_config.optimizer_config.0", {}, r"no counterpart here.*as a whole, or one value"),
        ("model_config.losses", ["bce"], r"Expected: {loss_type"),
        ("model_config.losses.weight", 1, r"model_config.losses.0.weight"),
        ("model_config.deepfm", {"dnn": 1}, r"'model_config.deepfm.dnn'.*`model`"),
    ],
)
def test_what_is_wrong_is_said(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load([(path, value)])
    assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)


def test_a_wrong_value_is_said_by_the_name_here() -> None:
    with pytest.raises(ConfigError, match=r"'train\.steps'"):
        load([("train_config.num_steps", 0)])


def test_the_schedule_falls_in_steps_as_there() -> None:
    rate = "exponential_decay_learning_rate: {burnin_steps: 10, burnin_learning_rate: 0.001}"
    edit = f"train_config.optimizer_config={{adam_optimizer: {{learning_rate: {{{rate}}}}}}}"
    node = load(pairs(edit)).optimizers[0]
    wanted = {"decay": 0.95, "decay_steps": 4_000_000, "staircase": True, "warmup_steps": 10, "warmup_lr": 0.001}
    assert node["lr"] == 0.002
    assert {key: node["schedule"][key] for key in wanted} == wanted


def test_a_run_with_the_keys_of_the_manual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_click_logs(tmp_path / "data", rows=1500, seed=3, files=1, row_group_rows=256)
    base = {"data": {"root": str(tmp_path / "data"), "batch_size": 64}, "model": "deepfm", "trackers": [],
            "export": {"onnx": False}, "train": {"epochs": 9, "threads": 1}}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(base))
    two_losses = next(row[0] for row in rows(3) if "weight: 1.0, f1_reweighted_loss" in row[0])
    two_optimizers = next(row[0] for row in rows(3) if row[0].startswith("`train_config.optimizer_config=[{adagrad"))
    edits = dict(pairs(two_losses) + pairs(two_optimizers)) | {
        "train_config.num_steps": 7,
        "train_config": {"save_checkpoints_steps": 3, "keep_checkpoint_max": 4, "sync_replicas": True},
    }
    command = [
        "train", str(tmp_path / "c.yaml"), "--model_dir", str(tmp_path / "run"), "--edit_config_json",
        json.dumps(edits), "--train_config.log_step_count_steps=2",
    ]  # fmt: skip
    assert cli.main(command) == 0, shlex.join(command)
    said = capsys.readouterr().err.splitlines()
    assert "rechub-ray: train_config.num_steps is train.steps here" in said
    assert "rechub-ray: train_config.log_step_count_steps is train.log_every_steps here" in said
    assert "rechub-ray: model_config.losses is losses here" in said
    steps = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert steps == [f"step_{step:010d}" for step in (3, 6, 7)]
    config_of_run = read(tmp_path / "run").config
    assert config_of_run.train.steps == 7
    assert [node["name"] for node in config_of_run.losses or []] == ["f1_reweighted", "pair_wise"]
    assert [node["name"] for node in config_of_run.optimizers] == ["sparse_adagrad", "adam"]
