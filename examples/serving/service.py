"""Exported models over HTTP: raw rows as JSON in, predictions or items out. No PyTorch and no Ray in its process.

    pip install 'rechub_ray[serving]'
    rechub-ray export RUN --inputs raw           # a model for retrieval has its files in RUN/serving already
    python examples/serving/service.py RUN       # or the files alone: model_raw.onnx, copy/of/serving

Rows are objects with the columns that `GET /health` lists, null where there is no value; more columns are left out.

    curl localhost:8000/predict -H 'content-type: application/json' -d '{"rows": [{"user": 7, "price": 2.5}]}'
    curl localhost:8000/recommend -H 'content-type: application/json' -d '{"users": [{"history": ["a"]}], "k": 10}'

A wrong value is answered with status 422, its row and column, and what was expected; more than `--max-rows` rows too; a
body of more than `--max-bytes` bytes with 413; more than `--max-requests` at a time with 503. On SIGTERM the service
answers what it has begun, and ends. It computes on one core: start several for more, each on a port of its own.
"""

import argparse
import contextlib
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

ABSENT = "\N{REPLACEMENT CHARACTER} no value of any data"  # stands for a missing element of a list
MOST_ERRORS, MOST_USERS = 20, 32  # more users of a request are compared with the items by PyTorch
Row = dict[str, Any]


def as_text(value: Any) -> str:
    """Return a value as a log has it: whole numbers without `.0`, `true` and `false`, empty where it is missing."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    raise ValueError("a text, a number, true, false or null")


def as_number(value: Any) -> float:
    """Return a number, NaN where it is missing."""
    with contextlib.suppress(ValueError, OverflowError):
        if value is None or value == "":
            return math.nan
        if isinstance(value, bool | int | float | str) and math.isfinite(number := float(value)):
            return number
    raise ValueError("a number or null")


def as_list(value: Any, one: Callable[[Any], Any], what: str) -> list[Any]:
    """Return a list, empty where it is missing."""
    if value is None:
        return []
    if isinstance(value, list):
        with contextlib.suppress(ValueError):
            return [one(element) for element in value]
    raise ValueError(f"a list of {what}, or null")


class Input:
    """An input of the ONNX file, as the file's metadata describe it."""

    def __init__(self, port: dict[str, Any]) -> None:
        self.name, self.column, self.form, self.shape = port["name"], port["column"], port["form"], port["shape"]
        self._absent = "" if port["missing"] == "''" else ABSENT
        self._longest = max((about.get("max_length", 1) for about in port["features"]), default=1)
        size = self.shape[1] if self.form == "numbers" else ""
        words = {
            "text": "a text",
            "number": "a number",
            "list": "a list of texts",
            "numbers": f"a list of {size} numbers",
        }
        self.expects = f"{words[self.form]}, or null"

    def value(self, value: Any) -> Any:
        """Return a row's value as the file takes it; raise ValueError with what was expected."""
        if self.form == "text":
            return as_text(value)
        if self.form == "number":
            return as_number(value)
        if self.form == "numbers":
            numbers = as_list(value, as_number, "numbers")
            if value is not None and len(numbers) != self.shape[1]:
                raise ValueError(self.expects)
            return numbers or [math.nan] * self.shape[1]
        texts = as_list(value, as_text, "texts")[-self._longest :]  # the file reads the last ones
        if texts and texts[-1] == "" and self._absent == "":
            raise ValueError("a list of texts that does not end with a missing one")
        return [text or self._absent for text in texts]

    def array(self, values: list[Any]) -> Any:
        """Return the values of all rows."""
        if self.form == "list":
            longest = max(1, *map(len, values))
            values = [[*texts, *[""] * (longest - len(texts))] for texts in values]
        return np.array(values, object if self.form in ("text", "list") else np.float64)


class Scorer:
    """A model of raw values: rows in, predictions out."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ports = json.loads(self._session.get_modelmeta().custom_metadata_map.get("rechub_ray.inputs", "[]"))
        if not ports or "form" not in ports[0]:
            sys.exit(f"{path} takes no raw values: rechub-ray export RUN --inputs raw")
        self._inputs = [Input(port) for port in ports]
        self.outputs = [output.name for output in self._session.get_outputs()]
        self.columns = {
            each.column: each.expects for each in sorted(self._inputs, key=lambda each: each.form == "number")
        }

    def predict(self, rows: list[Row]) -> list[Row]:
        """Return the outputs of each row; raise HTTPException with all that is wrong with them."""
        inputs, wrong = {}, []
        for each in self._inputs:
            values = []
            for number, row in enumerate(rows):
                try:
                    if each.column not in row:
                        raise ValueError(f"{each.expects}; the column is missing")
                    values.append(each.value(row[each.column]))
                except ValueError as error:
                    wrong.append(problem(["rows", number, each.column], f"expected {error}", row.get(each.column)))
            inputs[each.name] = values
        if wrong:
            raise HTTPException(422, sorted(wrong, key=lambda one: one["loc"][2])[:MOST_ERRORS])
        found = self._session.run(None, {each.name: each.array(inputs[each.name]) for each in self._inputs})
        return [dict(zip(self.outputs, row, strict=True)) for row in zip(*(a.tolist() for a in found), strict=True)]


class Items:
    """The files of a model for retrieval: users in, items out."""

    def __init__(self, path: Path) -> None:
        from rechub_ray import Recommender

        self._recommender = Recommender(path)

    def recommend(self, users: list[Row], k: int, exclude: str | None) -> list[Row]:
        """Return the items and scores of each user; raise HTTPException with what is wrong."""
        import pyarrow as pa

        from rechub_ray import RechubError

        columns = {}
        for name in dict.fromkeys(name for row in users for name in row):
            values, is_list = [row.get(name) for row in users], any(isinstance(row.get(name), list) for row in users)
            made = []
            for number, value in enumerate(values):
                try:
                    made.append(as_list(value, as_text, "texts") if is_list else as_text(value) or None)
                except ValueError as error:
                    raise HTTPException(422, [problem(["users", number, name], f"expected {error}", value)]) from None
            columns[name] = pa.array(made, pa.list_(pa.string()) if is_list else pa.string())
        try:
            found = self._recommender.recommend(pa.table(columns), k, exclude=exclude)
        except RechubError as error:
            argument = next((name for name in ("k", "exclude") if error.message.startswith(f"'{name}'")), "users")
            row = re.search(r"row (\d+)", error.message)
            place = [argument, *([int(row[1]) - 1] if row is not None and argument == "users" else [])]
            raise HTTPException(422, [problem(place, str(error))]) from None
        return [
            {"user": int(place), "items": list(items), "scores": [float(score) for score in scores]}
            for place, items, scores in zip(found.index, found["items"], found["scores"], strict=True)
        ]


def problem(place: list[Any], text: str, value: Any = None) -> dict[str, Any]:
    """Return what is wrong, and where, as FastAPI says it."""
    return {"type": "value_error", "loc": ["body", *place], "msg": text, "input": repr(value)[:100]}


class Bounded:
    """Refuses bodies of too many bytes, whether they say their length or not."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        seen = 0

        async def bounded() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, f"a body of more than {self._most:,} bytes")
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


def make_app(path: Path, *, max_rows: int = 1024, max_bytes: int = 1 << 24, threads: int = 1) -> FastAPI:
    """Return the service of a run's folder, or of files that `export` wrote.

    Args:
        path: a run's folder, a file `model_raw.onnx`, or a folder `serving`.
        max_rows: rows of a request.
        max_bytes: bytes of a request's body.
        threads: of a prediction; requests are answered one after the other.
    """
    file = path if path.suffix == ".onnx" else path / "model_raw.onnx"
    scorer = Scorer(file, threads) if file.is_file() else None
    places = [place for place in (path, path / "serving") if (place / "serving.json").is_file()]
    items = Items(places[0]) if places and scorer is None else None
    if scorer is None and items is None:
        sys.exit(f"{path} has no model_raw.onnx and no serving/: rechub-ray export RUN --inputs raw")
    app = FastAPI(title="rechub_ray", docs_url="/docs", redoc_url=None)
    app.add_middleware(Bounded, most=max_bytes)

    class Rows(BaseModel):
        rows: Annotated[list[Row], Field(min_length=1, max_length=max_rows)]

    class Users(BaseModel):
        users: Annotated[list[Row], Field(min_length=1, max_length=min(max_rows, MOST_USERS))]
        k: Annotated[int, Field(ge=1, strict=True)] = 10
        exclude: str | None = None

    @app.get("/health")
    async def health() -> Any:
        about = {} if scorer is None else {"columns": scorer.columns, "outputs": scorer.outputs}
        return {"status": "ok", "path": str(path), "max_rows": max_rows, **about}

    # in the loop's own thread: on one core, handing each request to another thread costs more than small ones take
    if scorer is not None:

        @app.post("/predict")
        async def predict(body: Rows) -> JSONResponse:
            return JSONResponse({"predictions": scorer.predict(body.rows)})

    if items is not None:

        @app.post("/recommend")
        async def recommend(body: Users) -> JSONResponse:
            return JSONResponse({"recommendations": items.recommend(body.users, body.k, body.exclude)})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, help="a run's folder, model_raw.onnx, or a folder serving")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-rows", type=int, default=1024, help="of a request; default: 1024")
    parser.add_argument("--max-bytes", type=int, default=1 << 24, help="of a request's body; default: 16 MiB")
    parser.add_argument("--max-requests", type=int, default=256, help="at a time; default: 256")
    parser.add_argument("--threads", type=int, default=1, help="of a prediction; default: 1")
    given = parser.parse_args()
    app = make_app(given.path, max_rows=given.max_rows, max_bytes=given.max_bytes, threads=given.threads)
    uvicorn.run(
        app,
        host=given.host,
        port=given.port,
        access_log=False,
        limit_concurrency=given.max_requests,
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()
