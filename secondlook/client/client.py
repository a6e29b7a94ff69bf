"""The client: one method a call."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

import httpx

from secondlook.client.admin import LISTED, AdminCalls
from secondlook.client.answers import (
    Embedding,
    Entry,
    Model,
    Nearest,
    Prediction,
    Taught,
    TaughtEntry,
    read,
    read_list,
    read_or_problem,
)
from secondlook.client.calls import CONNECT_S, Calls, Retry, in_order
from secondlook.client.errors import ClientError, ListingError, ProblemError, UnexpectedAnswerError
from secondlook.client.images import FILES, Part, Request, encode, requests
from secondlook.client.of_images import embed, form, listed
from secondlook.one_or_many import OneOrMany
from secondlook.pictures import is_one

if TYPE_CHECKING:
    from secondlook.pictures import Image

T = TypeVar("T")

PATIENT = Retry()


class Client(AdminCalls):
    """A secondlook server, as Python sees it; a context manager. Usable from several threads.

    Every call is repeated on 429 and 503 after what Retry-After says, and where a connection broke, as long as
    ``retry`` allows; only ``rebuild`` is not sent again over a connection that broke, as it may have begun.

    Args:
        url: Where the server is: ``http://127.0.0.1:8000``.
        key: Sent as ``Authorization: Bearer``; an admin key for what changes something.
        timeout: Seconds without a byte after which one try has failed.
        retry: How long calls are repeated.
        transport: Another way to the server than httpx's own: a proxy, own certificates, a socket's path.

    Raises:
        ValueError: no such address, or a key that no header can carry.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        retry: Retry = PATIENT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers: dict[bytes, bytes] = {}
        if key is not None:
            if not key or not key.isprintable():
                raise ValueError("the key is empty, or has characters that do not print")
            headers[b"Authorization"] = b"Bearer " + key.encode()
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is no address: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"{url!r} is no address of a server: give one such as http://127.0.0.1:8000")
        timeouts = httpx.Timeout(timeout, connect=min(timeout, CONNECT_S), pool=None)
        http = httpx.Client(base_url=parsed, headers=headers, timeout=timeouts, transport=transport)
        self._calls = Calls(http, retry)
        self._files = FILES

    def close(self) -> None:
        """End all connections, and all waiting."""
        self._calls.stopping.set()
        self._calls.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predictions(
        self,
        images: Iterable[Image],
        *,
        top: int | None = None,
        neighbors: int | None = None,
        lam: float | None = None,
        theta: float | None = None,
        k: int | Literal["all"] | None = None,
        votes: int | None = None,
        coverage: float | None = None,
        abstain: bool = False,
        concurrency: int = 1,
    ) -> Iterator[Prediction | ClientError]:
        """Ask what each of many images shows, in their order, as the answers come; None leaves a choice to the server.

        Images are read as they are sent, at most ``concurrency`` + 1 requests of them at a time. An image is a path,
        bytes, a file open for reading bytes, an array of uint8 (height, width) or (height, width, 3 or 4), or a
        picture of Pillow's. One that fails has its error in its place: ImageReadError, or the server's ProblemError.

        Raises:
            ClientError: all of a call failed: a wrong key or parameter, no server, too busy for too long.
            TypeError: no image.
        """
        asked: dict[str, Any] = {"top": top, "neighbors": neighbors, "lam": lam, "theta": theta, "k": k, "votes": votes}
        asked |= {"coverage": coverage, "abstain": "true" if abstain else None}
        query = {name: value for name, value in asked.items() if value is not None}

        def ask(calls: Calls, parts: list[Part]) -> list[Prediction | ProblemError]:
            body = calls.json("POST", "/v1/predict", params=query, files=form(parts))
            return listed(Prediction, body, "predictions", ("generation", "lam", "theta", "k"))

        return self._each(images, concurrency, ask)

    predict = OneOrMany(predictions, Prediction, ClientError)

    def searches(
        self, images: Iterable[Image], *, k: int | None = None, concurrency: int = 1
    ) -> Iterator[Nearest | ClientError]:
        """Ask which entries are nearest to each of many images: ``k`` of them, 1 to 200; 20 where it is None.

        Images and errors are as for ``predictions``.
        """
        query = {} if k is None else {"k": k}

        def ask(calls: Calls, parts: list[Part]) -> list[Nearest | ProblemError]:
            body = calls.json("POST", "/v1/search", params=query, files=form(parts))
            return listed(Nearest, body, "results", ("generation",))

        return self._each(images, concurrency, ask)

    search = OneOrMany(searches, Nearest, ClientError)

    def embeddings(self, images: Iterable[Image], *, concurrency: int = 1) -> Iterator[Embedding | ClientError]:
        """Ask for the key of each of many images: numbers of float32, sent as they are.

        Images and errors are as for ``predictions``. Keys of two generations can be compared only where both have the
        same encoder.
        """
        return self._each(images, concurrency, embed)

    embed = OneOrMany(embeddings, Embedding, ClientError)

    def _each(
        self, images: Iterable[Image], concurrency: int, ask: Callable[[Calls, list[Part]], list[T | ProblemError]]
    ) -> Iterator[T | ClientError]:
        """What a call says of each of many images, as the answers come."""
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        calls = replace(self._calls, stopping=threading.Event())

        def work(request: Request) -> tuple[Request, list[T | ProblemError]]:
            return request, self._told(calls, request.parts, ask) if request.parts else []

        for request, answers in in_order(work, requests(images, self._files), concurrency, calls.stopping):
            following = iter(answers)
            for error in request.places:
                yield next(following) if error is None else error

    def _told(
        self, calls: Calls, parts: list[Part], ask: Callable[[Calls, list[Part]], list[T | ProblemError]]
    ) -> list[T | ProblemError]:
        """Answers to one request's images; to those of several, where the server takes fewer at once."""
        try:
            told = ask(calls, parts)
        except ProblemError as error:
            if len(parts) == 1 and _is_of_image(error):
                return [error]
            if len(parts) == 1 or error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                raise
            half = len(parts) // 2
            if error.slug == "too-many-files":
                self._files = min(self._files, half)
            return self._told(calls, parts[:half], ask) + self._told(calls, parts[half:], ask)
        if len(told) != len(parts):
            raise UnexpectedAnswerError(f"{len(told)} answers to {len(parts)} images")
        return told

    def model(self) -> Model:
        """Describe the bundle that answers."""
        return read(Model, self._calls.json("GET", "/v1/model"))

    def entry(self, id: int) -> Entry:
        """Look at one cached entry.

        Raises:
            NotFoundError: there is none of that id.
        """
        return read(Entry, self._calls.json("GET", f"/v1/entries/{id}"))

    def thumbnail(self, id: int) -> bytes:
        """Get one cached entry's picture, a PNG.

        Raises:
            NotFoundError: there is no such entry, or it has none.
        """
        return self._calls.send("GET", f"/v1/entries/{id}/thumbnail").content

    def entries(self, *, label: str | None = None, taught: bool | None = None) -> Iterator[Entry]:
        """List cached entries in the order of their ids: all, or those of a class, or taught ones, or the others.

        Raises:
            ListingError: another generation answers now.
        """
        asked = {"label": label, "taught": None if taught is None else str(taught).lower(), "limit": LISTED}
        query = {name: value for name, value in asked.items() if value is not None}
        generation: str | None = None
        while True:
            page = _dict(self._calls.json("GET", "/v1/entries", params=query))
            if generation not in (None, page.get("generation")):
                raise ListingError(f"{page.get('generation')} answers instead of {generation}: list anew")
            generation = page.get("generation")
            yield from read_list(Entry, page.get("entries"))
            if page.get("next") is None:
                return
            query["after"] = page["next"]

    def teach(self, images: Image | Iterable[Image], label: str, *, partial: bool = False) -> Taught:
        """Add images to the cache under a label, which makes a new class where it is new.

        All of them or none, in one request. With ``partial`` those that can be kept are, in as many requests as it
        takes, and the others have their error in their place. Each request has an Idempotency-Key, so that it is done
        once however often it is sent.

        Raises:
            ConflictError: the label is like another one (``error.known``), or the server keeps no more images.
            ProblemError: an image cannot be kept, or none; the label is refused; the disk is full.
            ImageReadError: an image cannot be read here; of several with ``partial``, only if none can.
        """
        several = (cast("Image", images),) if is_one(images) else cast("Iterable[Image]", images)
        if not partial:
            return self._teach([encode(image, place) for place, image in enumerate(several)], label, {})
        taught: Taught | None = None
        entries: list[TaughtEntry | ClientError] = []
        for parts, places in requests(several, self._files):
            said: list[TaughtEntry | ClientError] = []
            for part in self._teach_some(parts, label) if parts else ():
                if isinstance(part, ProblemError):
                    said.append(part)
                    continue
                said += part.entries
                is_new_class = part.is_new_class or (taught is not None and taught.is_new_class)
                taught = replace(part, is_new_class=is_new_class)
            following = iter(said)
            entries += [next(following) if error is None else error for error in places]
        if taught is None:
            raise next((one for one in entries if isinstance(one, ClientError)), ValueError("no image is given"))
        return replace(taught, entries=entries)

    def _teach_some(self, parts: list[Part], label: str) -> list[Taught | ProblemError]:
        """What came of one request, or of several where it was refused as a whole for its images."""
        try:
            return [self._teach(parts, label, {"partial": "true"})]
        except ProblemError as error:
            if len(parts) == 1 and _is_of_image(error):
                return [error]
            if len(parts) == 1 or not (error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _is_of_image(error)):
                raise
            half = len(parts) // 2
            return self._teach_some(parts[:half], label) + self._teach_some(parts[half:], label)

    def _teach(self, parts: list[Part], label: str, query: Mapping[str, str]) -> Taught:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        options = {"params": query, "headers": headers, "data": {"label": label}, "files": form(parts)}
        body = _dict(self._calls.json("POST", "/v1/entries", **options))
        entries: list[TaughtEntry | ClientError] = [
            read_or_problem(TaughtEntry, one) for one in body.get("entries", ())
        ]
        if len(entries) != len(parts):
            raise UnexpectedAnswerError(f"{len(entries)} entries of {len(parts)} images")
        return read(Taught, body | {"entries": entries})

    def relabel(self, id: int, label: str, generation: str | None = None) -> Entry:
        """Say what an entry's image shows; its mirrored copy goes with it.

        Raises:
            NotFoundError: there is no such entry.
            ConflictError: the label is like another one, or that generation, in which the id was listed, has gone.
        """
        options = {"params": _of(generation), "json": {"label": label}}
        return read(Entry, self._calls.json("PATCH", f"/v1/entries/{id}", **options))

    def remove(self, id: int, generation: str | None = None) -> None:
        """Remove an entry and its mirrored copy; rebuilds leave its image out.

        Raises:
            NotFoundError: there is no such entry; also where the answer to a first try got lost.
            ConflictError: that generation, in which the id was listed, has gone.
        """
        self._calls.send("DELETE", f"/v1/entries/{id}", params=_of(generation))


def _is_of_image(error: ProblemError) -> bool:
    """Whether a problem that stands for a whole answer is about an image in it. All that are sent have names."""
    return error.filename is not None or error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def _of(generation: str | None) -> dict[str, str]:
    return {} if generation is None else {"generation": generation}


def _dict(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise UnexpectedAnswerError(f"no object but {str(document)[:80]!r}")
    return document
