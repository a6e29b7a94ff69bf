"""A server process under clients that are many, slow, or gone, and told to stop: over bare sockets."""

import json
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import Server, until
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
IMAGE = make_image("red")
STALLS_SOON = """
from secondlook.cli import main
from secondlook.service.http import limits
limits.STALL_S = 0.5
main()
"""


def head(length: int = len(IMAGE), *more: str) -> bytes:
    lines = [
        "POST /v1/predict HTTP/1.1",
        "Host: localhost",
        "Content-Type: image/png",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; status 0 where the server closed instead."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := connection.recv(65536)):
            assert not received
            return 0, {}, b""
        received += more
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, body


def is_problem(body: bytes, status: int, slug: str) -> bool:
    document = json.loads(body)
    return bool(document["status"] == status and document["type"] == f"urn:secondlook:problem:{slug}")


def is_closed(connection: socket.socket) -> bool:
    return connection.recv(65536) == b""


def send(server: Server) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/predict", content=IMAGE, headers={"Content-Type": "image/png"})


def metric(server: Server, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found.group(1))


def test_a_full_server_refuses_before_anything_is_sent_and_has_room_again(serve: Serve) -> None:
    server = serve(max_queue=2)
    with connected(server) as first, connected(server) as second, connected(server) as third:
        for slow in (first, second):
            slow.sendall(head() + IMAGE[:10])
        until(lambda: _is_full(server))
        third.sendall(head(16_000_000, "Expect: 100-continue"))
        status, headers, body = answer(third)
        assert is_problem(body, 429, "queue-full"), (status, body)
        assert 1 <= int(headers["retry-after"]) <= 60
        # The one that had begun is answered; then there is room.
        first.sendall(IMAGE[10:])
        assert answer(first)[0] == 200
        first.sendall(head() + IMAGE)
        assert answer(first)[0] == 200
        # Who leaves in the middle of sending makes room too.
        second.close()
        first.sendall(head() + IMAGE)
        assert answer(first)[0] == 200


def _is_full(server: Server) -> bool:
    return send(server).status_code == 429


def test_many_images_in_one_request_count_each(serve: Serve) -> None:
    server = serve(max_queue=4)
    with connected(server) as slow:
        slow.sendall(head() + IMAGE[:10])
        until(lambda: metric(server, "secondlook_requests_in_flight") == 2)  # that one and the scrape
        three, four = ([("file", ("a.png", IMAGE))] * count for count in (3, 4))
        assert httpx.post(f"{server.url}/v1/predict", files=three).status_code == 200
        refused = httpx.post(f"{server.url}/v1/predict", files=four)
        assert is_problem(refused.content, 429, "queue-full")
        slow.sendall(IMAGE[10:])
        assert answer(slow)[0] == 200
    assert httpx.post(f"{server.url}/v1/predict", files=four).status_code == 200  # alone, it is taken


@pytest.fixture
def impatient(serve: Serve) -> Server:
    return serve(body_timeout_s=0.5)


def test_slow_senders_are_told_and_let_go(impatient: Server) -> None:
    with connected(impatient) as body, connected(impatient) as head_only, connected(impatient) as silent:
        body.sendall(head() + IMAGE[:10])
        head_only.sendall(head()[:30])
        for connection in (body, head_only):
            status, headers, document = answer(connection)
            assert (status, headers["connection"]) == (408, "close")
            assert is_problem(document, 408, "too-slowly-sent")
            assert is_closed(connection)
        assert answer(silent)[0] == 0
    with connected(impatient) as dripping:  # a byte now and then is no progress either
        began = time.monotonic()
        try:
            while time.monotonic() < began + 10:
                dripping.sendall(b"\r\n")
                time.sleep(0.1)
        except OSError:
            pass
        assert time.monotonic() < began + 5
    assert metric(impatient, 'secondlook_rejected_total{reason="too-slowly-sent"}') == 1  # heads are no requests yet


def test_announcements_without_a_body_shut_nobody_out(serve: Serve) -> None:
    server = serve()
    with ExitStack() as silent:
        for _ in range(8):  # twice what may be held at once
            silent.enter_context(connected(server)).sendall(head(64_000_000))
        until(lambda: metric(server, "secondlook_admitted_images") == 8)
        assert send(server).status_code == 200
        assert metric(server, "secondlook_admitted_bytes") < 1_000_000


def test_a_body_that_hardly_moves_does_not_keep_its_place(serve: Serve) -> None:
    server = serve(program=(sys.executable, "-c", STALLS_SOON), max_queue=2)
    with connected(server) as silent, connected(server) as dripping:
        silent.sendall(head(100_000))
        dripping.sendall(head(100_000))
        began = time.monotonic()
        try:
            while time.monotonic() < began + 10:
                dripping.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() < began + 5
        status, headers, document = answer(silent)
        assert (status, headers["connection"]) == (408, "close")
        assert is_problem(document, 408, "too-slowly-sent")
        assert send(server).status_code == 200


def test_a_body_that_comes_after_its_refusal_does_not_hold_the_connection_for_ever(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(head(1 << 40))
        assert is_problem(answer(connection)[2], 413, "too-many-bytes")
        began = time.monotonic()
        try:
            while time.monotonic() < began + 10:
                connection.sendall(bytes(1000))
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() < began + 5
    with connected(impatient) as connection:
        # One that ends in time leaves the connection to be used again.
        connection.sendall(head(1000, "X: y").replace(b"image/png", b"text/plain"))
        assert is_problem(answer(connection)[2], 415, "unsupported-media-type")
        connection.sendall(bytes(1000) + head() + IMAGE)
        assert answer(connection)[0] == 200


@contextmanager
def deaf(server: Server) -> Iterator[socket.socket]:
    """A client that asks 100 times for some 75 KB, more than the system's buffers hold, and reads nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        parts = urlsplit(server.url)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(100 * b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield connection


def test_a_client_that_does_not_take_its_answers_is_cut_off(impatient: Server) -> None:
    with deaf(impatient) as connection:
        watched = select.poll()
        watched.register(connection, select.POLLERR)
        until(lambda: watched.poll(0))
        assert "did not take its answer" in impatient.log.read_text()
    assert send(impatient).status_code == 200


def test_what_a_deaf_client_asks_for_next_is_not_begun_nor_counted(serve: Serve) -> None:
    server = serve()
    answered = 'secondlook_requests_total{method="GET",route="unmatched",status="200"}'
    counts = [0.0]

    def stands_still() -> bool:
        counts.append(metric(server, answered))
        return counts[-1] == counts[-2] and metric(server, "secondlook_requests_in_flight") == 1  # the scrape

    with deaf(server) as connection:
        until(lambda: answered in httpx.get(f"{server.url}/metrics").text)
        until(stands_still)
        assert counts[-1] < 100
        while metric(server, answered) < 100:  # once it reads, all of it is answered
            for _ in range(50):
                connection.recv(1 << 20)


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (b"no HTTP at all\r\n\r\n", 400, "malformed-request"),
        (b"GET / HTTP/1.1\r\nX: " + 300_000 * b"x", 431, "headers-too-large"),
    ],
)
def test_what_is_no_request_gets_a_problem_document(impatient: Server, sent: bytes, status: int, slug: str) -> None:
    with connected(impatient) as connection:
        connection.sendall(sent)
        assert is_problem(answer(connection)[2], status, slug)


@pytest.mark.parametrize("path", ["/v1/predict", "/livez"])
def test_trailers_without_end_are_cut_off(serve: Serve, path: str) -> None:
    server = serve()
    method = "POST" if path == "/v1/predict" else "GET"
    with connected(server) as connection:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: image/png",
            "Transfer-Encoding: chunked",
            "",
        ]
        connection.sendall("\r\n".join([*lines, "0", ""]).encode())
        with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012 - which of the calls notices is up to the network
            for _ in range(2000):
                connection.sendall(b"A: b\r\n" * 1000)
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_only_images_may_be_large(serve: Serve) -> None:
    answered = httpx.post(f"{serve().url}/v1/admin/rebuild", content=b"[" * 100_000)
    assert is_problem(answered.content, 413, "too-many-bytes")
    assert "65,536" in answered.json()["detail"]


def test_half_closed_connections_end(serve: Serve) -> None:
    server = serve(max_queue=1)
    whole = head() + IMAGE
    for sent in (b"", whole[:20], whole[:-10], whole):
        with connected(server) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    # None of them holds a place.
    assert send(server).status_code == 200


def test_an_answer_says_where_its_time_went(serve: Serve) -> None:
    reply = send(serve())
    spent = dict(re.findall(r"(\w+);dur=(\d+\.\d+)", reply.headers["server-timing"]))
    assert list(spent) == ["decode", "queue", "encode", "search", "vote"]
    assert all(float(spent[stage]) > 0 for stage in ("decode", "encode", "search"))
    assert sum(map(float, spent.values())) <= 1000 * reply.elapsed.total_seconds()


def test_told_to_stop_it_finishes_what_has_begun_and_nothing_else(serve: Serve) -> None:
    server = serve()
    with connected(server) as begun, connected(server) as kept:
        kept.sendall(head() + IMAGE)
        assert answer(kept)[0] == 200
        begun.sendall(head() + IMAGE[:10])
        until(lambda: metric(server, "secondlook_requests_in_flight") == 2)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert httpx.get(f"{server.url}/livez").status_code == 200
        kept.sendall(head() + IMAGE)
        status, headers, body = answer(kept)
        assert is_problem(body, 503, "not-ready")
        assert (status, headers["connection"]) == (503, "close")
        assert is_closed(kept)
        begun.sendall(IMAGE[10:])
        status, headers, body = answer(begun)
        assert (status, headers["connection"]) == (200, "close")
        assert json.loads(body)["predictions"][0]["label"]
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()


def test_what_does_not_finish_in_time_is_told_so(serve: Serve) -> None:
    server = serve(drain_timeout_s=0.5)
    with connected(server) as begun:
        begun.sendall(head() + IMAGE[:10])
        until(lambda: metric(server, "secondlook_requests_in_flight") == 2)
        server.process.send_signal(signal.SIGTERM)
        _, headers, body = answer(begun)
        assert is_problem(body, 503, "not-ready")
        assert headers["connection"] == "close"
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.log.read_text()
