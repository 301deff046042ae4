"""The embedding tables of a model: one weight a width, one lookup a batch."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.errors import SchemaError, nearest
from rechub_ray.layers.initial_rows import draw_initial_rows
from rechub_ray.layers.lookup import look_up, look_up_range
from rechub_ray.schema import Schema, SequenceFeature, SparseFeature

Embeddable = SparseFeature | SequenceFeature


@dataclasses.dataclass(frozen=True)
class Table:
    """One table: `rows` of a weight that the trained tables of its width share, or the frozen ones.

    Args:
        name: the feature that owns it; other features may share it.
        width: columns.
        rows: which rows of the weight.
        weight: the weight's key in its bank.
    """

    name: str
    width: int
    rows: range
    weight: str


@dataclasses.dataclass(frozen=True)
class _Group:
    """The features of one weight. Positions count within the schema's sparse (sequence) features."""

    key: str
    width: int
    sparse: tuple[int, ...]
    sequences: tuple[int, ...]


class Embeddings(nn.Module, abc.ABC):
    """Lookups of some features' vectors: an `EmbeddingBank`, which owns tables, or an `EmbeddingView` of one.

    Args:
        schema: of the batches.
        features: the features to embed, sparse ones first, each in the schema's order.
        tables: the table of each.

    Attributes:
        features: the embedded features: sparse ones, then sequences, each in schema order.
        widths: their widths, in the same order.
    """

    def __init__(self, schema: Schema, features: Sequence[Embeddable], tables: Sequence[Table]) -> None:
        super().__init__()
        self.features: tuple[Embeddable, ...] = tuple(features)
        self.widths = tuple(table.width for table in tables)
        self._schema, self._sequences = schema, len(schema.sequences)
        self._place({f.name: table for f, table in zip(features, tables, strict=True)})

    def _place(self, tables: dict[str, Table]) -> None:
        """Take the tables of the features, by feature, and group the features by weight: each is one lookup."""
        schema, self._tables = self._schema, tables
        self._groups: list[_Group] = []
        for key, width in {table.weight: table.width for table in tables.values()}.items():
            table_of = {name: table for name, table in tables.items() if table.weight == key}
            sparse = [i for i, f in enumerate(schema.sparse) if f.name in table_of]
            sequences = [i for i, f in enumerate(schema.sequences) if f.name in table_of]
            self._groups.append(_Group(key, width, tuple(sparse), tuple(sequences)))
            lists = [schema.sequences[i] for i in sequences]
            self._constant(f"_columns_{key}", sparse)
            self._constant(f"_sparse_starts_{key}", [table_of[schema.sparse[i].name].rows.start for i in sparse])
            self._constant(f"_sequence_starts_{key}", [table_of[f.name].rows.start for f in lists])
            self._constant(f"_is_mean_{key}", [f.pooling == "mean" for f in lists])

    def lay_out(self, tables: Mapping[str, Table]) -> None:
        """Look the features up where the bank's tables, by name, are now."""
        self._place({feature: tables[table.name] for feature, table in self._tables.items()})
        self.to(next((weight.device for weight in self.bank.weights.values()), torch.device("cpu")))

    @property
    @abc.abstractmethod
    def bank(self) -> EmbeddingBank:
        """The bank that owns the tables."""

    def view(self, schema: Schema, names: Sequence[str] | None = None) -> EmbeddingView:
        """Return lookups of some features in the same tables, for batches of another schema.

        Args:
            schema: of the batches that the view gets; it may hold a part of this one's features only.
            names: features of `schema` to embed; None takes all that have a table here.

        Raises:
            SchemaError: a name that `schema` does not have, or that has no table here, or a table of another size.
        """
        return EmbeddingView(self.bank, schema, names)

    def rows(self, name: str, ids: Tensor | None = None) -> Tensor:
        """Return rows of one feature's table, with a gradient of the kind that the table's optimizer takes.

        For what needs items beside those in the batch: a full softmax, sampled negatives, a penalty.

        Args:
            name: the feature.
            ids: int64 in [0, V), of any shape; not checked. None returns the whole table: a part of its width's
                weight, not a copy.

        Shapes:
            (*ids.shape, D); (V, D) for None

        Raises:
            SchemaError: the feature has no table here.
        """
        if name not in self._tables:
            raise SchemaError(f"there is no embedding of '{name}'", hint=nearest(name, self._tables))
        table = self._tables[name]
        weight, by_rows = self._weight(table.weight)
        if ids is None:
            return look_up_range(weight, table.rows.start, table.rows.stop, by_rows=by_rows)
        return look_up(weight, ids + table.rows.start, by_rows=by_rows)

    @property
    def flat_dim(self) -> int:
        """Width of `flat`'s result."""
        return sum(self.widths)

    def forward(self, features: Features) -> Tensor:
        """Return every feature's vector, (B, K, dim), in the order of `features`.

        Raises:
            SchemaError: features differ in width.
        """
        if len(set(self.widths)) != 1:
            raise SchemaError(
                "this model stacks its embeddings, so all features need one width",
                got=", ".join(f"{f.name}: {width}" for f, width in zip(self.features, self.widths, strict=True))
                or "no sparse or sequence feature",
            )
        if len(self._groups) == 1:
            return self._vectors(self._groups[0], features)
        return torch.stack(self._by_feature(features), dim=1)

    def flat(self, features: Features) -> Tensor:
        """Return every feature's vector side by side, (B, flat_dim), in the order of `features`."""
        if not self._groups:
            return features.dense.new_zeros(features.dense.shape[0], 0)
        if len(self._groups) == 1:
            return self._vectors(self._groups[0], features).flatten(1)
        return torch.cat(self._by_feature(features), dim=1)

    def sum(self, features: Features) -> Tensor:
        """Return the sum of all numbers of `flat`, (B,): with dim 1, a first-order term."""
        return self.flat(features).sum(1)

    def sequence(self, features: Features, name: str) -> tuple[Tensor, Tensor]:
        """Return the vectors of one sequence feature before pooling, zeros behind each row's last.

        Args:
            features: the inputs.
            name: the sequence feature.

        Returns:
            (B, T, dim) and the mask (B, T), True where there is an id. T >= 1 is the batch's longest list.
        """
        group, at = self._find(name)
        position, start = group.sequences[at], self._get("_sequence_starts", group)[at]
        sequences = features.sequences
        if isinstance(sequences, PaddedSequences):
            return self._padded(group, sequences.ids[position], start)
        assert isinstance(sequences, RaggedSequences)
        rows = features.sparse.shape[0]
        offsets = sequences.offsets[position * rows : (position + 1) * rows + 1]
        lengths = offsets.diff()
        longest = max(1, int(lengths.max())) if rows else 1
        mask = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
        first, last = int(offsets[0]), int(offsets[-1])
        vectors = self._look_up(group, sequences.values[first:last] + start)
        places = mask.flatten().nonzero().squeeze(1)
        padded = vectors.new_zeros(rows * longest, group.width).index_copy(0, places, vectors)
        return padded.view(rows, longest, group.width), mask

    def _by_feature(self, features: Features) -> list[Tensor]:
        """Return each feature's vectors, (B, dim), in the order of `features`."""
        vectors = {group.key: iter(self._vectors(group, features).unbind(1)) for group in self._groups}
        return [next(vectors[table.weight]) for table in self._tables.values()]

    def _vectors(self, group: _Group, features: Features) -> Tensor:
        """Return the vectors of one group, (B, K, width)."""
        parts = []
        if group.sparse:
            parts.append(self._look_up(group, self._rows(group, features)))
        if group.sequences:
            sequences = features.sequences
            if isinstance(sequences, PaddedSequences):
                parts.append(self._pool_padded(group, sequences))
            else:
                assert isinstance(sequences, RaggedSequences)
                parts.append(self._pool_ragged(group, sequences))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _rows(self, group: _Group, features: Features) -> Tensor:
        """Return the rows of a group's sparse features, (B, K)."""
        ids = features.sparse
        if len(group.sparse) != ids.shape[1]:
            ids = ids.index_select(1, self._get("_columns", group))
        return ids + self._get("_sparse_starts", group)

    def _pool_ragged(self, group: _Group, sequences: RaggedSequences) -> Tensor:
        values, offsets = sequences.values, sequences.offsets
        rows = (offsets.numel() - 1) // self._sequences
        if len(group.sequences) != self._sequences:
            values, offsets = _pick(values, offsets, rows, group.sequences)
        count = len(group.sequences)
        borders = offsets[torch.arange(count + 1, device=offsets.device) * rows]
        starts = self._get("_sequence_starts", group)
        values = values + torch.repeat_interleave(starts, borders.diff(), output_size=values.numel())
        weight, by_rows = self._weight(group.key)
        pooled = F.embedding_bag(values, weight, offsets, mode="sum", sparse=by_rows, include_last_offset=True).view(
            count, rows, group.width
        )
        lengths = offsets.diff().view(count, rows, 1).clamp(min=1)
        divisor = torch.where(self._get("_is_mean", group).view(-1, 1, 1), lengths, 1)
        return (pooled / divisor).transpose(0, 1)

    def _pool_padded(self, group: _Group, sequences: PaddedSequences) -> Tensor:
        pooled = []
        starts, is_mean = self._get("_sequence_starts", group), self._get("_is_mean", group)
        for at, position in enumerate(group.sequences):
            vectors, mask = self._padded(group, sequences.ids[position], starts[at])
            lengths = mask.sum(1, keepdim=True).clamp(min=1)
            pooled.append(vectors.sum(1) / torch.where(is_mean[at], lengths, 1))
        return torch.stack(pooled, dim=1)

    def _padded(self, group: _Group, ids: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        mask = ids >= 0
        vectors = self._look_up(group, ids.clamp(min=0) + start)
        return vectors * mask.unsqueeze(-1).to(vectors.dtype), mask

    def _look_up(self, group: _Group, rows: Tensor) -> Tensor:
        weight, by_rows = self._weight(group.key)
        return look_up(weight, rows, by_rows=by_rows)

    def _weight(self, key: str) -> tuple[Tensor, bool]:
        """Return a weight, and whether its gradient is sparse."""
        return self.bank.weights[key], self.bank.row_gradients[key]

    def _find(self, name: str) -> tuple[_Group, int]:
        """Return the group of a sequence feature, and its place among the group's sequences."""
        sequences = [f.name for f in self.features if isinstance(f, SequenceFeature)]
        if name not in sequences:
            raise SchemaError(f"there is no sequence feature '{name}' to embed", hint=nearest(name, sequences))
        key = self._tables[name].weight
        alike = [other for other in sequences if self._tables[other].weight == key]
        return next(group for group in self._groups if group.key == key), alike.index(name)

    def _constant(self, name: str, values: Sequence[int] | Sequence[bool]) -> None:
        dtype = torch.bool if values and isinstance(values[0], bool) else torch.int64
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def _get(self, name: str, group: _Group) -> Tensor:
        return self.get_buffer(f"{name}_{group.key}")


class EmbeddingBank(Embeddings):
    """Embeddings of all sparse and sequence features; features of equal width share one weight.

    Feature f's id i is row start[f] + i of its width's weight, so a batch costs one lookup a width, however many
    features there are. A pooled sequence is the mean or the sum of its ids' rows (the feature's `pooling`); an empty
    one is zeros.

    Rows are drawn from N(0, init_std); row r of a table is a function of (seed, `name`, the table's name and width, r)
    alone, where the seed is that of PyTorch's default generator (see `draw_initial_rows`).

    With `sparse_grad` (off at first) the weights get sparse COO gradients and time and memory of a step depend on the
    batch only; otherwise dense ones. `build_optimizers` sets it for each weight by the optimizer that claims it.

    Args:
        schema: has the features.
        dim: width of a feature without its own `embed_dim`, >= 1. With dim 1, the weights of a first-order term,
            every feature has width 1 whatever its `embed_dim`.
        features: names of the features to embed; None takes all sparse and sequence features.
        init_std: standard deviation of the initial rows, >= 0.
        name: tells the banks of one model apart: two banks with one name start the tables that they have in common
            with the same rows.

    Attributes:
        features: the embedded features: sparse ones, then sequences, each in schema order.
        widths: their widths, in the same order.
        tables: the tables by the names of the features that own them.
        weights: `weights.<width>`, (rows, width) each, and those that `move` made.
        row_gradients: `sparse_grad` of each weight, by its key.

    Raises:
        SchemaError: unknown feature, or a shared table whose features ask for different widths.

    Example:
        >>> from rechub_ray.schema import Label
        >>> schema = Schema((SparseFeature("user", 10), SparseFeature("item", 5)), (Label("click"),))
        >>> bank = EmbeddingBank(schema, dim=4)
        >>> bank(Features(sparse=torch.tensor([[9, 4]]), dense=torch.zeros(1, 0))).shape
        torch.Size([1, 2, 4])
        >>> [(name, tuple(weight.shape)) for name, weight in bank.named_parameters()]
        [('weights.4', (15, 4))]
        >>> bank.rows("item").shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        schema: Schema,
        *,
        dim: int,
        features: Sequence[str] | None = None,
        init_std: float = 1e-4,
        name: str = "embedding",
    ) -> None:
        embeddable = _embeddable(schema)
        picked = _pick_features(embeddable, features)
        owners = [embeddable[f.shared_with or f.name] for f in picked]
        tables: dict[str, Table] = {}
        sizes: dict[int, int] = {}
        for feature, owner in zip(picked, owners, strict=True):
            width = _width(feature, owner, dim)
            if owner.name not in tables:
                start = sizes.get(width, 0)
                sizes[width] = start + owner.vocab_size
                tables[owner.name] = Table(owner.name, width, range(start, sizes[width]), str(width))
        super().__init__(schema, picked, [tables[owner.name] for owner in owners])
        self.init_std, self.name = init_std, name
        self.tables: Mapping[str, Table] = tables
        self.weights = nn.ParameterDict(
            {str(width): nn.Parameter(torch.empty(rows, width)) for width, rows in sizes.items()}
        )
        self.row_gradients = dict.fromkeys(self.weights, False)
        self.reset_parameters()

    @property
    def bank(self) -> EmbeddingBank:
        return self

    def reset_parameters(self) -> None:
        """Draw all rows anew."""
        for table in self.tables.values():
            rows = self.weights[table.weight].detach()[table.rows.start : table.rows.stop]
            draw_initial_rows(rows, f"{self.name}/{table.name}", std=self.init_std)

    def move(self, names: Collection[str], key: str) -> None:
        """Move tables out of the weight that they share with others, to a weight of their own; views have to follow.

        Args:
            names: tables of one weight, but not all of it.
            key: of the new weight, as `weights` has it.
        """
        old = self.tables[next(iter(names))].weight
        weight, moved = self.weights[old], dict(self.tables)
        for to, own in {old: False, key: True}.items():
            taken = [t for t in self.tables.values() if t.weight == old and (t.name in names) == own]
            self.weights[to] = nn.Parameter(torch.cat([weight.detach()[t.rows.start : t.rows.stop] for t in taken]))
            start = 0
            for table in taken:
                rows = range(start, start := start + len(table.rows))
                moved[table.name] = dataclasses.replace(table, rows=rows, weight=to)
        self.row_gradients[key] = self.row_gradients[old]
        self.tables = moved
        self.lay_out(moved)

    def table_of(self, feature: Embeddable) -> Table | None:
        """Return this bank's table for a feature, by its name or that of the feature whose table it shares, or None."""
        for name in (feature.name, feature.shared_with or feature.name):
            if name in self._tables or name in self.tables:
                return self._tables.get(name) or self.tables[name]
        return None

    @property
    def sparse_grad(self) -> bool:
        """Whether all weights get sparse gradients; setting it sets it for all."""
        return all(self.row_gradients.values())

    @sparse_grad.setter
    def sparse_grad(self, value: bool) -> None:
        self.row_gradients = dict.fromkeys(self.weights, value)


class EmbeddingView(Embeddings):
    """Lookups of some features in the tables of a bank, as `Embeddings.view` returns them.

    A view has no parameters: weights and optimizer states are the bank's, and so is where the gradients go. It does
    not keep the bank in its own `state_dict`, so the model that has the view has to have the bank, too.

    Args:
        bank: owns the tables.
        schema: of the batches.
        names: features of `schema` to embed; None takes all that have a table in `bank`.

    Raises:
        SchemaError: see `Embeddings.view`.
    """

    def __init__(self, bank: EmbeddingBank, schema: Schema, names: Sequence[str] | None = None) -> None:
        embeddable = _embeddable(schema)
        if names is None:
            names = [f.name for f in embeddable.values() if bank.table_of(f) is not None]
        picked, tables = _pick_features(embeddable, names), []
        for feature in picked:
            table = bank.table_of(feature)
            if table is None:
                raise SchemaError(f"there is no embedding of '{feature.name}'", hint=nearest(feature.name, bank.tables))
            if len(table.rows) != feature.vocab_size:
                raise SchemaError(
                    f"feature '{feature.name}' does not fit the table of '{table.name}'",
                    expected=f"vocab_size {len(table.rows)}",
                    got=feature.vocab_size,
                )
            tables.append(table)
        super().__init__(schema, picked, tables)
        object.__setattr__(self, "_bank", bank)  # past nn.Module: a submodule would be in the model twice
        self.to(next((weight.device for weight in bank.weights.values()), torch.device("cpu")))

    @property
    def bank(self) -> EmbeddingBank:
        bank: EmbeddingBank = self.__dict__["_bank"]
        return bank


def tables_of(model: nn.Module) -> dict[str, tuple[EmbeddingBank, str]]:
    """Return the embedding weights of a model by parameter name: the bank that owns each, and its key there."""
    return {
        f"{prefix}.weights.{key}" if prefix else f"weights.{key}": (bank, key)
        for prefix, bank in model.named_modules()
        if isinstance(bank, EmbeddingBank)
        for key in bank.weights
    }


def _embeddable(schema: Schema) -> dict[str, Embeddable]:
    return {f.name: f for f in schema.embedded}


def _pick_features(embeddable: Mapping[str, Embeddable], names: Sequence[str] | None) -> list[Embeddable]:
    """Return the named features in the order in which they are embedded; all of them for None."""
    for name in names or ():
        if name not in embeddable:
            raise SchemaError(f"there is no feature '{name}' to embed", hint=nearest(name, embeddable))
    return [f for f in embeddable.values() if names is None or f.name in names]


def _width(feature: Embeddable, owner: Embeddable, dim: int) -> int:
    if dim == 1:
        return 1
    width = owner.embed_dim or dim
    if feature.embed_dim not in (None, width):
        raise SchemaError(
            f"feature '{feature.name}' shares the table of '{owner.name}' but asks for another width",
            expected=f"embed_dim {width} or none",
            got=feature.embed_dim,
        )
    return width


def _pick(values: Tensor, offsets: Tensor, rows: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the sequences at `positions` alone, in the same feature-major form."""
    pieces, borders, total = [], [offsets.new_zeros(1)], 0
    for position in positions:
        own = offsets[position * rows : (position + 1) * rows + 1]
        first, last = int(own[0]), int(own[-1])
        pieces.append(values[first:last])
        borders.append(own[1:] - first + total)
        total += last - first
    return torch.cat(pieces), torch.cat(borders)
