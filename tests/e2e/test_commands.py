"""The commands as a user types them."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.files import FEATURES
from tests.images_for_tests import make_folder, make_image


def secondlook(*arguments: object, module: str = "secondlook") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_train_index_fit_evaluate_classify(tmp_path: Path) -> None:
    """The whole path on one's own images."""
    make_folder(tmp_path / "colours" / "train", per_class=40)
    make_folder(tmp_path / "colours" / "test", per_class=5)
    network, root = tmp_path / "network.safetensors", tmp_path / "bundles"

    trained = secondlook(
        *("train", tmp_path / "colours", "--out", network, "--depth", 20, "--epochs", 2, "--batch-size", 16),
        *("--lr", 0.02, "--json"),
    )
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["epochs"] == 2
    assert not network.with_name("network.safetensors.checkpoint").exists()

    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"layers": ["stage3.block1"], "pool": [2], "reduce": 8, "extra": "pool"}))
    arguments = ("--bundles", root, "--network", network, "--recipe", recipe, "--mirror", "--store", "SQ8")
    indexed = secondlook("index", tmp_path / "colours", *arguments)
    assert indexed.returncode == 0, indexed.stderr
    assert "store SQ8" in indexed.stderr
    assert "of held-out answers change their first class" in indexed.stderr
    generation = indexed.stdout.strip().splitlines()[-1]
    assert (root / "CURRENT").read_text().strip() == generation
    bundle = open_bundle(root)
    assert (bundle.store.count, bundle.store.dim) == (240, 72)

    fitted = secondlook("fit", tmp_path / "colours", "--bundles", root, "--k", 5, "--k", "all")
    assert fitted.returncode == 0, fitted.stderr
    newer = fitted.stdout.strip().splitlines()[-1]
    assert newer > generation

    evaluated = secondlook("evaluate", tmp_path / "colours", "--bundles", root, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    result = json.loads(evaluated.stdout)
    # Sharp enough, the sum over all entries is decided by the nearest ones.
    sharp = ("--exact", "--theta", 100000)
    exact = secondlook("evaluate", tmp_path / "colours", "--bundles", root, *sharp, "--json")
    assert json.loads(exact.stdout)["cache_only"]["error_percent"] == 0
    own = secondlook("evaluate", tmp_path / "colours" / "train", "--bundles", root)
    assert own.returncode == 1
    assert "is what the bundle caches" in own.stderr
    assert result["count"] == 15
    assert result["generation"] == newer
    assert result["cache_only"]["error_percent"] == 0
    assert set(result["network"]) == set(result["mixed"]) == {"error_percent", "ece_percent", "nll"}

    (tmp_path / "sky.png").write_bytes(make_image("blue", seed=99))
    (tmp_path / "bad.png").write_bytes(b"no image")
    classified = secondlook("classify", tmp_path / "sky.png", tmp_path / "bad.png", "--bundles", root, "--lam", 1)
    assert classified.returncode == 1
    assert "blue" in classified.stdout
    assert "bad.png: the file is not one of" in classified.stderr

    listed = secondlook("bundles", "list", "--bundles", root)
    assert [line[:1] for line in listed.stdout.splitlines()] == [" ", "*"]
    assert secondlook("bundles", "remove", newer, "--bundles", root).returncode == 1
    assert secondlook("bundles", "activate", generation, "--bundles", root).returncode == 0
    assert secondlook("bundles", "remove", newer, "--bundles", root).returncode == 0
    assert secondlook("bundles", "verify", "--bundles", root).returncode == 0


def test_a_terminated_index_leaves_nothing_but_what_was_embedded(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_bundle, tmp_path / "bundles"))
    before = sorted(root.iterdir())
    folder = make_folder(tmp_path / "colours", per_class=400)
    command = [sys.executable, "-m", "secondlook", "index", str(folder), "--bundles", str(root), "--progress", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "embed":
            break
    assert len(list(root.glob(".*.draft"))) == 1
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert sorted(path for path in root.iterdir() if path.name != FEATURES) == before
    assert all(path.suffix == ".npz" for path in (root / FEATURES).rglob("*") if path.is_file())


@pytest.mark.slow
def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path) -> None:
    make_folder(tmp_path / "colours", per_class=40)
    options = ("train", tmp_path / "colours", "--depth", 20, "--batch-size", 16, "--json")
    import torch
    from safetensors.torch import load_file

    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.train import TrainOptions, train

    class StoppedError(Exception):
        pass

    def stop_in_the_third_epoch(stage: str, done: int, total: int) -> None:
        if stage == "epoch 3":
            raise StoppedError

    straight, broken = tmp_path / "straight.safetensors", tmp_path / "broken.safetensors"
    dataset = load(str(tmp_path / "colours"))
    plan = TrainOptions(depth=20, epochs=3, batch_size=16)
    with pytest.raises(StoppedError):
        train(dataset, broken, plan, device="cpu", progress=stop_in_the_third_epoch)
    resumed = secondlook(*options, "--epochs", 3, "--out", broken, "--device", "cpu")
    assert resumed.returncode == 0, resumed.stderr
    train(dataset, straight, plan, device="cpu")
    # The files' headers are not in a fixed order; their tensors are the same to the last bit.
    one, other = load_file(straight), load_file(broken)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=0, rtol=0)


@pytest.mark.slow
def test_training_from_a_network_goes_on_from_what_it_knows(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "colours", per_class=40)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    short = ("--depth", 20, "--batch-size", 16, "--epochs", 1, "--device", "cpu", "--json")
    assert secondlook("train", folder, "--out", first, *short).returncode == 0
    # At so small a rate, one epoch leaves the weights all but where they were.
    went_on = secondlook("train", folder, "--out", second, "--start", first, "--lr", 1e-9, *short)
    assert went_on.returncode == 0, went_on.stderr
    from secondlook.model.networks.file import load_network

    a, b = load_network(first).network.state_dict(), load_network(second).network.state_dict()
    weights = [name for name in a if name.endswith("weight")]
    assert max(float((a[name] - b[name]).abs().max()) for name in weights) < 1e-4

    (folder / "red").rename(folder / "scarlet")
    renamed = secondlook("train", folder, "--out", second, "--start", first, "--lr", 1e-9, *short)
    assert renamed.returncode == 0, renamed.stderr
    c = load_network(second).network.state_dict()
    assert float((a["stem.0.weight"] - c["stem.0.weight"]).abs().max()) < 1e-4
    assert float((a["head.weight"] - c["head.weight"]).abs().max()) > 1e-2

    deeper = secondlook("train", folder, "--out", second, "--start", first, "--depth", 32, *short[2:])
    assert deeper.returncode == 1
    assert "holds a resnet20, not a resnet32: give --depth 20" in deeper.stderr


def test_recipes_are_compared_and_one_is_named(tmp_path: Path, tiny_network: Path, colour_folder: Path) -> None:
    flat, wide = tmp_path / "flat.json", tmp_path / "wide.json"
    flat.write_text(json.dumps({"layers": ["pool"]}))
    wide.write_text(json.dumps({"layers": ["stage3.block1"], "pool": [4]}))
    picture = tmp_path / "recipes.png"
    compared = secondlook(
        *("fit", colour_folder, "--recipes", f"{wide},{flat}", "--network", tiny_network),
        *("--mirror", "--plot", picture, "--json"),
    )
    assert compared.returncode == 0, compared.stderr
    result = json.loads(compared.stdout)
    assert [(r["name"], r["dim"]) for r in result["recipes"]] == [("wide", 1024), ("flat", 64)]
    assert result["entries"] == 108  # 54 images outside the holdout, and their mirrored copies
    # Both tell plain colours apart, so the smaller one is taken.
    assert result["chosen"] == "flat"
    assert result["why"].startswith("flat: of the recipes")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("index", "nowhere", "--bundles", "b"), 1, "there is no dataset 'nowhere'"),
        (("index", "cifar10", "--bundles", "b", "--theta", "5"), 2, "give --theta, --lam and --k together"),
        (("index", ".", "--bundles", "b", "--recipe", "none"), 2, "there is no recipe 'none'"),
        (("index", "colours", "--bundles", "b", "--theta", "5", "--lam", "2", "--k", "5"), 2, "lam must be between"),
        (("fit", "colours"), 2, "give --bundles"),
        (("fit", "colours", "--bundles", "b", "--mirror"), 2, "go with --recipes"),
        (("evaluate", "cifar10", "--bundles", "no-such-root"), 1, "has no active bundle"),
        (("import-keras", "no.h5", "out.safetensors"), 1, "there is no file no.h5"),
        (("index", "colours", "--bundles", "b", "--store", "Fat"), 1, "knows airplane"),
        (("evaluate", "colours", "--split", "val"), 1, "no val/ with class folders: it is whole"),
        (("train", "colours", "--out", "missing/net.safetensors"), 1, "there is no folder missing"),
        (("fly",), 2, "No such command 'fly'"),
        (("serve", "--port", "99999"), 2, "99999"),
        (("classify",), 2, "IMAGES"),
    ],
)
def test_mistakes_get_one_line_and_the_right_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECONDLOOK_DATA", raising=False)
    make_folder(tmp_path / "colours", per_class=1)
    ended = secondlook(*arguments)
    assert ended.returncode == status, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["bench", "plan"])
def test_a_command_that_is_gone_says_what_to_type(name: str) -> None:
    ended = secondlook(name, "serve")
    assert ended.returncode == 2
    assert "python -m benchmarks" in ended.stderr
