"""``secondlook index --network``: any network's file to a bundle that answers, its classes matched to the dataset's."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from secondlook.cli import cli
from secondlook.indexer.embedding import linear_heads
from secondlook.model.answering.predictor import Answer, Overrides, Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import ENCODER
from secondlook.model.images import Limits, decode
from tests.images_for_tests import COLOURS, make_image, make_shades
from tests.networks_for_tests import SIDE, colour_backbone, colour_classifier, colour_tokens, written

MORE = {"yellow": (230, 230, 30), "Red": COLOURS["red"], "grey_blue": (30, 30, 160), "blue": COLOURS["blue"],
        "green": COLOURS["green"]}  # fmt: skip
"""Classes of a network that knows more than the dataset has, in another order and another way of writing."""
PREPROCESS = {"geometry": {"height": SIDE, "width": SIDE}, "arithmetic": {}}


@pytest.fixture
def preprocess(tmp_path: Path) -> Path:
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(PREPROCESS))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def said(result: Result) -> str:
    """What a refusal says."""
    return f"{result.output}{result.exception}"


def index(images: Path, network: Path, root: Path, *more: object) -> Bundle:
    result = run("index", images, "--network", network, "--bundles", root, *more)
    assert result.exit_code == 0, result.output
    return open_bundle(root, result.stdout.split()[-1])


def answers(bundle: Bundle, *colours: str) -> list[Answer]:
    predictor = Predictor(bundle)
    geometry = bundle.manifest.preprocess.geometry
    images = np.stack([decode(make_image(colour, seed=99), geometry, Limits(10**6)) for colour in colours])
    found = predictor.predict(images, [predictor.defaults] * len(images), neighbors=3)
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer for answer in found if isinstance(answer, Answer)]


def labels(bundle: Bundle, probabilities: np.ndarray) -> str:
    return bundle.manifest.classes[int(probabilities.argmax())]


def test_a_network_with_more_classes_answers_for_the_datasets(
    colour_folder: Path, tmp_path: Path, preprocess: Path
) -> None:
    network = written(colour_classifier(MORE), tmp_path)
    bundle = index(colour_folder, network, tmp_path / "root", "--preprocess", preprocess)
    manifest = bundle.manifest
    assert manifest.classes == ("blue", "green", "red")
    assert (manifest.network.name, manifest.network.matched) == ("network.onnx", "folded")
    assert manifest.network.groups == ((3,), (4,), (1,))
    assert manifest.network.all_classes == tuple(MORE)
    assert (manifest.head, manifest.network.classes) == ("network", None)
    assert manifest.preprocess.read_from == "preprocess.json"
    for colour, answer in zip(COLOURS, answers(bundle, *COLOURS), strict=True):
        assert labels(bundle, answer.network) == labels(bundle, answer.cache) == colour
        assert answer.network.sum() == pytest.approx(1, abs=1e-5)


def test_evaluate_also_asks_among_all_of_the_networks_classes(
    colour_folder: Path, tmp_path: Path, preprocess: Path
) -> None:
    """Pictures of a blue that is another class of the network's: among the dataset's classes they are blue."""
    root = tmp_path / "root"
    index(colour_folder, written(colour_classifier(MORE), tmp_path), root, "--preprocess", preprocess)
    tested = tmp_path / "test"
    for colour, shade in {**COLOURS, "blue": MORE["grey_blue"]}.items():
        (tested / colour).mkdir(parents=True)
        for seed in range(5):
            noise = np.random.default_rng(seed).integers(-20, 20, (SIDE, SIDE, 3))
            Image.fromarray((np.array(shade) + noise).astype(np.uint8)).save(tested / colour / f"{seed}.png")
    result = run("evaluate", tested, "--bundles", root, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["network"]["error_percent"] == 0
    assert found["network_all_classes"]["error_percent"] == pytest.approx(100 / 3)
    assert found["network_all_classes"]["nll"] > found["network"]["nll"]
    assert found["error_intervals"]["network_all_classes"]["low"] <= 100 / 3
    people = run("evaluate", tested, "--bundles", root)
    assert "network, of all its classes" in people.output


def test_several_of_its_classes_may_mean_one(colour_folder: Path, tmp_path: Path, preprocess: Path) -> None:
    network = written(colour_classifier({"a": (200, 40, 40), "b": (255, 10, 10), **MORE}), tmp_path)
    class_map = tmp_path / "classes.txt"
    class_map.write_text("red\ta\nred\tb\nred\t3\nblue\tblue\ngreen\tgreen\n")
    bundle = index(colour_folder, network, tmp_path / "root", "--preprocess", preprocess, "--class-map", class_map)
    assert bundle.manifest.network.groups == ((5,), (6,), (0, 1, 3))
    assert bundle.manifest.network.matched == "class map"
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    logits = bundle.engine.encode(images).logits
    whole = bundle.engine.all_logits(images)  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits[:, 2], np.log(np.exp(whole[:, [0, 1, 3]]).sum(axis=1)), rtol=1e-5)
    np.testing.assert_allclose(logits[:, :2], whole[:, 5:7], rtol=1e-6)


def test_classes_that_it_does_not_know_come_last_and_are_the_caches(
    colour_folder: Path, tmp_path: Path, preprocess: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = {"red": COLOURS["red"], "green": COLOURS["green"]}
    root = tmp_path / "root"
    result = run(
        "index", colour_folder, "--network", written(colour_classifier(known), tmp_path), "--bundles", root,
        "--preprocess", preprocess,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "does not know blue" in caplog.text
    bundle = open_bundle(root, result.stdout.split()[-1])
    assert bundle.manifest.classes == ("green", "red", "blue")
    assert bundle.manifest.network.classes == 2
    (blue,) = answers(bundle, "blue")
    assert blue.network[2] == 0
    assert labels(bundle, blue.cache) == "blue"
    assert run("index", colour_folder, "--bundles", root).exit_code == 0  # by the same encoder, in the same order
    assert open_bundle(root).manifest.classes == ("green", "red", "blue")
    assert labels(open_bundle(root), answers(open_bundle(root), "blue")[0].cache) == "blue"


def test_classes_without_names_are_the_datasets_in_order_where_images_say_so(
    colour_folder: Path, tmp_path: Path, preprocess: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_order = {name: COLOURS[name] for name in sorted(COLOURS)}
    network = written(colour_classifier(in_order, named=False), tmp_path)
    bundle = index(colour_folder, network, tmp_path / "root", "--preprocess", preprocess)
    assert bundle.manifest.network.matched == "order"
    assert [labels(bundle, answer.network) for answer in answers(bundle, "blue", "red")] == ["blue", "red"]
    other = dict(zip(("x", "y", "z"), (COLOURS["green"], COLOURS["red"], COLOURS["blue"]), strict=True))
    network = written(colour_classifier(other, named=False), tmp_path, "other")
    bundle = index(colour_folder, network, tmp_path / "other", "--preprocess", preprocess)
    assert "a linear head is fitted to the images" in caplog.text
    assert (bundle.manifest.head, bundle.manifest.network.matched) == ("linear", "")


@pytest.mark.parametrize("make", [lambda: colour_classifier({"cat": (9, 99, 9), "dog": (99, 9, 9)}), colour_backbone])
def test_without_a_head_for_these_classes_and_what_fits_one_the_cache_answers_alone(
    make: Any,
    colour_folder: Path,
    tmp_path: Path,
    preprocess: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear_heads, "find_spec", lambda name: None)
    network = written(make(), tmp_path)
    given = ("--preprocess", preprocess)
    result = run("index", colour_folder, "--network", network, "--bundles", tmp_path / "root", *given)
    assert result.exit_code == 0, result.output
    assert "the cache answers alone, as a linear head needs scikit-learn, which is not installed" in caplog.text
    bundle = open_bundle(tmp_path / "root", result.stdout.split()[-1])
    assert (bundle.manifest.head, bundle.manifest.network.classes, bundle.manifest.lam) == ("none", 0, 1)
    assert [labels(bundle, answer.mixed) for answer in answers(bundle, *COLOURS)] == list(COLOURS)
    refused = run(
        "index", colour_folder, "--network", network, "--bundles", tmp_path / "x", "--head", "network", *given
    )
    assert refused.exit_code == 1
    assert "leave out --head network" in said(refused)
    assert not (tmp_path / "x" / "CURRENT").exists()


def test_arithmetic_that_is_beaten_is_refused_and_the_better_one_named(colour_folder: Path, tmp_path: Path) -> None:
    network = written(colour_classifier({name: COLOURS[name] for name in sorted(COLOURS)}), tmp_path)
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(PREPROCESS | {"arithmetic": {"channels": "BGR"}}))
    result = run("index", colour_folder, "--network", network, "--bundles", tmp_path / "root", "--preprocess", path)
    assert result.exit_code == 1
    assert "RGB, x/255 does clearly better" in said(result)
    assert "--preprocess" in said(result)
    assert "secondlook network" in said(result)
    assert not (tmp_path / "root" / "CURRENT").exists()
    path.write_text(json.dumps(PREPROCESS | {"arithmetic": {"channels": "BGR"}, "is_certain": True}))
    bundle = index(colour_folder, network, tmp_path / "root", "--preprocess", path)
    assert bundle.manifest.preprocess.arithmetic.channels == "BGR"
    assert bundle.manifest.proof is not None
    assert bundle.manifest.proof.answer == "beaten"


def test_keys_are_of_any_layer_and_reduced_without_torch(colour_folder: Path, tmp_path: Path, preprocess: Path) -> None:
    network = written(colour_classifier(MORE), tmp_path)
    understood = json.loads(run("network", network, "--json").stdout.splitlines()[-1])
    names = [layer["name"] for layer in understood["layers"]]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"layers": names[-1:], "pool": [None], "reduce": 4}))
    bundle = index(colour_folder, network, tmp_path / "root", "--preprocess", preprocess, "--recipe", recipe)
    assert bundle.store.dim == 4
    assert [labels(bundle, answer.cache) for answer in answers(bundle, *COLOURS)] == list(COLOURS)
    recipe.write_text(json.dumps({"layers": ["reluu"]}))
    result = run("index", colour_folder, "--network", network, "--bundles", tmp_path / "root", "--recipe", recipe)
    assert result.exit_code == 1
    assert "has no layer 'reluu': the nearest are" in said(result)
    result = run("index", colour_folder, "--network", network, "--bundles", tmp_path / "root", "--recipe", "compact")
    assert result.exit_code == 1
    assert "compact is a recipe of the CIFAR ResNets" in said(result)


def test_recipes_are_compared_on_any_network(colour_folder: Path, tmp_path: Path, preprocess: Path) -> None:
    network = written(colour_classifier(MORE), tmp_path)
    layers = [
        layer["name"] for layer in json.loads(run("network", network, "--json").stdout.splitlines()[-1])["layers"]
    ]
    for name, content in {"whole": {"layers": layers[-1:]}, "few": {"layers": layers[-1:], "reduce": 3}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    given = ("--network", network, "--preprocess", preprocess, "--json")
    result = run("fit", colour_folder, "--recipes", f"{tmp_path}/whole.json,{tmp_path}/few.json", *given)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert {one["name"]: one["dim"] for one in found["recipes"]} == {"whole": 30, "few": 3}


def test_options_of_a_network_want_one(colour_folder: Path, tmp_path: Path, preprocess: Path) -> None:
    result = run("index", colour_folder, "--bundles", tmp_path / "root", "--preprocess", preprocess)
    assert result.exit_code == 2
    assert "--preprocess goes with --network" in result.output
    shutil.rmtree(tmp_path / "root", ignore_errors=True)


def test_what_images_said_of_the_preprocessing_is_kept(colour_folder: Path, tmp_path: Path, preprocess: Path) -> None:
    network, root = written(colour_classifier(COLOURS), tmp_path), tmp_path / "root"
    proof = index(colour_folder, network, root, "--preprocess", preprocess).manifest.proof
    assert proof is not None
    assert proof.answer != "beaten"
    assert proof.by == ("head", "table", "neighbours")
    assert proof.arithmetic[0].said == "declared"
    assert {"declared, but BGR", "0..255"} <= {tried.said for tried in proof.arithmetic}
    assert run("index", colour_folder, "--bundles", root).exit_code == 0  # by the same encoder
    assert open_bundle(root).manifest.proof == proof


def test_where_nothing_is_declared_the_best_is_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ImageNet's mean and std are what most networks take; this one takes x/255."""
    bundle = index(make_shades(tmp_path / "shades"), written(colour_classifier(COLOURS), tmp_path), tmp_path / "root")
    taken = bundle.manifest.preprocess
    assert str(taken.arithmetic) == "RGB, x/255"
    assert bundle.manifest.proof is not None
    assert taken.read_from == f"measured on {bundle.manifest.proof.images} images"
    assert "says nowhere how it takes pixels: RGB, x/255 is taken (measured on" in caplog.text


@pytest.mark.parametrize("telling", ["cls", "mean"])
def test_tokens_are_pooled_as_images_say(telling: str, tmp_path: Path) -> None:
    network = written(colour_tokens(telling=telling), tmp_path)
    bundle = index(make_shades(tmp_path / "shades"), network, tmp_path / "root")
    assert bundle.manifest.recipe.pool == (telling,)


def test_shards_keep_its_encoder_its_classes_and_their_order(
    colour_folder: Path, tmp_path: Path, preprocess: Path
) -> None:
    known = {"red": COLOURS["red"], "green": COLOURS["green"]}
    root, parts = tmp_path / "root", tmp_path / "parts"
    index(colour_folder, written(colour_classifier(known), tmp_path), root, "--preprocess", preprocess)
    whole = index_again(colour_folder, root)
    for shard in range(2):
        split = ("--shards", 2, "--shard", shard)
        result = run("index", colour_folder, "--bundles", root, "--parts", parts, *split)
        assert result.exit_code == 0, result.output
    merged = index_again(colour_folder, root, "--parts", parts, "--merge")
    for name in ("classes", "network", "head", "recipe", "preprocess", "proof", "theta", "lam", "k"):
        assert getattr(merged.manifest, name) == getattr(whole.manifest, name), name
    assert merged.manifest.classes == ("green", "red", "blue")
    assert merged.manifest.files[ENCODER] == whole.manifest.files[ENCODER]
    np.testing.assert_array_equal(merged.store.values, whole.store.values)
    assert [labels(merged, answer.mixed) for answer in answers(merged, *COLOURS)] == list(COLOURS)


def test_fewer_classes_than_the_encoder_was_made_for_want_the_network_again(
    colour_folder: Path, tmp_path: Path, preprocess: Path
) -> None:
    network = written(colour_classifier(MORE), tmp_path)
    index(colour_folder, network, tmp_path / "root", "--preprocess", preprocess)
    fewer = tmp_path / "fewer"
    for colour in ("red", "green"):
        shutil.copytree(colour_folder / colour, fewer / colour)
    result = run("index", fewer, "--bundles", tmp_path / "root")
    assert result.exit_code == 1
    assert "give --network network.onnx again" in said(result)
    assert index(fewer, network, tmp_path / "root", "--preprocess", preprocess).manifest.classes == ("green", "red")


def index_again(images: Path, root: Path, *more: object) -> Bundle:
    """By the encoder that the root has."""
    result = run("index", images, "--bundles", root, *more)
    assert result.exit_code == 0, result.output
    return open_bundle(root, result.stdout.split()[-1])


def test_a_class_that_it_does_not_know_is_answered_however_small_lam_is(
    colour_folder: Path, tmp_path: Path, preprocess: Path
) -> None:
    known = {"red": COLOURS["red"], "green": COLOURS["green"]}
    given = ("--preprocess", preprocess, "--theta", 50, "--lam", 0.1, "--k", 5)
    bundle = index(colour_folder, written(colour_classifier(known), tmp_path), tmp_path / "root", *given)
    (blue,) = answers(bundle, "blue")
    assert blue.same_as is None
    assert labels(bundle, blue.mixed) == "blue"
    predictor, geometry = Predictor(bundle), bundle.manifest.preprocess.geometry
    image = decode(make_image("blue", seed=99), geometry, Limits(10**6))[None]
    (plain,) = predictor.predict(image, [predictor.parameters(Overrides(lam=0.1))])
    assert isinstance(plain, Answer)
    assert labels(bundle, plain.mixed) != "blue"  # where a call gives it, that alone counts
