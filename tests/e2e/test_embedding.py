"""Keys and neighbours of images, by a real server and by the command."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from secondlook.client import Client, Embedding, KeyRefusedError, Nearest, ProblemError
from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import make_image

Serve = Callable[..., Server]


def test_a_client_embeds_and_searches_whatever_the_server_takes_at_once(
    serve: Serve, tiny_bundle: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    server = serve(bundles=root, max_files=3, admin_key=KEY, workers=2, max_pixels=100_000)
    good = [make_image(colour, seed=60 + place) for place, colour in enumerate(("red", "green", "blue"))]
    images = [*good, b"no image", good[0], make_image("red", (400, 400)), good[1]]
    with Client(server.url, KEY) as client:
        expected = [np.asarray(client.embed(content).embedding) for content in good]
        assert all(key.dtype == np.float32 for key in expected)
        for concurrency in (1, 3):
            embedded = client.embed(images, concurrency=concurrency)
            found = client.search(images, k=4, concurrency=concurrency)
            for place, (embedding, nearest) in enumerate(zip(embedded, found, strict=True)):
                if place in (3, 5):
                    for failed in (embedding, nearest):
                        assert isinstance(failed, ProblemError)
                        assert failed.slug == ("undecodable-image" if place == 3 else "too-many-pixels")
                    continue
                assert isinstance(embedding, Embedding)
                assert isinstance(nearest, Nearest)
                assert embedding.generation == nearest.generation == client.model().generation
                assert embedding.filename == nearest.filename == f"{place}.png"
                key = expected[(0, 1, 2, 3, 0, 5, 1)[place]]
                np.testing.assert_allclose(np.asarray(embedding.embedding), key, atol=1e-5)
                assert len(nearest.neighbors) == 4
        with pytest.raises(ProblemError, match="not one of JPEG"):
            client.embed(b"no image")
        with pytest.raises(ProblemError, match="less than or equal to 200"):
            client.search(good, k=201)

        stripes = make_image("green", seed=444)
        (entry,) = client.teach(stripes, "stripes").entries
        for _ in range(8):  # whichever worker answers
            first = client.search(stripes, k=1).neighbors[0]
            assert (first.id, first.label, first.taught) == (entry.id, "stripes", True)  # type: ignore[union-attr]
            assert client.thumbnail(first.id).startswith(b"\x89PNG")
        client.remove(entry.id)  # type: ignore[union-attr]
        for _ in range(8):
            assert all(near.label != "stripes" for near in client.search(stripes).neighbors)
    assert server.stop() == 0


def test_where_predictions_need_a_key_so_do_these(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    made = subprocess.run(
        [sys.executable, "-m", "secondlook", "key", "robot", "--predict"], capture_output=True, text=True, check=True
    )
    keys.write_text(made.stdout)
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), keys_file=keys)
    content = make_image("red")
    for path in ("/v1/embed", "/v1/search"):
        refused = httpx.post(server.url + path, files={"file": content})
        assert (refused.status_code, refused.json()["type"]) == (401, "urn:secondlook:problem:key-missing")
    with Client(server.url, "another") as stranger, pytest.raises(KeyRefusedError):
        stranger.embed(content)
    with Client(server.url, made.stderr.split()[-1]) as robot:
        assert len(robot.embed(content).embedding) > 1
        assert len(robot.search(content, k=3).neighbors) == 3
