"""Which of a network's classes are which of a dataset's."""

from pathlib import Path

import numpy as np
import pytest

from secondlook.model.errors import NetworkError
from secondlook.model.networks.classes import match_classes, read_class_map

NETWORK = ("tench, Tinca tinca", "golf ball", "French_horn", "cat", "Cat")


def test_names_match_exactly_then_folded() -> None:
    exact = match_classes(("cat", "golf ball", "dog"), NETWORK)
    assert exact is not None
    assert (exact.groups, exact.how, exact.known) == (((3,), (1,), ()), "exact", (0, 1))
    folded = match_classes(("Golf-Ball", "french horn", "Tench", "tinca_tinca"), NETWORK)
    assert folded is not None
    assert (folded.groups, folded.how) == (((1,), (2,), (0,), (0,)), "folded")
    assert match_classes(("glass", "paper"), NETWORK) is None
    assert match_classes(("cat",), None) is None


def test_a_class_map_names_by_name_or_index_many_to_one(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text("# ours\ttheirs\nfish\t0\tignored\npet\tcat\npet\t4\n\nball\tGolf Ball\n")
    match = match_classes(("ball", "fish", "pet", "rest"), NETWORK, read_class_map(path))
    assert match is not None
    assert match.groups == ((1,), (0,), (3, 4), ())
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.15, 0.25]], np.float32))
    np.testing.assert_allclose(np.exp(match.log_probabilities(logits)), [[0.2, 0.1, 0.4, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat 3\n", "line 1: write the dataset's class, a TAB"),
        ("", "is empty"),
        ("ball\tgolf bal\n", "did you mean golf ball"),
        ("ball\t99\n", "0 to 4"),
        ("dog\t3\n", "none of the dataset's classes"),
    ],
)
def test_a_class_map_that_fits_nothing_gets_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text(text)
    with pytest.raises(NetworkError, match=said):
        match_classes(("ball",), NETWORK, read_class_map(path))
    with pytest.raises(NetworkError, match="cannot be read"):
        read_class_map(tmp_path / "none.txt")
