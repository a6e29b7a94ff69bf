"""Architectures of torchvision, timm and Keras, with random weights, and as people export them: one body of tests."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.architectures_for_tests import ALL, AT_ONCE, run

pytestmark = pytest.mark.networks

Said = dict[str, Future[dict[str, Any]]]


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> Iterator[Said]:
    """What the process of each network says that was selected, two at a time: one is mostly on a single core."""
    items = (item for item in request.session.items if item.path == request.path)
    names = [item.callspec.params["name"] for item in items if isinstance(item, pytest.Function)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name) for name in names}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", ALL)
def test_it_is_found_exported_and_proven(name: str, said: Said) -> None:
    """Layers are found, encoders exported, and one image = each of five = the network in its own library."""
    found = said[name].result()
    assert "error" not in found, found["error"]
    assert found["layers"] > 4
    assert found["difference"] <= 1e-3
