"""A server in this process, on a root of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kept_for_tests import network as network
from tests.kept_for_tests import shades as shades
from tests.kept_for_tests import source as source
from tests.service_for_tests import KEY, Call, copy_root, create_app, serving, settings


@pytest.fixture
def root(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_root(tiny_bundle, tmp_path / "bundles")


@pytest.fixture
def call(root: Path, colour_folder: Path) -> Iterator[Call]:
    with serving(create_app(settings(bundles=root, admin_key=KEY, data=colour_folder.parent, max_taught=8))) as call:
        yield call
