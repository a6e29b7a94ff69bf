"""A cache of nothing, what it is taught, and what becomes of that: no class and no entry is a case of each step."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import secondlook
from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.index import UNTIL_FITTED, IndexOptions, index
from secondlook.indexer.refit import recalibrate, refit
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import activate
from secondlook.model.errors import BundleError, NothingTaughtError, SecondlookError
from secondlook.model.journal import Journal, NewImage
from secondlook.model.manifest import Manifest
from secondlook.service.generations.acceptance import check_canary
from secondlook.service.schemas import taught_info
from tests.images_for_tests import make_image, striped
from tests.networks_for_tests import colour_backbone, colour_classifier, written

Seeds = Mapping[str, list[int]]
"""Pictures of each colour; the same number twice is the same picture twice."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(colour_backbone(), tmp_path_factory.mktemp("networks"), "backbone")


@pytest.fixture
def root(backbone: Path, tmp_path: Path) -> Path:
    """A root that begins with nothing."""
    made = tmp_path / "bundles"
    activate(made, index(nothing(), made, FromNetwork(str(backbone)), IndexOptions()))
    return made


def image(label: str, seed: int) -> bytes:
    return striped(seed) if label == "striped" else make_image(label, seed=seed)


def teach(root: Path, seeds: Seeds) -> list[int]:
    """Numbers of all images that a root was taught, then."""
    for label, of in seeds.items():
        Journal(root).add(label, [NewImage(f"{seed}.png", image(label, seed)) for seed in of], "test")
    return [image.number for image in Journal(root).since(0).images if image.label is not None]


def remove(root: Path, numbers: list[int]) -> None:
    for number in numbers:
        Journal(root).correct_image(number, None, "test")


def rebuilt(root: Path, source: EncoderSource | None = None) -> Manifest:
    generation = index(fold(nothing(), Journal(root)), root, source or FromBundle(root), IndexOptions())
    activate(root, generation)
    return read_manifest(root, generation)


def answers(root: Path, *labels: str) -> list[str]:
    classifier = secondlook.open(root)
    return [classifier.predict(image(label, 99)).label for label in labels]


def test_a_bundle_of_nothing_is_whole_and_says_that_it_knows_nothing(root: Path) -> None:
    bundle = open_bundle(root, even_empty=True)
    manifest = bundle.manifest
    assert (manifest.classes, manifest.store.count, manifest.head, manifest.dataset.images) == ((), 0, "none", 0)
    assert ((manifest.theta, manifest.lam, manifest.k), manifest.parameters_from) == (UNTIL_FITTED, "given")
    assert manifest.is_taught_alone
    predictor = Predictor(bundle)
    check_canary(predictor)
    images = np.zeros((2, *bundle.engine.size, 3), np.uint8)
    for answer in predictor.predict(images, [predictor.defaults] * 2, 5):
        assert isinstance(answer, Answer)
        assert (answer.mixed.shape, answer.has_cache, answer.has_network, answer.ids.size) == ((0,), False, False, 0)
        assert np.linalg.norm(answer.key) == pytest.approx(1, abs=1e-3)
    assert [found.ids.tolist() for found in predictor.search(images[:, 0, 0].astype(np.float32), 3)]
    mapped = open_bundle(root, mapped=True, even_empty=True)
    assert mapped.store.search(np.ones((1, mapped.store.dim), np.float32), 3).ids.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("act", [open_bundle, lambda root: refit(None, root, _generation(root))])
def test_what_measures_a_cache_says_that_there_is_none(act: Callable[[Path], object], root: Path) -> None:
    with pytest.raises(BundleError, match=r"has no entries: teach images to a server of .*secondlook index PHOTOS"):
        act(root)


def test_a_question_is_refused_and_a_search_finds_nothing(root: Path) -> None:
    classifier = secondlook.open(root)
    assert classifier.classes == ()
    with pytest.raises(NothingTaughtError, match="nothing is known yet: teach images of a first class"):
        classifier.predict(make_image("red"))
    assert classifier.search(make_image("red")).neighbors == []
    assert len(classifier.embed(make_image("red")).embedding)
    numbers = teach(root, {"red": [1]})
    assert classifier.predict(make_image("red", seed=5)).label == "red"
    assert len(classifier.search(make_image("red")).neighbors) == 1
    remove(root, numbers)
    assert classifier.classes == ()
    with pytest.raises(NothingTaughtError):
        classifier.predict(make_image("red"))
    assert classifier.search(make_image("red")).neighbors == []


@pytest.mark.parametrize(
    ("seeds", "head"),
    [
        ({"red": [1]}, "none"),
        ({"red": [1, 1]}, "none"),
        ({"red": [1, 2, 3, 4, 5]}, "none"),
        ({"red": [1], "blue": [1]}, "none"),
        ({"red": [1], "blue": [1, 2, 3]}, "none"),
        ({"red": [1, 1], "blue": [1, 1]}, "none"),
        ({"red": [1, 2], "blue": [1, 2]}, "linear"),
        ({"red": [1, 2, 3], "blue": [1]}, "none"),
        ({"red": [1, 2, 3, 4], "blue": [1, 2, 3], "green": [1]}, "linear"),
        ({"red": list(range(30)), "blue": [1, 2], "green": [3, 4]}, "linear"),
    ],
)
def test_a_rebuild_makes_of_what_was_taught_what_can_be_made_of_it(seeds: Seeds, head: str, root: Path) -> None:
    teach(root, seeds)
    before = answers(root, *seeds)
    assert before == list(seeds)
    manifest = rebuilt(root)
    assert (manifest.head, manifest.classes) == (head, tuple(seeds))
    assert manifest.dataset.images == sum(map(len, seeds.values()))
    assert manifest.is_taught_alone
    assert answers(root, *seeds) == before
    teach(root, {"striped": [1]})
    assert answers(root, *seeds, "striped") == [*before, "striped"]
    assert rebuilt(root).classes == (*seeds, "striped")
    assert answers(root, *seeds, "striped") == [*before, "striped"]


@pytest.mark.parametrize("seeds", [{"red": [1, 2]}, {"red": [1, 2, 3], "blue": [1, 2, 3]}])
def test_everything_may_be_removed_again_before_and_after_rebuilds(seeds: Seeds, root: Path) -> None:
    numbers = teach(root, seeds)
    head = rebuilt(root).head
    remove(root, numbers)
    if head == "none":
        with pytest.raises(NothingTaughtError):
            answers(root, "red")
    else:
        assert answers(root, *seeds) == list(seeds), "the head still says something"
    again = rebuilt(root)
    assert (again.classes, again.head, again.store.count, again.network.classes) == ((), "none", 0, 0)
    with pytest.raises(NothingTaughtError):
        answers(root, "red")
    teach(root, seeds)
    assert answers(root, *seeds) == list(seeds)
    assert rebuilt(root).head == head
    numbers = [image.number for image in Journal(root).since(0).images if image.label == "red"]
    remove(root, numbers[1:])
    assert rebuilt(root).head == "none", "too little is left for a head"
    assert answers(root, *seeds) == list(seeds)


def test_another_network_takes_in_what_was_taught(root: Path, tmp_path: Path) -> None:
    teach(root, {"red": [1, 2, 3], "blue": [1, 2, 3]})
    knows = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    other = written(colour_classifier(knows), tmp_path, "other")
    manifest = rebuilt(root, FromNetwork(str(other)))
    assert (manifest.head, manifest.network.name, manifest.classes) == ("linear", "other.onnx", ("red", "blue"))
    assert answers(root, "red", "blue") == ["red", "blue"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_another_network_takes_in_little_or_nothing(count: int, root: Path, backbone: Path) -> None:
    teach(root, {"red": list(range(count))} if count else {})
    manifest = rebuilt(root, FromNetwork(str(backbone)))
    assert (manifest.head, manifest.store.count) == ("none", count)


def test_what_was_fitted_to_taught_images_is_fitted_and_calibrated_anew(root: Path) -> None:
    teach(root, {"red": list(range(12)), "blue": list(range(12))})
    manifest = rebuilt(root)
    assert manifest.parameters_from == "cross-validation"
    teach(root, {"red": [50, 51]})
    for anew in (refit, recalibrate):
        made = read_manifest(root, anew(None, root, manifest.generation))
        assert (made.classes, made.head, made.is_taught_alone) == (("red", "blue"), "linear", True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ["red"]}, "there are 1 classes of 0 entries"),
        ({"lam": 0.5}, "lam is 0.5"),
        ({"head": "network"}, "head is 'network' and the network knows 0 classes"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(changed: dict[str, object], said: str, root: Path) -> None:
    path = root / _generation(root) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(SecondlookError, match=said):
        open_bundle(root, even_empty=True)


def _generation(root: Path) -> str:
    return (root / "CURRENT").read_text().strip()


def test_a_rebuild_is_suggested_when_there_is_enough_for_a_head(root: Path) -> None:
    def suggests() -> bool:
        bundle = open_bundle(root, even_empty=True)
        return taught_info(Predictor(bundle, replayed(Overlay(bundle), Journal(root)))).suggests_rebuild

    assert not suggests()
    teach(root, {"red": list(range(9)), "blue": [1, 2, 3, 4]})
    assert not suggests()
    teach(root, {"blue": [5]})
    assert suggests()
    rebuilt(root)
    assert not suggests()


def test_a_class_of_one_image_is_heard_beside_one_of_thirty(root: Path) -> None:
    teach(root, {"red": list(range(30)), "blue": [1]})
    bundle = open_bundle(root, even_empty=True)
    overlay = replayed(Overlay(bundle), Journal(root))
    assert overlay.class_weights is not None
    assert overlay.class_weights.tolist() == [1.0, 15.5]


def test_the_overlay_counts_what_is_left(root: Path) -> None:
    bundle = open_bundle(root, even_empty=True)
    overlay = replayed(Overlay(bundle), Journal(root))
    assert (overlay.store.count, overlay.counts.tolist()) == (0, [])
    numbers = teach(root, {"red": [1, 2], "blue": [3]})
    overlay = replayed(overlay, Journal(root))
    assert (overlay.store.count, overlay.classes, overlay.counts.tolist()) == (3, ("red", "blue"), [2, 1])
    remove(root, numbers[:2])
    overlay = replayed(overlay, Journal(root))
    assert (overlay.store.count, overlay.classes, overlay.counts.tolist()) == (1, ("blue",), [1])
    remove(root, numbers[2:])
    overlay = replayed(overlay, Journal(root))
    assert (overlay.store.count, overlay.classes, overlay.counts.tolist()) == (0, (), [])
