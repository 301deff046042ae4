"""Labels of every kind: several, optional ones, classes, none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import DataError
from rechub_ray.preparation import Recipe, prepare
from rechub_ray.schema import Label, Schema

RAW = "x,click,pay,stars,fold\n1,1,2.5,0,a\n2,0,,2,a\n3,1,0,,a\n4,0,,1,b\n"
FEATURES = [{"kind": "numeric", "name": "x"}]
SPLIT = {"by": "column", "column": "fold", "values": {"train": "a", "test": "b"}}
LABELS = [
    {"name": "click"},
    {"name": "pay", "kind": "regression", "optional": True},
    {"name": "stars", "kind": "multiclass", "optional": True},
]


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = lab.recipe(files="train.csv", split=SPLIT, features=FEATURES, labels=LABELS)
    return {**result, **changes}


def test_several_labels_with_missing_values_and_classes_counted_from_training(lab: Any) -> None:
    lab.write(train__csv=RAW)
    result = prepare(node(lab))
    assert result.schema.labels == (
        Label("click", expression="click"),
        Label("pay", "regression", optional=True, expression="pay"),
        Label("stars", "multiclass", optional=True, num_classes=3, expression="stars"),
    )
    assert Schema.load(Path(result.out) / "schema.json") == result.schema
    assert lab.split(result.out) == {"x": [1, 2, 3], "click": [1, 0, 1], "pay": [2.5, None, 0], "stars": [0, 2, None]}
    assert {str(field.type) for field in pq.read_schema(Path(result.out) / "train" / "part-00000.parquet")} == {"float"}
    pay = result.stats["splits"]["train"]["labels"]["pay"]
    assert (pay["nulls"], pay["mean"], pay["max"]) == (1, 1.25, 2.5)
    assert result.stats["notes"] == [
        "label 'click' is always 0 in test: AUC is not defined there",
        "label 'pay' has no value in test",
        "label 'stars' is always 1 in test: AUC is not defined there",
        "label 'stars': class 1 does not occur in the training split",
    ]
    assert Recipe.load(Path(result.out) / "recipe.json").labels == Recipe.from_dict(node(lab)).labels


def test_no_labels_at_all(lab: Any) -> None:
    lab.write(train__csv=RAW)
    result = prepare(node(lab, labels=[]))
    assert result.schema.labels == ()
    assert lab.split(result.out) == {"x": [1, 2, 3]}


def test_an_optional_label_of_an_expression(lab: Any) -> None:
    lab.write(train__csv=RAW)
    labels = [{"name": "rich", "expression": "pay > 1 and click == 1", "optional": True}]
    out = prepare(node(lab, labels=labels)).out
    assert lab.split(out)["rich"] == [1, 0, 0]
    labels = [{"name": "rich", "expression": "pay > 1", "optional": True}]
    assert lab.split(prepare(node(lab, labels=labels, overwrite=True)).out)["rich"] == [1, None, 0]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"name": "pay", "kind": "regression"}, ["row 3", "label 'pay' is null", "`optional: true`"]),
        ({"name": "stars", "kind": "multiclass", "num_classes": 2, "optional": True},
         ["row 3", "'stars' is 2.0", "a class from 0 to 1"]),
        ({"name": "pay", "kind": "multiclass", "optional": True}, ["row 2", "'pay' is 2.5", "expected a class from 0"]),
        ({"name": "y", "expression": "x - 3", "kind": "multiclass"}, ["row 2", "'y' is -2.0", "expected a class"]),
        ({"name": "y", "expression": "x - x", "kind": "multiclass"}, ["one class in the training split"]),
        ({"name": "y", "expression": "2 * click - 1"}, ["row 3", "'y' is -1", "expression: '2 * click - 1 > 0'"]),
        ({"name": "y", "expression": "x * 1e39", "kind": "regression"}, ["row 2", "past float32"]),
        ({"name": "x"}, ["row 3", "'x' is 2.0, expected 0 or 1"]),
    ],
)  # fmt: skip
def test_a_label_that_cannot_be_names_its_row(lab: Any, label: dict[str, Any], words: list[str]) -> None:
    lab.write(train__csv=RAW)
    features = [{"kind": "categorical", "name": "u", "column": "x"}]
    with pytest.raises(DataError) as caught:
        prepare(node(lab, labels=[label], features=features))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_class_that_training_does_not_have(lab: Any) -> None:
    lab.write(train__csv=RAW.replace("4,0,,1,b", "4,0,,7,b"))
    with pytest.raises(DataError, match=r"row 5: label 'stars' is 7\.0, expected a class from 0 to 2 \(num_classes\)"):
        prepare(node(lab))
    labels = [{**LABELS[2], "num_classes": 8}]
    assert lab.split(prepare(node(lab, labels=labels)).out, "test")["stars"] == [7]


@pytest.mark.parametrize(
    "column", [[True, False, True], ["True", "false", "TRUE"], [1.0, 0.0, 1.0], ["1", "0", "1.0"], [1, 0, 1]]
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_two_classes_in_any_form(lab: Any, form: str, column: list[Any]) -> None:
    frame = pa.table({"x": [1, 2, 3], "y": column}).to_pandas()
    path = lab.raw / f"a.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    out = prepare(lab.single(files=path.name, format={"type": form}, features=FEATURES)).out
    assert lab.split(out)["y"] == [1, 0, 1]
