"""What a person is told of their photos: how well each class is told, and what to do next."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from secondlook.commands.shared.photos_report import LISTED, PhotosReport
from secondlook.curation.class_report import BundleReport, ClassReport
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.datasets.left_out import LeftOut, Reason
from secondlook.indexer.photos import Photos
from secondlook.model.images import Limits
from secondlook.model.manifest import ClassFigures, DatasetInfo, Manifest, NetworkInfo
from secondlook.model.networks.preprocess import CIFAR

Figures = Mapping[str, tuple[int, int, Mapping[str, int]]]
"""Of each class: photos, how many were answered right, what the others were taken for."""


def report(figures: Figures, left_out: LeftOut | None = None, **dataset: object) -> PhotosReport:
    count = sum(photos for photos, _, _ in figures.values())
    folder = Photos(
        Path("/photos"),
        FolderDataset(
            "photos", "train", tuple(figures), np.zeros(count, np.int64), Path("/photos"), (), Limits(1), (),
            left_out or LeftOut(),
        ),
        None,
    )  # fmt: skip
    info = DatasetInfo(name="photos", split="train", images=count, mirrored=False, sha256="")
    manifest = Manifest.model_construct(
        generation="20261128T101500Z-3f9c",
        network=NetworkInfo(name="backbone", sha256=""),
        preprocess=CIFAR,
        head="linear",
        classes=tuple(figures),
        dataset=info.model_copy(update=dataset),
        parameters_from="cross-validation",
        holdout=None,
    )
    classes = tuple(
        ClassReport(
            label,
            photos,
            ClassFigures(label=label, images=photos, right=right, confused=tuple(taken.items())),
        )
        for label, (photos, right, taken) in figures.items()
    )
    left = folder.dataset.left_out
    return PhotosReport(folder, Path("/root"), left, BundleReport(manifest, classes, left.counts()), 0)


def test_all_well_says_so() -> None:
    (said,) = report({"cat": (60, 60, {}), "dog": (60, 59, {"cat": 1})}).of_bundle.advice()
    assert said.startswith("nothing stands out")


def test_a_class_with_few_photos_needs_more() -> None:
    said = list(report({"chair": (1, 1, {}), "dog": (60, 60, {}), "sofa": (9, 9, {})}).of_bundle.advice())
    assert said == [
        "chair needs more photos: it has one photo only, 20 are a good start",
        "sofa needs more photos: it has 9 photos only, 20 are a good start",
    ]


def test_two_classes_that_are_taken_for_each_other_are_named_together() -> None:
    said = list(
        report(
            {"fork": (20, 17, {"spoon": 3}), "knife": (60, 60, {}), "spoon": (20, 18, {"fork": 2})}
        ).of_bundle.advice()
    )
    assert said[0].startswith("fork and spoon are confused, 5 times in 40 photos")


def test_a_class_that_is_told_worse_than_the_others_is_named() -> None:
    figures = {name: (60, 60, {}) for name in ("a", "b", "c", "d")}
    said = list(report({**figures, "chair": (30, 15, {"a": 4, "b": 4, "c": 4, "d": 3})}).of_bundle.advice())
    assert any(sentence.startswith("chair needs more photos, or more varied ones: 50 (") for sentence in said)


def test_one_picture_in_two_classes_and_damaged_photos_come_first() -> None:
    left_out = LeftOut()
    left_out.add("cat/broken.jpg", Reason.DAMAGED)
    left_out.add(".DS_Store", Reason.SYSTEM)
    pair = ("cat/1.jpg", "dog/2.jpg")
    found = report(
        {"cat": (5, 5, {}), "dog": (60, 60, {})}, left_out, in_two_classes=(pair,), in_two_classes_count=3, duplicates=1
    )
    said = list(found.of_bundle.advice())
    assert said[0] == (
        "cat/1.jpg and dog/2.jpg are one picture in two classes: remove it from the wrong one; so it is 2 times more"
    )
    assert said[1] == "one photo could not be read: replace or remove them"
    assert said[2].startswith("cat needs more photos")
    assert list(found.notes()) == [
        "left out: 1 damaged (cat/broken.jpg), 1 hidden or system (.DS_Store)",
        "copies: 1 photo shows a picture that another one shows too; that does no harm",
        "one picture in two classes: cat/1.jpg and dog/2.jpg",
        "network: backbone, 32 x 32, cover, bicubic, head: linear",
    ]


def test_shares_have_their_interval() -> None:
    found = report({"cat": (60, 57, {"dog": 3}), "dog": (60, 60, {})})
    rows = found.table().rows
    assert rows[0] == ("cat", "60", "57 of 60", "95 (86 to 98)", "dog 3")
    assert rows[2][:4] == ("all", "120", "117 of 120", "98 (93 to 99)")
    (cat, _) = found.as_dict()["classes"]
    assert cat["right_percent"] == pytest.approx([95.0, 86.3, 98.29], abs=0.01)  # Wilson (1927), 57 of 60
    assert cat["confused"] == {"dog": 3}


def test_of_many_classes_the_worst_are_shown() -> None:
    found = report({f"class{i}": (10, i % 11, {}) for i in range(2_000)})
    rows = found.table().rows
    assert len(rows) == LISTED + 1
    assert {row[2] for row in rows[:-1]} == {"0 of 10"}
    assert len(found.as_dict()["classes"]) == 2_000
    assert len(list(found.of_bundle.advice())) < 10


def test_where_no_honest_answers_are_known_that_is_said() -> None:
    found = report({"cat": (60, 60, {}), "dog": (60, 60, {})})
    unknown = tuple(ClassReport(one.label, one.photos, None) for one in found.of_bundle.classes)
    without = replace(found, of_bundle=replace(found.of_bundle, classes=unknown))
    assert without.of_bundle.right is None
    assert without.table().rows[0][2:4] == ("not asked", "")
    assert without.as_dict()["right_percent"] is None
    assert list(without.of_bundle.advice())
