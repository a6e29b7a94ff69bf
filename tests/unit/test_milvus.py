"""What there is to know of Milvus without a server."""

import gc
import threading

import pytest

from secondlook.model.errors import ParameterError, StoreError, StoreUnreachableError
from secondlook.model.manifest import SearchInfo, StoreInfo
from secondlook.model.stores.factory import check_k
from secondlook.model.stores.milvus_server import MilvusSettings, Reach
from secondlook.model.stores.milvus_store import MilvusIndex, chosen, collection_of, generation_of
from secondlook.service.settings import Settings
from tests.e2e.conftest import until

GENERATION = "20261126T172609Z-652e"


@pytest.mark.parametrize("factory", ["FLAT", "IVF_FLAT,1024", "IVF_SQ8,16", "HNSW,32", "DISKANN"])
def test_an_index_is_read(factory: str) -> None:
    index = MilvusIndex.of(factory)
    assert factory == index.kind + (f",{index.number}" if index.number else "")
    for settings in index.search_settings:
        assert set(index.search(settings, 50)) <= {"nprobe", "ef", "search_list"}
        assert all(value >= 50 for name, value in index.search(settings, 50).items() if name != "nprobe")


@pytest.mark.parametrize(
    "factory", ["", "flat", "IVF_FLAT", "IVF_FLAT,0", "HNSW", "HNSW,2", "HNSW,65", "FLAT,1", "PQ8"]
)
def test_an_index_that_there_is_none_of_is_refused(factory: str) -> None:
    with pytest.raises(StoreError, match="there is no store milvus:"):
        MilvusIndex.of(factory)


def test_the_index_is_chosen_by_the_number_of_entries() -> None:
    assert chosen("milvus", 1000)[0] == "FLAT"
    assert MilvusIndex.of(chosen("milvus", 10**8)[0]).kind == "HNSW"
    assert chosen("milvus:DISKANN", 1000) == ("DISKANN", "")
    assert chosen("milvus:IVF_SQ8", 10**6) == ("IVF_SQ8,2048", "")
    for given in ("milvus:HNSW", "milvus:IVF_FLAT", "milvus:IVF_FLAT,7", "milvus"):
        MilvusIndex.of(chosen(given, 2)[0])


def test_more_lists_than_there_are_are_not_asked_for() -> None:
    assert MilvusIndex.of("IVF_FLAT,8").search(SearchInfo(lists=100), 5) == {"nprobe": 8}
    assert MilvusIndex.of("IVF_FLAT,8").search(SearchInfo(), 5) == {"nprobe": 8}


def test_a_collection_is_its_generations_and_its_caches() -> None:
    name = collection_of("birds", GENERATION)
    assert name.isidentifier()
    assert generation_of("birds", name) == GENERATION
    assert generation_of("bird", name) is None
    assert generation_of("birds", "birds_of_prey") is None
    # A cache whose name begins with another's.
    assert generation_of("birds", collection_of("birds_2", GENERATION)) is None


@pytest.mark.parametrize("k", [None, 16_385])
def test_a_k_that_milvus_cannot_serve_is_refused(k: int | None) -> None:
    store = StoreInfo(kind="milvus", factory="FLAT", dim=8, count=10)
    check_k(16_384, store)
    with pytest.raises(ParameterError, match="at most 16,384 with keys in Milvus"):
        check_k(k, store)


@pytest.mark.parametrize(
    "wrong", [{"address": "milvus:19530"}, {"cache": "a-b"}, {"timeout_s": 0}, {"when_away": "guess"}, {"port": 1}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MilvusSettings(**({"address": "http://127.0.0.1:19530"} | wrong))


def test_a_replica_needs_a_primary_to_follow() -> None:
    with pytest.raises(ValueError, match="SECONDLOOK_MILVUS__ADDRESS"):
        Settings(replica=True)


class Place:
    """Something that can be reached or not, and counts how often it was tried."""

    def __init__(self) -> None:
        self.error: Exception | None = StoreUnreachableError("it is gone")
        self.calls = self.probes = 0
        self.reach = Reach("the place", self.probe)

    def call(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "there"

    def probe(self) -> None:
        self.probes += 1
        if self.error is not None:
            raise self.error


def test_after_a_failure_nobody_waits_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.model.stores.milvus_server.PROBE_SECONDS", 0.01)
    place = Place()
    for _ in range(5):
        with pytest.raises(StoreUnreachableError, match="it is gone"):
            place.reach(place.call)
    assert place.calls == 1
    assert place.reach.is_unreachable
    until(lambda: place.probes > 2, 5)
    place.error = RuntimeError("something unforeseen")  # the one that looks out goes on
    until(lambda: "unforeseen" in str(place.reach._why), 5)
    place.error = None
    until(lambda: not place.reach.is_unreachable, 5)
    assert place.reach(place.call) == "there"


def test_a_refused_call_counts_as_away() -> None:
    place = Place()
    place.error = StoreError("a node was lost")
    with pytest.raises(StoreUnreachableError, match="a node was lost"):
        place.reach(place.call)
    assert place.reach.is_unreachable


def test_what_nobody_holds_is_looked_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.model.stores.milvus_server.PROBE_SECONDS", 0.01)
    place, before = Place(), threading.enumerate()
    place.reach.lose("it is gone")
    looking = [thread for thread in threading.enumerate() if thread not in before]
    assert looking
    del place

    def are_over() -> bool:
        gc.collect()  # an error that is kept holds, by its trace, whoever raised it
        return not any(thread.is_alive() for thread in looking)

    until(are_over, 5)
