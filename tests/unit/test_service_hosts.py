"""For whom a server answers, by the Host of a request."""

import pytest

from secondlook.service.http.hosts import Hosts, is_loopback
from secondlook.service.problems import Kind, ProblemError
from tests.service_for_tests import settings


def asked(given: dict[str, str], *hosts: str, path: str = "/v1/entries") -> Kind | None:
    """The refusal; None = answered."""
    scope = {"type": "http", "path": path, "headers": [(b"host", host.encode("latin-1")) for host in hosts]}
    try:
        Hosts(settings(**given)).check(scope)
    except ProblemError as refused:
        return refused.kind if refused.detail.endswith(".") else Kind.INTERNAL
    return None


LOCAL = [
    "localhost",
    "LOCALHOST:8000",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.8.9.10:1",
    "[::1]",
    "[::1]:8000",
]
OTHERS = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "notlocalhost",
    "0.0.0.0:8000",
    "192.168.1.2",
    "[::]",
    "[::2]:80",
    "128.0.0.1",
    "2130706433",
]
MALFORMED = ["", "a b", "me@localhost", "localhost/x", "localhost,evil", "[::1", "localhost:x", "caf\xe9", "a:1:2"]


@pytest.mark.parametrize("listens", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
@pytest.mark.parametrize("host", LOCAL)
def test_a_server_on_loopback_answers_for_loopback(listens: str, host: str) -> None:
    assert asked({"host": listens}, host) is None


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("path", ["/v1/entries", "/readyz"])
def test_and_for_nobody_else(host: str, path: str) -> None:
    assert asked({}, host, path=path) is Kind.HOST_NOT_SERVED


@pytest.mark.parametrize("given", [{}, {"host": "0.0.0.0"}, {"allowed_hosts": "*"}])
@pytest.mark.parametrize("host", MALFORMED)
def test_what_is_no_host_is_refused_everywhere(given: dict[str, str], host: str) -> None:
    assert asked(given, host) is Kind.MALFORMED_REQUEST


@pytest.mark.parametrize("given", [{}, {"host": "0.0.0.0"}, {"allowed_hosts": "*"}])
def test_none_or_two_are_refused_everywhere(given: dict[str, str]) -> None:
    assert asked(given) is Kind.MALFORMED_REQUEST
    assert asked(given, "localhost", "localhost") is Kind.MALFORMED_REQUEST


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"host": "::"}, {"allowed_hosts": "*"}])
@pytest.mark.parametrize("host", [*LOCAL, *OTHERS, "my_service:8000"])
def test_any_is_taken_on_a_public_address_or_where_it_is_said(given: dict[str, str], host: str) -> None:
    assert asked(given, host) is None


@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
def test_names_that_are_set(listens: str) -> None:
    given = {"host": listens, "allowed_hosts": "photos.example.org,*.example.net,10.1.2.3"}
    for host in (
        *LOCAL,
        "photos.example.org",
        "Photos.example.org:443",
        "a.example.net",
        "a.b.example.net",
        "10.1.2.3",
    ):
        assert asked(given, host) is None, host
    for host in ("example.org", "x.photos.example.org", "example.net", "evilexample.net", "a.example.net.evil.example"):
        assert asked(given, host) is Kind.HOST_NOT_SERVED, host


def test_probes_by_address_are_answered_where_others_reach_the_server() -> None:
    given = {"host": "0.0.0.0", "allowed_hosts": "photos.example.org"}
    for path in ("/livez", "/readyz", "/metrics"):
        assert asked(given, "10.2.3.4:8000", path=path) is None
        assert asked(given, "[2001:db8::1]:8000", path=path) is None
        assert asked(given, "evil.example", path=path) is Kind.HOST_NOT_SERVED
    assert asked(given, "10.2.3.4:8000", path="/v1/entries") is Kind.HOST_NOT_SERVED


def test_which_addresses_are_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "no.such.host.invalid", "a..b"))
