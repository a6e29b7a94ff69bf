import pytest

from secondlook.service.http.accept import preferred

JSON, BYTES = "application/json", "application/octet-stream"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (BYTES, BYTES),
        ("Application/Octet-Stream", BYTES),
        (f"{JSON}, {BYTES}", JSON),
        (f"{BYTES}, {JSON}", JSON),
        (f"{BYTES}, */*;q=0.1", BYTES),
        (f"{BYTES};q=0.5, {JSON};q=0.4", BYTES),
        (f"{BYTES} ; Q=0.4 , {JSON};q=0.5", JSON),
        (f"application/*;q=0.3, {JSON};q=0.1", BYTES),
        (f"*/*, {JSON};q=0", BYTES),
        (f"*/*, {JSON};q=0.0, {BYTES};q=0.000", None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ('application/json;profile="a,b;q=0", text/csv', JSON),
        (f"{BYTES};v=1;q=0.9, */*;q=0.2", BYTES),
        ("text/html", None),
        ("image/*", None),
        ("*/*;q=0", None),
        ("nonsense", JSON),
        (f"{BYTES};q=2", JSON),
        (f"nonsense, {BYTES}", BYTES),
        (f", ,{BYTES},", BYTES),
    ],
)
def test_the_header_says_which_form_is_wanted(accept: str, wanted: str | None) -> None:
    assert preferred(accept, (JSON, BYTES)) == wanted


@pytest.mark.parametrize(
    "part",
    ["a/b;", '"', "a", ";q=", 'a/b;x="\\', "a/b ; ", 'a/b;x="', 'a/b;x="y"', "a/b;x=y;", "a/b;x=y ", ",", "a/b, "],
)
def test_a_long_header_is_read_at_once(part: str) -> None:
    assert preferred(part * (60_000 // len(part)), (JSON, BYTES)) in (JSON, None)
