"""A taught picture is answered with its label at once, over HTTP and by the command, until somebody says otherwise."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from secondlook.cli import cli
from secondlook.evaluation.studies.same_picture import COPIES, same_picture
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import replayed
from secondlook.model.answering.predictor import Answer, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import FOLDED_KEYS
from secondlook.model.bundles.root import activate
from secondlook.model.journal import Journal, NewImage
from tests.images_for_tests import make_folder, make_image
from tests.service_for_tests import ADMIN, KEY, Call, copy_root, create_app, files, serving, settings

PICTURE = make_image("red", seed=4321)


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_root(tiny_bundle, tmp_path / "bundles")


@pytest.fixture
def call(root: Path) -> Iterator[Call]:
    with serving(create_app(settings(bundles=root, admin_key=KEY))) as call:
        yield call


def teach(call: Call, label: str, content: bytes) -> int:
    taught = call("POST", "/v1/entries", files=files(("a.png", content)), data={"label": label}, headers=ADMIN)
    assert taught.status_code == 201, taught.text
    entry: int = taught.json()["entries"][0]["id"]
    return entry


def look(call: Call, content: bytes = PICTURE, query: str = "neighbors=3&coverage=0.9") -> Any:
    return call("POST", f"/v1/predict?{query}", files=files(("a.png", content))).json()["predictions"][0]


def test_a_taught_picture_has_its_label_until_it_has_another(call: Call) -> None:
    before = look(call)
    assert before["same_as"] is None
    entry = teach(call, "blue", PICTURE)
    said = look(call)
    assert (said["label"], said["same_as"], said["probability"], said["standing"]) == ("blue", entry, 1.0, "known")
    assert [item["probability"] for item in said["top"]] == [1.0, 0.0, 0.0]
    # What network and cache say is told as it is.
    assert said["network"] == before["network"]
    assert said["decisive"] == {"ids": [entry], "instead": before["label"]}
    newer = teach(call, "green", PICTURE)
    assert (look(call)["label"], look(call)["same_as"]) == ("green", newer)
    call("PATCH", f"/v1/entries/{newer}", json={"label": "crimson"}, headers=ADMIN)
    assert (look(call)["label"], look(call)["same_as"]) == ("crimson", newer)
    assert call("DELETE", f"/v1/entries/{newer}", headers=ADMIN).status_code == 204
    assert look(call)["label"] == "blue"
    call("DELETE", f"/v1/entries/{entry}", headers=ADMIN)
    assert look(call) | {"neighbors": []} == before | {"neighbors": []}


def test_a_picture_in_other_bytes_is_the_same(call: Call) -> None:
    entry = teach(call, "blue", PICTURE)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(PICTURE)).save(buffer, "WebP", lossless=True)
    assert look(call, buffer.getvalue())["same_as"] == entry


def test_where_a_call_gives_parameters_the_formula_answers(call: Call) -> None:
    teach(call, "blue", PICTURE)
    model = call("GET", "/v1/model").json()
    for query in (f"lam={model['lam']}", f"theta={model['theta']}", f"k={model['k']}", "lam=0", "k=all"):
        said = look(call, query=query)
        assert said["same_as"] is None
        by_class = {item["label"]: item for item in said["top"]}
        lam = 0.0 if query == "lam=0" else model["lam"]
        for item in by_class.values():
            assert item["probability"] == pytest.approx((1 - lam) * item["network"] + lam * item["cache"], abs=1e-5)


def test_images_of_one_batch_are_told_apart(call: Call) -> None:
    entry = teach(call, "blue", PICTURE)
    others = [make_image("green", seed=9), PICTURE, make_image("blue", seed=8)]
    sent = files(*((f"{i}.png", content) for i, content in enumerate(others)))
    said = call("POST", "/v1/predict", files=sent).json()["predictions"]
    assert said[1]["same_as"] == entry
    assert said[0]["top"] == look(call, others[0])["top"]


@pytest.mark.parametrize("store", ["Flat", "SQ4", "IVF1,SQ4"])
def test_it_stays_so_when_it_is_folded_in(store: str, root: Path, colour_folder: Path) -> None:
    journal = Journal(root)
    journal.add("blue", [NewImage("a.png", PICTURE, {})], "tests", known=("blue", "green", "red"), most=10)
    dataset = fold(load(str(colour_folder)), journal)
    generation = index(dataset, root, FromBundle(root), IndexOptions(store=store))
    activate(root, generation)
    bundle = open_bundle(root)
    assert (FOLDED_KEYS in bundle.manifest.files) == (store != "Flat")
    predictor = Predictor(bundle, replayed(Overlay(bundle), journal))
    assert not predictor.overlay.added.count
    pixels = np.asarray(Image.open(io.BytesIO(PICTURE)))
    (answer,) = predictor.predict(pixels[None], [predictor.defaults])
    assert isinstance(answer, Answer)
    assert answer.same_as is not None
    assert predictor.classes[int(answer.mixed.argmax())] == "blue"
    entry = predictor.overlay.entry(answer.same_as)
    assert entry is not None
    assert entry.source.startswith("taught:")


def test_the_command_says_so_first(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    journal = Journal(root)
    journal.add("blue", [NewImage("a.png", PICTURE, {})], "tests", known=("blue", "green", "red"), most=10)

    def said(*options: str) -> str:
        run = CliRunner().invoke(cli, ["classify", str(path), "--bundles", str(root), *options])
        assert run.exit_code == 0, run.output
        return run.output

    assert said().startswith(f"{path}: known: blue 1.00 (")
    assert "the same picture as entry " in said()
    told = json.loads(said("--json"))
    assert list(told)[:3] == ["file", "generation", "standing"]
    assert (told["standing"], told["same_as"] is not None) == ("known", True)
    header, row = said("--csv").splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert (cells["standing"], cells["label"], cells["same_as"]) == ("known", "blue", str(told["same_as"]))
    assert json.loads(said("--json", "--lam", "0.5"))["same_as"] is None


def test_the_study_teaches_pictures_and_asks_about_copies(tiny_bundle: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "colours", per_class=6)
    found = same_picture(open_bundle(tiny_bundle), load(str(tmp_path / "colours"), "test"))
    assert found.images == found.alone == 9
    assert found.copies["the same"] == (9, 9)
    assert set(found.copies) == set(COPIES)
    (table,) = found.tables()
    assert len(table.rows) == len(COPIES) + 2
    json.dumps(found.as_dict())
    options = ["--bundles", str(tiny_bundle), "--json"]
    run = CliRunner().invoke(cli, ["study", "same-picture", str(tmp_path / "colours"), *options])
    assert run.exit_code == 0, run.output
    assert json.loads(run.output.splitlines()[-1])["alone"] == 9
