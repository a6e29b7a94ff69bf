"""Attacks do what their definitions say, and fool what they claim to fool."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from secondlook.commands.attack import attack as command
from secondlook.evaluation.robustness import white_box
from secondlook.evaluation.robustness.attack_study import attack_study
from secondlook.evaluation.robustness.attacks import ATTACKS, Attack, Crafted, Preset, _filter, bounds, craft
from secondlook.evaluation.robustness.models import NAMES, Models, Name
from secondlook.indexer.datasets.datasets import load
from secondlook.indexer.datasets.reading import read_all
from secondlook.indexer.results import write
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.networks.cifar import ResNet
from secondlook.model.networks.preprocess import CIFAR

PRESET = Preset(fgsm=(4, 0.4), iterative_fgsm=(3, 0.06), iterations=3, pixels=20, gaussian_blur=(4, 1.0))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads wait for each other longer than work on so small images takes, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> ResNet:
    torch.manual_seed(3)
    network = ResNet(20, 5).eval().requires_grad_(False)
    images = np.random.default_rng(1).integers(0, 200, (9, 8, 8, 3), dtype=np.uint8)
    network.set_pixel_statistics(images)
    balance(network, torch.from_numpy(images))
    return network


def balance(network: ResNet, images: Tensor) -> None:
    """Make no class likelier than another: with random weights one would be the answer to everything."""
    with torch.no_grad():
        network.head.bias -= network(network.normalize(images)).mean(0)


@pytest.fixture(scope="module")
def x(network: ResNet) -> Tensor:
    images = np.random.default_rng(2).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    return network.normalize(torch.from_numpy(images))


def classes(network: ResNet, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).argmax(1)


def slope(network: ResNet, x: Tensor, label: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(network(x), label).backward()
    assert x.grad is not None
    low, high = bounds(network)
    return x.grad.sign() * (high - low)


def by_fgsm(network: ResNet, x: Tensor, label: Tensor) -> list[Tensor]:
    return [(x + epsilon * slope(network, x, label)).clamp(*bounds(network)) for epsilon in (0.1, 0.2, 0.3, 0.4)]


def by_iterative_fgsm(network: ResNet, x: Tensor, label: Tensor) -> list[Tensor]:
    tried = []
    for size in (0.02, 0.04, 0.06):
        at = x
        for _ in range(3):
            at = (at + size * slope(network, at, label)).clamp(*bounds(network))
            tried.append(at)
    return tried


def by_gaussian_blur(network: ResNet, x: Tensor, label: Tensor) -> list[Tensor]:
    tried = []
    for sigma in (2.0, 4.0, 6.0, 8.0):
        reach = int(4 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        blurred = x[0].double().numpy()
        for axis in (1, 2):
            wide = np.pad(blurred, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="symmetric")
            blurred = np.apply_along_axis(np.convolve, axis, wide, weights / weights.sum(), "valid")
        tried.append(torch.from_numpy(blurred)[None].float().clamp(*bounds(network)))
    return tried


@pytest.mark.parametrize(
    ("attack", "candidates"),
    [("fgsm", by_fgsm), ("iterative_fgsm", by_iterative_fgsm), ("gaussian_blur", by_gaussian_blur)],
)
def test_the_first_perturbation_that_fools_is_found(
    network: ResNet, x: Tensor, attack: Attack, candidates: Callable[[ResNet, Tensor, Tensor], list[Tensor]]
) -> None:
    labels = classes(network, x)
    crafted = craft(network, x, labels, attack, PRESET)
    expected = {}
    for image in range(len(x)):
        one, label = x[image : image + 1], labels[image : image + 1]
        fooling = [tried for tried in candidates(network, one, label) if classes(network, tried) != label]
        if fooling:
            expected[image] = fooling[0]
    assert len(expected) > 2, "a network that nothing fools tests nothing"
    assert crafted.positions.tolist() == list(expected)
    for position, found, size in zip(crafted.positions, crafted.images, crafted.sizes, strict=True):
        torch.testing.assert_close(found[None], expected[position], atol=1e-4, rtol=1e-4)
        assert size == pytest.approx(float((found - x[position]).norm() / x[position].norm()), rel=1e-4)


def test_a_single_pixel_is_dark_or_bright_and_the_first_of_its_order(network: ResNet, x: Tensor) -> None:
    labels = classes(network, x)
    crafted = craft(network, x, labels, "single_pixel", PRESET)
    assert 0 < len(crafted.positions) < len(x)
    for image in range(len(x)):
        order = np.random.default_rng((0, image)).permutation(64)[:20]
        found = None
        for place in order.tolist():
            for value in bounds(network):
                tried = x[image : image + 1].clone()
                tried[0, :, place // 8, place % 8] = value
                if found is None and classes(network, tried) != labels[image]:
                    found = tried
        if found is None:
            assert image not in crafted.positions
        else:
            (row,) = np.flatnonzero(crafted.positions == image)
            torch.testing.assert_close(crafted.images[row], found[0])


def test_bounds_are_a_black_and_a_white_image(network: ResNet) -> None:
    ends = network.normalize(torch.tensor([0.0, 255.0])[:, None, None, None].expand(2, 8, 8, 3))
    assert bounds(network) == pytest.approx((float(ends.min()), float(ends.max())))


def test_a_filter_keeps_what_is_even_and_mirrors_at_the_edge() -> None:
    for sigma in (0.3, 2.0, 40.0):
        matrix = _filter(8, sigma)
        torch.testing.assert_close(matrix.sum(1), torch.ones(8, dtype=torch.double))
    assert (_filter(8, 40.0) - 1 / 8).abs().max() < 1e-3


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def models(bundle: Bundle) -> Models:
    return Models.of(bundle, k=5, theta=30.0, lam=0.6, cache_theta=20.0)


@pytest.fixture(scope="module")
def grey() -> Tensor:
    images = np.random.default_rng(4).integers(90, 160, (8, 32, 32, 3), dtype=np.uint8)
    return torch.from_numpy(images).float()


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("method", ["pgd", "apgd"])
def test_a_models_own_gradient_fools_it(models: Models, grey: Tensor, target: Name, method: str) -> None:
    said = models(grey)[NAMES.index(target)]
    labels = said.argmax(1)
    random = torch.Generator().manual_seed(0)
    if method == "pgd":
        changed, fooled = white_box.pgd(models, target, grey, labels, 30.0, steps=8, random=random)
    else:
        loss = white_box.dlr
        changed, fooled = white_box.apgd(models, target, grey, labels, 30.0, loss, steps=8, random=random)
    assert float((changed - grey).abs().max()) <= 30.001
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255
    assert (models(changed)[NAMES.index(target)].argmax(1) != labels).tolist() == fooled.tolist()
    # Noise of the same size must do less than the gradient, or the gradient does nothing.
    noise = grey + 60 * torch.rand(grey.shape, generator=random) - 30
    by_noise = models(noise)[NAMES.index(target)].argmax(1) != labels
    assert int(fooled.sum()) > int(by_noise.sum())


def test_every_loss_leads_up(models: Models, grey: Tensor) -> None:
    labels = models(grey).cache_only.argmax(1)
    for loss in (white_box.cross_entropy, white_box.dlr):
        before = white_box.look(models, "cache_only", loss, grey, labels)
        after = white_box.look(models, "cache_only", loss, grey + 0.05 * before.gradients.sign(), labels)
        assert (after.losses > before.losses).all()


def test_dlr_is_the_papers() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    found = white_box.dlr(logits.log_softmax(1), torch.tensor([0, 3]))
    # -(z_y - max of the others) / (z_1 - z_3)
    torch.testing.assert_close(found, torch.tensor([-(4 - 3) / (4 - 1), (4 - 0) / (4 - 1)]))
    two = torch.tensor([[2.0, 1.0]]).log_softmax(1)
    torch.testing.assert_close(white_box.dlr(two, torch.tensor([0])), torch.tensor([-1.0]))


def test_apgd_looks_back_when_its_paper_does() -> None:
    assert sorted(white_box._checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_study_is_whole_and_its_images_can_be_handed_on(
    bundle: Bundle, colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models.of(bundle, k=5)
    monkeypatch.setattr("secondlook.evaluation.robustness.attack_study.PRESETS", {"small": PRESET})
    monkeypatch.setattr(white_box, "STEPS", 2)
    monkeypatch.setattr(white_box, "TRANSFER_STEPS", 2)
    dataset = load(str(colour_folder))
    balance(models.encoder.network, torch.from_numpy(read_all(dataset, CIFAR.geometry)[0]))
    made: dict[Attack, Crafted] = {}
    stages: list[str] = []
    found = attack_study(
        bundle,
        models,
        dataset,
        6,
        preset="small",
        own_gradient=True,
        epsilons=(1.0, 60.0),
        made=made,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert {"FGSM", "single pixel", "transfer", "white box"} <= set(stages)
    assert set(made) == set(ATTACKS)
    result = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert result["count"] == 6
    right = round(6 * result["clean"]["network"]["value"])
    for row in result["attacks"]:
        assert row["tried"] == right
        assert not row["fooled"] or row["network"]["value"] == 0
    assert any(row["fooled"] for row in result["attacks"])
    for name in NAMES:
        shares = {
            (row["method"], row["epsilon"]): row[name]["value"] for row in result["white_box"] if row["target"] == name
        }
        assert shares["ensemble", 1.0] <= shares["pgd", 1.0] <= result["clean"][name]["value"]
        assert shares["ensemble", 60.0] <= shares["ensemble", 1.0]
    written = write(found, tmp_path, "attack")
    assert {path.name for path in written} >= {"attack.json", "attacks.png", "attacked-images.png"}

    stages.clear()
    again = attack_study(
        bundle,
        models,
        dataset,
        6,
        preset="small",
        by_size=False,
        made=made,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert not stages
    assert again.as_dict()["attacks"] == result["attacks"]


def test_the_command_prints_what_it_found(colour_folder: Path, tiny_bundle: Path) -> None:
    options = ("--bundles", tiny_bundle, "--images", 4, "--attacks", "gaussian_blur", "--keys", "float16", "--exact")
    ended = CliRunner().invoke(command, [str(part) for part in (colour_folder, *options, "--json")])
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["count"] == 4
    assert result["parameters"]["k"] is None
    assert [row["attack"] for row in result["attacks"]] == ["gaussian_blur"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--attacks", "fgsm,fsgm"), "there is no attack 'fsgm'"),
        (("--attacks", ""), "nothing to do"),
        (("--preset", "none"), "there is no preset 'none'"),
        (("--white-box", "--epsilons", "1,0"), "not numbers above 0"),
        (("--white-box", "--epsilons", "one"), "not numbers above 0"),
    ],
)
def test_wrong_usage_is_named(arguments: tuple[str, ...], sentence: str) -> None:
    ended = CliRunner().invoke(command, ["cifar10", *arguments])
    assert ended.exit_code == 2
    assert sentence in ended.output
