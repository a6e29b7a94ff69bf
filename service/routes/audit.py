"""``/v1/admin/audit``: labels that their neighbours doubt, looked for by a job, to be decided one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from secondlook.model.answering.predictor import Predictor
from secondlook.service.generations.jobs import Jobs
from secondlook.service.generations.records import Job
from secondlook.service.http.auth import require_admin
from secondlook.service.prefix import link
from secondlook.service.problems import Kind, documented
from secondlook.service.schemas import EntryInfo, entry_info
from secondlook.service.state import Current, Running
from secondlook.service.suspects import LISTED, last_audit, state_of

MAX_LISTED = 100

router = APIRouter(
    prefix="/v1/admin/audit",
    tags=["admin"],
    dependencies=[Depends(require_admin)],
    responses=documented(Kind.KEY_MISSING, Kind.KEY_REFUSED, Kind.ADMIN_DISABLED, Kind.INVALID_PARAMETER),
)


class SuspectNeighbor(EntryInfo):
    """An entry near to a suspect, as it votes now."""

    similarity: float
    weight: float = Field(description="Its share of the vote on the suspect, when that was audited.")


class Suspect(BaseModel):
    """An image whose neighbours would have given it another label."""

    place: int = Field(description="In the order of suspicion, from 0.")
    entry: EntryInfo
    suggested: str = Field(description="The label that its neighbours would have given it.")
    score: float = Field(description="ln of the vote for that label by the vote for its own, 0.001 added to both.")
    given_vote: float = Field(description="The neighbours' vote for its own label.")
    suggested_vote: float
    neighbors: list[SuspectNeighbor] = Field(description="The nearest entries of other images, nearest first.")


class Decided(BaseModel):
    """What became of the suspects of an audit since."""

    right: int = Field(description="Somebody said that their labels are right.")
    relabelled: int
    removed: int


class AuditInfo(BaseModel):
    """The last audit of the generation that answers."""

    generation: str
    job: str | None = Field(description="The job that made it; null where there was none of this generation yet.")
    finished: datetime | None
    change: int | None = Field(description="The newest change that it looked at; /v1/admin/changes lists them.")
    images: int = Field(description="How many images it looked at.")
    doubted: int = Field(description="How many of them their neighbours doubt, less those confirmed before.")
    kept: int = Field(description="How many of these, the most suspicious, were kept to be decided.")
    open: int = Field(description="How many of those are not decided.")
    decided: Decided
    suspects: list[Suspect] = Field(description="Those that are not decided, the most suspicious first.")
    next: int | None = Field(description="Give it as `after` for those that follow; null where these are the last.")


@router.post(
    "",
    status_code=202,
    summary="Look for wrong labels",
    responses=documented(Kind.REBUILD_RUNNING, Kind.BUNDLES_READ_ONLY, Kind.NOT_READY),
)
async def start_audit(state: Running, response: Response) -> Job:
    """Runs in a process of its own, as a rebuild does; its progress is at the `Location`.

    What was taught is audited too, and nothing is changed. Labels that somebody said are right are not doubted again.
    """
    state.generations.require_writable()
    arguments = ["audit", f"--bundles={state.generations.root}", f"--generation={state.generations.active}"]
    job = await state.jobs.look("audit", [*arguments, "--progress=json", f"--limit={LISTED}"], _in_words)
    response.headers["Location"] = link(f"/v1/admin/jobs/{job.id}")
    return job


def _in_words(last: Mapping[str, Any]) -> str:
    return f"neighbours doubt the labels of {last.get('suspects', 0):,} of {last.get('images', 0):,} images"


@router.get("", summary="Labels that their neighbours doubt", responses=documented(Kind.NOT_KEPT))
async def get_audit(
    state: Running,
    predictor: Current,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1, description="Those behind this place.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="How many at most.")] = 20,
) -> AuditInfo:
    """The last audit's suspects that nobody has decided yet, with their neighbours as they are labelled now.

    Decide one by `POST /v1/entries/{entry_id}/confirm`, `PATCH` or `DELETE /v1/entries/{entry_id}`, with `generation`.
    """
    journal = state.generations.journal
    of = predictor.bundle.manifest.dataset.name
    confirmed = await run_in_threadpool(journal.confirmations.of, of) if journal is not None else {}
    return await run_in_threadpool(_audit_info, state.jobs, predictor, confirmed, after, limit)


def _audit_info(jobs: Jobs, predictor: Predictor, confirmed: dict[str, str], after: int, limit: int) -> AuditInfo:
    generation = predictor.bundle.manifest.generation
    found = last_audit(jobs, generation)
    if found is None:
        return AuditInfo(
            generation=generation,
            job=None,
            finished=None,
            change=None,
            images=0,
            doubted=0,
            kept=0,
            open=0,
            decided=Decided(right=0, relabelled=0, removed=0),
            suspects=[],
            next=None,
        )
    states = [state_of(suspect, predictor.overlay, confirmed) for suspect in found.suspects]
    rest = [place for place, state in enumerate(states) if state == "open" and place > after]
    counts = Counter(states)
    return AuditInfo(
        generation=generation,
        job=found.job,
        finished=found.finished,
        change=found.content["change"],
        images=found.content["images"],
        doubted=found.content["suspects"]["count"],
        kept=len(states),
        open=counts["open"],
        decided=Decided(right=counts["right"], relabelled=counts["relabelled"], removed=counts["removed"]),
        suspects=[_suspect(predictor, place, found.suspects[place]) for place in rest[:limit]],
        next=rest[limit - 1] if len(rest) > limit else None,
    )


def _suspect(predictor: Predictor, place: int, kept: dict[str, Any]) -> Suspect:
    entry = predictor.overlay.entry(kept["id"])
    assert entry is not None  # as it is open
    neighbors = []
    for near in kept["neighbors"]:
        # One that was removed since has nothing to say any more.
        if (other := predictor.overlay.entry(near["id"])) is not None:
            told = entry_info(predictor, other).model_dump()
            neighbors.append(SuspectNeighbor(**told, similarity=near["similarity"], weight=near["weight"]))
    return Suspect(
        place=place,
        entry=entry_info(predictor, entry),
        neighbors=neighbors,
        **{name: kept[name] for name in ("suggested", "score", "given_vote", "suggested_vote")},
    )
