"""Bundles with one encoder and one size of image, but other geometries: they are never mixed."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import active_generation
from secondlook.model.images import DEFAULT_PIXELS, Limits, decode
from secondlook.model.networks.preprocess import CIFAR
from secondlook.service.routes import answer as routes
from secondlook.service.state import State
from tests.service_for_tests import ADMIN, KEY, Call, add_generation, create_app, files, look, serving, settings, teach

NEIGHBORS = 5


def striped(seed: int) -> bytes:
    """A wide picture, of which other parts are seen by each rule."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (40, 160, 3))
    for part, channel in enumerate(random.permutation(3)):
        pixels[:, 54 * part : 54 * (part + 1), channel] += 190
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def generations(root: Path) -> tuple[str, str]:
    """The active one, whose images cover, and one whose images are squashed."""
    squash = json.loads(CIFAR.with_geometry(rule="squash").model_dump_json())
    return active_generation(root), add_generation(root, preprocess=squash)


@pytest.fixture
def call(root: Path, generations: tuple[str, str]) -> Iterator[Call]:
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        yield call


def activate(call: Call, generation: str) -> None:
    response = call("POST", f"/v1/admin/generations/{generation}/activate", headers=ADMIN)
    assert response.status_code == 200, response.text


def expected(root: Path, generation: str, content: bytes) -> tuple[np.ndarray, Answer]:
    """The key of an image and the answer on it, by a generation alone."""
    bundle = open_bundle(root, generation, threads=1)
    image = decode(content, bundle.geometry, Limits(DEFAULT_PIXELS))[None]
    predictor = Predictor(bundle)
    (answer,) = predictor.predict(image, [predictor.defaults], NEIGHBORS)
    assert isinstance(answer, Answer)
    return bundle.engine.encode(image).keys[0], answer


def test_answers_are_by_their_generations_geometry_while_it_switches(
    root: Path, generations: tuple[str, str], call: Call
) -> None:
    images = [striped(seed) for seed in range(4)]
    by = {one: [expected(root, one, content) for content in images] for one in generations}
    for (key, _), (other, _) in zip(*by.values(), strict=True):
        assert np.abs(key - other).max() > 0.02
    is_over, seen, wrong = threading.Event(), set[str](), list[Any]()

    def ask() -> None:
        sent = files(*((f"{i}.png", content) for i, content in enumerate(images)))
        while not is_over.is_set():
            response = call("POST", f"/v1/predict?neighbors={NEIGHBORS}&top=3", files=sent)
            if response.status_code != 200:
                wrong.append(response.text)
                return
            generation = response.json()["generation"]
            seen.add(generation)
            for (_, answer), said in zip(by[generation], response.json()["predictions"], strict=True):
                similarities = [one["similarity"] for one in said["neighbors"]]
                mixed = [one["probability"] for one in said["top"]]
                if not (
                    np.allclose(answer.similarities, similarities, atol=1e-4)
                    and np.allclose(np.sort(answer.mixed)[::-1], mixed, atol=1e-4)
                ):
                    wrong.append((generation, said))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            for generation in reversed(generations):
                activate(call, generation)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen == set(generations)


@pytest.mark.parametrize("switches", [1, 2, 5])
def test_images_are_decoded_anew_for_each_switch_meanwhile(
    root: Path, generations: tuple[str, str], switches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [Predictor(open_bundle(root, one, threads=1)) for one in generations]
    decode_one, decoded = routes._decode, []

    async def decode_and_switch(state: State, *given: Any) -> Exception | None:
        failed = await decode_one(state, *given)
        decoded.append(failed)
        if len(decoded) <= switches:
            state.batcher.predictor = both[len(decoded) % 2]
        return failed

    monkeypatch.setattr(routes, "_decode", decode_and_switch)
    content = striped(3)
    with serving(create_app(settings(), predictor=both[0])) as call:
        response = call("POST", f"/v1/predict?neighbors={NEIGHBORS}", files=files(("a.png", content)))
    assert response.status_code == 200, response.text
    assert len(decoded) == switches + 1
    generation = response.json()["generation"]
    assert generation == generations[switches % 2]
    similarities = [one["similarity"] for one in response.json()["predictions"][0]["neighbors"]]
    np.testing.assert_allclose(similarities, expected(root, generation, content)[1].similarities, atol=1e-4)


def test_what_was_taught_is_embedded_anew_for_another_geometry(
    root: Path, generations: tuple[str, str], call: Call
) -> None:
    content = striped(7)
    assert teach(call, "green", content).status_code == 201
    for generation in (*reversed(generations), generations[1]):
        activate(call, generation)
        (nearest, *_) = look(call, content)["neighbors"]
        assert nearest["similarity"] == pytest.approx(1, abs=1e-5)
        assert nearest["label"] == "green"


def test_a_dataset_is_embedded_with_a_bundles_geometry(
    root: Path, generations: tuple[str, str], tmp_path: Path
) -> None:
    for label in ("blue", "green", "red"):
        (tmp_path / "wide" / label).mkdir(parents=True)
        (tmp_path / "wide" / label / "a.png").write_bytes(striped(len(label)))
    dataset = load(str(tmp_path / "wide"))
    for generation in generations:
        keys = embed_queries(dataset, np.arange(3), open_bundle(root, generation)).keys
        for position, key in enumerate(keys):
            content = (tmp_path / "wide" / dataset.source(position)).read_bytes()
            np.testing.assert_allclose(key, expected(root, generation, content)[0], atol=1e-5)
