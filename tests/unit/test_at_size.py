"""CIFAR-100 made as large as ImageNet, and the report of what it costs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.moved_images import WAYS, Way, moved, moved_images, ways
from benchmarks.size_report import fit_seconds, kind_of, size_figure, size_tables
from benchmarks.stores import StoreResult
from secondlook.indexer.datasets.datasets import ArrayDataset
from secondlook.model.networks.preprocess import CIFAR


def some_images(count: int = 6) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 3
    return ArrayDataset("some", "train", ("a", "b", "c"), labels, images, [f"{i}.png" for i in range(count)])


def test_an_image_is_moved_in_thirteen_ways_the_nearest_first() -> None:
    assert len(set(ways())) == WAYS == 13
    assert ways(1) == [Way(0, 0)]
    far = [abs(way.down) + abs(way.right) for way in ways()]
    assert far == sorted(far)
    assert far[-1] == 2


def test_a_moved_image_has_its_pixels_elsewhere_and_repeats_its_edge() -> None:
    image = some_images(1).images[0]
    down = moved(image, Way(2, -1))
    assert down.shape == image.shape
    np.testing.assert_array_equal(down[2:, :-1], image[:-2, 1:])
    np.testing.assert_array_equal(down[0, :-1], image[0, 1:])
    np.testing.assert_array_equal(down[2:, -1], image[:-2, -1])
    np.testing.assert_array_equal(moved(image, Way(0, 0)), image)


def test_moved_images_are_all_as_they_are_and_then_all_moved() -> None:
    base = some_images()
    dataset = moved_images(base, 3)
    assert len(dataset.labels) == 18
    np.testing.assert_array_equal(dataset.labels.reshape(3, 6), np.tile(base.labels, (3, 1)))
    np.testing.assert_array_equal(dataset.read(4, CIFAR.geometry), base.images[4])
    np.testing.assert_array_equal(dataset.read(6 + 4, CIFAR.geometry), moved(base.images[4], ways(3)[1]))
    assert len({dataset.source(position) for position in range(18)}) == 18
    digests = [content.digest for position in range(18) if (content := dataset.content(position)) is not None]
    assert len(set(digests)) == 18
    # Its own holdout would be asked of the same images, moved elsewhere.
    assert not len(dataset.holdout())
    assert dataset.content_hash() != moved_images(base, 2).content_hash()


def one(factory: str, entries: int, *, is_auto: bool = False) -> StoreResult:
    return StoreResult(
        factory=factory,
        entries=entries,
        is_auto=is_auto,
        search_settings="8 until 0.9, 64",
        searched_again_percent=50.0,
        build_seconds=2.0,
        build_processor_seconds=entries / 1000,
        bytes_per_entry=520.0,
        recall_percent=99.0,
        changed_top1_percent=1.0,
        changed_among_nearest_percent=0.25,
        mean_variation=0.01,
        one_ms=2.0,
        one_processor_ms=1.0,
        many_ms=1.0,
        many_processor_ms=0.5,
        one_over_encode=1.0,
        many_over_encode=1.0,
        one_over_floor=1.0,
    )


def test_the_report_has_a_line_for_each_store_and_size_and_a_plot_of_them(tmp_path: Path) -> None:
    results = [one(f"IVF{lists},SQ8", size, is_auto=True) for lists, size in ((64, 1000), (128, 10_000))]
    results += [one("HNSW32,SQ8", size) for size in (1000, 10_000)]
    assert {kind_of(result) for result in results} == {"IVF,SQ8", "HNSW32,SQ8"}
    tables = size_tables({"sizes": {"stores": [vars(replace(result)) for result in results]}})
    assert len(tables) == 1
    assert tables[0].rows[0][:4] == ("1,000", "IVF,SQ8 (auto)", "1", "1")
    assert tables[0].rows[3][4:7] == ("1.00", "0.50", "99.8")
    size_figure(results).write(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


def test_fit_and_calibration_are_what_comes_between_store_and_files() -> None:
    names = ("embed", "store", "search", "approximation", "calibrate", "verify")
    steps = [{"name": name, "seconds": 2.0, "cpu_seconds": 1.0, "peak_bytes": 0} for name in names]
    assert fit_seconds({"steps": steps}) == (6.0, 3.0)
