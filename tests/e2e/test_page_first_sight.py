"""What the page says first: what it knows, how far an answer is to be trusted, and nothing that is not there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.root import activate
from tests.e2e.conftest import KEY, Server
from tests.e2e.page import ask, headline, look, percent, says, striped, upload, violations
from tests.images_for_tests import COLOURS, as_file, make_image
from tests.networks_for_tests import colour_backbone, written

ADMIN = {"Authorization": f"Bearer {KEY}"}
Serve = Callable[..., Server]
Visit = Callable[..., Page]


def blend(share: float) -> bytes:
    """A colour between red and green."""
    colour = (1 - share) * np.array(COLOURS["red"]) + share * np.array(COLOURS["green"])
    noisy = np.clip(colour + np.random.default_rng(1).normal(0, 25, (32, 32, 3)), 0, 255)
    return as_file(noisy.astype(np.uint8), "PNG")


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def server(serve: Serve, root: Path) -> Server:
    return serve(bundles=root, admin_key=KEY)


def test_the_largest_words_say_how_far_to_trust_it(server: Server, visit: Visit) -> None:
    page = visit(server)
    images = [make_image("red", seed=5), striped(1), *(blend(share) for share in (0.4, 0.45, 0.5, 0.55))]
    answers = [ask(server, image)["predictions"][0] for image in images]
    # One of each, or there is nothing to see.
    assert {said["standing"] for said in answers} == {"known", "doubtful", "unknown"}
    cards = look(page, *(upload(f"{i}.png", image) for i, image in enumerate(images)))
    for card, said in zip(cards, answers, strict=True):
        expect(card.get_by_role("heading", level=3)).to_have_text(headline(said))
        expect(card.locator(".standing")).to_have_text(said["standing"].capitalize())
        guess = card.locator(".guess")
        if said["standing"] == "unknown":
            expect(guess).to_have_text(f"my guess: {said['label']}, {percent(said['probability'])}")
        else:
            expect(guess).to_be_hidden()
            expect(card.locator(".chance")).to_have_text(percent(said["probability"]))


def test_where_doubt_is_not_calibrated_it_says_so(serve: Serve, root: Path, visit: Visit) -> None:
    manifest = next(root.glob("*/manifest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"calibration": None}))
    page = visit(serve(bundles=root))
    (card,) = look(page, upload("a.png", make_image("red", seed=5)))
    expect(card.get_by_role("heading", level=3)).to_have_text("red")
    expect(card.locator(".standing")).to_have_text("How sure that is was not calibrated")
    assert violations(page) == []


def test_neighbours_without_pictures_are_labels_and_bars(
    serve: Serve, tmp_path: Path, colour_folder: Path, visit: Visit
) -> None:
    root, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(root, index(load(str(colour_folder)), root, FromNetwork(str(network)), IndexOptions(thumbnails=False)))
    server, image = serve(bundles=root, admin_key=KEY), make_image("red", seed=5)
    page = visit(server)
    (card,) = look(page, upload("a.png", image))
    neighbours = card.locator(".neighbors")
    expect(neighbours).to_contain_text("this model was made without keeping pictures")
    expect(neighbours.locator(".frame, img")).to_have_count(0)
    lines = neighbours.get_by_role("listitem")
    expect(lines).to_have_count(6)
    for i, near in enumerate(ask(server, image)["predictions"][0]["neighbors"][:6]):
        expect(lines.nth(i).locator(".name")).to_contain_text(near["label"])
        drawn = lines.nth(i).locator(".bar").evaluate("bar => Number(bar.style.getPropertyValue('--share'))")
        assert drawn == pytest.approx(near["weight"], abs=1e-6)
    assert violations(page) == []
    # One below the other, on a phone too.
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        boxes = [lines.nth(i).bounding_box() for i in range(2)]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    lines.first.get_by_role("button").click()
    expect(page.locator("#entry-dialog .frame")).to_have_count(0)
    page.keyboard.press("Escape")
    # What is taught has a picture, and stands among those that have none.
    httpx.post(f"{server.url}/v1/entries", files={"file": ("a.png", image)}, data={"label": "red"}, headers=ADMIN)
    (again,) = look(page, upload("again.png", image))
    expect(again.locator(".neighbors")).to_contain_text("Some were kept without their pictures.")
    expect(again.locator(".neighbors img")).to_have_count(1)
    assert violations(page) == []


def test_the_start_shows_what_is_known_and_drawings_to_try(serve: Serve, visit: Visit) -> None:
    server = serve()
    page, model = visit(server), httpx.get(f"{server.url}/v1/model").json()
    known = page.get_by_role("list", name="It knows 10 classes")
    expect(known.get_by_role("listitem")).to_have_count(len(model["classes"]))
    for label, number in zip(model["classes"], model["counts"], strict=True):
        expect(known).to_contain_text(f"{label} {number:,}")
    assert violations(page) == []
    for name, label in {"car": "automobile", "ship": "ship", "plane": "airplane"}.items():
        page.get_by_role("button", name=f"A drawn {name}").click()
        card = page.locator(".card", has=page.get_by_text(f"{name}.png", exact=True))
        says(card, label)
        expect(card.get_by_role("heading", level=3)).to_contain_text(label)
        page.get_by_role("button", name="Clear the page").click()


def test_drawings_are_offered_where_they_are_known_alone(server: Server, visit: Visit) -> None:
    page = visit(server)
    expect(page.locator("#known-classes li")).to_have_text(["blue 20", "green 20", "red 20"])
    expect(page.locator("#samples")).to_be_hidden()
