"""Jacobians are the derivatives of what the models say, and their study says what they show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from secondlook.cli import cli
from secondlook.evaluation.robustness.jacobian import JacobianStudy, jacobians, of_batch
from secondlook.evaluation.robustness.models import Models
from secondlook.indexer.datasets.datasets import load
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.errors import BundleError, DatasetError

THETA, CACHE_THETA, LAM = 40.0, 11.0, 0.3


@pytest.mark.parametrize("k", [None, 45])
def test_they_are_the_derivatives_of_each_models_probabilities(tiny_bundle: Path, k: int | None) -> None:
    bundle = open_bundle(tiny_bundle)
    models = Models.of(bundle, k=k, theta=THETA, lam=LAM, cache_theta=CACHE_THETA)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = of_batch(models, torch.from_numpy(images))

    # The paper's equations in double precision, left to autograd.
    encoder = models.encoder.double()
    keys = torch.from_numpy(np.concatenate([keys for keys, _ in bundle.store.chunks()])).double()
    of_class = torch.nn.functional.one_hot(torch.from_numpy(bundle.store.values), 3).double()

    def said(x: torch.Tensor) -> torch.Tensor:
        logits, seen = encoder.network.activations(x[None], encoder.recipe.all_layers)
        similarities = (encoder.keys(seen) @ keys.T)[0]
        if k is not None:
            similarities = similarities.masked_fill(similarities < similarities.topk(k).values[-1], -torch.inf)
        network = logits[0].softmax(0)
        cache, alone = (torch.softmax(theta * similarities, 0) @ of_class for theta in (THETA, CACHE_THETA))
        return torch.stack([network, (1 - LAM) * network + LAM * cache, alone])

    for i, x in enumerate(encoder.network.normalize(torch.from_numpy(images)).double()):
        probabilities = said(x)
        expected = torch.func.jacrev(said)(x).flatten(2)
        for place, name in enumerate(("network", "mixed", "cache_only")):
            torch.testing.assert_close(found[name][0][i].double(), probabilities[place], atol=1e-4, rtol=1e-3)
            size = float(expected[place].norm())
            assert size > 1e-6
            assert float((found[name][1][i].double() - expected[place]).norm()) < 0.01 * size


def test_the_study_covers_the_images_asked_for(tiny_bundle: Path, colour_folder: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    study = jacobians(bundle, Models.of(bundle, keeping="stored"), load(str(colour_folder)), 7)
    assert study.count == 7
    for name in ("network", "mixed", "cache_only"):
        assert study.spectra[name].shape == (7, 3)
        # Probabilities sum to 1, so their derivatives sum to 0.
        assert (study.spectra[name][:, 2] <= 1e-4 * study.spectra[name][:, 0] + 1e-9).all()
    told = study.as_dict()
    assert told["count"] == 7
    assert told["mixed"]["norm"]["low"] <= told["mixed"]["norm"]["value"] <= told["mixed"]["norm"]["high"]
    assert [len(table.rows) for table in study.tables()] == [3, 4]
    assert "find themselves" in study.tables()[0].note
    (figure,) = study.figures()
    assert "nan" not in figure.svg().lower()


def test_a_folder_with_other_classes_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from tests.images_for_tests import make_folder

    folder = make_folder(tmp_path / "others", per_class=2)
    (folder / "red").rename(folder / "orange")
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(DatasetError, match="orange"):
        jacobians(bundle, Models.of(bundle), load(str(folder)), 4)


def study_of(**norms: list[float]) -> JacobianStudy:
    spectra = {name: np.array([[norm, 0.0] for norm in each]) for name, each in norms.items()}
    right = {name: np.ones(len(each), bool) for name, each in norms.items()}
    parameters = {"theta": 1.0, "lam": 0.5, "k": None, "cache_theta": 1.0}
    return JacobianStudy("d", "test", "g", parameters, right, spectra)


def test_orderings_hold_or_do_not_or_are_not_decided() -> None:
    random = np.random.default_rng(0).normal(0, 0.1, 40)
    study = study_of(
        network=(2 + random).tolist(), mixed=(1 + random).tolist(), cache_only=(1 + np.tile([0.5, -0.5], 20)).tolist()
    )
    verdicts = {o.claim: o for o in study.orderings()}
    assert verdicts["first singular value: mixed below network"].holds is True
    assert verdicts["first singular value: mixed below network"].share.value == 1.0
    assert verdicts["norm: cache only below network"].holds is True
    assert verdicts["norm: cache only below mixed"].holds is None
    other = study_of(network=[1.0, 1.1, 1.0], mixed=[2.0, 2.1, 2.2], cache_only=[3.0, 3.0, 3.1])
    assert [o.holds for o in other.orderings()] == [False, True, False, False]


def test_the_command_writes_figures_and_prints_data(tiny_bundle: Path, colour_folder: Path, tmp_path: Path) -> None:
    asked = ["jacobian", colour_folder, "--bundles", tiny_bundle, "--images", 3, "--exact", "--cache-theta", 7]
    done = CliRunner().invoke(cli, [*map(str, asked), "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["count"], told["parameters"]["k"], told["parameters"]["cache_theta"]) == (3, None, 7)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["jacobian.json", "jacobian.png"]


def test_a_bundle_without_a_network_is_refused_with_the_remedy(
    tiny_bundle: Path, colour_folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(tiny_bundle, tmp_path / "root")
    (generation,) = (path for path in root.iterdir() if (path / "manifest.json").is_file())
    (generation / "network.safetensors").unlink()
    manifest = json.loads((generation / "manifest.json").read_text())
    del manifest["files"]["network.safetensors"]
    (generation / "manifest.json").write_text(json.dumps(manifest))
    for command in (["jacobian", str(colour_folder)], ["reproduce", "--out", str(tmp_path / "out")]):
        done = CliRunner().invoke(cli, [*command, "--bundles", str(root)])
        assert isinstance(done.exception, BundleError)
        assert "has no network.safetensors" in str(done.exception)
        assert "index with --network" in str(done.exception)
