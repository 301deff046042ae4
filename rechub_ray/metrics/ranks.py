"""The base of metrics of a model for retrieval: of the ranks that rows' items have among all items."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.metrics.base import Direction, Metric, State
from rechub_ray.outputs import Output, Prediction
from rechub_ray.schema import PositiveInt, Schema


class Asked(NamedTuple):
    """What a metric of ranks reads.

    Args:
        exclude: the list of items that a ranking leaves out.
        candidates: the list of the only items that are ranked, or how many are drawn; None ranks all.
        seed: of what is drawn.
        top: how many of the first items are wanted beside the rank.
        temperature: of a cross-entropy among all items that is wanted beside the rank; None wants none.
    """

    exclude: str | None = None
    candidates: int | str | None = None
    seed: int = 0
    top: int = 0
    temperature: float | None = None


class RankMetric(Metric):
    """Base of metrics of ranks: a row's item is one of the first k of all items, or not.

    A rank, from 0 on, is the number of other items whose product with the user's vector is not smaller: an item that
    ties with others is behind them. A row whose item is not in the item table is a miss. Where there are labels, the
    rows count whose first label is above 0.

    Args:
        schema: has items.
        k: length of the list that a user gets, >= 1.
        exclude: a sequence feature of items, or what the schema's `items.exclude` names (`history.exclude` of the
            recipe): a user's are left out of the list. The row's own item stays in.
        per_group: whether the rows of a group (the schema's group column: a user) are one query that has all of their
            items for right answers, and queries are averaged; otherwise every row is a query of its own.
        candidates: ranks the row's item among a few, not among all: a number of them, drawn alike from all but what
            `exclude` names, or a list of `items.lists`, of which rows that have none do not count. Such numbers are
            larger, and order models otherwise than those of all items; the key says so (`_among_99_drawn`).
        seed: of what is drawn, >= 0; a row gets the same in every run.

    Raises:
        ConfigError: `exclude` or `candidates` is no such list, or there is no group column.

    Reference of `candidates`: Krichene and Rendle, On Sampled Metrics for Item Recommendation, KDD 2020.
    """

    mode: ClassVar[Direction | None] = "max"
    label_kinds = ()

    def __init__(
        self,
        schema: Schema,
        *,
        k: PositiveInt = 10,
        exclude: str | None = None,
        per_group: bool = False,
        candidates: PositiveInt | str | None = None,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        # not Metric's own constructor, which is about labels
        self.schema, self.k, self.exclude, self.per_group = schema, k, exclude, per_group
        self.candidates, self.seed = candidates, seed
        self.items = 0
        self.merging = {"total": "sum", "weight": "sum"}
        if per_group:
            self.merging = {"rank": "concat", "group": "concat", "weight": "concat"}
        if per_group and schema.group is None:
            called = f"{self.registered_name.removesuffix('_at_k')}@{k}"
            raise ConfigError(
                f"metric '{called}': 'per_group' needs a group column, and the schema has none",
                hint="Name one as 'group' in the recipe of `rechub-ray prepare`, or leave 'per_group' out.",
            )
        own = None if schema.items is None else schema.items.id
        lists = [f.name for f in schema.sequences if own in (f.name, f.shared_with)]
        if schema.items is not None and schema.items.exclude is not None:
            lists.append(schema.items.exclude)
        if exclude is not None and exclude not in lists:
            raise ConfigError(
                f"metric '{self.key}': 'exclude' is '{exclude}'",
                expected=f"lists of items: {', '.join(lists) or 'the schema has none'}",
                hint=nearest(exclude, lists) if lists else None,
            )
        given = () if schema.items is None else schema.items.lists
        if isinstance(candidates, str) and candidates not in given:
            raise ConfigError(
                f"metric '{self.key}': 'candidates' is '{candidates}'",
                expected=f"a number, or a list of items: {', '.join(given) or 'the schema has none'}",
                hint=nearest(candidates, given) if given else "`items.lists` of the recipe makes one.",
            )

    def bind(self, predictions: Mapping[str, Prediction], outputs: Sequence[Output], *, where: str) -> None:
        if {"user", "item"} - {output.part for output in outputs if output.kind == "vector"}:
            raise ConfigError(
                f"'{where}': metric '{self.key}' ranks items, and the model gives them no vectors",
                expected="a model for retrieval",
            )

    @property
    def reads(self) -> str:
        """The name of the ranks among what `update` gets."""
        return "/".join(["rank", *filter(None, (self.exclude, self._among))])

    @property
    def asked(self) -> Asked:
        """What it reads, in words."""
        return Asked(self.exclude, self.candidates, self.seed, self.top)

    @property
    def _among(self) -> str:
        if self.candidates is None or isinstance(self.candidates, str):
            return "" if self.candidates is None else f"_among_{self.candidates}"
        return f"_among_{self.candidates}_drawn" + (f"_seed_{self.seed}" if self.seed else "")

    @property
    def top(self) -> int:
        """How many of the first items it needs beside the ranks, as `<reads>/top`."""
        return 0

    def key_as(self, name: str) -> str:
        name = f"{name.removesuffix('_at_k')}@{self.k}"
        without = "" if self.exclude is None else f"_without_{self.exclude}"
        return f"{name}{self._among}{without}" + (f"_per_{self.schema.group}" if self.per_group else "")

    def add(self, outputs: Outputs, batch: Batch) -> State:
        return self.update(outputs, batch)

    @abc.abstractmethod
    def gain(self, rank: Tensor, place: Tensor, size: Tensor) -> Tensor:
        """Return what each right answer adds to the number of its query, float64.

        Args:
            rank: of the answer, from 0 on, int64.
            place: number of the query's answers of smaller rank.
            size: number of the query's answers.

        Shapes:
            (R,) each -> (R,)
        """

    def update(self, outputs: Outputs, batch: Batch) -> State:
        rank = outputs[self.reads]
        weight = torch.ones(len(rank), device=rank.device) if batch.weight is None else batch.weight
        weight = torch.where(rank < 0, 0, weight)
        if self.schema.labels:
            weight = torch.where(batch.labels[:, 0] > 0, weight, 0)
        rank = rank.clamp(min=0)
        if self.per_group:
            assert batch.group is not None
            return {"rank": rank.clone(), "group": batch.group.clone(), "weight": weight.clone()}
        weight = weight.double()
        value = self.gain(rank, torch.zeros_like(rank), torch.ones_like(rank))
        return {"total": (value * weight).sum(), "weight": weight.sum()}

    def compute(self, state: State) -> float:
        if not self.per_group:
            return float(state["total"] / state["weight"])  # 0 / 0 is NaN in torch
        counts = state["weight"] != 0
        rank, weight = state["rank"][counts], state["weight"][counts].double()
        _, query = torch.unique(state["group"][counts], return_inverse=True)
        order = rank.argsort(stable=True)
        order = order[query[order].argsort(stable=True)]
        query, size = query[order], query.bincount()
        first = size.cumsum(0) - size
        place = torch.arange(len(query), device=query.device) - first[query]
        total = torch.zeros(len(size), dtype=torch.float64, device=query.device)
        values = total.index_add(0, query, self.gain(rank[order], place, size[query]))
        weights = total.index_add(0, query, weight[order]) / size
        return float((values * weights).sum() / weights.sum())

    def empty(self, device: torch.device) -> State:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        outputs: dict[str, Any] = {self.reads: nothing, f"{self.reads}/top": nothing.view(0, 1)}
        weight = nothing.float() if self.schema.weight is not None else None
        features = Features(nothing.view(0, 1), nothing.float().view(0, 1))
        batch = Batch(features, nothing.float().view(0, 1), weight, nothing)
        return self.update(outputs, batch)
