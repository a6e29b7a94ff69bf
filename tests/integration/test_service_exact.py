"""HTTP said exactly: HEAD, OPTIONS, what a call takes and what it does not, and text that is UTF-8."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images_for_tests import make_image
from tests.service_for_tests import ADMIN, KEY, Call, create_app, open_predictor, problem, serving, settings

IMAGE = make_image("red")
FORM = {"files": [("file", ("a.png", IMAGE))]}
# Calls that change nothing, whatever ids they are given.
WRITES = {("POST", "/v1/admin/rebuild"), ("POST", "/v1/entries")}


@pytest.fixture(scope="module")
def call(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    root = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("exact") / "root"))
    with serving(create_app(settings(bundles=root, admin_key=KEY), predictor=open_predictor(root))) as started:
        yield started


@pytest.fixture(scope="module")
def calls(call: Call) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every call; ids in paths are 0."""
    paths = call("GET", "/openapi.json").json()["paths"]
    return [
        (method.upper(), re.sub(r"{\w+}", "0", path), of) for path, ms in paths.items() for method, of in ms.items()
    ]


PAGES = ["/", "/docs", "/openapi.json", "/static/index.js", "/static/icon.svg"]


def test_head_is_get_without_the_body(call: Call, calls: list[Any]) -> None:
    for path in (*PAGES, *(path for method, path, _ in calls if method == "GET")):
        got, head = call("GET", path, headers=ADMIN), call("HEAD", path, headers=ADMIN)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        changing = {"x-request-id"} | ({"content-length"} if path == "/metrics" else set())
        assert {k: v for k, v in head.headers.items() if k not in changing} == {
            k: v for k, v in got.headers.items() if k not in changing
        }, path
        assert int(got.headers["content-length"]) == len(got.content), path


def test_other_methods_are_told_what_is_allowed(call: Call, calls: list[Any]) -> None:
    taken: dict[str, set[str]] = {path: {"GET"} for path in PAGES}
    for method, path, _ in calls:
        taken.setdefault(path, set()).add(method)
    for path, methods in taken.items():
        allowed = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        options = call("OPTIONS", path)
        assert options.status_code == 204, path
        assert options.content == b""
        assert set(options.headers["allow"].split(", ")) == allowed, path
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"} - allowed:
            refused = call(method, path)
            assert set(refused.headers["allow"].split(", ")) == allowed, (method, path)
            if method != "HEAD":
                assert method in problem(refused, 405, "method-not-allowed")
    problem(call("OPTIONS", "/nothing"), 404, "not-found")


def test_no_call_redirects_to_where_the_client_says(call: Call) -> None:
    for path in ("/docs/", "/v1/entries/", "/static", "/v1/model/", "/static//evil.example"):
        answered = call("GET", path, headers={"X-Forwarded-Host": "evil.example"})
        problem(answered, 404, "not-found")
        assert "location" not in answered.headers


@pytest.mark.parametrize(
    "path", ["/static/%00", "/static/%2e%2e/app.py", "/static/" + "a" * 3000, "/%ff", "/static/%ff"]
)
def test_paths_that_lead_nowhere(call: Call, path: str) -> None:
    problem(call("GET", path), 404, "not-found")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=9999999-", "bytes=x", "lines=1-2"])
def test_pages_come_whole(call: Call, path: str, asked: str) -> None:
    assert call("GET", path, headers={"Range": asked}).status_code == 200


def test_an_unknown_parameter_is_refused_by_every_call(call: Call, calls: list[Any]) -> None:
    for method, path, _ in calls:
        detail = problem(call(method, path, params={"surely_not": "1"}, headers=ADMIN), 422, "invalid-parameter")
        assert detail.startswith("surely_not: there is no such parameter"), (method, path)


def test_one_given_twice_is_refused_by_every_call(call: Call, calls: list[Any]) -> None:
    count = 0
    for method, path, of in calls:
        for name in (one["name"] for one in of.get("parameters", ()) if one["in"] == "query"):
            detail = problem(call(method, f"{path}?{name}=1&{name}=1", headers=ADMIN), 422, "invalid-parameter")
            assert detail == f"{name}: it is given twice: give it once."
            count += 1
    assert count > 10


def test_who_may_not_call_learns_nothing_of_its_parameters(call: Call) -> None:
    for method, path in (("GET", "/v1/admin/jobs"), ("POST", "/v1/entries"), ("DELETE", "/v1/entries/0")):
        problem(call(method, f"{path}?nonsense=1"), 401, "key-missing")


@pytest.mark.parametrize(
    ("query", "likely"),
    [
        ("lamb=0.5", "lam"),
        ("Lam=0.5", "lam"),
        ("lambda=0.5", "lam"),
        ("neighbours=5", "neighbors"),
        ("tetha=1", "theta"),
        ("K=5", "k"),
        ("top%5B%5D=1", "top"),
    ],
)
def test_the_likely_parameter_is_named(call: Call, query: str, likely: str) -> None:
    detail = problem(call("POST", f"/v1/predict?{query}", **FORM), 422, "invalid-parameter")
    assert detail.endswith(f": there is no such parameter: {likely} is the likely one.")


def test_where_none_is_likely_all_are_named(call: Call) -> None:
    detail = problem(call("POST", "/v1/predict?zzz=1", **FORM), 422, "invalid-parameter")
    assert detail.startswith("zzz: there is no such parameter: there are top, neighbors, lam")
    assert "there are none here" in problem(call("GET", "/v1/model?zzz=1"), 422, "invalid-parameter")


def test_pages_take_what_others_put_into_their_addresses(call: Call) -> None:
    for path in PAGES:
        assert call("GET", f"{path}?utm_source=x&utm_source=y").status_code == 200


def test_an_unknown_field_of_a_body_names_the_likely_one(call: Call) -> None:
    wrong = call("POST", "/v1/admin/rebuild", headers=ADMIN, json={"datasets": "x"})
    assert problem(wrong, 422, "invalid-parameter") == "datasets: there is no such field: dataset is the likely one."
    wrong = call("PATCH", "/v1/entries/0", headers=ADMIN, json={"label": "cat", "lable": "dog"})
    assert problem(wrong, 422, "invalid-parameter") == "lable: there is no such field: label is the likely one."


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "/v1/entries/0", '{"label": "cat", "label": "dog"}', "label"),
        ("PATCH", "/v1/entries/0", '{"label": "cat", "\\u006cabel": "cat"}', "label"),
        ("PATCH", "/v1/entries/0", '{"label": {"a": 1, "a": 2}}', "a"),
        ("POST", "/v1/admin/rebuild", '{"force": false, "dataset": "x", "force": true}', "force"),
    ],
)
def test_a_field_given_twice_in_json_is_refused(call: Call, method: str, path: str, body: str, field: str) -> None:
    wrong = call(method, path, content=body, headers=ADMIN | {"Content-Type": "application/json"})
    assert problem(wrong, 422, "invalid-parameter") == f"{field}: it is given twice: give it once."


@pytest.mark.parametrize("body", ['{"\\ud800": 1, "label": "x"}', '{"\\ud800": 1, "\\ud800": 2}'])
def test_a_field_whose_name_is_no_text_is_refused(call: Call, body: str) -> None:
    wrong = call("PATCH", "/v1/entries/0", content=body, headers=ADMIN | {"Content-Type": "application/json"})
    problem(wrong, 422, "invalid-parameter")


def test_a_form_takes_what_the_call_takes(call: Call) -> None:
    wrong = call("POST", "/v1/predict", **FORM, data={"lam": "0.5"})
    assert problem(wrong, 422, "invalid-parameter") == "lam: there is no such field: there are file."
    wrong = call("POST", "/v1/entries", **FORM, data={"lable": "cat"}, headers=ADMIN)
    assert problem(wrong, 422, "invalid-parameter") == "lable: there is no such field: label is the likely one."
    wrong = call("POST", "/v1/entries", **FORM, data={"label": ["cat", "dog"]}, headers=ADMIN)
    assert problem(wrong, 422, "invalid-parameter") == "label: the form has it twice: give it once."


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x"])
def test_a_compressed_body_is_refused(call: Call, coding: str) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "image/png"}
    refused = call("POST", "/v1/predict", content=IMAGE, headers=headers)
    assert coding in problem(refused, 415, "compressed-body")
    assert refused.headers["accept-encoding"] == "identity"
    assert call("POST", "/v1/predict", content=IMAGE, headers=headers | {"Content-Encoding": "identity"}).is_success


def part(*headers: str) -> dict[str, Any]:
    lines = ['Content-Disposition: form-data; name="file"; filename="a.png"', *headers, "", ""]
    content = b"--b\r\n" + "\r\n".join(lines).encode() + IMAGE + b"\r\n--b--\r\n"
    return {"content": content, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


def test_so_is_a_compressed_part(call: Call) -> None:
    for header in ("Content-Transfer-Encoding: base64", "content-transfer-encoding: quoted-printable"):
        assert header in problem(call("POST", "/v1/predict", **part(header)), 415, "compressed-body")
    problem(call("POST", "/v1/predict", **part("Content-Encoding: gzip")), 415, "compressed-body")
    for header in (
        "Content-Transfer-Encoding: binary",
        "Content-Transfer-Encoding: 8bit",
        "Content-Encoding: identity",
    ):
        assert call("POST", "/v1/predict", **part(header)).status_code == 200


NOT_UTF8 = ["caf%E9", "caf%E8", "%ff", "%C3", "%ED%A0%80", "%C0%AF", "%F4%90%80%80"]


@pytest.mark.parametrize("label", NOT_UTF8)
def test_a_query_that_is_not_utf_8_is_refused(call: Call, label: str) -> None:
    classes = call("GET", "/v1/model").json()["classes"]
    taught = call("POST", f"/v1/entries?label={label}", headers=ADMIN, **FORM)
    assert problem(taught, 422, "invalid-parameter") == "label: it is not text in UTF-8."
    listed = call("GET", f"/v1/entries?label={label}")
    assert problem(listed, 422, "invalid-parameter") == "label: it is not text in UTF-8."
    problem(call("POST", f"/v1/predict?{label}=1", **FORM), 422, "invalid-parameter")
    assert call("GET", "/v1/model").json()["classes"] == classes


@pytest.mark.parametrize("label", [b"caf\xe9", b"caf\xe8", b"\xed\xa0\x80", b"\xff"])
def test_a_form_or_a_body_that_is_not_utf_8_is_refused(call: Call, label: bytes) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="label"\r\n\r\n' + label + b"\r\n" + part()["content"]
    headers = ADMIN | {"Content-Type": "multipart/form-data; boundary=b"}
    taught = call("POST", "/v1/entries", content=form, headers=headers)
    assert problem(taught, 422, "invalid-parameter") == "label: it is not text in UTF-8."
    headers = ADMIN | {"Content-Type": "application/json"}
    relabelled = call("PATCH", "/v1/entries/0", content=b'{"label": "' + label + b'"}', headers=headers)
    assert relabelled.status_code in (400, 422)


@pytest.mark.parametrize("escaped", [r"\ud800", r"caf\udce9", r"\udc00\ud800"])
def test_half_a_character_in_json_is_refused(call: Call, escaped: str) -> None:
    headers = ADMIN | {"Content-Type": "application/json"}
    refused = call("PATCH", "/v1/entries/0", content=f'{{"label": "{escaped}"}}', headers=headers)
    assert problem(refused, 422, "invalid-parameter").startswith("label: ")


@pytest.mark.parametrize(
    "body", ["[" * 60_000, '{"label": 1e400}', '{"label": ' + "9" * 5000 + "}", "\ufeff{}", "{'a': 1}"]
)
def test_json_that_is_none_is_refused(call: Call, body: str) -> None:
    headers = ADMIN | {"Content-Type": "application/json"}
    refused = call("PATCH", "/v1/entries/0", content=body.encode(), headers=headers)
    assert refused.status_code in (400, 422)
    assert refused.headers["content-type"] == "application/problem+json"


def test_links_are_below_the_prefix(tiny_bundle: Path) -> None:
    app = create_app(settings(root_path="/look/"), predictor=open_predictor(tiny_bundle))
    with serving(app) as call:
        for path in ("/look/v1/entries?limit=1", "/v1/entries?limit=1"):
            (entry,) = call("GET", path).json()["entries"]
            assert entry["thumbnail"] == f"/look/v1/entries/{entry['id']}/thumbnail"
            assert call("GET", entry["thumbnail"]).status_code == 200
        (answer,) = call("POST", "/look/v1/predict?neighbors=1", **FORM).json()["predictions"]
        assert answer["neighbors"][0]["thumbnail"].startswith("/look/v1/entries/")
        assert call("GET", "/look/openapi.json").json()["servers"] == [{"url": "/look"}]
        moved = call("GET", "/look")
        assert (moved.status_code, moved.headers["location"]) == (308, "/look/")
        assert call("GET", "/look/").text == call("GET", "/").text
        problem(call("GET", "/looking"), 404, "not-found")


def test_another_servers_request_is_not_answered(call: Call) -> None:
    for path in ("/v1/entries", "/", "/v1/entries/0/thumbnail", "/static/index.js", "/nothing", "/readyz"):
        problem(call("GET", path, headers={"Host": "evil.example"}), 421, "host-not-served")
    problem(call("POST", "/v1/predict", headers={"Host": "evil.example:8000"}, **FORM), 421, "host-not-served")


@pytest.mark.parametrize("name", ["Authorization", "Content-Encoding", "content-type", "Idempotency-Key"])
def test_two_headers_where_one_counts_are_refused(call: Call, name: str) -> None:
    sent = call("POST", "/v1/predict", content=IMAGE, headers=[(name, "identity"), (name, "gzip")])
    assert name.title() in problem(sent, 400, "malformed-request")


def test_a_label_is_found_however_it_is_written(call: Call) -> None:
    assert call("GET", "/v1/entries", params={"label": " red\u200b"}).json()["total"] > 0
    problem(call("GET", "/v1/entries", params={"label": "\u202ered"}), 422, "invalid-parameter")
    problem(call("GET", "/v1/entries", params={"label": "nothing"}), 422, "invalid-parameter")
