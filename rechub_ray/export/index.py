"""Indexes of the items' vectors, made by faiss: with one, a user need not be compared with every item."""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rechub_ray.errors import DataError, ExportError
from rechub_ray.export.target import Target
from rechub_ray.files import join, open_filesystem
from rechub_ray.registry import Registry
from rechub_ray.schema import PositiveInt

Array: TypeAlias = npt.NDArray[Any]
FILE = "index.faiss"
TRAINING_ROWS = 39
"""faiss wants so many vectors a list of an inverted file."""


class Index(abc.ABC):
    """Base of indexes: how one is made, and how far it is searched. All are of inner products."""

    @abc.abstractmethod
    def empty(self, rows: int, dim: int) -> Any:
        """Return a faiss index without vectors.

        Args:
            rows: how many vectors it will hold.
            dim: their width.
        """

    def reach(self, index: Any, number: int) -> None:
        """Set how far a faiss index is searched for `number` items a user."""
        return


INDEXES: Registry[Index] = Registry("index")


@INDEXES.register("flat")
class Flat(Index):
    """All products, by faiss: exact, as is the search without an index."""

    def empty(self, rows: int, dim: int) -> Any:
        return _faiss().IndexFlatIP(dim)


@INDEXES.register("hnsw")
class HNSW(Index):
    """A graph of near vectors in layers, which a search walks through.

    Args:
        m: neighbours of a vector in the graph; twice as many in the lowest layer.
        ef_construction: candidates that are kept while a vector is put in.
        ef_search: candidates that are kept while one is searched; at least as many as items are wanted.

    Reference: Malkov and Yashunin, Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical
    Navigable Small World Graphs (IEEE TPAMI 2020).
    """

    def __init__(
        self, *, m: PositiveInt = 32, ef_construction: PositiveInt = 200, ef_search: PositiveInt = 256
    ) -> None:
        self.m, self.ef_construction, self.ef_search = m, ef_construction, ef_search

    def empty(self, rows: int, dim: int) -> Any:
        faiss = _faiss()
        index = faiss.IndexHNSWFlat(dim, self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def reach(self, index: Any, number: int) -> None:
        index.hnsw.efSearch = max(self.ef_search, number)


@INDEXES.register("ivf")
class IVF(Index):
    """Lists of near vectors, of which a search looks at those whose centres are nearest.

    Args:
        nlist: number of lists; None takes four times the root of the number of items, and at most an item's 39th part.
        nprobe: lists that are looked at; None takes an eighth of them.
        seed: of the centres.

    Reference: Sivic and Zisserman, Video Google: A Text Retrieval Approach to Object Matching in Videos (ICCV 2003).
    """

    def __init__(
        self, *, nlist: PositiveInt | None = None, nprobe: PositiveInt | None = None, seed: PositiveInt = 1234
    ) -> None:
        self.nlist, self.nprobe, self.seed = nlist, nprobe, seed

    def empty(self, rows: int, dim: int) -> Any:
        faiss = _faiss()
        lists = self.nlist or max(1, min(round(4 * rows**0.5), rows // TRAINING_ROWS))
        if lists > rows:
            raise ExportError("'index': more lists than items", expected=f"nlist of at most {rows:,}", got=lists)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = self.seed
        index.cp.min_points_per_centroid = 1  # faiss prints a warning otherwise
        return index

    def reach(self, index: Any, number: int) -> None:
        index.nprobe = min(self.nprobe or max(1, index.nlist // 8), index.nlist)


def checked(node: str | Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return an index's settings with all defaults, once it is clear that it can be made.

    Args:
        node: the name of an index, or a mapping with `name` and its arguments.
        where: its place in the configuration, for messages.

    Raises:
        ConfigError: there is no such index, or it has no such argument.
        ExportError: faiss is not installed.
    """
    settings = INDEXES.validate(node, where=where)
    check_installed(f"'{where}: {settings['name']}'")
    return settings


def check_installed(what: str) -> None:
    """Check that faiss can be imported.

    Raises:
        ExportError: it is not installed; names `what` needs it.
    """
    if importlib.util.find_spec("faiss") is None:
        raise ExportError(
            f"{what} needs faiss, which is not installed",
            hint="pip install 'rechub_ray[faiss]', or do without an index: users are then compared with all items.",
        )


def build(settings: Index, vectors: Array, *, threads: int = 1) -> Any:
    """Return the faiss index of some vectors; on one thread it is the same one every time.

    Args:
        settings: the kind of index.
        vectors: of the items.
        threads: how many threads make it, >= 1. On several the graph of `hnsw` differs from one time to the next.

    Shapes:
        vectors: (N, D) float32.
    """
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        index = settings.empty(*vectors.shape)
        index.train(vectors)
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(before)
    return index


def write(index: Any, folder: str) -> str:
    """Write a faiss index into a folder, a path or URI; return the file."""
    target = Target(join(folder, FILE))
    with target.folder() as place:
        _faiss().serialize_index(index).tofile(f"{place}/{target.name}")
        target.place(place)
    return target.path


def read(folder: str) -> Any:
    """Return the faiss index in a folder, a path or URI.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    place = join(folder, FILE)
    filesystem, inside = open_filesystem(place)
    try:
        with filesystem.open_input_file(inside) as stream:
            return _faiss().deserialize_index(np.frombuffer(stream.read(), np.uint8))
    except (OSError, RuntimeError, AssertionError) as error:
        raise DataError(
            f"{place} cannot be read as an index",
            got=" ".join(str(error).split())[:200],
            hint="`rechub-ray export RUN --index NAME` makes it.",
        ) from None


def _faiss() -> Any:
    import faiss  # an extra

    return faiss


def version() -> str:
    """Return the version of faiss."""
    return str(_faiss().__version__)
