"""Parts of a GPU run that go wrong, each in its own way."""

import os
import time
from collections.abc import Iterator

from benchmarks.gpu.plan import Clock, Found, LeftOut, NotHereError, Plan


def agrees(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    yield Found("one", {"device": plan.device, "had_time": clock.left > 0}, True)
    yield LeftOut("other", "it is not here")


def differs(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    yield Found("one", {"value": 1}, True)
    yield Found("two", {"value": 2}, False, "it is 2")


def raises(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    yield Found("one", {}, True)
    raise RuntimeError("no kernel image")


def dies(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    yield Found("one", {})
    os.abort()


def hangs(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    yield Found("one", {})
    time.sleep(600)


def lacks_module(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401

    yield Found("one", {})


def lacks_ours(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    import secondlook.no_such_module  # type: ignore[import-not-found]  # noqa: F401

    yield Found("one", {})


def is_not_here(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    raise NotHereError("there are no weights")
    yield
