"""Which output belongs to a label, and how it is served."""

from __future__ import annotations

import pytest
import torch

from rechub_ray.errors import ConfigError
from rechub_ray.outputs import Output, check_outputs, claim, label_of, output_of, predictions, served
from rechub_ray.schema import Label, Schema

ONE = Schema((), (Label("click"),))
TWO = Schema((), (Label("click"), Label("buy")))
KINDS = Schema((), (Label("click"), Label("price", "regression"), Label("stars", "multiclass", num_classes=3)))
OF_KINDS = (
    Output("a", "logit", "click"),
    Output("b", "value", "price"),
    Output("c", "classes", "stars"),
    Output("v", "vector", part="user"),
    Output("balance", "loss"),
)
ESMM = (Output("ctr", label="click"), Output("ctcvr", label="buy"), Output("cvr", label="buy"))


def test_an_output_without_a_label_is_the_first_labels() -> None:
    assert label_of(Output("logit"), TWO) == "click"
    assert output_of([Output("logit")], TWO, "buy") is None
    assert label_of(Output("v", "vector"), TWO) is None
    assert label_of(Output("balance", "loss"), TWO) is None
    assert label_of(Output("logit"), Schema((), ())) is None


def test_the_first_output_of_a_label_is_its_own() -> None:
    assert output_of(ESMM, TWO, "buy") == ESMM[1]
    assert claim(ESMM, TWO, output=None, label="buy", where="losses.0") == (ESMM[1], "buy")
    assert claim(ESMM, TWO, output="cvr", label=None, where="losses.0") == (ESMM[2], "buy")
    assert claim(ESMM, TWO, output=None, label=None, where="losses.0") == (ESMM[0], "click")


@pytest.mark.parametrize(
    ("output", "label", "message"),
    [
        ("ctr", "buy", r"'losses.0': output 'ctr' predicts label 'click', not 'buy'. Expected: output: ctcvr"),
        ("cvrr", None, r"'losses.0.output': the model has no output 'cvrr'. Did you mean 'cvr'"),
    ],
)
def test_names_that_do_not_fit_each_other_are_refused(output: str, label: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        claim(ESMM, TWO, output=output, label=label, where="losses.0")


def test_a_vector_or_a_loss_predicts_no_label() -> None:
    for name in ("v", "balance"):
        with pytest.raises(ConfigError, match=f"'{name}' predicts no label"):
            claim(OF_KINDS, KINDS, output=name, label=None, where="metrics.1")


def test_each_kind_is_served_through_its_link_and_losses_never() -> None:
    values = {
        "a": torch.tensor([0.0, 2.0]),
        "b": torch.tensor([3.0, -1.0]),
        "c": torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]),
        "v": torch.ones(2, 4),
        "balance": torch.tensor(7.0),
    }
    items = served(OF_KINDS, KINDS)
    assert [item.name for item in items] == ["probability/click", "value/price", "probabilities/stars", "v"]
    got = {item.name: item.of(values) for item in items}
    torch.testing.assert_close(got["probability/click"], torch.sigmoid(values["a"]))
    torch.testing.assert_close(got["value/price"], values["b"])
    torch.testing.assert_close(got["probabilities/stars"].sum(1), torch.ones(2))
    assert torch.equal(got["v"], values["v"])
    raw = served(OF_KINDS, KINDS, probabilities=False)
    assert [item.name for item in raw] == ["a", "b", "c", "v"]
    assert all(torch.equal(item.of(values), values[item.name]) for item in raw)


def test_two_classes_of_a_binary_label_are_served_as_one_probability_and_measured_as_its_log_odds() -> None:
    outputs = (Output("classes", "classes"),)
    values = {"classes": torch.tensor([[0.5, 1.5], [2.0, -1.0]])}
    (item,) = served(outputs, ONE)
    assert (item.name, item.columns) == ("probability", ())
    torch.testing.assert_close(item.of(values), values["classes"].softmax(1)[:, 1])
    assert predictions(outputs, ONE)["click"].score(values).tolist() == [1.0, -3.0]
    assert predictions(outputs, ONE)["click"].no_rows(torch.device("cpu"))["classes"].shape == (0, 2)
    (raw,) = served(outputs, ONE, probabilities=False)
    assert (raw.name, raw.columns) == ("classes", (2,))
    assert torch.equal(raw.of(values), values["classes"])


def test_names_carry_the_label_where_the_model_predicts_several() -> None:
    assert [item.name for item in served([Output("logit")], ONE)] == ["probability"]
    assert [item.name for item in served([Output("logit")], TWO)] == ["probability"]
    assert [item.name for item in served(ESMM, TWO)] == ["probability/click", "probability/buy", "cvr"]


def test_a_loss_may_fix_another_link() -> None:
    (item,) = served([Output("logit")], ONE, {"click": "identity"})
    assert (item.name, item.of({"logit": torch.tensor([2.0])}).item()) == ("value", 2.0)
    score = predictions([Output("logit")], ONE, {"click": "sigmoid"})["click"].score({"logit": torch.tensor([2.0])})
    assert score.item() == 2.0  # metrics read the logit


@pytest.mark.parametrize(
    ("kind", "shape", "fits"),
    [
        ("logit", (4,), True),
        ("logit", (4, 1), False),
        ("logit", (3,), False),
        ("value", (4,), True),
        ("classes", (4, 3), True),
        ("classes", (4,), False),
        ("vector", (4, 8), True),
        ("vector", (4, 2, 8), True),
        ("vector", (4,), False),
        ("loss", (), True),
        ("loss", (4,), False),
    ],
)
def test_shapes_are_those_of_the_kind(kind: str, shape: tuple[int, ...], fits: bool) -> None:
    declared, given = (Output("x", kind),), {"x": torch.zeros(shape)}  # type: ignore[arg-type]
    if fits:
        check_outputs(declared, given, 4, model="m")
    else:
        with pytest.raises(ConfigError, match=f"output 'x' of kind {kind} has a wrong shape"):
            check_outputs(declared, given, 4, model="m")
