"""How much is let in at once."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from secondlook.service.errors import QueueFullError
from secondlook.service.http import admission
from secondlook.service.http.admission import RESERVED_BYTES, Admission


def test_a_full_server_refuses_until_someone_leaves() -> None:
    full = Admission(max_images=8, max_bytes=1000)
    with full.admit() as three:
        three.add(images=2)
        with full.admit() as four:
            four.add(images=3)
            assert full.images == 7
            with full.admit() as one:
                with pytest.raises(QueueFullError, match="8 images"):
                    full.admit()
                with pytest.raises(QueueFullError):
                    one.add(images=1)
        with full.admit() as five:
            five.add(images=4)
            assert full.images == 8
    assert (full.images, full.bytes) == (0, 0)


def test_bytes_count_too() -> None:
    full = Admission(max_images=8, max_bytes=1000)
    with full.admit(900):
        with pytest.raises(QueueFullError):
            full.admit(101)
        with full.admit(100) as small:
            small.add(received=60)
            small.add(received=40)
            assert full.bytes == 1000
            with pytest.raises(QueueFullError):
                small.add(received=1)
        assert full.bytes == 900
    assert full.bytes == 0


def test_announcements_alone_shut_nobody_out_and_what_comes_is_bounded() -> None:
    full = Admission(max_images=100, max_bytes=10 * RESERVED_BYTES)
    with ExitStack() as inside:
        large = [inside.enter_context(full.admit(9 * RESERVED_BYTES)) for _ in range(2)]
        assert full.bytes == 2 * RESERVED_BYTES
        with pytest.raises(QueueFullError):
            full.admit(9 * RESERVED_BYTES)  # it would not fit beside what is held
        small = inside.enter_context(full.admit(RESERVED_BYTES))
        large[0].add(received=6 * RESERVED_BYTES)
        large[1].add(received=3 * RESERVED_BYTES)
        assert full.bytes == full.max_bytes
        with pytest.raises(QueueFullError):
            large[0].add(received=1)
        small.add(received=RESERVED_BYTES)  # what was kept free for it
        assert full.bytes == full.max_bytes
    assert (full.images, full.bytes) == (0, 0)


def test_who_comes_alone_is_let_in_whatever_it_brings() -> None:
    full = Admission(max_images=2, max_bytes=10)
    with full.admit(1000) as alone:
        alone.add(images=5, received=2000)
        with pytest.raises(QueueFullError):
            full.admit()
    with full.admit():
        pass


def test_the_wait_is_what_it_takes_at_the_pace_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: now))
    full = Admission(max_images=100, max_bytes=1000)
    stays = full.admit()
    stays.add(images=79)
    assert full.wait_s() == 1  # nothing is known yet
    for _ in range(20):  # ten images a second
        with full.admit():
            now += 0.1
    assert full.wait_s() == 8
    for _ in range(200):  # now a hundred: what was long ago counts for less and less
        with full.admit():
            now += 0.01
    assert full.wait_s() <= 2
    for _ in range(40):
        with full.admit():
            now += 10
    assert full.wait_s() == admission.LONGEST_WAIT_S


def test_a_server_in_which_nothing_moves_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: now))
    full = Admission(max_images=1, max_bytes=1000)
    with full.admit():
        now += 61
        with pytest.raises(QueueFullError) as refused:
            full.admit()
        assert refused.value.retry_after_s == admission.LONGEST_WAIT_S
