"""Metrics of a model over every row of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs, RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.source import EvalSource
from rechub_ray.device import autocast
from rechub_ray.errors import DataError
from rechub_ray.evaluation.candidates import drawn, without
from rechub_ray.evaluation.corpus import Corpus, Pairs, Ranking
from rechub_ray.evaluation.profile import Profile
from rechub_ray.metrics import MetricSet
from rechub_ray.metrics.ranks import Asked
from rechub_ray.models.matching.base import Retriever, without_item
from rechub_ray.outputs import PAIR
from rechub_ray.waiting import Waiting
from rechub_ray.world import World


@torch.no_grad()
def evaluate_model(
    model: torch.nn.Module,
    metrics: MetricSet,
    source: EvalSource,
    *,
    world: World,
    device: torch.device,
    precision: str = "float32",
    catalogue: Catalogue | None = None,
    profile: Profile | None = None,
) -> dict[str, float]:
    """Return the metrics over every row of `source`, each row once; the same on every rank.

    Args:
        model: is set to evaluation mode.
        metrics: to compute.
        source: the rows.
        world: the ranks; each one calls this.
        device: where the model is.
        precision: of the forward pass, `float32` or `bfloat16`.
        catalogue: the items that a model for retrieval ranks, on the device.
        profile: takes the same predictions in, and holds their counts over all ranks afterwards.

    Returns:
        Metric key -> value, with `rows_expected` and `rows_seen`; of a model for retrieval with
        `rows_of_unknown_items`, whose items are not in the item table: none can find them.

    Raises:
        DataError: the number of rows seen on all workers is not the expected one.
    """
    model.eval()
    metrics.reset()
    metrics.want_groups(profile is not None)
    if profile is not None:
        profile.reset()
    ranks = None
    if isinstance(model, Retriever):
        assert catalogue is not None
        ranks = _Ranks(
            model,
            metrics,
            catalogue,
            world=world,
            device=device,
            precision=precision,
            lists=source.lists,
            first_row=source.first_row,
        )
    rows = 0
    for batch in _shown(source):
        batch = batch.to(device)
        with autocast(device, precision):
            outputs = model(batch.features) if ranks is None else ranks(batch)
        outputs = {name: v.float() if v.is_floating_point() else v for name, v in outputs.items()}
        metrics.update(outputs, batch)
        if profile is not None:
            profile.update(outputs, batch)
        rows += batch.rows
    counts = torch.tensor([rows, 0 if ranks is None else int(ranks.unknown)], dtype=torch.int64, device=device)
    seen, unknown = world.sum_(counts).tolist()
    if seen != source.rows_expected:
        raise DataError("the evaluation did not see every row exactly once", expected=source.rows_expected, got=seen)
    result = metrics.compute(world, device=device)
    if profile is not None:
        profile.merge(world)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # evaluation batches are larger; training needs that memory back
    counted = {"rows_expected": source.rows_expected, "rows_seen": seen}
    return {**result, **counted, **({} if ranks is None else {"rows_of_unknown_items": unknown})}


def _shown(source: EvalSource) -> Iterator[Batch]:
    """Yield the batches of a source; a terminal shows how far they are."""
    rows, expected = 0, source.rows_expected
    with Waiting("evaluating", detail=lambda: f"{rows:,} of {expected:,} rows", quiet_seconds=None):
        for batch in source.batches():
            yield batch
            rows += batch.rows


class _Ranks:
    """The ranks of rows' items among all items, as metrics ask for them."""

    def __init__(
        self,
        model: Retriever,
        metrics: MetricSet,
        catalogue: Catalogue,
        *,
        world: World,
        device: torch.device,
        precision: str,
        lists: Sequence[str],
        first_row: int,
    ) -> None:
        self._model = model
        self._corpus = Corpus.of(model, catalogue, world=world, device=device, precision=precision)
        lists = [*(feature.name for feature in model.user_schema.sequences), *lists]
        self._place = {name: i for i, name in enumerate(lists)}
        rankings = metrics.rankings(self._corpus.items)
        self._among = {name: asked for name, asked in rankings.items() if asked.candidates is not None}
        self._asked = {
            name: Ranking(None if asked.exclude is None else self._place[asked.exclude], asked.top, asked.temperature)
            for name, asked in rankings.items()
            if name not in self._among
        }
        self._has_labels, self._row = bool(model.schema.labels), first_row
        self.unknown = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, batch: Batch) -> Outputs:
        features, ids = without_item(self._model.schema, batch.features)
        self.unknown += (self._corpus.catalogue.rows_of(ids) < 0).sum()
        sequences = features.sequences
        lists = sequences if isinstance(sequences, RaggedSequences) else None
        if batch.lists is not None:
            lists = batch.lists if lists is None else _side_by_side(lists, batch.lists)
        users, corpus = self._model.user_vectors(features).float(), self._corpus
        outputs = corpus.compare(users, ids, lists, self._asked) if self._asked else {}
        targets = corpus.catalogue.rows_of(ids)
        for name, asked in self._among.items():
            outputs[name] = corpus.ranks_among(users, targets, self._candidates(lists, targets, asked))
        if self._has_labels:
            outputs[PAIR] = corpus.scores(users, targets)
        self._row += batch.rows
        return outputs

    def _candidates(self, lists: RaggedSequences | None, targets: Tensor, asked: Asked) -> Pairs:
        """Return the items that each row's own is ranked among."""
        rows, items = torch.arange(len(targets), device=targets.device), self._corpus.items
        excluded = Pairs.of(rows, targets, items)
        if asked.exclude is not None:
            seen = self._corpus.listed(lists, self._place[asked.exclude], targets)
            excluded = Pairs(torch.cat([excluded.rows, seen.rows]), torch.cat([excluded.places, seen.places]))
        if isinstance(asked.candidates, str):
            return without(self._corpus.listed(lists, self._place[asked.candidates], targets), excluded, items)
        assert asked.candidates is not None
        return drawn(asked.candidates, excluded, rows=rows + self._row, items=items, seed=asked.seed)


def _side_by_side(one: RaggedSequences, other: RaggedSequences) -> RaggedSequences:
    """Return the features of both, of the same rows."""
    return RaggedSequences(
        torch.cat([one.values, other.values]), torch.cat([one.offsets, other.offsets[1:] + one.offsets[-1]])
    )
