"""Where a new bundle's keys are kept: in a FAISS index in its folder, or in a collection of a Milvus server."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from secondlook.indexer.progress import Progress
from secondlook.model.bundles.files import KEYS
from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import StoreError
from secondlook.model.manifest import StoreInfo
from secondlook.model.stores.factory import (
    check_k,
    check_trainable,
    choose_store,
)
from secondlook.model.stores.faiss_store import FaissStore, empty_index
from secondlook.model.stores.milvus_server import Milvus, from_environment
from secondlook.model.stores.milvus_store import PREFIX, MilvusIndex, MilvusStore, chosen, collection_of, drop
from secondlook.model.stores.store import TunableStore


class StoreBuilder(Protocol):
    """Keeps keys; made, and so checked, before the long work of embedding."""

    info: StoreInfo
    """What is known of the store before there is one: its count is how many keys were expected."""

    def build(self, generation: str, keys: Floats, values: Ints, progress: Progress) -> TunableStore:
        """Keep keys (N,D) and their values (N,) for a generation."""

    def write(self, store: TunableStore, folder: Path) -> StoreInfo:
        """Put what belongs to it into the bundle's folder; what its manifest says of the store."""

    def discard(self) -> None:
        """Remove what was kept outside the bundle's folder: the bundle did not come about."""


def choose_builder(
    store: str, milvus: Milvus | None, count: int, dim: int, fewest: int, k: int | None, *, is_k_given: bool
) -> StoreBuilder:
    """The builder that a ``--store`` names, for count keys of dim numbers, of which at least ``fewest`` will be there.

    Raises:
        StoreError: there is no such store, it cannot be made of so few keys, or no Milvus server is named.
        StoreUnreachableError: the Milvus server does not answer.
        ParameterError: k, where it is given, is beyond what the store can serve.
    """
    kept_there = store.partition(":")[0] == PREFIX or (store == "auto" and milvus is not None)
    if kept_there and not count:  # of which Milvus would make a collection that nothing can be found in
        kept_there, store = False, "auto"
    builder: StoreBuilder
    if kept_there:
        milvus = milvus or from_environment()
        if milvus is None:
            raise StoreError("which Milvus server is to hold the keys is not set: set SECONDLOOK_MILVUS__ADDRESS")
        factory, why = chosen(PREFIX if store == "auto" else store, count)
        MilvusIndex.of(factory)
        milvus.call("list_collections")  # says now what is wrong with the address or the token
        builder = _InMilvus(StoreInfo(kind="milvus", factory=factory, dim=dim, count=count, why=why), milvus)
    else:
        factory, why = choose_store(count, dim, fewest) if store == "auto" else (store, "")
        empty_index(factory, dim)
        check_trainable(factory, count)
        builder = _InFolder(StoreInfo(kind="faiss", factory=factory, dim=dim, count=count, why=why))
    if is_k_given:
        check_k(k, builder.info)
    return builder


class _InFolder:
    def __init__(self, info: StoreInfo) -> None:
        self.info = info

    def build(self, generation: str, keys: Floats, values: Ints, progress: Progress) -> FaissStore:
        progress("store", 0, 1)
        store = FaissStore.build(keys, values, self.info.factory)
        progress("store", 1, 1)
        return store

    def write(self, store: TunableStore, folder: Path) -> StoreInfo:
        assert isinstance(store, FaissStore)
        store.write(folder / KEYS)
        return self.info.model_copy(update={"count": store.count, "search": store.search_info})

    def discard(self) -> None:
        """The folder goes with its draft."""


class _InMilvus:
    def __init__(self, info: StoreInfo, milvus: Milvus) -> None:
        self.info, self._milvus = info, milvus
        self._collection: str | None = None

    def build(self, generation: str, keys: Floats, values: Ints, progress: Progress) -> MilvusStore:
        self._collection = collection_of(self._milvus.settings.cache, generation)
        return MilvusStore.build(self._milvus, generation, keys, values, self.info.factory, progress)

    def write(self, store: TunableStore, folder: Path) -> StoreInfo:
        return self.info.model_copy(
            update={"count": store.count, "search": store.search_info, "collection": self._collection}
        )

    def discard(self) -> None:
        if self._collection is not None:
            drop(self._milvus, self._collection)
