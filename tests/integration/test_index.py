"""From pictures to a bundle that answers rightly."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import FromBundle, PreparedEncoder
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress
from secondlook.indexer.refit import refit
from secondlook.indexer.sources.from_cifar import FromCifar, same_first_class
from secondlook.model.answering.predictor import Answer, Overrides, Parameters, Predictor
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import generations
from secondlook.model.errors import BundleError, DatasetError, MemoryLimitError, ParameterError, RecipeError, StoreError
from secondlook.model.networks.encoder import Encoder
from secondlook.model.networks.engines import Encoding
from secondlook.model.networks.file import load_network
from secondlook.model.networks.preprocess import CIFAR
from secondlook.model.networks.recipe import Recipe
from secondlook.model.networks.torch_engine import TorchEngine
from secondlook.model.stores.faiss_store import FaissStore
from tests.images_for_tests import as_file, make_folder, photos
from tests.service_for_tests import copy_root

FIXED = IndexOptions(parameters=Parameters(20.0, 1.0, 5))


def test_the_cache_alone_knows_plain_colours_through_a_random_network(tiny_bundle: Path, tmp_path: Path) -> None:
    fresh = load(str(make_folder(tmp_path / "fresh", per_class=5)))
    bundle = open_bundle(tiny_bundle)
    images = np.stack([fresh.read(i, bundle.geometry) for i in range(15)])
    answers = Predictor(bundle).predict(images, [Parameters(50.0, 1.0, 5)] * 15, neighbors=3)
    for answer, label in zip(answers, fresh.labels, strict=True):
        assert isinstance(answer, Answer)
        assert answer.mixed.argmax() == label
        assert answer.values.tolist() == [label] * 3
        assert (np.diff(answer.similarities) <= 0).all()


def test_bfloat16_is_weighed_by_the_holdouts_first_classes(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    file = load_network(bundle.path / "network.safetensors")
    encoder = Encoder(file.network, bundle.manifest.recipe, file.projection)
    dataset = load(str(make_folder(tmp_path / "fresh", per_class=40)))
    exact, reduced = (TorchEngine(encoder, (32, 32), "cpu", bfloat16=half) for half in (False, True))
    images = np.stack([dataset.read(i, CIFAR.geometry) for i in range(9)])
    one, other = exact.encode(images), reduced.encode(images)
    assert not np.array_equal(one.logits, other.logits)
    np.testing.assert_allclose(np.linalg.norm(other.keys, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(one.keys, other.keys, atol=0.05)
    expected = [
        exact.encode(image).logits.argmax() == reduced.encode(image).logits.argmax()
        for image in (dataset.read(i, CIFAR.geometry)[None] for i in dataset.holdout().tolist())
    ]
    assert same_first_class(exact, reduced, dataset) == pytest.approx(np.mean(expected))
    assert same_first_class(exact, exact, dataset) == 1.0


def test_an_exported_encoder_does_not_tell_where_it_was_made(tiny_bundle: Path) -> None:
    graph = (open_bundle(tiny_bundle).path / "encoder.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in graph
    assert b".py" not in graph


def test_a_bundles_encoder_is_opened_without_its_keys(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    root, new_root = copy_root(tiny_bundle, tmp_path / "old"), tmp_path / "new"
    (generation,) = generations(root)
    (root / generation / "keys.faiss").write_bytes(b"")
    new = open_bundle(new_root, index(load(str(colour_folder)), new_root, FromBundle(root), FIXED))
    assert new.manifest.network == read_manifest(root, generation).network
    (root / generation / "network.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"network\.safetensors has 0 bytes"):
        index(load(str(colour_folder)), new_root, FromBundle(root), FIXED)


def test_a_bundles_own_encoder_gives_the_same_keys_again(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    generation = index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), FIXED)
    old, new = open_bundle(tiny_bundle), open_bundle(tmp_path, generation)
    for (a, _), (b, _) in zip(old.store.chunks(), new.store.chunks(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert new.manifest.network == old.manifest.network
    assert (new.manifest.theta, new.manifest.lam, new.manifest.k) == (20.0, 1.0, 5)


def test_mirrored_copies_are_cached_beside_their_images(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    options = replace(FIXED, mirror=True)
    bundle = open_bundle(tmp_path, index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), options))
    assert bundle.store.count == 120
    image = load(str(colour_folder)).read(3, CIFAR.geometry)
    (answer,) = Predictor(bundle).predict(
        np.ascontiguousarray(image[None, :, ::-1]), [Parameters(9, 1, 1)], neighbors=1
    )
    assert isinstance(answer, Answer)
    entry = bundle.entries.get(int(answer.ids[0]))
    assert entry is not None
    assert (entry.source, entry.mirrored) == ("blue/003.png", True)
    assert answer.similarities[0] == pytest.approx(1.0, abs=1e-4)


def test_fitting_chooses_from_what_it_tried(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    report, calibration = manifest.fit, manifest.calibration
    assert report is not None
    assert calibration is not None
    assert report.images == 6
    assert report.entries == 54  # the holdout's own entries take no part
    cell = (report.ks.index(manifest.k), report.thetas.index(manifest.theta), report.lams.index(manifest.lam))
    assert report.error_percent[cell[0]][cell[1]][cell[2]] == report.chosen_error_percent == 0.0
    assert report.nll[cell[0]][cell[1]][cell[2]] == pytest.approx(report.chosen_nll, abs=1e-4)
    right = [
        loss
        for errors, losses in zip(report.error_percent, report.nll, strict=True)
        for row, loss_row in zip(errors, losses, strict=True)
        for error, loss in zip(row, loss_row, strict=True)
        if error == 0.0
    ]
    assert min(right) == pytest.approx(report.chosen_nll, abs=1e-4)
    assert report.network_error_percent > 0
    assert report.error_percent[0][0][0] == pytest.approx(report.network_error_percent, abs=1e-3)  # lam = 0
    assert 0 < calibration.novelty.threshold < 2


def test_refitting_writes_a_new_bundle_of_the_same_keys(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    dataset = load(str(colour_folder))
    first = index(dataset, tmp_path, FromBundle(tiny_bundle), FIXED)
    second = refit(dataset, tmp_path, first, (3, None))
    assert generations(tmp_path) == sorted([first, second])
    old, new = open_bundle(tmp_path, first), open_bundle(tmp_path, second)
    assert new.manifest.files["keys.faiss"] == old.manifest.files["keys.faiss"]
    assert new.manifest.fit is not None
    assert new.manifest.fit.ks == (3, None)


def test_refitting_an_approximate_store_measures_it_again(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    dataset = load(str(colour_folder))
    first = index(dataset, tmp_path, FromBundle(tiny_bundle), replace(FIXED, store="IVF1,SQ8"))
    with pytest.raises(ParameterError, match="k must be at most 2,048"):
        refit(dataset, tmp_path, first, (5000,))
    manifest = open_bundle(tmp_path, refit(dataset, tmp_path, first, (3,))).manifest
    assert manifest.k == 3
    assert manifest.store.search.lists == 1
    assert manifest.approximation_error is not None
    assert (manifest.approximation_error.images, manifest.approximation_error.keys) == (6, "stored")


def test_refitting_on_other_images_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = load(str(make_folder(tmp_path / "other", per_class=4)))
    with pytest.raises(DatasetError, match="is not the dataset"):
        refit(other, tiny_bundle, generations(tiny_bundle)[0], (3,))


def test_unreadable_images_are_counted_named_and_skipped(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=6)
    (folder / "green" / "002.png").write_bytes(b"no image")
    generation = index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), FIXED)
    bundle = open_bundle(tmp_path / "bundles", generation)
    assert bundle.manifest.dataset.unreadable == ("green/002.png",)
    assert (bundle.manifest.dataset.images, bundle.store.count) == (17, 17)
    assert np.bincount(bundle.store.values).tolist() == [6, 5, 6]


def test_a_class_without_readable_images_is_refused_and_no_bundle_is_written(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=6)
    for path in (folder / "green").iterdir():
        path.write_bytes(b"no image")
    why = r"green has no images \(6 not an image \(green/000.png, .*leave it out with secondlook index --skip-empty"
    with pytest.raises(DatasetError, match=why):
        index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), FIXED)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["features"]


def test_many_damaged_images_do_not_stop_it(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=24)
    for path in sorted((folder / "green").iterdir())[:20]:
        path.write_bytes(path.read_bytes()[:100])
    generation = index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), FIXED)
    dataset = open_bundle(tmp_path / "bundles", generation).manifest.dataset
    assert (dataset.images, dataset.left_out) == (52, {"damaged": 20})


@dataclass(frozen=True)
class Overflowing:
    """The encoder of a bundle, were its network to overflow on bright images."""

    of: FromBundle

    def prepare(self, dataset: Dataset, folder: Path, progress: Progress) -> PreparedEncoder:
        prepared = self.of.prepare(dataset, folder, progress)
        encode = prepared.engine.encode

        def overflowing(images: np.ndarray) -> Encoding:
            logits, keys = encode(images)
            return Encoding(logits, np.where(images.mean((1, 2, 3), keepdims=True)[:, 0, 0] > 250, np.nan, keys))

        prepared.engine.encode = overflowing  # type: ignore[method-assign]
        return prepared


@pytest.mark.parametrize("mirror", [False, True])
def test_an_image_on_which_the_network_overflows_is_left_out(tiny_bundle: Path, tmp_path: Path, mirror: bool) -> None:
    folder = make_folder(tmp_path / "colours", per_class=40)
    for name in ("green/005.png", "red/039.png"):
        Image.new("RGB", (32, 32), (255, 255, 255)).save(folder / name)
    options = IndexOptions(mirror=mirror)
    generation = index(load(str(folder)), tmp_path / "bundles", Overflowing(FromBundle(tiny_bundle)), options)
    bundle = open_bundle(tmp_path / "bundles", generation)
    assert bundle.manifest.dataset.left_out == {"no finite key": 2}
    assert bundle.manifest.dataset.unreadable == ("green/005.png", "red/039.png")
    assert bundle.store.count == 118 * (1 + mirror)


def test_where_most_images_cannot_be_read_something_else_is_amiss(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=6)
    for path in (p for colour in folder.iterdir() for p in sorted(colour.iterdir())[:4]):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"most images of colours cannot be read: 12 empty \(blue/000.png"):
        index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), FIXED)


def photo_folder(root: Path) -> Path:
    """Three classes of twenty photos, in each the last two held out, and of these a copy among the others."""
    for c, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        made = photos(20, 40, seed=c)
        for i, image in enumerate(made):
            (root / name / f"{i:03d}.png").write_bytes(as_file(image, "PNG"))
        (root / name / "000 copy.png").write_bytes((root / name / "019.png").read_bytes())
        (root / name / "000 small.jpg").write_bytes(as_file(made[18], "JPEG", quality=60))
    return root


@pytest.mark.parametrize("mirror", [False, True])
def test_no_copy_of_a_held_out_image_answers_for_it(tiny_bundle: Path, tmp_path: Path, mirror: bool) -> None:
    folder = photo_folder(tmp_path / "photos")
    generation = index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), IndexOptions(mirror=mirror))
    manifest = open_bundle(tmp_path / "bundles", generation).manifest
    assert (manifest.dataset.images, manifest.dataset.duplicates) == (66, 6)
    assert manifest.fit is not None
    assert (manifest.fit.images, manifest.fit.entries) == (6, 54 * (1 + mirror))


def test_one_photo_in_two_classes_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos")
    (folder / "red" / "same.png").write_bytes((folder / "blue" / "007.png").read_bytes())
    (folder / "red" / "same again.png").write_bytes((folder / "blue" / "007.png").read_bytes())
    generation = index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), IndexOptions())
    dataset = open_bundle(tmp_path / "bundles", generation).manifest.dataset
    assert dataset.in_two_classes == (("blue/007.png", "red/same again.png"),)
    assert (dataset.in_two_classes_count, dataset.duplicates) == (1, 8)


def test_other_classes_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=1)
    (folder / "red").rename(folder / "pink")
    with pytest.raises(DatasetError, match="blue, green, pink but the network knows blue, green, red"):
        index(load(str(folder)), tmp_path / "bundles", FromBundle(tiny_bundle), FIXED)


def test_a_reduction_shrinks_to_the_images_that_there_are(
    tiny_network: Path, colour_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FromCifar(tiny_network, "compact")
    generation = index(load(str(colour_folder)), tmp_path / "bundles", source, IndexOptions())
    bundle = open_bundle(tmp_path / "bundles", generation)
    assert bundle.manifest.recipe.reduce == 54  # sixty images, of which six are held out
    assert bundle.store.dim == 54 + 64
    assert "keys are reduced to 54 numbers, not to 256" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (Recipe(layers=("stage9",)), "no layer 'stage9'"),
        (Recipe(layers=("pool",), reduce=65), "reduced to 65 numbers where the layers give 64: give a smaller"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    tiny_network: Path, colour_folder: Path, tmp_path: Path, recipe: Recipe, why: str
) -> None:
    with pytest.raises(RecipeError, match=why):
        index(load(str(colour_folder)), tmp_path, FromCifar(tiny_network, recipe), FIXED)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_leaves_nothing(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store 'Nonsense'"):
        index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), replace(FIXED, store="Nonsense"))
    assert list(tmp_path.iterdir()) == []


def test_what_would_not_fit_into_memory_is_not_begun(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.model.memory.available_bytes", lambda: 50_000)
    with pytest.raises(MemoryLimitError, match="a cache of 120 entries of 80 numbers needs about"):
        index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), replace(FIXED, mirror=True, parameters=None))
    assert list(tmp_path.iterdir()) == []


def test_an_approximate_store_serves_so_many_neighbours_at_most(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    options = replace(FIXED, store="HNSW8", parameters=Parameters(20.0, 0.5, 5000))
    with pytest.raises(ParameterError, match=r"k must be at most 2,048 \(or all\)"):
        index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), options)
    generation = index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), replace(FIXED, store="HNSW8"))
    predictor = Predictor(open_bundle(tmp_path, generation))
    with pytest.raises(ParameterError, match="k must be at most"):
        predictor.parameters(Overrides(k=2049))
    assert predictor.parameters(Overrides(k="all")).k is None


def test_a_bundle_says_how_far_it_is_from_the_exact_sum(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    chosen = open_bundle(tiny_bundle).manifest
    assert chosen.approximation_error is not None
    assert (chosen.approximation_error.images, chosen.approximation_error.keys) == (6, "exact")
    assert chosen.store.factory == "Flat"
    assert "60 keys of 80 numbers" in chosen.store.why
    exact = replace(FIXED, store="Flat", parameters=Parameters(20.0, 0.5, None))
    generation = index(load(str(colour_folder)), tmp_path, FromBundle(tiny_bundle), exact)
    assert open_bundle(tmp_path, generation).manifest.approximation_error is None


def test_copies_may_be_mirrored_after_their_pixels_are_normalised(colour_folder: Path, tmp_path: Path) -> None:
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.file import save_network

    dataset = load(str(colour_folder))
    network = ResNet(20, 3, "keras")
    # Statistics that are not their own mirror image.
    ramp = np.linspace(0, 200, 32)[None, None, :, None]
    network.set_pixel_statistics((ramp + np.random.default_rng(0).integers(0, 50, (9, 32, 32, 3))).astype(np.uint8))
    save_network(network.eval(), tmp_path / "net.safetensors", classes=dataset.classes, trained_on="nothing")
    options = replace(FIXED, mirror=True, store="Flat")
    source = FromCifar(tmp_path / "net.safetensors", Recipe(layers=("pool",)), mirror_normalized=True)
    bundle = open_bundle(tmp_path / "after", index(dataset, tmp_path / "after", source, options))
    image = dataset.read(7, CIFAR.geometry)
    x = network.normalize(torch.from_numpy(image[None])).flip(-1)
    with torch.inference_mode():
        pooled = network.activations(x, ("pool",))[1]["pool"].flatten().numpy()
    keys = np.concatenate([keys for keys, _ in bundle.store.chunks()])
    rows = [i for i in range(120) if (e := bundle.entries.get(i)) and e.mirrored and e.source == dataset.source(7)]
    np.testing.assert_allclose(keys[rows[0]], pooled / np.linalg.norm(pooled), atol=1e-4)
    plain = replace(source, mirror_normalized=False)
    before = open_bundle(tmp_path / "before", index(dataset, tmp_path / "before", plain, options))
    other = np.concatenate([keys for keys, _ in before.store.chunks()])
    assert np.abs(other[rows[0]] - keys[rows[0]]).max() > 1e-3


def test_the_new_store_is_let_go_before_the_bundle_is_read_back(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stores() -> int:
        return sum(type(one) is FaissStore for one in gc.get_objects())

    left: list[int] = []
    commit = bundles.commit

    def spy(*given: Any) -> None:
        left.append(stores())
        commit(*given)

    monkeypatch.setattr(bundles, "commit", spy)
    before = stores()
    index(load(str(colour_folder)), copy_root(tiny_bundle, tmp_path / "root"), FromBundle(tiny_bundle), IndexOptions())
    assert left == [before]
