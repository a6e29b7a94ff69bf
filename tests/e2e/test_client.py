"""The client against real servers, in Python and on the command line."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx
import numpy as np
import pytest

from secondlook.client import (
    BusyError,
    Client,
    ConflictError,
    Job,
    JobError,
    KeyRefusedError,
    NotFoundError,
    Prediction,
    ProblemError,
    Retry,
    TaughtEntry,
    UnreachableError,
)
from tests.e2e.conftest import KEY, Server
from tests.images_for_tests import make_folder, make_image, picture

Serve = Callable[..., Server]


def striped(seed: int) -> bytes:
    """An image unlike plain colours."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 40, (32, 32, 3)).astype(np.uint8)
    pixels[:, ::4] += np.array((150, 40, 160), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rejected(url: str) -> float:
    """Requests that found the queue full."""
    told = httpx.get(f"{url}/metrics").text
    found = re.search(r'^secondlook_rejected_total{reason="queue-full"} (\S+)$', told, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def test_images_of_all_kinds_are_predicted_whatever_the_server_takes_at_once(
    serve: Serve, tiny_bundle: Path, tmp_path: Path
) -> None:
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), max_files=3)
    (tmp_path / "a.png").write_bytes(make_image("green"))
    images = [tmp_path / "a.png", b"no image", make_image("red"), np.asarray(picture("blue")), picture("green")]
    with Client(server.url) as client:
        for concurrency in (1, 3):
            answers = client.predict(images * 3, top=2, neighbors=2, votes=3, abstain=True, concurrency=concurrency)
            assert len(answers) == 15
            for i, answer in enumerate(answers):
                if i % 5 == 1:
                    assert isinstance(answer, ProblemError)
                    assert (answer.slug, answer.status) == ("undecodable-image", 400)
                    continue
                assert isinstance(answer, Prediction)
                assert answer.cache.label == ("green", "", "red", "blue", "green")[i % 5]
                assert (len(answer.top), len(answer.neighbors), answer.abstained is None) == (2, 2, False)
                assert answer.votes is not None
                assert len(answer.votes.indices) == 3
        one = client.predict(images[0], lam=1, k="all")
        assert (one.lam, one.k, one.probability) == (1, None, one.cache.probability)
        assert one.generation == client.model().generation
        with pytest.raises(ProblemError, match="not one of JPEG"):
            client.predict(b"no image")
        with pytest.raises(ProblemError, match="lam must be"):
            client.predict(images, lam=2)
    assert server.stop() == 0
    with Client(server.url, retry=Retry(within_s=0)) as client, pytest.raises(UnreachableError, match="no server at"):
        client.predict(images)


def test_a_request_of_too_many_bytes_is_sent_in_parts(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    large = make_image("red", (600, 600))
    limit = 3 * len(large)
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), max_request_bytes=limit)
    with Client(server.url) as client:
        answers = client.predict([large] * 10 + [b"no image" + bytes(limit)], concurrency=2)
    assert [one.cache.label for one in answers if isinstance(one, Prediction)] == ["red"] * 10
    assert isinstance(answers[10], ProblemError)
    assert answers[10].slug == "too-many-bytes"


def test_whoever_finds_the_queue_full_comes_again(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    server = serve(bundles=shutil.copytree(tiny_bundle, tmp_path / "bundles"), max_queue=1)
    large = make_image("red", (1500, 1500))  # so that the first is still there when the others come
    together = Barrier(4)

    def ask(client: Client) -> str:
        together.wait()
        return client.predict(large).cache.label

    def asks_of_four(retry: Retry) -> list[str]:
        with Client(server.url, retry=retry) as client, ThreadPoolExecutor(4) as threads:
            return [asking.result() for asking in [threads.submit(ask, client) for _ in range(4)]]

    with pytest.raises(BusyError) as caught:
        asks_of_four(Retry(within_s=0))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    before = rejected(server.url)
    assert asks_of_four(Retry()) == ["red"] * 4
    assert rejected(server.url) > before


def test_a_class_is_taught_corrected_and_rebuilt(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    make_folder(tmp_path / "data" / "colours", per_class=30)
    server = serve(bundles=root, data=tmp_path / "data", admin_key=KEY)
    image = striped(99)
    with Client(server.url) as stranger, pytest.raises(KeyRefusedError):
        stranger.teach(image, "stripes")
    with Client(server.url, "another key") as stranger, pytest.raises(KeyRefusedError, match="The key is wrong"):
        stranger.rebuild()
    with Client(server.url, KEY) as client:
        before = client.model()
        taught = client.teach([striped(i) for i in range(3)], "stripes")
        assert (taught.label, taught.index, taught.is_new_class) == ("stripes", 3, True)
        assert client.predict(striped(2), lam=1, k=1).label == "stripes"
        model = client.model()
        assert (model.classes[3:], model.network_classes, model.counts[3]) == (["stripes"], 3, 3)
        with pytest.raises(ConflictError) as caught:
            client.teach(image, "Stripes")
        assert (caught.value.slug, caught.value.known) == ("label-like-another", "stripes")
        with pytest.raises(ProblemError, match="not one of JPEG"):
            client.teach([image, b"no image"], "stripes")
        assert client.model().counts[3] == 3  # nothing of it was kept
        (tmp_path / "stripes.png").write_bytes(striped(2))
        here = classify(tmp_path / "stripes.png", "--bundles", root, "--lam", 1, "--k", 1, "--csv")
        assert next(csv.DictReader(io.StringIO(here.stdout)))["label"] == "stripes", here.stderr
        some = client.teach([image, b"no image"], "stripes", partial=True)
        assert [type(one) for one in some.entries] == [TaughtEntry, ProblemError]
        with pytest.raises(ProblemError, match="not one of JPEG"):
            client.teach([b"no image", b"nor this"], "stripes", partial=True)

        listed = list(client.entries(taught=True))
        assert {entry.label for entry in listed} == {"stripes"}
        assert len(listed) == 4
        assert len(list(client.entries())) == before.entries + 4
        first = listed[0]
        assert client.entry(first.id) == first
        assert client.thumbnail(first.id).startswith(b"\x89PNG")
        assert client.relabel(first.id, "red", first.generation).label == "red"
        with pytest.raises(ConflictError, match="does not answer any more"):
            client.relabel(first.id, "blue", "20200101T000000Z-0000")
        client.remove(first.id)
        with pytest.raises(NotFoundError):
            client.entry(first.id)
        with pytest.raises(NotFoundError):
            client.remove(first.id)
        actions = [change.action for change in client.changes()]
        assert actions[:2] == ["removed", "relabelled"]
        assert set(actions[2:]) == {"taught"}

        seen: list[Job] = []
        done = client.wait(client.rebuild(dataset="colours"), seen.append, every=0.2)
        assert done.generation == client.model().generation != before.generation
        assert seen[-1] == done == client.job(done.id)
        assert "built" in client.job_log(done.id)
        assert client.predict(striped(2), lam=1, k=1).label == "stripes"
        assert [one.is_active for one in client.generations()] == [False, True]
        assert client.activate(before.generation).is_active
        assert client.model().generation == before.generation
        with pytest.raises(NotFoundError):
            client.activate("20200101T000000Z-0000")
        with pytest.raises(JobError, match="cancelled"):
            client.wait(client.cancel(client.rebuild(dataset="colours").id))
        assert [job.state for job in client.jobs()] == ["succeeded", "cancelled"]


def classify(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "secondlook", "classify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def test_a_server_and_a_bundle_say_the_same_of_a_folder(serve: Serve, tiny_bundle: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    folder = make_folder(tmp_path / "pictures", per_class=2)
    (folder / ".hidden.png").write_bytes(b"not looked at")
    (folder / "notes.txt").write_text("no image")
    (folder / "green" / "bad.JPG").write_bytes(b"no image")
    keys = tmp_path / "keys.txt"
    made = subprocess.run(
        [sys.executable, "-m", "secondlook", "key", "robot", "--predict"], capture_output=True, text=True, check=True
    )
    keys.write_text(made.stdout)
    key = made.stderr.split()[-1]
    server = serve(bundles=root, keys_file=keys)
    given = (folder, folder / "red" / "000.png", "--coverage", 0.9)
    here = classify(*given, "--bundles", root, "--csv")
    there = classify(*given, "--server", server.url, "--csv", "--out", tmp_path / "there.csv", SECONDLOOK_KEY=key)
    assert (here.returncode, there.returncode, there.stdout) == (1, 1, ""), there.stderr
    for ended in (here, there):
        *_, failed, last = ended.stderr.splitlines()
        assert "bad.JPG: the file is not one of JPEG, PNG, WEBP, GIF, BMP" in failed
        bad, notes, hidden = (folder / name for name in ("green/bad.JPG", "notes.txt", ".hidden.png"))
        assert last == f"left out: 2 not an image ({bad}, {notes}), 1 hidden or system ({hidden})"
    rows = list(csv.DictReader(io.StringIO(here.stdout)))
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))
    expected = [str(path) for path in found if not path.name.startswith(".")]
    assert [row["file"] for row in rows] == [*expected, str(notes), str(folder / "red" / "000.png")]
    for row in rows:
        is_left_out = row["file"] in (str(bad), str(notes))
        assert (bool(row["error"]), row["left_out"]) == (is_left_out, "not an image" if is_left_out else "")
    assert rows[0]["cache"] == "blue"
    asked = list(csv.DictReader((tmp_path / "there.csv").read_text().splitlines()))
    for row, other in zip(rows, asked, strict=True):
        for name in (
            "file",
            "generation",
            "label",
            "network",
            "cache",
            "prediction_set",
            "is_novel",
            "error",
            "left_out",
        ):
            assert row[name] == other[name]
        for name in ("probability", "cache_probability", "credibility"):
            assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), abs=2e-4)

    as_json = classify(*given, "--server", server.url, "--key", key, "--json")
    *lines, summary = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert summary == {"left_out": {"not an image": 2, "hidden or system": 1}}
    assert [line["file"] for line in lines] == [row["file"] for row in rows]
    assert [line.get("mixed", {}).get("label", "") for line in lines] == [row["label"] for row in rows]
    refused = classify(folder, "--server", server.url)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "needs a key" in refused.stderr
    wrong = classify(folder, "--server", server.url, "--key", key, "--lam", 2)
    assert wrong.returncode == 2
    assert "lam must be between" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (("--server", "http://127.0.0.1:9"), 1, "there is no server at http://127.0.0.1:9"),
        (("--server", "127.0.0.1:9"), 2, "is no address of a server"),
        (("--server", "http://127.0.0.1:9", "--bundles", "b"), 2, "--bundles does not go with --server"),
        (("--concurrency", "2"), 2, "--concurrency goes with --server"),
        (("--json", "--csv"), 2, "give --json or --csv"),
        (("--out", "x.txt"), 2, "the ending says how it is written: give .csv or .json"),
        (("--out", "x"), 2, "the ending says how it is written"),
        (("--out", "x.json", "--csv"), 2, "--out x.json does not go with --csv"),
        (("--server", "http://127.0.0.1:9", "--max-pixels", "5"), 2, "--max-pixels does not go with --server"),
        (("--out", "no/such/folder/x.csv"), 1, "no/such/folder/x.csv: No such file"),
        ((), 1, "empty: the folder has no images"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, options: tuple[str, ...], status: int, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = classify(tmp_path / "empty", *options)
    assert ended.returncode == status, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
