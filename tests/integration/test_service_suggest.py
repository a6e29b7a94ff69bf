"""``POST /v1/suggest``: what to label next, by what ``/v1/embed`` gave."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.root import activate
from secondlook.service.http.keys import new_key
from tests.images_for_tests import make_image, striped
from tests.networks_for_tests import colour_backbone, written
from tests.service_for_tests import KEY, Call, create_app, files, model, problem, serving, settings, teach

BYTES = {"Accept": "application/octet-stream"}
COLOURS = ("red", "green", "blue")


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    """Of a server that knows nothing."""
    root, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(root, index(nothing(), root, FromNetwork(str(network)), IndexOptions()))
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        yield call


@pytest.fixture
def with_head(tiny_bundle: Path, tmp_path: Path) -> Iterator[Call]:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        yield call


def embedded(call: Call, *contents: bytes) -> httpx.Response:
    sent = files(*((f"{place}.png", content) for place, content in enumerate(contents)))
    response = call("POST", "/v1/embed?logits=true", files=sent, headers=BYTES)
    assert response.status_code == 200, response.text
    return response


def ask(call: Call, content: bytes, shape: str, query: str = "", **headers: str) -> httpx.Response:
    headers = {"Content-Type": "application/octet-stream", "X-Shape": shape, **headers}
    return call("POST", f"/v1/suggest{query}", content=content, headers=headers)


def suggested(call: Call, *contents: bytes, query: str = "") -> Any:
    of = embedded(call, *contents)
    response = ask(call, of.content, of.headers["x-shape"], query, **{"X-Generation": of.headers["x-generation"]})
    assert response.status_code == 200, response.text
    return response.json()


def colours(each: int) -> list[bytes]:
    return [
        make_image(colour, seed=10 * place + number) for place, colour in enumerate(COLOURS) for number in range(each)
    ]


def test_what_is_taught_meanwhile_changes_the_order(call: Call) -> None:
    contents = colours(4)
    first = suggested(call, *contents, query="?count=3&similar=0.99999")
    assert first["generation"] == model(call)["generation"]
    assert first["images"] == 12
    assert {one["place"] // 4 for one in first["suggested"]} == {0, 1, 2}
    assert {one["reason"] for one in first["suggested"]} == {"typical"}
    place = first["suggested"][0]["place"]
    teach(call, COLOURS[place // 4], contents[place])
    second = suggested(call, *contents, query="?count=2&similar=0.99999")
    assert second["known"] >= 1
    assert {one["place"] // 4 for one in second["suggested"]} == {0, 1, 2} - {place // 4}
    assert second["suggested"][0]["why"].endswith("like none that is known")
    assert second["suggested"][0]["labels"] == [COLOURS[place // 4]]


def test_near_duplicates_are_left_out_and_counted(call: Call) -> None:
    found = suggested(call, *colours(3), *colours(3))
    assert len(found["suggested"]) + found["known"] + found["alike"] == 18
    assert found["alike"] >= 9


def test_logits_go_with_keys_in_both_forms(with_head: Call) -> None:
    told = model(with_head)
    contents = [make_image("red"), striped(1)]
    of = embedded(with_head, *contents)
    dim, classes = told["store"]["dim"], told["network_classes"]
    assert of.headers["x-shape"] == f"2,{dim + classes}"
    rows = np.frombuffer(of.content, "<f4").reshape(2, -1)
    sent = files(*((f"{place}.png", content) for place, content in enumerate(contents)))
    body = with_head("POST", "/v1/embed?logits=true", files=sent).json()
    assert body["dim"] == dim
    for row, one in zip(rows, body["embeddings"], strict=True):
        np.testing.assert_allclose(row, [*one["embedding"], *one["logits"]], atol=1e-4)
    probabilities = np.exp(rows[:, dim:]) / np.exp(rows[:, dim:]).sum(axis=1, keepdims=True)
    answers = with_head("POST", "/v1/predict?top=3", files=sent).json()["predictions"]
    for row, one in zip(probabilities, answers, strict=True):
        assert row.max() == pytest.approx(one["network"]["probability"], abs=1e-4)
    plain = with_head("POST", "/v1/embed", files=sent).json()["embeddings"][0]
    assert "logits" not in plain
    found = suggested(with_head, *contents, query="?similar=1")
    assert {len(one["labels"]) for one in found["suggested"]} == {2}


def test_what_does_not_fit_is_refused_by_name(call: Call) -> None:
    of = embedded(call, *colours(2))
    rows, dim = map(int, of.headers["x-shape"].split(","))
    shape, good = of.headers["x-shape"], np.frombuffer(of.content, "<f4").reshape(rows, dim)

    def refused(content: bytes, shape: str = shape, query: str = "", **headers: str) -> str:
        return problem(ask(call, content, shape, query, **headers), 422, "invalid-parameter")

    for bad, sentence in (
        (np.nan, "row 2 has a number that is not finite"),
        (np.inf, "row 2 has a number that is not finite"),
        (3.0, "row 2 is no key: its length is"),
    ):
        spoilt = good.copy()
        spoilt[2, 1] = bad
        assert sentence in refused(spoilt.tobytes())
    assert "row 0 is no key: its length is 0, and not 1" in refused(bytes(len(of.content)))
    assert f"{rows},{dim} are {len(of.content):,} bytes, and the body has {len(of.content) - 1:,}" in refused(
        of.content[:-1]
    )
    assert "and the body has more" in refused(of.content + b"1")
    assert "the body has 0" in refused(b"")
    assert f"here they are {dim} of its key: send what POST /v1/embed?logits=true gives" in refused(
        of.content, f"{rows},{dim + 1}"
    )
    for shape in ("0,18", "2001,18", f"999999999,{dim}"):
        assert "1 to 2,000 are taken" in refused(of.content, shape)
    for shape in ("", "6", "6;18", "-6,18", "6,18,1", "six,18", "6.0,18", "9" * 40 + ",18"):
        assert "x-shape" in refused(of.content, shape).lower()
    without = call("POST", "/v1/suggest", content=of.content, headers={"Content-Type": "application/octet-stream"})
    assert "x-shape" in problem(without, 422, "invalid-parameter").lower()
    shape = of.headers["x-shape"]
    for query in ("?count=0", "?count=101", "?count=x", "?similar=0", "?similar=1.1", "?similar=nan", "?k=3"):
        refused(of.content, shape, query)
    for media_type in ("application/json", "image/png", ""):
        said = problem(ask(call, of.content, shape, **{"Content-Type": media_type}), 415, "not-bytes")
        assert "send application/octet-stream" in said


def test_numbers_of_another_generation_are_refused(call: Call) -> None:
    of = embedded(call, *colours(2))
    generation = {"X-Generation": "20200101T000000Z-0000"}
    said = problem(ask(call, of.content, of.headers["x-shape"], **generation), 409, "generation-changed")
    assert "embed the images again" in said
    assert ask(call, of.content, of.headers["x-shape"]).status_code == 200


def test_a_server_with_keys_for_predictions_wants_one(tiny_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    robot, kept = new_key("robot", "predict")
    keys.write_text(kept.line + "\n")
    with serving(create_app(settings(bundles=tiny_bundle, admin_key=KEY, keys_file=keys))) as call:
        problem(ask(call, b"", "1,1"), 401, "key-missing")
        problem(ask(call, b"", "1,1", Authorization="Bearer wrong"), 403, "key-refused")
        for known in (robot, KEY):
            problem(ask(call, b"", "1,1", Authorization=f"Bearer {known}"), 422, "invalid-parameter")


def test_too_many_bytes_are_refused_at_once(tiny_bundle: Path) -> None:
    with serving(create_app(settings(bundles=tiny_bundle, max_request_bytes=5000))) as call:
        problem(ask(call, bytes(6000), "1,1500"), 413, "too-many-bytes")
