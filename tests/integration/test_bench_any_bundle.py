"""What a server of any bundle is measured with: the images it is sent, the peers' pipeline, the processor's time."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bodies import MADE, bodies_for
from benchmarks.client import media_type
from benchmarks.peers.pipeline import Pipeline
from benchmarks.processor_time import processor_seconds
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.errors import DatasetError
from tests.images_for_tests import make_folder, make_image


def test_a_bundle_s_own_images_are_sent_as_they_lie_there(tiny_bundle: Path, colour_folder: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    bodies, what = bodies_for(manifest, colour_folder.parent, None)
    assert sorted(bodies) == sorted(file.read_bytes() for file in colour_folder.rglob("*.*"))
    assert what == f"60 images of {colour_folder.name} train"


def test_the_test_split_is_sent_where_there_is_one(tiny_bundle: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "colours/train", 5)
    make_folder(tmp_path / "colours/test", 2)
    manifest = open_bundle(tiny_bundle).manifest
    dataset = manifest.dataset.model_copy(update={"name": "colours"})
    bodies, what = bodies_for(manifest.model_copy(update={"dataset": dataset}), tmp_path, None)
    assert (len(bodies), what) == (6, "6 images of colours test")


def test_other_photos_or_made_ones_are_sent_where_the_images_are_not_here(tiny_bundle: Path, tmp_path: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    gone = manifest.model_copy(
        update={"dataset": manifest.dataset.model_copy(update={"name": str(tmp_path / "nowhere")})}
    )
    bodies, what = bodies_for(gone, None, None)
    assert (len(bodies), len(set(bodies)), what) == (MADE, MADE, f"{MADE} made photos, JPEGs of 500 x 373")
    assert {media_type(body) for body in bodies} == {"image/jpeg"}
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(DatasetError, match="no image lies below"):
        bodies_for(gone, None, photos)
    (photos / "deep").mkdir()
    (photos / "deep/one.png").write_bytes(make_image("red"))
    (photos / "notes.txt").write_text("no image")
    bodies, what = bodies_for(gone, None, photos)
    assert (bodies, what) == ([(photos / "deep/one.png").read_bytes()], "1 files below photos")
    assert media_type(bodies[0]) == "image/png"


def test_the_peers_answer_with_the_same_probabilities(tiny_bundle: Path, colour_folder: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    pipeline, predictor = Pipeline(tiny_bundle), Predictor(bundle)
    bodies, _ = bodies_for(bundle.manifest, colour_folder.parent, None)
    images = np.stack([pipeline.decode(body) for body in bodies[::4]])
    theta, lam, k = predictor.defaults
    # Of a theta that a call gives; under a bundle's own, a picture that is cached is answered by its label.
    answers = predictor.predict(images, [Parameters(theta * (1 + 1e-9), lam, k)] * len(images))
    for given, expected in zip(pipeline.answers(images), answers, strict=True):
        assert isinstance(expected, Answer)
        np.testing.assert_allclose(given, expected.mixed, atol=1e-4)
        told = pipeline.told(given)["predictions"][0]
        assert told["label"] == bundle.manifest.classes[int(expected.mixed.argmax())]
        assert told["probability"] == max(one["probability"] for one in told["top"])


def test_the_processor_s_time_is_that_of_a_process_and_all_below_it() -> None:
    busy = "import time\nuntil = time.process_time() + 0.3\nwhile time.process_time() < until: pass\n"
    parent = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {busy + 'time.sleep(60)'!r}], "
    parent += "start_new_session=True)\nprint('started', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        until = time.monotonic() + 60
        while processor_seconds(process.pid) < 0.3 and time.monotonic() < until:
            time.sleep(0.05)
        assert 0.3 <= processor_seconds(process.pid) < 5
    finally:
        for line in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            subprocess.run(["kill", line], check=True)
        process.kill()
        process.wait()
        process.stdout.close()
    assert processor_seconds(process.pid) == 0
