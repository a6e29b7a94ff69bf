"""HTTP to a real server process: bytes on a socket, names in Host, and a proxy that serves it below a path."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.balancer import NOBODY, free_port
from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
IMAGE = make_image("red")
UPGRADES = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "unknown": "Upgrade: tea/1\r\nConnection: keep-alive, upgrade\r\n",
}


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def talk(server: Server, sent: bytes) -> list[tuple[int, Any]]:
    """All answers, up to the one that ends the connection."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(sent)
        with connection.makefile("rb") as received:
            found = []
            while first := received.readline():
                headers = dict(
                    line.decode().rstrip().lower().split(": ", 1) for line in iter(received.readline, b"\r\n")
                )
                body = received.read(int(headers["content-length"]))
                found.append((int(first.split()[1]), json.loads(body)))
            return found


def request(method: str, path: str, more: str = "", body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_a_request_to_speak_another_protocol_is_answered_as_any_other(serve: Serve, root: Path, upgrade: str) -> None:
    server = serve(bundles=root, admin_key=KEY)
    key, wrong = f"Authorization: Bearer {KEY}\r\n", b'{"recipe": "none such"}'
    hidden = request("DELETE", "/v1/entries/0", key)
    got = talk(
        server,
        request("POST", "/v1/predict?top=1", f"{UPGRADES[upgrade]}Content-Type: image/png\r\n", IMAGE)
        # What it asks for is wrong: without its body it would be the wish to rebuild as usual.
        + request("POST", "/v1/admin/rebuild", f"{UPGRADES[upgrade]}{key}Content-Type: application/json\r\n", wrong)
        + request("POST", "/v1/predict", f"{UPGRADES[upgrade]}Content-Type: image/png\r\n", hidden)
        + request("GET", "/v1/entries?limit=1", "Connection: close\r\n"),
    )
    assert [status for status, _ in got] == [200, 422, 400, 200]
    assert got[0][1]["predictions"][0]["label"] == "red"
    assert got[1][1]["detail"].startswith("recipe: ")
    assert got[3][1]["entries"][0]["id"] == 0
    jobs = httpx.get(f"{server.url}/v1/admin/jobs", headers={"Authorization": f"Bearer {KEY}"})
    assert jobs.json() == []


def test_head_ends_where_its_headers_end(serve: Serve) -> None:
    server = serve()
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(request("HEAD", "/v1/model") + request("HEAD", "/", "Connection: close\r\n"))
        with connection.makefile("rb") as received:
            answers = received.read().split(b"\r\n\r\n")
    assert len(answers) == 3
    assert answers[2] == b""
    for answer, path in zip(answers, ("/v1/model", "/"), strict=False):
        assert answer.startswith(b"HTTP/1.1 200 ")
        length = len(httpx.get(f"{server.url}{path}").content)
        assert f"\r\ncontent-length: {length}\r\n".encode() in answer


def test_other_names_are_not_answered_on_loopback(serve: Serve) -> None:
    server = serve()
    port = urlsplit(server.url).port
    assert "requests to any name" not in server.log.read_text()
    for host, status in ((f"localhost:{port}", 200), (f"[::1]:{port}", 200), (f"rebound.example:{port}", 421)):
        for path in ("/", "/v1/entries?limit=1", "/v1/model", "/readyz"):
            assert httpx.get(server.url + path, headers={"Host": host}).status_code == status, (host, path)


def test_any_name_is_answered_elsewhere_and_the_log_says_so_once(serve: Serve) -> None:
    server = serve(host="0.0.0.0", workers=2)
    assert server.log.read_text().count("requests to any name are answered: set SECONDLOOK_ALLOWED_HOSTS") == 1
    assert httpx.get(f"{server.url}/v1/model", headers={"Host": "pod-1.example"}).status_code == 200


def test_names_that_are_set_are_answered(serve: Serve) -> None:
    server = serve(host="0.0.0.0", allowed_hosts="photos.example.org")
    assert "requests to any name" not in server.log.read_text()
    for host, path, status in (
        ("photos.example.org", "/v1/model", 200),
        ("127.0.0.1", "/v1/model", 200),  # a container's own health check
        ("10.1.2.3:8000", "/readyz", 200),  # a kubelet's
        ("10.1.2.3:8000", "/v1/model", 421),
        ("rebound.example", "/readyz", 421),
    ):
        assert httpx.get(server.url + path, headers={"Host": host}).status_code == status, (host, path)


def test_a_setting_that_there_is_none_of_is_a_warning(serve: Serve) -> None:
    told = serve(adminkey=KEY).log.read_text()
    assert " SECONDLOOK_ADMINKEY is no setting: SECONDLOOK_ADMIN_KEY is the likely one" in told


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_one_sentence(serve: Serve, workers: int) -> None:
    port = urlsplit(serve().url).port
    command = [sys.executable, "-m", "secondlook", "serve", f"--port={port}", f"--workers={workers}"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stderr == (
        f"Error: 127.0.0.1:{port} is taken by another program: end that, or choose another port with --port\n"
    )


@contextmanager
def below(server: Server, path: str, *headers: str) -> Iterator[Server]:
    """The server behind a proxy that takes a path off, and sends these headers."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("there is no nginx: apt-get install nginx-light")
    folder, port = Path(tempfile.mkdtemp(prefix="prefix-")), free_port()
    paths = "".join(
        f"{part}_temp_path {folder}/{part};" for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    more = "".join(f"proxy_set_header {header};" for header in ("Host $http_host", *headers))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port}; client_max_body_size 64m;\n"
        f"location {path}/ {{ proxy_pass {server.url}/; {more} }}\n"
        "location / { return 404; } } }\n"
    )
    if is_root := os.geteuid() == 0:
        for one in (folder, folder / "nginx.conf"):
            os.chown(one, NOBODY, NOBODY)
    process = subprocess.Popen(
        [nginx, "-e", "stderr", "-p", f"{folder}/", "-c", f"{folder}/nginx.conf"],
        user=NOBODY if is_root else None,
        extra_groups=[] if is_root else None,
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield dataclasses.replace(server, url=f"http://127.0.0.1:{port}{path}")
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


KINDS: dict[str, tuple[dict[str, str], list[str]]] = {
    "the proxy says where it is": ({}, ["X-Forwarded-Prefix /look"]),
    "the server is told": ({"root_path": "/look"}, []),
    "nobody says": ({}, []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_works_below_a_path(serve: Serve, root: Path, visit: Callable[..., Any], kind: str) -> None:
    from playwright.sync_api import expect

    from tests.e2e.page import give_key, look, upload

    given, headers = KINDS[kind]
    with below(serve(bundles=root, admin_key=KEY, **given), "/look", *headers) as server:
        page = visit(server)
        (card,) = look(page, upload("a.png", IMAGE))
        expect(card.get_by_role("heading", level=3)).to_have_text("red")
        picture = card.locator("li img").first
        expect(picture).to_have_attribute("src", re.compile(r"^/look/v1/entries/\d+/thumbnail$"))
        page.wait_for_function("() => document.querySelector('.card li img').naturalWidth > 0")
        page.get_by_role("link", name="Admin").click()
        page.get_by_role("button", name="Enter the key").click()
        give_key(page, KEY)
        expect(page.locator("#generations tr")).to_have_count(1)
        expect(page.locator("#entries li").first).to_be_visible()
        page.get_by_role("link", name="API").click()
        expect(page.locator("#calls details").first).to_be_attached()
        assert urlsplit(page.url).path == "/look/docs"
        page.get_by_role("link", name="Try it").click()
        page.locator("#model strong").wait_for(state="attached")
        assert urlsplit(page.url).path == "/look/"
        page.close()  # before the proxy: what it still loads would be broken off
        if kind == "nobody says":
            return
        document = httpx.get(f"{server.url}/openapi.json").json()
        assert document["servers"] == [{"url": "/look"}]
        (entry,) = httpx.get(f"{server.url}/v1/entries?limit=1").json()["entries"]
        assert httpx.get(str(httpx.URL(server.url).join(entry["thumbnail"]))).status_code == 200
