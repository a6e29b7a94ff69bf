"""Bundles with a linear head: indexed, answered with, taught, built anew, merged, calibrated."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.evaluation.evaluate import evaluate
from secondlook.evaluation.served import answers_of
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding import linear_heads
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting import honest_head
from secondlook.indexer.fitting.added import calibrate_with_added
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.refit import recalibrate, refit
from secondlook.indexer.sharding.merge import merge, open_parts
from secondlook.indexer.sharding.shards import Shards
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import ENCODER, read_manifest
from secondlook.model.bundles.root import activate, active_generation
from secondlook.model.cache import mix, softmax
from secondlook.model.errors import EngineError
from secondlook.model.journal import Journal, NewImage
from secondlook.model.manifest import Manifest
from tests.heads_for_tests import headless_root, pixels, png, write_colours

FOUR = ("blue", "green", "red", "yellow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("datasets") / "four", names=FOUR)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the same classes that are not cached."""
    return write_colours(tmp_path_factory.mktemp("others") / "others", 12, seed=3, names=FOUR)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return headless_root(tmp_path_factory.mktemp("linear") / "bundles", folder, head="auto")


def answers(bundle: Bundle, *colours: str, seed: int = 77_777) -> list[Answer]:
    predictor = Predictor(bundle)
    images = np.stack([pixels(colour, seed + i) for i, colour in enumerate(colours)])
    found = predictor.predict(images, [predictor.defaults] * len(images), neighbors=3)
    return [answer for answer in found if isinstance(answer, Answer)]


def test_a_backbone_gets_a_linear_head_by_cross_validation(root: Path) -> None:
    manifest = open_bundle(root).manifest
    assert (manifest.head, manifest.network.classes, manifest.network_classes) == ("linear", None, FOUR)
    assert manifest.parameters_from == "cross-validation"
    linear, fit, holdout, calibration = manifest.linear, manifest.fit, manifest.holdout, manifest.calibration
    assert linear is not None
    assert (linear.chosen_by, linear.folds, linear.images, linear.less_tenth) == ("cross-validation", 10, 64, False)
    assert linear.strength in {one.strength for one in linear.tried}
    assert holdout is not None
    assert (holdout.honest, holdout.images) == (True, 64)
    assert fit is not None
    assert fit.images == 64
    assert fit.network_nll is not None
    assert [(one.label, one.images) for one in fit.classes] == [(colour, 16) for colour in FOUR]
    assert sum(one.right for one in fit.classes) == round(64 * (1 - fit.chosen_error_percent / 100))
    assert calibration is not None
    assert calibration.sets is not None
    assert calibration.sets.images == 64
    assert manifest.same_as is not None
    assert type(manifest).model_validate_json(manifest.model_dump_json()) == manifest


def test_answers_are_the_mixture_of_the_linear_head_and_the_cache(root: Path) -> None:
    bundle = open_bundle(root)
    for answer, colour in zip(answers(bundle, *FOUR), FOUR, strict=True):
        assert answer.has_network
        assert answer.network.sum() == pytest.approx(1, abs=1e-5)
        assert np.allclose(answer.mixed, mix(answer.network[None], answer.cache[None], bundle.manifest.lam)[0])
        assert bundle.manifest.classes[int(answer.network.argmax())] == colour
    logits, keys = bundle.engine.encode(np.stack([pixels("red", 5), pixels("blue", 6)]))
    assert np.allclose(softmax(logits)[0], answers(bundle, "red", seed=5)[0].network, atol=1e-5)
    assert keys.shape[1] == bundle.manifest.store.dim


def test_evaluate_reports_the_linear_head(root: Path, others: Path) -> None:
    found = evaluate(open_bundle(root), load(str(others)))
    assert found.network is not None
    assert found.network.error_percent < 20
    assert found.in_holdout == 0


def test_a_rebuild_teaches_the_head_a_new_class_and_what_was_relabelled(
    tmp_path: Path, folder: Path, root: Path
) -> None:
    copied = tmp_path / "bundles"
    headless_root(copied, folder, head="linear")
    journal, before = Journal(copied), open_bundle(copied)
    journal.add("violet", [NewImage(f"{i}.png", png("violet", 900 + i)) for i in range(6)], "test", known=FOUR)
    dataset = load(str(folder))
    wrong = [dataset.source(i) for i in np.flatnonzero(dataset.labels == 0)[:3].tolist()]
    for source in wrong:
        journal.correct(dataset.name, source, None, "test", own="", known=FOUR)
    new = index(fold(dataset, journal), copied, FromBundle(copied), IndexOptions())
    bundle = open_bundle(copied, new)
    manifest = bundle.manifest
    assert manifest.classes == (*FOUR, "violet")
    assert (manifest.head, manifest.network_classes) == ("linear", manifest.classes)
    assert manifest.linear is not None
    assert manifest.linear.images == 64 - 3 + 6
    assert manifest.dataset_classes == FOUR
    assert before.engine.classes == 4
    (answer,) = answers(bundle, "violet")
    assert manifest.classes[int(answer.network.argmax())] == "violet"
    assert (open_bundle(copied, before.manifest.generation).engine.encode(pixels("red", 1)[None]).keys
            == bundle.engine.encode(pixels("red", 1)[None]).keys).all()  # fmt: skip


def test_a_class_of_one_photo_stays_with_the_cache_alone_until_there_are_more(tmp_path: Path, folder: Path) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    dataset, journal = load(str(folder)), Journal(copied)

    def teach(*seeds: int) -> Manifest:
        journal.add("violet", [NewImage(f"{i}.png", png("violet", 900 + i)) for i in seeds], "test", known=FOUR)
        activate(copied, index(fold(dataset, journal), copied, FromBundle(copied), IndexOptions()))
        return read_manifest(copied, active_generation(copied))

    one = teach(0)
    assert one.linear is not None
    assert (one.linear.few, one.linear.images, one.network_classes) == ((4,), 64, (*FOUR, "violet"))
    bundle = open_bundle(copied)
    (answer,) = answers(bundle, "violet")
    assert answer.network[4] < 1e-9
    assert answer.cache[4] > 0
    assert answer.mixed[4] == pytest.approx(max(one.lam, 0.5) * answer.cache[4], abs=1e-5)
    logits, keys = bundle.engine.encode(np.stack([pixels("violet", 77_777)]))
    served = answers_of(Overlay(bundle), EmbeddedQueries(logits, keys, np.array([4]))).mixed
    assert np.allclose(served[0], answer.mixed, atol=1e-5), "studies answer as the server does"
    folded = fold(dataset, journal)
    for again in (refit(folded, copied, one.generation), recalibrate(folded, copied, one.generation)):
        made = read_manifest(copied, again)
        assert made.linear == one.linear
        assert made.fit is not None
        assert one.fit is not None
        assert made.fit.chosen_nll == pytest.approx(one.fit.chosen_nll, abs=1e-3)

    many = teach(*range(1, honest_head.FEWEST))
    assert many.linear is not None
    assert (many.linear.few, many.linear.images) == ((), 64 + honest_head.FEWEST)
    assert answers(open_bundle(copied), "violet")[0].network.argmax() == 4


def test_a_rebuild_takes_another_datasets_classes(tmp_path: Path, folder: Path) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    two = write_colours(tmp_path / "two", names=("violet", "red"))
    manifest = open_bundle(copied, index(load(str(two)), copied, FromBundle(copied), IndexOptions())).manifest
    assert (manifest.classes, manifest.network_classes) == (("red", "violet"), ("red", "violet"))


def test_a_rebuild_without_scikit_learn_says_so_first_and_leaves_all_as_it_is(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    before = sorted(path.name for path in copied.iterdir())
    monkeypatch.setattr(linear_heads, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="scikit-learn, which is not installed: pip install"):
        index(load(str(folder)), copied, FromBundle(copied), IndexOptions())
    assert sorted(path.name for path in copied.iterdir()) == before
    assert open_bundle(copied).engine.classes == 4


def test_a_given_holdout_is_answered_by_a_head_that_was_fitted_on_all_that_is_cached(
    tmp_path: Path, folder: Path, others: Path
) -> None:
    options = IndexOptions(holdout=load(str(others)))
    copied = headless_root(tmp_path / "bundles", folder, options, head="linear")
    manifest = open_bundle(copied).manifest
    assert manifest.parameters_from == "holdout"
    assert manifest.holdout is not None
    assert (manifest.holdout.images, manifest.holdout.honest) == (48, True)
    assert manifest.linear is not None
    assert manifest.linear.images == 64
    assert manifest.fit is not None
    assert sum(one.images for one in manifest.fit.classes) == 48
    # A rebuild has the same holdout, as the new head sees it.
    again = open_bundle(copied, index(load(str(folder)), copied, FromBundle(copied), IndexOptions())).manifest
    assert again.parameters_from == "holdout"
    assert again.fit is not None
    assert again.fit.network_nll == pytest.approx(manifest.fit.network_nll, rel=1e-2)


def test_of_many_photos_the_tenth_takes_no_part_in_the_heads_fit(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honest_head, "CROSSED", 20)
    manifest = open_bundle(headless_root(tmp_path / "bundles", folder, head="linear")).manifest
    assert manifest.parameters_from == "holdout"
    assert manifest.linear is not None
    assert manifest.holdout is not None
    assert (manifest.linear.less_tenth, manifest.linear.images) == (True, 64 - manifest.holdout.images)


def test_mirrored_copies_are_of_their_pictures_fold(tmp_path: Path, folder: Path) -> None:
    manifest = open_bundle(
        headless_root(tmp_path / "bundles", folder, IndexOptions(mirror=True), head="linear")
    ).manifest
    assert manifest.linear is not None
    assert manifest.linear.images == 128
    assert manifest.fit is not None
    assert manifest.fit.images == 64


def test_only_the_graphs_head_differs_between_two_bundles_of_a_backbone(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    from secondlook.model.networks.linear_graph import take_out_linear_head

    none = headless_root(tmp_path / "none", folder, head="none")
    (tmp_path / ENCODER).write_bytes((open_bundle(root).path / ENCODER).read_bytes())
    take_out_linear_head(tmp_path / ENCODER)
    assert (tmp_path / ENCODER).read_bytes() == (open_bundle(none).path / ENCODER).read_bytes()


def test_a_class_of_one_photo_is_cached_and_asks_nothing_of_the_fit(tmp_path: Path) -> None:
    few = write_colours(tmp_path / "few", 5, names=FOUR)
    write_colours(tmp_path / "one", 1, names=("violet",))
    (tmp_path / "one" / "violet").rename(few / "violet")
    manifest = open_bundle(headless_root(tmp_path / "bundles", few, head="linear")).manifest
    assert manifest.store.count == 21
    assert len(manifest.network_classes) == 5
    assert manifest.fit is not None
    assert manifest.fit.images == 20


def test_calibration_counts_what_is_taught_and_each_photo_is_asked_without_itself(tmp_path: Path, folder: Path) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    bundle = open_bundle(copied)
    before = bundle.manifest.calibration
    assert before is not None
    assert before.sets is not None
    # One image of a known class, and one of another.
    Journal(copied).add("violet", [NewImage("a.png", png("violet", 900))], "test", known=FOUR)
    Journal(copied).add("red", [NewImage("b.png", png("red", 901))], "test", known=FOUR)
    after = calibrate_with_added(bundle, replayed(Overlay(bundle), Journal(copied)))
    assert after is not None
    assert after.sets is not None
    assert after.sets.images == before.sets.images
    # Asked of itself, each photo would find its own entry, and all would look alike well known.
    assert np.mean(after.sets.scores) == pytest.approx(np.mean(before.sets.scores), abs=0.05)
    assert after.standing != before.standing or after.sets.scores != before.sets.scores


def test_fit_and_calibrate_ask_heads_that_did_not_see_what_they_are_asked(tmp_path: Path, folder: Path) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    first = open_bundle(copied).manifest
    for again in (
        read_manifest(copied, refit(load(str(folder)), copied, first.generation)),
        read_manifest(copied, recalibrate(load(str(folder)), copied, first.generation)),
    ):
        assert (again.head, again.linear, again.parameters_from) == ("linear", first.linear, "cross-validation")
        assert again.holdout == first.holdout
        assert again.fit is not None
        assert first.fit is not None
        assert again.fit.classes == first.fit.classes
        assert again.fit.network_nll == pytest.approx(first.fit.network_nll, abs=1e-3)
        assert again.calibration is not None
        assert first.calibration is not None
        assert again.calibration.sets is not None
        assert first.calibration.sets is not None
        assert np.allclose(again.calibration.sets.scores, first.calibration.sets.scores, atol=1e-3)
    # What is taught votes, and no head is asked of it.
    Journal(copied).add("violet", [NewImage(f"{i}.png", png("violet", 900 + i)) for i in range(3)], "test", known=FOUR)
    taught = read_manifest(copied, refit(load(str(folder)), copied, first.generation))
    assert taught.fit is not None
    assert (taught.fit.images, taught.fit.entries) == (64, 67)


def test_fit_of_a_head_without_the_tenth_takes_that_tenth(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honest_head, "CROSSED", 20)
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    first = open_bundle(copied).manifest
    again = read_manifest(copied, refit(load(str(folder)), copied, first.generation))
    assert (again.parameters_from, again.lam, again.theta, again.k) == ("holdout", first.lam, first.theta, first.k)
    assert again.holdout is not None
    assert first.holdout is not None
    assert again.holdout.images == first.holdout.images


def test_shards_embedded_with_an_earlier_head_are_merged_into_what_one_process_makes(
    tmp_path: Path, folder: Path, root: Path
) -> None:
    copied = headless_root(tmp_path / "bundles", folder, head="linear")
    dataset = load(str(folder))
    work = Shards(dataset, FromBundle(copied), tmp_path / "parts", 2)
    for shard in range(2):
        work.write(shard)
    made = read_manifest(copied, merge(dataset, open_parts(tmp_path / "parts"), copied, copied, IndexOptions()))
    old = open_bundle(root).manifest
    assert (made.head, made.classes, made.linear) == ("linear", old.classes, old.linear)
    assert (made.theta, made.lam, made.k, made.fit) == (old.theta, old.lam, old.k, old.fit)


def test_parameters_that_are_given_leave_the_head_fitted_on_all(tmp_path: Path, folder: Path) -> None:
    options = IndexOptions(parameters=Parameters(20.0, 0.25, 10))
    manifest = open_bundle(headless_root(tmp_path / "bundles", folder, options, head="linear")).manifest
    assert (manifest.theta, manifest.lam, manifest.k, manifest.parameters_from) == (20, 0.25, 10, "given")
    assert manifest.linear is not None
    assert manifest.linear.images == 64
    assert manifest.calibration is None


def test_a_backbone_that_its_user_says_has_seen_the_photos_is_mixed_with_caution(tmp_path: Path, folder: Path) -> None:
    manifest = open_bundle(headless_root(tmp_path / "b", folder, IndexOptions(trained="yes"), head="linear")).manifest
    assert (manifest.parameters_from, manifest.lam, manifest.head) == ("leave-one-out", 0.5, "linear")
    assert manifest.calibration is None
