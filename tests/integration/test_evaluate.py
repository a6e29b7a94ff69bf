"""The three models measured on a real bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from secondlook.cli import cli
from secondlook.evaluation.evaluate import Setting, ask, evaluate, opinions, sample
from secondlook.evaluation.fit_grid import cache_only_theta
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.answering.served_cache import ServedCache
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.cache import softmax
from secondlook.model.errors import DatasetError, ParameterError
from tests.images_for_tests import make_folder


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Images that are not cached."""
    root = tmp_path_factory.mktemp("fresh") / "colours"
    make_folder(root, per_class=6)
    return load(str(root), "test")


def test_an_evaluation_tells_each_model_with_its_own_theta_and_interval(bundle: Bundle, fresh: Dataset) -> None:
    found = evaluate(bundle, fresh)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["count"] == 18
    assert told["parameters"]["cache_theta"] == cache_only_theta(bundle.manifest)
    for name in ("network", "mixed", "cache_only"):
        interval = told["error_intervals"][name]
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert interval["value"] == pytest.approx(told[name]["error_percent"])
        assert sum(told["reliability"][name]["counts"]) == 18
    gain = told["network"]["error_percent"] - told["cache_only"]["error_percent"]
    assert told["fewer_errors"]["cache_only"]["value"] == pytest.approx(gain)
    # A random network guesses, plain colours are near their like.
    assert gain > 20
    (table,) = found.tables()
    assert [row[0] for row in table.rows] == ["network", "mixed", "cache only"]


def test_a_theta_given_is_the_caches_too_and_one_for_the_cache_is_its_alone(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert Setting.of(manifest, 7.0).cache_theta == 7.0
    assert Setting.of(manifest, 7.0, cache_theta=9.0) == Setting(7.0, manifest.lam, manifest.k, 9.0)
    assert Setting.of(manifest, exact=True).k is None
    with pytest.raises(ParameterError, match="theta"):
        Setting.of(manifest, cache_theta=-1.0)


def test_the_three_models_are_the_servers(bundle: Bundle, fresh: Dataset) -> None:
    images = np.stack([fresh.read(i, bundle.geometry) for i in range(len(fresh.labels))])
    logits, keys = bundle.engine.encode(images)
    setting = Setting(30.0, 0.4, 7, 50.0)
    network = softmax(logits)
    said = opinions(network, ask(ServedCache.of_overlay(Overlay(bundle)), keys, setting), setting)
    for theta, lam, name in ((30.0, 0.4, "mixed"), (50.0, 1.0, "cache_only"), (30.0, 0.0, "network")):
        answers = Predictor(bundle).predict(images, [Parameters(theta, lam, 7)] * len(images))
        served = np.stack([answer.mixed for answer in answers if isinstance(answer, Answer)])
        np.testing.assert_allclose(said[name], served, atol=1e-5)


def test_some_images_are_always_the_same_ones(bundle: Bundle, fresh: Dataset) -> None:
    some = sample(fresh, 5)
    assert len(set(some.tolist())) == 5
    assert (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, sample(fresh, 5))
    assert len(sample(fresh, 99)) == len(sample(fresh, None)) == 18
    assert set(sample(fresh, 2, np.array([3, 9, 11]))) <= {3, 9, 11}
    assert evaluate(bundle, fresh, images=5).count == 5


def test_what_the_bundle_caches_is_refused(bundle: Bundle, colour_folder: Path) -> None:
    with pytest.raises(DatasetError, match="is what the bundle caches"):
        evaluate(bundle, load(str(colour_folder), "test"))


def test_plots_and_figures_are_written_where_asked(tiny_bundle: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "colours" / "test", per_class=4)
    arguments = ["evaluate", str(tmp_path / "colours"), "--bundles", str(tiny_bundle), "--out", str(tmp_path / "out")]
    ended = CliRunner().invoke(cli, [*arguments, "--images", "9", "--json"], catch_exceptions=False)
    assert ended.exit_code == 0
    told = json.loads((tmp_path / "out" / "errors.json").read_text())
    printed = json.loads(ended.stdout.splitlines()[-1])
    assert told | {"left_out": {}, "left_out_files": []} == printed
    assert (told["count"], told["in_holdout"]) == (9, 0)
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"reliability.png", "theta-lam.png"}


def test_a_study_without_a_fit_has_no_surfaces(bundle: Bundle, fresh: Dataset) -> None:
    assert [figure.name for figure in evaluate(bundle, fresh).figures()] == ["reliability", "theta-lam"]
    assert [figure.name for figure in evaluate(bundle, fresh, exact=True).figures()] == ["reliability"]
