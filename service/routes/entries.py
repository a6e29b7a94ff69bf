"""``GET`` of entries: a list of them, one, its picture. Those that change them are in ``teach``."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query, Response
from starlette.concurrency import run_in_threadpool

from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.errors import ParameterError
from secondlook.model.labels import normalize_label
from secondlook.model.stores.added_keys import FIRST_ID, number_of
from secondlook.service.problems import Kind, ProblemError, clean, documented
from secondlook.service.schemas import EntryInfo, EntryList, entry_info
from secondlook.service.state import Current, Running, State
from secondlook.service.thumbnails import of_taught

MAX_LISTED = 200

router = APIRouter()

EntryId = Annotated[int, Path(ge=0, le=2**63 - 1, description="As listed among an answer's neighbours.")]


@router.get("/v1/entries", tags=["model"], summary="The cached entries", responses=documented(Kind.INVALID_PARAMETER))
def list_entries(
    predictor: Current,
    label: Annotated[str | None, Query(description="Those of this class only.")] = None,
    taught: Annotated[bool | None, Query(description="Those of taught images only, or only the others.")] = None,
    after: Annotated[int, Query(ge=-1, le=2**63 - 1, description="Those with a greater id.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="How many at most.")] = 50,
) -> EntryList:
    """In the order of their ids, as they vote now. Ids belong to the generation named."""
    ids, values = predictor.overlay.ids, predictor.store.values
    chosen = np.ones(len(ids), bool)
    if label is not None:
        if label not in predictor.overlay.index:
            label = normalize_label(label)
        if label not in predictor.overlay.index:
            raise ParameterError(f"label: there is no class {clean(label)}: /v1/model lists them")
        chosen &= values == predictor.overlay.index[label]
    if taught is not None:
        chosen &= ((ids >= FIRST_ID) | np.isin(ids, predictor.overlay.folded_ids)) == taught
    found = ids[chosen]
    rest = found[found > after]
    listed = [entry for entry_id in rest[:limit].tolist() if (entry := predictor.overlay.entry(entry_id)) is not None]
    return EntryList(
        generation=predictor.bundle.manifest.generation,
        total=len(found),
        entries=[entry_info(predictor, entry) for entry in listed],
        next=int(rest[limit - 1]) if len(rest) > limit else None,
    )


@router.get(
    "/v1/entries/{entry_id}",
    tags=["model"],
    summary="One cached entry",
    responses=documented(Kind.NOT_FOUND, Kind.INVALID_PARAMETER, Kind.NOT_KEPT),
)
async def get_entry(state: Running, predictor: Current, entry_id: EntryId) -> EntryInfo:
    """Where it came from and what it shows. Ids belong to the generation named."""
    entry = await _entry(state, predictor, entry_id)
    return await run_in_threadpool(entry_info, predictor, entry)


@router.get(
    "/v1/entries/{entry_id}/thumbnail",
    tags=["model"],
    summary="One cached entry's picture",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}},
        **documented(Kind.NOT_FOUND, Kind.INVALID_PARAMETER, Kind.NOT_KEPT, Kind.QUEUE_FULL, Kind.NOT_READY),
    },
)
async def get_thumbnail(state: Running, predictor: Current, entry_id: EntryId) -> Response:
    """A small PNG."""
    entry = await _entry(state, predictor, entry_id)
    number, journal = number_of(entry_id), state.generations.journal
    made = None
    if number is None:
        made = await run_in_threadpool(predictor.bundle.entries.thumbnail, entry)
    elif journal is not None:
        made = await of_taught(state, journal, number, is_mirrored=entry.mirrored)
    if made is None:
        raise ProblemError(Kind.NOT_FOUND, f"Entry {entry_id} has no thumbnail.")
    # The same id is another picture in another generation.
    return Response(made, media_type="image/png", headers={"Cache-Control": "no-cache"})


async def _entry(state: State, predictor: Predictor, entry_id: int) -> Entry:
    """One entry, as it votes now.

    Raises:
        ProblemError: there is none of that id.
        JournalError: there may be one, and the journal cannot be read.
    """
    try:
        return await run_in_threadpool(known_entry, predictor, entry_id)
    except ProblemError:
        await state.generations.catch_up()
        raise


def known_entry(predictor: Predictor, entry_id: int) -> Entry:
    """One entry, as it votes now.

    Raises:
        ProblemError: there is none of that id.
    """
    entry = predictor.overlay.entry(entry_id)
    if entry is None:
        raise ProblemError(Kind.NOT_FOUND, f"There is no entry {entry_id}.")
    return entry
