"""The service of examples/serving over HTTP: its numbers, its answers to wrong rows, what it loads, how it ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rechub_ray.export.onnx import export_onnx
from rechub_ray.runtime.inference import predict
from rechub_ray.runtime.recommend import Recommender
from tests.export import test_raw as raw
from tests.runtime import test_recommend as retrieval

pytest.importorskip("fastapi", reason="an extra: pip install 'rechub_ray[serving]'")
pytest.importorskip("uvicorn", reason="an extra: pip install 'rechub_ray[serving]'")
pytestmark = pytest.mark.slow
SERVICE = Path(__file__).parents[1] / "examples" / "serving" / "service.py"
ENDS = (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was sent, once all is answered


class Service:
    """A process that serves, and the port it listens on."""

    def __init__(self, path: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(SERVICE), str(path), "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(300):
            with contextlib.suppress(OSError):
                if self.get("/health")[0] == 200:
                    return
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.1)
        raise AssertionError("it does not answer")

    def ask(self, method: str, path: str, body: str | bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()

    def get(self, path: str) -> tuple[int, Any]:
        return self.ask("GET", path)

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return self.ask("POST", path, json.dumps(body))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model of raw values, and what `predict --raw` says of test.csv."""
    folder = tmp_path_factory.mktemp("scores")
    for name, seed in (("train", 0), ("test", 1)):
        (folder / f"{name}.csv").write_text(raw.log(300, seed), encoding="utf-8")
    labels = [{"name": "y"}, {"name": "again", "expression": "y == 1"}]
    run = raw.make_run(folder, raw.FEATURES, "shared_bottom", 0.2, labels=labels)
    export_onnx(folder / raw.STEP, run / "model_raw.onnx", inputs="raw", batch_sizes=(1, 7))
    predict(folder / raw.STEP, folder / "expected", raw=str(folder / "test.csv"), keep=["row"])
    return folder


@pytest.fixture(scope="module")
def scores(folder: Path) -> Iterator[Service]:
    service = Service(folder / "run", "--max-rows", "64", "--max-bytes", "100000")
    yield service
    assert service.end() in ENDS


def rows_of(folder: Path) -> list[dict[str, Any]]:
    with (folder / "test.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_json(row: dict[str, str], number: int) -> dict[str, Any]:
    """A row of texts as a program would send it: numbers as such, null where there is nothing."""
    made: dict[str, Any] = {name: value or None for name, value in row.items()}
    if number % 2 and made["price"]:
        made["price"] = float(made["price"])
    if number % 3 and (made["user"] or ".").isdecimal():  # this vocabulary has 7 and 7.0 as two values
        made["user"] = int(made["user"])
    return made


def test_concurrent_clients_get_what_predict_says(folder: Path, scores: Service) -> None:
    rows = [as_json(row, number) for number, row in enumerate(rows_of(folder))]
    table = pq.read_table(folder / "expected").to_pandas()
    expected = table.set_index(table["row"].astype(int)).drop(columns="row").sort_index()
    assert len(expected.columns) == 2
    assert np.ptp(expected.iloc[:, 0]) > 0.5
    pieces = [(start, size) for size in (1, 7, 64) for start in range(0, 300 - size, max(size, 10))]

    def ask(piece: tuple[int, int]) -> None:
        start, size = piece
        status, answer = scores.post("/predict", rows=rows[start : start + size])
        assert status == 200, answer
        found = pd.DataFrame(answer["predictions"])[list(expected.columns)]
        np.testing.assert_allclose(found, expected.iloc[start : start + size], rtol=0, atol=1e-6)

    with concurrent.futures.ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, pieces))


GOOD: dict[str, Any] = {"user": 5, "city": "Bern", "price": 2.5, "point": "1 2", "tags": "x|t"}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("price", "cheap", "a number or null"),
        ("price", [1], "a number or null"),
        ("price", float("inf"), "a number or null"),
        ("user", "anna", "a number or null"),  # a feature reads it as a number, too
        ("city", ["Bern"], "a text, a number, true, false or null"),
        ("city", {"name": "Bern"}, "a text, a number, true, false or null"),
    ],
)
def test_a_wrong_value_is_named(scores: Service, column: str, value: Any, expected: str) -> None:
    status, answer = scores.post("/predict", rows=[GOOD, {**GOOD, column: value}, GOOD])
    assert status == 422
    (problem,) = answer["detail"]
    assert problem["loc"] == ["body", "rows", 1, column]
    assert problem["msg"] == f"expected {expected}"
    assert problem["input"] == repr(value)


def test_what_is_no_batch_of_rows(scores: Service) -> None:
    lacking = {name: value for name, value in GOOD.items() if name != "city"}
    status, answer = scores.post("/predict", rows=[GOOD, lacking, {**lacking, "price": "?"}])
    assert status == 422
    assert [problem["loc"][2:] for problem in answer["detail"]] == [[1, "city"], [2, "city"], [2, "price"]]
    assert "the column is missing" in answer["detail"][0]["msg"]
    for body, words in [
        ({"rows": []}, "at least 1 item"),
        ({"rows": [GOOD] * 65}, "at most 64 items"),
        ({"rows": [7]}, "valid dictionary"),
        ({"row": [GOOD]}, "Field required"),
    ]:
        status, answer = scores.post("/predict", **body)
        assert (status, words in answer["detail"][0]["msg"]) == (422, True), answer
    assert scores.ask("POST", "/predict", '{"rows": [')[0] == 422
    status, answer = scores.post("/predict", rows=[{**GOOD, "city": "x" * 100_000}])
    assert (status, answer["detail"]) == (413, "a body of more than 100,000 bytes")
    assert scores.post("/recommend", users=[{}])[0] == 404
    assert scores.get("/predict")[0] == 405
    assert scores.post("/predict", rows=[{**GOOD, "more": {"is": "left out"}}])[0] == 200


def test_health_says_what_a_row_has(scores: Service) -> None:
    status, answer = scores.get("/health")
    assert status == 200
    assert answer["columns"] == {
        **dict.fromkeys(("city", "point", "tags"), "a text, or null"),
        **dict.fromkeys(("price", "user"), "a number, or null"),
    }
    assert answer["max_rows"] == 64


def loaded(process: subprocess.Popen[str]) -> tuple[str, float]:
    """The libraries that a process has mapped, and its resident memory in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return Path(f"/proc/{process.pid}/maps").read_text(), int(kilobytes) / 1024


def test_neither_torch_nor_ray_is_loaded(scores: Service) -> None:
    maps, memory = loaded(scores.process)
    assert "onnxruntime" in maps
    for library in ("libtorch", "_raylet", "pyarrow", "pandas"):
        assert library not in maps
    assert memory < 250


def test_what_is_begun_is_answered(folder: Path) -> None:
    service = Service(folder / "run")
    rows = [as_json(row, 0) for row in rows_of(folder)]
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(service.post, "/predict", rows=rows) for _ in range(8)]
        while not any(one.done() for one in asked):
            time.sleep(0.001)
        assert service.end() in ENDS
        # a connection that the service had not taken yet is refused or reset; one that it drops is another error
        untaken = (ConnectionRefusedError, ConnectionResetError)
        statuses = [one.result()[0] for one in asked if type(one.exception()) not in untaken]
    assert statuses
    assert set(statuses) == {200}


def test_a_file_of_encoded_values_is_no_service(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, str(SERVICE), str(tmp_path / "empty")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "rechub-ray export RUN --inputs raw" in done.stderr


# --- items for users ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("items")
    run = retrieval.make_run(folder, retrieval.DSSM)
    retrieval.export_files(run, run / "serving", batch_sizes=(1, 7))
    return folder / "run"


@pytest.fixture(scope="module")
def items(home: Path) -> Iterator[Service]:
    service = Service(home)
    yield service
    assert service.end() in ENDS


def test_items_are_those_of_the_recommender(home: Path, items: Service) -> None:
    frame = retrieval.people(range(retrieval.USERS))
    expected = Recommender(home).recommend(frame, 7, exclude="history")
    users = frame.to_dict("records")

    def ask(start: int) -> None:
        status, answer = items.post("/recommend", users=users[start : start + 5], k=7, exclude="history")
        assert status == 200, answer
        for place, found in enumerate(answer["recommendations"]):
            assert found["user"] == place
            assert found["items"] == list(expected["items"].iloc[start + place])
            np.testing.assert_allclose(found["scores"], expected["scores"].iloc[start + place], atol=1e-5)

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(0, retrieval.USERS - 5, 5)))


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ({"users": [{"user": "u1"}]}, ["users"], "history"),
        ({"k": 0}, ["k"], "greater than or equal to 1"),
        ({"k": 5000}, ["k"], "as many as items.parquet has"),
        ({"exclude": "nowhere"}, ["exclude"], "nowhere"),
        ({"users": [{"user": "u1", "history": ["i1"]}, {"user": {}, "history": []}]}, ["users", 1, "user"], "a text"),
    ],
)
def test_wrong_requests_for_items(items: Service, body: dict[str, Any], place: list[Any], words: str) -> None:
    users = json.loads(retrieval.people([3]).to_json(orient="records"))
    status, answer = items.post("/recommend", **{"users": users, "k": 5, **body})
    assert status == 422, answer
    assert answer["detail"][0]["loc"] == ["body", *place]
    assert words in answer["detail"][0]["msg"]


def test_items_need_neither_torch_nor_ray(items: Service) -> None:
    maps, memory = loaded(items.process)
    for library in ("libtorch", "_raylet"):
        assert library not in maps
    assert memory < 400
