"""A network without a head, and one that knows some of the classes, in one process: fitted, asked, taught."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.index import IndexOptions
from secondlook.model.answering.predictor import Answer, Overrides, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.errors import ParameterError
from secondlook.model.manifest import Manifest
from tests.heads_for_tests import COLOURS, headless_root, partial_root, pixels, write_colours
from tests.service_for_tests import add_generation, open_predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("datasets") / "five")


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
    assert tried == {"nearest", "tenth", "rmds", "rmds + nearest"}
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
    from secondlook.model.answering.predictor import Parameters

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
    from secondlook.model.errors import BundleError
    from tests.service_for_tests import copy_root

    root = copy_root(headless, tmp_path / "bundles")
    generation = add_generation(root, **changed)
    with pytest.raises(BundleError, match=next(iter(changed))):
        open_bundle(root, generation)


def test_a_network_that_knows_three_of_five_classes_is_outvoted_on_the_others(partial: Path) -> None:
    predictor = open_predictor(partial)
    manifest = predictor.bundle.manifest
    assert manifest.head == "network"
    assert manifest.network.classes == 3
    assert manifest.network_classes == ("blue", "green", "red")
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
