"""Bytes on a connection are read one way: one answer a request in its order, or the connection's end."""

import asyncio
import json
import re
from typing import Any, NamedTuple

import pytest
import uvicorn
from uvicorn.server import ServerState

from secondlook.service.http.connection import connection
from secondlook.service.http.limits import Drain, RequestLimits
from tests.service_for_tests import settings

HOST = b"Host: localhost\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /next HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
LIMIT = 1000


class Answer(NamedTuple):
    status: int
    path: str
    body: str
    headers: dict[str, str]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was understood; /slow a moment later, and /early before the body is read."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    told = json.dumps({"path": scope["path"], "body": body.decode("latin-1")}).encode()
    length = (b"content-length", str(len(told)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": told})


async def exchange(sent: bytes, pieces: int) -> tuple[list[Answer], bool]:
    """What comes back for these bytes, and whether the server closed."""
    received, is_closed = await raw(sent, pieces)
    return answers(received), is_closed


async def raw(sent: bytes, pieces: int) -> tuple[bytes, bool]:
    """The same, as bytes."""
    limited = RequestLimits(app, settings(max_request_bytes=LIMIT), Drain())
    config = uvicorn.Config(limited, log_config=None, http=connection(1), lifespan="off")
    state = ServerState()
    listening = await asyncio.get_running_loop().create_server(lambda: connection(1)(config, state, {}), "127.0.0.1", 0)
    received, is_closed = b"", False
    try:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        size = -(-len(sent) // pieces)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await asyncio.sleep(0)
        try:
            while True:
                async with asyncio.timeout(0.4):
                    if not (part := await reader.read(1 << 16)):
                        is_closed = True
                        break
                received += part
        except TimeoutError:
            pass
        writer.close()
    finally:
        listening.close()
    return received, is_closed


def answers(received: bytes) -> list[Answer]:
    """All that came, which has to be whole answers and nothing else."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        assert status is not None, first
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if status[1] == "100":
            continue
        length = int(headers.get("content-length", "0"))
        body, received = received[:length], received[length:]
        assert len(body) == length
        document = json.loads(body) if body else {}
        found.append(Answer(int(status[1]), document.get("path", ""), document.get("body", ""), headers))
    return found


def post(*headers: str, path: str = "/first", body: bytes = b"hello", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
LENGTH, CHUNKS = "Content-Length: 5", "Transfer-Encoding: chunked"
BOTH = [(200, "/first", "hello"), (200, "/next", "")]
CONTINUED: dict[str, bytes] = {
    "as usual": post(LENGTH),
    "in chunks": post(CHUNKS, body=CHUNKED),
    "upgrade to h2c": post("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA", LENGTH),
    "upgrade to h2c in chunks": post("Connection: upgrade", "Upgrade: h2c", CHUNKS, body=CHUNKED),
    "upgrade to a web socket": post("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", LENGTH),
    "upgrade to TLS": post("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.2, HTTP/1.1", LENGTH),
    "upgrade to what nobody knows": post("Upgrade: x", "Connection: upgrade", LENGTH),
    "upgrade that the connection does not name": post("Upgrade: h2c", LENGTH),
    "connection that names no upgrade": post("Connection: upgrade", LENGTH),
    "extensions of chunks": post(CHUNKS, body=b"5;a=b;c\r\nhello\r\n0;d\r\n\r\n"),
    "trailers": post(CHUNKS, body=b"5\r\nhello\r\n0\r\nHost: evil\r\nX: y\r\n\r\n"),
    "a trailer that asks for an upgrade": post(
        CHUNKS, body=b"5\r\nhello\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    ),
    "white space about a length": post("Content-Length:  5 \t"),
    "expectation": post("Expect: 100-continue", LENGTH),
    "expectation in other letters": post("Expect: 100-Continue", LENGTH),
    "unknown expectation": post("Expect: tea", LENGTH),
    "absolute target": post(LENGTH, path="http://localhost/first"),
    "empty lines before it": b"\r\n\r\n" + post(LENGTH),
    "a body that looks like a request": post(f"Content-Length: {len(NEXT)}", body=NEXT),
}


@pytest.mark.parametrize("pieces", [1, 10_000])
@pytest.mark.parametrize("case", CONTINUED)
def test_the_next_request_begins_where_this_one_ends(case: str, pieces: int) -> None:
    got, is_closed = asyncio.run(exchange(CONTINUED[case] + LAST, pieces))
    expected = [(200, "/first", NEXT.decode()), BOTH[1]] if case.startswith("a body") else BOTH
    assert [answer[:3] for answer in got] == expected
    assert is_closed


ENDED: dict[str, tuple[bytes, int]] = {
    "two lengths": (post("Content-Length: 5", "Content-Length: 6"), 400),
    "a length twice": (post("Content-Length: 5", "Content-Length: 5"), 400),
    "a list of lengths": (post("Content-Length: 5, 5"), 400),
    "a length with a sign": (post("Content-Length: +5"), 400),
    "a negative length": (post("Content-Length: -5"), 400),
    "a hexadecimal length": (post("Content-Length: 0x5"), 400),
    "no length": (post("Content-Length:"), 400),
    "a length beyond all bounds": (post("Content-Length: 99999999999999999999"), 400),
    "length and chunks": (post(LENGTH, CHUNKS, body=CHUNKED), 400),
    "chunks and length": (post(CHUNKS, LENGTH, body=CHUNKED), 400),
    "upgrade, length and chunks": (post("Connection: upgrade", "Upgrade: h2c", LENGTH, CHUNKS, body=CHUNKED), 400),
    "chunks twice": (post(CHUNKS, CHUNKS, body=CHUNKED), 400),
    "chunks not last": (post("Transfer-Encoding: chunked, gzip", body=CHUNKED), 400),
    "compressed chunks": (post("Transfer-Encoding: gzip, chunked", body=CHUNKED), 415),
    "an unknown coding": (post("Transfer-Encoding: xchunked", body=CHUNKED), 415),
    "no coding": (post("Transfer-Encoding: identity"), 415),
    "chunks in HTTP/1.0": (post(CHUNKS, body=CHUNKED, version="1.0"), 400),
    "a space before the colon": (post("Transfer-Encoding : chunked", body=CHUNKED), 400),
    "a folded header": (post("X: a\r\n b", LENGTH), 400),
    "a folded coding": (post("Transfer-Encoding:\r\n chunked", body=CHUNKED), 400),
    "a size that is none": (post(CHUNKS, body=b"zz\r\nhello\r\n0\r\n\r\n"), 400),
    "a size beyond all bounds": (post(CHUNKS, body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), 400),
    "a size with a prefix": (post(CHUNKS, body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a size and a space": (post(CHUNKS, body=b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "an extension that ends early": (post(CHUNKS, body=b"5;a\nhello\r\n0\r\n\r\n"), 400),
    "a chunk longer than its size": (post(CHUNKS, body=b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "a length as a trailer": (post(CHUNKS, body=b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), 400),
    "lines without CR": (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    "one line without CR": (post("X: a\nY: b", LENGTH), 400),
    "a CR within a line": (post("X: a\rY: b", LENGTH), 400),
    "a NUL in a value": (post("X: a\0b", LENGTH), 400),
    "a NUL in a name": (post("X\0: a", LENGTH), 400),
    "a NUL in the target": (post(LENGTH, path="/a\0b"), 400),
    "a name that is not ASCII": (post("X\xe9: a", LENGTH), 400),
    "a target that is not ASCII": (post(LENGTH, path="/caf\xe9"), 400),
    "a line without a colon": (post("hello", LENGTH), 400),
    "a target that is no path": (post(LENGTH, path="first"), 400),
    "another server's target": (post(LENGTH, path="http://other/first"), 400),
    "another protocol's target": (post(LENGTH, path="ftp://localhost/first"), 400),
    "a user in the target": (post(LENGTH, path="http://me@localhost/first"), 400),
    "all of a server, but not asked what it takes": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tunnel": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "a tunnel with a body": (b"CONNECT /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", 405),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /first\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
    "a method that there is none of": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target beyond all bounds": (post(LENGTH, path="/" + "a" * 70_000), 431),
    "headers beyond all bounds": (post(*(f"X-{i}: {'a' * 1000}" for i in range(70)), LENGTH), 431),
}


@pytest.mark.parametrize("pieces", [1, 11])
@pytest.mark.parametrize("case", ENDED)
def test_what_could_be_read_two_ways_ends_the_connection(case: str, pieces: int) -> None:
    sent, status = ENDED[case]
    got, is_closed = asyncio.run(exchange(sent + NEXT, pieces))
    assert [answer.status for answer in got] == [status]
    assert is_closed
    (answer,) = got
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_refusal_comes_after_the_answers_to_those_before_it() -> None:
    slow = post(LENGTH, path="/slow")
    got, is_closed = asyncio.run(exchange(slow + NEXT + b"nonsense\r\n\r\n" + NEXT, 1))
    assert [answer[:3] for answer in got[:2]] == [(200, "/slow", "hello"), (200, "/next", "")]
    assert [answer.status for answer in got[2:]] == [400]
    assert is_closed


def test_so_does_one_in_the_body_of_a_request_that_waits() -> None:
    got, is_closed = asyncio.run(exchange(post(LENGTH, path="/slow") + post(CHUNKS, body=b"zz\r\n"), 1))
    assert [(answer.status, answer.path) for answer in got] == [(200, "/slow"), (400, "")]
    assert is_closed


def test_the_clients_id_is_on_a_refusal() -> None:
    got, _ = asyncio.run(exchange(post("X-Request-ID: abc", "Content-Length: 5", "Content-Length: 6"), 1))
    assert got[0].headers["x-request-id"] == "abc"


@pytest.mark.parametrize(
    "sent",
    [
        post("Connection: close", LENGTH),
        post("Connection: close, upgrade", "Upgrade: h2c", LENGTH),
        post("Connection: keep-alive", LENGTH, version="1.0"),
        post(CHUNKS, body=b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"),
        post("Expect: 100-continue", LENGTH, path="/early", body=b""),
    ],
)
def test_after_the_last_request_the_connection_ends(sent: bytes) -> None:
    got, is_closed = asyncio.run(exchange(sent + NEXT, 1))
    assert [answer.status for answer in got] == [200]
    assert is_closed


def test_who_still_sends_can_read_the_answer() -> None:
    body = b"x" * 3_000_000  # more than the system keeps
    for sent, status in (
        (post("Connection: close", f"Content-Length: {len(body)}", body=body), 413),
        (b"\0" * 3_000_000, 400),
    ):
        got, is_closed = asyncio.run(exchange(sent, 100))
        assert [answer.status for answer in got] == [status]
        assert is_closed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /first HTTP/1.1\r\n\r\n", 400),
        (b"GET /first HTTP/1.0\r\n\r\n", 400),
        (b"GET /first HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET /first HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /first HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /first HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET http://evil.example/first HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"POST /first HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 415),
    ],
)
def test_what_is_a_request_but_not_for_here_is_answered_once(head: bytes, status: int) -> None:
    got, _ = asyncio.run(exchange(head, 1))
    assert [answer.status for answer in got] == [status]
    assert got[0].headers["content-type"] == "application/problem+json"


def test_what_all_of_a_server_takes() -> None:
    got, _ = asyncio.run(exchange(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 1))
    assert got[0].status == 204
    assert got[0].headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST"


@pytest.mark.parametrize(
    "head",
    [
        b"HEAD /first HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
        b"HEAD http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"HEAD /first HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        b"HEAD /first HTTP/1.1\r\n" + HOST + b"X: " + b"x" * (70 << 10) + b"\r\n\r\n",
    ],
)
def test_what_is_refused_of_head_has_no_body(head: bytes) -> None:
    received, is_closed = asyncio.run(raw(head, 1))
    assert is_closed
    assert re.match(rb"HTTP/1\.1 4\d\d ", received)
    assert int(re.search(rb"content-length: (\d+)", received)[1]) > 0  # type: ignore[index]
    assert received.endswith(b"\r\n\r\n")
