"""Indexes of a few images, and what they keep of what they embedded."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.embedding.kept_features import Counts
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.images import Limits
from tests.images_for_tests import COLOURS, make_shades
from tests.networks_for_tests import SIDE, colour_classifier, written

FIXED = IndexOptions(parameters=Parameters(20.0, 0.5, 5))
ALONE = IndexOptions(parameters=Parameters(20.0, 1.0, 5))
MIXED = IndexOptions()
DAMAGED = "green/cut.png"


@pytest.fixture
def shades(tmp_path: Path) -> Path:
    """Images of three classes, one of them cut short."""
    folder = make_shades(tmp_path / "shades")
    whole = (folder / "green" / "00.png").read_bytes()
    (folder / DAMAGED).write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> FromNetwork:
    folder = tmp_path_factory.mktemp("network")
    (folder / "how.json").write_text(
        json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}, "is_certain": True})
    )
    return FromNetwork(str(written(colour_classifier(COLOURS), folder)), preprocess=folder / "how.json")


@pytest.fixture(scope="module")
def source(network: FromNetwork, tmp_path_factory: pytest.TempPathFactory) -> FromBundle:
    """The same as a bundle's encoder, for which nothing is measured."""
    folder = tmp_path_factory.mktemp("source")
    return FromBundle(
        folder / "root", index(load(str(make_shades(folder / "shades"))), folder / "root", network, FIXED)
    )


def built(
    folder: Path, root: Path, source: EncoderSource, options: IndexOptions = MIXED, limits: Limits | None = None
) -> tuple[Bundle, Counts]:
    counts = Counts()
    dataset = load(str(folder), limits=limits or Limits(10**6))
    generation = index(dataset, root, source, options, counts=counts)
    return open_bundle(root, generation), counts


def keys(bundle: Bundle) -> np.ndarray[Any, Any]:
    return np.concatenate([chunk for chunk, _ in bundle.store.chunks()])


def table(bundle: Bundle) -> tuple[list[Any], list[Any]]:
    """All entries, and the sheets."""
    with sqlite3.connect(bundle.path / "entries.sqlite") as connection:
        entries = connection.execute("SELECT * FROM entries JOIN images ON images.id = image ORDER BY 1").fetchall()
        return entries, connection.execute("SELECT * FROM sheets ORDER BY id").fetchall()


def pictures(bundle: Bundle) -> list[bytes | None]:
    return [bundle.entries.thumbnail(entry) for i in range(bundle.entries.count) if (entry := bundle.entries.get(i))]


def same(one: Bundle, other: Bundle) -> None:
    """Hold one bundle to another one of the same images."""
    assert one.entries.sources() == other.entries.sources()
    assert one.store.values.tolist() == other.store.values.tolist()
    np.testing.assert_allclose(keys(one), keys(other), atol=1e-6)
    for name in ("dataset", "classes", "holdout", "features", "head", "recipe", "k", "lam", "theta"):
        assert getattr(one.manifest, name) == getattr(other.manifest, name), name
    with np.load(one.path / "looks.npz") as a, np.load(other.path / "looks.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], name)


def files(root: Path) -> list[Path]:
    return sorted((root / "features").rglob("*.npz"))
