"""A network without a head, as people meet it: a server, its client, commands and the page."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secondlook.client import Client, Opinion, ProblemError
from tests.e2e.conftest import KEY, Server
from tests.heads_for_tests import COLOURS, headless_root, partial_root, png, write_colours

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("datasets") / "five")


@pytest.fixture
def root(tmp_path: Path, folder: Path) -> Path:
    return headless_root(tmp_path / "bundles", folder)


@pytest.fixture
def server(serve: Serve, root: Path, folder: Path) -> Server:
    return serve(bundles=root, data=folder.parent, admin_key=KEY)


def run(*arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "secondlook", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stderr
    return done


def counted(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    (value,) = re.findall(rf"^{name}(?:_total)? ([0-9.e+]+)$", text, re.MULTILINE)
    return float(value)


def test_answers_say_nothing_of_a_network(server: Server, folder: Path) -> None:
    with Client(server.url, KEY) as client:
        model = client.model()
        assert (model.head, model.network_classes, model.dataset_classes, model.lam) == ("none", 0, 5, 1.0)
        for colour in COLOURS:
            said = client.predict(png(colour, 66_666), neighbors=5, votes=20, coverage=0.6)
            assert (said.label, said.network) == (colour, None)
            assert {score.network for score in said.top} == {None}
            assert isinstance(said.cache, Opinion)
            assert said.probability == pytest.approx(said.cache.probability)
            assert said.standing is not None
            assert said.credibility is not None
            assert said.novelty is not None
            assert said.votes is not None
        same = client.predict((folder / "red" / "00.png").read_bytes())
        assert (same.label, same.probability) == ("red", 1.0)
        assert same.same_as is not None
        assert client.predict(png("red", 1), lam=1.0).label == "red"
        with pytest.raises(ProblemError, match=r"lam is 1 here, not 0\.3: the network has no head") as refused:
            client.predict(png("red", 1), lam=0.3)
        assert (refused.value.status, refused.value.slug) == (422, "invalid-parameter")
    told = json.loads(run("classify", folder / "red", "--server", server.url, "--json").stdout.splitlines()[0])
    assert (told["network"], told["cache"]["label"], told["mixed"]["label"]) == (None, "red", "red")
    assert counted(server, "secondlook_answers_differing") == 0
    assert counted(server, "secondlook_answers_without_cache") == 0


def test_taught_rebuilt_and_emptied(server: Server, folder: Path) -> None:
    admin = {"Authorization": f"Bearer {KEY}"}
    with Client(server.url, KEY) as client:
        taught = client.teach([png("green", 900 + i) for i in range(3)], "teal")
        assert taught.is_new_class
        model = client.model()
        assert (model.classes, model.network_classes, model.dataset_classes) == ([*COLOURS, "teal"], 0, 5)
        assert model.class_weights[5] > 1
        assert client.predict(png("green", 901)).label == "teal"
        weights = model.class_weights
        client.wait(client.rebuild(dataset=folder.name))
        rebuilt = client.model()
        assert rebuilt.generation != model.generation
        assert (rebuilt.classes, rebuilt.head, rebuilt.dataset_classes) == ([*COLOURS, "teal"], "none", 5)
        assert rebuilt.class_weights == pytest.approx(weights, rel=0.1)
    for entry in httpx.get(f"{server.url}/v1/entries?limit=200", headers=admin).json()["entries"]:
        httpx.delete(f"{server.url}/v1/entries/{entry['id']}", headers=admin).raise_for_status()
    with Client(server.url, KEY) as client:
        with pytest.raises(ProblemError, match="nothing is known yet"):
            client.predict(png("red", 5))
        assert client.teach([png("red", 5)], "red").entries
        assert client.predict(png("red", 6)).label == "red"


@pytest.mark.slow
def test_commands_say_nothing_of_a_network(root: Path, folder: Path, tmp_path: Path) -> None:
    others = write_colours(tmp_path / "others", 6, seed=4, names=("violet", "red"))
    image = tmp_path / "red.png"
    image.write_bytes(png("red", 12_345))
    here = ("--bundles", root)
    text = run("classify", image, *here).stdout
    assert re.search(r"red\.png: \w+: red [0-9.]+ \(cache red [0-9.]+, credibility", text), text
    told = json.loads(run("classify", image, *here, "--json").stdout)
    assert told["network"] is None
    assert told["cache"]["label"] == told["mixed"]["label"] == "red"
    (row,) = csv.DictReader(io.StringIO(run("classify", image, *here, "--csv").stdout))
    assert (row["network"], row["network_probability"], row["cache"]) == ("", "", "red")
    assert "the network has no head" in run("classify", image, *here, "--lam", "0.2", status=2).stderr
    shown = json.loads(run("bundles", "show", *here).stdout)
    assert (shown["head"], shown["network"]["classes"], shown["calibration"]["ece_percent_network"]) == (
        "none",
        0,
        None,
    )
    measured = json.loads(run("evaluate", others, *here, "--json").stdout)
    assert measured["network"] is None
    assert measured["mixed"]["error_percent"] < 50
    table = run("evaluate", others, *here).stdout
    assert "network" not in table.split("theta")[0].replace("network's", "")
    fitted = run("fit", folder, *here)
    assert "the network has no head" in fitted.stdout + fitted.stderr
    calibrated = run("fit", folder, *here, "--calibrate")
    assert "ECE of mixture" in calibrated.stdout + calibrated.stderr
    refused = run("study", "shift", others, *here, status=1).stderr
    assert "a shift is measured against the network" in refused
    refused = run("attack", others, *here, "--out", tmp_path / "attack", status=1).stderr
    assert "--network" in refused


def test_the_page_shows_neither_bar_nor_slider_of_a_network(server: Server, visit: Callable[..., object]) -> None:
    pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    from playwright.sync_api import Page, expect

    from tests.e2e.page import ask, look, percent, slide, upload, violations

    page = visit(server)
    assert isinstance(page, Page)
    expect(page.locator("#model")).to_contain_text(re.compile(r"The vote was fitted on \d+ images"))
    expect(page.locator("#model")).not_to_contain_text("taught")
    expect(page.locator(".pitch")).not_to_contain_text("network says", use_inner_text=True)
    image = png("violet", 31)
    (card,) = look(page, upload("a.png", image))
    expect(page.locator("#lam")).to_be_hidden()
    expect(page.locator("#theta")).to_be_visible()
    expect(page.locator("#mix-now")).not_to_contain_text("lam")
    expect(page.get_by_text("Network and cache differ")).to_have_count(0)
    said = ask(server, image)["predictions"][0]
    assert [cell.inner_text() for cell in card.locator(".opinions thead th").all()] == ["mixture", "cache"]
    for score in said["top"]:
        row = card.get_by_role("row", name=score["label"])
        if row.count():
            expect(row.get_by_role("cell").nth(0)).to_have_text(percent(score["probability"]))
            expect(row.get_by_role("cell").nth(1)).to_have_text(percent(score["cache"]))
    expect(card).not_to_contain_text("Network says")
    theta = slide(page, "theta", 0.2)
    other = ask(server, image, f"&theta={theta}")["predictions"][0]
    expect(card.locator(".chance")).to_have_text(percent(other["probability"]))
    page.get_by_role("button", name="Reset to the model").click()
    expect(page.locator("#theta")).to_be_focused()
    assert violations(page) == []


def test_the_page_says_how_many_classes_the_network_knows(
    serve: Serve, visit: Callable[..., object], tmp_path: Path, folder: Path
) -> None:
    pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    from playwright.sync_api import Page, expect

    from tests.e2e.page import look, upload

    page = visit(serve(bundles=partial_root(tmp_path / "partial", folder)))
    assert isinstance(page, Page)
    expect(page.locator("#model")).to_contain_text("The network knows the first 3 of them.")
    expect(page.locator("#model")).not_to_contain_text("taught")
    (card,) = look(page, upload("a.png", png("violet", 31)))
    expect(page.locator("#lam")).to_be_visible()
    assert [cell.inner_text() for cell in card.locator(".opinions thead th").all()] == ["mixture", "network", "cache"]
