"""Models that are called as Torch-RecHub's: with padded ids, for the scores of all items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.errors import DataError
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.models.sequential.base import SequentialRetriever


class Scores:
    """A model's `forward` that takes the columns of a user's lists, too, and then returns scores of all ids.

    Args:
        model: of retrieval, whose only features are the items' ids and users' lists of them.
        history: the list of ids, in which 0 is nothing.
        others: what stands behind it in a call without names; the model need not read it.
    """

    def __init__(self, model: Retriever, history: str, *others: str) -> None:
        self._model, self._history, self._names = model, history, (history, *others)
        self._forward: Callable[..., Any] = model.forward

    def __call__(self, features: Any, *others: Any, **named: Any) -> Any:
        """Return what the model returns for `Features`, and otherwise scores.

        Args:
            features: `Features`; or the lists by name, (B, T) each; or those of the history, and `others` the others'.
            others: see above; for `Features` what the model's own `forward` takes.
            named: likewise.

        Shapes:
            (B, V); of models of sequences (B, T, V), of each position what comes next.

        Raises:
            DataError: a list is missing or too many, they differ in shape, or an id is not below V.
        """
        if isinstance(features, Features):
            return self._forward(features, *others, **named)
        device = next(self._model.parameters()).device
        columns = self._columns(features, others, device)
        is_there = self._is_there(columns[self._history])
        users, items = self._rows(columns, is_there), self._items(device)
        if not isinstance(self._model, SequentialRetriever):
            return self._model.user_vectors(users) @ items.T
        places = torch.arange(int(is_there.sum()), device=device)
        vectors = items.new_zeros(*is_there.shape, items.shape[1])
        vectors[is_there] = self._model.scaled(self._model.position_vectors(users, places))
        return vectors @ items.T

    def _columns(self, features: Any, others: tuple[Any, ...], device: torch.device) -> dict[str, Tensor]:
        """Return the lists by name, (B, T) int64 each."""
        lists = [feature.name for feature in self._model.user_schema.sequences]
        if not isinstance(features, Mapping):
            given = (features, *others)
            if not len(lists) <= len(given) <= len(self._names):
                expected = f"{', '.join(lists)}, in this order"
                raise DataError("the model reads lists", expected=expected, got=f"{len(given)} tensors")
            features = dict(zip(self._names, given, strict=False))
        if missing := [name for name in lists if name not in features]:
            raise DataError(f"the model reads {', '.join(map(repr, missing))}", expected=lists, got=[*features])
        columns = {name: torch.as_tensor(features[name], device=device) for name in lists}
        shapes = {name: tuple(column.shape) for name, column in columns.items()}
        if len(set(shapes.values())) > 1 or len(shapes[self._history]) != 2:
            raise DataError("lists of one shape", expected="(B, T), padded with 0", got=shapes)
        known, ids = self._model.item_schema.sparse[0].vocab_size, columns[self._history]
        wrong = ids[(ids != ids.long()) | (ids < 0) | (ids >= known)]
        if wrong.numel():
            raise DataError(f"ids in '{self._history}'", expected=f"0 to {known - 1:,}", got=wrong[:5].tolist())
        return {name: column.round().long() for name, column in columns.items()}  # seconds, as `SeqTrainer` reads them

    def _is_there(self, ids: Tensor) -> Tensor:
        """Return which ids are read, (B, T): those that are no padding, the last ones where there are too many."""
        [own] = [feature for feature in self._model.user_schema.sequences if feature.name == self._history]
        present = ids != 0
        return present & (present.flip(1).cumsum(1).flip(1) <= own.max_length)

    def _rows(self, columns: Mapping[str, Tensor], is_there: Tensor) -> Features:
        rows, device = len(is_there), is_there.device
        lengths = is_there.sum(1).repeat(len(columns))
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        values = torch.cat([column.clamp_min(0)[is_there] for column in columns.values()])
        sparse = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        return Features(sparse, torch.zeros(rows, 0, device=device), RaggedSequences(values, offsets))

    def _items(self, device: torch.device) -> Tensor:
        """Return the vectors of all ids, (V, D)."""
        ids = torch.arange(self._model.item_schema.sparse[0].vocab_size, device=device)
        return self._model.item_vectors(Features(ids.unsqueeze(1), torch.zeros(len(ids), 0, device=device)))


def callable_on_lists(model: Model, history: str, *others: str) -> None:
    """Let the model be called with padded lists of ids; see `Scores`."""
    assert isinstance(model, Retriever)
    model.__dict__["forward"] = Scores(model, history, *others)
