"""Calls over HTTP, repeated where a server is busy, and where a connection breaks and repeating is safe."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx

from secondlook.client.errors import BusyError, ClientError, UnexpectedAnswerError, UnreachableError, problem_error

PROBLEM = "application/problem+json"
CONNECT_S = 10.0

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Retry:
    """How long a call is tried. The wait doubles with each try, a random part of it is taken, after Retry-After."""

    within_s: float = 120.0
    """No try begins later than so many seconds after the first one; 0 = one try."""
    first_s: float = 0.5
    longest_s: float = 15.0

    def wait_s(self, tries: int, retry_after: float | None) -> float:
        """Seconds to wait after so many tries.

        Random, so that clients who were refused together do not come back together; after Retry-After and not before.
        """
        random_part = random.uniform(0, min(self.longest_s, self.first_s * 2 ** min(tries - 1, 20)))
        return (retry_after or 0.0) + random_part


@dataclass
class Calls:
    """One server's address, key and connections; to be used from several threads at once."""

    http: httpx.Client
    retry: Retry
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set to end all waiting."""

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send, and read the answer as JSON. Options are httpx's and those of ``send``.

        Raises:
            ClientError: as for ``send``; UnexpectedAnswerError also where the answer is not JSON.
        """
        return _json(self.send(method, path, **options))

    def send(self, method: str, path: str, *, is_repeatable: bool = True, **options: Any) -> httpx.Response:
        """Send until there is an answer. A call that is not repeatable is not sent again after its connection broke.

        Raises:
            UnreachableError: there is no answer.
            ProblemError: the server says why not.
            UnexpectedAnswerError: no answer that a secondlook server gives.
        """
        started, tries = time.monotonic(), 0
        while True:
            tries += 1
            error: ClientError
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError as broken:
                # Nothing was sent over a connection that never was.
                is_safe = is_repeatable or isinstance(broken, httpx.ConnectError | httpx.ConnectTimeout)
                error, retry_after = UnreachableError(self._unreachable(broken)), None
                error.__cause__ = broken
            except httpx.HTTPError as broken:
                raise UnexpectedAnswerError(f"{self.http.base_url}: {broken}") from broken
            else:
                if response.is_success:
                    return response
                error = _error(response)
                is_safe, retry_after = isinstance(error, BusyError), getattr(error, "retry_after", None)
            wait = self.retry.wait_s(tries, retry_after)
            if not is_safe or time.monotonic() + wait > started + self.retry.within_s or self.stopping.wait(wait):
                raise error

    def _unreachable(self, broken: httpx.TransportError) -> str:
        address = str(self.http.base_url).rstrip("/")
        match broken:
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return f"there is no server at {address} ({broken or 'it does not answer'})"
            case httpx.TimeoutException():
                return f"the server at {address} did not answer in time"
        return f"the connection to {address} broke: {broken or type(broken).__name__}"


def _error(response: httpx.Response) -> ClientError:
    """What an answer other than 2xx says."""
    if response.headers.get("content-type", "").startswith(PROBLEM):
        document = _json(response)
        if isinstance(document, dict):
            retry_after = _seconds(response.headers.get("retry-after"))
            request_id = response.headers.get("x-request-id")
            return problem_error(
                {"status": response.status_code} | document, retry_after=retry_after, request_id=request_id
            )
    if response.status_code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        # Of a proxy in front of it.
        document = {"status": response.status_code, "title": response.reason_phrase}
        return BusyError(document, retry_after=_seconds(response.headers.get("retry-after")))
    return UnexpectedAnswerError(
        f"{response.request.url.copy_with(query=None)} answered {response.status_code} {response.reason_phrase}: "
        "is a secondlook server there?"
    )


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        sentence = f"{response.request.url.copy_with(query=None)} answered no JSON: is a secondlook server there?"
        raise UnexpectedAnswerError(sentence) from error


def _seconds(retry_after: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """The header's value: seconds, or a date (RFC 9110); None where it is neither."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now()).total_seconds())


def in_order(work: Callable[[T], R], items: Iterator[T], concurrency: int, stopping: threading.Event) -> Iterator[R]:
    """Yield what work makes of each item, in their order, so many at once; items are taken as they are needed.

    Where it ends early, ``stopping`` is set: threads that wait to try again give up.
    """
    if concurrency == 1:  # no thread, so that an interrupt ends it at once
        yield from map(work, items)
        return
    under_way: deque[Future[R]] = deque()
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="secondlook-client")
    try:
        for item in items:
            under_way.append(threads.submit(work, item))
            if len(under_way) > concurrency:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        stopping.set()
        threads.shutdown(cancel_futures=True)
