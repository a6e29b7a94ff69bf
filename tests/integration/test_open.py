"""A bundle opened in Python says of an image what a server on it says."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import secondlook
from secondlook.answers import Embedding, Nearest, Prediction, read
from secondlook.model.bundles.default import default_root
from secondlook.model.errors import BundleError, ImageError, ParameterError
from tests.heads_for_tests import headless_root, partial_root, png, write_colours
from tests.images_for_tests import make_image
from tests.service_for_tests import KEY, Call, create_app, files, serving, settings, teach

HEADLESS, PARTIAL, WHOLE = "headless", "partial", "whole"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> dict[str, Path]:
    """Roots of a network without a head, of one that knows some of the classes, and of one that knows all."""
    folder = tmp_path_factory.mktemp("open")
    colours = write_colours(folder / "colours")
    return {
        HEADLESS: headless_root(folder / "headless", colours),
        PARTIAL: partial_root(folder / "partial", colours),
        WHOLE: tiny_bundle,
    }


def same(here: Any, there: Any, at: str = "") -> None:
    """Equal, numbers but for their last digits; where a picture is, only a server knows."""
    if isinstance(here, dict):
        assert here.keys() == there.keys(), at
        for name in here:
            if name != "thumbnail":
                same(here[name], there[name], f"{at}.{name}")
    elif isinstance(here, list):
        assert len(here) == len(there), at
        for place, (one, other) in enumerate(zip(here, there, strict=True)):
            same(one, other, f"{at}[{place}]")
    elif isinstance(here, float):
        assert here == pytest.approx(there, abs=1e-4), at
    else:
        assert here == there, at


def by_server(call: Call, query: str, *uploads: tuple[str, bytes]) -> list[Prediction]:
    answer = call("POST", f"/v1/predict?{query}", files=files(*uploads)).json()
    shared = {name: answer[name] for name in ("generation", "lam", "theta", "k")}
    return [read(Prediction, one, **shared) for one in answer["predictions"]]


QUERIES: list[dict[str, Any]] = [
    {},
    {"top": 2, "neighbors": 3},
    {"theta": 20.0, "lam": 1.0, "k": 5, "neighbors": 50, "votes": 7},
    {"k": "all", "coverage": 0.9, "abstain": True},
]


@pytest.mark.parametrize("kind", [HEADLESS, PARTIAL, WHOLE])
@pytest.mark.parametrize("asked", QUERIES, ids=lambda asked: ",".join(asked))
def test_it_says_what_a_server_says(roots: dict[str, Path], kind: str, asked: dict[str, Any], tmp_path: Path) -> None:
    contents = [png(colour, 990 + place) for place, colour in enumerate(("red", "green", "yellow"))]
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    here = secondlook.open(roots[kind]).predict(paths, **asked)
    query = "&".join(f"{name}={str(value).lower()}" for name, value in asked.items())
    with serving(create_app(settings(bundles=roots[kind]))) as call:
        there = by_server(call, query, *((path.name, path.read_bytes()) for path in paths))
    assert len(here) == 3
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, Prediction)
        same(asdict(one), asdict(other))
        assert (one.network is None) is (kind == HEADLESS)


@pytest.mark.parametrize("kind", [HEADLESS, PARTIAL, WHOLE])
def test_keys_and_searches_are_what_a_server_says(roots: dict[str, Path], kind: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for place, (path, colour) in enumerate(zip(paths, ("red", "green", "yellow"), strict=True)):
        path.write_bytes(png(colour, 990 + place))
    bundle = secondlook.open(roots[kind])
    sent = files(*((path.name, path.read_bytes()) for path in paths))
    with serving(create_app(settings(bundles=roots[kind]))) as call:
        embedded = call("POST", "/v1/embed", files=sent).json()
        found = call("POST", "/v1/search?k=5", files=sent).json()
    for here, there in zip(bundle.embed(paths), embedded["embeddings"], strict=True):
        assert isinstance(here, Embedding)
        assert (here.generation, here.filename) == (embedded["generation"], there["filename"])
        np.testing.assert_allclose(np.asarray(here.embedding), np.array(there["embedding"], np.float32), atol=1e-5)
        assert np.asarray(here.embedding).dtype == np.float32
    for one, other in zip(bundle.search(paths, k=5), found["results"], strict=True):
        assert isinstance(one, Nearest)
        same(asdict(one), asdict(read(Nearest, other, generation=found["generation"])))
    alone = bundle.embed(paths[1])
    np.testing.assert_allclose(np.asarray(alone.embedding), np.asarray(bundle.embed(paths)[1].embedding), atol=1e-5)  # type: ignore[union-attr]
    assert len(bundle.search(paths[0]).neighbors) == 20
    first, bad = bundle.embed([paths[0], b"no image"])
    assert isinstance(first, Embedding)
    assert isinstance(bad, ImageError)
    with pytest.raises(ImageError, match="not one of JPEG"):
        bundle.search(b"no image")
    for k in (0, 201, 1.5, True):
        with pytest.raises(ParameterError, match="k must be a whole number from 1 to 200"):
            bundle.search(paths, k=k)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="give one image to embed"):
        bundle.embeddings(paths[0])  # type: ignore[arg-type]


def test_every_form_of_an_image_is_answered_alike(roots: dict[str, Path], tmp_path: Path) -> None:
    classifier = secondlook.open(str(roots[PARTIAL]))
    path, content = tmp_path / "cat.png", png("red", 77)
    path.write_bytes(content)
    opened = Image.open(path)
    pixels = np.array(opened)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(pixels).rotate(90, expand=True).save(turned, "PNG", exif=exif)
    expected = classifier.predict(path)
    assert expected.filename == "cat.png"
    forms: list[Any] = [
        *(str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)),
        *(opened, pixels, np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])),
        *(Image.open(turned), turned.getvalue(), opened.convert("RGBA")),
    ]
    for place, answer in enumerate(classifier.predict(forms)):
        assert isinstance(answer, Prediction), answer
        same(asdict(answer) | {"filename": None}, asdict(expected) | {"filename": None}, f"form {place}")
    for form in forms:
        if not isinstance(form, io.BytesIO):
            same(classifier.predict(form).probability, expected.probability, str(type(form)))
    several = classifier.predict(np.stack([pixels] * 3))
    assert [isinstance(one, Prediction) and one.label for one in several] == [expected.label] * 3
    grey = classifier.predict(pixels[:, :, 0])
    same(asdict(grey), asdict(classifier.predict(np.repeat(pixels[:, :, :1], 3, axis=2))))


def test_many_are_answered_as_they_come(roots: dict[str, Path]) -> None:
    classifier = secondlook.open(roots[HEADLESS])
    taken = 0

    def coming() -> Iterator[bytes]:
        nonlocal taken
        for place in range(100):
            taken += 1
            yield png(("red", "blue")[place % 2], place)

    answers = classifier.predictions(coming())
    first = [next(answers) for _ in range(3)]
    assert taken < 50
    labels = [one.label for one in (*first, *answers) if isinstance(one, Prediction)]
    assert taken == len(labels) == 100
    alone = [classifier.predict(png(("red", "blue")[place % 2], place)).label for place in range(20)]
    assert labels[:20] == alone


def test_one_bad_image_fails_alone(roots: dict[str, Path], tmp_path: Path) -> None:
    classifier = secondlook.open(roots[WHOLE], max_pixels=2000)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    good = make_image("red")
    bad: dict[str, Any] = {
        f"{tmp_path / 'text.png'}: the file is not one of": tmp_path / "text.png",
        f"{tmp_path / 'empty.png'}: the file is empty": str(tmp_path / "empty.png"),
        f"{tmp_path / 'nope.png'}: it cannot be read: No such file": tmp_path / "nope.png",
        f"{tmp_path}: it is no regular file": tmp_path,
        "a\0b.png: it cannot be read: embedded null byte": "a\0b.png",
        "images[1]: the file is empty": b"",
        "images[1]: the image is damaged or cut short": good[:60],
        "images[1]: the file is not one of": io.BytesIO(b"text"),
        "images[1]: the file cannot be read: I/O operation on closed file": closed(),
        "images[1]: the picture cannot be read: image file is truncated": Image.open(io.BytesIO(noise()[:2000])),
        "images[1]: the image has 50 x 50 pixels: at most 2,000": np.zeros((50, 50, 3), np.uint8),
        "images[1]: the image is damaged: it has 5 x 0 pixels": np.zeros((0, 5, 3), np.uint8),
        "images[1]: the image has samples of 32 bits": Image.new("I", (9, 9)),
    }
    for sentence, image in bad.items():
        before, failed, after = classifier.predict([good, image, good])
        assert isinstance(failed, ImageError)
        assert str(failed).startswith(sentence)
        assert isinstance(before, Prediction)
        assert isinstance(after, Prediction)
        same(asdict(before), asdict(after))
        if not isinstance(image, io.BytesIO | Image.Image):
            with pytest.raises(ImageError) as alone:
                classifier.predict(image)
            assert str(alone.value).startswith(sentence.removeprefix("images[1]: "))


def closed() -> io.BytesIO:
    file = io.BytesIO(make_image("red"))
    file.close()
    return file


def noise() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "an image is a path, bytes, an open file, an array or a picture, not NoneType"),
        (5, "an image is a path, bytes, an open file, an array or a picture, not int"),
        (np.zeros((8, 8, 3), np.float32), "an array of uint8 and shape"),
        (np.zeros((3, 8, 8), np.uint8), "an array of uint8 and shape"),
        (np.zeros(8, np.uint8), "an array of uint8 and shape"),
        (io.StringIO("text"), "a file of images has to be open for reading bytes"),
    ],
    ids=["None", "int", "float32", "channels first", "one axis", "text"],
)
def test_what_is_no_image_at_all_is_said_at_once(roots: dict[str, Path], image: Any, sentence: str) -> None:
    classifier = secondlook.open(roots[WHOLE])
    with pytest.raises(ParameterError, match=f"^{sentence}"):
        classifier.predict(image)
    with pytest.raises(ParameterError, match=rf"^images\[0\]: {sentence}"):
        classifier.predict([image])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"top": 0}, "top must be a whole number from 1 to 1000, not 0"),
        ({"top": "5"}, "top must be a whole number from 1 to 1000, not '5'"),
        ({"neighbors": 51}, "neighbors must be a whole number from 0 to 50, not 51"),
        ({"votes": 2.5}, "votes must be a whole number from 0 to 1000, not 2.5"),
        ({"theta": 0}, "theta must be above 0"),
        ({"theta": float("nan")}, "theta must be above 0"),
        ({"theta": "60"}, "theta must be a number, not '60'"),
        ({"lam": 2}, "lam must be between 0 and 1, not 2"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": "some"}, "k must be a whole number, not 'some'"),
        ({"coverage": 1.0}, "coverage must be between"),
        ({"coverage": "most"}, "coverage must be a number, not 'most'"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_said_in_a_sentence(
    roots: dict[str, Path], asked: dict[str, Any], sentence: str
) -> None:
    classifier = secondlook.open(roots[WHOLE])
    with pytest.raises(secondlook.SecondlookError, match=f"^{sentence}"):
        classifier.predict(make_image("red"), **asked)
    with pytest.raises(ParameterError, match=f"^{sentence}"):
        classifier.predictions([], **asked)


def test_without_a_head_lam_is_one(roots: dict[str, Path]) -> None:
    with pytest.raises(ParameterError, match=r"lam is 1 here, not 0.5: the network has no head"):
        secondlook.open(roots[HEADLESS]).predict(png("red", 5), lam=0.5)


def test_predictions_takes_several(roots: dict[str, Path]) -> None:
    with pytest.raises(ParameterError, match="give one image to predict"):
        secondlook.open(roots[WHOLE]).predictions("cat.png")  # type: ignore[arg-type]


def test_roots_that_are_none_are_refused(tmp_path: Path, roots: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match="no active bundle: index a dataset into it first"):
        secondlook.open(tmp_path / "none")
    with pytest.raises(BundleError, match="is not a generation's id"):
        secondlook.open(roots[WHOLE], "latest")


def test_what_was_taught_counts_at_once(root: Path) -> None:
    """Also what a server is taught while the bundle is open here, and the next one that opens it."""
    opened, content = secondlook.open(root), png("violet", 3)
    assert "violet" not in opened.classes
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        assert teach(call, "violet", content).status_code == 201
        expected = by_server(call, "neighbors=2", ("a.png", content))[0]
        for classifier in (opened, secondlook.open(root)):
            (answer,) = classifier.predict([content], neighbors=2)
            assert isinstance(answer, Prediction)
            same(asdict(answer) | {"filename": None}, asdict(expected) | {"filename": None})
            assert (answer.label, answer.neighbors[0].taught) == ("violet", True)
            assert "violet" in classifier.classes


def test_without_a_root_the_default_bundle_answers() -> None:
    classifier = secondlook.open()
    plane = classifier.predict(Path(__file__).parents[2] / "docs/plane.png")
    assert (plane.label, plane.standing) == ("airplane", "known")
    assert classifier.generation == plane.generation == (default_root() / "CURRENT").read_text().strip()


def test_the_module_shows_what_it_has() -> None:
    assert set(secondlook.__all__) <= set(dir(secondlook))
    for name in secondlook.__all__:
        assert getattr(secondlook, name)
    with pytest.raises(AttributeError, match="has no attribute 'clasifier'"):
        _ = secondlook.clasifier  # type: ignore[attr-defined]


IMPORTS = """
import json, sys
import secondlook
light = sorted(sys.modules)
for name in ("torch", "httpx", "sklearn", "onnx", "timm", "transformers", "fastapi"):
    sys.modules[name] = None  # what imports it fails
answer = secondlook.open(sys.argv[1]).predict(sys.argv[2])
print(json.dumps([light, answer.label]))
"""


def test_importing_it_is_light_and_answering_needs_no_torch(roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png("red", 9))
    run = [sys.executable, "-P", "-c", IMPORTS, str(roots[PARTIAL]), str(tmp_path / "red.png")]
    light, label = json.loads(subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout)
    heavy = {"numpy", "PIL", "pydantic", "fastapi", "onnxruntime", "faiss", "httpx", "torch", "click"}
    assert not heavy & {name.partition(".")[0] for name in light}
    assert label == "red"


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    code = (
        "import sys\nsys.modules['faiss'] = None\nimport secondlook\n"
        "try:\n    secondlook.open()\nexcept secondlook.SecondlookError as error:\n    print(error)"
    )
    run = [sys.executable, "-P", "-c", code]
    said = subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout
    assert said == "opening a bundle needs faiss: install secondlook with the extra cpu or gpu\n"
