"""What a person decides about an entry: relabelling, removing, confirming, restoring. The next answer knows of it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.entry_table import Entry
from secondlook.model.errors import ParameterError
from secondlook.model.journal import Journal, number_in
from secondlook.model.labels import check_label
from secondlook.service.http.auth import require_admin
from secondlook.service.http.keys import Key
from secondlook.service.problems import Kind, ProblemError, clean, documented
from secondlook.service.routes.entries import EntryId, known_entry
from secondlook.service.schemas import EntryInfo, entry_info
from secondlook.service.state import Running, State

router = APIRouter(
    tags=["teach"],
    responses=documented(
        Kind.KEY_MISSING,
        Kind.KEY_REFUSED,
        Kind.ADMIN_DISABLED,
        Kind.NOT_FOUND,
        Kind.BUNDLES_READ_ONLY,
        Kind.GENERATION_CHANGED,
        Kind.INVALID_PARAMETER,
        Kind.MALFORMED_REQUEST,
        Kind.NOT_KEPT,
        Kind.DISK_FULL,
    ),
)


class Shows(BaseModel):
    """What an entry shows."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="A new one makes a new class.")


class Confirms(BaseModel):
    """What an entry is rightly said to show."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="The label that it has: refused where it has another one by now.")


Generation = Annotated[
    str | None, Query(description="The generation that the id was listed in; refused where another one answers now.")
]
Admin = Annotated[Key, Depends(require_admin)]


@router.patch(
    "/v1/entries/{entry_id}",
    summary="Relabel an entry",
    responses=documented(Kind.LABEL_LIKE_ANOTHER),
)
async def relabel(
    state: Running, key: Admin, entry_id: EntryId, asked: Annotated[Shows, Body()], generation: Generation = None
) -> EntryInfo:
    """Its image's mirrored copy goes with it. A new label makes a new class."""
    predictor, entry, label = await _decide(state, key, entry_id, asked.label, generation)
    told, now = entry_info(predictor, entry), state.batcher.predictor
    if now.bundle is predictor.bundle and (after := now.overlay.entry(entry_id)) is not None:
        told = entry_info(now, after)
    if told.label == label or label is None:
        return told
    # What another call has done to it since does not change what this one did.
    return told.model_copy(update={"label": label, "index": now.overlay.index.get(label, told.index)})


@router.delete("/v1/entries/{entry_id}", status_code=204, summary="Remove an entry")
async def remove(state: Running, key: Admin, entry_id: EntryId, generation: Generation = None) -> None:
    """Its image's mirrored copy goes with it. Rebuilds leave the image out."""
    await _decide(state, key, entry_id, None, generation)


@router.post(
    "/v1/entries/{entry_id}/restore",
    summary="Take an entry's removal back",
    responses=documented(Kind.LABEL_LIKE_ANOTHER),
)
async def restore(
    state: Running, key: Admin, entry_id: EntryId, asked: Annotated[Shows, Body()], generation: Generation = None
) -> EntryInfo:
    """Under a label; one that was not removed stays as it is. The picture of a taught image is erased with it (404)."""
    predictor = await _answering(state, generation)
    manifest, own = predictor.bundle.manifest, await asyncio.to_thread(predictor.bundle.entries.get, entry_id)
    if own is not None and number_in(own.source) is None and predictor.overlay.entry(entry_id) is None:
        label = check_label(asked.label, predictor.classes)
        was = manifest.classes[own.value]
        give_back = partial(journal_of(state).correct, own=was, known=manifest.classes, even_removed=True)
        await asyncio.to_thread(give_back, manifest.dataset.name, own.source, label, key.name)
        await state.generations.catch_up()
        predictor = state.batcher.predictor
    entry = await asyncio.to_thread(known_entry, predictor, entry_id)
    return entry_info(predictor, entry)


@router.post("/v1/entries/{entry_id}/confirm", summary="Say that an entry's label is right")
async def confirm(
    state: Running, key: Admin, entry_id: EntryId, asked: Annotated[Confirms, Body()], generation: Generation = None
) -> EntryInfo:
    """Audits do not ask about its image again, not of another generation either, until it gets another label."""
    found = await _image(state, entry_id, generation)
    add = partial(journal_of(state).confirmations.add, own=found.own)
    now = await asyncio.to_thread(add, found.dataset, found.source, asked.label, key.name)
    if now is None:
        raise ProblemError(Kind.NOT_FOUND, f"There is no entry {entry_id}.")
    if now != asked.label:
        raise ParameterError(f"label: entry {entry_id} is {clean(now)} by now: look at it again")
    await state.generations.catch_up()
    return entry_info(found.predictor, found.entry)


@router.delete("/v1/entries/{entry_id}/confirm", status_code=204, summary="Take it back that an entry's label is right")
async def unconfirm(state: Running, key: Admin, entry_id: EntryId, generation: Generation = None) -> None:
    """An audit may ask about its image again. Nothing happens where nobody had said so."""
    found = await _image(state, entry_id, generation)
    await asyncio.to_thread(journal_of(state).confirmations.take_back, found.dataset, found.source, key.name)
    await state.generations.catch_up()


class _Image(NamedTuple):
    """What a decision about an entry is about."""

    predictor: Predictor
    entry: Entry
    dataset: str
    source: str
    own: str | None
    """The label that an image of the dataset has by itself; None for a taught one."""


async def _answering(state: State, generation: str | None) -> Predictor:
    """What answers, with all that was decided before, if it may be changed and is of that generation."""
    state.generations.require_writable()
    await state.generations.catch_up()
    predictor = state.batcher.predictor
    if generation is not None and generation != predictor.bundle.manifest.generation:
        raise ProblemError(
            Kind.GENERATION_CHANGED,
            f"Generation {clean(generation)} does not answer any more: an entry's id may be another image's now.",
        )
    return predictor


async def _image(state: State, entry_id: int, generation: str | None) -> _Image:
    predictor = await _answering(state, generation)
    manifest = predictor.bundle.manifest
    entry = await asyncio.to_thread(known_entry, predictor, entry_id)
    own = None
    if number_in(entry.source) is None:
        own_entry = await asyncio.to_thread(predictor.bundle.entries.get, entry_id)
        assert own_entry is not None  # as it is known
        own = manifest.classes[own_entry.value]
    return _Image(predictor, entry, manifest.dataset.name, entry.source, own)


async def _decide(
    state: State, key: Key, entry_id: int, label: str | None, generation: str | None
) -> tuple[Predictor, Entry, str | None]:
    """Write what an entry's image shows now (None = it is removed); the entry as it was, and the label as it is kept.

    Whether there still is such an entry, the journal says, in the same transaction: others may be removing it.
    """
    found = await _image(state, entry_id, generation)
    journal, classes = journal_of(state), found.predictor.bundle.manifest.classes
    if label is not None:
        label = check_label(label, found.predictor.classes)
    number = number_in(found.source)
    if number is not None:
        was = await asyncio.to_thread(journal.correct_image, number, label, key.name, classes)
    else:
        assert found.own is not None
        decide = partial(journal.correct, own=found.own, known=classes)
        was = await asyncio.to_thread(decide, found.dataset, found.source, label, key.name)
    if was is None:
        raise ProblemError(Kind.NOT_FOUND, f"There is no entry {entry_id}.")
    await state.generations.catch_up()
    return found.predictor, found.entry, label


def journal_of(state: State) -> Journal:
    """The journal that decisions and taught images are written to."""
    journal = state.generations.journal
    assert journal is not None  # a root that can be written has one
    return journal
