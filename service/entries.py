"""``GET`` of the model, its entries, and the server's health."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from model.entries import Entry
from model.predictor import Predictor
from service.errors import UnavailableError
from service.problems import Kind, ProblemError, documented
from service.schemas import EntryInfo, Health, ModelInfo, model_info
from service.state import Running

router = APIRouter()

EntryId = Annotated[int, Path(ge=0, le=2**63 - 1, description="As listed among an answer's neighbours.")]


@router.get("/v1/model", tags=["model"], summary="The bundle that answers")
async def get_model(state: Running) -> ModelInfo:
    """Its classes, parameters, dataset and calibration."""
    return model_info(state.batcher.predictor)


@router.get(
    "/v1/entries/{entry_id}",
    tags=["model"],
    summary="One cached entry",
    responses=documented(Kind.NOT_FOUND, Kind.INVALID_PARAMETER),
)
def get_entry(state: Running, entry_id: EntryId) -> EntryInfo:
    """Where it came from and what it shows. Ids belong to the generation named."""
    predictor = state.batcher.predictor
    entry = _entry(predictor, entry_id)
    return EntryInfo(
        generation=predictor.bundle.manifest.generation,
        id=entry.id,
        label=predictor.bundle.manifest.classes[entry.value],
        index=entry.value,
        source=entry.source,
        mirrored=entry.mirrored,
        thumbnail=f"/v1/entries/{entry.id}/thumbnail" if entry.sheet is not None else None,
    )


@router.get(
    "/v1/entries/{entry_id}/thumbnail",
    tags=["model"],
    summary="One cached entry's picture",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **documented(Kind.NOT_FOUND, Kind.INVALID_PARAMETER)},
)
def get_thumbnail(state: Running, entry_id: EntryId) -> Response:
    """A small PNG."""
    predictor = state.batcher.predictor
    thumbnail = predictor.bundle.entries.thumbnail(_entry(predictor, entry_id))
    if thumbnail is None:
        raise ProblemError(Kind.NOT_FOUND, f"Entry {entry_id} has no thumbnail.")
    # The same id is another picture in another generation.
    return Response(thumbnail, media_type="image/png", headers={"Cache-Control": "no-cache"})


@router.get("/livez", tags=["health"], summary="Whether the process lives")
async def livez(state: Running) -> Health:
    """200 as long as anything is answered at all."""
    return Health(status="alive", generation=state.generations.active)


@router.get("/readyz", tags=["health"], summary="Whether images are answered", responses=documented(Kind.NOT_READY))
async def readyz(state: Running) -> Health:
    """503 when requests should go elsewhere."""
    if not state.is_ready:
        raise UnavailableError("the server does not compute answers now: send requests elsewhere")
    return Health(status="ready", generation=state.generations.active)


def _entry(predictor: Predictor, entry_id: int) -> Entry:
    entry = predictor.bundle.entries.get(entry_id)
    if entry is None:
        raise ProblemError(Kind.NOT_FOUND, f"There is no entry {entry_id}.")
    return entry
