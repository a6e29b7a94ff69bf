"""A linear head: fitted to keys, its strength chosen by images that it has not seen, put into a graph and taken out."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondlook.indexer.embedding import linear_heads
from secondlook.indexer.embedding.linear_heads import need_linear_head, why_no_linear_head
from secondlook.indexer.embedding.queries import EmbeddedQueries
from secondlook.indexer.fitting import cross_validation
from secondlook.indexer.fitting.cross_validation import (
    FOLDS,
    STRENGTHS,
    choose_strength,
    fit_linear_head,
    folds_of,
    out_of_fold,
)
from secondlook.indexer.fitting.honest_head import FEWEST, few_classes
from secondlook.indexer.fitting.linear_head import Regression, bounded
from secondlook.indexer.fitting.parameters import THETAS, USUAL_LAM, USUAL_THETA, caution, fit_by_cross_validation
from secondlook.model.answering.served_cache import Parameters, ServedCache
from secondlook.model.cache import softmax
from secondlook.model.errors import DatasetError, EngineError
from secondlook.model.networks.encoder_graph import export_encoder
from secondlook.model.networks.linear_graph import (
    has_linear_head,
    prove_linear_head,
    set_linear_head,
    take_out_linear_head,
)
from secondlook.model.networks.network import default_recipe
from secondlook.model.networks.onnx_network import open_onnx
from secondlook.model.scoring import error_percent, nll
from secondlook.model.stores.store import ExactStore, Neighbors
from tests.networks_for_tests import SIDE, backbone, classifier, written

DIM = 32
IMAGES = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def clusters(classes: int, each: int, seed: int = 0, noise: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(99).normal(size=(classes, DIM))
    values = np.repeat(np.arange(classes), each)
    keys = 1.0 + centres[values] + noise * np.random.default_rng(seed).normal(size=(len(values), DIM))
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32), values


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    network = open_onnx(written(backbone(), tmp_path))
    export_encoder(network, default_recipe(network), tmp_path / "encoder.onnx", IMAGES)
    return tmp_path / "encoder.onnx"


def test_a_head_is_put_in_exchanged_and_taken_out_and_the_rest_stays(encoder: Path) -> None:
    before, content = take_out_linear_head(encoder).encode(IMAGES), encoder.read_bytes()
    assert not has_linear_head(encoder)
    random = np.random.default_rng(0)
    for classes in (3, 5):
        weights = random.normal(size=(classes, before.keys.shape[1])).astype(np.float32)
        bias = random.normal(size=classes).astype(np.float32)
        engine = set_linear_head(encoder, weights, bias)
        assert has_linear_head(encoder)
        assert engine.classes == classes
        prove_linear_head(engine, IMAGES, before.keys, (weights, bias))
        logits, keys = engine.encode(IMAGES)
        assert np.array_equal(keys, before.keys)
        assert np.allclose(logits, before.keys @ weights.T + bias, atol=1e-4)
    with pytest.raises(EngineError, match="linear head"):
        prove_linear_head(engine, IMAGES, before.keys, (weights, bias + 0.1 * np.abs(logits).max()))
    assert take_out_linear_head(encoder).classes == 0
    assert encoder.read_bytes() == content


def test_a_head_does_not_go_over_the_networks_own_or_other_keys(tmp_path: Path, encoder: Path) -> None:
    network = open_onnx(written(classifier(), tmp_path, "classifier"))
    export_encoder(network, default_recipe(network), tmp_path / "own.onnx", IMAGES)
    before = hashlib.sha256((tmp_path / "own.onnx").read_bytes()).hexdigest()
    with pytest.raises(EngineError, match="has a head of its own"):
        set_linear_head(tmp_path / "own.onnx", np.zeros((2, 24), np.float32), np.zeros(2, np.float32))
    assert take_out_linear_head(tmp_path / "own.onnx").classes > 0
    assert hashlib.sha256((tmp_path / "own.onnx").read_bytes()).hexdigest() == before
    with pytest.raises(EngineError, match="the head takes 7"):
        set_linear_head(encoder, np.zeros((2, 7), np.float32), np.zeros(2, np.float32))


def test_weights_beside_the_graph_stay_as_they_are(tmp_path: Path) -> None:
    network = open_onnx(written(backbone(), tmp_path))
    path = tmp_path / "encoder.onnx"
    engine = export_encoder(network, default_recipe(network), path, IMAGES, most_bytes=100)
    data = path.with_name("encoder.onnx.data").read_bytes()
    keys = engine.encode(IMAGES).keys
    weights, bias = np.ones((2, engine.dim), np.float32), np.array([0, 1], np.float32)
    prove_linear_head(set_linear_head(path, weights, bias), IMAGES, keys, (weights, bias))
    assert path.with_name("encoder.onnx.data").read_bytes() == data


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(2, 6), st.randoms())
def test_copies_are_in_one_fold_and_classes_in_all(labels: list[int], folds: int, random: object) -> None:
    of = np.array(labels)
    pictures = np.random.default_rng(len(labels)).integers(0, len(labels), len(labels))
    found = folds_of(of, pictures, folds)
    for picture in np.unique(pictures):
        assert len(set(found[pictures == picture])) == 1
    _, first = np.unique(pictures, return_index=True)
    for label in np.unique(of[first]):
        sizes = np.bincount(found[first][of[first] == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("each", [4, 40])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_head_is_the_regression_that_scikit_learn_fits(each: int, classes: int) -> None:
    """In the room of the keys as in that of their numbers, whatever is the smaller."""
    from sklearn.linear_model import LogisticRegression

    keys, values = clusters(classes, each)
    centred = keys - keys.mean(axis=0)
    scale = 1 / np.sqrt(np.square(centred).sum(axis=1).mean())
    model = LogisticRegression(C=10.0, max_iter=1000, tol=1e-6).fit(centred * scale, values)
    head = Regression(keys, values, classes).fit(slice(None), 10.0)
    others, _ = clusters(classes, 30, seed=7)
    expected = model.predict_proba((others - keys.mean(axis=0)) * scale)
    assert np.abs(softmax(head.logits(others)) - expected).max() < 0.01


def test_many_classes_of_one_entry_are_fitted_without_a_warning() -> None:
    keys, values = clusters(30, 1)
    head = Regression(keys, values, 30).fit(slice(None), 10.0)
    assert error_percent(softmax(head.logits(keys)), values) < 20


def test_classes_without_entries_are_answered_with_never() -> None:
    keys, values = clusters(3, 20)
    head = Regression(keys, np.where(values == 2, 3, values), 5).fit(slice(None), 10.0)
    said = softmax(head.logits(keys))
    assert said[:, [2, 4]].max() < 1e-9
    assert error_percent(said, np.where(values == 2, 3, values)) < 20


def test_a_class_of_few_added_images_counts_as_much_as_others() -> None:
    keys, values = clusters(4, 50, noise=2.5)
    kept = np.concatenate((np.flatnonzero(values < 3), np.flatnonzero(values == 3)[:2]))
    others, labels = clusters(4, 200, seed=5, noise=2.5)
    alone, counted = (
        softmax(Regression(keys[kept], values[kept], 4, known).fit(slice(None), 10.0).logits(others))
        for known in (4, 3)
    )
    assert counted[labels == 3, 3].mean() > 1.5 * alone[labels == 3, 3].mean()


def test_of_many_classes_some_choose_the_strength_in_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values = clusters(120, 3, noise=0.3)
    asked = choose_strength(keys, values, np.arange(len(keys)), 120)
    assert 2 <= asked.folds <= FOLDS
    assert asked.tried
    monkeypatch.setattr(cross_validation, "CHOICE_WORK", 1.0)
    assert choose_strength(keys, values, np.arange(len(keys)), 120).folds == 2


def test_the_strength_is_that_of_new_images_and_copies_do_not_choose_it() -> None:
    keys, values = clusters(4, 15, noise=3.0)
    chosen = choose_strength(keys, values, np.arange(len(keys)), 4)
    assert chosen.folds == FOLDS
    assert {one.strength for one in chosen.tried} <= set(STRENGTHS)
    assert chosen.strength == min(chosen.tried, key=lambda one: one.nll).strength
    assert chosen.strength < max(STRENGTHS)
    # Each four times, as copies: known as such they change little, unknown they make the strongest look best.
    again, of = np.concatenate([keys] * 4), np.concatenate([values] * 4)
    fooled = choose_strength(again, of, np.arange(len(again)), 4)
    grouped = choose_strength(again, of, np.tile(np.arange(len(keys)), 4), 4)
    assert min(one.nll for one in fooled.tried) < 0.7 * min(one.nll for one in grouped.tried)
    assert fooled.strength > grouped.strength


def test_what_is_said_out_of_fold_is_as_likely_as_of_new_images() -> None:
    keys, values = clusters(4, 60, noise=2.5)
    others, labels = clusters(4, 500, seed=5, noise=2.5)
    logits = out_of_fold(keys, values, 4, folds_of(values, np.arange(len(keys))), 10.0)
    head = Regression(keys, values, 4).fit(slice(None), 10.0)
    new = nll(softmax(head.logits(others)), labels)
    assert nll(softmax(head.logits(keys)), values) < 0.8 * new
    assert nll(softmax(logits), values) == pytest.approx(new, rel=0.2)


def test_classes_of_too_few_pictures_are_left_to_the_cache_unless_all_have_few() -> None:
    def few(*counts: int) -> tuple[int, ...]:
        return few_classes(np.repeat(np.arange(len(counts)), counts), len(counts))

    assert few(50, FEWEST - 1, 50, 1, FEWEST) == (1, 3)
    assert few(50, 0, 50, 1) == (3,), "of no pictures nothing is said"
    assert few(2, 2, 2) == few(1, 1) == ()
    assert few(50, 1) == (), "of one class alone a head is always sure"
    assert few(*[FEWEST] * 3, *[1] * 20) == (), "most pictures are of small classes"
    assert few(*[100] * 5, *[1] * 20) == tuple(range(5, 25))


def test_out_of_fold_a_head_knows_no_class_that_it_is_not_fitted_to() -> None:
    keys, values = clusters(4, 20)
    logits = out_of_fold(keys, values, 4, folds_of(values, np.arange(len(keys))), 10.0, few=(2,))
    said = softmax(logits)
    assert said[:, 2].max() < 1e-9
    others = values != 2
    assert error_percent(said[others], values[others]) < 20


def test_few_images_have_a_head_all_the_same() -> None:
    keys, values = clusters(2, 2)
    chosen = choose_strength(keys, values, np.arange(4), 2)
    linear = fit_linear_head(keys, values, 2, chosen)
    assert linear.info.images == 4
    assert error_percent(softmax(linear.head.logits(keys)), values) == 0


def test_of_many_entries_some_of_each_class_are_fitted_on() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 3])
    some = bounded(labels, 10, 3, most=30 * 50)
    assert len(some) == 50
    assert (np.diff(some) > 0).all()
    assert np.bincount(labels[some])[2] >= 1
    assert np.bincount(labels[some])[0] > 40
    assert np.array_equal(bounded(labels, 10, 3), np.arange(len(labels)))


def test_what_stands_in_the_way_is_said_with_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_linear_head(np.array([0, 0, 1, 1])) is None
    for labels in ([0, 0, 0], [0, 0, 1]):
        with pytest.raises(DatasetError, match="at least two classes with two images each: give --head none"):
            need_linear_head(np.array(labels))
    monkeypatch.setattr(linear_heads, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"scikit-learn, which is not installed: pip install 'secondlook\[photos\]'$"):
        need_linear_head(np.array([0, 0, 1, 1]))


def crossed(images: int, network_right: float, cache_right: float) -> Parameters:
    """What is fitted on so many images of three classes, of which so many shares are answered right, and surely."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, images)
    wrong = (labels + random.integers(1, 3, images)) % 3
    said = np.where(random.random(images) < network_right, labels, wrong)
    found = np.where(random.random((images, 20)) < cache_right, labels[:, None], wrong[:, None])
    asked = EmbeddedQueries((6 * np.eye(3)[said]).astype(np.float32), np.zeros((images, 2), np.float32), labels)
    near = Neighbors(np.full((images, 20), 0.9, np.float32), np.zeros((images, 20), np.int64), found)
    served = ServedCache(ExactStore(np.ones((21, 2), np.float32), np.zeros(21, np.int64)), 3)
    return fit_by_cross_validation(asked, near, served, ks=(10,)).parameters


def test_of_few_images_neither_head_nor_cache_is_left_out_and_of_many_they_may_be() -> None:
    assert USUAL_LAM / 2 <= crossed(15, 1.0, 0.7).lam < USUAL_LAM
    assert USUAL_LAM < crossed(15, 0.7, 1.0).lam <= 0.8
    assert crossed(3000, 1.0, 0.5).lam <= 0.05
    assert crossed(3000, 0.5, 1.0).lam >= 0.95
    assert 10 <= crossed(15, 1.0, 1.0).theta <= 40


def test_nothing_speaks_against_the_usual_parameters_and_more_the_further_from_them() -> None:
    against = caution((0.0, 0.1, USUAL_LAM, 0.5, 0.9, 1.0))
    assert against.shape == (len(THETAS), 6)
    of_lam, of_theta = against[THETAS.index(USUAL_THETA)], against[:, 2]
    assert of_lam[2] == of_theta[THETAS.index(USUAL_THETA)] == 0
    for of, usual in ((of_lam, 2), (of_theta, THETAS.index(USUAL_THETA))):
        assert (np.diff(of[: usual + 1]) < 0).all()
        assert (np.diff(of[usual:]) > 0).all()
    assert np.isfinite(against).all()
