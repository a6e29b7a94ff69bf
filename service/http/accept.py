"""Which form of an answer a client wants, by its header Accept (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]+"
_PARAMETER = rf';\s*({_TOKEN})\s*=\s*("(?:[^"\\]|\\.)*"|{_TOKEN})\s*'
_RANGE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*((?:{_PARAMETER})*;?\s*)", re.IGNORECASE)
_SPLIT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """The most wanted of the media types on offer, of equals the first; None where none is accepted.

    Without a header, or where nothing in it can be read, anything is. Of ranges that a type is in, the narrowest says
    how much it is wanted. Parameters other than ``q`` are not looked at.
    """
    ranges = [found for one in _SPLIT.findall(accept) if (found := _read(one)) is not None]
    if not ranges:
        return offered[0]
    wanted = {one: _quality(one, ranges) for one in offered}
    best = max(offered, key=lambda one: wanted[one])
    return best if wanted[best] > 0 else None


def _quality(offered: str, ranges: Sequence[tuple[str, float]]) -> float:
    kind = offered.partition("/")[0]
    for one in (offered, f"{kind}/*", "*/*"):
        if qualities := [quality for name, quality in ranges if name == one]:
            return max(qualities)
    return 0.0


def _read(text: str) -> tuple[str, float] | None:
    """A media range and its quality; None where it is none."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    name = f"{found[1]}/{found[2]}".lower()
    for parameter in re.finditer(_PARAMETER, found[3], re.IGNORECASE):
        if parameter[1].lower() == "q":
            return (name, float(parameter[2])) if _QUALITY.fullmatch(parameter[2]) else None
    return name, 1.0
