"""Refuses parameters and fields that a call does not declare in its OpenAPI document, and names the likely one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from starlette.types import Scope

from secondlook.service.problems import Kind, ProblemError, clean, likely

Names = tuple[str, ...]


class KnownParameters:
    """The names of the parameters and JSON fields that each call takes, from an OpenAPI document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._query: dict[tuple[str, str], Names] = {}
        self._body: dict[tuple[str, str], Names] = {}
        schemas = document.get("components", {}).get("schemas", {})
        for path, calls in document["paths"].items():
            for method, call in calls.items():
                taken = [one["name"] for one in call.get("parameters", ()) if one["in"] == "query"]
                self._query[path, method.upper()] = tuple(taken)
                content = call.get("requestBody", {}).get("content", {})
                self._body[path, method.upper()] = _fields(content.get("application/json", {}).get("schema"), schemas)

    def check_query(self, scope: Scope) -> dict[str, str]:
        """Read a query, and refuse one that has more than a call takes.

        Raises:
            ProblemError: a parameter that there is not, one given twice, or one that is not text in UTF-8.
        """
        known = self._query.get((scope["route"].path, scope["method"]))
        sent = scope["query_string"].decode("latin-1")
        if known is None or not sent:
            return {}
        given: dict[str, str] = {}
        # What is no UTF-8 becomes lone surrogates, which nothing that is becomes.
        for name, value in parse_qsl(sent, keep_blank_values=True, errors="surrogateescape"):
            if name not in known:
                raise _wrong(name, f"there is no such parameter{likely(name, known)}")
            if name in given:
                raise _wrong(name, "it is given twice: give it once")
            if not _is_text(value):
                raise _wrong(name, "it is not text in UTF-8")
            given[name] = value
        return given

    def of_body(self, scope: Scope) -> Names:
        """The fields of a call's JSON object."""
        return self._body.get((scope["route"].path, scope["method"]), ())

    async def check_body(self, request: Request) -> None:
        """Refuse a JSON object that gives a field twice: some readers take the first of the two, some the last.

        Raises:
            ProblemError: names the field.
        """
        if self.of_body(request.scope):
            with suppress(ValueError):  # what is no JSON, the route refuses
                json.loads(await request.body(), object_pairs_hook=_once)


async def only_known(request: Request) -> None:
    """Refuse what a call does not declare; a dependency of its route."""
    known: KnownParameters = request.app.state.known_parameters
    known.check_query(request.scope)
    await known.check_body(request)


def install(app: FastAPI) -> None:
    """Collect what the app's calls declare; called when all routes are there."""
    app.state.known_parameters = KnownParameters(app.openapi())


def _fields(schema: dict[str, Any] | None, schemas: dict[str, Any]) -> Names:
    if schema is None:
        return ()
    if "$ref" in schema:
        return _fields(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    names = list(schema.get("properties", ()))
    for part in schema.get("anyOf", ()):
        names += _fields(part, schemas)
    return tuple(names)


def _once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in fields]
    if len(names) > len(set(names)):
        raise _wrong(max(names, key=names.count), "it is given twice: give it once")
    return dict(fields)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _wrong(name: str, why: str) -> ProblemError:
    shown = clean(name) if name else "The query"
    return ProblemError(Kind.INVALID_PARAMETER, f"{shown}: {why}.")
