"""Which score tells unknown images: chosen on data for which it is known, held to what was promised."""

import numpy as np
import pytest

from secondlook.indexer.fitting.class_shape import ClassShape
from secondlook.indexer.fitting.novelty import (
    CANDIDATES,
    DOUBTFUL_RATE,
    FALSE_ALARM_RATE,
    LEFT_OUT,
    NEIGHBORS,
    Seen,
    class_left_out,
    fit_novelty,
    told,
)
from secondlook.indexer.fitting.unknown import synthetic_images
from secondlook.model.answering.doubt import doubtful_above, novelty_scores, own_evidence, rmds_scores
from secondlook.model.cache import softmax
from secondlook.model.manifest import Novelty
from secondlook.model.scoring import auroc
from tests.covariance_for_tests import inverse_covariance

CLASSES, DIM = 6, 12
RANDOM = np.random.default_rng(0)
MIDDLES = RANDOM.normal(size=(CLASSES, DIM)).astype(np.float32)
SPREAD = np.diag(np.linspace(0.02, 0.4, DIM)).astype(np.float32)


def unit(keys: np.ndarray) -> np.ndarray:
    return (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)


def of_classes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit keys around the classes' middles, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    return unit(MIDDLES[labels] + random.normal(size=(count, DIM)) @ SPREAD), labels


ENTRIES, VALUES = of_classes(3000, 1)
KEYS, LABELS = of_classes(600, 2)
ELSEWHERE = unit(np.random.default_rng(3).normal(size=(300, DIM)))


def shape(entries: np.ndarray = ENTRIES, values: np.ndarray = VALUES, chunk: int = 700) -> ClassShape:
    parts = ((entries[i : i + chunk], values[i : i + chunk]) for i in range(0, len(entries), chunk))
    return ClassShape.of(parts, len(entries), CLASSES)


def seen(keys: np.ndarray, logits: np.ndarray | None = None) -> Seen:
    similar = -np.sort(-(keys @ ENTRIES.T), axis=1)[:, :10]
    return Seen(np.empty((len(keys), 0), np.float32) if logits is None else logits, keys, similar)


def logits_of(keys: np.ndarray, scale: float = 12.0) -> np.ndarray:
    return (scale * keys @ unit(MIDDLES).T).astype(np.float32)


def mahalanobis(keys: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    apart = keys[:, None] - means[None]
    return np.einsum("ncd,de,nce->nc", apart, inverse, apart)


@pytest.mark.parametrize("without", [None, 2])
@pytest.mark.parametrize("count", [3000, 8], ids=["many", "fewer than numbers"])
def test_rmds_is_the_distance_to_all_less_that_to_the_nearest_class(count: int, without: int | None) -> None:
    entries, values = ENTRIES[:count].astype(np.float64), VALUES[:count]
    present = [c for c in range(CLASSES) if c != without]
    means = np.stack([entries[values == c].mean(axis=0) for c in range(CLASSES)])
    apart = entries - means[values]
    inverse = inverse_covariance(apart)
    middle = entries[values != without].mean(axis=0)
    queries = np.concatenate((KEYS[:50], ELSEWHERE[:50])).astype(np.float64)
    expected = mahalanobis(queries, middle[None], inverse)[:, 0] - mahalanobis(queries, means[present], inverse).min(1)
    found = rmds_scores(queries.astype(np.float32), shape(ENTRIES[:count], values).directions(without))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_class_without_entries_is_near_to_nothing() -> None:
    some = VALUES != 4
    directions = shape(ENTRIES[some], VALUES[some]).directions()
    assert np.isfinite(directions).all()
    assert (KEYS @ directions[:, :-1].T + directions[:, -1]).argmax(axis=1)[LABELS == 0].tolist().count(4) == 0


def test_entries_that_are_all_alike_have_a_shape() -> None:
    directions = shape(np.repeat(unit(MIDDLES), 20, axis=0), np.repeat(np.arange(CLASSES), 20)).directions()
    assert np.isfinite(directions).all()


def test_the_candidate_is_taken_that_loses_least_where_it_loses_most() -> None:
    """Energy says nothing here; where keys lie does."""
    alike = np.random.default_rng(4).normal(0, 1, (600, CLASSES)).astype(np.float32)
    fitted = fit_novelty(seen(KEYS, alike), LABELS, shape(), {"elsewhere": seen(ELSEWHERE, alike[:300])})
    candidates = {one.score: one for one in fitted.novelty.candidates}
    assert candidates.keys() == CANDIDATES.keys()
    for case in ("elsewhere", LEFT_OUT):
        best = max(one.auroc[case] for one in candidates.values())
        assert all(one.lost >= best - one.auroc[case] - 0.011 for one in candidates.values())
    assert candidates["energy"].auroc["elsewhere"] == pytest.approx(50, abs=6)
    assert fitted.novelty.score not in ("energy", "softmax")
    assert candidates[fitted.novelty.score].lost == min(one.lost for one in candidates.values())
    assert fitted.novelty.blind_to == ()


def test_what_energy_has_beyond_rmds_tells_images_that_no_sum_tells() -> None:
    """Of unknown images some have less energy than known ones, and some have more but lie elsewhere."""
    random = np.random.default_rng(6)

    def scores(count: int, energy: float | None = None, rmds: float | None = None) -> dict[str, np.ndarray]:
        typical = random.normal(size=count)  # of a known image energy and place say the same
        made = {"energy": 9 + 2 * (typical if energy is None else energy + random.normal(size=count))}
        made["rmds"] = 50 + 30 * (typical if rmds is None else rmds + random.normal(size=count))
        made |= {name: random.normal(size=count) for name in ("softmax", "nearest", "tenth")}
        return {name: of + 0.3 * of.std() * random.normal(size=count) for name, of in made.items()}

    known, unsure, elsewhere = scores(2000), scores(2000, energy=-2), scores(2000, energy=1, rmds=-1)
    worst = {
        name: min(auroc(-told(weights, known, known), -told(weights, known, of)) for of in (unsure, elsewhere))
        for name, weights in CANDIDATES.items()
    }
    linear = max(area for name, area in worst.items() if "surplus" not in CANDIDATES[name])
    assert worst["energy + nearest / 5 - surplus"] > linear + 0.05
    assert told(CANDIDATES["energy"], known, elsewhere).mean() > told(CANDIDATES["energy"], known, known).mean()


def test_a_class_left_out_has_no_entries() -> None:
    """Against a plain search among the others."""
    known = seen(KEYS, logits_of(KEYS))
    found = class_left_out(known, LABELS, shape())
    entries, values = shape().keys, shape().values
    expected = []
    for label in range(CLASSES):
        tenth = -np.sort(-(KEYS @ entries[values != label].T), axis=1)[:, 9]
        expected.append(100 * auroc(-tenth[label != LABELS], -tenth[label == LABELS]))
    assert found["tenth"] == pytest.approx(np.mean(expected), abs=0.01)


@pytest.mark.parametrize("score", CANDIDATES)
def test_limits_are_those_of_the_promised_false_alarms(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.indexer.fitting.novelty.CANDIDATES", {score: CANDIDATES[score]})
    known = seen(KEYS, logits_of(KEYS))
    novelty, directions = fit_novelty(known, LABELS, shape(), {})
    assert (directions is not None) == bool({"rmds", "surplus"} & CANDIDATES[score].keys())
    scores = scored(novelty, known, directions)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert 0 < (scores > novelty.threshold).mean() <= FALSE_ALARM_RATE
    assert (scores > novelty.threshold).mean() == pytest.approx(novelty.false_alarm_rate)
    assert DOUBTFUL_RATE - 0.01 < (scores > doubtful_above(novelty.evidence)).mean() <= DOUBTFUL_RATE
    # And of other images of the same kind about as many.
    fresh, _ = of_classes(3000, 5)
    rate = (scored(novelty, seen(fresh, logits_of(fresh)), directions) > novelty.threshold).mean()
    assert rate < FALSE_ALARM_RATE + 4 * np.sqrt(FALSE_ALARM_RATE / 600)
    assert novelty.of_added is not None
    assert (novelty.of_added.similarity, novelty.of_added.energy) > (0, 0)


def scored(novelty: Novelty, of: Seen, directions: np.ndarray | None) -> np.ndarray:
    own = own_evidence(novelty, of.logits, softmax(of.logits), of.keys, directions)
    return novelty_scores(novelty, of.similarities[:, novelty.neighbor - 1], own)


@pytest.mark.parametrize("count", [6, 12, 60])
def test_few_images_make_no_more_false_alarms(count: int) -> None:
    alarms, doubts = [], []
    for seed in range(8):
        keys, labels = of_classes(count, 100 + seed)
        novelty, directions = fit_novelty(seen(keys, logits_of(keys)), labels, shape(), {})
        fresh, _ = of_classes(600, 200 + seed)
        scores = scored(novelty, seen(fresh, logits_of(fresh)), directions)
        alarms.append((scores > novelty.threshold).mean())
        doubts.append((scores > doubtful_above(novelty.evidence)).mean())
    assert np.mean(alarms) < 0.05
    assert np.mean(doubts) < 0.12


def test_without_a_head_keys_alone_are_gone_by() -> None:
    novelty, _ = fit_novelty(seen(KEYS), LABELS, shape(), {"elsewhere": seen(ELSEWHERE)})
    assert {one.score for one in novelty.candidates} == {"nearest", "tenth", "rmds", "rmds + nearest", "rmds + tenth"}
    assert novelty.evidence is not None
    assert novelty.evidence.energy == novelty.evidence.softmax == 0
    assert novelty.score in {one.score for one in novelty.candidates}


def test_rmds_tells_unknown_images_where_keys_have_more_numbers_than_there_are_entries() -> None:
    """Keys of a pretrained network: 1,280 numbers, a thousand images."""
    wide, few, some = 320, 180, 12
    random = np.random.default_rng(5)
    basis = np.linalg.qr(random.normal(size=(wide, wide)))[0]
    spread = np.geomspace(1, 0.02, wide) @ np.eye(wide)
    middles = 0.8 * random.normal(size=(CLASSES, some)) @ basis[:some]

    def keys_of(middle: np.ndarray) -> np.ndarray:
        noise = 0.5 * random.normal(size=(len(middle), wide)) * spread
        return unit(middle + noise @ basis)

    values = np.arange(few) % CLASSES
    entries, known = keys_of(middles[values]), keys_of(middles[np.arange(300) % CLASSES])
    strange = keys_of(0.8 * random.normal(size=(300, some)) @ basis[:some])
    directions = ClassShape.of([(entries, values)], few, CLASSES).directions()
    assert auroc(-rmds_scores(known, directions), -rmds_scores(strange, directions)) > 0.8


def test_what_no_score_tells_is_said() -> None:
    twins, labels = of_classes(600, 7)
    novelty, _ = fit_novelty(seen(KEYS), LABELS, shape(), {"twins": seen(twins), "elsewhere": seen(ELSEWHERE)})
    assert novelty.blind_to == ("twins",)
    assert len(labels) == 600


@pytest.mark.parametrize("classes", [1, 2])
def test_of_two_classes_none_is_left_out(classes: int) -> None:
    own, of = classes > VALUES, classes > LABELS
    novelty, _ = fit_novelty(seen(KEYS[of]), LABELS[of], shape(ENTRIES[own], VALUES[own]), {})
    assert novelty.score in CANDIDATES
    assert all(one.auroc == {} and one.lost == 0 for one in novelty.candidates)


def test_images_all_alike_are_not_novel() -> None:
    keys = np.repeat(unit(MIDDLES[:1]), 20, axis=0)
    known = Seen(np.full((20, CLASSES), 5, np.float32), keys, np.full((20, 1), 0.8, np.float32))
    novelty, directions = fit_novelty(known, np.zeros(20, np.int64), shape(), {})
    assert novelty.false_alarm_rate == 0
    assert np.isfinite(scored(novelty, known, directions)).all()


def test_the_tenth_of_fewer_entries_is_the_last() -> None:
    novelty, _ = fit_novelty(seen(KEYS)._replace(similarities=seen(KEYS).similarities[:, :3]), LABELS, shape(), {})
    assert novelty.neighbor <= 3
    assert NEIGHBORS["tenth"] == 10


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (224, 224)])
def test_far_images_are_the_same_each_time_and_differ_from_each_other(size: tuple[int, int]) -> None:
    one, two = synthetic_images(size, 12), synthetic_images(size, 12)
    assert one.keys() == {"noise", "textures"}
    for kind, images in one.items():
        np.testing.assert_array_equal(images, two[kind])
        assert (images.shape, images.dtype) == ((12, *size, 3), np.uint8)
        assert len({image.tobytes() for image in images}) == 12
