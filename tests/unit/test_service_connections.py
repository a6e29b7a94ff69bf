"""How many connections there may be, and which are cut off."""

import resource
from collections.abc import Iterator

import pytest

from secondlook.service.http.connections import Connections
from secondlook.service.shortage import LEAST_CONNECTIONS, MAX_CONNECTIONS, most_connections


class Client:
    def __init__(self, unsent: int = 0) -> None:
        self.unsent, self.is_cut_off = unsent, False

    def cut_off(self) -> None:
        self.is_cut_off = True


def test_no_more_are_admitted_than_may_be_open(caplog: pytest.LogCaptureFixture) -> None:
    connections = Connections(2)
    first, second, third = Client(), Client(), Client()
    assert connections.admit(first)
    assert connections.admit(second)
    assert not connections.admit(third)
    assert not connections.admit(third)
    assert caplog.text.count("turned away") == 1
    connections.leave(third)  # which was not among them
    assert not connections.admit(third)
    connections.leave(first)
    assert connections.admit(third)


def test_those_that_waited_longest_are_cut_off_where_all_is_too_much() -> None:
    connections = Connections(10, unsent_bytes=100)
    first, second, third, fourth = (Client(40) for _ in range(4))
    for one in (first, second):
        connections.waits(one)
        connections.waits(one)
    assert not first.is_cut_off
    connections.took(first)
    connections.waits(first)  # and so second waits longest
    connections.waits(third)
    assert [one.is_cut_off for one in (first, second, third)] == [False, True, False]
    connections.leave(second)
    fourth.unsent = 1000  # alone too much
    connections.waits(fourth)
    assert all(one.is_cut_off for one in (first, third, fourth))


@pytest.fixture
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_descriptors_decide_how_many_may_be_open(limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert LEAST_CONNECTIONS <= most_connections() <= MAX_CONNECTIONS
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    for most, expected in ((64, range(LEAST_CONNECTIONS, 33)), (1 << 20, [MAX_CONNECTIONS])):
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        assert most_connections() in expected
