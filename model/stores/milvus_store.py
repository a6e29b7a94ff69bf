"""Keys in a collection of a Milvus server, searched there; the labels stay in the bundle.

A generation has a collection of its own, named after it: filled and counted before any server hears of it, and never
changed after. So a search needs no strong consistency, there is nothing newer to wait for (docs/decisions/012).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import StoreError, StoreUnreachableError
from secondlook.model.manifest import GENERATION, SearchInfo
from secondlook.model.stores.factory import LISTS_PER_ROOT
from secondlook.model.stores.milvus_server import MAX_K, WRITE_SECONDS, Milvus, Reach
from secondlook.model.stores.store import Neighbors, ordered, parts

Progress = Callable[[str, int, int], None]

PREFIX = "milvus"
"""The beginning, before a colon, of factory strings of stores in Milvus."""
FACTORY = re.compile(r"(FLAT|DISKANN|IVF_(?:FLAT|SQ8),[1-9]\d{0,4}|HNSW,(?:[4-9]|[1-5]\d|6[0-4]))")
ID, VALUE, KEY = "id", "value", "key"
CONSISTENCY = "Bounded"
ADDED_SUFFIX = "_taught"
"""The end of the names of collections of added entries."""
WRITE_BYTES = 16 << 20
"""Bytes of keys in one call; a message may have 64 MiB."""
READ_ROWS = 4096
"""Keys read in one call."""
SPOT_CHECKS = 256
"""Keys read back before a collection is used."""
LINKS = 32
"""Links of each key in a graph."""
FLAT_ENTRIES = 200_000
"""Up to so many, ``milvus`` alone compares all keys; beyond, it builds a graph."""
SEARCH_SETTINGS = tuple(2**step for step in range(5, 13))
BUILD_CANDIDATES = 200
"""Neighbours looked at for each link of a graph that is built (efConstruction)."""


class MilvusIndex(NamedTuple):
    """A factory string read: the index's type, and the number behind the comma."""

    kind: str
    number: int

    @classmethod
    def of(cls, factory: str) -> MilvusIndex:
        """Read it.

        Raises:
            StoreError: there is no such index.
        """
        if not FACTORY.fullmatch(factory):
            raise StoreError(
                f"there is no store {PREFIX}:{factory}: give {PREFIX} alone, or {PREFIX}: and FLAT, "
                "IVF_FLAT[,<lists>], IVF_SQ8[,<lists>], HNSW[,<links from 4 to 64>] or DISKANN"
            )
        kind, _, number = factory.partition(",")
        return cls(kind, int(number or 0))

    @property
    def build(self) -> dict[str, int]:
        """Milvus's parameters of the index."""
        if self.kind == "HNSW":
            return {"M": self.number, "efConstruction": BUILD_CANDIDATES}
        return {"nlist": self.number} if self.number else {}

    def search(self, how: SearchInfo, k: int) -> dict[str, int]:
        """Milvus's parameters of a search for k neighbours."""
        if self.kind.startswith("IVF"):
            return {"nprobe": min(how.lists or self.number, self.number)}
        if self.kind == "HNSW":
            return {"ef": max(how.candidates or 0, k)}
        return {"search_list": max(how.candidates or 0, k)} if self.kind == "DISKANN" else {}

    @property
    def search_settings(self) -> list[SearchInfo]:
        """The search settings worth trying, cheapest first; none where every entry is looked at."""
        if self.kind.startswith("IVF"):
            steps = sorted({most * 2**step // 4 for step in range(18) for most in (4, 6)})
            return [SearchInfo(lists=lists) for lists in (*(s for s in steps if s < self.number), self.number)]
        return [SearchInfo(candidates=some) for some in SEARCH_SETTINGS] if self.kind in ("HNSW", "DISKANN") else []


def chosen(store: str, count: int) -> tuple[str, str]:
    """The factory string of ``milvus`` or ``milvus:FACTORY`` for so many entries, and why, where it was chosen.

    Lists and links that are not given are added.
    """
    _, colon, factory = store.partition(":")
    if factory in ("IVF_FLAT", "IVF_SQ8"):
        return f"{factory},{2 ** max(0, round(np.log2(LISTS_PER_ROOT * np.sqrt(count))))}", ""
    if colon:
        return f"HNSW,{LINKS}" if factory == "HNSW" else factory, ""
    if count <= FLAT_ENTRIES:
        return "FLAT", f"{count:,} keys are soon compared, all of them"
    return f"HNSW,{LINKS}", f"{count:,} keys are too many to compare them all"


def collection_of(cache: str, generation: str) -> str:
    """The name of a generation's collection."""
    return f"{cache}_{generation.replace('-', '_')}"


def generation_of(cache: str, collection: str) -> str | None:
    """The generation whose collection that is; None where it is no generation's of this cache."""
    generation = collection.removeprefix(f"{cache}_").replace("_", "-")
    is_one = collection.startswith(f"{cache}_") and GENERATION.fullmatch(generation)
    return generation if is_one else None


class MilvusStore:
    """The entries of one collection; ids are positions, as in a FAISS store."""

    early_exit = None
    """A second call to another machine would cost more than it saves."""

    def __init__(
        self,
        milvus: Milvus,
        collection: str,
        values: Ints,
        dim: int,
        factory: str,
        search: SearchInfo | None = None,
        reach: Reach | None = None,
        own_keys: Floats | None = None,
    ) -> None:
        """``own_keys`` (N,D) are the keys where they are at hand already: then none is read back."""
        self._milvus, self.collection, self.values, self.dim = milvus, collection, values, dim
        self.factory, self._index = factory, MilvusIndex.of(factory)
        self.count = len(values)
        self.search_info = search or SearchInfo()
        self._reach = reach or Reach(f"collection {collection}", self._try)
        self._own_keys = own_keys

    @classmethod
    def build(
        cls, milvus: Milvus, generation: str, keys: Floats, values: Ints, factory: str, progress: Progress
    ) -> MilvusStore:
        """Put keys (N,D) and their values (N,) into a new collection; indexed, loaded, counted, and some read back.

        Raises:
            StoreError: a key is not finite, or the server refuses; nothing is left there.
            StoreUnreachableError: it does not answer.
        """
        index, name = MilvusIndex.of(factory), collection_of(milvus.settings.cache, generation)
        if not all(np.isfinite(keys[rows]).all() for rows in _rows(len(keys), WRITE_BYTES // (4 * keys.shape[1]))):
            raise StoreError("a key is not finite: it would never be found, nor counted right")
        try:
            milvus.run(lambda client: _create(client, name, keys.shape[1]))
            # Ids are positions and the collection is new, so none comes twice: Milvus itself would keep both.
            for rows in _rows(len(keys), WRITE_BYTES // (4 * keys.shape[1] + 16)):
                batch = zip(range(rows.start, rows.stop), values[rows].tolist(), keys[rows], strict=True)
                written = [{ID: i, VALUE: value, KEY: key} for i, value, key in batch]
                milvus.call("insert", name, written, timeout=WRITE_SECONDS)
                progress("store", rows.stop, len(keys))
            milvus.call("flush", name, timeout=WRITE_SECONDS)
            milvus.run(lambda client: _index(client, name, index))
            _wait_indexed(milvus, name, progress)
            milvus.call("load_collection", name, timeout=WRITE_SECONDS)
            store = cls(milvus, name, values, keys.shape[1], factory, own_keys=keys)
            store.check()
            some = np.unique(np.linspace(0, len(keys) - 1, min(SPOT_CHECKS, len(keys))).astype(np.int64))
            kept, labels = store._read(some)
            if not (np.allclose(kept, keys[some], atol=1e-6) and (labels == values[some]).all()):
                raise StoreError(f"{name} has other keys than were put into it")
        except BaseException:
            drop(milvus, name)
            raise
        return store

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search looks at every entry."""
        return not self._index.search_settings

    @property
    def is_unreachable(self) -> bool:
        """Whether the server does not answer now."""
        return self._reach.is_unreachable

    def search_settings(self) -> list[SearchInfo]:
        """The search settings worth trying, cheapest first; none where every entry is looked at."""
        return self._index.search_settings

    def with_search(self, search: SearchInfo) -> MilvusStore:
        """The same collection, searched in another way."""
        return MilvusStore(
            self._milvus, self.collection, self.values, self.dim, self.factory, search, self._reach, self._own_keys
        )

    def copied(self, generation: str, keys: Floats, progress: Progress) -> MilvusStore:
        """Another generation's collection of its keys (N,D)."""
        return MilvusStore.build(self._milvus, generation, keys, self.values, self.factory, progress)

    def drop(self) -> None:
        """Remove the collection, if that can be."""
        drop(self._milvus, self.collection)

    def lose(self, why: str) -> None:
        """Take the server for unreachable until it answers."""
        self._reach.lose(why)

    def check(self) -> None:
        """Hold the collection to what the bundle says: its dimension and count, and that it is loaded.

        Raises:
            StoreError: it is another one, or there is none.
            StoreUnreachableError: the server does not answer.
        """
        check_collection(self._milvus, self.collection, self.dim, self.count)

    def search(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> Neighbors:
        """Search; queries without k entries get id -1 for the rest.

        Raises:
            StoreUnreachableError: no answer came in time; or none did before, and it is not back yet.
            StoreError: k is beyond what Milvus serves, or too few of the entries in ``mask`` are within it.
        """
        nearest = min(k, self.count)
        if nearest > MAX_K:
            raise StoreError(f"Milvus finds at most {MAX_K:,} neighbours, not {nearest:,}")
        if mask is not None:
            similarities, ids = self._search_among(queries, nearest, mask)
        else:
            similarities, ids = self._reach(lambda: self._search(queries, nearest))
        return ordered(similarities, ids, self.values, k)

    def _search_among(self, queries: Floats, k: int, mask: NDArray[np.bool_]) -> tuple[Floats, Ints]:
        """Search for more and leave out what is not in the mask: a list of ids would be longer than a message may."""
        share = mask.mean() if len(mask) else 1.0
        fewest = k = min(k, int(mask.sum()))
        wanted = min(int(1.1 * k / max(share, 1e-9)) + 32, self.count, MAX_K)
        while True:
            found = self.search(queries, wanted)
            is_meant = (found.ids >= 0) & mask[np.maximum(found.ids, 0)]
            if (is_meant.sum(axis=1) >= fewest).all():
                break
            if wanted >= min(self.count, MAX_K):
                raise StoreError(f"fewer than {fewest:,} of the entries asked for are among the {wanted:,} nearest")
            wanted = min(2 * wanted, self.count, MAX_K)
        columns = np.argsort(~is_meant, axis=1, kind="stable")[:, :fewest]
        return tuple(np.take_along_axis(part, columns, axis=1) for part in found[:2])  # type: ignore[return-value]

    def _search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        at_once = max(1, MAX_K * 16 // k)
        for rows in _rows(len(queries), min(MAX_K, at_once)):
            hits = self._milvus.call(
                "search",
                self.collection,
                np.ascontiguousarray(queries[rows], np.float32),
                limit=k,
                anns_field=KEY,
                search_params={"metric_type": "IP", "params": self._index.search(self.search_info, k)},
                consistency_level=CONSISTENCY,
                timeout=self._milvus.settings.timeout_s,
            )
            for row, found in zip(range(rows.start, rows.stop), hits, strict=True):
                ids[row, : len(found)] = found.ids
                similarities[row, : len(found)] = found.distances
        return similarities, ids

    def _try(self) -> None:
        """Raises what stands against searching the collection."""
        self.check()
        self._search(np.eye(1, self.dim, dtype=np.float32), 1)

    def chunks(self) -> Iterator[tuple[Floats, Ints]]:
        """All keys and values, read from the server in order of id."""
        for part in parts(self.count, self.dim):
            if self._own_keys is not None:
                yield self._own_keys[part], self.values[part]
                continue
            at_once = (np.arange(part.start, part.stop)[rows] for rows in _rows(part.stop - part.start, READ_ROWS))
            yield np.concatenate([self._read(ids)[0] for ids in at_once]), self.values[part]

    def _read(self, ids: Ints) -> tuple[Floats, Ints]:
        """Keys (n,D) and values (n,) of some entries, n being at most READ_ROWS."""
        found = self._milvus.call(
            "query", self.collection, ids=ids.tolist(), output_fields=[ID, VALUE, KEY], timeout=WRITE_SECONDS
        )
        rows = sorted(found, key=lambda row: int(row[ID]))
        if [int(row[ID]) for row in rows] != ids.tolist():
            raise StoreError(f"collection {self.collection} lacks some of the entries {ids[0]:,} to {ids[-1]:,}")
        return np.array([row[KEY] for row in rows], np.float32), np.array([row[VALUE] for row in rows], np.int64)


def check_collection(milvus: Milvus, name: str, dim: int, count: int) -> None:
    """Hold a collection to a bundle's dimension and count, and see that it is loaded.

    Raises:
        StoreError: it is another one, or there is none.
        StoreUnreachableError: the server does not answer.
    """
    if not milvus.call("has_collection", name):
        raise StoreError(f"the Milvus server at {milvus.address} has no collection {name}")
    fields = {field["name"]: field for field in milvus.call("describe_collection", name)["fields"]}
    found = int(fields.get(KEY, {}).get("params", {}).get("dim", 0))
    if found != dim:
        raise StoreError(f"collection {name} has keys of {found} numbers, the bundle's have {dim}")
    if not is_loaded(milvus, name):
        milvus.call("load_collection", name, timeout=WRITE_SECONDS)
    kept = count_of(milvus, name)
    if kept != count:
        raise StoreError(f"collection {name} has {kept:,} keys, the bundle says {count:,}")


def is_loaded(milvus: Milvus, collection: str) -> bool:
    """Whether a collection is there and can be searched."""
    if not milvus.call("has_collection", collection):
        return False
    return str(milvus.call("get_load_state", collection)["state"]).endswith("Loaded")


def count_of(milvus: Milvus, collection: str) -> int:
    """How many rows a loaded collection has, all writes that were acknowledged among them."""
    options: dict[str, Any] = {"output_fields": ["count(*)"], "consistency_level": "Strong"}
    found = milvus.call("query", collection, filter="", timeout=WRITE_SECONDS, **options)
    return int(found[0]["count(*)"])


def drop(milvus: Milvus, collection: str) -> bool:
    """Remove a collection; whether that could be done."""
    try:
        milvus.call("drop_collection", collection, timeout=WRITE_SECONDS)
    except (StoreError, StoreUnreachableError):
        return False
    return True


def _create(client: Any, name: str, dim: int) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(ID, DataType.INT64, is_primary=True)
    schema.add_field(VALUE, DataType.INT32)
    schema.add_field(KEY, DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(name, schema=schema, consistency_level=CONSISTENCY, timeout=WRITE_SECONDS)


def _index(client: Any, name: str, index: MilvusIndex) -> None:
    parameters = client.prepare_index_params()
    parameters.add_index(KEY, index_type=index.kind, metric_type="IP", params=index.build)
    client.create_index(name, parameters, timeout=WRITE_SECONDS, sync=False)


def _wait_indexed(milvus: Milvus, name: str, progress: Progress) -> None:
    seen = -1
    while True:
        told = milvus.call("describe_index", name, KEY, timeout=WRITE_SECONDS) or {}
        total, done = int(told.get("total_rows", 0)), int(told.get("indexed_rows", 0))
        if done != seen:
            progress("index", done, max(total, 1))
            seen = done
        if str(told.get("state", "Finished")) == "Failed":
            raise StoreError(f"Milvus cannot index {name}: {told.get('index_state_fail_reason', '')}")
        if int(told.get("pending_index_rows", 0)) == 0 and str(told.get("state", "Finished")) == "Finished":
            return
        time.sleep(0.2)


def _rows(count: int, at_once: int) -> Iterator[slice]:
    step = max(1, at_once)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
