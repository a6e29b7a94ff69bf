"""What was embedded is kept: an index embeds what is new, and is otherwise what it would be."""

import io
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.embedding.kept_features import Counts, KeptFeatures, keeping_of
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.fitting.unknown import SYNTHETIC
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.refit import refit
from secondlook.indexer.sources.from_network import FromNetwork
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import features_of
from secondlook.model.bundles.root import activate, prune, remove
from secondlook.model.errors import DatasetError
from secondlook.model.images import Limits
from secondlook.model.journal import Journal, NewImage
from tests.images_for_tests import make_image, make_shades, photos
from tests.kept_for_tests import ALONE, DAMAGED, FIXED, MIXED, built, keys, pictures, same, table
from tests.networks_for_tests import colour_classifier, written


def test_an_index_made_again_embeds_nothing_and_is_the_same(shades: Path, tmp_path: Path, network: FromNetwork) -> None:
    first, counts = built(shades, tmp_path / "root", network)
    assert (counts.embedded, counts.known) == (90, 0)
    again, counts = built(shades, tmp_path / "root", network)
    assert (counts.embedded, counts.known) == (0, 90)
    same(again, first)
    assert table(again) == table(first)
    assert again.manifest.dataset.unreadable == (DAMAGED,)
    assert again.manifest.dataset.left_out == first.manifest.dataset.left_out == {"damaged": 1}
    assert again.manifest.calibration == first.manifest.calibration


def test_what_is_made_to_choose_novelty_on_is_embedded_once_and_not_counted(
    shades: Path, tmp_path: Path, network: FromNetwork
) -> None:
    root, honest = tmp_path / "root", IndexOptions(trained="no")
    first, counts = built(shades, root, network, honest)
    assert (counts.embedded, counts.known) == (90, 0)
    files = set((root / "features").rglob("*.npz"))
    assert keeping_of(root, first).count == 90 + 2 * SYNTHETIC
    again, counts = built(shades, root, network, honest)
    assert (counts.embedded, counts.known) == (0, 90)
    assert set((root / "features").rglob("*.npz")) == files
    assert again.manifest.calibration == first.manifest.calibration


def test_a_bundles_own_encoder_finds_them_too(shades: Path, tmp_path: Path, network: FromNetwork) -> None:
    first, _ = built(shades, tmp_path / "root", network, FIXED)
    again, counts = built(shades, tmp_path / "root", FromBundle(tmp_path / "root", first.manifest.generation), FIXED)
    assert (counts.embedded, counts.known) == (0, 90)
    same(again, first)


def test_only_images_that_are_new_are_embedded_wherever_they_are(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    built(shades, tmp_path / "root", source, FIXED)
    for i, image in enumerate(photos(3, 48)):
        Image.fromarray(image).save(shades / ("blue", "green", "red")[i] / f"0{i}_new.png")
    (shades / "red" / "07.png").rename(shades / "red" / "moved.png")
    (shades / "red" / "08.png").unlink()
    more, counts = built(shades, tmp_path / "root", source, FIXED)
    assert (counts.embedded, counts.known) == (3, 89)
    fresh, counts = built(shades, tmp_path / "fresh", source, FIXED)
    assert (counts.embedded, counts.known) == (92, 0)
    same(more, fresh)
    shown = [np.asarray(Image.open(io.BytesIO(png or b""))) for png in pictures(more)]
    expected = [np.asarray(Image.open(io.BytesIO(png or b""))) for png in pictures(fresh)]
    for picture, other in zip(shown, expected, strict=True):
        assert np.abs(picture.astype(int) - other).mean() < 6
    # No sheet has a picture that belongs to no entry.
    entries, sheets = table(more)
    with_places = {number: max(row[4] for row in entries if row[3] == number) + 1 for number, _, _ in sheets}
    for number, height, jpeg in sheets:
        assert Image.open(io.BytesIO(jpeg)).height == height * with_places[number]


def test_another_head_finds_the_keys_and_the_networks_own_its_logits(
    shades: Path, tmp_path: Path, network: FromNetwork
) -> None:
    whole, _ = built(shades, tmp_path / "root", network, FIXED)
    without, counts = built(shades, tmp_path / "root", replace(network, head="none"), ALONE)
    assert (whole.manifest.head, without.manifest.head) == ("network", "none")
    assert (counts.embedded, counts.known) == (0, 90)
    np.testing.assert_allclose(keys(whole), keys(without), atol=1e-6)
    _, counts = built(shades, tmp_path / "other", replace(network, head="none"), ALONE)
    _, counts = built(shades, tmp_path / "other", network, FIXED)
    assert (counts.embedded, counts.known) == (90, 0)


def test_a_linear_heads_logits_are_made_of_the_keys_that_are_kept(
    shades: Path, tmp_path: Path, network: FromNetwork
) -> None:
    built(shades, tmp_path / "root", replace(network, head="none"), ALONE)
    bundle, counts = built(shades, tmp_path / "root", replace(network, head="linear"))
    assert (bundle.manifest.head, counts.embedded, counts.known) == ("linear", 0, 90)
    dataset, counts = load(str(shades)), Counts()
    everything = np.arange(len(dataset.labels))
    asked = embed_queries(dataset, everything, bundle, kept=keeping_of(tmp_path / "root", bundle, counts))
    assert (counts.embedded, counts.known) == (0, 90)
    plain = embed_queries(dataset, everything, bundle)
    np.testing.assert_allclose(asked.logits, plain.logits, atol=1e-4)
    (dataset_again, counts), root = (load(str(shades)), Counts()), tmp_path / "root"
    generation = index(dataset_again, root, FromBundle(root, bundle.manifest.generation), MIXED, counts=counts)
    assert (open_bundle(root, generation).manifest.head, counts.embedded) == ("linear", 0)


def test_mirrored_copies_are_embedded_beside_images_that_are_known(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    built(shades, tmp_path / "root", source, FIXED)
    mirrored = replace(FIXED, mirror=True)
    counting = _Counting(source)
    both, _ = built(shades, tmp_path / "root", counting, mirrored)
    assert counting.images == 90
    fresh, _ = built(shades, tmp_path / "fresh", source, mirrored)
    same(both, fresh)
    again, counts = built(shades, tmp_path / "root", source, mirrored)
    assert (counts.embedded, counts.known) == (0, 90)
    same(again, fresh)


class _Counting:
    """A source whose engine counts what it embeds."""

    def __init__(self, source: EncoderSource) -> None:
        self._source, self.images = source, 0

    def prepare(self, *given: Any) -> Any:
        prepared = self._source.prepare(*given)
        encode = prepared.engine.encode

        def counted(images: Any) -> Any:
            self.images += len(images)
            return encode(images)

        prepared.engine.encode = counted  # type: ignore[method-assign]
        return prepared


def test_thumbnails_are_made_of_known_images_without_embedding_them(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    none, _ = built(shades, tmp_path / "root", source, replace(FIXED, thumbnails=False))
    assert set(pictures(none)) == {None}
    for path in (tmp_path / "root" / "features").rglob("*.npz"):
        with np.load(path) as arrays:
            assert not len(arrays["sheets"])
    counting = _Counting(source)
    with_them, _ = built(shades, tmp_path / "root", counting, FIXED)
    assert counting.images == 0
    fresh, _ = built(shades, tmp_path / "fresh", source, FIXED)
    assert table(with_them) == table(fresh)
    again, _ = built(shades, tmp_path / "root", source, FIXED)
    assert table(again) == table(fresh)


def test_one_picture_in_two_files_is_embedded_once(shades: Path, tmp_path: Path, source: FromBundle) -> None:
    for i in range(70):
        shutil.copyfile(shades / "blue" / f"{i % 30:02d}.png", shades / "red" / f"z{i}.png")
    bundle, counts = built(shades, tmp_path / "root", source, FIXED)
    assert (counts.embedded, counts.known) == (90, 70)
    assert bundle.entries.count == 160


def test_what_is_too_large_now_is_left_out_as_if_it_were_not_known(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    Image.fromarray(photos(1, 64)[0]).save(shades / "red" / "large.png")
    built(shades, tmp_path / "root", source, FIXED)
    bundle, _ = built(shades, tmp_path / "root", source, FIXED, limits=Limits(40 * 40))
    assert bundle.manifest.dataset.left_out == {"damaged": 1, "too large": 1}


def test_two_at_once_do_each_other_no_harm(shades: Path, tmp_path: Path, source: FromBundle) -> None:
    built(shades, tmp_path / "root", source, FIXED)
    shutil.rmtree(tmp_path / "root" / "features")
    found: list[Bundle] = []
    threads = [
        threading.Thread(target=lambda: found.append(built(shades, tmp_path / "root", source, FIXED)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(*found)
    _, counts = built(shades, tmp_path / "root", source, FIXED)
    assert counts.embedded == 0


def test_a_holdout_and_unknown_images_are_kept_too(shades: Path, tmp_path: Path, source: FromBundle) -> None:
    held = make_shades(tmp_path / "held", per_class=10)
    for path in sorted(held.rglob("*.png")):
        shade = np.asarray(Image.open(path)).astype(int) + 9
        Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8)).save(path)
    unknown = tmp_path / "unknown" / "smooth"
    unknown.mkdir(parents=True)
    for i, image in enumerate(photos(20)):
        Image.fromarray(image).save(unknown / f"{i}.png")
    options = IndexOptions(holdout=load(str(held)), unknown=[load(str(unknown.parent))])
    first, counts = built(shades, tmp_path / "root", source, options)
    assert counts.embedded == 90 + 30 + 20
    again, counts = built(shades, tmp_path / "root", source, options)
    assert (counts.embedded, counts.known) == (0, 140)
    assert again.manifest.calibration == first.manifest.calibration
    counting = Counts()
    with keeping_of(tmp_path / "root", again, counting) as kept:
        asked = embed_queries(load(str(held)), np.arange(30), again, kept=kept)
    plain = embed_queries(load(str(held)), np.arange(30), again)
    assert (counting.embedded, counting.known) == (0, 30)
    np.testing.assert_allclose(asked.keys, plain.keys, atol=1e-6)
    np.testing.assert_allclose(asked.logits, plain.logits, atol=1e-5)
    assert asked.labels.tolist() == plain.labels.tolist()


def test_to_fit_anew_embeds_nothing(
    shades: Path, tmp_path: Path, source: FromBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = built(shades, tmp_path / "root", source)
    seen: list[Counts] = []
    made = KeptFeatures.__init__

    def noted(self: KeptFeatures, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        seen.append(self.counts)

    monkeypatch.setattr(KeptFeatures, "__init__", noted)
    refit(load(str(shades)), tmp_path / "root", bundle.manifest.generation)
    assert sum(counts.known for counts in seen) > 0
    assert sum(counts.embedded for counts in seen) == 0


def test_taught_images_are_kept_as_they_were_sent(shades: Path, tmp_path: Path, source: FromBundle) -> None:
    built(shades, tmp_path / "root", source, FIXED)
    journal = Journal(tmp_path / "root")
    journal.add("blue", [NewImage("a.png", make_image("blue", seed=5)), NewImage("b.png", b"no image")], "somebody")
    for embedded, known in ((1, 90), (0, 91)):
        counts = Counts()
        index(fold(load(str(shades)), journal), tmp_path / "root", source, FIXED, counts=counts)
        assert (counts.embedded, counts.known) == (embedded, known)


def test_a_class_whose_images_are_all_damaged_is_refused_again(
    shades: Path, tmp_path: Path, source: FromBundle
) -> None:
    built(shades, tmp_path / "root", source, FIXED)
    whole = (shades / "red" / "00.png").read_bytes()
    for path in (shades / "red").iterdir():
        path.write_bytes(whole[:200] + path.name.encode())
    said = []
    for _ in range(2):
        with pytest.raises(DatasetError) as error:
            built(shades, tmp_path / "root", source, FIXED)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_what_an_encoder_embedded_goes_with_its_last_bundle(shades: Path, tmp_path: Path, network: FromNetwork) -> None:
    root = tmp_path / "root"
    bundles = [built(shades, root, network, FIXED)[0].manifest for _ in range(2)]
    other = written(colour_classifier({"a": (200, 40, 30), "b": (40, 180, 60)}), tmp_path, "other")
    third, _ = built(shades, root, replace(network, name=str(other), head="none"), ALONE)
    activate(root, third.manifest.generation)
    kept = {path.name for path in (root / "features").iterdir()}
    assert kept == {features_of(bundles[0]), features_of(third.manifest)}
    del third
    remove(root, bundles[0].generation)
    assert {path.name for path in (root / "features").iterdir()} == kept
    unfinished = "0" * 64
    (root / "features" / unfinished).mkdir()
    prune(root, 1)
    left = {path.name for path in (root / "features").iterdir()}
    assert features_of(bundles[0]) not in left
    assert unfinished in left
    assert len(left) == 2
