"""What happens over HTTP when the predictor takes the thread down with it, and when there is more than can be borne."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from secondlook.model.answering.predictor import Predictor
from secondlook.service.batching.batcher import RESTART_SECONDS
from secondlook.service.http import limits
from tests.images_for_tests import make_image
from tests.service_for_tests import create_app, files, open_predictor, problem, serving, settings

PATIENCE = 20.0
RAW = {"Content-Type": "image/png"}


class Gated(Predictor):
    """Waits at a gate, counts the images that came through, and ends its thread where it is told to."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.entered, self.gate, self.images, self.exits = threading.Event(), threading.Event(), 0, False

    def predict(self, images: Any, *given: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        if self.exits:
            raise SystemExit(1)
        self.images += len(images)
        return super().predict(images, *given)


@pytest.fixture
def gated(tiny_bundle: Path) -> Gated:
    return Gated(open_predictor(tiny_bundle).bundle)


class Crowd:
    """Requests that are under way at the same time."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    def send(self, content: Any = None, **options: Any) -> "asyncio.Task[httpx.Response]":
        body = make_image("red") if content is None else content
        return asyncio.create_task(self.client.post("/v1/predict", content=body, headers=RAW, **options))


def crowded(app: FastAPI, body: Any) -> None:
    async def run() -> None:
        crowd = Crowd(app)
        async with asyncio.timeout(PATIENCE), app.router.lifespan_context(app), crowd.client:
            await body(crowd)

    asyncio.run(run())


def test_a_dead_compute_thread_is_told_seen_and_replaced(gated: Gated) -> None:
    gated.gate.set()
    with serving(create_app(settings(), predictor=gated)) as call:
        assert call("GET", "/readyz").status_code == 200
        gated.exits = True
        failed = call("POST", "/v1/predict", content=make_image("red"), headers=RAW)
        problem(failed, 503, "not-ready")
        assert int(failed.headers["retry-after"]) >= 1
        problem(call("GET", "/readyz"), 503, "not-ready")
        problem(call("POST", "/v1/predict", content=make_image("red"), headers=RAW), 503, "not-ready")
        assert call("GET", "/livez").status_code == 200
        gated.exits = False
        began = time.monotonic()
        while call("GET", "/readyz").status_code != 200:
            assert time.monotonic() < began + RESTART_SECONDS + PATIENCE
            time.sleep(0.05)
        assert call("POST", "/v1/predict", content=make_image("red"), headers=RAW).status_code == 200


def test_a_call_that_does_not_return_is_seen_from_outside(gated: Gated) -> None:
    app = create_app(settings(request_timeout_s=0.3), predictor=gated)

    async def body(crowd: Crowd) -> None:
        assert (await crowd.client.get("/readyz")).status_code == 200
        problem(await crowd.send(), 503, "too-slow")
        while (seen := await crowd.client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.05)
        problem(seen, 503, "not-ready")
        assert "secondlook_ready 0.0" in (await crowd.client.get("/metrics")).text
        assert (await crowd.client.get("/livez")).status_code == 200
        gated.gate.set()
        while (await crowd.client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)

    crowded(app, body)


def test_who_comes_too_late_is_refused_before_a_byte_is_read(gated: Gated) -> None:
    app = create_app(settings(max_queue=2), predictor=gated)

    async def body(crowd: Crowd) -> None:
        taken = [crowd.send(), crowd.send()]
        assert await asyncio.to_thread(gated.entered.wait, PATIENCE)
        read = 0

        async def counted() -> Any:
            nonlocal read
            read += 1
            yield make_image("red")

        refused = await crowd.send(counted())
        assert "2 images" in problem(refused, 429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        assert read == 0
        gated.gate.set()
        assert [reply.status_code for reply in await asyncio.gather(*taken)] == [200, 200]
        assert (await crowd.send(counted())).status_code == 200
        assert read == 1
        admission = app.state.running.admission
        assert (admission.images, admission.bytes) == (0, 0)
        assert 'secondlook_rejected_total{reason="queue-full"} 1.0' in (await crowd.client.get("/metrics")).text

    crowded(app, body)
    assert gated.images == 3


def test_bytes_are_bounded_by_announcement_and_by_count(gated: Gated) -> None:
    app = create_app(settings(max_queue_bytes=10_000), predictor=gated)
    image = make_image("red", (8, 8))

    async def parts(count: int) -> Any:
        for _ in range(count):
            yield bytes(1000)

    async def body(crowd: Crowd) -> None:
        taken = crowd.send(image)
        assert await asyncio.to_thread(gated.entered.wait, PATIENCE)
        problem(await crowd.send(bytes(10_000)), 429, "queue-full")
        problem(await crowd.send(parts(20)), 429, "queue-full")  # no length was announced
        problem(await crowd.send(parts(2)), 400, "undecodable-image")
        gated.gate.set()
        assert (await taken).status_code == 200
        problem(await crowd.send(parts(20)), 400, "undecodable-image")  # alone, it is taken

    crowded(app, body)


def test_a_body_may_come_slowly_as_long_as_it_comes(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    gated.gate.set()
    monkeypatch.setattr(limits, "STALL_S", 1.0)
    app = create_app(settings(), predictor=gated)
    image = make_image("red", (64, 64), "BMP")

    async def pieces() -> Any:
        for start in range(0, len(image), 2048):
            yield image[start : start + 2048]
            await asyncio.sleep(0.3)

    async def body(crowd: Crowd) -> None:
        assert len(image) > 6 * 2048  # longer than a standstill may take
        assert (await crowd.send(pieces())).status_code == 200

    crowded(app, body)


def test_what_is_given_up_before_it_is_computed_is_counted(gated: Gated) -> None:
    app = create_app(settings(request_timeout_s=0.5), predictor=gated)
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": []}
    scope["headers"] = [(b"host", b"localhost"), (b"content-type", b"image/png")]

    async def leaves() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def left_already() -> Any:
        return {"type": "http.disconnect"}

    async def nothing(message: Any) -> None:
        raise AssertionError("nobody is there")

    def dropped() -> tuple[float | None, ...]:
        read = app.state.metrics.registry.get_sample_value
        return tuple(read("secondlook_dropped_total", {"reason": reason}) for reason in ("client_gone", "deadline"))

    messages = [{"type": "http.request", "body": make_image("red")}]

    async def body(crowd: Crowd) -> None:
        computed = crowd.send()
        assert await asyncio.to_thread(gated.entered.wait, PATIENCE)
        await app(dict(scope), leaves, nothing)
        assert dropped() == (1, 0)
        await app(dict(scope), left_already, nothing)
        assert dropped() == (2, 0)
        problem(await crowd.send(), 503, "too-slow")
        problem(await computed, 503, "too-slow")  # it cost a forward pass: it is not among those that were dropped
        assert dropped() == (2, 1)
        gated.gate.set()
        assert (await crowd.send()).status_code == 200

    crowded(app, body)
    assert gated.images == 2


def test_a_raw_body_is_not_parsed_as_multipart(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("secondlook.service.routes.receive.MultipartParser", refuse)
    gated.gate.set()
    with serving(create_app(settings(), predictor=gated)) as call:
        raw = call("POST", "/v1/predict", content=make_image("red"), headers=RAW)
        assert raw.status_code == 200
        assert call("POST", "/v1/predict", files=files(("a.png", make_image("red")))).status_code == 500


def test_many_files_fill_the_queue_before_they_are_decoded(gated: Gated) -> None:
    app = create_app(settings(max_queue=4), predictor=gated)
    many = files(*[("a.png", b"not an image")] * 4)

    async def body(crowd: Crowd) -> None:
        taken = crowd.send()
        assert await asyncio.to_thread(gated.entered.wait, PATIENCE)
        problem(await crowd.client.post("/v1/predict", files=many), 429, "queue-full")
        assert (await crowd.client.post("/v1/predict", files=many[:3])).status_code == 200
        gated.gate.set()
        assert (await taken).status_code == 200

    crowded(app, body)
