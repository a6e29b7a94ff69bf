"""Inputs that a server meets in the wild: the right status, a sentence that names what is wrong, and it goes on."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.model.answering.predictor import Predictor
from tests.images_for_tests import make_image
from tests.service_for_tests import Call, create_app, files, open_predictor, problem, serving, settings


class Recorder(Predictor):
    """Keeps the pixels that reached it."""

    seen: list[Any]

    def predict(self, images: Any, asked: Any, *given: Any) -> Any:
        self.seen = [image.copy() for image in images]
        return super().predict(images, asked, *given)


@pytest.fixture(scope="module")
def recorder(tiny_bundle: Path) -> Recorder:
    return Recorder(open_predictor(tiny_bundle).bundle)


@pytest.fixture(scope="module")
def serving_call(recorder: Recorder) -> Iterator[Call]:
    given = settings(max_file_bytes=100_000, max_request_bytes=200_000)
    with serving(create_app(given, predictor=recorder)) as call:
        yield call


@pytest.fixture
def call(serving_call: Call) -> Iterator[Call]:
    yield serving_call
    good = serving_call("POST", "/v1/predict", files=files(("good.png", make_image("red"))))
    assert good.status_code == 200, "the server does not go on"


def png_header(width: int, height: int) -> bytes:
    """A PNG of 100 bytes that claims to be that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "slug", "says"),
    [
        (b"", 400, "undecodable-image", "empty"),
        (b"just some text\n" * 100, 400, "undecodable-image", "not one of"),
        (make_image("red", (200, 200), "JPEG")[:2000], 400, "undecodable-image", "cut short"),
        (png_header(20_000, 20_000), 413, "too-many-pixels", "20000 x 20000"),
        (bytes(100_001), 413, "too-many-bytes", "100,000"),
    ],
    ids=["empty", "text", "truncated", "bomb", "large"],
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_bad_image(call: Call, content: bytes, status: int, slug: str, says: str, raw: bool) -> None:
    if raw:
        response = call("POST", "/v1/predict", content=content, headers={"Content-Type": "image/png"})
        assert "filename" not in response.json()
    else:
        response = call("POST", "/v1/predict", files=files(("holiday.png", content)))
        assert response.json()["filename"] == "holiday.png"
        assert response.json()["detail"].startswith("holiday.png: ")
    assert says in problem(response, status, slug)


def _gif() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (saved(Image.new("CMYK", (32, 32), (0, 200, 200, 0)), "JPEG", quality=95), (255, 55, 55)),
        (saved(Image.fromarray(np.full((32, 32), 32_896, np.uint16)), "PNG"), (128, 128, 128)),
        (_gif(), (250, 0, 0)),
        (saved(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG"), (255, 255, 255)),
        (saved(Image.new("RGBA", (32, 32), (0, 0, 200, 128)), "PNG"), (127, 127, 227)),
    ],
    ids=["cmyk", "16-bit", "animated", "transparent", "half-transparent"],
)
def test_unusual_images_are_seen_as_people_see_them(
    call: Call, recorder: Recorder, content: bytes, colour: tuple[int, int, int]
) -> None:
    assert call("POST", "/v1/predict", files=files(("odd", content))).status_code == 200
    (seen,) = recorder.seen
    assert seen.shape == (32, 32, 3)
    np.testing.assert_allclose(seen.reshape(-1, 3).mean(axis=0), colour, atol=4)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("lam=2", "lam"),
        ("lam=-0.1", "lam"),
        ("lam=nan", "lam"),
        ("lam=much", "lam"),
        ("theta=nan", "theta"),
        ("theta=inf", "theta"),
        ("theta=1e300", "theta"),
        ("theta=0", "theta"),
        ("k=0", "k"),
        ("k=-3", "k"),
        ("k=1.5", "k"),
        ("k=some", "k"),
        ("k=" + "9" * 5000, "k"),
        ("top=0", "top"),
        ("neighbors=51", "neighbors"),
        ("neighbors=x", "neighbors"),
    ],
)
def test_a_bad_parameter_is_named(call: Call, query: str, name: str) -> None:
    response = call("POST", f"/v1/predict?{query}", files=files(("a.png", make_image("red"))))
    detail = problem(response, 422, "invalid-parameter")
    assert detail.split()[0].rstrip(":") == name
    assert len(detail) < 300


def test_no_file(call: Call) -> None:
    other_field = call("POST", "/v1/predict", files=[("picture", ("a.png", make_image("red")))])
    assert "field file" in problem(other_field, 422, "missing-file")
    empty = {"Content-Type": "multipart/form-data; boundary=b"}
    assert "field file" in problem(call("POST", "/v1/predict", content=b"", headers=empty), 422, "missing-file")
    problem(call("POST", "/v1/predict", content=b"--b--\r\n", headers=empty), 422, "missing-file")


def test_a_file_input_with_nothing_chosen_is_no_file(call: Call) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n--b--\r\n"
    )
    response = call("POST", "/v1/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    problem(response, 422, "missing-file")


def test_too_many_files(call: Call) -> None:
    content = make_image("red", (4, 4))
    response = call("POST", "/v1/predict", files=files(*[("a.png", content)] * 100))
    assert "64 files" in problem(response, 413, "too-many-files")
    assert call("POST", "/v1/predict", files=files(*[("a.png", content)] * 64)).status_code == 200


def test_one_large_file_among_others_fails_alone(call: Call) -> None:
    uploads = files(("a.png", make_image("red")), ("large.png", bytes(100_001)), ("c.png", make_image("blue")))
    first, large, last = call("POST", "/v1/predict", files=uploads).json()["predictions"]
    assert "probability" in first
    assert "probability" in last
    assert (large["status"], large["filename"]) == (413, "large.png")


def test_too_many_bytes_by_the_header(call: Call) -> None:
    response = call("POST", "/v1/predict", content=bytes(200_001), headers={"Content-Type": "image/png"})
    assert "200,000" in problem(response, 413, "too-many-bytes")


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/admin/rebuild"])
def test_too_many_bytes_without_a_length_stop_early(call: Call, path: str) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 100_000_000:
            sent += 50_000
            yield bytes(50_000)

    media_type = "image/png" if path == "/v1/predict" else "application/json"
    response = call("POST", path, content=endless(), headers={"Content-Type": media_type})
    problem(response, 413, "too-many-bytes")
    assert sent <= 300_000


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_not_an_image_type(call: Call, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    detail = problem(call("POST", "/v1/predict", content=b"x", headers=headers), 415, "unsupported-media-type")
    assert (media_type or "missing") in detail
    assert "image/*" in detail


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"no boundary here"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf an im'),
        ("multipart/form-data; boundary=" + "b" * 300, b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: b\r\n" * 1000),
    ],
    ids=["no boundary", "not multipart", "cut", "long boundary", "many headers"],
)
def test_malformed_multipart(call: Call, content_type: str, body: bytes) -> None:
    response = call("POST", "/v1/predict", content=body, headers={"Content-Type": content_type})
    problem(response, 400, "malformed-request")


def test_a_hostile_file_name_is_shown_bounded_and_printable(call: Call) -> None:
    body = (
        '--b\r\nContent-Disposition: form-data; name="file"; filename="<b>\u202e\x1b[31m'.encode()
        + b"x" * 1000
        + b'"\r\n\r\nnot an image\r\n--b--\r\n'
    )
    response = call("POST", "/v1/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    problem(response, 400, "undecodable-image")
    name = response.json()["filename"]
    assert name.startswith("<b>\ufffd\ufffd[31mxxx")
    assert len(name) == 200
