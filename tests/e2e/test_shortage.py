"""A server with few descriptors, and one whose clients do not take their answers."""

import re
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import KEY, Server, until
from tests.e2e.load import held
from tests.e2e.test_switching import ADMIN, ASKED
from tests.images_for_tests import make_image

Serve = Callable[..., Server]
Figures = Callable[[str], None]
RAW = {"Content-Type": "image/png"}
FEW = ("sh", "-c", 'ulimit -n 64; exec "$0" "$@"')
CLIENTS = 100


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30)


def test_few_descriptors_are_no_fault_and_lose_nothing(serve: Serve, root: Path) -> None:
    server = serve(bundles=root, admin_key=KEY, wrapper=FEW)
    statuses: list[int] = []
    taught: list[int] = []

    def use(client: httpx.Client, number: int) -> None:
        image = make_image("red", seed=number)
        for method, path, options in (
            ("POST", "/v1/predict", {"content": ASKED, "headers": RAW}),
            ("POST", "/v1/predict?neighbors=5&votes=10", {"content": ASKED, "headers": RAW}),
            ("GET", "/v1/entries/3/thumbnail", {}),
            ("GET", "/v1/model", {}),
            ("GET", "/", {}),
            ("GET", "/docs", {}),
            ("GET", "/metrics", {}),
            ("POST", "/v1/entries?label=scarlet", {"content": image, "headers": RAW | ADMIN}),
            ("GET", "/v1/admin/changes", {"headers": ADMIN}),
        ):
            answered = client.request(method, path, **options)  # type: ignore[arg-type]
            statuses.append(answered.status_code)
            if answered.status_code == 201:
                taught.append(answered.json()["entries"][0]["id"])

    with ExitStack() as idle:
        crowd = [idle.enter_context(connect(server)) for _ in range(60)]
        refused = [one for one in crowd if is_refused(one)]
        assert len(refused) >= 30
        for one in crowd[:8]:
            one.close()
        until(lambda: is_let_in(server))
        with ExitStack() as clients:
            users = [
                threading.Thread(target=use, args=(clients.enter_context(httpx.Client(base_url=server.url)), number))
                for number in range(3)
            ]
            for user in users:
                user.start()
            for user in users:
                user.join()
    assert 500 not in statuses
    assert statuses.count(200) + statuses.count(201) == 27, statuses
    until(lambda: is_let_in(server))
    assert all(httpx.get(f"{server.url}/v1/entries/{entry}").status_code == 200 for entry in taught)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
    text = server.log.read_text()
    assert "Too many open files" not in text
    assert "Traceback" not in text
    assert text.count("turned away") <= 3


def is_refused(connection: socket.socket) -> bool:
    """Whether a connection is answered, or closed, before anything was asked."""
    connection.settimeout(0.1)
    try:
        answered = connection.recv(1 << 10)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    assert answered == b"" or answered.startswith(b"HTTP/1.1 503")
    return True


def is_let_in(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/livez").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.soak
@pytest.mark.parametrize("asked", ["small", "large"])
def test_what_is_not_taken_costs_a_bounded_amount(serve: Serve, figures: Figures, asked: str) -> None:
    server = serve()
    if asked == "small":
        request, count = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 100
    else:
        form = httpx.Request(
            "POST",
            f"{server.url}/v1/predict?votes=1000&top=1000&neighbors=50",
            files=[("file", ("a.png", make_image("red")))] * 64,
        )
        body = form.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in form.headers.items())
        request, count = f"POST {form.url.raw_path.decode()} HTTP/1.1\r\n{head}\r\n".encode() + body, 2
    assert is_let_in(server)
    before, system = held(server.process.pid), in_system()
    with ExitStack() as deaf:
        for _ in range(CLIENTS):
            one = deaf.enter_context(connect(server))
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.sendall(count * request)
        largest = [0, 0]
        for _ in range(50):
            threading.Event().wait(0.2)
            largest = [max(largest[0], held(server.process.pid) - before), max(largest[1], in_system() - system)]
        assert is_let_in(server)
    figures(
        f"{CLIENTS} clients that take none of their answers ({asked}): {largest[0] >> 20} MiB in the server, "
        f"{largest[1] >> 20} MiB in the system's buffers for both sides"
    )
    assert largest[0] < 256 << 20
    assert largest[1] < CLIENTS << 20


def in_system() -> int:
    """Bytes that the kernel holds for TCP."""
    found = re.search(r"^TCP:.* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 4096
