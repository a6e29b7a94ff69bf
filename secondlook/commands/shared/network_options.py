"""Networks and key recipes, as options name them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.indexer.sources.from_network import FromNetwork, HeadChoice
from secondlook.model.bundles.files import NETWORK, read_manifest
from secondlook.model.errors import RecipeError
from secondlook.model.networks.cifar_recipes import NAMED, cifar_recipe
from secondlook.model.networks.network import Network
from secondlook.model.networks.onnx_network import OnnxNetwork
from secondlook.model.networks.recipe import Recipe
from secondlook.model.networks.sources import TABLE

network_help = f"A network, as it is: {', '.join(source.form for source in TABLE)}"

preprocess_option = click.option(
    "--preprocess",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A JSON file that says how images become the network's input, in place of what it declares; also one that "
    "timm or transformers wrote.",
)
class_map_option = click.option(
    "--class-map",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Lines of the dataset's class, TAB, the network's class (name or index); without it, they are matched by "
    "name.",
)


def network_source(
    network: str,
    recipe: str | None,
    preprocess: Path | None = None,
    class_map: Path | None = None,
    head: HeadChoice = "auto",
    test: Callable[[], Dataset] | None = None,
    *,
    mirror: bool = False,
    root: Path | None = None,
) -> FromCifar | FromNetwork:
    """Where the encoder of a network comes from; ``test`` opens the dataset's test images.

    With ``mirror``, mirrored copies are to be cached. ``root`` is where the bundle is to be.

    Raises:
        click.UsageError: an option is for other networks.
        RecipeError: there is no such recipe, or it is for other networks.
    """
    asked = None if recipe is None else read_recipe(recipe)
    if is_cifar(network):
        for option, given in (("--preprocess", preprocess), ("--class-map", class_map)):
            if given is not None:
                raise click.UsageError(
                    f"{option} does not go with {network}, which says itself what it takes and knows"
                )
        if head in ("linear", "none"):
            raise click.UsageError(f"--head {head} does not go with {network}: give its ONNX graph")
        return FromCifar(Path(network), asked or "compact", test)
    if isinstance(asked, str):
        raise _of_cifar(asked, network)
    return FromNetwork(network, asked, preprocess, class_map, head, may_mirror=not mirror, root=root)


def own_network(root: Path, generation: str) -> str:
    """The file of a bundle's own network.

    Raises:
        RecipeError: it keeps none.
    """
    if NETWORK in (manifest := read_manifest(root, generation)).files:
        return str(root / generation / NETWORK)
    raise RecipeError(
        f"bundle {generation} keeps no network to make other keys with: give --network again (it was "
        f"{manifest.network.name})"
    )


def written_recipe(text: str, network: Network) -> Recipe:
    """Read a recipe for a network.

    Raises:
        RecipeError: there is none, or it is for other networks.
    """
    asked = read_recipe(text)
    if isinstance(asked, Recipe):
        return asked
    if isinstance(network, OnnxNetwork):
        raise _of_cifar(asked, network.name)
    from secondlook.model.networks.cifar_network import CifarNetwork

    assert isinstance(network, CifarNetwork)
    return cifar_recipe(asked, network.network.depth)


def _of_cifar(recipe: str, network: str) -> RecipeError:
    return RecipeError(
        f"{recipe} is a recipe of the CIFAR ResNets: give a JSON file that names layers, as secondlook network "
        f"{network} lists them"
    )


def is_cifar(network: str) -> bool:
    """Whether it is a file of ``train`` or ``import-keras``."""
    return Path(network).suffix.lower() == ".safetensors" and ":" not in network


def read_recipe(text: str) -> str | Recipe:
    """Read a recipe's name as it is, or a recipe written out in a JSON file.

    Raises:
        RecipeError: neither.
    """
    if text in NAMED:
        return text
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"there is no recipe {text!r}: choose {', '.join(NAMED)} or give a JSON file")
    try:
        return TypeAdapter(Recipe).validate_python(json.loads(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"{path} is not a recipe: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, OSError) as error:
        raise RecipeError(f"{path} is not a JSON file") from error
