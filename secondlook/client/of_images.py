"""Answers to a request's images, one for each, read from what the server sends."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Sequence
from typing import Any, TypeVar

from secondlook.client.answers import Embedding, read_or_problem
from secondlook.client.calls import Calls
from secondlook.client.errors import ProblemError, UnexpectedAnswerError
from secondlook.client.images import Part

T = TypeVar("T")

BYTES = "application/octet-stream"
_SHAPE = re.compile(r"([0-9]{1,9}),([0-9]{1,9})")


def form(parts: Sequence[Part]) -> list[tuple[str, tuple[str, bytes]]]:
    """A request's images as multipart/form-data."""
    return [("file", (part.filename, part.content)) for part in parts]


def listed(kind: type[T], body: Any, name: str, shared: Sequence[str]) -> list[T | ProblemError]:
    """Read the list ``name`` of an answer, each with the answer's own members that are ``shared`` by all.

    Raises:
        UnexpectedAnswerError: there is none.
    """
    try:
        of_all = {member: body[member] for member in shared}
        return [read_or_problem(kind, one, **of_all) for one in body[name]]
    except (KeyError, TypeError) as error:
        raise UnexpectedAnswerError(f"no {name}: is the server of another version?") from error


def embed(calls: Calls, parts: Sequence[Part]) -> list[Embedding | ProblemError]:
    """Keys of a request's images, as bytes; as JSON where one image fails, which as bytes fails them all.

    Raises:
        ClientError: as for ``Calls.send``.
    """
    try:
        answer = calls.send("POST", "/v1/embed", files=form(parts), headers={"Accept": BYTES})
    except ProblemError as error:
        if error.filename is None or len(parts) == 1:
            raise
        sent = calls.json("POST", "/v1/embed", files=form(parts), headers={"Accept": "application/json"})
        return listed(Embedding, sent, "embeddings", ("generation",))
    shape, numbers = _SHAPE.fullmatch(answer.headers.get("x-shape", "")), array("f")
    if shape is None or len(answer.content) != int(shape[1]) * int(shape[2]) * numbers.itemsize:
        raise UnexpectedAnswerError("no embeddings: is the server of another version?")
    numbers.frombytes(answer.content)
    if sys.byteorder == "big":
        numbers.byteswap()
    count, dim = int(shape[1]), int(shape[2])
    rows = [numbers[dim * row : dim * (row + 1)] for row in range(count)]
    names = [part.filename for part in parts]
    generation = answer.headers.get("x-generation", "")
    return [Embedding(generation, row, name) for row, name in zip(rows, names, strict=False)]
