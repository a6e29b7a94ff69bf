"""Error by size of the cache and by layer, on a real bundle of plain colours."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.evaluation.studies.curves import Curves, Queries, curves, merged
from secondlook.evaluation.studies.layers import default_layers
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import NETWORK
from secondlook.model.cache import softmax
from secondlook.model.errors import DatasetError, RecipeError
from secondlook.model.intervals import Interval
from tests.images_for_tests import make_folder

LAYERS = ("stem", "pool")


@pytest.fixture(scope="module")
def train(colour_folder: Path) -> Dataset:
    return load(str(colour_folder))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("fresh") / "colours"
    make_folder(root, per_class=6)
    return load(str(root), "test")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, train: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Like the tiny one, with mirrored copies."""
    root = tmp_path_factory.mktemp("mirrored")
    options = IndexOptions(mirror=True, parameters=Parameters(20.0, 0.5, 5))
    return open_bundle(root, index(train, root, FromBundle(tiny_bundle), options))


@pytest.fixture(scope="module")
def found(bundle: Bundle, fresh: Dataset, train: Dataset) -> Curves:
    return curves(bundle, fresh, train, images=None, held=None, cached=30, shares=(0.1, 1.0), layers=LAYERS)


def test_caches_hold_what_they_say_and_never_the_holdout(found: Curves) -> None:
    # 60 images, 6 of them held out.
    sizes = [(point.label, point.mirrored, point.entries) for point in found.sizes]
    assert sizes == [("10 %", False, 5), ("10 %", True, 10), ("100 %", False, 54), ("100 %", True, 108)]
    assert (found.images, found.held, found.k) == (18, 6, 5)
    own = "this bundle's recipe"
    expected = [(name, copies) for name in (*LAYERS, "the paper's three", own) for copies in (30, 60)]
    assert [(point.label, point.entries) for point in found.layers] == expected
    assert [point.dim for point in found.layers[::2]] == [16 * 32 * 32, 64, 12288, 16 + 64]
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_whole_cache_is_all_entries_outside_the_holdout(
    found: Curves, bundle: Bundle, fresh: Dataset, train: Dataset
) -> None:
    """Searched anew by the store itself."""
    held = {train.source(int(position)) for position in train.holdout()}
    kept = np.array([source not in held for source in bundle.entries.sources()])
    asked = embed_queries(fresh, np.arange(18), bundle)
    fitted = embed_queries(train, train.holdout(), bundle)
    keys = np.concatenate((asked.keys, fitted.keys))
    near = bundle.store.search(keys, 5, kept)
    queries = Queries(
        softmax(np.concatenate((asked.logits, fitted.logits))), np.concatenate((asked.labels, fitted.labels)), 6
    )
    assert found.sizes[-1] == queries.point("100 %", (near.similarities, near.values), 5, 108, True, 80)


def test_the_bundles_recipe_by_layer_has_the_servers_keys(
    bundle: Bundle, fresh: Dataset, train: Dataset, found: Curves
) -> None:
    whole = curves(bundle, fresh, train, images=None, held=None, cached=None, shares=(1.0,), layers=())
    by_size, by_layer = whole.sizes[-1], whole.layers[-1]
    assert by_layer.entries == by_size.entries == 108
    assert by_layer.nll == pytest.approx(by_size.nll, rel=1e-3)
    assert by_layer.error_percent == by_size.error_percent
    assert (by_layer.theta, by_layer.lam) == (by_size.theta, by_size.lam)
    # A fixed choice of images is the same however it is asked for.
    assert found.sizes[-1] == by_size


def test_nearest_entries_of_two_searches_are_merged_in_order() -> None:
    one = np.array([[0.9, 0.5]], np.float32), np.array([[1, 2]])
    other = np.array([[0.7, 0.6, 0.1]], np.float32), np.array([[3, 4, 5]])
    similarities, values = merged(one, other, 3)
    assert values.tolist() == [[1, 3, 4]]
    np.testing.assert_allclose(similarities, [[0.9, 0.7, 0.6]])


def test_layers_go_from_first_to_last() -> None:
    assert default_layers(20) == ["stem", *(f"stage{s}.block{b}" for s in (1, 2, 3) for b in (1, 2, 3)), "pool"]
    assert "stage3.block3" in default_layers(32)
    assert default_layers(56)[-2] == "stage3.block9"


def test_tables_and_plots_show_it(found: Curves, tmp_path: Path) -> None:
    sizes, layers = found.tables()
    assert [row[0] for row in sizes.rows] == ["10 %", "10 %", "100 %", "100 %"]
    assert layers.rows[0][:4] == ("stem", "no", "30", "16,384")
    names = []
    for figure in found.figures():
        names.append(figure.name)
        figure.write(tmp_path / f"{figure.name}.png")
        assert (tmp_path / f"{figure.name}.png").stat().st_size > 10_000
    assert names == ["cache-size", "layer-depth"]


def test_without_the_network_file_there_are_sizes_only(bundle: Bundle, fresh: Dataset, train: Dataset) -> None:
    files = {name: info for name, info in bundle.manifest.files.items() if name != NETWORK}
    exported = replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files}))
    found = curves(exported, fresh, train, images=4, shares=(1.0,))
    assert not found.layers
    assert [figure.name for figure in found.figures()] == ["cache-size"]


def test_mistakes_are_named(bundle: Bundle, fresh: Dataset, train: Dataset) -> None:
    with pytest.raises(DatasetError, match="is not the dataset that generation"):
        curves(bundle, fresh, replace(fresh, split="train"))  # type: ignore[type-var]
    with pytest.raises(RecipeError, match="has no layer 'stage9'"):
        curves(bundle, fresh, train, shares=(1.0,), layers=("stage9",))


def test_the_title_claims_a_gain_only_where_the_interval_does(found: Curves) -> None:
    def title(gain: Interval) -> str:
        layers = tuple(replace(p, fewer_errors={"mixed": gain}) for p in found.layers)
        return replace(found, layers=layers).figures()[1].title

    assert "gains most with stem: 0.9 (0.2 to 1.6) points" in title(Interval(0.9, 0.2, 1.6))
    assert "With 60 entries, no keys" in title(Interval(0.9, -0.1, 1.9))
