"""Any `torch.nn.Module` as a model, by the dotted name of its class or of a function that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rechub_ray import schema as house
from rechub_ray.batch import Features, Outputs, PaddedSequences
from rechub_ray.errors import ConfigError, RechubError
from rechub_ray.models.base import MODELS, Model
from rechub_ray.outputs import Output
from rechub_ray.registry import borrowed_arguments, keyword_class
from rechub_ray.schema import DenseFeature, Label, PositiveInt, Schema, SequenceFeature, SparseFeature

LABEL = "label"  # of a schema that the module's own features make
_MAX_LENGTH = 512  # of its sequences, whose features do not say it
_FEATURES = ("SparseFeature", "SequenceFeature", "DenseFeature")  # Torch-RecHub's classes


class Foreign(Model):
    """A module that takes a dictionary of tensors by feature and gives a number a row.

    The module is what the adopted class or function gives for its own arguments, and for `schema=` where it has an
    argument of that name. It gets int64 (B,) of a sparse feature, int64 (B, T) of a sequence, padded on the right, and
    float32 (B,) or (B, dim) of a numeric one, and gives (B,) or (B, 1). Optimizers of rows do not know its embeddings.
    What Torch-RecHub's feature objects keep of a module is taken away from them, so that two modules of one list of
    features share nothing.

    Args:
        schema: the features.
        returns: what the module gives: a `probability` (of Torch-RecHub's models), or a `logit`.
        own_loss: whether it gives (prediction, a loss of its own), which is added to what is minimised, the
            `loss_mode=False` of Torch-RecHub.
        padding: the id in the empty places of a sequence, where the module's features have no `padding_idx`.
        sequence_length: T: of longer sequences the last ids count. None takes the longest of the batch, at least 1.

    Attributes:
        module: the module.
        padding: the id in empty places, by sequence.

    Raises:
        ConfigError: the module cannot be made, or gives something else.
    """

    make: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        schema: Schema,
        *,
        returns: Literal["probability", "logit"] = "probability",
        own_loss: bool = False,
        padding: int = 0,
        sequence_length: PositiveInt | None = None,
    ) -> None:
        super().__init__(schema)
        self.returns, self.own_loss, self.sequence_length = returns, own_loss, sequence_length
        self.outputs = (Output("logit"), Output("own_loss", "loss")) if own_loss else (Output("logit"),)
        self.padding = {feature.name: padding for feature in schema.sequences}
        self._is_checked = False

    def take(self, arguments: dict[str, Any]) -> None:
        """Make the module."""
        if _takes_schema(self.make):
            arguments = {**arguments, "schema": self.schema}
        self.module = _made(self.make, arguments)
        for feature in _features_of(self.module):
            if feature.name in self.padding and getattr(feature, "padding_idx", None) is not None:
                self.padding[feature.name] = feature.padding_idx

    def forward(self, features: Features) -> Outputs:
        found = self.module(self.columns(features))
        own = None
        if self.own_loss and isinstance(found, tuple) and len(found) == 2:
            found, own = found
        if not torch.compiler.is_compiling():
            self._check(found, own, features.rows)
        logit = found.reshape(-1).float()
        if self.returns == "probability":
            least = torch.finfo(torch.float32).eps
            logit = torch.logit(logit.clamp(least, 1 - least))
        outputs = {"logit": logit}
        if self.own_loss:
            outputs["own_loss"] = torch.as_tensor(own, dtype=torch.float32, device=logit.device).mean()
        return outputs

    def columns(self, features: Features) -> dict[str, Tensor]:
        """Return the features as the module takes them."""
        found = dict(zip((f.name for f in self.schema.sparse), features.sparse.unbind(1), strict=True))
        widths = [feature.dim for feature in self.schema.dense]
        if widths:
            for feature, values in zip(self.schema.dense, torch.split(features.dense, widths, 1), strict=True):
                found[feature.name] = values.squeeze(1) if feature.dim == 1 else values
        for at, sequence in enumerate(self.schema.sequences):
            found[sequence.name] = self._rectangle(features, at, self.padding[sequence.name])
        return found

    def _rectangle(self, features: Features, at: int, padding: int) -> Tensor:
        first: Tensor | int
        sequences = features.sequences
        assert sequences is not None
        if isinstance(sequences, PaddedSequences):
            ids = sequences.ids[at]
            if self.sequence_length is None:
                return torch.where(ids < 0, padding, ids)
            lengths, first, last = (ids >= 0).sum(1), 0, ids.shape[1] - 1
        else:
            rows = features.rows
            offsets = sequences.offsets[at * rows : (at + 1) * rows + 1]
            lengths, first, last = offsets.diff(), offsets[:-1].unsqueeze(1), sequences.values.shape[0] - 1
            if last < 0:
                return offsets.new_full((rows, self.sequence_length or 1), padding)
        width = self.sequence_length or max(1, int(lengths.max()))
        place = torch.arange(width, device=lengths.device) + (lengths - width).clamp(min=0).unsqueeze(1)
        index = (first + place).clamp(max=last)
        taken = ids.gather(1, index) if isinstance(sequences, PaddedSequences) else sequences.values[index]
        return torch.where(place < lengths.unsqueeze(1), taken, padding)

    def _check(self, found: Any, own: Any, rows: int) -> None:
        """Refuse what is no number a row, and what the first batch shows to be no probabilities."""
        if (
            not isinstance(found, Tensor)
            or found.shape not in ((rows,), (rows, 1))
            or self.own_loss != (own is not None)
        ):
            raise self._refusal(found)
        if self._is_checked or self.returns == "logit" or not rows:
            return
        self._is_checked = True
        low, high = float(found.detach().min()), float(found.detach().max())
        if low < 0 or high > 1:
            raise ConfigError(
                f"model '{self.registered_name}' gives no probabilities",
                expected="numbers in [0, 1], or model.returns=logit",
                got=f"{low:.4g} to {high:.4g}",
            )

    def _refusal(self, found: Any) -> ConfigError:
        wanted = "one number a row"
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return ConfigError(
            f"model '{self.registered_name}' gives something else than it should",
            expected=f"(prediction, loss), with {wanted} in the prediction" if self.own_loss else wanted,
            got=str(given),
            hint="A module that gives (prediction, loss) needs model.own_loss=true."
            if isinstance(found, tuple) and not self.own_loss
            else None,
        )


@MODELS.adopt_with
def adopt(make: Any) -> type[Model] | None:
    """Return a class that makes models of what a class or function makes; None where that is no module.

    Raises:
        ConfigError: it takes arguments that no text can give.
    """
    if isinstance(make, type):
        if not issubclass(make, nn.Module) or inspect.isabstract(make):
            return None
        if issubclass(make, Model):
            return make
    arguments = borrowed_arguments(make, skip=("schema",))

    def init(self: Any, schema: Schema, /, **given: Any) -> None:
        own = {key: given.pop(key) for key in arguments if key in given}
        Foreign.__init__(self, schema, **given)
        self.take(own)

    adopted = keyword_class(Foreign, init, arguments, common=True)
    adopted.make = staticmethod(make)
    return adopted


def adapted(make: Callable[..., nn.Module], schema: Schema | None = None, **arguments: Any) -> Model:
    """Return a model of any module, for trainers and for what else takes a model.

    In YAML, `make` is the model's name: `model: {name: my_models.build, dims: [64, 32]}`.

    Args:
        make: a class of modules, or a function that returns one. It is called again wherever the model is built, so it
            stands in a module of its own (in a script or notebook it trains in this process alone).
        schema: the features and the label; None takes Torch-RecHub's features of the module, and the label `label`.
        arguments: of `make`, and `returns`, `own_loss`, `padding`, `sequence_length` of `Foreign`.

    Raises:
        ConfigError: `make` has no name to be found by, the module cannot be made, or it has no features.

    Example:
        >>> model = adapted(build, own_loss=True)  # doctest: +SKIP
        >>> CTRTrainer(model, n_epoch=2, loss_mode=False).fit(train_loader, val_loader)  # doctest: +SKIP
    """
    name = f"{make.__module__}.{make.__qualname__}"
    if "<" in name:
        raise ConfigError(
            "'make' has no name by which it is found again", expected="a class or function of a module", got=name
        )
    if schema is None:
        own = {key: value for key, value in arguments.items() if key in borrowed_arguments(make)}
        schema = _schema_of(_made(make, own), name)
    return MODELS.build({"name": name, **arguments}, schema, where="model")


def _takes_schema(make: Callable[..., Any]) -> bool:
    return "schema" in inspect.signature(make).parameters


def _made(make: Callable[..., Any], arguments: dict[str, Any]) -> nn.Module:
    name = f"{make.__module__}.{make.__qualname__}"
    try:
        try:
            module = make(**arguments)
        except (NotImplementedError, RuntimeError):
            if torch.get_default_device().type != "meta":
                raise
            with torch.device("cpu"):  # a constructor that reads what it has initialised
                module = make(**arguments).to("meta")
    except RechubError:
        raise
    except Exception as error:
        raise ConfigError(f"'model': {name} fails", got=f"{type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"'model': {name} makes no module", expected="a torch.nn.Module", got=type(module).__name__)
    for feature in _features_of(module):
        vars(feature).pop("embed", None)  # the table, which the next module of this feature would share
    return module


def _features_of(module: nn.Module) -> Iterator[Any]:
    """Yield the objects of Torch-RecHub's feature classes that a module holds in lists."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, list | tuple):
                yield from (item for item in value if type(item).__name__ in _FEATURES and hasattr(item, "name"))


def _schema_of(module: nn.Module, name: str) -> Schema:
    by_name = {feature.name: feature for feature in _features_of(module)}
    if not by_name:
        raise ConfigError(
            f"'schema': {name} makes a module without features of Torch-RecHub", expected="schema=Schema(...)"
        )
    features: list[house.Feature] = []
    for feature in by_name.values():
        if not hasattr(feature, "vocab_size"):
            features.append(DenseFeature(feature.name, dim=feature.embed_dim))
            continue
        size = by_name.get(feature.shared_with, feature).vocab_size
        if hasattr(feature, "pooling"):
            pooling: Literal["mean", "sum"] = "sum" if feature.pooling == "sum" else "mean"
            features.append(SequenceFeature(feature.name, size, max_length=_MAX_LENGTH, pooling=pooling))
        else:
            features.append(SparseFeature(feature.name, size))
    return Schema(tuple(features), (Label(LABEL),))
