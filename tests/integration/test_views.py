"""How images are shown to a network whose logits are not used: chosen by measurement, at a cost that is told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from secondlook.cli import cli
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.fitting.drawn import draw
from secondlook.indexer.fitting.preprocessing import measure
from secondlook.indexer.fitting.views import Choice, one_size_up
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.images import Limits, decode
from secondlook.model.manifest import Manifest
from secondlook.model.networks.declared import METADATA
from secondlook.model.networks.onnx_network import OnnxNetwork, open_onnx
from secondlook.model.networks.proof import PreprocessProof
from tests.networks_for_tests import Builder, written

SIDE = 28
PICTURES = 90

Pixels = NDArray[np.uint8]


def declared() -> dict[str, str]:
    """What an exporter wrote into the file."""
    geometry = {"height": SIDE, "width": SIDE, "rule": "crop"}
    arithmetic = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    return {METADATA: json.dumps({"geometry": geometry, "arithmetic": arithmetic, "is_published": True})}


def places(folder: Path, side: int | str = SIDE) -> Path:
    """A backbone whose features are the mean colours of 7 x 7 places: what is left stays left."""
    build = Builder()
    pooled = build.node("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    image = ("n", 3, side, side)
    return written(build.model(image, [build.node("Flatten", pooled, axis=1)], metadata=declared()), folder, "places")


def edges(folder: Path, *sides: int | str) -> Path:
    """A backbone whose features are how much there is of thin vertical and of thin horizontal stripes."""
    build = Builder()
    filters = np.zeros((3, 3, 1, 3), np.float32)
    filters[0, :, 0] = (-0.5, 1, -0.5)
    tall = build.node("Conv", "image", build.constant(filters), kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    wide = build.node(
        "Conv", "image", build.constant(filters.transpose(0, 1, 3, 2)), kernel_shape=[3, 1], pads=[1, 0, 1, 0]
    )
    seen = build.node("Abs", build.node("Concat", tall, wide, axis=1))
    seen = build.pooled(build.node("AveragePool", seen, kernel_shape=[4, 4], strides=[4, 4]))
    return written(build.model(("n", 3, *sides), [seen], metadata=declared()), folder, "edges")


def make(root: Path, drawn: Callable[[np.random.Generator, int], Pixels], count: int = PICTURES) -> Path:
    """Pictures of three classes in folders."""
    random = np.random.default_rng(0)
    for i in range(count):
        folder = root / f"class {i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(random, i % 3)).save(folder / f"{i:03d}.png")
    return root


def noise(random: np.random.Generator, height: int, width: int, spread: float) -> NDArray[np.float64]:
    return np.asarray(random.normal(128, spread, (height, width, 3)), np.float64)


def bytes_of(pixels: NDArray[np.float64]) -> Pixels:
    return np.clip(pixels, 0, 255).astype(np.uint8)


def framed(random: np.random.Generator, label: int) -> Pixels:
    """Twice as wide as high, and what tells the class is at both ends."""
    pixels = noise(random, SIDE, 2 * SIDE, 60)
    pixels[:, :10, label] += 60
    pixels[:, -10:, label] += 60
    return bytes_of(pixels)


def lit(random: np.random.Generator, label: int) -> Pixels:
    """Of a colour that tells the class, and lit from one side or from the other, which does not."""
    pixels = noise(random, SIDE, SIDE, 60)
    pixels[:, :, label] += 25
    pixels[:, : SIDE // 2] += 60
    return bytes_of(pixels if random.random() < 0.5 else pixels[:, ::-1])


def striped(random: np.random.Generator, label: int) -> Pixels:
    """Of stripes as thin as they can be: vertical, horizontal, or both."""
    pixels = noise(random, 36, 36, 25)
    if label != 1:
        pixels[:, ::2] += 30
    if label != 0:
        pixels[::2] += 30
    return bytes_of(pixels)


def measured(network: OnnxNetwork, photos: Path, choice: Choice | None = None) -> PreprocessProof:
    dataset = load(str(photos), "train", None)
    drawn = draw(dataset, np.arange(len(dataset.labels)), 600, network.preprocess.geometry)
    return measure(network, drawn.read, drawn.positions, drawn.labels, None, choice=choice or Choice())


def index(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["index", *map(str, arguments)])


def indexed(photos: Path, network: Path, root: Path, *more: object) -> Manifest:
    result = index(photos, "--network", network, "--bundles", root, "--head", "none", *more)
    assert result.exit_code == 0, result.output
    return open_bundle(root, result.stdout.split()[-1]).manifest


def test_another_geometry_is_taken_where_it_shows_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos, network = make(tmp_path / "framed", framed), places(tmp_path)
    manifest = indexed(photos, network, tmp_path / "root")
    assert manifest.preprocess.geometry.rule == "squash"
    assert manifest.proof is not None
    assert (choice := manifest.proof.choice) is not None
    assert (choice.preprocess.geometry, choice.cost) == (manifest.preprocess.geometry, 1)
    first = manifest.proof.geometry[0]
    assert (first.said, first.preprocess.geometry.rule) == ("declared", "crop")
    assert choice.nll < first.nll
    assert {"crop .875", "squash", "pad"} < {tried.said for tried in manifest.proof.geometry}
    assert (
        f"geometry: 28 x 28, squash, bilinear: leave-one-out NLL {choice.nll:.3f}".replace(" 0.", " .") in caplog.text
    )
    assert "on 90 photos, at the same speed" in caplog.text


def test_mostly_the_same_photos_are_shown_as_they_were_and_others_are_measured_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos, network, root = make(tmp_path / "framed", framed), places(tmp_path), tmp_path / "root"
    first = indexed(photos, network, root)
    make(tmp_path / "more", framed, count=PICTURES + 3)
    for name in ("090", "091", "092"):
        (path,) = (tmp_path / "more").glob(f"*/{name}.png")
        path.rename(photos / path.relative_to(tmp_path / "more"))
    caplog.clear()
    again = index(photos, "--network", network, "--bundles", root, "--head", "none")
    assert "embedded 3 images, 90 were known" in again.stderr
    second = open_bundle(root, again.stdout.split()[-1]).manifest
    assert (second.proof, second.preprocess, second.features) == (first.proof, first.preprocess, first.features)
    said = f"as measured for generation {first.generation}, which knows 90 of 93 photos"
    assert said in caplog.text
    assert "measure:" not in again.stderr
    caplog.clear()
    third = indexed(make(tmp_path / "lit", lit), network, root)
    assert f"geometry is measured anew: of 90 photos generation {second.generation} knows 0" in caplog.text
    assert third.proof is not None
    assert third.proof != first.proof
    assert third.preprocess.mirrored
    # Nor where it would not do: mirrored copies are cached, or its user says how photos are shown.
    caplog.clear()
    assert not indexed(tmp_path / "lit", network, root, "--mirror").preprocess.mirrored
    assert f"{third.generation} looks at mirrored images, which are to be cached" in caplog.text
    assert indexed(photos, network, root, "--preprocess", _given(tmp_path)).preprocess.geometry.rule == "crop"


def _given(folder: Path) -> Path:
    (folder / "given.json").write_text(declared()[METADATA])
    return folder / "given.json"


def test_what_a_user_gives_is_kept(tmp_path: Path) -> None:
    photos, network, given = make(tmp_path / "framed", framed), places(tmp_path), _given(tmp_path)
    manifest = indexed(photos, network, tmp_path / "root", "--preprocess", given)
    assert manifest.preprocess.geometry.rule == "crop"
    assert manifest.proof is not None
    assert manifest.proof.choice is None
    assert manifest.proof.suggestion is not None  # said all the same
    assert manifest.proof.suggestion.preprocess.geometry.rule in ("squash", "pad")
    given.write_text(json.dumps(json.loads(given.read_text()) | {"is_certain": True}))
    certain = indexed(photos, network, tmp_path / "root", "--preprocess", given)
    assert certain.preprocess.geometry.rule == "crop"
    assert certain.proof is not None
    assert (certain.proof.geometry, certain.proof.suggestion) == ((), None)


def test_a_network_may_be_certain_of_its_geometry_and_it_is_chosen(tmp_path: Path) -> None:
    network = open_onnx(places(tmp_path))
    certain = network.taking(network.preprocess.model_copy(update={"is_certain": True}))
    proof = measured(certain, make(tmp_path / "framed", framed))
    assert proof.choice is not None
    assert proof.taken.geometry.rule == "squash"
    assert proof.taken.arithmetic == certain.preprocess.arithmetic


def test_few_photos_choose_nothing(tmp_path: Path) -> None:
    proof = measured(open_onnx(places(tmp_path)), make(tmp_path / "framed", framed, count=30))
    assert proof.choice is None
    assert proof.taken.geometry.rule == "crop"


def test_chance_chooses_nothing(tmp_path: Path) -> None:
    network = open_onnx(places(tmp_path, "side"))
    photos = make(tmp_path / "noise", lambda random, label: bytes_of(noise(random, 36, 72, 60)))
    assert measured(network, photos).choice is None


def test_the_mean_with_the_mirrored_photo_is_worth_its_cost_where_sides_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos, network, root = make(tmp_path / "lit", lit), places(tmp_path), tmp_path / "root"
    manifest = indexed(photos, network, root)
    assert manifest.preprocess.mirrored
    assert manifest.proof is not None
    assert manifest.proof.choice is not None
    assert manifest.proof.choice.cost == 2
    assert "28 x 28, crop, bilinear, mean with the mirrored photo: leave-one-out NLL" in caplog.text
    assert "on 90 photos, at 0.5 of the speed" in caplog.text
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    bundle = open_bundle(root, manifest.generation)
    image = decode((photos / "class 0" / "000.png").read_bytes(), manifest.preprocess.geometry, Limits(10**6))
    keys = bundle.engine.encode(np.stack([image, image[:, ::-1]])).keys
    np.testing.assert_allclose(keys[0], keys[1], atol=1e-6)

    refused = index(photos, "--bundles", root, "--mirror")
    assert refused.exit_code == 1
    assert "a mirrored copy has the same key: leave out --mirror" in f"{refused.output}{refused.exception}"
    cached = indexed(photos, network, tmp_path / "cached", "--mirror")  # what is asked for rules what is chosen
    assert (cached.dataset.mirrored, cached.preprocess.mirrored) == (True, False)


def test_all_that_was_tried_is_held_to_what_is_declared(tmp_path: Path) -> None:
    def both(random: np.random.Generator, label: int) -> Pixels:
        pixels = framed(random, label).astype(np.float64)
        pixels[:, :SIDE] += 50
        return bytes_of(pixels if random.random() < 0.5 else pixels[:, ::-1])

    proof = measured(open_onnx(places(tmp_path)), make(tmp_path / "both", both))
    assert proof.choice is not None
    shape, _, more = proof.choice.said.partition(", ")
    assert (shape in ("squash", "pad"), more) == (True, "mean with the mirrored photo")
    behind = {tried.said: tried.behind for tried in proof.geometry}
    assert behind[shape] < -1.5  # which the mirrored one beat
    assert behind[proof.choice.said] <= behind[shape]


def test_one_size_up_is_taken_where_it_shows_more(tmp_path: Path) -> None:
    photos = make(tmp_path / "striped", striped)
    network = open_onnx(edges(tmp_path, "height", "width"))
    proof = measured(network, photos)
    assert proof.choice is not None
    assert proof.choice.preprocess.geometry.size == (36, 36)
    assert proof.choice.cost == pytest.approx((36 / 28) ** 2, abs=0.001)
    assert proof.choice.speed == "at 0.6 of the speed"
    fixed = measured(open_onnx(edges(tmp_path, SIDE, SIDE)), photos)
    assert not any("one size up" in tried.said for tried in fixed.geometry)
    assert fixed.taken.geometry.size == (SIDE, SIDE)
    manifest = indexed(photos, edges(tmp_path, "height", "width"), tmp_path / "root")
    assert manifest.preprocess.geometry.size == (36, 36)


def test_one_size_up_is_a_multiple_of_the_stride(tmp_path: Path) -> None:
    build = Builder()
    usual = open_onnx(written(build.model(("n", 3, "h", "w"), [build.pooled(build.trunk("image"))]), tmp_path, "usual"))
    assert (found := one_size_up(usual)) is not None
    assert found.geometry.size == (288, 288)
    odd = usual.taking(usual.preprocess.with_geometry(height=100, width=240))
    assert (found := one_size_up(odd)) is not None
    assert found.geometry.size == (128, 312)


def test_what_choosing_comes_to_is_studied(tmp_path: Path) -> None:
    make(tmp_path / "photos" / "train", framed)
    make(tmp_path / "photos" / "test", framed, count=30)
    asked = ["study", "geometry", str(places(tmp_path)), str(tmp_path / "photos"), "--counts", "5,20", "--draws", "4"]
    result = CliRunner().invoke(cli, [*asked, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    few, more = found["chosen"]
    assert few["picks"] == {"28 x 28, crop, bilinear": 4}  # 15 photos choose nothing
    assert (few["declared_percent"], few["speed"]) == (few["chosen_percent"], 1)
    assert sum(more["picks"].values()) == more["draws"] == 4
    assert "28 x 28, crop, bilinear" not in more["picks"]
    assert more["chosen_percent"] > more["declared_percent"] + 20
    shown = {one["views"]: one for one in found["candidates"]}
    mirrored = shown["28 x 28, squash, bilinear, mean with the mirrored photo"]
    assert (mirrored["cost"], shown["28 x 28, crop, bilinear"]["cost"]) == (2, 1)
    assert shown["28 x 28, crop, bilinear"]["right_percent"]["20"] == pytest.approx(more["declared_percent"])
    told = CliRunner().invoke(cli, asked)
    assert "times the declared" in " ".join(told.stdout.split())
    refused = CliRunner().invoke(cli, [*asked[:5], "31"])
    assert "ask for fewer of each class than 31" in f"{refused.output}{refused.exception}"
