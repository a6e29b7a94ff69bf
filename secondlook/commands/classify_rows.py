"""What is said of each file, written as lines to read, as CSV or as JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import NamedTuple

from secondlook.answers import Opinion, Prediction

COLUMNS = (
    *(
        "file",
        "generation",
        "standing",
        "label",
        "probability",
        "network",
        "network_probability",
        "cache",
        "cache_probability",
    ),
    *("novelty", "is_novel", "credibility", "same_as", "prediction_set", "error", "left_out"),
)


class Failure(NamedTuple):
    """Why nothing is said of one."""

    sentence: str
    reason: str = ""
    """Why the file was left out, in a word or two that stay the same; empty where it was not, but could not be asked.
    """


Line = Callable[[str, Prediction | Failure], str | None]
"""A file's line in the results; None where it has none."""


def as_text(coverage: float | None) -> Line:
    """Lines to read. Failures have none: they are told where errors are."""

    def line(file: str, said: Prediction | Failure) -> str | None:
        if isinstance(said, Failure):
            return None
        parts = [f"{name} {one.label} {one.probability:.2f}" for name, one in _others(said)]
        if said.credibility is not None:
            parts.append(f"credibility {said.credibility:.2f}")
        if said.prediction_set is not None:
            parts.append(f"{100 * (coverage or 0):g} % set: {', '.join(said.prediction_set) or 'none'}")
        if said.novelty is not None and said.novelty.is_novel:
            parts.append("unlike anything cached")
        if said.same_as is not None:
            parts.append(f"the same picture as entry {said.same_as}")
        standing = f"{said.standing}: " if said.standing is not None else ""
        return f"{file}: {standing}{said.label} {said.probability:.2f} ({', '.join(parts)})"

    return line


def as_json(coverage: float | None) -> Line:
    """One object a line; with a coverage, each has the set."""

    def line(file: str, said: Prediction | Failure) -> str:
        if isinstance(said, Failure):
            return json.dumps({"file": file, "error": said.sentence, "left_out": said.reason or None})
        opinions = {
            name: {"label": one.label, "probability": round(one.probability, 4)}
            for name, one in (("mixed", Opinion(said.label, said.probability)), *_others(said))
        }
        told: dict[str, object] = {
            "file": file,
            "generation": said.generation,
            "standing": said.standing,
            **opinions,
        }
        told |= {name: None for name in ("network", "cache") if getattr(said, name) is None}
        told |= {
            "novelty": _rounded(said.novelty.score if said.novelty else None),
            "is_novel": said.novelty.is_novel if said.novelty else None,
            "credibility": _rounded(said.credibility),
            "same_as": said.same_as,
        }
        if coverage is not None:
            told["prediction_set"] = said.prediction_set
        return json.dumps(told)

    return line


def as_csv(file: str, said: Prediction | Failure) -> str:
    """A row of COLUMNS; a set's labels are divided by semicolons, what is not known is left empty."""
    if isinstance(said, Failure):
        return csv_line([file, *[""] * (len(COLUMNS) - 3), said.sentence, said.reason])
    opinions: list[object] = []
    for one in (Opinion(said.label, said.probability), said.network, said.cache):
        opinions += [one.label, round(one.probability, 4)] if one is not None else ["", ""]
    score, novel = (said.novelty.score, said.novelty.is_novel) if said.novelty else (None, None)
    is_novel = "" if novel is None else str(novel).lower()
    labels = ";".join(said.prediction_set or ())
    numbers = (_rounded(score), is_novel, _rounded(said.credibility), said.same_as)
    return csv_line([file, said.generation, said.standing, *opinions, *numbers, labels, "", ""])


def csv_line(values: list[object]) -> str:
    """Values as CSV, without the line's end."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    return buffer.getvalue()


def _others(said: Prediction) -> tuple[tuple[str, Opinion], ...]:
    both = (("network", said.network), ("cache", said.cache))
    return tuple((name, opinion) for name, opinion in both if opinion is not None)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
