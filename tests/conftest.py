"""Fixtures shared by all tests, and the marks that tests get from their folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from secondlook.model.networks.preprocess import CIFAR
from tests.images_for_tests import make_folder
from tests.milvus_for_tests import MilvusProcess

# A slow machine is no reason to fail: no test here asserts a time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


SLOW = frozenset(
    {
        # integration
        "test_decoders.py",
        "test_holdouts.py",
        "test_image_peaks.py",
        "test_reproduce.py",
        # e2e: servers that are killed, stopped, starved or attacked, and measured
        "test_at_home_faults.py",
        "test_bench.py",
        "test_bench_serve.py",
        "test_browser_pixels.py",
        "test_decoding.py",
        "test_ending.py",
        "test_fairness.py",
        "test_faults.py",
        "test_gpu.py",
        "test_hostile.py",
        "test_hung_workers.py",
        "test_odd_folders.py",
        "test_openapi.py",
        "test_overload.py",
        "test_page_many_faults.py",
        "test_server_limits.py",
        "test_sharded_index.py",
        "test_shortage.py",
        "test_switching.py",
        "test_teaching_workers.py",
        "test_wheel.py",
        "test_workers.py",
    }
)
"""Files whose tests take minutes together, so that `make test` stays quick; `make slow` runs them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in ("unit", "integration", "e2e"):
            item.add_marker(getattr(pytest.mark, room))


@pytest.fixture(scope="session", autouse=True)
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever is started with nothing set keeps what it makes here, and never in the home of who runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))
        yield


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three classes of plain colours, 20 images each."""
    return make_folder(tmp_path_factory.mktemp("datasets") / "colours")


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path) -> Path:
    """A small real network with random weights for those classes."""
    import torch

    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.datasets.reading import read_all
    from secondlook.model.networks.cifar import ResNet
    from secondlook.model.networks.file import save_network

    torch.manual_seed(1)
    dataset = load(str(colour_folder))
    network = ResNet(20, len(dataset.classes))
    network.set_pixel_statistics(read_all(dataset, CIFAR.geometry)[0])
    path = tmp_path_factory.mktemp("networks") / "tiny.safetensors"
    save_network(
        network.eval(),
        path,
        classes=dataset.classes,
        trained_on="nothing: random weights",
        trained=np.empty(0, np.uint64),
    )
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, colour_folder: Path, tiny_network: Path) -> Path:
    """The root of a real bundle of those images. Tests that write copy it."""
    from secondlook.indexer.datasets.datasets import load
    from secondlook.indexer.index import IndexOptions, index
    from secondlook.indexer.sources.from_cifar import FromCifar
    from secondlook.model.bundles.root import activate
    from secondlook.model.networks.recipe import Recipe

    root = tmp_path_factory.mktemp("bundles")
    recipe = Recipe(layers=("stage3.block1", "stage3.block2.inner"), pool=(4, 4), reduce=16, extra="pool")
    generation = index(load(str(colour_folder)), root, FromCifar(tiny_network, recipe), IndexOptions())
    activate(root, generation)
    # Other folders have some of these images too: what tests embed is to be all that they embed.
    shutil.rmtree(root / "features")
    return root


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusProcess]:
    """A real Milvus server. A test that stops it starts it again."""
    server = MilvusProcess(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where the CIFAR sets are unpacked; tests that need them skip where they are not."""
    root = os.environ.get("SECONDLOOK_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("SECONDLOOK_DATA does not point at an unpacked copy of CIFAR-10")
    return Path(root)
