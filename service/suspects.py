"""What the last audit of the generation that answers found, read from its job's result."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from secondlook.model.added.overlay import Overlay
from secondlook.service.generations.jobs import Jobs

LISTED = 2000
"""Suspects that an audit by the server keeps, with their neighbours; after these are decided, it is asked anew."""


class Found(NamedTuple):
    """An audit's result."""

    job: str
    finished: datetime | None
    content: dict[str, Any]
    """As ``curation.audit.Audit.as_dict``."""

    @property
    def suspects(self) -> list[dict[str, Any]]:
        """Those that are listed, the most suspicious first."""
        listed: list[dict[str, Any]] = self.content["suspects"]["listed"]
        return listed


def last_audit(jobs: Jobs, generation: str) -> Found | None:
    """The newest audit of a generation; None where there is none. Reads files."""
    found = jobs.result("audit", generation)
    if found is None:
        return None
    job, path = found
    return Found(job.id, job.finished, _read(path))


@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Any]:
    # What a job has written is never changed, and its folder is never another job's.
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def state_of(suspect: dict[str, Any], overlay: Overlay, confirmed: dict[str, str]) -> str:
    """What became of a suspect since: open, right, relabelled or removed."""
    label = overlay.label_of(suspect["id"])
    if label is None:
        return "removed"
    if label != suspect["given"]:
        return "relabelled"
    return "right" if confirmed.get(suspect["source"]) == suspect["given"] else "open"
