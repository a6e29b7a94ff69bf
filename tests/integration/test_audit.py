"""``secondlook audit`` on a real bundle."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from secondlook.cli import cli
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import active_generation
from secondlook.model.journal import Correction, Journal, NewImage
from secondlook.model.stores.added_keys import added_id
from tests.images_for_tests import make_image


def run(bundles: Path, *arguments: str, command: tuple[str, ...] = ("audit",)) -> Result:
    return CliRunner().invoke(cli, [*command, "--bundles", str(bundles), *arguments], catch_exceptions=False)


def planted(bundles: Path, *arguments: str) -> Result:
    return run(bundles, *arguments, command=("study", "planted"))


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path, tiny_bundle: Path) -> Path:
    """A bundle, mirrored copies and thumbnails in it, of images one of which lies in the wrong folder."""
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.embedding.encoders import FromBundle
    from secondlook.indexer.index import IndexOptions, index
    from secondlook.model.bundles.root import activate

    place = tmp_path_factory.mktemp("mislabelled")
    shutil.copytree(colour_folder, place / "colours")
    (place / "colours" / "red" / "007.png").rename(place / "colours" / "blue" / "wrong.png")
    shutil.copytree(tiny_bundle, place / "bundles")
    dataset = load(str(place / "colours"))
    generation = index(dataset, place / "bundles", FromBundle(place / "bundles"), IndexOptions(mirror=True))
    activate(place / "bundles", generation)
    return place / "bundles"


def test_an_image_in_the_wrong_folder_is_found_and_shown(mislabelled: Path, tmp_path: Path) -> None:
    ended = run(mislabelled, "--k", "10", "--json", "--out", str(tmp_path / "out"))
    assert ended.exit_code == 0
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["images"], told["entries"], told["k"]) == (60, 120, 10)
    first = told["suspects"]["listed"][0]
    assert (first["source"], first["given"], first["suggested"]) == ("blue/wrong.png", "blue", "red")
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == told
    rows = list(csv.DictReader((tmp_path / "out" / "suspects.csv").read_text().splitlines()))
    assert rows[0]["source"] == "blue/wrong.png"
    assert len(rows) == told["suspects"]["count"]
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.width > 128


def decide(bundles: Path, path: Path, rows: list[dict[str, str]], *arguments: str) -> Result:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            lines = csv.DictWriter(file, list(rows[0]))
            lines.writeheader()
            lines.writerows(rows)
    return CliRunner().invoke(cli, ["audit", "--bundles", str(bundles), "--fix", str(path), *arguments])


@pytest.fixture
def audited(mislabelled: Path, tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    """A root of one's own, and the rows of its suspects, of which the first has the wrong label."""
    bundles = Path(shutil.copytree(mislabelled, tmp_path / "bundles"))
    assert run(bundles, "--k", "10", "--out", str(tmp_path / "out")).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "out" / "suspects.csv").read_text().splitlines()))
    others = [
        {"source": source, "given": "red", "suggested": "green", "decision": "", "label": ""}
        for source in ("red/000.png", "red/001.png", "red/002.png")
    ]
    return bundles, [{name: rows[0][name] for name in others[0]}, *others]


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_decisions_in_a_file_are_taken_in_once(
    audited: tuple[Path, list[dict[str, str]]], tmp_path: Path, ending: str
) -> None:
    bundles, rows = audited
    rows[0]["decision"], rows[1]["decision"], rows[2]["decision"] = "relabel", " Right ", "remove"
    file = tmp_path / f"decided{ending}"
    ended = decide(bundles, file, rows, "--as", "carol")
    assert ended.exit_code == 0, ended.output
    said = "1 right as they are, 1 relabelled, 1 removed; 0 were so already, 1 are not decided"
    assert ended.stdout.strip() == said
    journal, name = Journal(bundles), read_manifest(bundles, active_generation(bundles)).dataset.name
    assert journal.confirmations.of(name) == {"red/000.png": "red"}
    assert set(journal.since(0).corrections) == {
        Correction(name, "blue/wrong.png", "red"),
        Correction(name, "red/001.png", None),
    }
    assert {change.key for change in journal.changes()} == {"carol"}
    again = json.loads(decide(bundles, file, rows, "--json").stdout)
    assert (again["already"], again["confirmed"], again["relabelled"], again["removed"]) == (3, 0, 0, 0)
    assert journal.newest() == 3
    told = json.loads(run(bundles, "--k", "10", "--json").stdout.splitlines()[-1])
    assert (told["images"], told["entries"], told["change"]) == (59, 118, 3)
    assert "blue/wrong.png" not in {one["source"] for one in told["suspects"]["listed"]}


def test_a_label_of_ones_own_may_be_new(audited: tuple[Path, list[dict[str, str]]], tmp_path: Path) -> None:
    bundles, rows = audited
    rows[0] |= {"decision": "relabel", "label": "violet"}
    assert decide(bundles, tmp_path / "decided.csv", rows).exit_code == 0
    assert Journal(bundles).since(0).corrections[0].label == "violet"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"decision": "yes"}, "line 3: decision is 'yes': write right, relabel, remove"),
        ({"label": "red"}, "line 3: it has a label and no decision"),
        ({"decision": "remove", "label": "red"}, "line 3: it has a label, and is to be remove"),
        ({"decision": "right", "source": "red/none.png"}, "line 3: there is no image red/none.png in generation"),
        ({"decision": "right", "source": "taught:7"}, "line 3: there is no image taught:7"),
        ({"decision": "right", "source": ""}, "line 3: it has no source"),
        ({"decision": "relabel", "suggested": ""}, "line 3: it does not say what the image shows"),
        ({"decision": "relabel", "label": "RED"}, "differs from red only in how it is written"),
        ({"decision": "relabel", "label": "a" * 200}, "label: it has 200 characters"),
        ({"decision": "right", "source": "blue/wrong.png", "given": "blue"}, "line 3: blue/wrong.png is decided other"),
    ],
)
def test_a_file_with_a_wrong_row_changes_nothing(
    audited: tuple[Path, list[dict[str, str]]], tmp_path: Path, row: dict[str, str], why: str
) -> None:
    bundles, rows = audited
    rows[0]["decision"] = "relabel"
    rows[1] |= row
    ended = decide(bundles, tmp_path / "decided.csv", rows)
    assert ended.exit_code == 1
    assert why in str(ended.exception)
    assert Journal(bundles).newest() == 0


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"", "has no columns source, given and decision"),
        ("a.csv", b"id,source\n1,a.png\n", "has no columns"),
        ("a.csv", b"\xff\xfe\x00", "is not text in UTF-8"),
        ("a.csv", b'source,given,decision\n"a' + b"a" * 200_000, "a.csv, line"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"{}", "has no list of suspects"),
        ("a.json", b"[1]", "item 1: it is no object"),
        ("a.txt", b"", "the ending says how it is written"),
    ],
)
def test_what_is_no_list_of_suspects_is_refused(
    mislabelled: Path, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    ended = CliRunner().invoke(cli, ["audit", "--bundles", str(mislabelled), "--fix", str(tmp_path / name)])
    assert ended.exit_code == 1
    assert why in str(ended.exception)


def test_a_spreadsheet_that_writes_semicolons_is_read(
    audited: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    bundles, rows = audited
    rows[0]["decision"] = "relabel"
    lines = [";".join(rows[0]), *(";".join(row.values()) for row in rows)]
    (tmp_path / "a.csv").write_text("\ufeff" + "\r\n".join(lines))
    ended = run(bundles, "--fix", str(tmp_path / "a.csv"), "--json")
    assert json.loads(ended.stdout)["relabelled"] == 1


def test_what_somebody_decided_meanwhile_is_left_as_it_is(
    audited: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    bundles, rows = audited
    journal, name = Journal(bundles), read_manifest(bundles, active_generation(bundles)).dataset.name
    journal.correct(name, "blue/wrong.png", "green", "bob", own="blue")
    rows[0]["decision"] = rows[1]["decision"] = "remove"
    ended = decide(bundles, tmp_path / "decided.csv", rows)
    assert ended.exit_code == 0
    assert "left as it is: decided.csv, line 2: blue/wrong.png is green by now, and was blue" in ended.stderr
    assert "1 removed; 0 were so already, 2 are not decided, 1 were changed since" in ended.stdout
    assert journal.since(0).corrections[0].label == "green"


def test_the_default_bundle_cannot_be_fixed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("source,given,decision\n")
    ended = CliRunner().invoke(cli, ["audit", "--fix", str(tmp_path / "a.csv")])
    assert ended.exit_code == 2
    assert "--bundles" in ended.stderr


def test_taught_images_are_audited_decided_and_shown(mislabelled: Path, tmp_path: Path) -> None:
    bundles = Path(shutil.copytree(mislabelled, tmp_path / "bundles"))
    journal = Journal(bundles)
    journal.add("red", [NewImage("", make_image("green", (40, 36), seed=5))], "alice")  # without keys, as imported
    arguments = ("--k", "10", "--json", "--out", str(tmp_path / "out"))
    told = json.loads(run(bundles, *arguments).stdout.splitlines()[-1])
    taught = next(one for one in told["suspects"]["listed"] if one["source"] == "taught:1")
    assert (taught["given"], taught["suggested"], taught["id"]) == ("red", "green", added_id(1))
    assert len(taught["neighbors"]) == 8
    assert told["entries"] == 122
    rows = [{name: str(taught[name]) for name in ("source", "given", "suggested", "decision", "label")}]
    rows[0]["decision"] = "right"
    assert decide(bundles, tmp_path / "a.csv", rows).exit_code == 0
    told = json.loads(run(bundles, *arguments).stdout.splitlines()[-1])
    assert "taught:1" not in {one["source"] for one in told["suspects"]["listed"]}
    assert told["suspects"]["confirmed"] == 1
    rows[0]["decision"] = "relabel"
    assert decide(bundles, tmp_path / "a.csv", rows).exit_code == 0
    assert journal.image(1) is not None
    assert journal.since(0).images[0].label == "green"


def test_tables_name_what_was_found_and_keep_to_the_limit(mislabelled: Path) -> None:
    ended = run(mislabelled, "--k", "3", "--similar", "0.5", "--limit", "2")
    assert ended.exit_code == 0
    for part in ("labels that neighbours doubt", "blue/wrong.png", "of one class", "the first 2", "unused"):
        assert part in ended.stdout


def test_planting_proves_the_audit_without_touching_the_bundle(mislabelled: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in mislabelled.rglob("*") if path.is_file()}
    arguments = ("--seeds", "2", "--k", "10", "--json")
    ended = planted(mislabelled, "--share", "0.1", *arguments, "--out", str(tmp_path))
    assert ended.exit_code == 0
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["planted"] == 6
    assert told["average_precision"]["value"] > 0.8
    assert len(told["curve"]) == 100
    assert json.loads((tmp_path / "planted.json").read_text()) == told
    assert (tmp_path / "planted.png").read_bytes().startswith(b"\x89PNG")
    assert before == {path: path.read_bytes() for path in mislabelled.rglob("*") if path.is_file()}
    by_its_old_name = run(mislabelled, "--plant", "0.1", *arguments)
    assert "`secondlook study planted`" in by_its_old_name.stderr
    assert json.loads(by_its_old_name.stdout) == told


def test_the_holdout_alone_can_be_ranked(mislabelled: Path) -> None:
    ended = planted(
        mislabelled,
        "--share",
        "0.5",
        "--seeds",
        "1",
        "--holdout",
        "--json",
        "--dataset",
        str(mislabelled.parent / "colours"),
    )
    assert ended.exit_code == 0
    assert json.loads(ended.stdout.splitlines()[-1])["images"] == 6
    assert run(mislabelled, "--holdout").exit_code == 2
