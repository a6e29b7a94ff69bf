"""Calibration of a bundle's doubt, and the study that asks what it is worth."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from secondlook.cli import cli
from secondlook.evaluation.statistics.detection import ACCEPTED
from secondlook.evaluation.studies.doubt import ERRORS, SCORES, Doubt, doubt
from secondlook.evaluation.studies.novelties import WITHIN, Novelties, novelties
from secondlook.evaluation.studies.unknown_images import unknown_images
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.embedding.queries import embed_queries
from secondlook.indexer.fitting.novelty import CANDIDATES
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.refit import recalibrate
from secondlook.model.answering.doubt import ranked
from secondlook.model.answering.predictor import Answer, Parameters, Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.root import generations
from secondlook.model.cache import softmax
from secondlook.model.errors import BundleError, DatasetError
from secondlook.model.manifest import Manifest
from secondlook.model.networks.preprocess import CIFAR
from tests.covariance_for_tests import inverse_covariance
from tests.images_for_tests import make_folder
from tests.service_for_tests import copy_root

SAME = {"generation", "created", "secondlook_version", "calibration", "same_as", "holdout", "network", "files"}


def held_out(bundle: Bundle, dataset: Dataset) -> list[Answer]:
    """What a bundle of all images but the holdout's says of those."""
    images = np.stack([dataset.read(int(i), bundle.geometry) for i in dataset.holdout()])
    predictor = Predictor(bundle)
    found = predictor.predict(images, [predictor.defaults] * len(images))
    return [answer for answer in found if isinstance(answer, Answer)]


@pytest.mark.parametrize("store", ["Flat", "IVF1,Flat"])
def test_only_the_calibration_changes(store: str, tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    # Labels that the images do not show: neighbours disagree, and an image that found itself would be told apart.
    shown = load(str(colour_folder))
    assert isinstance(shown, FolderDataset)
    dataset = dataclasses.replace(shown, labels=np.random.default_rng(0).permutation(shown.labels))
    parameters = Parameters(20.0, 0.7, 9)
    first = index(dataset, tmp_path, FromBundle(tiny_bundle), IndexOptions(store=store, parameters=parameters))
    second = recalibrate(dataset, tmp_path, first, IndexOptions(trained="no"))
    old, new = open_bundle(tmp_path, first), open_bundle(tmp_path, second)
    assert old.manifest.calibration is None
    assert old.manifest.model_dump(exclude=SAME) == new.manifest.model_dump(exclude=SAME)
    is_trained = {"trained_on_these"}
    assert old.manifest.network.model_dump(exclude=is_trained) == new.manifest.network.model_dump(exclude=is_trained)
    assert new.manifest.network.trained_on_these == "no"
    changed = {"looks.npz": None, "holdout.npz": None, "directions.npy": None}
    assert old.manifest.files | changed == new.manifest.files | changed
    assert new.manifest.holdout is not None
    assert (new.manifest.holdout.images, new.manifest.holdout.honest) == (6, True)
    calibration = new.manifest.calibration
    assert calibration is not None
    assert calibration.sets is not None
    assert calibration.credibility is not None
    # Without the holdout's entries, as a bundle of the other images answers.
    others = np.setdiff1d(np.arange(len(dataset.labels)), dataset.holdout())
    kept = embed_queries(dataset, others, new)
    rest = dataclasses.replace(new, store=type(new.store).build(kept.keys, kept.labels, "Flat"))  # type: ignore[attr-defined]
    labels = dataset.labels[dataset.holdout()]
    answers = held_out(rest, dataset)
    for known, shares in (
        (calibration.sets, [a.mixed[y] for a, y in zip(answers, labels, strict=True)]),
        (calibration.credibility, [a.cache[y] for a, y in zip(answers, labels, strict=True)]),
    ):
        expected = ranked(1.0 - np.array(shares, np.float64))
        assert (known.images, known.ranks) == (6, expected.ranks)
        assert known.scores == pytest.approx(expected.scores, abs=1e-5)


def test_novelty_is_chosen_on_images_that_are_given(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    strange = unknown_images("drawings", (32, 32), images=20)
    options = IndexOptions(unknown=[strange])
    generation = recalibrate(load(str(colour_folder)), root, generations(root)[0], options)
    bundle = open_bundle(root, generation)
    assert bundle.manifest.calibration is not None
    novelty = bundle.manifest.calibration.novelty
    assert [one.score for one in novelty.candidates] == list(CANDIDATES)
    assert all(set(one.auroc) == {"noise", "textures", "drawings"} for one in novelty.candidates)
    (chosen,) = (one for one in novelty.candidates if one.score == novelty.score)
    assert chosen.lost == min(one.lost for one in novelty.candidates)
    assert novelty.evidence is not None
    assert (bundle.directions is not None) == novelty.evidence.goes_by_rmds
    assert bundle.manifest.calibration.standing is not None
    assert sum(bundle.manifest.calibration.standing.values()) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize(
    "score", ["rmds", "energy + rmds / 2 + nearest / 4", "softmax", "energy + nearest / 5 - surplus"]
)
def test_what_is_served_goes_by_what_was_fitted(
    score: str, tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's novelty is the candidate's, worked out here from the bundle's entries alone."""
    monkeypatch.setattr("secondlook.indexer.fitting.novelty.CANDIDATES", {score: CANDIDATES[score]})
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    dataset = load(str(colour_folder))
    generation = recalibrate(dataset, root, generations(root)[0])
    predictor = Predictor(bundle := open_bundle(root, generation))
    calibration = bundle.manifest.calibration
    assert calibration is not None
    evidence = calibration.novelty.evidence
    assert evidence is not None
    images = np.stack([unknown_images("noise", (32, 32), images=5).read(i, CIFAR.geometry) for i in range(5)])
    logits, keys = bundle.engine.encode(images)
    held = set(dataset.holdout().tolist())
    own = [i for i, source in enumerate(bundle.entries.sources()) if source not in {dataset.source(p) for p in held}]
    stored = np.concatenate([part for part, _ in bundle.store.chunks()])
    means = np.stack([stored[own][bundle.store.values[own] == c].mean(axis=0) for c in range(3)]).astype(np.float64)
    apart = stored[own] - means[bundle.store.values[own]]
    inverse = inverse_covariance(apart)
    far = [((key - m) @ inverse @ (key - m)) for key in keys for m in (*means, stored[own].mean(axis=0))]
    distances = np.reshape(far, (5, 4))
    energy, rmds = np.log(np.exp(logits.astype(np.float64)).sum(axis=1)), distances[:, 3] - distances[:, :3].min(axis=1)
    expected = (
        evidence.softmax * (softmax(logits).max(axis=1))
        + evidence.energy * energy
        + evidence.rmds * rmds
        + evidence.similarity * (keys @ stored.T).max(axis=1)
    )
    if (surplus := evidence.surplus) is not None:
        expected -= np.maximum(0, surplus.energy * energy - surplus.rmds * rmds - surplus.over)
    assert (evidence.surplus is not None) == score.endswith("surplus")
    answers = predictor.predict(images, [predictor.defaults] * 5)
    for answer, of in zip(answers, expected, strict=True):
        assert isinstance(answer, Answer)
        assert answer.novelty == pytest.approx(1 / (1 + np.exp(of - evidence.limit)), abs=1e-3)
        assert answer.is_novel == (answer.novelty > 0.5)


def test_a_bundle_without_what_its_surplus_goes_by_is_refused(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = "energy + nearest / 5 - surplus"
    monkeypatch.setattr("secondlook.indexer.fitting.novelty.CANDIDATES", {score: CANDIDATES[score]})
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    generation = recalibrate(load(str(colour_folder)), root, generations(root)[0])
    path = root / generation / "manifest.json"
    written = json.loads(path.read_text())
    del written["files"]["directions.npy"]
    path.write_text(json.dumps(written))
    with pytest.raises(BundleError, match=r"does not list directions\.npy"):
        open_bundle(root, generation)


def test_calibrating_on_other_images_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = load(str(make_folder(tmp_path / "other", per_class=3)))
    with pytest.raises(DatasetError, match="is not the dataset that generation"):
        recalibrate(other, tiny_bundle, generations(tiny_bundle)[0])


def test_a_manifest_without_calibrated_doubt_is_still_read(tiny_bundle: Path) -> None:
    written = json.loads(open_bundle(tiny_bundle).manifest.model_dump_json())
    for new in ("sets", "credibility"):
        del written["calibration"][new]
    for new in ("evidence", "of_taught", "score", "candidates", "blind_to"):
        del written["calibration"]["novelty"][new]
    calibration = Manifest.model_validate(written).calibration
    assert calibration is not None
    assert (calibration.sets, calibration.credibility, calibration.novelty.evidence) == (None, None, None)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("fresh") / "colours"
    make_folder(root, per_class=6)
    return load(str(root), "test")


@pytest.fixture(scope="module")
def found(tiny_bundle: Path, fresh: Dataset) -> Doubt:
    strange = [unknown_images(name, (32, 32), images=30) for name in ("drawings", "noise")]
    return doubt(open_bundle(tiny_bundle), fresh, strange)


def test_the_study_measures_answers_as_they_are_served(found: Doubt, tiny_bundle: Path, fresh: Dataset) -> None:
    predictor = Predictor(open_bundle(tiny_bundle))
    strange = unknown_images("noise", (32, 32), images=30)

    def answers(of: Dataset) -> list[Answer]:
        images = np.stack([of.read(i, CIFAR.geometry) for i in range(len(of.labels))])
        said = predictor.predict(images, [predictor.defaults] * len(images))
        return [answer for answer in said if isinstance(answer, Answer)]

    known, others = answers(fresh), answers(strange)
    noise = next(one for one in found.unknown if one.name == "noise")
    assert (noise.images, noise.known) == (30, 18)
    assert noise.novel == pytest.approx(100 * np.mean([a.is_novel for a in others]))
    for name, score in (
        ("novelty", lambda a: a.novelty),
        ("mixed", lambda a: -a.mixed.max()),
        ("network", lambda a: -a.network.max()),
    ):
        pairs = [np.sign(score(b) - score(a)) / 2 + 0.5 for a in known for b in others]
        assert noise.scores[name].auroc.value == pytest.approx(100 * np.mean(pairs), abs=0.2)
    assert found.false_alarms == pytest.approx(100 * np.mean([a.is_novel for a in known]))
    assert set(noise.scores) == set(SCORES)


def test_the_study_is_told_in_full(found: Doubt, tmp_path: Path) -> None:
    json.dumps(found.as_dict(), allow_nan=False)
    kinds = [one.name for one in found.unknown if one.name != ERRORS]
    assert kinds == ["drawings", "noise"]
    tables = found.tables()
    assert len(tables) == len(found.unknown) + 5
    assert list(found.standings) == ["colours", "drawings", "noise"]
    assert all(sum(of.values()) == pytest.approx(100) for of in found.standings.values())
    assert set(found.left_out) == set(CANDIDATES)
    assert len(tables[0].rows) == len(SCORES)
    assert f"where {100 * ACCEPTED:g} % of the known do" in tables[0].note
    figures = found.figures()
    assert [figure.name for figure in figures] == ["doubt-roc", "doubt-novelty", "doubt-sets"]
    for figure in figures:
        figure.write(tmp_path / f"{figure.name}.png")
        assert (tmp_path / f"{figure.name}.png").stat().st_size > 5_000


def test_the_choice_is_held_to_the_best_candidate_on_what_it_did_not_see(
    tiny_bundle: Path, colour_folder: Path, fresh: Dataset
) -> None:
    strange = [unknown_images(name, (32, 32), images=20) for name in ("drawings", "noise")]
    dataset = load(str(colour_folder))
    row = novelties("tiny", FromBundle(tiny_bundle), dataset, fresh, strange)
    assert (row.entries, row.holdout, row.known) == (len(dataset.labels), 9, 9)
    assert {"noise", "textures"} <= row.chosen_on[row.chosen].keys()
    assert row.asked.keys() == row.chosen_on.keys() == CANDIDATES.keys()
    assert set(row.lost) >= {"drawings", "noise"}
    for kind, lost in row.lost.items():
        best = max(of[kind] for of in row.asked.values())
        assert lost == pytest.approx(best - row.asked[row.chosen][kind], abs=0.01)
    bundle = open_bundle(tiny_bundle)
    entries, known, noise = (
        embed_queries(of, np.arange(len(of.labels)), bundle).keys for of in (dataset, fresh, strange[1])
    )
    rest = np.random.default_rng(0).permutation(len(known)) % 2 == 1
    near, far = ((keys @ entries.T).max(axis=1) for keys in (known[rest], noise))
    pairs = np.sign(near[:, None] - far[None]) / 2 + 0.5
    assert row.asked["nearest"]["noise"] == pytest.approx(100 * pairs.mean(), abs=1)
    first, *others = Novelties((row,)).tables()
    assert [(cells[1], cells[-1]) for cells in first.rows] == [
        (kind, "yes" if lost <= WITHIN else "no") for kind, lost in row.lost.items()
    ]
    assert [len(table.rows) for table in others] == [len(CANDIDATES)]
    json.dumps(Novelties((row,)).as_dict(), allow_nan=False)


def test_a_bundle_that_is_not_calibrated_is_refused(tiny_bundle: Path, fresh: Dataset) -> None:
    bundle = open_bundle(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"calibration": None})
    with pytest.raises(BundleError, match="secondlook fit --calibrate makes one"):
        doubt(dataclasses.replace(bundle, manifest=manifest), fresh)


def test_the_commands_do_the_same(tiny_bundle: Path, colour_folder: Path, fresh: Dataset, tmp_path: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "bundles")
    run = CliRunner()
    # A folder of images of nothing in particular needs no class folders.
    (strange := tmp_path / "strange").mkdir()
    noise = unknown_images("noise", (32, 32), images=8)
    for i in range(8):
        Image.fromarray(noise.read(i, CIFAR.geometry)).save(strange / f"{i}.png")
    options = ["--calibrate", "--unknown", str(strange), "--json"]
    calibrated = run.invoke(cli, ["fit", str(colour_folder), "--bundles", str(root), *options])
    assert calibrated.exit_code == 0, calibrated.output
    told = json.loads(calibrated.output.splitlines()[-1])
    assert told["calibration"]["sets"]["images"] == 6
    assert set(told["calibration"]["novelty"]["candidates"][0]["auroc"]) == {"noise", "textures", "strange"}
    assert told["same_as"]["exact"] <= 1
    assert told["generation"] == max(generations(root))
    folder = tmp_path / "fresh" / "colours"
    make_folder(folder, per_class=2)
    options = ["--bundles", str(root), "--unknown", "noise", "--images", "6", "--json"]
    asked = run.invoke(cli, ["study", "doubt", str(folder), *options])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.output.splitlines()[-1])["unknown"][0]["name"] == "noise"
    picture = next((folder / "red").iterdir())
    said = run.invoke(cli, ["classify", str(picture), "--bundles", str(root), "--coverage", "0.9", "--json"])
    assert json.loads(said.output)["prediction_set"] is None  # six images cannot promise that
    plain = run.invoke(cli, ["classify", str(picture), "--bundles", str(root), "--coverage", "0.9"])
    assert "credibility " in plain.output
    assert "90 % set: " not in plain.output


@pytest.mark.parametrize(
    "options",
    [["--unknown", ".", "--recipes", "compact"], ["--calibrate", "--k", "3"], ["--calibrate", "--recipes", "compact"]],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], tiny_bundle: Path) -> None:
    refused = CliRunner().invoke(cli, ["fit", "cifar10", "--bundles", str(tiny_bundle), *options])
    assert refused.exit_code == 2
