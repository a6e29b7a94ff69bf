"""``secondlook suggest``: photos of any layout in the order in which to label them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from secondlook import cli
from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.root import activate
from secondlook.model.journal import Journal, NewImage
from tests.images_for_tests import make_image, make_shades
from tests.networks_for_tests import colour_backbone, written

Run = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made, network = tmp_path / "bundles", written(colour_backbone(), tmp_path, "backbone")
    activate(made, index(nothing(), made, FromNetwork(str(network)), IndexOptions()))
    return made


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Class folders whose names say nothing, photos beside them, one damaged, one empty, and what is none."""
    folder = make_shades(tmp_path / "pool", per_class=12)
    (folder / "blue").rename(folder / "not sorted")
    (folder / "beside.png").write_bytes(make_image("red", seed=5))
    (folder / "damaged.png").write_bytes(make_image("red")[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments: Any, status: int = 0) -> Result:
    ended = CliRunner().invoke(cli.cli, ["suggest", *map(str, arguments)])
    assert ended.exit_code == status, ended.output + str(ended.exception)
    return ended


def teach(root: Path, photo: Path, label: str) -> None:
    manifest = open_bundle(root, even_empty=True).manifest
    image = NewImage(photo.name, photo.read_bytes(), {}, None)  # type: ignore[arg-type]
    Journal(root).add(label, [image], "a test", known=manifest.classes, most=100, request=None, answer=lambda _: "")


def test_photos_of_any_layout_are_put_in_an_order_with_reasons(root: Path, pool: Path, tmp_path: Path) -> None:
    ended = run(pool, "--bundles", root, "--count", 6, "--similar", 0.9999)
    lines = ended.stdout.splitlines()
    assert [line.partition(". ")[0] for line in lines] == list("123456")
    assert all(": typical of " in line or ": like no other" in line for line in lines)
    colours = {line.split(". ", 1)[1].split("/")[0] for line in lines[:6]}
    assert {"red", "green", "not sorted"} <= colours
    assert "1 damaged (damaged.png), 1 empty (empty.jpg), 1 not an image (notes.txt)" in ended.stderr
    assert "6 of 37 photos" in ended.stderr
    assert "embedded 37 images, 0 were known" in ended.stderr
    again = run(pool, "--bundles", root, "--count", 6, "--similar", 0.9999, "--json", "--out", tmp_path / "next.json")
    assert "embedded 0 images, 37 were known" in again.stderr
    told = json.loads(again.stdout)
    assert told == json.loads((tmp_path / "next.json").read_text())
    assert [f"{place}. {one['file']}: {one['why']}" for place, one in enumerate(told["suggested"], 1)] == lines
    assert (told["photos"], told["known"]) == (37, 0)
    assert told["left_out"] == {"damaged": 1, "empty": 1, "not an image": 1}
    run(pool, "--bundles", root, "--count", 6, "--similar", 0.9999, "--out", tmp_path / "next.csv")
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text("utf-8").splitlines()))
    assert [row["file"] for row in rows] == [one["file"] for one in told["suggested"]]
    assert [row["order"] for row in rows] == list("123456")
    assert [(row["label"], row["or"], row["margin"]) for row in rows] == [("", "", "")] * 6


def test_what_was_taught_is_not_suggested_and_what_it_is_like_waits(root: Path, pool: Path) -> None:
    for colour in ("red", "green"):
        for number in range(3):
            teach(root, pool / colour / f"{number:02d}.png", colour)
    told = json.loads(run(pool, "--bundles", root, "--count", 3, "--similar", 0.9999, "--json").stdout)
    assert told["known"] >= 6
    first = told["suggested"][0]
    assert first["file"].startswith("not sorted/")
    assert "like none that is known" in first["why"]
    assert set(first["labels"]) == {"red", "green"}
    assert {one["file"] for one in told["suggested"]}.isdisjoint(f"red/{number:02d}.png" for number in range(3))
    everything = json.loads(run(pool, "--bundles", root, "--count", 500, "--json").stdout)
    assert len(everything["suggested"]) + everything["known"] + everything["alike"] == 37


def test_a_single_photo_and_the_bundle_of_the_package_do(pool: Path) -> None:
    ended = run(pool / "beside.png", "--json")
    assert [one["file"] for one in json.loads(ended.stdout)["suggested"]] in (["beside.png"], [])
    assert "for photos, give --bundles\n" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ("missing", 2, "'missing' does not exist"),
        ("empty", 1, "empty has no images: give a folder of photos, or a photo"),
        ("damaged", 1, "damaged has no photo that can be read: 1 damaged (a.png)"),
        ("photos --out next.txt", 2, "give a name that ends with .csv or .json"),
        ("photos --out no/such/next.csv", 1, "no/such/next.csv: No such file or directory"),
        ("photos --count 0", 2, "0 is not in the range x>=1"),
        ("photos --similar 1.5", 2, "above 0 and at most 1"),
        ("photos --bundles nowhere", 1, "nowhere"),
        ("photos --generation nonsense", 1, "nonsense"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    tmp_path: Path, arguments: str, status: int, sentence: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, content in (("photos", make_image("red")), ("damaged", make_image("red")[:50])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(content)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("sys.argv", ["secondlook", "suggest", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert (ended.value.code, said.out) == (status, "")
    assert sentence in said.err
    assert sorted(tmp_path.rglob("*")) == before
