"""Fixtures for all tests: one small Ray cluster, generated shards, and real data where it is there."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

# Ray reads these when it is imported or started; its workers inherit the environment
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # small tensors: threads that wait for each other cost more than they bring
        "RAY_AUTH_MODE": "disabled",
        "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "60",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "60000",  # as a run sets it that starts Ray
        "RAY_worker_niceness": "0",  # beside `make test-core`, which gives way to these
    }
)
gc.disable()  # until all tests are found: none of what that makes is garbage, and looking took a quarter of it
ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import pytest  # noqa: E402

from rechub_ray.data.shard import SealedWriter  # noqa: E402
from rechub_ray.data.synthetic import write_click_logs  # noqa: E402
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature  # noqa: E402

hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("suite")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with 3 logical CPUs; the same one for the whole session."""
    import ray

    # sockets lie under it, and their paths may not exceed 107 characters: not under pytest's own long folders
    with tempfile.TemporaryDirectory(prefix="rr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=3,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """`data_dir("frappe")`: the folder of a real data set; skips the test where there is none."""

    def find(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"real data set '{name}' is not here; RECHUB_DATA names the folder that holds it")
        return REAL_DATA / name

    return find


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """`golden("losses.json")`: values of another implementation, from a folder beside the real data; skips the test
    where there is none."""

    def read(name: str) -> Any:
        path = REAL_DATA.parent / "golden" / name
        if not path.is_file():
            pytest.skip(f"'{path}' is not here; RECHUB_DATA names the folder beside it")
        return json.loads(path.read_text())

    return read


@pytest.fixture
def schema() -> Schema:
    """One column of every kind that a schema knows."""
    return Schema(
        features=(
            SparseFeature("user", 50),
            DenseFeature("age"),
            SparseFeature("item", 20),
            DenseFeature("vector", dim=3),
            SequenceFeature("history", 20, max_length=4, shared_with="item"),
            SequenceFeature("tags", 9, max_length=3, pooling="sum"),
        ),
        labels=(Label("click"), Label("rating", kind="regression")),
        group="session",
        weight="importance",
        row_id="row",
    )


class WriteShards(Protocol):
    def __call__(
        self, folder: Path, schema: Schema, *, rows: int, files: int = 2, row_group_rows: int = 50, seed: int = 0
    ) -> pa.Table: ...


@pytest.fixture(scope="session")
def write_shards() -> WriteShards:
    """Writes random rows that fit a schema as parquet shards; returns them all, in the order of the files."""

    def write(
        folder: Path, schema: Schema, *, rows: int, files: int = 2, row_group_rows: int = 50, seed: int = 0
    ) -> pa.Table:
        table = random_table(schema, rows, seed)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(files):
            start, stop = rows * i // files, rows * (i + 1) // files
            part = table.slice(start, stop - start)
            with SealedWriter(folder / f"part-{i:05d}.parquet", part.schema) as writer:
                writer.write_table(part, row_group_rows)
        return table

    return write


def random_table(schema: Schema, rows: int, seed: int) -> pa.Table:
    """Random rows that fit the schema; the row id counts the rows."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for feature in schema.features:
        if isinstance(feature, SparseFeature):
            columns[feature.name] = rng.integers(0, feature.vocab_size, rows, np.int32)
        elif isinstance(feature, SequenceFeature):
            lengths = rng.integers(0, feature.max_length + 1, rows)
            ids = [rng.integers(0, feature.vocab_size, n, np.int32) for n in lengths]
            columns[feature.name] = pa.array(ids, pa.list_(pa.int32()))
        elif feature.dim == 1:
            columns[feature.name] = rng.normal(size=rows).astype(np.float32)
        else:
            flat = pa.array(rng.normal(size=rows * feature.dim).astype(np.float32))
            columns[feature.name] = pa.FixedSizeListArray.from_arrays(flat, feature.dim)
    for label in schema.labels:
        classes = 2 if label.kind == "binary" else label.num_classes
        values = rng.normal(size=rows) if classes is None else rng.integers(0, classes, rows)
        columns[label.name] = values.astype(np.float32)
    if schema.weight is not None:
        columns[schema.weight] = rng.uniform(0, 2, rows).astype(np.float32)
    if schema.row_id is not None and schema.row_id not in columns:
        columns[schema.row_id] = np.arange(rows)
    if schema.group is not None and schema.group not in columns:
        columns[schema.group] = rng.integers(0, 10, rows)
    return pa.table(columns)


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Click logs with a second label, a number that every seventh row lacks."""
    root = tmp_path_factory.mktemp("two")
    write_click_logs(root, rows=4000, seed=3, files=3, row_group_rows=256)
    for file in sorted(root.glob("*/*.parquet")):
        table = pq.read_table(file)
        stay = [None if i % 7 == 0 else (c % 5) / 2.0 for i, c in enumerate(table["city"].to_pylist())]
        table = table.append_column("stay", pa.array(stay, pa.float32()))
        with SealedWriter(file, table.schema) as writer:
            writer.write_table(table, 256)
    schema = json.loads((root / "schema.json").read_text())
    schema["labels"].append({"name": "stay", "kind": "regression", "optional": True})
    (root / "schema.json").write_text(json.dumps(schema))
    return root


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """Exports share the exporter's list of operators, which it makes anew for each: a quarter of a small one's time."""
    from rechub_ray.export import onnx

    translate = onnx._translate

    with pytest.MonkeyPatch.context() as patch:

        def sharing(served: Any) -> Any:
            module = importlib.import_module("torch.onnx._internal.exporter._registration")  # takes a second
            cls = getattr(module, "ONNXRegistry", None)
            make = getattr(cls, "from_torchlib", None)
            if make is not None and not hasattr(make, "cache_info"):
                patch.setattr(cls, "from_torchlib", staticmethod(functools.cache(make)))
            return translate(served)

        patch.setattr(onnx, "_translate", sharing)
        yield


@pytest.fixture(scope="module")
def translated() -> list[Any]:
    """What PyTorch's exporter has made of the module's model."""
    return []


@pytest.fixture
def translated_once(translated: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The exports of a module's one model share what PyTorch's exporter makes of it, which takes seconds."""
    from rechub_ray.export import onnx

    translate = onnx._translate

    def once(served: Any) -> Any:
        if not translated:
            translated.append(translate(served))
        return translated[0]

    monkeypatch.setattr(onnx, "_translate", once)


@pytest.fixture
def own_processes() -> Callable[[str], list[int]]:
    """Finds processes that a test may kill."""
    return _own_processes


def _own_processes(title: str) -> list[int]:
    """Ascending ids of the processes below this one whose command line has `title` in it; nobody else's Ray is hit."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                if title.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return sorted(pid for pid in found if _is_below(pid, parents))


def _is_below(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != os.getpid():
        pid = parents[pid]
    return pid == os.getpid()


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Have SIGHUP, SIGINT and SIGTERM end this process and those it starts, however the shell started pytest.

    nohup ignores SIGHUP, and a shell without a terminal has its background jobs ignore SIGINT; children inherit both.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in an empty folder: exit code, standard output, standard error."""
    from rechub_ray import cli

    monkeypatch.chdir(tmp_path)

    def main(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return main


@pytest.fixture
def file_limit() -> Iterator[Callable[[int | None], None]]:
    """Sets the largest size of a file (None: no limit): a write beyond it fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
