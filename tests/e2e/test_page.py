"""The page as people meet it: images and answers, in a browser, from a real server."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
from playwright.sync_api import Page, expect

from secondlook.service.http.keys import new_key
from tests.e2e.conftest import KEY, Server, until
from tests.e2e.page import WRONG, ask, give_key, headline, look, percent, says, slide, striped, upload, violations
from tests.images_for_tests import make_image

ADMIN = {"Authorization": f"Bearer {KEY}"}
PARAMETERS = [(0.0, 60.0, 5), (1.0, 60.0, 1), (0.35, 2.5, 60), (0.8, 900.0, 13), (0.5, 30.0, 2)]
Serve = Callable[..., Server]
Visit = Callable[..., Page]


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))


@pytest.fixture
def server(serve: Serve, root: Path, colour_folder: Path) -> Server:
    return serve(bundles=root, data=colour_folder.parent, admin_key=KEY)


def test_an_image_is_answered_with_bars_and_neighbours(server: Server, visit: Visit) -> None:
    page, image = visit(server), make_image("red", seed=5)
    card, broken, other = look(
        page, upload("a.png", image), upload("broken.png", b"no image"), upload("b.png", make_image("blue", seed=6))
    )
    said = ask(server, image)["predictions"][0]
    says(card, said["label"])
    expect(card.get_by_role("heading", level=3)).to_have_text(headline(said))
    expect(card.locator(".verdict")).to_contain_text(percent(said["probability"]))
    for score in said["top"]:
        row = card.get_by_role("row", name=score["label"])
        cells = [row.get_by_role("cell").nth(i) for i in range(3)]
        for cell, name in zip(cells, ("probability", "network", "cache"), strict=True):
            expect(cell).to_have_text(percent(score[name]))
            drawn = cell.locator(".bar").evaluate("bar => Number(bar.style.getPropertyValue('--share'))")
            assert drawn == pytest.approx(score[name], abs=1e-6)
    tiles = card.get_by_role("list", name="Nearest known images").get_by_role("listitem")
    expect(tiles).to_have_count(6)
    card.get_by_role("button", name="Show all 12").click()
    expect(tiles).to_have_count(12)
    for i, neighbor in enumerate(said["neighbors"]):
        button = tiles.nth(i).get_by_role("button")
        named = (
            f"{neighbor['label']}, similarity {neighbor['similarity']:.3f}, {percent(neighbor['weight'])} of the vote"
        )
        assert str(button.get_attribute("aria-label")).startswith(named)
        assert tiles.nth(i).locator("img").get_attribute("src") == neighbor["thumbnail"]
        decides = said["decisive"] is not None and neighbor["id"] in said["decisive"]["ids"]
        assert tiles.nth(i).locator(".star").is_visible() == decides
    until(lambda: tiles.first.locator("img").evaluate("image => image.naturalWidth") > 0)
    assert said["standing"] is not None
    expect(card.locator(".standing")).to_have_text(said["standing"].capitalize())
    expect(card.get_by_text("Unlike anything I know")).to_have_count(int(said["novelty"]["is_novel"]))
    expect(broken).to_contain_text("broken.png: ")
    says(other, "blue")
    expect(page.locator("#status")).to_contain_text("2 images answered")
    other.get_by_role("button", name="Take b.png off the page").click()
    expect(page.locator(".card")).to_have_count(2)


def test_a_mix_that_was_given_is_not_called_fitted(serve: Serve, root: Path, visit: Visit) -> None:
    page = visit(serve(bundles=root))
    expect(page.locator("#model")).to_contain_text(re.compile("looks at 32 . 32 pixels of each image"))
    expect(page.locator("#model")).to_contain_text("The mix was fitted on 6 images")
    # As after an index with --theta, --lam and --k, and a fit --calibrate.
    manifest = next(root.glob("*/manifest.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"parameters_from": "given"}))
    page = visit(serve(bundles=root))
    expect(page.locator("#model")).to_contain_text("known images of 3 classes")
    expect(page.locator("#model")).not_to_contain_text("fitted")


def test_the_pages_arithmetic_is_the_servers(server: Server, visit: Visit) -> None:
    # With a taught class, whose votes count more.
    for seed in (1, 2):
        files = {"file": ("a.png", striped(seed))}
        taught = httpx.post(f"{server.url}/v1/entries", files=files, data={"label": "striped"}, headers=ADMIN)
        assert taught.status_code == 201
    page, images = visit(server), [make_image("red", seed=5), striped(3), make_image("green", seed=9)]
    for image in images:
        body = ask(server, image, "&votes=500")
        for lam, theta, k in PARAMETERS:
            wanted = ask(server, image, f"&lam={lam}&theta={theta}&k={k}")["predictions"][0]
            got = page.evaluate(
                """async ([body, model, to]) => {
                    const { toAnswer } = await import("/static/answer.js");
                    const { remix } = await import("/static/mix.js");
                    return remix(toAnswer(body.predictions[0], body, model), to);
                }""",
                [body, httpx.get(f"{server.url}/v1/model").json(), {"lam": lam, "theta": theta, "k": k}],
            )
            for score in wanted["top"]:
                assert got["mixed"][score["index"]] == pytest.approx(score["probability"], abs=1e-5)
                assert got["cache"][score["index"]] == pytest.approx(score["cache"], abs=1e-5)
            assert got["shares"] == pytest.approx([one["weight"] for one in wanted["neighbors"]], abs=1e-5)
            decisive = got["decisive"] and {
                "ids": [got["neighbors"][place]["id"] for place in got["decisive"]["places"]],
                "instead": got["classes"][got["decisive"]["instead"]],
            }
            assert decisive == wanted["decisive"]


def test_what_cannot_be_computed_is_said(server: Server, visit: Visit) -> None:
    # Of a cache whose entries all vote, and are more than the page was told.
    page, body = visit(server), ask(server, make_image("red", seed=5), "&k=all&votes=20")
    model = httpx.get(f"{server.url}/v1/model").json()
    said = body["predictions"][0]
    got = page.evaluate(
        """async ([body, model, theta]) => {
            const { toAnswer } = await import("/static/answer.js");
            const { remix } = await import("/static/mix.js");
            const answer = toAnswer(body.predictions[0], body, model);
            return [body.theta, theta].map((each) => remix(answer, { lam: 0.5, theta: each, k: null }));
        }""",
        [body, model, 2 * body["theta"]],
    )
    assert [one["isCut"] for one in got] == [False, True]
    for score in said["top"]:
        mixed = (score["network"] + score["cache"]) / 2
        assert got[0]["mixed"][score["index"]] == pytest.approx(mixed, abs=1e-6)


def test_sliders_mix_anew_as_the_server_would(server: Server, visit: Visit) -> None:
    page, image = visit(server), make_image("red", seed=5)
    (card,) = look(page, upload("a.png", image))
    own = ask(server, image)
    said = own["predictions"][0]
    chance = card.locator(".chance")
    page.locator("#lam").press("Home")
    says(card, said["network"]["label"])
    expect(chance).to_have_text(percent(said["network"]["probability"]))
    page.locator("#lam").press("End")
    says(card, said["cache"]["label"])
    for parts in ((0.0, 0.5, 0.3), (1.0, 0.6, 0.0), (0.35, 0.1, 1.0), (0.8, 0.9, 0.5)):
        lam, theta, k = (slide(page, name, part) for name, part in zip(("lam", "theta", "k"), parts, strict=True))
        wanted = ask(server, image, f"&lam={lam}&theta={theta}&k={k:.0f}")["predictions"][0]
        says(card, wanted["label"])
        expect(chance).to_have_text(percent(wanted["probability"]))
        flipped = wanted["label"] != said["label"]
        expect(card.get_by_text("own mix says")).to_have_count(int(flipped))
        expect(page.locator("#flips")).to_have_text(re.compile("^1 of 1 answer differs" if flipped else "^$"))
    page.get_by_role("button", name="Reset").click()
    expect(chance).to_have_text(percent(said["probability"]))
    expect(page.locator("#lam-value")).to_have_text(f"{own['lam']:.2f}")


def test_without_votes_lam_still_mixes(server: Server, visit: Visit) -> None:
    page, image = visit(server), make_image("red", seed=5)
    # As a server from before votes were told.
    page.route("**/v1/predict*", lambda route: route.continue_(url=route.request.url.replace("&votes=500", "")))
    (card,) = look(page, upload("a.png", image))
    for part in (0.0, 0.25, 1.0):
        lam = slide(page, "lam", part)
        wanted = ask(server, image, f"&lam={lam}")["predictions"][0]
        expect(card.locator(".chance")).to_have_text(percent(wanted["probability"]))


def test_images_are_dropped_and_pasted(server: Server, visit: Visit) -> None:
    page = visit(server)
    give = """([kind, name, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
            : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
        document.querySelector("footer").dispatchEvent(event);
    }"""
    content = list(make_image("green", seed=3))
    page.evaluate(give, ["dragenter", "dropped.png", content])
    expect(page.get_by_text("Drop to look at them")).to_be_visible()
    page.evaluate(give, ["drop", "dropped.png", content])
    expect(page.get_by_text("Drop to look at them")).to_be_hidden()
    says(page.locator(".card"), "green")
    page.evaluate(give, ["paste", "pasted.png", list(make_image("blue", seed=3))])
    for place, label in enumerate(["blue", "green"]):
        says(page.locator(".card").nth(place), label)


def test_keys_for_predictions_are_asked_for(serve: Serve, root: Path, tmp_path: Path, visit: Visit) -> None:
    secret, key = new_key("robot", "predict")
    (tmp_path / "keys.txt").write_text(f"{key.line}\n")
    server = serve(bundles=root, keys_file=tmp_path / "keys.txt")
    page = visit(server)
    page.set_input_files("#files", [upload("a.png", make_image("red", seed=5))])
    dialog = page.get_by_role("dialog", name="A key is needed")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    card = page.locator(".card")
    expect(card).to_contain_text("This call needs a key")
    card.get_by_role("button", name="Try again").click()
    give_key(page, secret)
    says(card, "red")
    # It opens no more than predictions, which is said before anyone types.
    card.get_by_role("button", name=WRONG).click()
    expect(page.get_by_role("dialog", name="What does a.png show?")).to_contain_text("no admin key")
    expect(page.get_by_label("It shows", exact=True)).to_be_hidden()


def test_the_keyboard_is_enough(server: Server, visit: Visit) -> None:
    page = visit(server)

    def go_to(name: str, key: str = "Tab") -> None:
        for _ in range(60):
            page.keyboard.press(key)
            focused = page.evaluate(
                "(document.activeElement.ariaLabel ?? document.activeElement.innerText ?? '').trim()"
            )
            if focused.startswith(name):
                # Where the keyboard is can be seen.
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
                return
        raise AssertionError(f"{name} is not reached")

    # Playwright begins to take file choosers with the first listener, and does not wait until it does.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    go_to("Choose images")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([upload("a.png", make_image("red", seed=5))])
    says(page.locator(".card"), "red")
    go_to("That")
    page.keyboard.press("Enter")
    page.keyboard.type("scarlet")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".note.taught")).to_be_visible()
    # What had the focus was replaced by the new answer, at which the keyboard goes on.
    expect(page.locator(".card h3")).to_be_focused()
    go_to("Undo")
    page.keyboard.press("Enter")
    expect(page.locator(".note.taught")).to_have_count(0)
    expect(page.locator(".card h3")).to_be_focused()
    expect(page.locator("#status")).to_contain_text("1 image answered")
    page.locator(".card .tiles button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#entry-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#entry-dialog")).to_be_hidden()
    expect(page.locator(".card .tiles button").first).to_be_focused()
    go_to("Admin", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Admin")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_anybody(server: Server, visit: Visit, scheme: str) -> None:
    page = visit(server, "#admin", color_scheme=scheme, reduced_motion="reduce")
    expect(page.get_by_role("button", name="Enter the key")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("link", name="Look").click()
    assert violations(page) == []
    first, *_ = look(page, *(upload(f"{i}.png", striped(i)) for i in range(2)))
    page.get_by_role("checkbox", name="Select 0.png").check()
    page.get_by_text("How to read an answer").click()
    slide(page, "lam", 1.0)
    assert violations(page) == []
    first.get_by_role("button", name=WRONG).click()
    page.get_by_label("It shows", exact=True).fill("striped")
    assert violations(page) == []
    page.keyboard.press("Enter")
    expect(page.locator("#key-dialog")).to_be_visible()
    assert violations(page) == []
    give_key(page)
    expect(first.locator(".note.taught")).to_be_visible()
    assert violations(page) == []
    first.get_by_role("list", name="Nearest known images").get_by_role("button").first.click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Admin").click()
    expect(page.locator("#entries li")).to_have_count(24)
    page.get_by_role("button", name="Rebuild", exact=True).click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    assert violations(page) == []
    page.goto(f"{server.url}/docs")
    expect(page.get_by_role("heading", name="Calls")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk(server: Server, visit: Visit, width: int) -> None:
    page = visit(server, viewport={"width": width, "height": 740}, has_touch=width < 500)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    assert page.get_by_role("button", name="Take a photo").is_visible() == (width < 500)
    look(page, upload("a-very-long-name-" + 20 * "of-a-file-" + ".png", striped(1)), upload("b.png", striped(2)))
    assert page.evaluate(fits)
    assert page.get_by_role("button", name="Take a photo").is_visible() == (width < 500)
    assert page.locator("#lam").is_visible() == (width > 500)
    if width < 500:
        page.get_by_text("The mix", exact=True).click()
        assert page.evaluate(fits)
    page.goto(f"{server.url}/#admin")
    page.get_by_role("button", name="Enter the key").click()
    give_key(page)
    expect(page.locator("#entries li")).to_have_count(24)
    assert page.evaluate(fits)


def test_traffic_is_drawn(server: Server, visit: Visit) -> None:
    page = visit(server)
    halfway = page.evaluate(
        """async () => (await import("/static/traffic.js")).median(
            [[1, 5], [2, 5], [4, 5], [Infinity, 5]], [[1, 7], [2, 7], [4, 15], [Infinity, 15]])"""
    )
    assert halfway == 2 + 2 * (5 - 2) / 8
    figures = page.locator("#traffic-figures")
    expect(figures).to_contain_text("Images a second")
    look(page, upload("a.png", make_image("red", seed=5)), upload("b.png", striped(1)))
    expect(figures.locator("dd").nth(1)).to_contain_text(re.compile(r"\d m?s"))
    differ = [
        body["network"]["label"] != body["cache"]["label"]
        for body in (ask(server, c)["predictions"][0] for c in (make_image("red", seed=5), striped(1)))
    ]
    expect(figures.locator("dd").nth(3)).to_have_text(percent(sum(differ) / len(differ)))
    until(lambda: figures.locator("polyline").count() > 0)
