"""``secondlook embed``: keys of photos in folders of any layout, and their nearest entries."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import secondlook
from secondlook import cli
from secondlook.commands.embed import embed
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.journal import Journal
from secondlook.model.networks.engines import OnnxEngine
from tests.images_for_tests import make_folder, make_image
from tests.networks_for_tests import SIDE, backbone, colour_classifier, written


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all layouts at once: photos in it, in class folders, in splits, deeper; and what is no photo."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for place, name in enumerate(
        ("flat.png", "red/0.png", "train/green/1.jpg", "deep/er/still/2.png", "no-ending", "red/ünï cödé.png")
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        colour = ("red", "green", "blue")[place % 3]
        (root / name).write_bytes(make_image(colour, (50, 40), "JPEG" if name.endswith("jpg") else "PNG", seed=place))
    (root / "red" / "damaged.png").write_bytes(make_image("red")[:60])
    (root / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no photo")
    (root / ".hidden.png").write_bytes(make_image("red"))
    return root


NAMES = ["deep/er/still/2.png", "flat.png", "no-ending", "red/0.png", "red/ünï cödé.png", "train/green/1.jpg"]
LEFT_OUT = {"damaged": 1, "empty": 1, "not an image": 1, "hidden or system": 1}


def run(*arguments: object, status: int = 0) -> Result:
    ended = CliRunner().invoke(embed, [str(one) for one in arguments], catch_exceptions=False)
    assert ended.exit_code == status, ended.output
    return ended


def keys_of(root: Path | None, photos: Path) -> np.ndarray[Any, Any]:
    found = secondlook.open(root).embed([photos / name for name in NAMES])
    return np.stack([np.asarray(one.embedding) for one in found if isinstance(one, secondlook.Embedding)])


def test_every_ending_has_the_same_keys_of_every_layout(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    expected = keys_of(root, photos)
    for ending in ("npy", "csv", "json", "NPY"):
        ended = run(photos, "--bundles", root, "--out", tmp_path / f"keys.{ending}")
        assert "left out: 1 damaged (red/damaged.png), 1 empty (empty.jpg)" in ended.stderr
        assert ended.stdout == ""
    dim = expected.shape[1]
    keys = np.load(tmp_path / "keys.npy")
    assert (keys.dtype, keys.shape) == (np.float32, (len(NAMES), dim))
    np.testing.assert_allclose(keys, expected, atol=1e-5)
    beside = json.loads((tmp_path / "keys.files.json").read_text())
    assert beside["files"] == NAMES
    assert (beside["dim"], beside["left_out"]) == (dim, LEFT_OUT)
    assert beside["generation"] == secondlook.open(root).generation

    header, *rows = csv.reader((tmp_path / "keys.csv").read_text("utf-8").splitlines())
    assert header == ["file", *map(str, range(dim))]
    assert [row[0] for row in rows] == NAMES
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), keys)

    document = json.loads((tmp_path / "keys.json").read_text())
    assert {name: document[name] for name in ("generation", "dim", "left_out")} == {
        name: beside[name] for name in ("generation", "dim", "left_out")
    }
    assert [one["file"] for one in document["embeddings"]] == NAMES
    told = np.array([one["embedding"] for one in document["embeddings"]], np.float32)
    np.testing.assert_array_equal(told, keys)
    np.testing.assert_array_equal(np.load(tmp_path / "keys.NPY"), keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("bundles", "keys.NPY", "keys.csv", "keys.files.json", "keys.json", "keys.npy")
    ]


def test_a_single_photo_has_a_key_too(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    run(photos / "flat.png", "--bundles", root, "--out", tmp_path / "one.npy")
    assert np.load(tmp_path / "one.npy").shape[0] == 1
    assert json.loads((tmp_path / "one.files.json").read_text())["files"] == ["flat.png"]


def test_the_nearest_entries_are_told_taught_ones_among_them(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    expected = secondlook.open(root).search([photos / name for name in NAMES], k=3)
    ended = run(photos, "--bundles", root, "--neighbors", 3, "--json")
    *lines, last = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["file"] for line in lines] == NAMES
    for line, one in zip(lines, expected, strict=True):
        assert isinstance(one, secondlook.Nearest)
        assert [near["id"] for near in line["neighbors"]] == [near.id for near in one.neighbors]
    assert (last["embedded"], last["left_out"]) == (len(NAMES), LEFT_OUT)
    people = run(photos, "--bundles", root, "--neighbors", 1, "--out", tmp_path / "keys.npy").stdout.splitlines()
    first = expected[1].neighbors[0]  # type: ignore[union-attr]
    assert people[1] == f"flat.png: {first.label} {first.similarity:.3f} ({first.source})"
    assert np.load(tmp_path / "keys.npy").shape[0] == len(NAMES)

    with_key(root, photos / "flat.png", "stripes")
    (near,) = json.loads(run(photos / "flat.png", "--bundles", root, "--neighbors", 1, "--json").stdout.split("\n")[0])[
        "neighbors"
    ]
    assert (near["label"], near["taught"]) == ("stripes", True)


def with_key(root: Path, photo: Path, label: str) -> None:
    """Teach a photo, as a server does, whose key is made when it is next asked for."""
    from secondlook.model.journal import NewImage

    manifest = open_bundle(root).manifest
    image = NewImage(photo.name, photo.read_bytes(), {}, None)  # type: ignore[arg-type]
    Journal(root).add(label, [image], "a test", known=manifest.classes, most=10, request=None, answer=lambda _: "")


def test_a_network_embeds_without_any_bundle_as_an_index_of_it_does(tmp_path: Path) -> None:
    network = written(backbone(), tmp_path, "body")
    preprocess = tmp_path / "preprocess.json"
    preprocess.write_text(
        json.dumps({"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}, "is_certain": True})
    )
    dataset = make_folder(tmp_path / "colours", per_class=12)
    run(dataset, "--network", network, "--preprocess", preprocess, "--out", tmp_path / "keys.npy")
    keys, names = np.load(tmp_path / "keys.npy"), json.loads((tmp_path / "keys.files.json").read_text())
    assert (names["generation"], names["network"]) == (None, network.name)
    options = IndexOptions(parameters=Parameters(20.0, 1.0, 5))
    root, source = tmp_path / "bundles", FromNetwork(str(network), preprocess=preprocess)
    bundle = open_bundle(root, index(load(str(dataset)), root, source, options))
    hits = bundle.store.search(keys, 1)
    np.testing.assert_allclose(hits.similarities[:, 0], 1, atol=1e-3)
    assert [bundle.entries.get(int(entry)).source for entry in hits.ids[:, 0]] == names["files"]  # type: ignore[union-attr]


def test_what_was_embedded_is_embedded_no_more(
    tiny_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "bundles")
    run(photos, "--bundles", root, "--out", tmp_path / "first.npy")
    seen: list[int] = []
    encode = OnnxEngine.encode

    def counted(engine: OnnxEngine, images: Any) -> Any:
        seen.append(len(images))
        return encode(engine, images)

    monkeypatch.setattr(OnnxEngine, "encode", counted)
    ended = run(photos, "--bundles", root, "--out", tmp_path / "second.npy")
    assert f"embedded 0 images, {len(NAMES)} were known" in ended.stderr
    canary = seen.copy()  # with which a bundle is opened
    assert len(canary) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "second.npy"), np.load(tmp_path / "first.npy"))
    more = shutil.copytree(photos, tmp_path / "more")
    (more / "new.png").write_bytes(make_image("blue", seed=99))
    (more / "flat.png").rename(more / "moved.png")
    ended = run(more, "--bundles", root, "--out", tmp_path / "third.npy")
    assert seen == [*canary, *canary, 1]
    assert f"embedded 1 image, {len(NAMES)} were known" in ended.stderr


def test_what_a_network_does_not_declare_is_said(tmp_path: Path, photos: Path) -> None:
    network = written(colour_classifier({"red": (200, 40, 30), "green": (40, 180, 60)}), tmp_path, "colours")
    ended = run(photos, "--network", network, "--out", tmp_path / "keys.npy")
    assert "says nowhere how it takes pixels" in ended.stderr
    assert np.load(tmp_path / "keys.npy").shape[0] == len(NAMES)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(make_image("red"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(make_image("red")[:50])
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ("photos", 2, "say what is wanted: --out FILE.npy, .csv or .json for the keys, or --neighbors K"),
        ("photos --out keys.txt", 2, "give a name that ends with .npy, .csv or .json"),
        ("photos --out keys", 2, "give a name that ends with .npy, .csv or .json"),
        ("missing --out keys.npy", 2, "'missing' does not exist"),
        ("empty --out keys.npy", 1, "empty has no images: give a folder of photos, or a photo"),
        ("damaged --out keys.npy", 1, "damaged has no photo that can be read: 1 damaged (a.png)"),
        ("damaged --out keys.json --network x.onnx", 1, "x.onnx"),
        ("photos --out no/such/keys.npy", 1, "no/such/keys.npy: No such file or directory"),
        ("photos --out no/such/keys.csv", 1, "no/such/keys.csv: No such file or directory"),
        ("photos --neighbors 0", 2, "0 is not in the range 1<=x<=200"),
        ("photos --neighbors 201", 2, "201 is not in the range 1<=x<=200"),
        ("photos --neighbors 3 --network x.onnx", 2, "index one with --network, and give that --bundles"),
        ("photos --out keys.npy --network x.onnx --bundles b", 2, "--bundles does not go with --network"),
        ("photos --out keys.npy --network x.onnx --generation g", 2, "--generation does not go with --network"),
        ("photos --out keys.npy --preprocess p.json", 2, "--preprocess goes with --network"),
        ("photos --out keys.npy --network c.safetensors", 1, "index one with it, and give embed that --bundles"),
        ("photos --out keys.npy --generation nonsense", 1, "bundle nonsense is refused: manifest.json is missing"),
        ("photos --out keys.npy --bundles nowhere", 1, "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    here: Path, arguments: str, status: int, sentence: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = sorted(here.rglob("*"))
    monkeypatch.setattr("sys.argv", ["secondlook", "embed", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr()
    assert (ended.value.code, said.out) == (status, "")
    assert sentence in said.err
    assert sum(line.startswith("Error") for line in said.err.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_a_run_that_is_stopped_leaves_the_file_that_was_there(
    tiny_bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secondlook.commands import embed as module

    (here / "keys.npy").write_bytes(b"what was there")

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "embedded_batches", stopped)
    root = shutil.copytree(tiny_bundle, here / "bundles")
    ended = CliRunner().invoke(embed, ["photos", "--bundles", str(root), "--out", "keys.npy"])
    assert ended.exit_code != 0
    assert (here / "keys.npy").read_bytes() == b"what was there"
    assert sorted(os.listdir(here)) == ["bundles", "damaged", "empty", "keys.npy", "photos"]
