"""Answers are sent whole, without another order or another end than before."""

import asyncio
from collections.abc import Callable

import pytest

from secondlook.service.http.connection import Together

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Recorded(asyncio.Transport):
    """What is done with a transport, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done

    def pause_reading(self) -> None:
        self.done.append("paused")


def both(together: Together) -> None:
    together.write(HEAD)
    together.write(b"ok")


def head_alone(together: Together) -> None:
    together.write(HEAD)


def more(together: Together) -> None:
    both(together)
    together.write(b"and more")


def two_answers(together: Together) -> None:
    both(together)
    both(together)


def head_and_end(together: Together) -> None:
    together.write(HEAD)
    together.close()


def all_and_end(together: Together) -> None:
    both(together)
    together.close()


def cut_off(together: Together) -> None:
    together.write(HEAD)
    together._transport.close()


@pytest.mark.parametrize(
    ("what", "at_once", "later"),
    [
        (both, [HEAD + b"ok"], []),
        (head_alone, [], [HEAD]),
        (more, [HEAD + b"ok", b"and more"], []),
        (two_answers, [HEAD + b"ok", HEAD + b"ok"], []),
        (head_and_end, [HEAD, "closed"], []),
        (all_and_end, [HEAD + b"ok", "closed"], []),
        (cut_off, ["closed"], []),
        (lambda together: together.pause_reading(), ["paused"], []),
    ],
)
def test_an_answer_is_sent_whole(
    what: Callable[[Together], None], at_once: list[bytes | str], later: list[bytes | str]
) -> None:
    async def run() -> None:
        transport = Recorded()
        what(Together(transport, asyncio.get_running_loop()))
        assert transport.done == at_once
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.done == at_once + later

    asyncio.run(run())
