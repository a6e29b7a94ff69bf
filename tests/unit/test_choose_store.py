"""Which store ``auto`` makes of so many keys of so many numbers."""

import re

import pytest

from secondlook.model.stores.factory import FACTORY, FEWEST_PER_CENTROID, choose_store


@pytest.mark.parametrize(
    ("count", "dim", "expected"),
    [
        (0, 1280, "Flat"),
        (500, 1024, "Flat"),
        (2000, 1280, "Flat"),
        (2001, 1280, "IVF32,SQ8"),
        (50_000, 112, "IVF512,SQ8"),
        (1_000_000, 112, "IVF2048,SQ8"),
        (10_000_000, 112, "IVF8192,SQ8"),
        (50_000, 1280, "IVF512,SQ8"),
        (1_300_000, 512, "HNSW32,SQ8"),
        (10_000_000, 256, "HNSW32,SQ8"),
    ],
)
def test_few_are_looked_through_many_lie_in_lists_and_many_wide_ones_in_a_graph(
    count: int, dim: int, expected: str
) -> None:
    factory, why = choose_store(count, dim)
    assert factory == expected
    assert f"{count:,} keys of {dim} numbers" in why


@pytest.mark.parametrize("fewest", [400, 4_000, 40_000])
def test_lists_are_as_many_as_the_keys_that_are_there_in_any_case_can_train(fewest: int) -> None:
    lists = re.match(r"IVF(\d+)", choose_store(100_000, 192, fewest)[0])
    assert lists is not None
    assert int(lists[1]) * FEWEST_PER_CENTROID <= fewest


def test_whatever_is_chosen_is_a_store() -> None:
    for count in (0, 1, 3000, 10**5, 10**7):
        for dim in (1, 64, 512, 4096):
            assert FACTORY.fullmatch(choose_store(count, dim)[0])
