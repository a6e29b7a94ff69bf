"""A server that is started by hand with nothing set can be taught, and says how; one that cannot says why."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import KEY, Server

Serve = Callable[..., Server]


def spotted(seed: int) -> bytes:
    """An image of a class that the default bundle does not know."""
    pixels = np.random.default_rng(seed).integers(180, 255, (32, 32, 3)).astype(np.uint8)
    pixels[4:12, 4:12] = pixels[18:26, 16:24] = (200, 20, 120)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def link(server: Server) -> tuple[str, str]:
    """The page's address and the key, as the log shows them."""
    shown = re.findall(r"ready: (http://\S+/)#key=(\S+) \(", server.log.read_text())
    assert len(shown) == 1, server.log.read_text()
    return shown[0]


def teach(server: Server, key: str, label: str = "spotted", seeds: range = range(3)) -> httpx.Response:
    files = [("file", (f"{seed}.png", spotted(seed))) for seed in seeds]
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/entries", files=files, data={"label": label}, headers=headers, timeout=60)


def answer(server: Server, content: bytes) -> str:
    files = {"file": ("a.png", content)}
    said = httpx.post(f"{server.url}/v1/predict", files=files, timeout=60)
    return str(said.json()["predictions"][0]["label"])


def teachable(server: Server) -> tuple[bool, str | None]:
    said = httpx.get(f"{server.url}/v1/model").json()
    return said["teachable"], said["why_not_teachable"]


def of_family(server: Server) -> list[Path]:
    """The folders in /proc of the server and of all that it started."""
    family, found = {server.process.pid}, True
    while found:
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in family and int(folder.name) not in family:
                family.add(int(folder.name))
                found = True
    return [Path(f"/proc/{pid}") for pid in family]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_with_nothing_set_is_taught_with_the_key_that_it_shows(
    serve: Serve, tmp_path: Path, workers: int
) -> None:
    server = serve(workers=workers)
    home = tmp_path / "data-home" / "secondlook"
    address, key = link(server)
    assert address == f"{server.url}/"
    assert f"are in {home / 'default'}" in server.log.read_text()
    assert f"is in {home / 'key'}" in server.log.read_text()
    assert (home / "key").read_text() == f"{key}\n"
    assert ((home / "key").stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (0o600, 0o700)
    assert teachable(server) == (True, None)
    assert teach(server, "not the key").status_code == 403
    assert teach(server, key).status_code == 201
    assert answer(server, spotted(9)) == "spotted"
    # Nobody else is told the key: no other line of the log, no metric, no list of processes.
    assert server.log.read_text().count(key) == 1
    assert key not in httpx.get(f"{server.url}/metrics").text
    family = of_family(server)
    assert len(family) >= workers
    for folder in family:
        assert key.encode() not in folder.joinpath("cmdline").read_bytes()
        assert key.encode() not in folder.joinpath("environ").read_bytes()
    assert server.stop() == 0


def test_the_next_server_and_one_beside_it_have_the_same_key_and_know_what_was_taught(serve: Serve) -> None:
    first = serve()
    key = link(first)[1]
    assert teach(first, key).status_code == 201
    first.process.kill()  # what was acknowledged is kept all the same
    again, beside = serve(), serve()
    assert link(again)[1] == link(beside)[1] == key
    assert answer(again, spotted(9)) == "spotted"
    assert teach(again, key, "blank", range(20, 22)).status_code == 201
    assert "blank" in httpx.get(f"{beside.url}/v1/model").json()["classes"]


def test_a_log_for_programs_has_no_key(serve: Serve, tmp_path: Path) -> None:
    server = serve(log="json")
    key = (tmp_path / "data-home" / "secondlook" / "key").read_text().strip()
    told = [json.loads(line)["message"] for line in server.log.read_text().splitlines()]
    assert f"the key that it is taught with is in {tmp_path / 'data-home' / 'secondlook' / 'key'}" in told
    assert key not in server.log.read_text()
    assert teach(server, key).status_code == 201


def test_the_link_leads_below_the_path_and_to_the_address_that_were_set(serve: Serve) -> None:
    server = serve(host="::1", root_path="/look")
    address, key = link(server)
    assert address == f"{server.url}/look/"
    assert server.url.startswith("http://[::1]:")
    assert "<title>secondlook</title>" in httpx.get(address).text
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{address}v1/admin/jobs", headers=headers).status_code == 200


def test_a_server_that_others_reach_has_no_key_and_writes_nothing(serve: Serve, tmp_path: Path) -> None:
    server = serve(host="0.0.0.0")
    assert not (tmp_path / "data-home").exists()
    assert "#key" not in server.log.read_text()
    can, why = teachable(server)
    assert not can
    assert why == "The default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart."
    assert teach(server, KEY).status_code == 403


def test_a_key_of_the_users_own_is_the_key_and_is_not_shown(serve: Serve, tmp_path: Path) -> None:
    server = serve(admin_key=KEY)
    home = tmp_path / "data-home" / "secondlook"
    assert [path.name for path in home.iterdir()] == ["default"]
    assert KEY not in server.log.read_text()
    assert teachable(server) == (True, None)
    assert teach(server, KEY).status_code == 201
