import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from secondlook.model.bundles.root import active_generation
from secondlook.service import logs
from tests.images_for_tests import make_image
from tests.service_for_tests import ADMIN, KEY, Call, create_app, files, open_predictor, serving, settings


class Figures(dict[tuple[str, tuple[tuple[str, str], ...]], float]):
    """A scrape: values by name and labels."""

    def __call__(self, name: str, **labels: str) -> float:
        return self[name, tuple(sorted(labels.items()))]


def scrape(call: Call) -> Figures:
    response = call("GET", "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = Figures()
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture
def call(tiny_bundle: Path) -> Iterator[Call]:
    app = create_app(settings(admin_key=KEY, max_files=3), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        yield call


def test_requests_are_counted_by_template_and_status(call: Call) -> None:
    for path in ("/v1/entries/0", "/v1/entries/1", "/v1/entries/999999", "/v1/entries/x"):
        call("GET", path)
    call("GET", "/static/index.js")
    now = scrape(call)
    entry = {"method": "GET", "route": "/v1/entries/{entry_id}"}
    assert now("secondlook_requests_total", status="200", **entry) == 2
    assert now("secondlook_requests_total", status="404", **entry) == 1
    assert now("secondlook_requests_total", status="422", **entry) == 1
    assert now("secondlook_requests_total", method="GET", route="/static", status="200") == 1
    assert now("secondlook_request_duration_seconds_count", route="/v1/entries/{entry_id}") == 4
    assert now("secondlook_rejected_total", reason="not-found") == 1
    assert now("secondlook_rejected_total", reason="invalid-parameter") == 1
    assert now("secondlook_requests_in_flight") == 1  # the scrape


def test_what_a_client_makes_up_makes_no_series(call: Call) -> None:
    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return set(scrape(call))

    for method, path in (
        ("GET", "/nothing"),
        ("BREW", "/nothing"),
        ("BREW", "/v1/model"),
        ("GET", "/static/none"),
        ("GET", "/metrics"),
    ):
        call(method, path)
    before = series()
    for i in range(30):
        call("GET", f"/nothing/{i}")
        call(f"BREW{i}", f"/nothing/{i}")
        call(f"BREW{i}", "/v1/model")
        call("GET", f"/static/{i}")
        call("GET", f"/v1/admin/jobs/{i}", headers={"X-Request-ID": str(i)})
    # The admin call's own alone: it has a route, and it was never called before.
    new = {labels for _, labels in series() - before}
    assert {dict(labels)["route"] for labels in new} == {"/v1/admin/jobs/{job_id}"}
    assert len({labels for labels in new if "method" in dict(labels)}) == 1


def test_answers_are_counted_with_what_network_and_cache_say(call: Call, tiny_bundle: Path) -> None:
    uploads = [(f"{colour}.png", make_image(colour, seed=seed)) for seed, colour in enumerate(("red", "green"))]
    said = call("POST", "/v1/predict", files=files(*uploads, ("bad.png", b"no image"))).json()["predictions"]
    assert said[2]["status"] == 400
    alone = call("POST", "/v1/predict?lam=1", files=files(uploads[0])).json()["predictions"]
    answers = [*said[:2], *alone]
    now = scrape(call)
    assert now("secondlook_images_total", outcome="answered") == 3
    assert now("secondlook_images_total", outcome="undecodable-image") == 1
    assert now("secondlook_rejected_total", reason="undecodable-image") == 0  # the request itself was answered
    assert now("secondlook_top_probability_count") == 3
    assert now("secondlook_top_probability_sum") == pytest.approx(sum(a["probability"] for a in answers), abs=1e-5)
    assert now("secondlook_novelty_score_sum") == pytest.approx(sum(a["novelty"]["score"] for a in answers), abs=1e-5)
    differing = sum(a["network"]["label"] != a["cache"]["label"] for a in answers)
    assert now("secondlook_answers_differing_total") == differing
    assert now("secondlook_answers_novel_total") == sum(bool(a["novelty"]["is_novel"]) for a in answers)
    assert now("secondlook_batch_images_count") == 2
    assert now("secondlook_batch_images_sum") == 3
    for stage, count in (("decode", 3), ("queue", 2), ("encode", 2), ("search", 2), ("vote", 2)):
        assert now("secondlook_stage_duration_seconds_count", stage=stage) == count
        assert 0 <= now("secondlook_stage_duration_seconds_sum", stage=stage) < 60
    assert now("secondlook_stage_duration_seconds_sum", stage="encode") > 0


def test_refusals_are_counted_by_reason(call: Call) -> None:
    call("POST", "/v1/predict", files=files(("a.png", b"no image")))
    call("POST", "/v1/predict", content=b"x")
    call("POST", "/v1/predict", files=files(*[("a.png", b"x")] * 4))
    call("GET", "/v1/admin/jobs")
    now = scrape(call)
    for reason in ("undecodable-image", "unsupported-media-type", "too-many-files", "key-missing"):
        assert now("secondlook_rejected_total", reason=reason) == 1
    assert now("secondlook_rejected_total", reason="queue-full") == 0


def test_the_state_is_read_at_each_scrape(call: Call, tiny_bundle: Path) -> None:
    now = scrape(call)
    model = call("GET", "/v1/model").json()
    assert model["generation"] == active_generation(tiny_bundle)
    assert now("secondlook_generation_info", generation=model["generation"], engine=model["engine"]) == 1
    assert now("secondlook_entries") == model["entries"]
    assert now("secondlook_ready") == 1
    assert now("secondlook_rebuild_running") == 0
    assert now("secondlook_queue_images") == now("secondlook_queue_oldest_seconds") == 0
    assert {name for name, _ in now} >= {"secondlook_rebuilds_total", "process_resident_memory_bytes"}


def test_two_apps_in_one_process_count_apart(call: Call, tiny_bundle: Path) -> None:
    with serving(create_app(settings(), predictor=open_predictor(tiny_bundle))) as other:
        other("GET", "/v1/model")
        model = {"method": "GET", "route": "/v1/model", "status": "200"}
        assert scrape(other)("secondlook_requests_total", **model) == 1
        assert ("secondlook_requests_total", tuple(sorted(model.items()))) not in scrape(call)


def test_every_answer_has_the_requests_id(call: Call) -> None:
    for path, status in (("/v1/model", 200), ("/nothing", 404), ("/v1/admin/jobs", 401), ("/static/index.js", 200)):
        response = call("GET", path, headers={"X-Request-ID": "ours-1"})
        assert (response.status_code, response.headers["x-request-id"]) == (status, "ours-1")
    hostile = call("GET", "/v1/model", headers={"X-Request-ID": 'a"}\x1b[31m'})
    assert len(hostile.headers["x-request-id"]) == 32
    assert len(call("GET", "/v1/model").headers["x-request-id"]) == 32


def test_a_requests_line_says_who_and_what_and_no_text_of_the_client(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = 'x"}\n{"level":"ERROR"}\x1b[31m\u202e'
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    caplog.set_level(logging.WARNING, "httpx")  # the test's own client
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(logs.JsonFormatter())
    given = {"X-Request-ID": "ours-2", "traceparent": trace, "User-Agent": "evil\x1b[2J"}
    call("POST", f"/v1/predict?top={'%0a%1b' * 5}", files=files((hostile, b"no image")), headers=given)
    call("POST", "/v1/predict", files=files((hostile, b"no image")))
    call("GET", "/v1/admin/generations", headers=ADMIN)
    call("GET", "/evil%0d%0a%1b[31m/evil")
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    assert all(line.isascii() and line.isprintable() for line in caplog.text.splitlines())
    assert "evil" not in caplog.text
    first, second, third, fourth = (line for line in lines if line["logger"] == "secondlook.service.http.access_log")
    assert first.pop("ms") >= 0
    first.pop("time")
    assert first == {
        "level": "INFO",
        "logger": "secondlook.service.http.access_log",
        "message": "answered",
        "request_id": "ours-2",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "parent_id": "00f067aa0ba902b7",
        "method": "POST",
        "route": "/v1/predict",
        "status": 422,
        "problem": "invalid-parameter",
    }
    assert (second["status"], second["problem"]) == (400, "undecodable-image")
    assert (third["status"], third["key"]) == (200, "SECONDLOOK_ADMIN_KEY")
    assert (fourth["status"], fourth["route"]) == (404, None)
    assert KEY not in caplog.text
