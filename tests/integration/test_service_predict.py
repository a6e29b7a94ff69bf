import asyncio
import dataclasses
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
from fastapi import Query, Request, Response
from PIL import Image

from secondlook.model.answering.predictor import Answer, Overrides, Predictor
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode
from secondlook.model.manifest import Calibration, Novelty
from secondlook.model.stores.faiss_store import FaissStore
from secondlook.model.stores.store import Neighbors
from secondlook.service.routes import predict
from secondlook.service.routes.query import PredictQuery
from tests.images_for_tests import COLOURS, make_image
from tests.service_for_tests import Call, create_app, files, open_predictor, problem, serving, settings


@pytest.fixture(scope="module")
def reference(tiny_bundle: Path) -> Predictor:
    return open_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def call(tiny_bundle: Path) -> Iterator[Call]:
    with serving(create_app(settings(), predictor=open_predictor(tiny_bundle))) as call:
        yield call


def answer(reference: Predictor, content: bytes, neighbors: int = 0, **overrides: Any) -> Answer:
    image = decode(content, reference.bundle.geometry, Limits(DEFAULT_PIXELS))[None]
    (found,) = reference.predict(image, [reference.parameters(Overrides(**overrides))], neighbors)
    assert isinstance(found, Answer)
    return found


def test_one_image_is_answered_as_the_predictor_does(call: Call, reference: Predictor) -> None:
    content = make_image("green", (50, 40), seed=5)
    response = call("POST", "/v1/predict?top=2&neighbors=4", files=files(("a.png", content)))
    assert response.status_code == 200
    body = response.json()
    manifest, expected = reference.bundle.manifest, answer(reference, content, 4)
    assert set(body) == {"generation", "lam", "theta", "k", "predictions"}
    assert body["generation"] == manifest.generation
    assert (body["lam"], body["theta"], body["k"]) == (manifest.lam, manifest.theta, manifest.k)
    (said,) = body["predictions"]
    best = int(expected.mixed.argmax())
    assert (said["filename"], said["index"], said["label"]) == ("a.png", best, manifest.classes[best])
    order = np.argsort(-expected.mixed)[:2]
    assert [item["index"] for item in said["top"]] == list(order)
    for item in said["top"]:
        i = item["index"]
        assert item["label"] == manifest.classes[i]
        assert item["probability"] == pytest.approx(expected.mixed[i], abs=1e-5)
        assert item["network"] == pytest.approx(expected.network[i], abs=1e-5)
        assert item["cache"] == pytest.approx(expected.cache[i], abs=1e-5)
    assert said["probability"] == said["top"][0]["probability"]
    for name in ("network", "cache"):
        alone = getattr(expected, name)
        assert said[name]["label"] == manifest.classes[int(alone.argmax())]
        assert said[name]["probability"] == pytest.approx(alone.max(), abs=1e-5)
    assert said["novelty"]["score"] == pytest.approx(expected.novelty, abs=1e-5)
    assert said["novelty"]["is_novel"] == expected.is_novel
    assert [item["id"] for item in said["neighbors"]] == list(expected.ids)
    for item, value, weight in zip(said["neighbors"], expected.values, expected.weights, strict=True):
        assert item["label"] == manifest.classes[value]
        assert item["weight"] == pytest.approx(weight, abs=1e-5)
    similarities = [item["similarity"] for item in said["neighbors"]]
    assert similarities == sorted(similarities, reverse=True)


def test_a_raw_body_is_the_same_image(call: Call) -> None:
    content = make_image("red", format="JPEG")
    raw = call("POST", "/v1/predict", content=content, headers={"Content-Type": "image/jpeg"}).json()
    sent = call("POST", "/v1/predict", files=files(("r.jpg", content))).json()
    assert raw["predictions"][0].pop("filename") is None
    assert sent["predictions"][0].pop("filename") == "r.jpg"
    assert raw == sent


@pytest.mark.parametrize(
    ("query", "overrides"),
    [
        ("lam=0", {"lam": 0.0}),
        ("lam=1&theta=3.5&k=2", {"lam": 1.0, "theta": 3.5, "k": 2}),
        ("lam=1&theta=3.5&k=all", {"lam": 1.0, "theta": 3.5, "k": "all"}),
        ("k=100000000000000", {"k": "all"}),
    ],
)
def test_overrides_hold_for_the_call(call: Call, reference: Predictor, query: str, overrides: dict[str, Any]) -> None:
    content = make_image("blue", seed=9)
    body = call("POST", f"/v1/predict?{query}", files=files(("b.png", content))).json()
    expected = answer(reference, content, **overrides)
    for item in body["predictions"][0]["top"]:
        assert item["probability"] == pytest.approx(expected.mixed[item["index"]], abs=1e-5)
    for name in ("lam", "theta"):
        assert body[name] == overrides.get(name, getattr(reference.defaults, name))
    if overrides.get("k") == "all" and "k=all" in query:
        assert body["k"] is None
    again = call("POST", "/v1/predict", files=files(("b.png", content))).json()
    assert again["lam"] == reference.defaults.lam


def test_one_bad_image_fails_alone_in_its_place(call: Call) -> None:
    uploads = files(("a.png", make_image("red")), ("bad.png", b"not an image"), ("c.png", make_image("blue")))
    response = call("POST", "/v1/predict", files=uploads)
    assert response.status_code == 200
    first, bad, last = response.json()["predictions"]
    assert bad["type"] == "urn:secondlook:problem:undecodable-image"
    assert (bad["status"], bad["filename"]) == (400, "bad.png")
    assert bad["detail"].startswith("bad.png: ")
    for said, name, colour in ((first, "a.png", "red"), (last, "c.png", "blue")):
        alone = call("POST", "/v1/predict", files=files((name, make_image(colour)))).json()["predictions"][0]
        assert said["filename"] == name
        assert said["probability"] == pytest.approx(alone["probability"], abs=1e-5)
        assert said["label"] == alone["label"]


def test_when_all_images_are_bad_each_has_its_problem(call: Call, reference: Predictor) -> None:
    body = call("POST", "/v1/predict?lam=0.25", files=files(("a", b""), ("b", b"x"))).json()
    assert [item["filename"] for item in body["predictions"]] == ["a", "b"]
    assert all(item["status"] == 400 for item in body["predictions"])
    assert body["lam"] == 0.25
    assert body["generation"] == reference.bundle.manifest.generation


def test_model_says_what_the_bundle_is(call: Call, reference: Predictor) -> None:
    body = call("GET", "/v1/model").json()
    assert body["generation"] == reference.bundle.manifest.generation
    assert body["classes"] == sorted(COLOURS)
    assert body["entries"] == reference.bundle.store.count
    assert body["theta"] == reference.defaults.theta
    assert body["preprocess"]["geometry"]["height"] == 32


def test_an_answers_neighbour_can_be_looked_up(call: Call, reference: Predictor) -> None:
    body = call("POST", "/v1/predict?neighbors=1", files=files(("a.png", make_image("green")))).json()
    near = body["predictions"][0]["neighbors"][0]
    entry = call("GET", f"/v1/entries/{near['id']}").json()
    assert (entry["id"], entry["label"], entry["generation"]) == (near["id"], near["label"], body["generation"])
    kept = reference.bundle.entries.get(near["id"])
    assert kept is not None
    assert entry["source"] == kept.source
    picture = call("GET", entry["thumbnail"])
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == reference.bundle.entries.thumbnail(kept)


@pytest.mark.parametrize("path", ["/v1/entries/999999", "/v1/entries/999999/thumbnail", "/nothing"])
def test_what_is_not_there_is_404(call: Call, path: str) -> None:
    problem(call("GET", path), 404, "not-found")


@pytest.mark.parametrize("path", ["/v1/entries/x", "/v1/entries/-1", f"/v1/entries/{2**64}"])
def test_an_entry_id_is_a_number_that_fits(call: Call, path: str) -> None:
    assert "entry_id" in problem(call("GET", path), 422, "invalid-parameter")


def test_a_wrong_method_names_the_right_one(call: Call) -> None:
    response = call("PUT", "/v1/predict")
    assert "POST" in problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "OPTIONS, POST"


def test_health(call: Call, tiny_bundle: Path) -> None:
    for path, status in (("/livez", "alive"), ("/readyz", "ready")):
        assert call("GET", path).json() == {"status": status, "generation": active_generation(tiny_bundle)}


def test_not_ready_when_the_batcher_died(tiny_bundle: Path) -> None:
    app = create_app(settings(), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        app.state.running.batcher._thread.stop()
        response = call("POST", "/v1/predict", files=files(("a.png", make_image("red"))))
        problem(response, 503, "not-ready")
        problem(call("GET", "/readyz"), 503, "not-ready")
        assert call("GET", "/livez").status_code == 200


class Slow(Predictor):
    """Waits for longer than the request may take."""

    def predict(self, *given: Any) -> Any:
        time.sleep(0.5)
        return super().predict(*given)


def test_an_answer_that_takes_too_long_is_503(tiny_bundle: Path) -> None:
    slow = Slow(open_predictor(tiny_bundle).bundle)
    with serving(create_app(settings(request_timeout_s=0.1), predictor=slow)) as call:
        response = call("POST", "/v1/predict", files=files(("a.png", make_image("red"))))
        assert "0.1 s" in problem(response, 503, "too-slow")
        assert response.headers["retry-after"]


class Gated(Predictor):
    """Waits at a gate, and counts the images that came through."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.entered, self.gate, self.images = threading.Event(), threading.Event(), 0

    def predict(self, images: Any, *given: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(20)
        self.images += len(images)
        return super().predict(images, *given)


def test_a_client_that_leaves_while_it_waits_is_dropped(tiny_bundle: Path) -> None:
    gated = Gated(open_predictor(tiny_bundle).bundle)
    app = create_app(settings(), predictor=gated)
    sent: list[Any] = []
    body = {"type": "http.request", "body": make_image("red")}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"image/png")],
    }

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def stays() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        leaving = iter([body, {"type": "http.disconnect"}])

        async def leaves() -> Any:
            return next(leaving)

        messages = [body]
        async with asyncio.timeout(20), app.router.lifespan_context(app):
            first = asyncio.create_task(app(dict(scope), stays, send))
            assert await asyncio.to_thread(gated.entered.wait, 20)
            await app(dict(scope), leaves, send)
            assert sent == []
            gated.gate.set()
            await first

    asyncio.run(run())
    assert sent[0]["status"] == 200
    assert gated.images == 1


class Incomplete(FaissStore):
    """A store that finds a single entry."""

    def search(self, *given: Any) -> Neighbors:
        found = super().search(*given)
        found.similarities[:, 1:] = -np.inf
        found.ids[:, 1:] = found.values[:, 1:] = -1
        return found


def test_places_without_an_entry_are_not_listed(tiny_bundle: Path) -> None:
    bundle = open_predictor(tiny_bundle).bundle
    ((keys, values),) = bundle.store.chunks()
    # By the similarity of a neighbour that is not there.
    novelty = Novelty(neighbor=10, threshold=0.3, false_alarm_rate=0.01)
    calibration = Calibration(novelty=novelty, ece_percent_network=0, ece_percent_mixed=0)
    manifest = bundle.manifest.model_copy(update={"calibration": calibration})
    short = dataclasses.replace(bundle, store=Incomplete.build(keys, values, "Flat"), manifest=manifest)
    with serving(create_app(settings(), predictor=Predictor(short))) as call:
        body = call("POST", "/v1/predict?neighbors=2", files=files(("a.png", make_image("red")))).json()
    said = body["predictions"][0]
    assert [item["weight"] for item in said["neighbors"]] == [pytest.approx(1)]
    assert said["neighbors"][0]["label"] == said["cache"]["label"] == "red"
    assert (said["novelty"]["score"], said["novelty"]["is_novel"]) == (2.0, True)
    assert said["credibility"] is None


def test_many_requests_at_once_each_get_their_own_answer(tiny_bundle: Path, reference: Predictor) -> None:
    app = create_app(settings(max_batch=4), predictor=open_predictor(tiny_bundle))
    contents = [make_image(colour, seed=seed) for seed in range(8) for colour in COLOURS]

    async def run() -> list[httpx.Response]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            return await asyncio.gather(
                *(client.post("/v1/predict", files=files(("a.png", content))) for content in contents)
            )

    for content, response in zip(contents, asyncio.run(run()), strict=True):
        expected = answer(reference, content)
        said = response.json()["predictions"][0]
        assert said["index"] == int(expected.mixed.argmax())
        assert said["probability"] == pytest.approx(expected.mixed.max(), abs=1e-5)


def test_the_documents_and_pages_need_no_other_address(call: Call) -> None:
    document = call("GET", "/openapi.json").json()
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "image/*"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["components"]["schemas"]) >= {"Predictions", "Problem", "Job"}
    for path in ("/", "/docs"):
        page = call("GET", path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http" not in page.text
        assert "<script>" not in page.text
        assert "<style" not in page.text
        for part in page.text.split('"'):
            if part.startswith("/static/"):
                file = call("GET", part)
                assert (file.status_code, file.headers["cache-control"]) == (200, "no-cache")


def test_grey_and_palette_images_are_accepted(call: Call) -> None:
    for mode in ("L", "P", "1", "LA"):
        buffer = io.BytesIO()
        Image.new(mode, (20, 30)).save(buffer, "PNG")
        assert call("POST", "/v1/predict", files=files((mode, buffer.getvalue()))).status_code == 200


def test_the_route_that_is_documented_is_the_one_that_answers(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def other(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        return Response(f"{query.top} of {request.scope['route'].path}", 418)

    monkeypatch.setattr(predict, "predict", other)
    with serving(create_app(settings(), predictor=open_predictor(tiny_bundle))) as call:
        assert "/v1/predict" in call("GET", "/openapi.json").json()["paths"]
        response = call("POST", "/v1/predict?top=2", content=make_image("red"), headers={"Content-Type": "image/png"})
        assert (response.status_code, response.text) == (418, "2 of /v1/predict")
