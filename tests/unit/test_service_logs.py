import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.service.logs import JsonFormatter, TextFormatter, begin_request, parse_traceparent, request_log

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("service.test", logging.WARNING, __file__, 1, message, args, None)
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize(
    "given_id",
    ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "Root:1-67891233-abcdef", "a" * 128],
)
def test_a_well_formed_id_is_kept(given_id: str) -> None:
    assert begin_request(given_id, None).id == given_id
    assert request_log().id == given_id


@pytest.mark.parametrize(
    "given_id", [None, "", "-a", "a b", "a\n", "a\r\nX: y", "\x1b[31m", "ä", "a" * 129, "{}", 'a"', "\u0661"]
)
def test_any_other_is_made_anew(given_id: str | None) -> None:
    first, second = begin_request(given_id, None).id, begin_request(given_id, None).id
    assert first != second
    assert all(len(one) == 32 and one.isalnum() and one.isascii() for one in (first, second))


def test_traceparent() -> None:
    assert parse_traceparent(f"00-{TRACE}-{PARENT}-01") == (TRACE, PARENT)
    # A later version may have more fields.
    assert parse_traceparent(f"cc-{TRACE}-{PARENT}-01-more") == (TRACE, PARENT)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
    ],
)
def test_a_malformed_traceparent_is_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


@given(st.text())
def test_no_text_ends_a_line_or_leaves_printable_ascii(text: str) -> None:
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(record("%s", text, fields={"key": text}))
        assert line.isascii()
        assert line.isprintable()
    said = json.loads(JsonFormatter().format(record("%s", text, fields={"key": text})))
    assert (said["message"], said["key"]) == (text, text)


def test_an_object_has_all_that_is_known() -> None:
    log = begin_request("abc", f"00-{TRACE}-{PARENT}-01")
    line = JsonFormatter().format(record("done %d", 3, fields={"status": 200}))
    said = json.loads(line)
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "WARNING",
        "logger": "service.test",
        "message": "done 3",
        "request_id": log.id,
        "trace_id": TRACE,
        "parent_id": PARENT,
        "status": 200,
    }


def test_a_traceback_cannot_begin_a_line_of_its_own() -> None:
    forged = "2026-01-01T00:00:00.000Z INFO forged"
    try:
        raise ValueError(f"first\n{forged}\r{forged}\x85{forged}\x1b[2J")
    except ValueError as error:
        made = record("it failed", exc_info=(type(error), error, error.__traceback__))
    first, *rest = TextFormatter().format(made).split("\n")
    assert " WARNING service.test it failed" in first
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert any("ValueError: first" in line for line in rest)
    assert "\n" not in JsonFormatter().format(made)
    assert forged in json.loads(JsonFormatter().format(made))["error"]
