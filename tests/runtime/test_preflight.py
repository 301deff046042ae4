"""What is found wrong before anything starts; the arithmetic of resources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rechub_ray import config
from rechub_ray.config import RunConfig, ScalingSection
from rechub_ray.cpu import SWITCH
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, ConfigError, DataError, RechubError, ResourceError, SchemaError
from rechub_ray.models import MODELS
from rechub_ray.optimizers import build_optimizers
from rechub_ray.runtime.memory import Need, needs
from rechub_ray.runtime.preflight import Job, Node, check, check_device, check_memory, check_resources, cpus_per_worker

BASE: dict[str, Any] = {
    "data": {"batch_size": 64},
    "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [8]},
    "optimizers": [{"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"]}, "adam"],
    "train": {"epochs": 1, "threads": 1},
    "trackers": ["jsonl"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=1500, seed=3, files=2, row_group_rows=256)
    return root


@pytest.fixture
def load(data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    def make(**overrides: Any) -> RunConfig:
        places = {"data.root": str(data), "model_dir": str(tmp_path / "run")}
        return config.load(BASE, {**places, **{key.replace("__", "."): value for key, value in overrides.items()}})

    return make


Load = Callable[..., RunConfig]


def test_a_sound_run_gives_its_rows_and_columns(load: Load) -> None:
    job = check(load(data__features=["user", "price"], data__test=None))
    assert job.schema.feature_names == ["user", "price"]
    assert job.train.rows == 1200
    assert job.valid is not None
    assert job.valid.rows == 150
    assert job.test is None


def test_places_become_absolute(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    job = check(config.load(BASE, {"data.root": data.name, "name": "here"}))
    assert job.config.data.root == str(data)
    assert job.config.directory() == str(data.parent / "runs" / "here")


def test_the_random_numbers_of_the_process_are_left_alone(load: Load) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(load())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        ({"data__root": "/no/such"}, SchemaError, "/no/such/schema.json"),
        ({"data__train": "nope"}, DataError, "'data.train'"),
        ({"data__features": ["usr"]}, ConfigError, r"'data.features.0'.*Did you mean 'user'"),
        ({"data__features": ["user", "user"]}, ConfigError, "'data.features.1': 'user' is there already"),
        ({"data__batch_size": 1201}, ConfigError, r"1201 rows \(batch_size 1201 x accumulate_steps 1 x workers 1"),
        ({"data__batch_size": 301, "train__accumulate_steps": 4}, ConfigError, "1204 rows"),
        ({"data__batch_size": 301, "scaling__num_workers": 4}, ConfigError, "1204 rows.*workers 4"),
        ({"losses__0__label": "x"}, ConfigError, "'losses.0': .*no label 'x'"),
        ({"model__deep_features": ["x"]}, ConfigError, "'model.deep_features'"),
        ({"model__embedding_dim": 10**11}, ResourceError, "does not fit into|larger than any memory"),
        ({"model__embedding_dim": 2**62}, ResourceError, "does not fit into|larger than any memory"),
        ({"optimizers__1": {"name": "adam", "params": "mlp.*"}}, ConfigError, "no optimizer updates"),
        ({"metrics": ["auc", "auc"]}, ConfigError, "'metrics.1'"),
        ({"metrics": ["calibration"]}, ConfigError, "no metric says which model is the best"),
        ({"train__early_stopping": {"metric": "mse"}}, ConfigError, "'train.early_stopping.metric': no metric 'mse'"),
        ({"train__early_stopping": {"metric": "mse"}, "data__valid": None}, ConfigError, "no metric 'mse'"),
        ({"train__early_stopping": {"mode": "min"}}, ConfigError, "the worst model by 'auc'"),
        ({"train__early_stopping": {"metric": "log_loss", "mode": "max"}}, ConfigError, "the worst model"),
        ({"train__early_stopping": {"patience": 1}, "data__valid": None}, ConfigError, "patience.*data.valid is null"),
        ({"train__early_stopping": {"patience": 1}, "train__evaluate_every_epochs": 0}, ConfigError, "patience"),
        ({"optimizers__1": {"name": "adam", "schedule": "reduce_on_plateau"}, "data__valid": None}, ConfigError,
         "'optimizers.1.schedule' goes by the validation's scores"),
        ({"init_from": "/no/such"}, CheckpointError, "'init_from': no checkpoint in '/no/such'"),
        ({"init_map": "/no/such"}, ConfigError, "'init_from', which is null"),
        ({"trackers": ["jsonl", "jsonl"]}, ConfigError, "'trackers.1'"),
        ({"model_dir": "/proc/nothing"}, ConfigError, "'model_dir': cannot write into '/proc/nothing'"),
        ({"model_dir": "/dev/null"}, ConfigError, "'model_dir': cannot write into '/dev/null'"),
    ],
)  # fmt: skip
def test_what_is_found_wrong(load: Load, overrides: dict[str, Any], kind: type[RechubError], words: str) -> None:
    with pytest.raises(kind, match=words):
        check(load(**overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        {"data__batch_size": 1200},
        {"data__batch_size": 150, "train__accumulate_steps": 2, "scaling__num_workers": 4},
        {"metrics": ["calibration"], "train__early_stopping": {"metric": "calibration", "mode": "min"}},
        {"metrics": ["calibration"], "data__valid": None},
        {"train__early_stopping": {"metric": "log_loss", "mode": "min", "patience": 1}},
        {"train__early_stopping": {"patience": 1}, "train__evaluate_every_epochs": 0, "train__evaluate_every_steps": 5},
        {"optimizers__1": {"name": "adam", "schedule": "warmup_cosine"}, "data__valid": None},
    ],
)
def test_what_is_right(load: Load, overrides: dict[str, Any]) -> None:
    check(load(**overrides))


def test_nothing_is_left_in_a_folder_that_is_there(load: Load, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    check(load())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_map_needs_a_file(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'init_map': there is no file"):
        check(load(init_from=str(tmp_path), init_map=str(tmp_path / "nothing")))


def test_a_table_beyond_memory_is_named(load: Load, data: Path, tmp_path: Path) -> None:
    schema = json.loads((data / "schema.json").read_text())
    schema["features"][0]["vocab_size"] = 10**13
    (tmp_path / "large.json").write_text(json.dumps(schema))
    with pytest.raises(
        ResourceError, match=r"embedding\.weights\.4 18\d TiB \(weights 146 TiB.*rows of user: 10,0"
    ) as caught:
        check(load(data__schema_file=str(tmp_path / "large.json")))
    assert "\n" not in str(caught.value)


def test_the_workers_of_a_host_share_its_memory(load: Load) -> None:
    job = check(load(scaling__num_workers=4))
    one = sum(need.total for need in _needs_of(job))
    check_memory(job, [Node(cpus=4, gpus=0, memory=2 * one), Node(cpus=4, gpus=0, memory=2 * one)])
    check_memory(job, [Node(cpus=4, gpus=0)])  # which does not say how much it has
    with pytest.raises(ResourceError, match=r"smallest host.*= 2 workers x.*or put fewer workers on a host"):
        check_memory(job, [Node(cpus=4, gpus=0, memory=2 * one - 1), Node(cpus=4, gpus=0, memory=9 * one)])
    with pytest.raises(ResourceError, match="= 12 workers x"):
        check_memory(job, [Node(cpus=4, gpus=0, memory=11 * one)], at_once=3)


def _needs_of(job: Job) -> list[Need]:
    with torch.device("meta"):
        model = MODELS.build(job.config.model, job.schema)
    return needs(job.config, model, build_optimizers(job.config.optimizers, model))


@pytest.mark.parametrize(
    ("precision", "cpuinfo", "warns"),
    [
        ("bfloat16", "flags\t\t: fpu avx2 avx512f\n", True),
        ("bfloat16", "flags\t\t: fpu avx512_bf16\n", False),
        ("bfloat16", "", False),
        ("float32", "flags\t\t: fpu avx2\n", False),
    ],
)
def test_bfloat16_on_a_cpu_without_it_is_said(
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    cpuinfo: str,
    warns: bool,
) -> None:
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **more: cpuinfo if str(path) == "/proc/cpuinfo" else read_text(path, **more)
    )
    check(load(train__precision=precision, train__device="cpu"))
    said = [record.getMessage() for record in caplog.records if "bfloat16" in record.getMessage()]
    assert len(said) == warns
    assert all("avx512_bf16 or amx_bf16" in line for line in said)


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "gpus", "words"),
    [
        ({"train.device": "cuda"}, 0, "'train.device' is cuda.*Got: 0 of them"),
        ({"train.device": "cuda:2"}, 2, "'train.device' is cuda:2.*Got: 2 of them"),
        ({"scaling.use_gpu": True}, 0, "'scaling.use_gpu' is true.*Got: 0 of them"),
        ({"scaling.use_gpu": True, "train.device": "cpu"}, 2, "'train.device' is cpu, but 'scaling.use_gpu'"),
        ({"scaling.use_gpu": True, "train.device": "cpu", "scaling.num_workers": 1}, 2, "'train.device' is cpu, but"),
        ({"train.device": "cuda", "scaling.num_workers": 1}, 2, "the workers reserve no GPU.*scaling.use_gpu=true"),
        ({"train.device": "cuda:0", "scaling.num_workers": 1, "scaling.use_gpu": True}, 2, "Ray gives each worker"),
        ({"train.device": "cuda:1"}, 2, None),
        ({"scaling.use_gpu": True}, 1, None),
        ({}, 0, None),
        ({"train.device": "cuda", "scaling.num_workers": 1, "scaling.use_gpu": True}, 0, None),
        ({"scaling.num_workers": 4}, 0, None),
    ],
)
def test_devices(overrides: dict[str, Any], gpus: int, words: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    run = config.load({"model": "lr"}, overrides)
    if words is None:
        check_device(run)
    else:
        with pytest.raises(ConfigError, match=words):
            check_device(run)


def test_what_the_environment_switches_off_is_checked_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SWITCH, "freed_memry")
    with pytest.raises(ConfigError, match="unknown entry 'freed_memry'"):
        check_device(config.load({"model": "lr"}, {}))


# --- resources ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "share"),
    [({}, 0.5), ({"use_gpu": True}, 0.0), ({"cpus_per_worker": 2}, 2.0), ({"cpus_per_worker": 0, "use_gpu": True}, 0)],
)
def test_what_a_worker_reserves(given: dict[str, Any], share: float) -> None:
    assert cpus_per_worker(ScalingSection(**given)) == share


@pytest.mark.parametrize(
    ("scaling", "nodes", "words"),
    [
        ({"num_workers": 2}, [(2, 0)], None),
        ({"num_workers": 3}, [(2, 0)], r"3 workers x 0.5 CPU \+ 1 CPU for reading = 2.5 CPU.*num_workers=2"),
        ({"num_workers": 4, "cpus_per_worker": 1, "data_cpus": 2}, [(4, 0), (1, 0)], r"= 6 CPU.*num_workers=3"),
        ({"num_workers": 4, "cpus_per_worker": 3}, [(8, 0), (8, 0)], None),
        # enough CPUs in all, but no host has three free for the fifth worker
        ({"num_workers": 5, "cpus_per_worker": 3}, [(8, 0), (8, 0)], r"only 4 of 5 workers.*host 1: 8 CPU, 0 GPU"),
        ({"num_workers": 2, "use_gpu": True}, [(4, 2)], None),
        ({"num_workers": 3, "use_gpu": True}, [(4, 2)], r"only 2 of 3 workers.*and 1 GPU.*num_workers=2"),
        ({"num_workers": 1, "use_gpu": True}, [(4, 0)], "only 0 of 1 workers.*scaling.use_gpu=false"),
        ({"num_workers": 2, "use_gpu": True}, [(4, 1), (4, 1)], None),
        ({"num_workers": 1, "data_cpus": 9}, [(4, 0)], "num_workers=0"),
        ({"num_workers": 1}, [], "at most 0 CPU on 0 host"),
        ({"num_workers": 1, "eval_cpus": 0.5}, [(2, 0)], None),
        ({"num_workers": 2, "eval_cpus": 0.5}, [(2, 0)], r"reading \+ 0.5 CPU for evaluating = 2.5 CPU.*num_workers=1"),
        ({"num_workers": 2, "cpus_per_worker": 1, "eval_cpus": 1}, [(2, 0), (2, 0)], None),
        # enough CPUs in all, but each host has one left
        (
            {"num_workers": 3, "cpus_per_worker": 1, "eval_cpus": 2},
            [(2, 0)] * 3,
            r"no host has 2 CPU left beside the workers.*at most 1 \(scaling.eval_cpus\)",
        ),
    ],
)
def test_resources(scaling: dict[str, Any], nodes: list[tuple[float, float]], words: str | None) -> None:
    section = ScalingSection(**scaling)
    hosts = [Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes]
    evaluating = scaling.get("eval_cpus", 0.0)
    if words is None:
        check_resources(section, hosts, evaluating=evaluating)
    else:
        with pytest.raises(ResourceError, match=words):
            check_resources(section, hosts, evaluating=evaluating)


def fits(workers: int, share: float, reading: float, hosts: list[int]) -> bool:
    """Placing one worker after another on the emptiest host, then asking what is left for reading."""
    free = [float(cpus) for cpus in hosts]
    for _ in range(workers):
        free.sort()
        if not free or free[-1] < share:
            return False
        free[-1] -= share
    return sum(free) >= reading


@given(
    st.integers(1, 12),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_resources_against_placing_one_by_one(workers: int, share: float, reading: float, hosts: list[int]) -> None:
    section = ScalingSection(num_workers=workers, cpus_per_worker=share, data_cpus=reading)
    try:
        check_resources(section, [Node(cpus=cpus, gpus=0) for cpus in hosts])
        accepted = True
    except ResourceError as error:
        accepted = False
        hinted = int(str(error).partition("scaling.num_workers=")[2].partition(",")[0].rstrip("."))
        assert hinted < workers
        if hinted and "does not fit" not in str(error):
            assert fits(hinted, share, reading, hosts)
    assert accepted == fits(workers, share, reading, hosts)
