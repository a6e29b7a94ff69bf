"""``POST /v1/embed`` and ``POST /v1/search``: what the encoder and the store say of images, without a vote."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from secondlook.model.answering.predictor import Predictor
from secondlook.model.answering.told import written_key
from secondlook.model.errors import StoreUnreachableError
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode
from tests.images_for_tests import make_image
from tests.service_for_tests import ADMIN, KEY, Call, create_app, files, look, open_predictor, problem, serving, teach
from tests.service_for_tests import settings as settings_of

BYTES = {"Accept": "application/octet-stream"}
BAD = b"no image"


@pytest.fixture(scope="module")
def reference(tiny_bundle: Path) -> Predictor:
    return open_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def call(tiny_bundle: Path) -> Iterator[Call]:
    with serving(create_app(settings_of(max_batch=4), predictor=open_predictor(tiny_bundle))) as call:
        yield call


@pytest.fixture
def taught(tiny_bundle: Path, tmp_path: Path) -> Iterator[Call]:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    with serving(create_app(settings_of(bundles=root, admin_key=KEY))) as call:
        yield call


def keys_of(reference: Predictor, *contents: bytes) -> np.ndarray[Any, Any]:
    images = [decode(content, reference.bundle.geometry, Limits(DEFAULT_PIXELS)) for content in contents]
    return np.concatenate([reference.bundle.engine.encode(image[None]).keys for image in images])


def rows(response: httpx.Response) -> np.ndarray[Any, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    shape = [int(number) for number in response.headers["x-shape"].split(",")]
    return np.frombuffer(response.content, "<f4").reshape(shape)


COLOURS = ("red", "green", "blue", "red", "green", "blue")
CONTENTS = [make_image(colour, seed=50 + place) for place, colour in enumerate(COLOURS)]
UPLOADS = [(f"{place}.png", content) for place, content in enumerate(CONTENTS)]


def test_both_forms_give_the_encoders_keys(call: Call, reference: Predictor) -> None:
    expected = keys_of(reference, *CONTENTS)
    body = call("POST", "/v1/embed", files=files(*UPLOADS)).json()
    assert set(body) == {"generation", "dim", "embeddings"}
    assert body["generation"] == reference.bundle.manifest.generation
    assert body["dim"] == expected.shape[1]
    assert [one["filename"] for one in body["embeddings"]] == [name for name, _ in UPLOADS]
    told = np.array([one["embedding"] for one in body["embeddings"]], np.float32)
    np.testing.assert_allclose(told, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(told, axis=1), 1, atol=1e-5)
    response = call("POST", "/v1/embed", files=files(*UPLOADS), headers=BYTES)
    np.testing.assert_allclose(rows(response), told, atol=1e-5)
    assert response.headers["x-generation"] == body["generation"]
    assert "encode;dur=" in response.headers["server-timing"]
    raw = call("POST", "/v1/embed", content=CONTENTS[1], headers={"Content-Type": "image/png", **BYTES})
    np.testing.assert_allclose(rows(raw), expected[1:2], atol=1e-5)


def test_numbers_are_written_so_that_each_float32_comes_back() -> None:
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal(20_000) * 10.0 ** rng.integers(-45, 1, 20_000)).astype(np.float32)
    for key in (wide, np.array([0.0, -0.0, 1.0, -1.0, 1e-45, 1.17e-38], np.float32)):
        back = np.array(json.loads(json.dumps(written_key(key))), np.float32)
        np.testing.assert_array_equal(back, key)
    usual = rng.standard_normal(1000).astype(np.float32) / 30
    assert len(json.dumps(written_key(usual))) < 15 * len(usual)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/octet-stream;q=0.9, */*;q=0.1", "application/octet-stream"),
        ("application/json;q=0.5, application/octet-stream", "application/octet-stream"),
    ],
)
def test_the_form_is_what_the_client_accepts(call: Call, accept: str, media_type: str) -> None:
    response = call("POST", "/v1/embed", files=files(UPLOADS[0]), headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)
    assert response.headers["vary"] == "Accept"


def test_another_form_is_refused_by_name(call: Call) -> None:
    response = call("POST", "/v1/embed", files=files(UPLOADS[0]), headers={"Accept": "text/csv"})
    said = problem(response, 406, "not-acceptable")
    assert said == "There is no text/csv here: accept application/json or application/octet-stream."


def test_a_bad_image_fails_alone_in_json_and_all_as_bytes(call: Call) -> None:
    sent = files(UPLOADS[0], ("bad.png", BAD), UPLOADS[2])
    first, bad, last = call("POST", "/v1/embed", files=sent).json()["embeddings"]
    assert (first["filename"], last["filename"]) == ("0.png", "2.png")
    assert (bad["status"], bad["filename"]) == (400, "bad.png")
    assert bad["type"] == "urn:secondlook:problem:undecodable-image"
    assert "bad.png" in problem(call("POST", "/v1/embed", files=sent, headers=BYTES), 400, "undecodable-image")
    for headers in ({}, BYTES):
        only = call("POST", "/v1/embed", files=files(("bad.png", BAD)), headers=headers)
        assert "bad.png" in problem(only, 400, "undecodable-image")
    found = call("POST", "/v1/search", files=sent).json()["results"]
    assert ["neighbors" in one for one in found] == [True, False, True]
    assert found[1] == bad
    assert "bad.png" in problem(call("POST", "/v1/search", files=files(("bad.png", BAD))), 400, "undecodable-image")


def test_a_search_gives_the_stores_nearest(call: Call, reference: Predictor) -> None:
    body = call("POST", "/v1/search?k=7", files=files(*UPLOADS)).json()
    assert set(body) == {"generation", "k", "results"}
    assert (body["generation"], body["k"]) == (reference.bundle.manifest.generation, 7)
    hits = reference.store.search(keys_of(reference, *CONTENTS), 7)
    for one, ids, similarities, (name, content) in zip(
        body["results"], hits.ids, hits.similarities, UPLOADS, strict=True
    ):
        assert one["filename"] == name
        assert [near["id"] for near in one["neighbors"]] == ids.tolist()
        assert [near["similarity"] for near in one["neighbors"]] == pytest.approx(similarities, abs=1e-5)
        listed = look(call, content, "neighbors=7")["neighbors"]
        assert one["neighbors"] == [
            {name: near[name] for name in near if name != "weight"}
            | {"similarity": pytest.approx(near["similarity"], abs=1e-5)}
            for near in listed
        ]
    assert len(call("POST", "/v1/search", files=files(UPLOADS[0])).json()["results"][0]["neighbors"]) == 20
    most = call("POST", "/v1/search?k=200", files=files(UPLOADS[0])).json()["results"][0]["neighbors"]
    assert len(most) == min(200, reference.store.count)


@pytest.mark.parametrize("k", ["0", "201", "-1", "1.5", "all", "", "9" * 30])
def test_a_k_out_of_range_is_refused(call: Call, k: str) -> None:
    refused = call("POST", f"/v1/search?k={k}", files=files(UPLOADS[0]))
    assert problem(refused, 422, "invalid-parameter").startswith("k:")


def test_parameters_of_other_calls_are_refused(call: Call) -> None:
    refused = call("POST", "/v1/search?neighbors=3", files=files(UPLOADS[0]))
    assert "there is no such parameter: there are k" in problem(refused, 422, "invalid-parameter")
    refused = call("POST", "/v1/embed?k=3", files=files(UPLOADS[0]))
    assert "there is no such parameter: there are logits" in problem(refused, 422, "invalid-parameter")


@pytest.mark.parametrize("path", ["/v1/embed", "/v1/search"])
def test_they_refuse_what_predict_refuses(call: Call, path: str) -> None:
    problem(call("POST", path), 415, "unsupported-media-type")
    problem(call("POST", path, files={"other": ("a.png", CONTENTS[0])}), 422, "missing-file")
    problem(call("POST", path, files=files(*[UPLOADS[0]] * 65)), 413, "too-many-files")
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        response = call(method, path)
        assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")


def test_taught_entries_are_found_and_removed_ones_are_not(taught: Call) -> None:
    content = make_image("red", seed=77)
    embedding = taught("POST", "/v1/embed", files=files(("a.png", content))).json()["embeddings"][0]["embedding"]
    (entry,) = teach(taught, "stripes", content).json()["entries"]

    def nearest() -> Any:
        return taught("POST", "/v1/search?k=3", files=files(("a.png", content))).json()["results"][0]["neighbors"]

    first = nearest()[0]
    assert (first["id"], first["label"], first["taught"]) == (entry["id"], "stripes", True)
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert taught("GET", first["thumbnail"]).status_code == 200
    taught("PATCH", f"/v1/entries/{entry['id']}", json={"label": "dots"}, headers=ADMIN)
    assert nearest()[0]["label"] == "dots"
    taught("DELETE", f"/v1/entries/{entry['id']}", headers=ADMIN)
    assert entry["id"] not in [near["id"] for near in nearest()]
    again = taught("POST", "/v1/embed", files=files(("a.png", content))).json()["embeddings"][0]["embedding"]
    assert again == pytest.approx(embedding, abs=1e-5)


class _Away:
    """A store on another machine that does not answer."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def search(self, *_: Any) -> Any:
        raise StoreUnreachableError("http://10.0.0.1:19530 does not answer")


@pytest.mark.parametrize("network_fallback", [False, True])
def test_without_its_store_a_server_embeds_and_does_not_search(tiny_bundle: Path, network_fallback: bool) -> None:
    predictor = open_predictor(tiny_bundle)
    predictor.network_fallback = network_fallback
    away = _Away(predictor.store)
    predictor.store = away  # type: ignore[assignment]
    predictor.served = predictor.served.with_store(away)  # type: ignore[arg-type]
    with serving(create_app(settings_of(), predictor=predictor)) as call:
        assert rows(call("POST", "/v1/embed", files=files(*UPLOADS), headers=BYTES)).shape[0] == len(UPLOADS)
        detail = problem(call("POST", "/v1/search", files=files(*UPLOADS)), 503, "not-ready")
        assert detail == "The cache cannot be asked now: try again later."
        said = call("POST", "/v1/predict", files=files(*UPLOADS))
        assert said.status_code == (200 if network_fallback else 503)


def test_one_batch_holds_all_kinds_of_requests(reference: Predictor) -> None:
    from secondlook.model.answering.predictor import Answer, Overrides
    from secondlook.model.answering.wanted import Embed, Embedded, Found, Search

    images = np.stack([decode(one, reference.bundle.geometry, Limits(DEFAULT_PIXELS)) for one in CONTENTS])
    given = reference.parameters(Overrides(lam=1.0))
    answers = reference.predict(images, [reference.defaults, Embed(), Search(2), given, Search(3), Embed()], 1)
    assert [type(answer) for answer in answers] == [Answer, Embedded, Found, Answer, Found, Embedded]
    expected = reference.bundle.engine.encode(images).keys
    for place in (1, 5):
        embedded = answers[place]
        assert isinstance(embedded, Embedded)
        np.testing.assert_array_equal(embedded.key, expected[place])
    assert [len(answer.ids) for answer in answers if isinstance(answer, Found)] == [2, 3]


def test_the_metrics_count_their_images(tiny_bundle: Path) -> None:
    with serving(create_app(settings_of(), predictor=open_predictor(tiny_bundle))) as call:
        call("POST", "/v1/embed", files=files(*UPLOADS, ("bad.png", BAD)))
        page = call("GET", "/metrics").text
        assert 'secondlook_images_total{outcome="answered"} 6.0' in page
        assert 'secondlook_images_total{outcome="undecodable-image"} 1.0' in page
        assert 'secondlook_stage_duration_seconds_count{stage="search"} 0.0' in page
        call("POST", "/v1/search", files=files(*UPLOADS))
        page = call("GET", "/metrics").text
        assert 'secondlook_stage_duration_seconds_count{stage="search"} 1.0' in page
        assert 'secondlook_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in page


def test_the_document_has_both_forms(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    embed, search = (document["paths"][f"/v1/{name}"]["post"] for name in ("embed", "search"))
    assert set(embed["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
    assert "X-Shape" in embed["responses"]["200"]["headers"]
    assert [one["name"] for one in embed["parameters"]] == ["logits"]
    for described, name in ((embed, "Embeddings"), (search, "Searches")):
        content = described["responses"]["200"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert set(content["example"]) == set(document["components"]["schemas"][name]["properties"])
    (k,) = search["parameters"]
    assert (k["name"], k["schema"]["default"], k["schema"]["maximum"]) == ("k", 20, 200)
    for described in (embed, search):
        assert described["requestBody"] == document["paths"]["/v1/predict"]["post"]["requestBody"]
        assert described["security"] == [{}, {"HTTPBearer": []}]
