"""A model's computation graph as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rechub_ray.errors import ConfigError
from rechub_ray.export.serving import ServingModel, Tower
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever

_DTYPES = {"int64": torch.int64, "float32": torch.float32}


def draw(
    model: Model,
    *,
    rows: int = 2,
    length: int = 10,
    depth: int = 3,
    show_shapes: bool = True,
    expand_nested: bool = True,
    save_path: str | Path | None = None,
    name: str = "model",
    dpi: int = 300,
    options: dict[str, Any] | None = None,
) -> Any:
    """Draw the graph with torchview, with one input a feature.

    Args:
        model: the model, which is left as it was; of one for retrieval the user tower is drawn.
        rows: rows of the made-up batch.
        length: ids in each of its sequences.
        depth: levels of nested modules to show; -1 shows all.
        show_shapes: as torchview has it.
        expand_nested: as torchview has it.
        save_path: `.pdf`, `.svg`, `.png` (these need Graphviz's program `dot`), or `.gv` for the source of the graph.
        name: the graph's name.
        dpi: resolution of a picture.
        options: more arguments of `torchview.draw_graph`.

    Returns:
        torchview's ComputationGraph; a notebook shows its `visual_graph`.

    Raises:
        ConfigError: torchview, graphviz or `dot` is missing.
    """
    try:
        import graphviz
        from torchview import draw_graph
    except ImportError as error:
        raise ConfigError(
            f"a drawing needs the package {error.name}, which is not installed",
            hint="Run: pip install rechub_ray[visualization], and install Graphviz itself (apt install graphviz).",
        ) from None
    if isinstance(model, Retriever):
        model = Tower(model, "user").train(model.training)
    served, was_training = ServingModel(model, model.schema, probabilities=True), model.training
    sizes = {"batch": rows}
    inputs = [
        torch.zeros([sizes.get(n, length) if isinstance(n, str) else n for n in port.shape], dtype=_DTYPES[port.dtype])
        for port in served.inputs
    ]
    try:
        graph = draw_graph(
            served,
            input_data=tuple(inputs),
            graph_name=name,
            depth=depth if depth >= 0 else 1000,
            device="cpu",
            mode="eval",
            show_shapes=show_shapes,
            expand_nested=expand_nested,
            **(options or {}),
        )
    finally:
        model.train(was_training)
    if save_path is None:
        return graph
    path = Path(save_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.visual_graph.graph_attr["dpi"] = str(dpi)
    if path.suffix in (".gv", ".dot"):
        path.write_text(graph.visual_graph.source, encoding="utf-8")
        return graph
    try:
        path.write_bytes(graph.visual_graph.pipe(format=path.suffix.lstrip(".") or "pdf"))
    except graphviz.ExecutableNotFound:
        raise ConfigError(
            "Graphviz's program 'dot' is not installed",
            hint="apt install graphviz (or brew install graphviz); a save_path that ends in .gv does not need it.",
        ) from None
    return graph
