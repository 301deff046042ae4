"""One tower a label, on top of a multi-task model's shared layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rechub_ray.batch import Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP
from rechub_ray.outputs import Output, OutputKind, ZeroInflatedLogNormal, default_head
from rechub_ray.schema import Label, Schema


def tower_key(label: str, beside: nn.Module | None = None) -> str:
    """Return the name of a label's tower among `beside`, or among no others."""
    taken = nn.ModuleDict() if beside is None else beside
    key = label.replace(".", "_")  # a module's name has no dots
    while hasattr(taken, key):  # nor may it be that of a method, such as `type`
        key += "_"
    return key


class Towers(nn.ModuleDict):
    """A multi-layer perceptron for each label that ends in the label's head: `towers.<label>.mlp`.

    The last layer's weights are drawn from `U(-1/sqrt(n), 1/sqrt(n))`, with n inputs.

    A model adds what else belongs to one label alone (its gate, its experts) to the label's tower, so that
    `towers.<label>.*` names all of a task's parameters, for optimizers and for balancing. Dots in a label's name become
    underscores, and a name that modules have already, such as `type`, gets one behind it.

    Args:
        schema: has the labels.
        input_dim: width of a tower's input.
        hidden_units: widths of a tower's hidden layers.
        heads: by label, `logit`, `value`, `classes` or `distribution`; a label that is left out takes that of its kind.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.

    Attributes:
        outputs: what the towers give, in the order of the labels; its name is its kind, with `/<label>` behind it where
            there are several labels.

    Raises:
        SchemaError: the schema has no label.
        ConfigError: an unknown label in `heads`, or a head that the label cannot have.
    """

    def __init__(
        self,
        schema: Schema,
        input_dim: int,
        hidden_units: Sequence[int],
        *,
        heads: Mapping[str, OutputKind] | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        schema.label()
        for name in heads or {}:
            if name not in [label.name for label in schema.labels]:
                raise ConfigError(
                    f"'model.heads': the schema has no label '{name}'",
                    hint=nearest(name, [label.name for label in schema.labels]),
                )
        kinds = [(heads or {}).get(label.name) or default_head(label) for label in schema.labels]
        several = len(schema.labels) > 1
        self.outputs = tuple(
            Output(f"{kind}/{label.name}" if several else kind, kind, label.name)
            for label, kind in zip(schema.labels, kinds, strict=True)
        )
        for label, kind in zip(schema.labels, kinds, strict=True):
            mlp = MLP(
                input_dim,
                hidden_units,
                output_dim=_width(label, kind),
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            # the normal weights of `Linear` are large for a narrow tower (0.5 with 8 units): first predictions are then
            # far off, and on one seed in four a task of Census-Income did not recover from unlearning them
            last = mlp[-1]
            assert isinstance(last, Linear)
            nn.init.uniform_(last.weight, -(last.in_features**-0.5), last.in_features**-0.5)
            self[tower_key(label.name, self)] = nn.ModuleDict({"mlp": mlp})

    @property
    def each(self) -> list[nn.ModuleDict]:
        """The labels' towers, in the order of the labels."""
        return [tower for tower in self.values() if isinstance(tower, nn.ModuleDict)]

    def forward(self, inputs: Sequence[Tensor]) -> Outputs:
        """Return each tower's output of its input.

        Args:
            inputs: one a label.

        Shapes:
            (B, input_dim) each -> (B,), (B, C) of classes, or (B, 3) of a distribution
        """
        result = {}
        for output, tower, x in zip(self.outputs, self.each, inputs, strict=True):
            value = tower["mlp"](x)
            result[output.name] = value.squeeze(1) if output.kind in ("logit", "value") else value
        return result


def _width(label: Label, kind: OutputKind) -> int:
    if kind in ("logit", "value") and label.kind != "multiclass":
        return 1
    if kind == "distribution" and label.kind == "regression":
        return ZeroInflatedLogNormal.width
    if kind == "classes" and label.kind != "regression":
        return label.num_classes or 2
    raise ConfigError(f"'model.heads': label '{label.name}' of kind {label.kind} cannot have a head of kind {kind}")
