"""The whole run on a tiny bundle: what it measures, what it takes up, and what its page shows."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from secondlook.cli import cli
from secondlook.evaluation.paper.report_html import page
from secondlook.evaluation.paper.reproduce import Run
from secondlook.evaluation.paper.steps import QUICK, STEPS, Plan
from secondlook.evaluation.paper.subjects import AS_IS, Subject, from_bundle, from_weights, thinned
from secondlook.indexer.datasets.datasets import load
from secondlook.model.bundles.root import active_generation
from secondlook.model.errors import NetworkError
from secondlook.model.networks.preprocess import CIFAR
from tests.images_for_tests import make_folder

PLAN = replace(
    QUICK,
    cached=None,
    asked=6,
    curves=(4, 3, 12),
    attacked=2,
    white_box=1,
    sizes=(1.0,),
    jacobian=3,
    shifted=4,
    refill=12,
    strengths=(3,),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test images of the tiny network's classes."""
    root = tmp_path_factory.mktemp("photos")
    make_folder(root / "train", per_class=20)
    make_folder(root / "test", per_class=4)
    return root


@pytest.fixture(scope="module")
def subject(tiny_bundle: Path, photos: Path) -> Subject:
    return replace(from_bundle(tiny_bundle, active_generation(tiny_bundle), str(photos)), name="tiny")


@pytest.fixture(scope="module")
def done(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of every step on the bundle as it is."""
    out = tmp_path_factory.mktemp("report") / "run"
    run = Run(out, PLAN, None, "secondlook reproduce --out <b>", quick=True, recipes=(AS_IS,))
    report = run.measure([subject])
    assert report.failed == []
    return out


def again(out: Path, subject: Subject, seen: list[str], plan: Plan = PLAN) -> Run:
    def progress(stage: str, done: int, total: int) -> None:
        seen.append(stage)

    run = Run(out, plan, None, "again", quick=True, recipes=(AS_IS,), progress=progress)
    run.measure([subject])
    return run


class Outside(HTMLParser):
    """Whatever a page would fetch or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(tag)


def test_the_report_holds_every_step_and_is_whole_in_itself(done: Path) -> None:
    told = json.loads((done / "report.json").read_text())
    assert [measured["step"] for measured in told["measured"]] == list(STEPS)
    assert told["finished"]
    assert len(told["built"][0]["keys_sha256"]) == 64
    text = (done / "report.html").read_text()
    outside = Outside()
    outside.feed(text)
    assert outside.found == []
    assert len(outside.ids) == len(set(outside.ids))
    assert not re.search(r"url\((?!#|data:)", text)
    assert "--out &lt;b&gt;" in text
    for measured in told["measured"]:
        for claim in measured["claims"]:
            assert claim["text"].replace("'", "&#x27;") in text


def test_a_run_takes_up_what_is_there(done: Path, subject: Subject, tmp_path: Path) -> None:
    out = shutil.copytree(done, tmp_path / "copy")
    seen: list[str] = []
    run = again(out, subject, seen)
    assert all("taken up" in stage for stage in seen)
    assert [m.step for m in run.report.measured] == list(STEPS)
    before, after = (json.loads((folder / "report.json").read_text()) for folder in (done, out))
    assert [m["result"] for m in before["measured"]] == [m["result"] for m in after["measured"]]


def test_what_is_not_whole_or_of_other_amounts_is_measured_again(done: Path, subject: Subject, tmp_path: Path) -> None:
    out = shutil.copytree(done, tmp_path / "copy")
    (errors,), (shift,) = out.glob("steps/*/*-errors.json"), out.glob("steps/*/*-shift.json")
    whole = errors.read_text()
    errors.write_text(whole[: len(whole) // 2])
    shift.unlink()
    seen: list[str] = []
    report = again(out, subject, seen, replace(PLAN, jacobian=2)).report
    assert {stage.split(", ")[2].partition(":")[0] for stage in seen if "taken up" not in stage} == {
        "errors",
        "shift",
        "jacobian",
    }
    results = {m.step: m.result for m in report.measured}
    assert results["errors"] == json.loads(whole)["result"]
    assert results["jacobian"]["count"] == 2
    assert shift.is_file()


@pytest.mark.soak  # a cache of the paper's keys takes ten seconds
def test_a_recipe_is_built_measured_and_removed_and_what_fails_is_told(subject: Subject, tmp_path: Path) -> None:
    # The compact recipe wants 256 numbers of 54 images, the paper's takes what there is.
    run = Run(tmp_path, replace(PLAN, cached=40), None, "", quick=True, steps=("errors",), recipes=("paper", "compact"))
    report = run.measure([replace(subject, bundle=None)])
    assert [(built.recipe, built.entries, built.dim) for built in report.built] == [("paper", 40, 12288)]
    assert [(m.recipe, m.step) for m in report.measured] == [("paper", "errors")]
    assert len(report.failed) == 1
    assert "compact" in report.failed[0]
    assert "reduce" in report.failed[0]
    assert not list((tmp_path / "bundles").glob("*-paper"))
    assert "Could not be measured" in (tmp_path / "report.html").read_text()
    assert page(report).count("paper recipe") >= 1


def test_a_part_of_a_dataset_keeps_its_classes_and_holdout(colour_folder: Path) -> None:
    whole = load(str(colour_folder))
    part = thinned(whole, 30)
    assert np.bincount(part.labels).tolist() == [10, 10, 10]
    held = {part.source(int(i)) for i in part.holdout()}
    assert held
    assert held <= {whole.source(int(i)) for i in whole.holdout()}
    assert part.content_hash() != whole.content_hash()
    assert part.content_hash() != thinned(whole, 29).content_hash()
    of_whole = [whole.source(i) for i in range(len(whole.labels))].index(part.source(7))
    np.testing.assert_array_equal(part.read(7, CIFAR.geometry), whole.read(of_whole, CIFAR.geometry))
    assert thinned(whole, None) is whole


def test_a_folder_without_the_authors_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.h5").touch()
    with pytest.raises(NetworkError, match="has none of cifar10_ResNet20"):
        from_weights([tmp_path], tmp_path / "out", None)
    with pytest.raises(NetworkError, match="--dataset"):
        from_weights([tmp_path / "other.h5"], tmp_path / "out", None)


def test_the_command_says_what_could_not_be_measured(
    tiny_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bundle as it is needs none of its images in memory, an index does.
    monkeypatch.setattr("secondlook.model.memory.available_bytes", lambda: 100_000)
    asked = ["reproduce", "--bundles", tiny_bundle, "--dataset", photos, "--out", tmp_path / "out", "--only", "errors"]
    done = CliRunner().invoke(cli, [*map(str, asked), "--recipe", "as-is", "--recipe", "compact"])
    assert done.exit_code == 1
    assert "compact: a cache of 120 entries of 118 numbers needs" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "out" / "report.html")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "the bundle as it is: " in text
    assert "The mixture errs less than the network" in text
