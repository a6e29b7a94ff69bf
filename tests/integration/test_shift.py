"""The three models under shift, and a cache that is filled anew."""

import json
from pathlib import Path

import numpy as np
import pytest

from secondlook.evaluation.evaluate import evaluate
from secondlook.evaluation.studies.corruptions import shifted
from secondlook.evaluation.studies.shift import OWN, PLAIN, REFILLED, Shift, shift
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import softmax, vote
from secondlook.model.errors import DatasetError, MemoryLimitError
from tests.images_for_tests import make_folder

FAMILIES = ("contrast", "brightness")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("fresh") / "colours"
    make_folder(root, per_class=6)
    return load(str(root), "test")


@pytest.fixture(scope="module")
def found(bundle: Bundle, fresh: Dataset, colour_folder: Path) -> Shift:
    return shift(bundle, fresh, load(str(colour_folder)), images=None, refill=40, families=FAMILIES, strengths=(2, 5))


def test_every_shift_is_measured_with_every_cache(found: Shift) -> None:
    assert [(cell.family, cell.strength) for cell in found.cells] == [
        ("", 0), *((family, strength) for family in FAMILIES for strength in (2, 5))
    ]  # fmt: skip
    assert (found.images, found.refill, found.entries) == (18, 40, 60)
    for cell in found.cells:
        assert {cache: set(models) for cache, models in cell.metrics.items()} == {
            OWN: {"network", "mixed", "cache_only"}, PLAIN: {"mixed", "cache_only"}, REFILLED: {"mixed", "cache_only"}
        }  # fmt: skip
    assert [mean.label for mean in found.means] == ["contrast", "brightness", "all"]
    json.dumps(found.as_dict(), allow_nan=False)


def test_images_as_they_are_have_the_errors_that_evaluate_tells(found: Shift, bundle: Bundle, fresh: Dataset) -> None:
    plain, told = found.cells[0].metrics, evaluate(bundle, fresh)
    assert plain[OWN]["network"] == told.network
    assert plain[OWN]["cache_only"] == told.cache_only
    assert plain[PLAIN] == plain[REFILLED]


def test_a_refilled_cache_holds_the_training_images_as_shifted(
    found: Shift, bundle: Bundle, fresh: Dataset, colour_folder: Path
) -> None:
    """Counted anew without the study's own steps."""
    train = load(str(colour_folder))
    taken = np.sort(np.random.default_rng(0).permutation(60)[:40])

    def encode(images: Dataset, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return bundle.engine.encode(np.stack([images.read(int(i), bundle.geometry) for i in positions]))

    asked = encode(shifted(fresh, "contrast", 5), np.arange(18))
    wrong = {}
    for cache, images in ((PLAIN, train), (REFILLED, shifted(train, "contrast", 5))):
        similarities = asked[1] @ encode(images, taken)[1].T
        order = np.argsort(-similarities, axis=1)[:, : bundle.manifest.k]
        near = np.take_along_axis(similarities, order, 1)
        said = vote(near, train.labels[taken][order], found.parameters["cache_theta"] or 0, 3)
        wrong[cache] = 100 * (said.argmax(1) != fresh.labels).mean()
    (cell,) = [cell for cell in found.cells if (cell.family, cell.strength) == ("contrast", 5)]
    assert {cache: cell.metrics[cache]["cache_only"].error_percent for cache in wrong} == pytest.approx(wrong)
    network = 100 * (softmax(asked[0]).argmax(1) != fresh.labels).mean()
    assert cell.metrics[OWN]["network"].error_percent == pytest.approx(network)


def test_means_are_over_strengths_and_families(found: Shift) -> None:
    def error(cache: str, *families: str) -> float:
        return float(np.mean([c.metrics[cache]["mixed"].error_percent for c in found.cells if c.family in families]))

    contrast, _, every = found.means
    assert contrast.error_percent[OWN]["mixed"].value == pytest.approx(error(OWN, "contrast"))
    assert every.error_percent[REFILLED]["mixed"].value == pytest.approx(error(REFILLED, *FAMILIES))
    gained = error(PLAIN, *FAMILIES) - error(REFILLED, *FAMILIES)
    assert every.fewer_errors["mixed"].value == pytest.approx(gained)
    cost = error(PLAIN, *FAMILIES) - found.cells[0].metrics[PLAIN]["mixed"].error_percent
    assert every.regained["mixed"] == (pytest.approx(gained / cost) if cost > 0 else None)


def test_tables_and_plots_show_it(found: Shift, tmp_path: Path) -> None:
    tables = found.tables()
    assert [len(table.rows) for table in tables] == [3, 3, 3, 5]
    assert "mixed, refilled" in tables[-1].columns
    names = [figure.name for figure in found.figures()]
    assert names == ["shift", "refilled"]
    found.figures()[1].write(tmp_path / "refilled.png")
    assert (tmp_path / "refilled.png").stat().st_size > 10_000


def test_without_training_images_only_the_bundles_cache_is_asked(bundle: Bundle, fresh: Dataset) -> None:
    found = shift(bundle, fresh, images=4, families=("jpeg_compression",), strengths=(1,))
    assert (found.images, found.refill) == (4, 0)
    assert [len(table.rows) for table in found.tables()] == [2, 2]
    assert [figure.name for figure in found.figures()] == ["shift"]


def test_a_cache_of_what_is_asked_is_refused(bundle: Bundle, fresh: Dataset) -> None:
    with pytest.raises(DatasetError, match="has one set of images only"):
        shift(bundle, fresh, fresh)


def test_what_does_not_fit_is_refused_before_anything_is_embedded(
    bundle: Bundle, fresh: Dataset, colour_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.model.memory.available_bytes", lambda: 1000)
    with pytest.raises(MemoryLimitError, match="refilling with 60 images"):
        shift(bundle, fresh, load(str(colour_folder)), progress=lambda *_: pytest.fail("embedded"))
