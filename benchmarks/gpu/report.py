"""What was found, as lines: one for each thing measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu.plan import Outcome


def printed(outcomes: Sequence[Outcome]) -> str:
    """One part after the other."""
    return "\n".join(line for outcome in outcomes for line in _lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    yield f"\n{outcome.part}: {outcome.status}" + (f": {outcome.failed}" if outcome.failed else "")
    width = max(map(len, [one.name for one in outcome.found] + [left.name for left in outcome.left_out]), default=0)
    for one in outcome.found:
        mark = {True: "  agrees", False: f"  DIFFERS: {one.why}", None: ""}[one.agrees]
        yield f"  {one.name:<{width}}  {_told(one.values)}{mark}"
    for left in outcome.left_out:
        yield f"  {left.name or outcome.part:<{width}}  left out: {left.why}"


def _told(value: Any) -> str:
    """Values by name, rounded."""
    if isinstance(value, dict):
        inner = ((name, _told(one)) for name, one in value.items())
        return ", ".join(f"{name} ({text})" if ", " in text else f"{name} {text}" for name, text in inner)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
