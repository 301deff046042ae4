"""Sweep files: what is found wrong before Ray starts, planned points, concurrency, copies of checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rechub_ray import config as config_module
from rechub_ray.balancing import BALANCING
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.shard import SealedWriter
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, RechubError, ResourceError
from rechub_ray.lock import locked
from rechub_ray.models import MODELS
from rechub_ray.registry import keyword_arguments
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import Node, check
from rechub_ray.space import Space
from rechub_ray.sweeps.launch import concurrency, tune
from rechub_ray.sweeps.ledger import Ledger
from rechub_ray.sweeps.objectives import Objective
from rechub_ray.sweeps.schedulers import Asha, HyperBand, rungs
from rechub_ray.sweeps.sweep import CheckedSweep, check_sweep, dump, load
from rechub_ray.sweeps.trial import TrialJob, continue_from, fork, set_aside
from rechub_ray.tracking import read_history
from tests.small_retrieval import SCHEMA, write_retrieval

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 128, "eval_batch_size": 512},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [8]},
    "optimizers": [
        {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
        {"name": "adam", "lr": 0.01},
    ],
    "train": {"epochs": 2, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}
LR = {"optimizers.1.lr": {"loguniform": [1e-4, 1e-1]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root, rows=2000, seed=3, files=2, row_group_rows=256)
    return root


def checked(data: Path, folder: Path, **more: Any) -> CheckedSweep:
    settings = {"base": BASE, "overrides": {"data.root": str(data)}, "space": LR, "sweep_dir": str(folder), **more}
    return check_sweep(load(settings))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trails": 3}, "Did you mean 'trials'"),
        ({"scheduler": "ash"}, "Did you mean 'asha'"),
        ({"scheduler": {"name": "asha", "grace": 1}}, "'scheduler.asha': unknown key 'grace'. Known: grace_epochs, "),
        ({"space": {"model.dropuot": {"uniform": [0, 0.5]}}}, "Did you mean 'dropout'"),
        ({"space": {"model.dropout": {"uniform": [0, 1.5]}}}, r"model\.dropout = 1\.5 does not fit the base"),
        ({"space": {"model": {"choice": ["deepfm", "deepfn"]}}}, "Did you mean 'deepfm'"),
        ({"space": {"data.root": {"choice": ["a"]}}}, "the same in all trials"),
        ({"space": {"init_resize": {"choice": ["error", "copy_overlap"]}}}, "the same in all trials"),
        ({"search": "bohb"}, "go together"),
        ({"search": "grid"}, "no list of values"),
        ({"space": {"seed": {"grid": [1, 2]}}, "search": "hyperopt"}, "goes with search: grid"),
        (
            {"space": {"model": {"choice": [{"name": "fm", "space": {"embedding_dim": {"grid": [4, 8]}}}]}}},
            "outside of components with search: random",
        ),
        ({"mode": "min"}, "the base keeps the checkpoint with the max of auc"),
        ({"objectives": ["auc"]}, "at least two different"),
        ({"objectives": ["auc", "auc"]}, "at least two different"),
        ({"objectives": ["auc", "num_parametres"]}, "Did you mean 'num_parameters'"),
        ({"objectives": ["num_parameters", "auc"]}, "Put auc first"),
        ({"objectives": [{"metric": "auc", "mode": "min"}, "num_parameters"]}, "the max of auc"),
        (
            {"objectives": ["auc", {"metric": "num_parameters", "mod": "min"}]},
            r"'objectives\.1': unknown key 'mod'\. Did you mean 'mode'",
        ),
        ({"objectives": ["auc", "num_parameters"], "metric": "auc"}, "takes the place"),
        ({"objectives": ["auc", "num_parameters"], "scheduler": "asha"}, "'scheduler: asha' compares trials by one"),
        ({"objectives": ["auc", "num_parameters"], "scheduler": "pbt"}, "'scheduler: pbt' compares trials by one"),
        ({"objectives": ["auc", "num_parameters"], "search": "hyperopt"}, "optuna, random or grid"),
        ({"objectives": ["auc", "num_parameters"], "seeds": 2}, "'seeds' ranks points"),
        ({"objectives": ["auc", "num_parameters"], "stop": {"plateau_trials": 3}}, "plateau_trials"),
        ({"space": {"seed": {"choice": [1, 2]}}, "seeds": 2}, "'seed' is in the space"),
        ({"seeds": 2, "scheduler": "hyperband"}, "'seeds' goes with"),
        ({"metric": "acu"}, "'metric'"),
        ({"overrides": {"train.eval_method": "separate"}}, "'base.train.eval_method'.*workers"),
        ({"overrides": {"train.eval_method": "none"}}, "the base does not evaluate it"),
        ({"scheduler": "pbt", "space": {"model.hidden_units": {"choice": [[8], [16]]}}}, "what a checkpoint holds"),
        (
            {"scheduler": "pbt", "space": {"train.freeze": {"choice": ["mlp.0.*", "mlp.2.*"]}}},
            "what a checkpoint holds",
        ),
        ({"scheduler": "pb2", "space": {"model.dropout": {"choice": [0.1, 0.2]}}}, "pb2 changes ranges only"),
        ({"scheduler": "asha", "space": {"train.epochs": {"choice": [1, 2]}}}, "trials of one length"),
        ({"overrides": {"data.root": "DATA", "scaling.num_workers": 99}}, "workers 99"),
        ({"points_to_evaluate": [{"optimizers.1.lr": 5.0}]}, "not in its range"),
        ({"refit": True, "scheduler": "pbt"}, "'refit' trains one configuration again"),
        (
            {"refit": True, "space": {"optimizers.1.schedule": {"choice": ["constant", "reduce_on_plateau"]}}},
            r"optimizers\.1\.schedule = 'reduce_on_plateau' does not fit the base: 'refit' trains without",
        ),
    ],
)
def test_mistakes_are_found_before_ray_starts(data: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    if "overrides" in wrong:
        wrong = {**wrong, "overrides": {**wrong["overrides"], "data.root": str(data)}}
    with pytest.raises(ConfigError, match=message):
        checked(data, tmp_path, **wrong)


def test_a_bare_metric_means_the_first_labels(two_tasks: Path, tmp_path: Path) -> None:
    space, data = {"optimizers.1.lr": {"grid": [0.1]}}, {"data.root": str(two_tasks)}
    base = {**BASE, "model": {"name": "shared_bottom", "embedding_dim": 4}}
    base["optimizers"] = [{**BASE["optimizers"][0], "params": "embedding.*"}, BASE["optimizers"][1]]
    settings = {"base": base, "space": space, "search": "grid", "sweep_dir": str(tmp_path)}
    assert check_sweep(load({**settings, "overrides": data, "metric": "auc"})).metric == "click/auc"
    given = {**data, "train.early_stopping.metric": "auc"}
    objectives = check_sweep(load({**settings, "overrides": given, "objectives": ["auc", "stay/rmse"]})).objectives
    assert [o.metric for o in objectives] == ["click/auc", "stay/rmse"]
    for wrong in (["auc", "click/auc"], ["auc", "rmse"]):
        with pytest.raises(ConfigError, match=r"at least two different|'objectives\.1\.metric': no metric 'rmse'"):
            check_sweep(load({**settings, "overrides": data, "objectives": wrong}))


def test_more_trials_begin_with_the_same_points(data: Path, tmp_path: Path) -> None:
    few, many = checked(data, tmp_path, trials=3), checked(data, tmp_path, trials=8)
    assert many.planned()[:3] == few.planned()
    assert len({str(point) for point in many.planned()}) == 8
    first = {"optimizers.1.lr": 0.02}
    assert checked(data, tmp_path, trials=3, points_to_evaluate=[first]).planned() == [first, *few.planned()[1:]]


def test_overrides_reach_into_the_base_and_a_dump_reads_back(data: Path) -> None:
    sweep = load({"base": BASE, "space": LR}, ["trials=4", f"base.data.root={data}", "base.train.epochs=7"])
    assert sweep.trials == 4
    assert sweep.base["train"]["epochs"] == 7
    assert load(yaml.safe_load(dump(sweep))) == sweep


def test_overrides_name_paths_of_the_space_by_their_dots() -> None:
    given = ["space.model.dropout.uniform=[0, 0.5]", "space.seed={choice: [1, 2]}", "space.optimizers.1.lr=null"]
    sweep = load({"base": BASE, "space": LR}, [*given, "overrides.train.epochs=7", "overrides.train.threads=2"])
    assert sweep.space == {"model.dropout": {"uniform": [0, 0.5]}, "seed": {"choice": [1, 2]}}
    assert (sweep.base["train"]["epochs"], sweep.base["train"]["threads"]) == (7, 2)
    with pytest.raises(ConfigError, match=r"base\.optimizers\.1\.lr=0\.1"):
        load({"base": BASE, "space": LR}, ["space.optimizers.1.lr=0.1"])
    with pytest.raises(ConfigError, match="Did you mean 'uniform'"):
        load({"base": BASE, "space": LR}, {"space.model.dropout.unifrm": [0, 0.5]})


def test_a_refused_sweep_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "s"
    with pytest.raises(ConfigError, match="Did you mean 'lr'"):
        tune(
            {"base": BASE, "space": LR, "sweep_dir": str(folder)},
            [f"base.data.root={data}", "space.optimizers.1.lrr.uniform=[0, 1]"],
        )
    assert not folder.parent.exists()


def test_a_folder_with_a_sweep_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text("")
    with pytest.raises(ConfigError, match="--resume"):
        tune({"base": BASE, "overrides": {"data.root": str(data)}, "space": LR, "sweep_dir": str(tmp_path)})
    with pytest.raises(RechubError, match=r"no sweep to resume"):
        tune(resume=tmp_path / "nothing")


def test_rungs() -> None:
    assert rungs(Asha(grace_epochs=1, reduction_factor=3), 15) == [1, 3, 9]
    assert rungs(HyperBand(reduction_factor=3), 9) == [1, 3]


@pytest.mark.parametrize(
    ("hosts", "cpus", "workers", "wanted", "trials", "expected", "bundles"),
    [
        ([4.0], 1.0, 1, None, 30, 4, [1.0]),
        ([4.0], 1.5, 1, None, 30, 2, [1.5]),
        ([4.0], 1.0, 1, 3, 30, 3, [1.3333]),
        ([4.0], 1.0, 1, None, 2, 2, [1.0]),
        ([4.0, 2.0], 3.0, 1, None, 9, 1, [3.0]),
        ([2.0, 2.0], 1.0, 1, 3, 9, 2, [2.0]),  # a third place is on one host or on the other
        ([4.0, 4.0], 1.0, 1, None, 5, 5, [1.0]),
        ([1.0, 1.0, 1.0], 1.0, 1, 2, 9, 1, [1.0, 1.0]),  # larger places find no host, so a trial takes two
        ([4.0], 1.0, 2, None, 9, 2, [1.0] * 2),
        ([3.0, 2.0], 1.0, 2, None, 9, 2, [1.0] * 2),  # one trial's workers are on both hosts
        ([8.0], 1.0, 2, 1, 9, 1, [2.6666] * 2),
    ],
)
def test_concurrency_never_promises_more_than_fits(
    hosts: list[float],
    cpus: float,
    workers: int,
    wanted: int | None,
    trials: int,
    expected: int,
    bundles: list[float],
) -> None:
    sweep = load({"base": BASE, "space": LR, "resources": {"cpus": cpus}, "max_concurrent": wanted})
    places = concurrency(sweep, [Node(c, 0.0) for c in hosts], trials, workers)
    assert places.limit == expected
    assert [bundle["CPU"] for bundle in places.bundles] == pytest.approx(bundles)
    assert places.arithmetic.startswith(f"{expected} trials at a time")


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 4)), min_size=1, max_size=5),
    st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 4),
    st.integers(1, 9) | st.none(),
)
def test_exactly_as_many_trials_find_room_as_are_promised(
    hosts: list[tuple[int, int]], cpus: float, gpus: float, workers: int, wanted: int | None
) -> None:
    settings = {"resources": {"cpus": cpus, "gpus": gpus}, "max_concurrent": wanted}
    nodes = [Node(float(c), float(g)) for c, g in hosts]
    try:
        places = concurrency(load({"base": BASE, "space": LR, **settings}), nodes, 999, workers)
    except ResourceError:
        return
    assert len(places.bundles) >= workers
    assert places.bundles[0]["CPU"] >= cpus
    assert places.limit <= (wanted or 999)
    room = 0  # as Ray would place them, one bundle after the other
    for node in nodes:
        free_cpus, free_gpus = round(node.cpus * 10_000), round(node.gpus * 10_000)
        bundle = [round(places.bundles[0].get(key, 0) * 10_000) for key in ("CPU", "GPU")]
        while free_cpus >= bundle[0] and free_gpus >= bundle[1]:
            free_cpus, free_gpus, room = free_cpus - bundle[0], free_gpus - bundle[1], room + 1
    assert room // len(places.bundles) == places.limit


@pytest.mark.parametrize(("workers", "message"), [(1, "3 CPU and 0 GPU on one host"), (2, "2 workers of 3 CPU")])
def test_a_trial_larger_than_the_cluster_is_refused(workers: int, message: str) -> None:
    sweep = load({"base": BASE, "space": LR, "resources": {"cpus": 3}})
    with pytest.raises(ResourceError, match="not even one trial") as caught:
        concurrency(sweep, [Node(2.0, 0.0), Node(2.0 * workers, 0.0)], 4, workers)
    assert message in str(caught.value)


def test_what_a_worker_reserves_follows_the_base(data: Path, tmp_path: Path) -> None:
    two = {"data.root": str(data), "scaling.num_workers": 2}
    assert checked(data, tmp_path, overrides=two).workers == 2
    with_gpus = {**two, "scaling.use_gpu": True}
    assert checked(data, tmp_path, overrides=with_gpus).sweep.resources.gpus == 1
    with pytest.raises(ConfigError, match=r"base\.scaling\.use_gpu=true"):
        checked(data, tmp_path, overrides=two, resources={"gpus": 1})
    with pytest.raises(ConfigError, match="cannot share a GPU"):
        checked(data, tmp_path, overrides=with_gpus, resources={"gpus": 0.5})


def test_a_point_ranks_by_the_mean_of_its_seeds(tmp_path: Path) -> None:
    ledger = Ledger(
        str(tmp_path),
        Space.parse({"a": {"choice": [1, 2]}}),
        objectives=[Objective(metric="auc", mode="max")],
        rungs=[],
    )
    for point, scores in ((1, (0.9, 0.1)), (2, (0.6, 0.6)), (3, (0.99, None))):
        for score in scores:
            ledger.open({"a": min(point, 2)}, 0, point)["score"] = score
    assert [[r["score"] for r in group] for group in ledger.ranking()] == [[0.6, 0.6], [0.9, 0.1], [0.99]]


def test_the_front_comes_first_in_the_ranking(tmp_path: Path) -> None:
    objectives = [Objective(metric="auc", mode="max"), Objective(metric="num_parameters", mode="min")]
    ledger = Ledger(str(tmp_path), Space.parse({"a": {"choice": [1, 2]}}), objectives=objectives, rungs=[])
    for auc, size in ((0.8, 10), (0.9, 30), (0.85, 30), (None, None), (0.9, 40), (0.7, 20)):
        ledger.open({"a": 1}, 0, len(ledger.records)).update(score=auc, metrics={"auc": auc}, num_parameters=size)
    assert [record["number"] for record in ledger.front()] == [1, 0]
    assert [group[0]["number"] for group in ledger.ranking()] == [1, 0, 4, 2, 5]


def test_a_fork_has_the_donors_weights_and_its_own_hyperparameters(data: Path, tmp_path: Path) -> None:
    common = {"data.root": str(data), "optimizers.1.name": "adamw", "optimizers.1.weight_decay": 0.1}
    donor = config_module.load(BASE, {**common, "model_dir": str(tmp_path / "donor")})
    train(donor)
    changes = {"optimizers.1.lr": 0.5, "optimizers.1.weight_decay": 0.3, "train.epochs": 3}
    own = config_module.load(BASE, {**common, **changes, "model_dir": str(tmp_path / "own")})
    store, given = (
        Store(str(tmp_path / "own")),
        f"{tmp_path}/donor/checkpoints/{Store(str(tmp_path / 'donor')).newest()}",
    )
    fork(check(own), given, store)
    old, new = read(given, optimizers=True), read(tmp_path / "own", optimizers=True)
    assert all(torch.equal(old.model[name], new.model[name]) for name in old.model)
    assert new.state["position"] == old.state["position"]
    assert new.config.optimizers[1]["lr"] == 0.5
    assert old.optimizers is not None
    assert new.optimizers is not None
    assert old.optimizers[1]["param_groups"][0]["weight_decay"] == 0.1
    assert new.optimizers[1]["param_groups"][0]["weight_decay"] == 0.3
    moments = [{k: v["exp_avg"] for k, v in o.optimizers[1]["state"].items()} for o in (old, new)]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][k], moments[1][k]) for k in moments[0])
    result = train(dataclasses.replace(check(own)).config)
    assert result.details["epochs"] == 3


@pytest.mark.parametrize("how", ["balancing", "loss"])
def test_a_fork_has_the_donors_losses_and_balancing(how: str, two_tasks: Path, tmp_path: Path) -> None:
    """What PBT copies is the whole objective: learned weights of losses are the donor's, and go on from there."""
    learned = {"losses": [{"name": "bce", "learn_loss_weight": True}, {"name": "mse", "label": "stay"}]}
    base = {
        **BASE,
        "data": {"root": str(two_tasks), "batch_size": 256, "valid": None, "test": None},
        "model": {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [8], "tower_units": []},
        "optimizers": [{"name": "adam", "lr": 0.01}],
        "train": {"epochs": 1, "log_every_steps": 1, "initial_evaluation": False},
        **({"balancing": "uwl"} if how == "balancing" else learned),
    }
    train(config_module.load(base, {"model_dir": str(tmp_path / "donor")}))
    own = config_module.load(base, {"model_dir": str(tmp_path / "own"), "train.epochs": 2})
    given = f"{tmp_path}/donor/checkpoints/{Store(str(tmp_path / 'donor')).newest()}"
    fork(check(own), given, Store(str(tmp_path / "own")))
    old, new = read(given).objective, read(tmp_path / "own").objective
    assert old
    assert all(float(value.abs().max()) > 0 for value in old.values()), "nothing was learned"
    assert {name: value.tolist() for name, value in old.items()} == {name: v.tolist() for name, v in new.items()}
    train(own)
    last, first = (
        [line for line in read_history(tmp_path / folder / "metrics.jsonl") if "train/loss" in line][at]
        for folder, at in (("donor", -1), ("own", 0))
    )
    key = "loss_weight/task_0" if how == "balancing" else "loss_weight/bce/click"
    assert first[key] != 1
    assert first[key] == pytest.approx(last[key], abs=0.02), "it began anew"


class Pointer:
    """A checkpoint as Ray holds it: where ours lies."""

    def __init__(self, folder: Path, path: str) -> None:
        self.folder = folder
        (folder / "pointer.json").write_text(json.dumps({"path": path}))

    @contextlib.contextmanager
    def as_directory(self) -> Iterator[str]:
        yield str(self.folder)


def test_a_copy_is_of_what_was_compared_though_the_donor_has_gone_on(data: Path, tmp_path: Path) -> None:
    donor = config_module.load(BASE, {"data.root": str(data), "model_dir": str(tmp_path / "donor"), "train.epochs": 1})
    train(donor)
    first = Store(str(tmp_path / "donor")).newest()
    pointer = Pointer(tmp_path, f"{tmp_path}/donor/checkpoints/{first}")
    set_aside(pointer, str(tmp_path / "own"))
    weights = read(tmp_path / "donor").model
    train(config_module.load(BASE, {**donor.model_dump(), "train.epochs": 3}), resume="must")
    assert first not in Store(str(tmp_path / "donor")).names(), "the donor keeps few checkpoints"
    folder = {"data.root": str(data), "model_dir": str(tmp_path / "own"), "train.epochs": 3}
    own, space = check(config_module.load(BASE, folder)), Space.parse(LR)
    given: dict[str, Any] = {"group": "g", "metric": "auc", "mode": "max", "objectives": (), "bundle": {}}
    shared = TrialJob(base=BASE, job=own, space=space, directory=str(tmp_path), **given)
    continue_from(own, f"{tmp_path}/donor/checkpoints/{first}", shared)
    copy = read(tmp_path / "own")
    assert all(torch.equal(weights[name], copy.model[name]) for name in weights)
    assert copy.state["position"]["epoch"] == 1
    continue_from(own, f"{tmp_path}/own/checkpoints/{first}", shared)
    assert not (tmp_path / "own" / "donor").exists()


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweeps, shell = tmp_path / "sweeps", tmp_path / "shell"
    for folder in (sweeps, shell, tmp_path / "configs"):
        folder.mkdir()
    (tmp_path / "configs" / "c.yaml").write_text("model: lr\ninit_from: of_base\ndata: {root: of_base}\n")
    text = """
base: {base}
overrides: {{init_map: map, data: {{root: ../data}}, train.epochs: 2}}
space: {{init_from: {{choice: [a, "s3://b/c", /d]}}, optimizers.0.lr: {{choice: [1, 2]}}}}
points_to_evaluate: [{{init_from: a}}]
"""
    (sweeps / "s.yaml").write_text(text.format(base="../configs/c.yaml"))
    monkeypatch.chdir(shell)
    found = load(sweeps / "s.yaml", ["base.name=x"])
    assert found.base["init_from"] == str(shell / "of_base"), "in a configuration they are the shell's"
    assert found.base["init_map"] == str(sweeps / "map")
    assert found.base["data"]["root"] == str(tmp_path / "data")
    assert found.space["init_from"] == {"choice": [str(sweeps / "a"), "s3://b/c", "/d"]}
    assert found.points_to_evaluate == [{"init_from": str(sweeps / "a")}]
    assert load(sweeps / "s.yaml", ["base.data.root=here"]).base["data"]["root"] == str(shell / "here")
    other = load({"base": "../configs/c.yaml", "space": {"init_from": {"choice": ["a"]}}})
    assert other.space["init_from"] == {"choice": [str(shell / "a")]}, "a mapping has no folder"
    (tmp_path / "again.yaml").write_text(dump(found))
    assert load(tmp_path / "again.yaml") == found, "wherever it lies, what is written down means the same"
    written = text.format(base="{model: lr, data: {root: here}}").replace("data: {root: ../data}", "data.test: x")
    (sweeps / "t.yaml").write_text(written)
    assert load(sweeps / "t.yaml").base["data"] == {"root": str(sweeps / "here"), "test": "x"}


def test_a_base_that_is_not_there_shows_the_path_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "c.yaml").write_text("model: lr\n")
    (tmp_path / "sweeps" / "s.yaml").write_text("base: c.yaml\nspace: {seed: {choice: [1, 2]}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load("sweeps/s.yaml")
    assert str(tmp_path / "sweeps" / "c.yaml") in str(caught.value)
    assert str(caught.value).endswith("relative to the file: write base: ../c.yaml")


READY = sorted((Path(__file__).resolve().parents[2] / "tune_configs").glob("*.yaml"))


def test_the_ready_files_are_these() -> None:
    assert [file.stem for file in READY] == [
        "dcn_v2_pbt", "deepfm_asha", "deepfm_bohb", "deepfm_multi_objective", "dssm_asha", "multi_task",
        "ranking_shootout", "sasrec_asha", "smoke", "wide_deep_hyperband",
    ]  # fmt: skip


OF_RETRIEVAL = ("dssm_asha", "sasrec_asha")


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of users and items, with the windows of sequences, and the list of what users have seen."""
    root = write_retrieval(tmp_path_factory.mktemp("retrieval") / "data")
    assert SCHEMA.items is not None
    dataclasses.replace(SCHEMA, items=dataclasses.replace(SCHEMA.items, exclude="seen")).save(root / "schema.json")
    for file in (*(root / "valid").iterdir(), *(root / "test").iterdir()):
        table = pq.read_table(file)
        with SealedWriter(file, table.append_column("seen", table["shown"]).schema) as writer:
            writer.write_table(table.append_column("seen", table["shown"]), 128)
    shutil.copytree(root / "train", root / "windows")
    return root


def ready(file: Path, data: Path, folder: Path) -> CheckedSweep:
    content = yaml.safe_load(file.read_text())
    content["base"] = str(file.parent / content["base"])
    return check_sweep(
        load(content, {"base.data.root": str(data), "base.data.batch_size": 512, "sweep_dir": str(folder)})
    )


@pytest.mark.parametrize(
    "file",
    # the shoot-out takes seconds to check, which its own test does
    [pytest.param(f, marks=pytest.mark.long if f.stem == "ranking_shootout" else ()) for f in READY],
    ids=lambda file: file.stem,
)
def test_a_ready_file_is_valid(data: Path, two_tasks: Path, retrieval: Path, tmp_path: Path, file: Path) -> None:
    if file.stem == "deepfm_bohb":
        pytest.importorskip("hpbandster")
    if file.stem == "deepfm_multi_objective":
        pytest.importorskip("optuna")
    if file.stem == "dssm_asha":
        pytest.importorskip("faiss")
    own = {"multi_task": two_tasks, **dict.fromkeys(OF_RETRIEVAL, retrieval)}
    found = ready(file, own.get(file.stem, data), tmp_path)
    assert found.sweep.name == file.stem, "the name is the file's, so that sweeps/<name> tells where it came from"
    base = Path(yaml.safe_load(file.read_text())["base"])
    assert base.parts[:2] == ("..", "configs"), "the data of a configuration has a recipe"
    assert f"rechub-ray tune tune_configs/{file.name}" in file.read_text(), "says how to run it"


def test_the_shootout_gives_every_ranking_model_the_same_budget(data: Path, tmp_path: Path) -> None:
    found = ready(next(file for file in READY if file.stem == "ranking_shootout"), data, tmp_path)
    every = {n for n in MODELS.names() if MODELS.get(n).__module__.startswith("rechub_ray.models.ranking.")}
    every -= {n for n in every if "history_features" in keyword_arguments(MODELS.get(n))}  # Frappe has no histories
    counts = Counter(point["model"] for point in found.planned())
    assert set(counts) == every, (
        "name each ranking model in tune_configs/ranking_shootout.yaml, with a space of its own"
    )
    assert len(set(counts.values())) == 1, "trials is not a multiple of the number of models"
    assert found.sweep.scheduler.name == "asha"  # one rule for all
    assert found.job.config.train.early_stopping.patience is None
    inner = {v.parent[1] for v in found.space.variables if v.parent is not None}
    assert inner == every - {"lr"}  # which has nothing of its own to vary


def test_every_way_of_balancing_has_the_same_budget(two_tasks: Path, tmp_path: Path) -> None:
    found = ready(next(file for file in READY if file.stem == "multi_task"), two_tasks, tmp_path)
    counts = Counter(point["balancing"] for point in found.planned())
    assert set(counts) == set(BALANCING.names()), "name each balancing method in tune_configs/multi_task.yaml"
    assert len(set(counts.values())) == 1, "trials is not a multiple of the number of methods"


def test_a_second_sweep_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    settings = {"base": BASE, "overrides": {"data.root": str(data)}, "space": LR, "sweep_dir": str(tmp_path / "s")}
    with locked(str(tmp_path / "s"), what="", hint=""), pytest.raises(ConfigError, match="'sweep_dir': another run"):
        tune(settings)
    assert not (tmp_path / "s").exists()
