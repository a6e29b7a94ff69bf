"""The networks, against TensorFlow's rules and the paper's layers."""

import pytest
import torch

from secondlook.model.errors import NetworkError, RecipeError
from secondlook.model.networks.cifar import Conv, ResNet
from secondlook.model.networks.cifar_recipes import NAMED, cifar_recipe


def test_a_keras_stride_2_convolution_pads_only_after() -> None:
    convolution = Conv(1, 1, 3, 2, "keras")
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 2, 2] = 1.0  # picks the last pixel of each window
        convolution.bias.zero_()
        out = convolution(torch.arange(16.0).reshape(1, 1, 4, 4))
    # Windows start at rows and columns 0 and 2; the last one reaches one pixel over the edge.
    assert out[0, 0].tolist() == [[10.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
@pytest.mark.parametrize("variant", ["standard", "keras"])
def test_every_named_layer_can_be_had(depth: int, variant: str) -> None:
    network = ResNet(depth, 7, variant).eval()  # type: ignore[arg-type]
    names = tuple(network.layer_names())
    logits, seen = network.activations(torch.rand(2, 3, 32, 32), names)
    assert logits.shape == (2, 7)
    assert tuple(seen) == names
    assert len(names) == depth  # stem, two for each of the (depth - 2) / 2 blocks, pool
    assert seen["stage3.block1"].shape == (2, 64, 8, 8)


def test_inner_and_block_outputs_are_different_places() -> None:
    network = ResNet(20).eval()
    _, seen = network.activations(torch.rand(1, 3, 32, 32), ("stage3.block2.inner", "stage3.block2"))
    assert not torch.equal(seen["stage3.block2.inner"], seen["stage3.block2"])


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (32, ("stage3.block1", "stage3.block3.inner", "stage3.block4")),
        (20, ("stage3.block1.inner", "stage3.block2.inner", "stage3.block3.inner")),
    ],
)
def test_the_paper_recipe_has_the_authors_layers(depth: int, layers: tuple[str, ...]) -> None:
    assert cifar_recipe("paper", depth).layers == layers


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
@pytest.mark.parametrize("name", NAMED)
def test_cifar_recipes_fit_every_depth(depth: int, name: str) -> None:
    assert set(cifar_recipe(name, depth).all_layers) <= set(ResNet(depth).layer_names())


def test_an_unknown_layer_is_named_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no layer 'stage4.block1': it has stem, stage1.block1.inner"):
        ResNet(20).activations(torch.rand(1, 3, 32, 32), ("stage4.block1",))


def test_an_unknown_depth_is_refused() -> None:
    with pytest.raises(NetworkError, match="no ResNet-18"):
        ResNet(18)


def test_pixel_statistics_are_per_channel_or_per_pixel() -> None:
    images = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8)
    for variant, axes in (("standard", (0, 1, 2)), ("keras", (0,))):
        network = ResNet(20, variant=variant)  # type: ignore[arg-type]
        assert not network.has_pixel_statistics
        network.set_pixel_statistics(images.numpy())
        normalized = network.normalize(images).permute(0, 2, 3, 1)
        torch.testing.assert_close(normalized.mean(axes), torch.zeros_like(normalized.mean(axes)), atol=1e-4, rtol=0)
        std = normalized.std(axes, correction=0)
        torch.testing.assert_close(std, torch.ones_like(std), atol=1e-3, rtol=0)
