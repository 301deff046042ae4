"""A model's outputs: their kinds, the one rule for which label each belongs to, and how each is served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.schema import Label, LabelKind, Schema

OutputKind = Literal["logit", "value", "classes", "distribution", "vector", "loss"]


@dataclasses.dataclass(frozen=True)
class ZeroInflatedLogNormal:
    """The link of a `distribution` of three numbers (l, m, h) for a label that is 0 or log-normal: its expectation.

    The label is positive with probability sigmoid(l); then its logarithm has mean m and standard deviation sigma =
    softplus(h), kept in [sqrt(1e-7), max_sigma]. The expectation is `exp(log sigmoid(l) + m + sigma^2 / 2)`, with the
    exponent kept in [-100, 20].

    Args:
        max_sigma: largest sigma, > 0.

    Example:
        >>> float(ZeroInflatedLogNormal()(torch.tensor([20.0, 1.0, -20.0])).log())
        1.0
    """

    max_sigma: float = 5.0
    width: ClassVar[int] = 3

    def parameters(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return l, m and sigma.

        Shapes:
            value (B, 3) -> (B,) each
        """
        logit, mean, spread = value.unbind(-1)
        return logit, mean, F.softplus(spread).clamp(1e-7**0.5, self.max_sigma)

    def __call__(self, value: Tensor) -> Tensor:
        """Return the expectation.

        Shapes:
            value (B, 3) -> (B,)
        """
        logit, mean, sigma = self.parameters(value)
        return torch.exp((F.logsigmoid(logit) + mean + sigma.square() / 2).clamp(-100, 20))


Link: TypeAlias = Literal["sigmoid", "identity", "softmax", "two_class"] | ZeroInflatedLogNormal

SCORES: tuple[OutputKind, ...] = ("logit", "value", "classes", "distribution")
"""The kinds that predict a label."""
PAIR = "pair"
"""The product of the vectors of a row's user and item, in evaluation; no output of a model."""

_DIMENSIONS: dict[OutputKind, tuple[int, ...]] = {
    "logit": (1,),
    "value": (1,),
    "classes": (2,),
    "distribution": (2,),
    "vector": (2, 3),
    "loss": (0,),
}
_LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "identity": lambda value: value,
    "softmax": lambda value: value.softmax(-1),
    "two_class": lambda value: torch.sigmoid(_log_odds(value)),
}
_OF_KIND: dict[LabelKind, tuple[OutputKind, Link]] = {
    "binary": ("logit", "sigmoid"),
    "regression": ("value", "identity"),
    "multiclass": ("classes", "softmax"),
}


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a model's `forward`.

    Args:
        name: the key in what `forward` returns.
        kind: `logit` (B,), before the sigmoid; `value` (B,), in the label's unit; `classes` (B, C), before the softmax;
            `distribution` (B, K), its parameters; `vector` (B, D) or (B, K, D); `loss`, a scalar mean over the batch,
            added to what is minimised and never served.
        label: the label that it predicts; None is the schema's first one.
        part: the tower that a vector belongs to.
        per: what an entry of the first dimension stands for: a row of the batch, or a position of its sequences.
        is_unit: whether a vector has length 1, so that a product of two is a cosine.
        attention_power: of several vectors a row, p: losses read their mean by `towards`, weighted by how much each
            suits the row's own item; None reads the one that suits it best.
    """

    name: str
    kind: OutputKind = "logit"
    label: str | None = None
    part: Literal["user", "item"] | None = None
    per: Literal["row", "position"] = "row"
    is_unit: bool = False
    attention_power: float | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A label's output and how it is read.

    Args:
        output: the model's output.
        label: the label that it predicts.
        link: from the output to what is served: `sigmoid` (a probability), `identity`, `softmax` (one a class),
            `two_class` (the probability of the second of two classes), or a distribution's expectation.
    """

    output: Output
    label: Label
    link: Link

    def score(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return what metrics read: the logit of a binary label, the value of a regression label, logits of classes.

        Shapes:
            (B,), or (B, C) of a multiclass label.
        """
        value = outputs[self.output.name]
        if self.link == "two_class":
            return _log_odds(value)
        return self.served(value) if self.label.kind == "regression" else value

    def served(self, value: Tensor) -> Tensor:
        """Return the output as it is served: through its link."""
        return _through(self.link, value)

    def no_rows(self, device: torch.device) -> dict[str, Tensor]:
        """Return this output of a batch without rows."""
        width: tuple[int, ...] = (self.label.num_classes or 2,) if self.output.kind == "classes" else ()
        if self.output.kind == "distribution":
            width = (ZeroInflatedLogNormal.width,)
        return {self.output.name: torch.zeros((0, *width), device=device)}


@dataclasses.dataclass(frozen=True)
class Served:
    """An output as users get it.

    Args:
        source: the model's output.
        name: as it is served.
        link: applied to it; None leaves it.
        meaning: describes the values, for people.
        columns: free dimensions behind the rows.
    """

    source: Output
    name: str
    link: Link | None
    meaning: str
    columns: tuple[str | int, ...] = ()

    def of(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return this output from those that the model gave, through its link."""
        value = outputs[self.source.name]
        return value if self.link is None else _through(self.link, value)


def label_of(output: Output, schema: Schema) -> str | None:
    """Return the label that an output predicts; None for vectors and losses, and where there is no label."""
    if output.kind not in SCORES or not schema.labels:
        return None
    return schema.label(output.label).name


def output_of(outputs: Sequence[Output], schema: Schema, label: str) -> Output | None:
    """Return the output of a label: the first one that predicts it."""
    return next((output for output in outputs if label_of(output, schema) == label), None)


def find(outputs: Sequence[Output], name: str, *, where: str) -> Output:
    """Return the output called `name`.

    Raises:
        ConfigError: there is none; suggests the nearest name.
    """
    for output in outputs:
        if output.name == name:
            return output
    known = [output.name for output in outputs]
    raise ConfigError(f"'{where}': the model has no output '{name}'", hint=nearest(name, known))


def claim(
    outputs: Sequence[Output], schema: Schema, *, output: str | None, label: str | None, where: str
) -> tuple[Output, str]:
    """Return the output and the label that a loss or metric means by the names it was given.

    Args:
        outputs: the model's.
        schema: has the labels.
        output: name of an output; None takes the label's.
        label: name of a label; None takes the output's, or the schema's first.
        where: the component's place in the configuration, for messages.

    Raises:
        ConfigError: no such output or label, an output of another label, or a label that no output predicts.
    """
    if output is not None:
        found = find(outputs, output, where=f"{where}.output")
        own = label_of(found, schema)
        if own is None:
            raise ConfigError(f"'{where}.output': '{output}' predicts no label", got=f"an output of kind {found.kind}")
        if label is not None and schema.label(label).name != own:
            other = output_of(outputs, schema, label)
            raise ConfigError(
                f"'{where}': output '{output}' predicts label '{own}', not '{label}'",
                expected=f"output: {other.name}" if other else f"label: {own}",
            )
        return found, own
    name = schema.label(label).name
    found_or_none = output_of(outputs, schema, name)
    if found_or_none is None:
        raise ConfigError(
            f"'{where}': no output of the model predicts label '{name}'",
            got=", ".join(f"{o.name} ({label_of(o, schema) or o.kind})" for o in outputs) or "no output",
            hint=untrained_hint(schema, outputs),
        )
    return found_or_none, name


def untrained_hint(schema: Schema, outputs: Sequence[Output]) -> str:
    """Return what to do where a model does not predict all labels."""
    predicted = [label.name for label in schema.labels if output_of(outputs, schema, label.name) is not None]
    return (
        f"Leave the others out with data.labels={predicted}, or take a multi-task model, which has an output a label."
        if predicted
        else "The model predicts none of the labels."
    )


def default_head(label: Label) -> OutputKind:
    """Return the kind of output that predicts a label of this kind, unless its losses want another."""
    return _OF_KIND[label.kind][0]


def default_prediction(label: Label) -> Prediction:
    """Return how a label is read as long as no model says otherwise: from an output called `logit`."""
    kind, link = _OF_KIND[label.kind]
    return Prediction(Output("logit", kind, label.name), label, link)


def predictions(
    outputs: Sequence[Output], schema: Schema, links: Mapping[str, Link] | None = None
) -> dict[str, Prediction]:
    """Return for each label that the model predicts how its output is read.

    Args:
        outputs: the model's.
        schema: has the labels.
        links: by label, as the losses fix them; the others take that of the label's kind.
    """
    found = {}
    for label in schema.labels:
        output = output_of(outputs, schema, label.name)
        if output is not None:
            found[label.name] = Prediction(output, label, (links or {}).get(label.name, _default_link(output, label)))
    return found


def evaluated(
    outputs: Sequence[Output], schema: Schema, links: Mapping[str, Link] | None = None
) -> dict[str, Prediction]:
    """Return what metrics read of each label, as `predictions` does.

    Of a model that gives users and items vectors, a binary first label is read from the product of a row's two, which
    evaluation computes as output `PAIR`: it orders rows, and is no log-odds.
    """
    found, parts = predictions(outputs, schema, links), {output.part for output in outputs if output.kind == "vector"}
    for label in schema.labels[:1]:
        if label.kind == "binary" and label.name not in found and {"user", "item"} <= parts:
            found[label.name] = Prediction(Output(PAIR, "logit", label.name), label, "sigmoid")
    return found


def served(
    outputs: Sequence[Output], schema: Schema, links: Mapping[str, Link] | None = None, *, probabilities: bool = True
) -> tuple[Served, ...]:
    """Return a model's outputs as users get them, in the model's order; losses are left out.

    A binary label's output becomes `probability`, a regression label's `value`, a multiclass label's `probabilities`
    (one a class); where the model predicts several labels `probability/<label>` and so on. A second output of one
    label, and vectors, keep their names. Without `probabilities`, every output keeps its name and its values.

    Args:
        outputs: the model's.
        schema: has the labels.
        links: by label; see `predictions`.
        probabilities: whether links are applied.
    """
    main = predictions(outputs, schema, links)
    result = []
    for output in outputs:
        if output.kind == "loss":
            continue
        name = label_of(output, schema)
        if name is None:
            result.append(Served(output, output.name, None, f"the model's '{output.name}'", (f"{output.name}_dim",)))
            continue
        label = schema.label(name)
        classes = label.num_classes or (2 if label.kind == "binary" else "classes")
        columns: tuple[str | int, ...] = (classes,) if output.kind == "classes" else ()
        if not probabilities:
            result.append(Served(output, output.name, None, _raw_meaning(output, label), columns))
            continue
        link = main[name].link
        word, meaning = "value", f"predicted value of '{name}'"
        if link == "two_class":
            columns = ()
        if label.kind != "regression" and link in ("sigmoid", "two_class"):
            word, meaning = "probability", f"probability that '{name}' is 1"
        elif label.kind != "regression" and link == "softmax":
            word, meaning = "probabilities", f"probability of each class of '{name}'"
        served_name = f"{word}/{name}" if len(main) > 1 else word
        is_main = main[name].output == output
        result.append(Served(output, served_name if is_main else output.name, link, meaning, columns))
    return tuple(result)


def _default_link(output: Output, label: Label) -> Link:
    return "two_class" if label.kind == "binary" and output.kind == "classes" else _OF_KIND[label.kind][1]


def _log_odds(value: Tensor) -> Tensor:
    """Return the log-odds of the second of two classes, (B,), of their logits, (B, 2)."""
    return value[..., 1] - value[..., 0]


def _through(link: Link, value: Tensor) -> Tensor:
    return link(value) if isinstance(link, ZeroInflatedLogNormal) else _LINKS[link](value)


def _raw_meaning(output: Output, label: Label) -> str:
    if output.kind == "distribution":
        return f"parameters of the distribution of '{label.name}'"
    if output.kind == "classes":
        return f"logit of each class of '{label.name}'"
    if output.kind == "logit" and label.kind == "binary":
        return f"log-odds that '{label.name}' is 1"
    return f"the model's '{output.name}' for '{label.name}'"


def check_outputs(
    declared: Sequence[Output], given: Mapping[str, Tensor], rows: int, *, model: str, items: int | None = None
) -> None:
    """Check that a model gave the outputs that it declares.

    Args:
        declared: the model's `outputs`.
        given: what `forward` returned.
        rows: of the batch.
        model: its name, for messages.
        items: number of candidates, which the vectors of part `item` are of; None: they are of the rows.

    Raises:
        ConfigError: an output is missing, is not declared, or has another shape than its kind.
    """
    if set(given) != {output.name for output in declared}:
        raise ConfigError(
            f"model '{model}' does not give the outputs that it declares",
            expected=", ".join(output.name for output in declared),
            got=", ".join(given),
            hint="`outputs` of the model lists what forward returns, an Output(name, kind, label) each.",
        )
    for output in declared:
        value = given[output.name]
        has_rows = output.per == "row" and output.kind != "loss"
        count = items if items is not None and output.part == "item" else rows
        if value.dim() not in _DIMENSIONS[output.kind] or (has_rows and value.shape[0] != count):
            raise ConfigError(
                f"model '{model}': output '{output.name}' of kind {output.kind} has a wrong shape",
                expected=" or ".join(_shape(dims, count) for dims in _DIMENSIONS[output.kind]),
                got=str(tuple(value.shape)),
            )


def _shape(dimensions: int, rows: int) -> str:
    return str(("()", f"({rows},)", f"({rows}, D)", f"({rows}, K, D)")[dimensions])
