"""The embedding tables of a model: one weight a width, one lookup a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rechub_ray.allocator import ask_for_huge_pages
from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.errors import SchemaError, nearest
from rechub_ray.layers.rows import fits_kernels, read_rows
from rechub_ray.schema import Schema, SequenceFeature, SparseFeature


class _Lookup(torch.autograd.Function):
    """F.embedding on the CPU, with faster kernels forward (`read_rows`) and backward (in the dense case)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, by_rows: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape, ctx.by_rows = weight.shape, by_rows
        return read_rows(weight, rows.reshape(-1)).view(*rows.shape, weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (rows,) = ctx.saved_tensors
        return None, _gradient(rows, gradient, ctx.shape, ctx.by_rows), None


class _Sum(torch.autograd.Function):
    """weight[rows].sum((1, 2)) of a table of width 1 on the CPU, without its (B, K, 1) in between."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, by_rows: bool) -> Tensor:
        from rechub_ray.layers.kernels import sum_weights

        ctx.save_for_backward(rows)
        ctx.shape, ctx.by_rows = weight.shape, by_rows
        return sum_weights(weight, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (rows,) = ctx.saved_tensors
        return None, _gradient(rows, gradient.unsqueeze(1).expand(rows.shape), ctx.shape, ctx.by_rows), None


def _gradient(rows: Tensor, gradient: Tensor, shape: torch.Size, by_rows: bool) -> Tensor:
    """The gradient of a table of which `rows` were read, and got `gradient` back."""
    rows, gradient = rows.reshape(-1), gradient.reshape(-1, shape[1])
    if by_rows:
        return torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, shape, check_invariants=False)
    return gradient.new_zeros(shape).index_add_(0, rows, gradient)


@dataclasses.dataclass(frozen=True)
class _Block:
    """The features of one width. Positions count within the schema's sparse (sequence) features."""

    width: int
    rows: int
    sparse: tuple[int, ...]
    sequences: tuple[int, ...]


class EmbeddingBank(nn.Module):
    """Embeddings of all sparse and sequence features; features of equal width share one weight.

    Feature f's id i is row offset[f] + i of its width's weight, so a batch costs one lookup a width, however many
    features there are. Rows are drawn from N(0, init_std). A pooled sequence is the mean or the sum of its ids' rows
    (the feature's `pooling`); an empty one is zeros.

    With `sparse_grad` (off at first) the weights get sparse COO gradients and time and memory of a step depend on the
    batch only; otherwise dense ones. `build_optimizers` sets it for each weight by the optimizer that claims it.

    Args:
        schema: has the features.
        dim: width of a feature without its own `embed_dim`, >= 1. With dim 1, the weights of a first-order term,
            every feature has width 1 whatever its `embed_dim`.
        features: names of the features to embed; None takes all sparse and sequence features.
        init_std: standard deviation of the initial rows, >= 0.

    Attributes:
        features: the embedded features: sparse ones, then sequences, each in schema order.
        widths: their widths, in the same order.
        weights: `weights.<width>`, (rows, width) each.
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
    """

    def __init__(
        self, schema: Schema, *, dim: int, features: Sequence[str] | None = None, init_std: float = 1e-4
    ) -> None:
        super().__init__()
        candidates: list[SparseFeature | SequenceFeature] = [*schema.sparse, *schema.sequences]
        embeddable = {f.name: f for f in candidates}
        for name in features or ():
            if name not in embeddable:
                raise SchemaError(f"there is no feature '{name}' to embed", hint=nearest(name, embeddable))
        picked = [f for f in embeddable.values() if features is None or f.name in features]
        owners = [embeddable[f.shared_with or f.name] for f in picked]
        self.features: tuple[SparseFeature | SequenceFeature, ...] = tuple(picked)
        self.widths = tuple(_width(f, owner, dim) for f, owner in zip(picked, owners, strict=True))
        self.init_std = init_std
        self._sequences = len(schema.sequences)

        starts: dict[str, int] = {}  # first row of each table within its width's weight
        sizes: dict[int, int] = {}
        for owner, width in zip(owners, self.widths, strict=True):
            if owner.name not in starts:
                starts[owner.name] = sizes.get(width, 0)
                sizes[width] = starts[owner.name] + owner.vocab_size
        start_of = {f.name: starts[owner.name] for f, owner in zip(picked, owners, strict=True)}
        width_of = {f.name: width for f, width in zip(picked, self.widths, strict=True)}
        self._start_of = start_of

        self._blocks: list[_Block] = []
        for width, rows in sizes.items():
            sparse = [i for i, f in enumerate(schema.sparse) if width_of.get(f.name) == width]
            sequences = [i for i, f in enumerate(schema.sequences) if width_of.get(f.name) == width]
            self._blocks.append(_Block(width, rows, tuple(sparse), tuple(sequences)))
            sparse_starts = [start_of[schema.sparse[i].name] for i in sparse]
            self._constant(f"_columns_{width}", sparse)
            self._constant(f"_sparse_starts_{width}", sparse_starts)
            self._constant(f"_sequence_starts_{width}", [start_of[schema.sequences[i].name] for i in sequences])
            self._constant(f"_is_mean_{width}", [schema.sequences[i].pooling == "mean" for i in sequences])
        self.weights = nn.ParameterDict(
            {str(b.width): nn.Parameter(torch.empty(b.rows, b.width)) for b in self._blocks}
        )
        self.row_gradients = dict.fromkeys(self.weights, False)
        for weight in self.weights.values():
            ask_for_huge_pages(weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all rows anew."""
        for weight in self.weights.values():
            nn.init.normal_(weight, std=self.init_std)

    def table(self, name: str) -> Tensor:
        """The rows of one feature's table, (V, D): a part of its width's weight, not a copy."""
        place = {f.name: (f, width) for f, width in zip(self.features, self.widths, strict=True)}
        if name not in place:
            raise SchemaError(f"there is no embedding of '{name}'", hint=nearest(name, place))
        feature, width = place[name]
        weight: Tensor = self.weights[str(width)]
        return weight.narrow(0, self._start_of[name], feature.vocab_size)

    @property
    def sparse_grad(self) -> bool:
        """Whether all weights get sparse gradients; setting it sets it for all."""
        return all(self.row_gradients.values())

    @sparse_grad.setter
    def sparse_grad(self, value: bool) -> None:
        self.row_gradients = dict.fromkeys(self.weights, value)

    @property
    def flat_dim(self) -> int:
        """Width of `flat`'s result."""
        return sum(self.widths)

    def forward(self, features: Features) -> Tensor:
        """Every feature's vector, (B, K, dim), in the order of `features`.

        Raises:
            SchemaError: features differ in width.
        """
        if len(self._blocks) != 1:
            raise SchemaError(
                "this model stacks its embeddings, so all features need one width",
                got=", ".join(f"{f.name}: {width}" for f, width in zip(self.features, self.widths, strict=True))
                or "no sparse or sequence feature",
            )
        return self._vectors(self._blocks[0], features)

    def flat(self, features: Features) -> Tensor:
        """Every feature's vector side by side, (B, flat_dim), in the order of `features`."""
        if not self._blocks:
            return features.dense.new_zeros(features.dense.shape[0], 0)
        if len(self._blocks) == 1:
            return self._vectors(self._blocks[0], features).flatten(1)
        vectors = {b.width: iter(self._vectors(b, features).unbind(1)) for b in self._blocks}
        return torch.cat([next(vectors[width]) for width in self.widths], dim=1)

    def sum(self, features: Features) -> Tensor:
        """The sum of all numbers of `flat`, (B,): with dim 1, a first-order term."""
        weight = self.weights["1"] if list(self.weights) == ["1"] and not self._blocks[0].sequences else None
        # evaluation alone is not worth Numba's start
        if weight is None or not torch.is_grad_enabled() or not fits_kernels(weight):
            return self.flat(features).sum(1)
        rows = self._rows(self._blocks[0], features)
        result: Tensor = _Sum.apply(rows, weight, self.row_gradients["1"])  # type: ignore[no-untyped-call]
        return result

    def sequence(self, features: Features, name: str) -> tuple[Tensor, Tensor]:
        """The vectors of one sequence feature before pooling, zeros behind each row's last.

        Args:
            features: the inputs.
            name: the sequence feature.

        Returns:
            (B, T, dim) and the mask (B, T), True where there is an id. T >= 1 is the batch's longest list.
        """
        block, at = self._find(name)
        position, start = block.sequences[at], self._get("_sequence_starts", block)[at]
        sequences = features.sequences
        if isinstance(sequences, PaddedSequences):
            return self._padded(block, sequences.ids[position], start)
        assert isinstance(sequences, RaggedSequences)
        rows = features.sparse.shape[0]
        offsets = sequences.offsets[position * rows : (position + 1) * rows + 1]
        lengths = offsets.diff()
        longest = max(1, int(lengths.max())) if rows else 1
        mask = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
        first, last = int(offsets[0]), int(offsets[-1])
        vectors = self._look_up(block, sequences.values[first:last] + start)
        places = mask.flatten().nonzero().squeeze(1)
        padded = vectors.new_zeros(rows * longest, block.width).index_copy(0, places, vectors)
        return padded.view(rows, longest, block.width), mask

    def _vectors(self, block: _Block, features: Features) -> Tensor:
        """(B, K, width) of one block."""
        parts = []
        if block.sparse:
            parts.append(self._look_up(block, self._rows(block, features)))
        if block.sequences:
            sequences = features.sequences
            if isinstance(sequences, PaddedSequences):
                parts.append(self._pool_padded(block, sequences))
            else:
                assert isinstance(sequences, RaggedSequences)
                parts.append(self._pool_ragged(block, sequences))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _rows(self, block: _Block, features: Features) -> Tensor:
        """The rows of a block's sparse features, (B, K)."""
        ids = features.sparse
        if len(block.sparse) != ids.shape[1]:
            ids = ids.index_select(1, self._get("_columns", block))
        return ids + self._get("_sparse_starts", block)

    def _pool_ragged(self, block: _Block, sequences: RaggedSequences) -> Tensor:
        values, offsets = sequences.values, sequences.offsets
        rows = (offsets.numel() - 1) // self._sequences
        if len(block.sequences) != self._sequences:
            values, offsets = _pick(values, offsets, rows, block.sequences)
        count = len(block.sequences)
        borders = offsets[torch.arange(count + 1, device=offsets.device) * rows]
        starts = self._get("_sequence_starts", block)
        values = values + torch.repeat_interleave(starts, borders.diff(), output_size=values.numel())
        pooled = F.embedding_bag(
            values,
            self.weights[str(block.width)],
            offsets,
            mode="sum",
            sparse=self.row_gradients[str(block.width)],
            include_last_offset=True,
        ).view(count, rows, block.width)
        lengths = offsets.diff().view(count, rows, 1).clamp(min=1)
        divisor = torch.where(self._get("_is_mean", block).view(-1, 1, 1), lengths, 1)
        return (pooled / divisor).transpose(0, 1)

    def _pool_padded(self, block: _Block, sequences: PaddedSequences) -> Tensor:
        pooled = []
        starts, is_mean = self._get("_sequence_starts", block), self._get("_is_mean", block)
        for at, position in enumerate(block.sequences):
            vectors, mask = self._padded(block, sequences.ids[position], starts[at])
            lengths = mask.sum(1, keepdim=True).clamp(min=1)
            pooled.append(vectors.sum(1) / torch.where(is_mean[at], lengths, 1))
        return torch.stack(pooled, dim=1)

    def _padded(self, block: _Block, ids: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        mask = ids >= 0
        vectors = self._look_up(block, ids.clamp(min=0) + start)
        return vectors * mask.unsqueeze(-1).to(vectors.dtype), mask

    def _look_up(self, block: _Block, rows: Tensor) -> Tensor:
        key = str(block.width)
        weight, by_rows = self.weights[key], self.row_gradients[key]
        if weight.device.type == "cpu" and not torch.compiler.is_compiling():
            vectors: Tensor = _Lookup.apply(rows, weight, by_rows)  # type: ignore[no-untyped-call]
            return vectors
        return F.embedding(rows, weight, sparse=by_rows)

    def _find(self, name: str) -> tuple[_Block, int]:
        """The block of a sequence feature, and its place among the block's sequences."""
        sequences = [f.name for f in self.features if isinstance(f, SequenceFeature)]
        if name not in sequences:
            raise SchemaError(f"there is no sequence feature '{name}' to embed", hint=nearest(name, sequences))
        width = self.widths[[f.name for f in self.features].index(name)]
        alike = [
            f.name
            for f, w in zip(self.features, self.widths, strict=True)
            if w == width and isinstance(f, SequenceFeature)
        ]
        return next(b for b in self._blocks if b.width == width), alike.index(name)

    def _constant(self, name: str, values: Sequence[int] | Sequence[bool]) -> None:
        dtype = torch.bool if values and isinstance(values[0], bool) else torch.int64
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def _get(self, name: str, block: _Block) -> Tensor:
        return self.get_buffer(f"{name}_{block.width}")


def tables_of(model: nn.Module) -> dict[str, tuple[EmbeddingBank, str]]:
    """The embedding tables of a model by parameter name: the bank that owns each, and its key there."""
    return {
        f"{prefix}.weights.{key}" if prefix else f"weights.{key}": (bank, key)
        for prefix, bank in model.named_modules()
        if isinstance(bank, EmbeddingBank)
        for key in bank.weights
    }


def _width(feature: SparseFeature | SequenceFeature, owner: SparseFeature | SequenceFeature, dim: int) -> int:
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
    """The sequences at `positions` alone, in the same feature-major form."""
    pieces, borders, total = [], [offsets.new_zeros(1)], 0
    for position in positions:
        own = offsets[position * rows : (position + 1) * rows + 1]
        first, last = int(own[0]), int(own[-1])
        pieces.append(values[first:last])
        borders.append(own[1:] - first + total)
        total += last - first
    return torch.cat(pieces), torch.cat(borders)
