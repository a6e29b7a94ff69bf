"""``/v1/admin/map``: all entries in two dimensions, as numbers for a program that draws them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from starlette.concurrency import run_in_threadpool

from secondlook.model.answering.predictor import Predictor
from secondlook.model.errors import ParameterError
from secondlook.service.generations.jobs import Jobs
from secondlook.service.generations.records import Job
from secondlook.service.http.auth import require_admin
from secondlook.service.maps import Components, Method, as_bytes, read_map, thinned
from secondlook.service.prefix import link
from secondlook.service.problems import Kind, ProblemError, documented
from secondlook.service.state import Current, Running
from secondlook.service.suspects import last_audit, state_of

MOST_POINTS = 1_000_000
MEDIA_TYPE = "application/octet-stream"

router = APIRouter(
    prefix="/v1/admin/map",
    tags=["admin"],
    dependencies=[Depends(require_admin)],
    responses=documented(Kind.KEY_MISSING, Kind.KEY_REFUSED, Kind.ADMIN_DISABLED, Kind.INVALID_PARAMETER),
)


def _header(what: str) -> dict[str, Any]:
    return {"description": what, "schema": {"type": "string"}}


_POINTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "X-Shape": _header("`N,2`: how many points follow."),
            "X-Total": _header("How many there are; more than N where `limit` leaves some out."),
            "X-Generation": _header("The generation that the ids are of."),
            "X-Change": _header("The newest change that is in it."),
        },
    }
}


@router.post(
    "",
    status_code=202,
    summary="Lay the entries out by t-SNE",
    responses=documented(Kind.REBUILD_RUNNING, Kind.BUNDLES_READ_ONLY, Kind.NOT_READY),
)
async def start_map(state: Running, response: Response) -> Job:
    """Runs in a process of its own, as a rebuild does, for minutes; its progress is at the `Location`.

    The server needs openTSNE (the extra `map`): refused (422) where it has none.
    """
    state.generations.require_writable()
    if find_spec("openTSNE") is None:
        raise ParameterError("t-SNE needs openTSNE, which this server has not: install secondlook with the extra map")
    arguments = ["map", f"--bundles={state.generations.root}", f"--generation={state.generations.active}"]
    job = await state.jobs.look("map", [*arguments, "--method=tsne", "--progress=json"], _in_words)
    response.headers["Location"] = link(f"/v1/admin/jobs/{job.id}")
    return job


def _in_words(last: Mapping[str, Any]) -> str:
    return f"{last.get('images', 0):,} images are laid out"


@router.get(
    "",
    summary="The entries in two dimensions",
    response_class=Response,
    responses={**_POINTS, **documented(Kind.NOT_FOUND, Kind.NOT_KEPT, Kind.NOT_READY)},
)
async def get_map(
    state: Running,
    predictor: Current,
    method: Annotated[
        Method,
        Query(description="`pca`: at once; `tsne`: as the last such job of this generation laid them out (404)."),
    ] = "pca",
    limit: Annotated[int, Query(ge=1, le=MOST_POINTS, description="How many at most, evenly over all.")] = 200_000,
) -> Response:
    """Every image is a point; mirrored copies are left out.

    N ids (float64), then N positions (x and y, float32), N classes (int32, places in `classes` of `/v1/model`), N flags
    (uint8: 1 taught, 2 relabelled, 4 a suspect of the last audit that nobody has decided); little endian, 21 bytes a
    point. What was taught after a t-SNE is not on it.
    """
    journal, of = state.generations.journal, predictor.bundle.manifest.dataset.name
    confirmed = await run_in_threadpool(journal.confirmations.of, of) if journal is not None else {}
    return await run_in_threadpool(_points, state.jobs, state.components, predictor, confirmed, method, limit)


def _points(
    jobs: Jobs, components: Components, predictor: Predictor, confirmed: dict[str, str], method: Method, limit: int
) -> Response:
    cache, generation = predictor.overlay, predictor.bundle.manifest.generation
    if method == "pca":
        found = components.of(cache)
    elif (kept := jobs.result("map", generation)) is not None:
        found = read_map(kept[1], cache)
    else:
        raise ProblemError(Kind.NOT_FOUND, "There is no such map of this generation: POST /v1/admin/map makes one.")
    audit = last_audit(jobs, generation)
    suspects = [] if audit is None else audit.suspects
    still = [suspect["id"] for suspect in suspects if state_of(suspect, cache, confirmed) == "open"]
    shown = thinned(found, limit)
    headers = {
        "X-Shape": f"{len(shown.ids)},2",
        "X-Total": str(len(found.ids)),
        "X-Generation": generation,
        "X-Change": str(cache.change),
    }
    return Response(as_bytes(shown, cache, still), media_type=MEDIA_TYPE, headers=headers)
