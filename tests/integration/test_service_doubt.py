"""Reasons and doubt over HTTP: neighbours, what decides, votes to mix anew, sets, credibility, abstention."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondlook.model.answering.doubt import highest_score, p_value, ranked
from secondlook.model.answering.predictor import Predictor
from secondlook.model.cache import mix, vote
from secondlook.model.manifest import Calibration, Novelty
from tests.images_for_tests import make_image
from tests.service_for_tests import Call, create_app, files, open_predictor, problem, serving, settings

IMAGE = make_image("green", seed=77)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return open_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def call(predictor: Predictor) -> Iterator[Call]:
    with serving(create_app(settings(), predictor=predictor)) as call:
        yield call


def ask(call: Call, query: str, content: bytes = IMAGE) -> dict[str, Any]:
    response = call("POST", f"/v1/predict?{query}", files=files(("a.png", content)))
    assert response.status_code == 200, response.text
    body = response.json()
    said: dict[str, Any] = body["predictions"][0]
    return said | {"lam": body["lam"]}


def test_only_what_is_asked_for_is_told(call: Call) -> None:
    plain = ask(call, "")
    assert plain["neighbors"] == []
    asked = {"decisive", "votes", "prediction_set", "abstained"}
    assert not asked & set(plain)
    every = ask(call, "neighbors=2&votes=3&coverage=0.9&abstain=true")
    assert set(every) - set(plain) == asked
    assert every["prediction_set"] is None  # six images cannot promise 90 %
    for name in set(plain) - {"neighbors"}:
        assert every[name] == plain[name]
    assert (len(every["neighbors"]), len(every["votes"]["indices"])) == (2, 3)


def test_neighbours_say_where_they_come_from(call: Call, predictor: Predictor) -> None:
    for near in ask(call, "neighbors=5")["neighbors"]:
        entry = predictor.bundle.entries.get(near["id"])
        assert entry is not None
        assert (near["source"], near["mirrored"], near["taught"]) == (entry.source, entry.mirrored, False)
        assert call("GET", near["thumbnail"]).headers["content-type"] == "image/png"
        assert call("GET", f"/v1/entries/{near['id']}").json()["source"] == near["source"]


def test_without_the_decisive_votes_another_class_wins(call: Call, predictor: Predictor) -> None:
    classes = list(predictor.bundle.manifest.classes)
    decided = 0
    for seed in range(4):
        # All entries within k are listed, and theta is low: then classes are near to each other.
        said = ask(call, "neighbors=50&k=50&theta=0.5&lam=1&votes=50", make_image("red", seed=seed))
        if said["decisive"] is None:
            continue
        decided += 1
        out = [near["id"] in said["decisive"]["ids"] for near in said["neighbors"]]
        indices, similarities = np.array(said["votes"]["indices"]), np.float32(said["votes"]["similarities"])
        for left in (np.array(out), np.array(out) & (np.cumsum(out) < sum(out))):
            cache = vote(similarities[None, ~left], indices[None, ~left], 0.5, len(classes))[0]
            assert (classes[cache.argmax()] != said["label"]) == (left.sum() == sum(out))
        cache = vote(similarities[None, ~np.array(out)], indices[None, ~np.array(out)], 0.5, len(classes))[0]
        assert said["decisive"]["instead"] == classes[cache.argmax()]
    assert decided


def test_an_answer_that_the_network_gives_alone_has_nothing_decisive(call: Call) -> None:
    assert ask(call, "neighbors=3&lam=0")["decisive"] is None


@pytest.mark.parametrize(("theta", "lam", "k"), [(7.0, 0.3, 5), (90.0, 1.0, 20), (1.5, 0.9, 40)])
def test_votes_mixed_anew_are_the_servers_answer(
    call: Call, predictor: Predictor, theta: float, lam: float, k: int
) -> None:
    count = len(predictor.bundle.manifest.classes)
    votes = ask(call, "votes=40")["votes"]
    assert votes["similarities"] == sorted(votes["similarities"], reverse=True)
    shares = np.exp(theta * (np.array(votes["similarities"][:k]) - votes["similarities"][0]))
    cache = np.bincount(votes["indices"][:k], shares, count) / shares.sum()
    said = ask(call, f"theta={theta}&lam={lam}&k={k}&top={count}")
    for item in said["top"]:
        expected = (1 - lam) * item["network"] + lam * cache[item["index"]]
        assert item["cache"] == pytest.approx(cache[item["index"]], abs=1e-5)
        assert item["probability"] == pytest.approx(expected, abs=1e-5)


def test_votes_end_where_the_entries_do(call: Call, predictor: Predictor) -> None:
    votes = ask(call, "votes=1000")["votes"]
    assert len(votes["indices"]) == len(votes["similarities"]) == predictor.bundle.store.count


@pytest.fixture(scope="module")
def calibrated(predictor: Predictor) -> Predictor:
    """As if more than the six images of the tiny holdout had been known."""
    manifest = predictor.bundle.manifest
    assert manifest.calibration is not None
    random = np.random.default_rng(0)
    update = {"sets": ranked(1 - random.random(3000) ** 8), "credibility": ranked(random.random(3000) ** 2)}
    calibration = manifest.calibration.model_copy(update=update)
    return Predictor(
        dataclasses.replace(predictor.bundle, manifest=manifest.model_copy(update={"calibration": calibration}))
    )


def test_sets_and_credibility_are_those_of_the_calibration(calibrated: Predictor) -> None:
    calibration = calibrated.bundle.manifest.calibration
    assert calibration is not None
    assert calibration.sets is not None
    assert calibration.credibility is not None
    sizes = []
    with serving(create_app(settings(), predictor=calibrated)) as call:
        for colour in ("red", "green", "blue"):
            for coverage in (0.5, 0.9, 0.999):
                said = ask(call, f"coverage={coverage}", make_image(colour, seed=3))
                highest = highest_score(calibration.sets, coverage)
                inside = [item["label"] for item in said["top"] if 1 - item["probability"] <= highest]
                assert said["prediction_set"] == inside
                sizes.append(len(inside))
                (share,) = (item["cache"] for item in said["top"] if item["label"] == said["label"])
                assert said["credibility"] == pytest.approx(p_value(calibration.credibility, 1 - share), abs=0.01)
        assert max(sizes) > min(sizes)
        # Another vote than the calibrated one is not known to be as honest.
        for query, is_same_vote in (("lam=0.123", True), ("theta=3", False), ("k=2", False)):
            said = ask(call, f"coverage=0.9&{query}")
            assert said["prediction_set"] is None
            assert (said["credibility"] is not None) == is_same_vote
        again = calibrated.defaults
        said = ask(call, f"coverage=0.9&theta={again.theta}&lam={again.lam}&k={again.k}")
        assert said["prediction_set"] is not None


def test_a_bundle_from_before_answers_without_them(predictor: Predictor) -> None:
    novelty = Novelty(neighbor=2, threshold=-1.0, false_alarm_rate=0.01)
    old = Calibration(novelty=novelty, ece_percent_network=1, ece_percent_mixed=1)
    for calibration, abstained in ((old, True), (None, False)):
        manifest = predictor.bundle.manifest.model_copy(update={"calibration": calibration})
        before = Predictor(dataclasses.replace(predictor.bundle, manifest=manifest))
        with serving(create_app(settings(), predictor=before)) as call:
            said = ask(call, "coverage=0.9&abstain=true")
            shown = call("GET", "/v1/model").json()["calibration"]
        assert said["prediction_set"] is said["credibility"] is None
        assert said["abstained"] is abstained
        assert (shown is None) if calibration is None else (shown["sets"] is None)


def test_abstaining_leaves_the_label(call: Call) -> None:
    said, plain = ask(call, "abstain=true"), ask(call, "abstain=false")
    assert said["abstained"] == said["novelty"]["is_novel"]
    assert "abstained" not in plain
    assert said["label"] == plain["label"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("coverage=0.4", "coverage must be between 0.5 and 0.999"),
        ("coverage=1", "coverage must be between 0.5 and 0.999"),
        ("coverage=nan", "coverage must be between 0.5 and 0.999"),
        ("coverage=most", "coverage"),
        ("votes=-1", "votes"),
        ("votes=1001", "votes"),
        ("abstain=perhaps", "abstain"),
    ],
)
def test_what_is_out_of_its_range_is_refused(call: Call, query: str, named: str) -> None:
    response = call("POST", f"/v1/predict?{query}", files=files(("a.png", IMAGE)))
    assert named in problem(response, 422, "invalid-parameter")


def test_the_document_has_the_new_parts(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    parameters = {p["name"]: p for p in document["paths"]["/v1/predict"]["post"]["parameters"]}
    assert {"votes", "coverage", "abstain"} <= set(parameters)
    said = document["components"]["schemas"]["Prediction"]
    assert {"credibility", "neighbors"} <= set(said["required"])
    assert not {"votes", "decisive", "prediction_set", "abstained"} & set(said["required"])
    assert {"votes", "decisive", "prediction_set", "abstained"} <= set(said["properties"])


def test_mixing_as_the_server_does_needs_no_more_than_the_votes(predictor: Predictor, call: Call) -> None:
    """The bundle's own parameters too, where no quick search settles answers with fewer entries."""
    theta, lam, k = predictor.defaults
    assert k is not None
    assert predictor.bundle.store.search_info.early_exit is None
    said = ask(call, f"votes={k}&top=3")
    votes = said["votes"]
    network = np.zeros((1, 3), np.float32)
    for item in said["top"]:
        network[0, item["index"]] = item["network"]
    cache = vote(np.float32([votes["similarities"]]), np.array([votes["indices"]]), theta, 3)
    assert said["probability"] == pytest.approx(float(mix(network, cache, lam).max()), abs=1e-5)
