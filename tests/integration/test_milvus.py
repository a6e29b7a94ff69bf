"""Keys in a real Milvus server: what is put there, what is refused, what is left behind."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from secondlook.cli import main
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import silent
from secondlook.indexer.refit import refit
from secondlook.model.added.milvus_mirror import Mirror
from secondlook.model.added.overlay import Overlay
from secondlook.model.bundles import milvus_generations as milvus_root
from secondlook.model.bundles import root as roots
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import Sweeper, named_generation
from secondlook.model.errors import BundleError, StoreError
from secondlook.model.stores.added_keys import added_id
from secondlook.model.stores.milvus_server import Milvus
from secondlook.model.stores.milvus_store import MilvusStore, collection_of
from secondlook.model.stores.store import ExactStore
from tests.milvus_for_tests import MilvusProcess

pytestmark = pytest.mark.cluster

OLD, NEW = "20200101T000000Z-0001", "20990101T000000Z-0001"


@pytest.fixture(scope="module")
def connected(milvus: MilvusProcess) -> Iterator[Milvus]:
    connected = milvus.connect(cache="integration", timeout_s=20, grace_s=0)
    yield connected
    for collection in connected.call("list_collections"):
        for alias in connected.call("list_aliases", collection)["aliases"]:
            connected.call("drop_alias", alias)
        connected.call("drop_collection", collection, timeout=30)


@pytest.fixture(scope="module")
def root(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("milvus") / "bundles"))


@pytest.fixture(scope="module")
def generation(root: Path, colour_folder: Path, connected: Milvus) -> str:
    options = IndexOptions(store="milvus", thumbnails=False)
    return index(load(str(colour_folder)), root, FromBundle(root), options, milvus=connected)


def unit(seed: int, count: int, dim: int = 24) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("factory", ["IVF_FLAT,8", "IVF_SQ8,8", "HNSW,16"])
def test_an_index_finds_what_the_reference_finds_and_more_effort_more(connected: Milvus, factory: str) -> None:
    keys, values = unit(0, 3000), np.arange(3000) % 7
    store = MilvusStore.build(connected, roots.new_generation(), keys, values, factory, silent)
    expected = ExactStore(keys, values).search(unit(2, 40), 20)
    found = [
        store.with_search(settings).search(unit(2, 40), 20)
        for settings in (store.search_settings()[0], store.search_settings()[-1])
    ]
    shared = [
        np.mean([len(np.intersect1d(*pair)) for pair in zip(one.ids, expected.ids, strict=True)]) for one in found
    ]
    assert shared[0] <= shared[1]
    assert shared[1] > (15 if "SQ8" in factory else 19.9)
    np.testing.assert_array_equal(found[1].values, values[found[1].ids])
    mask = np.arange(3000) % 5 == 0
    some = store.with_search(store.search_settings()[-1]).search(unit(2, 40), 20, mask)
    assert mask[some.ids].all()
    store.drop()


def test_a_bundle_in_milvus_answers_as_one_in_faiss(root: Path, generation: str, connected: Milvus) -> None:
    there, here = open_bundle(root, generation, milvus=connected), open_bundle(root)
    assert there.store.count == here.store.count == 60
    queries = unit(1, 30, there.store.dim)
    ours, theirs = there.store.search(queries, 60), here.store.search(queries, 60)
    np.testing.assert_allclose(ours.similarities, theirs.similarities, atol=1e-4)
    assert read_manifest(root, generation).k == read_manifest(root, here.manifest.generation).k


def test_a_fit_of_it_has_a_collection_of_its_own(
    root: Path, generation: str, connected: Milvus, colour_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDLOOK_MILVUS__ADDRESS", connected.address)
    monkeypatch.setenv("SECONDLOOK_MILVUS__CACHE", "integration")
    monkeypatch.setenv("SECONDLOOK_MILVUS__TIMEOUT_S", "20")
    again = refit(load(str(colour_folder)), root, generation, (5, 10))
    assert open_bundle(root, again).store.count == 60
    assert read_manifest(root, again).store.collection == collection_of("integration", again)


def test_an_index_that_fails_leaves_no_collection(
    root: Path, connected: Milvus, colour_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise BundleError("the disk is full")

    before = connected.call("list_collections")
    monkeypatch.setattr("secondlook.model.bundles.bundle.commit", fail)
    with pytest.raises(BundleError, match="the disk is full"):
        index(load(str(colour_folder)), root, FromBundle(root), IndexOptions(store="milvus:FLAT"), milvus=connected)
    assert sorted(connected.call("list_collections")) == sorted(before)


def test_the_alias_is_the_switch_and_goes_for_a_generation_of_the_folder(
    root: Path, generation: str, connected: Milvus
) -> None:
    (first, *_) = roots.generations(root)
    milvus_root.activate(root, generation, connected)
    assert named_generation(connected) == roots.active_generation(root) == generation
    # A crash between the two: the alias is what counts.
    roots.activate(root, first)
    assert milvus_root.active_generation(root, connected) == generation
    milvus_root.activate(root, first, connected)
    assert named_generation(connected) is None
    assert milvus_root.active_generation(root, connected) == first


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"count": 61}, "has 60 keys, the bundle says 61"),
        ({"dim": 99}, "has keys of 16"),
        ({"collection": "x"}, "has no"),
    ],
)
def test_the_alias_never_names_another_collection_than_the_bundles(
    root: Path, generation: str, connected: Milvus, tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    other = Path(shutil.copytree(root, tmp_path / "bundles"))
    manifest = read_manifest(other, generation)
    dim = manifest.store.dim
    manifest = manifest.model_copy(update={"store": manifest.store.model_copy(update=changed)})
    (other / generation / "manifest.json").write_text(manifest.model_dump_json())
    before, current = named_generation(connected), roots.active_generation(other)
    with pytest.raises(StoreError, match=why.replace("16", str(dim))):
        milvus_root.activate(other, generation, connected)
    assert (named_generation(connected), roots.active_generation(other)) == (before, current)
    with pytest.raises(BundleError, match="is refused"):
        open_bundle(other, generation, milvus=connected)


def test_collections_go_with_their_generations_and_no_sooner(root: Path, generation: str, connected: Milvus) -> None:
    def make(name: str) -> str:
        connected.run(lambda client: client.create_collection(name, dimension=8, timeout=30))
        return name

    sweeper = Sweeper(connected, root)
    own = collection_of("integration", generation)
    old, old_taught = make(collection_of("integration", OLD)), make(collection_of("integration", OLD) + "_taught")
    young, other = make(collection_of("integration", NEW)), make(collection_of("integrations", OLD))
    connected.call("create_alias", old, "integration")
    assert sweeper.sweep() == []  # the alias names it
    connected.call("drop_alias", "integration")
    assert sorted(sweeper.sweep()) == [old, old_taught]
    left = connected.call("list_collections")
    assert {own, young, other} <= {*left}
    # One that this process saw is dropped when it is gone, however young it is.
    (root / NEW).mkdir()
    assert sweeper.sweep() == []
    (root / NEW).rmdir()
    assert sweeper.sweep() == [young]


def test_what_was_taught_is_the_same_on_the_other_side(root: Path, generation: str, connected: Milvus) -> None:
    bundle = open_bundle(root, generation, milvus=connected)
    mirror, dim = Mirror(connected, generation, bundle.store.dim), bundle.store.dim
    nothing = Overlay(bundle)
    assert mirror.replayed(nothing) is nothing

    def same(ours: Overlay, theirs: Overlay) -> bool:
        return told(ours) == told(theirs)

    def told(overlay: Overlay) -> object:
        taught = [(number, overlay.label(of.code), of.ids.tolist(), of.keys.tolist()) for number, of in overlay.added]
        places, codes = overlay.corrections.positions.tolist(), overlay.corrections.codes.tolist()
        corrections = [(place, overlay.label(code)) for place, code in zip(places, codes, strict=True)]
        return overlay.change, overlay.token, dict(overlay.labels), taught, corrections

    def copies(seed: int) -> dict[bool, np.ndarray]:
        return dict(zip((False, True), unit(seed, 2, dim), strict=True))

    first = nothing.changed(
        4,
        b"four",
        labels={1: "zebra", 2: "ant"},
        images={1: ("zebra", copies(1)), 7: ("red", copies(2))},
        corrections={0: None, 3: "ant"},
    )
    mirror.publish(first, nothing)
    follower = mirror.replayed(nothing)
    assert same(follower, first)
    assert follower.store.search(unit(1, 1, dim), 1).ids.tolist() == [[added_id(1)]]
    # Removed, relabelled, given back, and new ones; more than one call's worth.
    second = first.changed(
        9,
        b"nine",
        labels={3: "bee"},
        images={1: None, 7: ("bee", {}), **{n: ("red", {False: unit(n, 1, dim)[0]}) for n in range(10, 1500)}},
        corrections={0: bundle.manifest.classes[bundle.store.values[0]], 3: None},
    )
    mirror.publish(second, first)
    assert same(mirror.replayed(follower), second)
    assert same(mirror.replayed(nothing), second)
    assert mirror.replayed(second) is second
    # A journal that was put back from a copy has fewer changes.
    back = replace(first, change=5, token=b"five")
    mirror.publish(back, second)
    assert same(mirror.replayed(follower), back)
    assert same(mirror.replayed(second), back)
    # Or as many, which are others.
    again = first.changed(5, b"another", labels={}, images={7: None}, corrections={})
    mirror.publish(again, back)
    assert same(mirror.replayed(back), again)


def test_keys_that_are_not_finite_are_not_sent(connected: Milvus) -> None:
    keys = unit(0, 10)
    keys[3, 2] = np.nan
    with pytest.raises(StoreError, match="not finite"):
        MilvusStore.build(connected, OLD, keys, np.zeros(10, np.int64), "FLAT", silent)
    assert collection_of("integration", OLD) not in connected.call("list_collections")


def test_a_server_that_is_too_old_is_refused(milvus: MilvusProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.model.stores.milvus_server.OLDEST", (99, 1))
    with pytest.raises(StoreError, match=r"is of version v2\.3\.5.*at least 99\.1 is needed"):
        milvus.connect().call("list_collections")


@pytest.mark.parametrize(
    ("options", "address", "why"),
    [
        (["--store", "milvus:FLAT"], "http://127.0.0.1:1", "no Milvus server answers at http://127.0.0.1:1"),
        (["--store", "milvus:FLAT"], None, "set SECONDLOOK_MILVUS__ADDRESS"),
        (["--store", "milvus:FLOT"], "http://127.0.0.1:1", "there is no store milvus:FLOT"),
    ],
)
def test_the_command_says_in_a_sentence_what_is_wrong(
    root: Path,
    colour_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    address: str | None,
    why: str,
) -> None:
    monkeypatch.delenv("SECONDLOOK_MILVUS__ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("SECONDLOOK_MILVUS__ADDRESS", address)
    before = roots.generations(root)
    monkeypatch.setattr("sys.argv", ["secondlook", "index", str(colour_folder), "--bundles", str(root), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr().err.strip().splitlines()
    assert ended.value.code != 0
    assert why in said[-1]
    assert roots.generations(root) == before


def test_a_wrong_token_is_named(milvus: MilvusProcess, tmp_path: Path) -> None:
    milvus.kill()  # one at a time
    secured = MilvusProcess(tmp_path / "secured", secured=True)
    try:
        secured.start()
        right = secured.connect(token=SecretStr("root:Milvus"), timeout_s=20)
        assert right.call("list_collections") == []
        for token in ("", "root:wrong"):
            with pytest.raises(StoreError, match="refuses the token: set SECONDLOOK_MILVUS__TOKEN"):
                secured.connect(token=SecretStr(token), timeout_s=20).call("list_collections")
    finally:
        secured.kill()
        milvus.start()
