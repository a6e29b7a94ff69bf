"""The client alone: what it sends, what it repeats, what it makes of answers."""

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from secondlook.client import (
    BusyError,
    Client,
    ConflictError,
    ImageReadError,
    JobError,
    ListingError,
    Prediction,
    ProblemError,
    Retry,
    TaughtEntry,
    UnexpectedAnswerError,
    UnreachableError,
)
from secondlook.client.calls import _seconds, in_order
from secondlook.client.images import encode, requests
from secondlook.pictures import is_one
from tests.images_for_tests import make_image, picture

HASTY = Retry(within_s=20, first_s=0.001, longest_s=0.002)
GENERATION = "20261122T101500Z-3f9c"
IMAGE = make_image("red")
Answer = httpx.Response | httpx.TransportError


def client(*answers: Answer | Callable[[httpx.Request], httpx.Response], retry: Retry = HASTY, **options: Any) -> Any:
    """A client whose server gives those answers, one after another; ``seen`` are the requests it got."""
    seen: list[httpx.Request] = []
    coming = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        one = next(coming)
        if isinstance(one, httpx.TransportError):
            raise one
        return one if isinstance(one, httpx.Response) else one(request)

    made: Any = Client("http://test", retry=retry, transport=httpx.MockTransport(answer), **options)
    made.seen = seen
    return made


def problem(status: int, slug: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    body = {"type": f"urn:secondlook:problem:{slug}", "title": slug, "status": status, "detail": f"{slug}."} | more
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"} | (headers or {}))


def predictions(request: httpx.Request) -> httpx.Response:
    """An answer to so many images as were sent; their label is their name."""
    said = {"index": 0, "probability": 1.0, "top": [], "network": {"label": "a", "probability": 1.0}}
    said |= {"cache": {"label": "a", "probability": 1.0}, "novelty": {"score": 0.0, "is_novel": None}}
    names = [part.split(b'"')[0].decode() for part in request.content.split(b'filename="')[1:]]
    told = [said | {"label": name, "filename": name, "of_a_later_version": 1} for name in names]
    return httpx.Response(200, json={"generation": GENERATION, "lam": 0.5, "theta": 60, "k": None, "predictions": told})


def taught(request: httpx.Request) -> httpx.Response:
    count = request.content.count(b'filename="')
    entries = [{"filename": "a", "id": i, "before": {"label": "a", "probability": 1.0}} for i in range(count)]
    body = {"generation": GENERATION, "change": 3, "label": "b", "index": 1, "is_new_class": True, "entries": entries}
    return httpx.Response(201, json=body)


JOB = {"id": "ab", "stage": "embed", "done": 1, "total": 2, "created": "2026-11-22T10:15:00Z"}
BUSY = problem(429, "queue-full", {"Retry-After": "0"})


def test_importing_it_imports_nothing_of_a_server() -> None:
    code = (
        "import sys, secondlook.client\n"
        "ours = ('torch', 'faiss', 'onnxruntime', 'model', 'service', 'indexer', 'evaluation', 'numpy', 'PIL')\n"
        "print([name for name in ours if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_all_kinds_of_images_are_the_same_pixels(tmp_path: Any) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(IMAGE)
    pixels = np.asarray(picture("red"))
    with path.open("rb") as file:
        parts = [encode(one, 7) for one in (path, str(path), IMAGE, io.BytesIO(IMAGE), file, pixels, picture("red"))]
    assert [part.filename for part in parts] == ["red.png", "red.png", "7.png", "7.png", "red.png", "7.png", "7.png"]
    for part in parts:
        with Image.open(io.BytesIO(part.content)) as image:
            assert np.array_equal(np.asarray(image), pixels)
    with Image.open(io.BytesIO(encode(picture("red").convert("CMYK"), 0).content)) as image:
        assert image.mode == "RGB"
    assert all(is_one(one) for one in (path, "a", b"a", pixels, pixels[..., 0], picture("red"), io.BytesIO()))
    assert not any(is_one(many) for many in ([path], pixels[None], iter([b"a"])))


def test_a_photo_that_was_opened_is_sent_as_it_is_seen() -> None:
    upright, stored, exif = picture("red", (30, 20)), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(stored, "PNG", exif=exif)
    with Image.open(io.BytesIO(encode(Image.open(stored), 0).content)) as sent:
        assert sent.size == (30, 20)
        assert np.array_equal(np.asarray(sent), np.asarray(upright))


def test_a_picture_that_cannot_be_read_to_its_end_fails_alone(tmp_path: Any) -> None:
    cut = Image.open(io.BytesIO(IMAGE[: len(IMAGE) // 2]))
    with client(predictions) as asking:
        first, second, third = asking.predict([cut, IMAGE, "a\0b.png"])
    assert str(first).startswith("0.png: ")
    assert str(third).endswith("embedded null byte")
    assert [isinstance(one, ImageReadError) for one in (first, second, third)] == [True, False, True]


@pytest.mark.parametrize(
    "wrong", [3, np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), io.StringIO("text"), np.zeros(3, np.uint8)]
)
def test_what_is_no_image_is_refused(wrong: Any) -> None:
    with client() as asking, pytest.raises(TypeError, match=r"image|array"):
        asking.predict([wrong])


def test_images_are_split_by_number_and_bytes_and_read_when_needed() -> None:
    read = []

    def images() -> Iterator[bytes]:
        for i in range(10):
            read.append(i)
            yield bytes(i)

    cut = requests(images(), files=4, size=12)
    assert [len(part.content) for part in next(cut).parts] == [0, 1, 2, 3]
    assert len(read) == 5
    assert [[len(part.content) for part in one.parts] for one in cut] == [[4, 5], [6], [7], [8], [9]]
    assert [len(one.parts) for one in requests([bytes(99)], size=12)] == [1]  # too big for any: alone


def test_a_file_that_cannot_be_read_has_its_error_in_its_place(tmp_path: Any) -> None:
    with client(predictions) as asking:
        first, gone, last = asking.predict([IMAGE, tmp_path / "gone.png", IMAGE])
        assert isinstance(gone, ImageReadError)
        assert (first.label, last.label) == ("0.png", "2.png")
        assert (first.generation, first.k, first.votes) == (GENERATION, None, None)
    with client() as asking:
        assert [type(one) for one in asking.predict([tmp_path / "gone.png"])] == [ImageReadError]
        with pytest.raises(ImageReadError, match=r"gone\.png: No such file"):
            asking.predict(tmp_path / "gone.png")


def test_only_what_is_asked_for_is_in_the_query() -> None:
    with client(predictions, predictions, key="schlüssel") as asking:
        asking.predict(IMAGE)
        asking.predict(IMAGE, k="all", lam=0, abstain=True)
    plain, asked = asking.seen
    assert plain.url.query == b""
    assert dict(asked.url.params) == {"lam": "0", "k": "all", "abstain": "true"}
    assert (b"Authorization", "Bearer schlüssel".encode()) in asked.headers.raw


@pytest.mark.parametrize(
    "broken", [BUSY, problem(503, "not-ready"), httpx.ReadError("reset"), httpx.ReadTimeout(""), httpx.Response(503)]
)
def test_a_prediction_is_sent_again(broken: Answer) -> None:
    with client(broken, broken, predictions) as asking:
        assert isinstance(asking.predict(IMAGE), Prediction)
    assert len(asking.seen) == 3


def test_other_problems_are_told_at_once() -> None:
    told = problem(422, "invalid-parameter", {"X-Request-ID": "abc"})
    with client(told) as asking, pytest.raises(ProblemError, match=r"invalid-parameter\.") as caught:
        asking.predict([IMAGE, IMAGE], lam=2)
    error = caught.value
    assert (error.status, error.slug, error.request_id) == (422, "invalid-parameter", "abc")
    assert error.problem["type"] == error.type == "urn:secondlook:problem:invalid-parameter"


def test_retry_after_is_honoured_and_bounds_the_tries() -> None:
    later = problem(429, "queue-full", {"Retry-After": "25"})
    with client(later) as asking, pytest.raises(BusyError) as caught:
        asking.predict(IMAGE)  # at once: it would begin after the time is over
    assert caught.value.retry_after == 25
    with client(BUSY, retry=Retry(within_s=0)) as asking, pytest.raises(BusyError):
        asking.predict(IMAGE)
    assert all(7 <= Retry().wait_s(tries, 7) <= 7 + Retry().longest_s for tries in range(1, 100))
    assert all(0 <= Retry().wait_s(1, None) <= Retry().first_s for _ in range(20))
    assert len({Retry().wait_s(9, None) for _ in range(20)}) > 1  # not all at the same time
    now = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
    assert _seconds("Sun, 22 Nov 2026 10:15:30 GMT", lambda: now) == 30
    assert _seconds("Sun, 22 Nov 2026 10:14:30 GMT", lambda: now) == 0
    assert (_seconds("12"), _seconds(None), _seconds("soon")) == (12, None, None)


def test_a_rebuild_is_not_sent_twice_over_a_broken_connection() -> None:
    with client(httpx.ReadError("reset")) as asking, pytest.raises(UnreachableError, match="connection to http://test"):
        asking.rebuild()
    running = httpx.Response(202, json=JOB | {"state": "running"})
    with client(httpx.ConnectError("refused"), BUSY, running) as asking:
        assert asking.rebuild(dataset="photos", mirror=True).created == datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
    assert asking.seen[-1].content == b'{"dataset":"photos","mirror":true}'


def test_teaching_is_repeated_under_one_key_and_no_other() -> None:
    with client(BUSY, httpx.ReadError("reset"), taught, taught) as asking:
        assert asking.teach(IMAGE, "b").entries[0].id == 0
        asking.teach(IMAGE, "b")
    keys = [request.headers["Idempotency-Key"] for request in asking.seen]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_what_can_be_taught_is(tmp_path: Any) -> None:
    refused = problem(400, "undecodable-image", filename="a.png")
    with client(refused, taught, refused) as asking:  # all of a request are refused as one: so they are sent in parts
        made = asking.teach([IMAGE, tmp_path / "gone.png", b"no image"], "b", partial=True)
    assert [type(one) for one in made.entries] == [TaughtEntry, ImageReadError, ProblemError]
    assert made.is_new_class
    assert [request.content.count(b"filename=") for request in asking.seen] == [2, 1, 1]
    with client(refused) as asking, pytest.raises(ProblemError):
        asking.teach([IMAGE, b"no image"], "b")
    with client() as asking, pytest.raises(ImageReadError):
        asking.teach([tmp_path / "gone.png"], "b", partial=True)
    with client() as asking, pytest.raises(ValueError, match="no image is given"):
        asking.teach([], "b", partial=True)
    with client(problem(409, "label-like-another", known="cat")) as asking, pytest.raises(ConflictError) as caught:
        asking.teach(IMAGE, "Cat")
    assert caught.value.known == "cat"


def test_waiting_tells_what_changed_and_how_it_ended() -> None:
    running = httpx.Response(200, json=JOB | {"state": "running"})
    over = httpx.Response(200, json=JOB | {"state": "succeeded", "generation": GENERATION})
    seen: list[str] = []
    with client(running, running, over) as asking:
        assert asking.wait("ab", lambda job: seen.append(job.state), every=0).generation == GENERATION
    assert seen == ["running", "succeeded"]
    failed = httpx.Response(200, json=JOB | {"state": "failed", "error": "no images"})
    with client(failed) as asking, pytest.raises(JobError, match="rebuild ab failed: no images"):
        asking.wait("ab")
    with client(running) as asking, pytest.raises(TimeoutError, match="embed, 1 of 2"):
        asking.wait("ab", within=0)


def test_a_listing_ends_where_another_generation_takes_over() -> None:
    entry = {"generation": "x", "id": 1, "label": "a", "index": 0, "source": "s", "mirrored": False}
    first = httpx.Response(200, json={"generation": "x", "total": 2, "entries": [entry], "next": 1})
    second = httpx.Response(200, json={"generation": "y", "total": 2, "entries": [entry], "next": None})
    with client(first, second) as asking:
        listing = asking.entries(label="a", taught=False)
        assert next(listing).id == 1
        with pytest.raises(ListingError, match="y answers instead of x"):
            next(listing)
    assert dict(asking.seen[1].url.params) == {"label": "a", "taught": "false", "limit": "200", "after": "1"}


def test_a_name_is_never_another_call() -> None:
    with client(problem(404, "not-found")) as asking, pytest.raises(ProblemError):
        asking.activate("../jobs")
    assert asking.seen[0].url.raw_path == b"/v1/admin/generations/..%2Fjobs/activate"


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, text="<html>"), httpx.Response(404), httpx.Response(301), httpx.Response(200, json=[])],
)
def test_what_is_no_secondlook_server_is_told(answer: httpx.Response) -> None:
    with client(answer) as asking, pytest.raises(UnexpectedAnswerError):
        asking.model()


@pytest.mark.parametrize(
    ("url", "key"), [("127.0.0.1:8000", None), ("ftp://a", None), ("http://", None), ("http://a", "")]
)
def test_addresses_and_keys_that_cannot_be_are_refused(url: str, key: str | None) -> None:
    with pytest.raises(ValueError, match=r"address|key"):
        Client(url, key)


def test_work_comes_in_order_and_stops_when_one_fails() -> None:
    assert list(in_order(lambda n: n * n, iter(range(50)), 4, threading.Event())) == [n * n for n in range(50)]
    stopping, taken = threading.Event(), []

    def items() -> Iterator[int]:
        for n in range(50):
            taken.append(n)
            yield n

    def work(n: int) -> int:
        if n == 3:
            raise UnreachableError("gone")
        return n

    with pytest.raises(UnreachableError):
        list(in_order(work, items(), 2, stopping))
    assert stopping.is_set()
    assert len(taken) <= 7
