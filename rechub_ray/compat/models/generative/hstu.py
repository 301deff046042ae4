"""HSTU with Torch-RecHub's arguments."""

from __future__ import annotations

from typing import Literal

from rechub_ray.compat.models.calls import callable_on_lists
from rechub_ray.errors import ConfigError
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import Items, Schema, SequenceFeature, SparseFeature

__all__ = ["HSTUModel"]


def HSTUModel(
    vocab_size: int,
    d_model: int = 512,
    n_heads: int = 8,
    n_layers: int = 4,
    dqk: int = 64,
    dv: int = 64,
    max_seq_len: int = 256,
    dropout: float = 0.1,
    use_time_embedding: bool = True,
    num_time_buckets: int = 128,
    time_bucket_fn: str = "sqrt",
    time_bucket_divisor: float = 1.0,
    time_bucket_unit: str = "minutes",
    tie_embeddings: bool = True,
    score_norm: Literal["none", "l2"] = "none",
    temperature: float = 1.0,
    use_output_bias: bool = True,
    scale_input_embedding: bool = False,
    l2_norm_eps: float = 1e-6,
) -> Model:
    """Return `rechub_ray.models.HSTU` on rows of `seq_tokens`, `seq_time_diffs` and the `target`.

    Called with (B, T) tokens and times it returns the scores of all ids at each position, (B, T, V).

    Time is a bias of attention alone, by the logarithm of seconds, and items have no bias, since their vectors are what
    is served: `time_bucket_fn`, `time_bucket_divisor`, `time_bucket_unit`, `use_output_bias`, `scale_input_embedding`
    (tokens are always scaled) and `l2_norm_eps` have no effect.

    Args:
        vocab_size: number of ids, 0 among them, which is padding.
        d_model: width of the items' vectors.
        n_heads: of attention.
        n_layers: number of layers.
        dqk: width of a head's queries and keys.
        dv: width of a head's values.
        max_seq_len: the longest history.
        dropout: of tokens and layers.
        use_time_embedding: whether attention has the bias for time.
        num_time_buckets: number of buckets of time.
        tie_embeddings: must be True: the vectors that histories are read in are the items'.
        score_norm: `l2` compares vectors of length 1.
        temperature: products are divided by it in training by `SeqTrainer`.

    Raises:
        ConfigError: `tie_embeddings` is False, or an argument is not valid.
    """
    if not tie_embeddings:
        raise ConfigError("'tie_embeddings' is False", expected="True: items have one vector each")
    if score_norm not in ("none", "l2"):
        raise ConfigError("'score_norm': no such norm", expected="none or l2", got=score_norm)
    lists = [SequenceFeature("seq_tokens", vocab_size, max_length=max_seq_len, shared_with="target")]
    if use_time_embedding:
        lists.append(
            SequenceFeature("seq_time_diffs", 2**62, max_length=max_seq_len, numbers=True, aligned_with="seq_tokens")
        )
    schema = Schema((SparseFeature("target", vocab_size), *lists), (), items=Items("target"))
    node = {
        "name": "hstu",
        "embedding_dim": d_model,
        "num_layers": n_layers,
        "num_heads": n_heads,
        "attention_dim": n_heads * dqk,
        "linear_dim": n_heads * dv,
        "dropout": dropout,
        "time_buckets": num_time_buckets,
        "similarity": "cosine" if score_norm == "l2" else "dot",
    }
    model = MODELS.build(node, schema, where="model")
    model.__dict__.update(temperature=temperature, vocab_size=vocab_size)
    callable_on_lists(model, "seq_tokens", "seq_time_diffs")
    return model
