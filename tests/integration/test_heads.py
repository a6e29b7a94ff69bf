"""A network without a head, and one that knows some of the classes, in one process: fitted, asked, taught."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secondlook.evaluation.evaluate import evaluate
from secondlook.evaluation.studies.curves import curves
from secondlook.evaluation.studies.doubt import doubt
from secondlook.evaluation.studies.shift import shift
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.fitting.added import calibrate_with_added
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.refit import recalibrate, refit
from secondlook.indexer.sharding.merge import merge, open_parts
from secondlook.indexer.sharding.shards import Shards
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Answer, Overrides, Parameters, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import BundleError, DatasetError, ParameterError
from secondlook.model.journal import Journal, NewImage
from secondlook.model.manifest import Manifest
from secondlook.service.generations.acceptance import compare
from tests.heads_for_tests import COLOURS, KNOWN, headless_root, partial_root, pixels, write_colours
from tests.images_for_tests import as_file
from tests.service_for_tests import add_generation, copy_root, open_predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("datasets") / "five")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the same classes that are not cached."""
    return write_colours(tmp_path_factory.mktemp("others") / "others", 12, seed=3)


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return headless_root(tmp_path_factory.mktemp("headless") / "bundles", folder)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    return partial_root(tmp_path_factory.mktemp("partial") / "bundles", folder)


def asked(predictor: Predictor, colour: str, seed: int = 77_777) -> Answer:
    (answer,) = predictor.predict(pixels(colour, seed)[None], [predictor.defaults], 3)
    assert isinstance(answer, Answer)
    return answer


def test_without_a_head_lam_is_1_and_nothing_is_said_of_a_network(headless: Path) -> None:
    manifest = open_bundle(headless).manifest
    assert (manifest.head, manifest.network.classes, manifest.network_classes, manifest.lam) == ("none", 0, (), 1.0)
    assert manifest.parameters_from == "holdout"
    assert manifest.holdout is not None
    assert manifest.holdout.honest
    fit, calibration = manifest.fit, manifest.calibration
    assert fit is not None
    assert fit.lams == (1.0,)
    assert calibration is not None
    said = (fit.network_error_percent, fit.network_nll, fit.network_ece_percent, fit.fewer_errors, fit.gains)
    assert said == (None,) * 5
    assert calibration.ece_percent_network is None
    assert calibration.sets is not None
    assert calibration.credibility is not None
    assert manifest.same_as is not None
    tried = {candidate.score for candidate in calibration.novelty.candidates}
    assert tried == {"nearest", "tenth", "rmds", "rmds + nearest", "rmds + tenth"}
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_without_a_head_the_cache_answers(headless: Path) -> None:
    predictor = open_predictor(headless)
    for colour in COLOURS:
        answer = asked(predictor, colour)
        assert predictor.classes[answer.mixed.argmax()] == colour
        assert not answer.has_network
        assert not answer.network.any()
        assert answer.has_cache
        assert np.array_equal(answer.mixed, answer.cache)
        assert answer.mixed.sum() == pytest.approx(1, abs=1e-5)
        assert answer.novelty is not None
        assert predictor.standing(answer, predictor.defaults) is not None
        assert predictor.credibility(answer, predictor.defaults) is not None


def test_without_a_head_another_lam_is_refused(headless: Path) -> None:
    predictor = open_predictor(headless)
    assert predictor.parameters(Overrides(lam=1.0)).lam == 1
    for lam in (0.0, 0.5):
        with pytest.raises(ParameterError, match=f"lam is 1 here, not {lam:g}: the network has no head"):
            predictor.parameters(Overrides(lam=lam))


def test_parameters_are_given_without_a_head_only_with_lam_1(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ParameterError, match="the network has no head"):
        headless_root(tmp_path / "refused", folder, IndexOptions(parameters=Parameters(20.0, 0.5, 10)))
    root = headless_root(tmp_path / "given", folder, IndexOptions(parameters=Parameters(20.0, 1.0, 10)))
    assert open_bundle(root).manifest.parameters_from == "given"


def test_a_network_said_to_be_trained_on_the_images_is_fitted_by_leave_one_out(tmp_path: Path, folder: Path) -> None:
    root = headless_root(tmp_path / "bundles", folder, IndexOptions(trained="yes"))
    manifest = open_bundle(root).manifest
    assert manifest.parameters_from == "leave-one-out"
    assert manifest.lam == 1
    assert manifest.calibration is None
    assert manifest.fit is not None
    assert manifest.fit.network_error_percent is None
    assert manifest.fit.lams == (1.0,)
    assert manifest.fit.chosen_error_percent <= min(np.ravel(manifest.fit.error_percent)) + 5


@pytest.mark.parametrize("changed", [{"head": "network"}, {"lam": 0.5}])
def test_a_manifest_that_contradicts_itself_is_refused(
    headless: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    root = copy_root(headless, tmp_path / "bundles")
    generation = add_generation(root, **changed)
    with pytest.raises(BundleError, match=next(iter(changed))):
        open_bundle(root, generation)


def test_a_network_that_knows_three_of_five_classes_is_outvoted_on_the_others(partial: Path) -> None:
    predictor = open_predictor(partial)
    manifest = predictor.bundle.manifest
    assert manifest.head == "network"
    assert manifest.network.classes == 3
    assert manifest.network_classes == KNOWN
    assert manifest.classes == (*KNOWN, "green", "violet")
    mostly_cache = predictor.parameters(Overrides(lam=0.8))
    for colour in COLOURS:
        (answer,) = predictor.predict(pixels(colour, 77_777)[None], [mostly_cache])
        assert isinstance(answer, Answer)
        assert predictor.classes[answer.mixed.argmax()] == colour
        assert answer.has_network
        assert not answer.network[3:].any()
        assert answer.network.sum() == pytest.approx(1, abs=1e-5)


def test_the_bundle_of_a_dataset_has_its_classes_for_its_own(headless: Path, folder: Path) -> None:
    assert open_bundle(headless).manifest.classes == load(str(folder)).classes == tuple(COLOURS)


def test_evaluated_without_a_network_of_which_nothing_is_said(headless: Path, others: Path) -> None:
    measured = evaluate(open_bundle(headless), load(str(others)))
    told = measured.as_dict()
    assert told["network"] is None
    assert measured.mixed.error_percent < 30
    assert told["fewer_errors"] == {}
    assert set(told["error_intervals"]) == set(told["reliability"]) == {"mixed", "cache_only"}
    (table,) = measured.tables()
    assert [row[0] for row in table.rows] == ["mixed", "cache only"]
    assert len(table.columns) == 4
    assert [figure.name for figure in measured.figures()] == ["reliability"]
    with pytest.raises(ParameterError, match="the network has no head"):
        evaluate(open_bundle(headless), load(str(others)), lam=0.5)


def test_evaluated_where_the_network_knows_some_classes(partial: Path, others: Path) -> None:
    measured = evaluate(open_bundle(partial), load(str(others)), lam=0.8)
    assert measured.network is not None
    assert measured.network.error_percent >= 40  # it knows nothing of two classes of five
    assert measured.mixed.error_percent < measured.network.error_percent


@pytest.mark.parametrize("names", [tuple(COLOURS), ("green", "violet"), ("yellow",)])
def test_folders_of_some_classes_are_evaluated_under_their_own_names(
    headless: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    bundle = open_bundle(headless)
    measured = evaluate(bundle, load(str(write_colours(tmp_path / "some", 10, seed=5, names=names))))
    predictor = Predictor(bundle)
    wrong = [
        predictor.classes[asked(predictor, colour, 50_000 + 100 * list(COLOURS).index(colour) + i).mixed.argmax()]
        != colour
        for colour in names
        for i in range(10)
    ]
    assert measured.mixed.error_percent == pytest.approx(100 * float(np.mean(wrong)))


def test_a_folder_of_another_class_is_named_with_the_nearest(headless: Path, tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "some", 4, names=("blue", "green"))
    (folder / "green").rename(folder / "gren")
    with pytest.raises(DatasetError, match=r"has the class gren \(the nearest is green\)"):
        evaluate(open_bundle(headless), load(str(folder)))


@pytest.mark.parametrize("fit", [refit, recalibrate])
def test_fitted_anew_without_a_head(headless: Path, tmp_path: Path, folder: Path, fit: Callable[..., str]) -> None:
    root = copy_root(headless, tmp_path / "bundles")
    made = fit(load(str(folder)), root, active_generation(root))
    old, new = read_manifest(root, active_generation(root)), read_manifest(root, made)
    assert (new.head, new.lam, new.network.classes) == ("none", 1.0, 0)
    assert (new.theta, new.k, new.parameters_from) == (old.theta, old.k, "holdout")
    assert new.calibration is not None
    assert new.calibration.ece_percent_network is None
    named = fit(None, root, made, options=IndexOptions(holdout=load(str(write_colours(tmp_path / "held", 8, seed=9)))))
    holdout = read_manifest(root, named).holdout
    assert holdout is not None
    assert (holdout.images, holdout.honest) == (40, True)


def test_a_class_taught_to_a_cache_without_a_head_is_found_and_counts_as_much(headless: Path, tmp_path: Path) -> None:
    root = copy_root(headless, tmp_path / "bundles")
    journal = Journal(root)
    encoder = open_bundle(root).manifest.files["encoder.onnx"].sha256
    bundle = open_bundle(root)
    for i in range(2):
        picture = np.full((32, 32, 3), 128, np.uint8) + np.random.default_rng(i).integers(0, 20, (32, 32, 3), np.uint8)
        key = bundle.engine.encode(picture[None]).keys[0]
        content = as_file(picture, "PNG")
        journal.add("grey", [NewImage("", content, {(encoder, False): key}, content)], "somebody")
    overlay = replayed(Overlay(bundle), journal)
    assert overlay.classes == (*COLOURS, "grey")
    assert overlay.class_weights is not None
    np.testing.assert_allclose(overlay.class_weights, [1, 1, 1, 1, 1, 8])
    predictor = Predictor(bundle, overlay)
    picture = np.full((32, 32, 3), 138, np.uint8) + np.random.default_rng(7).integers(0, 9, (32, 32, 3), np.uint8)
    (answer,) = predictor.predict(picture[None], [predictor.defaults])
    assert isinstance(answer, Answer)
    assert predictor.classes[answer.mixed.argmax()] == "grey"
    calibration = calibrate_with_added(bundle, overlay)
    assert calibration is not None
    assert calibration.ece_percent_network is None


def test_with_nothing_cached_and_no_head_all_classes_are_as_likely(headless: Path) -> None:
    bundle = open_bundle(headless)
    everything = dict.fromkeys(range(bundle.store.count))
    empty = Overlay(bundle).changed(1, b"", labels={}, images={}, corrections=everything)
    predictor = Predictor(bundle, empty)
    answer = asked(predictor, "red")
    np.testing.assert_allclose(answer.mixed, 0.2)
    assert not answer.has_cache
    assert predictor.standing(answer, predictor.defaults) == "unknown"


@pytest.mark.parametrize(
    "study",
    [
        lambda bundle, dataset: shift(bundle, dataset, refill=0),
        lambda bundle, dataset: curves(bundle, dataset, dataset),
        lambda bundle, dataset: doubt(bundle, dataset, ()),
    ],
    ids=["shift", "curves", "doubt"],
)
def test_what_is_measured_against_the_network_says_what_to_type(
    headless: Path, others: Path, study: Callable[..., object]
) -> None:
    with pytest.raises(BundleError, match=r"is measured against the network, and that .* has no head: .* --network"):
        study(open_bundle(headless), load(str(others)))


def test_a_folder_in_its_own_order_fits_a_bundle_in_another(partial: Path, folder: Path, tmp_path: Path) -> None:
    root = copy_root(partial, tmp_path / "bundles")
    old = read_manifest(root, active_generation(root))
    assert old.classes != load(str(folder)).classes
    again = read_manifest(root, index(load(str(folder)), root, FromBundle(root), IndexOptions()))
    assert (again.classes, again.network_classes, again.fit) == (old.classes, KNOWN, old.fit)
    fitted = read_manifest(root, refit(load(str(folder)), root, again.generation))
    assert (fitted.theta, fitted.lam, fitted.k, fitted.classes) == (old.theta, old.lam, old.k, old.classes)
    values = open_bundle(root, again.generation).store.values
    assert np.array_equal(values, open_bundle(root, old.generation).store.values)


def test_the_encoder_of_a_network_without_a_head_takes_images_of_any_classes(headless: Path, tmp_path: Path) -> None:
    root = copy_root(headless, tmp_path / "bundles")
    names = ("yellow", "violet", "red")
    folder = write_colours(tmp_path / "other", 12, seed=6, names=names)
    (folder / "violet").rename(folder / "amethyst")
    manifest = read_manifest(root, index(load(str(folder)), root, FromBundle(root), IndexOptions()))
    assert set(manifest.classes) == {"amethyst", "red", "yellow"}
    assert (manifest.head, manifest.network.classes, manifest.lam) == ("none", 0, 1.0)
    predictor = Predictor(open_bundle(root, manifest.generation))
    assert predictor.classes[asked(predictor, "violet").mixed.argmax()] == "amethyst"


def test_a_dataset_without_a_class_that_the_network_knows_names_it(partial: Path, tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "other", 12, seed=6, names=("blue", "red", "green"))
    with pytest.raises(DatasetError, match="but the network knows blue, red, yellow: give --network"):
        index(load(str(folder)), copy_root(partial, tmp_path / "bundles"), FromBundle(partial), IndexOptions())
    (folder / "green").rename(folder / "yelow")
    with pytest.raises(DatasetError, match="rename yelow, if it is yellow"):
        index(load(str(folder)), copy_root(partial, tmp_path / "bundles1"), FromBundle(partial), IndexOptions())


@pytest.mark.parametrize("store", ["HNSW8", "IVF4,Flat"])
def test_an_approximate_store_without_a_head_is_fitted_as_it_is_searched(tmp_path: Path, store: str) -> None:
    folder = write_colours(tmp_path / "many", 60)
    root = headless_root(tmp_path / "bundles", folder, IndexOptions(store=store))
    manifest = read_manifest(root, active_generation(root))
    assert manifest.approximation_error is not None
    assert manifest.approximation_error.changed_top1_percent <= 5
    predictor = open_predictor(root)
    assert predictor.classes[asked(predictor, "green").mixed.argmax()] == "green"


def test_the_tenth_is_judged_by_the_classes_that_the_network_knows(partial: Path, folder: Path, tmp_path: Path) -> None:
    """A network errs on all images of a class that it does not know, whether it saw them or not."""
    manifest = read_manifest(partial, active_generation(partial))
    assert manifest.holdout is not None
    said = re.fullmatch(
        r"the network errs on ([0-9.]+) % of the 6 of classes that it knows and expects to on .*", manifest.holdout.why
    )
    assert said is not None, manifest.holdout.why
    assert float(said[1]) < 40


@pytest.mark.parametrize("which", ["headless", "partial"])
def test_shards_are_merged_into_what_one_process_makes(
    request: pytest.FixtureRequest, which: str, folder: Path, tmp_path: Path
) -> None:
    root = copy_root(request.getfixturevalue(which), tmp_path / "bundles")
    dataset = load(str(folder))
    work = Shards(dataset, FromBundle(root), tmp_path / "parts", 2)
    for shard in range(2):
        work.write(shard)
    made = read_manifest(root, merge(dataset, open_parts(tmp_path / "parts"), root, root, IndexOptions()))
    old = read_manifest(root, active_generation(root))
    assert (made.head, made.classes, made.network_classes) == (old.head, old.classes, old.network_classes)
    assert (made.theta, made.lam, made.k, made.fit) == (old.theta, old.lam, old.k, old.fit)


def test_a_class_of_which_nothing_can_be_read_is_named_in_whatever_order(
    partial: Path, folder: Path, tmp_path: Path
) -> None:
    broken = copy_root(folder, tmp_path / "five")
    for path in (broken / "green").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match="green") as refused:
        index(load(str(broken)), copy_root(partial, tmp_path / "bundles"), FromBundle(partial), IndexOptions())
    assert "yellow" not in str(refused.value)


def test_older_manifests_have_a_head_and_say_by_it_which_classes_were_taught(partial: Path) -> None:
    content = json.loads(read_manifest(partial, active_generation(partial)).model_dump_json())
    assert Manifest.model_validate(content).dataset_classes == (*KNOWN, "green", "violet")
    del content["head"], content["dataset"]["classes"]
    older = Manifest.model_validate(content)
    assert (older.head, older.dataset_classes, older.equal_classes) == ("network", KNOWN, 3)


def test_a_generation_is_held_to_the_active_one_where_only_one_has_a_head(headless: Path, partial: Path) -> None:
    without, some = (read_manifest(root, active_generation(root)) for root in (headless, partial))
    assert "held-out images" in compare(some, without)
    fewer = without.model_copy(update={"classes": without.classes[:3]})
    assert "other classes" in compare(some, fewer)
