"""Which image is decoded next."""

import asyncio
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from secondlook.model.errors import ImageTooSlowError
from secondlook.model.images import SMALL, Limits
from secondlook.service.decoding.jobs import Job, Spending
from secondlook.service.decoding.lanes import Lanes

GIF, PNG = b"GIF89a", b"\x89PNG\r\n\x1a\n"
_order = itertools.count()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def job(loop: asyncio.AbstractEventLoop, spending: Spending | None = None, pixels: int = 0, file: bytes = PNG) -> Job:
    out, spent = np.empty((*SMALL.size, 3), np.uint8), spending or Spending(1.0)
    return Job(file, out, SMALL, Limits(100), spent, 0.0, loop.create_future(), next(_order), pixels=pixels)


def taken(lanes: Lanes) -> list[Job]:
    return list(iter(lanes.take_quick, None))


def test_a_request_of_many_lets_those_of_few_between(loop: asyncio.AbstractEventLoop) -> None:
    lanes, many = Lanes(), Spending(1.0)
    first, second, third = (job(loop, many) for _ in range(3))
    alone = job(loop)
    for one in (first, second, third, alone):
        lanes.add_quick(one)
    assert taken(lanes) == [first, alone, second, third]
    assert not lanes


def test_what_is_like_one_that_was_in_the_wrong_lane_goes_behind_others(loop: asyncio.AbstractEventLoop) -> None:
    lanes = Lanes()
    like, other = job(loop, file=GIF), job(loop)
    lanes.suspect(job(loop, file=GIF))
    lanes.add_quick(like)
    lanes.add_quick(other)
    assert taken(lanes) == [other, like]


def test_slow_ones_go_by_what_their_request_has_taken_and_then_by_size(loop: asyncio.AbstractEventLoop) -> None:
    lanes = Lanes()
    large, small = job(loop, pixels=9), job(loop, pixels=3)
    costly = job(loop, Spending(9.0, spent_s=5.0), pixels=1)
    for one in (costly, large, small):
        lanes.add_slow(one)
    assert lanes.first_of_others(small) is large
    assert lanes.first_slow() is lanes.first_slow() is small
    seen = []
    while (first := lanes.first_slow()) is not None:
        seen.append(first)
        lanes.take_slow(first)
    assert seen == [small, large, costly]


def test_what_nobody_waits_for_and_what_has_taken_too_much_is_not_decoded(loop: asyncio.AbstractEventLoop) -> None:
    for is_quick in (True, False):
        lanes = Lanes()
        left, spent, good = job(loop), job(loop, Spending(1.0, spent_s=2.0)), job(loop, Spending(9.0, spent_s=8.0))
        for one in (left, spent, good):
            (lanes.add_quick if is_quick else lanes.add_slow)(one)
        left.done.cancel()
        assert list(lanes) == [left, spent, good]
        assert (lanes.take_quick() if is_quick else lanes.first_slow()) is good
        assert isinstance(spent.done.exception(), ImageTooSlowError)
