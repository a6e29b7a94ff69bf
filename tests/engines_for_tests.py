"""Which engines tests can run here."""

import pytest

from secondlook.model.bundles.engines import why_no_openvino


def need_openvino() -> None:
    """Skip a test, or a whole file of them, where OpenVINO cannot run."""
    if (why := why_no_openvino()) is not None:
        pytest.skip(f"OpenVINO {why}", allow_module_level=True)
