"""Which folders are taken for bundles, and that nothing is written to others."""

import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.model.bundles.default import seed
from secondlook.model.bundles.root import draft, require_root
from secondlook.model.errors import BundleError
from secondlook.model.journal import Journal, NewImage
from tests.images_for_tests import make_image
from tests.service_for_tests import copy_root


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "secondlook", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment or None, check=False)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "letters").mkdir(parents=True)
    (folder / "jobs").mkdir()
    (folder / "a.txt").write_text("mine")
    return folder


def test_a_folder_with_other_things_is_refused_and_left_as_it_is(documents: Path) -> None:
    before = tree(documents)
    for act in (require_root, seed, lambda root: draft(root).__enter__()):
        with pytest.raises(BundleError, match=r"other things \(a\.txt, letters\)"):
            act(documents)
    assert tree(documents) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "--port=0", "--bundles"),
        ("index", "cifar10", "--bundles"),
        ("fit", "--bundles"),
        ("taught", "import", ".", "--bundles"),
        ("bundles", "list", "--bundles"),
    ],
)
def test_commands_refuse_it_before_any_work(documents: Path, arguments: tuple[str, ...]) -> None:
    before = tree(documents)
    refused = run(*arguments, str(documents))
    assert refused.returncode == 1, refused.stderr
    assert refused.stderr.startswith(f"Error: {documents} is no folder of bundles")
    assert "--bundles" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert tree(documents) == before


def test_what_an_empty_folder_may_have(tmp_path: Path) -> None:
    require_root(tmp_path / "new")
    require_root(tmp_path)
    for name in ("lost+found", "@eaDir", "jobs", ".20261122T101500Z-3f9c.draft"):
        (tmp_path / name).mkdir()
    for name in (".DS_Store", ".gitkeep", ".CURRENT.12ab"):
        (tmp_path / name).touch()
    require_root(tmp_path)
    seed(tmp_path)
    require_root(tmp_path)


def test_a_root_may_have_other_things(tiny_bundle: Path, tmp_path: Path) -> None:
    root = copy_root(tiny_bundle, tmp_path / "root")
    (root / "notes.txt").write_text("mine")
    require_root(root)
    (root / "CURRENT").unlink()
    require_root(root)
    taught = tmp_path / "taught"
    Journal(taught).add("crab", [NewImage("a.png", make_image("red"))], "alice")
    (taught / "notes.txt").write_text("mine")
    require_root(taught)


def test_files_and_links_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is a file"):
        seed(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(BundleError, match=r"is a link to .*gone, which is not there"):
        seed(tmp_path / "link")
    served = run("serve", "--port=0", SECONDLOOK_BUNDLES=str(tmp_path / "link"), PATH="/usr/bin")
    assert served.returncode in (1, 2)
    assert "gone, which is not there" in served.stderr
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone").mkdir()
    seed(tmp_path / "link")
    assert (tmp_path / "gone" / "CURRENT").exists()
