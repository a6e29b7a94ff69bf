"""``/v1/admin``: rebuilds, generations, and who changed what."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator
from starlette.concurrency import run_in_threadpool

from secondlook.indexer.datasets.left_out import is_plain
from secondlook.model.bundles.files import NETWORK
from secondlook.model.errors import BundleError, ParameterError
from secondlook.model.journal import Action
from secondlook.model.networks.cifar_recipes import NAMED
from secondlook.model.stores.added_keys import added_id
from secondlook.service.errors import UnavailableError
from secondlook.service.generations.records import Job
from secondlook.service.http.auth import require_admin
from secondlook.service.prefix import link
from secondlook.service.problems import Kind, ProblemError, clean, documented
from secondlook.service.schemas import GenerationInfo, generation_info
from secondlook.service.settings import Settings
from secondlook.service.shortage import is_short
from secondlook.service.state import Running

PUBLISHED = ("cifar10", "cifar100")
"""Datasets that are known by name; any other is a folder below ``data``."""

router = APIRouter(
    prefix="/v1/admin",
    tags=["admin"],
    dependencies=[Depends(require_admin)],
    responses=documented(Kind.KEY_MISSING, Kind.KEY_REFUSED, Kind.ADMIN_DISABLED, Kind.INVALID_PARAMETER),
)


class RebuildRequest(BaseModel):
    """What to build; everything may be left out."""

    model_config = ConfigDict(extra="forbid")

    dataset: str | None = Field(
        None,
        description="cifar10, cifar100 or a folder below SECONDLOOK_DATA; the active bundle's if left out, or what was "
        "taught alone, where that has none.",
    )
    recipe: str | None = Field(None, description=f"A key recipe: {', '.join(NAMED)}; the active bundle's if left out.")
    store: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_,():x.]{0,63}$",
        description="A FAISS factory string; chosen by the keys' number if left out.",
    )
    mirror: StrictBool = Field(False, description="Whether mirrored copies are cached too.")
    force: StrictBool = Field(
        False, description="Switch to the result even where it has more errors than the active generation."
    )

    @field_validator("recipe")
    @classmethod
    def _only_named(cls, recipe: str | None) -> str | None:
        # The command also takes a file's path, which is not for a client to name.
        if recipe is not None and recipe not in NAMED:
            raise ValueError(f"choose {', '.join(NAMED)}")
        return recipe


@router.post(
    "/rebuild",
    status_code=202,
    summary="Build a new generation and switch to it",
    responses=documented(Kind.REBUILD_RUNNING, Kind.BUNDLES_READ_ONLY, Kind.MALFORMED_REQUEST),
)
async def rebuild(state: Running, response: Response, asked: Annotated[RebuildRequest | None, Body()] = None) -> Job:
    """Runs in a process of its own; its progress is at the `Location`. One at a time.

    The result is switched to if it is whole, answers test images, and has no more errors on its held-out images than
    the active generation by more than one percentage point and by more than chance explains.
    """
    state.generations.require_writable()
    asked = asked or RebuildRequest()
    manifest = state.batcher.predictor.bundle.manifest
    if asked.recipe is not None and NETWORK not in manifest.files:
        raise ParameterError(
            f"recipe: generation {manifest.generation} keeps no network to make other keys with (it was "
            f"{clean(manifest.network.name)}): leave recipe out, or index with --network"
        )
    dataset = asked.dataset
    if dataset is None and not manifest.is_taught_alone:
        dataset = manifest.dataset.name
    job = await state.jobs.rebuild(
        [
            f"--bundles={state.generations.root}",
            *(await run_in_threadpool(_dataset_arguments, asked, dataset, state.settings)),
        ],
        force=asked.force,
    )
    response.headers["Location"] = link(f"/v1/admin/jobs/{job.id}")
    return job


def _dataset_arguments(asked: RebuildRequest, dataset: str | None, settings: Settings) -> list[str]:
    """The rest of the command line. A client's text is never an option: it follows ``=`` or ``--``.

    Without a dataset, what was taught is all there is.
    """
    if dataset is None:
        return _options(asked)
    if settings.data is None:
        raise ParameterError("dataset: this server has no datasets: set SECONDLOOK_DATA to their folder and restart it")
    if dataset not in PUBLISHED and not _is_folder_below(settings.data, dataset):
        raise ParameterError("dataset: give cifar10, cifar100 or the relative path of a folder below SECONDLOOK_DATA")
    limits = [f"--data-root={settings.data}", f"--max-pixels={settings.max_pixels}"]
    return [*limits, *_options(asked), "--", dataset]


def _options(asked: RebuildRequest) -> list[str]:
    arguments = []
    if asked.recipe is not None:
        arguments.append(f"--recipe={asked.recipe}")
    if asked.store is not None:
        arguments.append(f"--store={asked.store}")
    if asked.mirror:
        arguments.append("--mirror")
    return arguments


def _is_folder_below(root: Path, name: str) -> bool:
    path = PurePosixPath(name)
    if not is_plain(name) or not path.parts or path.is_absolute() or ".." in path.parts:
        return False
    try:
        folder = (root / path).resolve(strict=True)
        return folder.is_dir() and folder.is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


@router.get("/jobs", summary="All rebuilds that are remembered")
async def list_jobs(state: Running) -> list[Job]:
    """Oldest first, the newest 100, whichever server on the same folder of bundles ran them."""
    return await run_in_threadpool(state.jobs.listing)


@router.get("/jobs/{job_id}", summary="One rebuild's progress or outcome", responses=documented(Kind.NOT_FOUND))
async def get_job(state: Running, job_id: str) -> Job:
    """State, stage, and how far it is."""
    return await run_in_threadpool(state.jobs.get, job_id)


@router.get(
    "/jobs/{job_id}/log",
    summary="What one rebuild wrote",
    response_class=PlainTextResponse,
    responses=documented(Kind.NOT_FOUND),
)
async def get_log(state: Running, job_id: str) -> str:
    """Stages, warnings and errors, the last 64 KiB of them; the server's folders are left out."""
    return await run_in_threadpool(state.jobs.log, job_id)


@router.delete("/jobs/{job_id}", summary="Cancel a rebuild", responses=documented(Kind.NOT_FOUND))
async def cancel_job(state: Running, job_id: str) -> Job:
    """Answers when it has stopped; a rebuild that is over stays as it is."""
    return await state.jobs.cancel(job_id)


class ChangeInfo(BaseModel):
    """Something that was taught, relabelled or removed."""

    change: int
    at: str = Field(description="When; UTC.")
    key: str = Field(description="Name of the key that it was done with.")
    action: Action
    entry: int | None = Field(description="Id of the taught image; null for an image of a dataset.")
    dataset: str | None = Field(description="The dataset whose image it is; null for a taught one.")
    source: str
    label: str | None = Field(description="What it shows since; null = removed.")
    was: str | None = Field(description="What it showed before.")


@router.get("/changes", summary="Who taught, relabelled and removed what")
async def list_changes(
    state: Running,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="Those before this one.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 50,
) -> list[ChangeInfo]:
    """Newest first."""
    journal = state.generations.journal
    found = await run_in_threadpool(journal.changes, before, limit) if journal is not None else []
    return [
        ChangeInfo(
            change=change.number,
            entry=None if change.image is None else added_id(change.image),
            **{name: getattr(change, name) for name in ("at", "key", "action", "dataset", "source", "label", "was")},
        )
        for change in found
    ]


@router.get("/generations", summary="The bundles that can be activated")
async def list_generations(state: Running) -> list[GenerationInfo]:
    """Oldest first."""
    found = await run_in_threadpool(state.generations.listing)
    return [generation_info(name, manifest, state.generations.active) for name, manifest in found.items()]


@router.post(
    "/generations/{generation}/activate",
    summary="Switch to a generation, or roll back",
    responses=documented(Kind.NOT_FOUND, Kind.BUNDLES_READ_ONLY, Kind.BUNDLE_REFUSED, Kind.TOO_SLOW, Kind.NOT_READY),
)
async def activate_generation(state: Running, generation: str) -> GenerationInfo:
    """Verifies it, then switches at once: each answer comes from one generation alone, and names it."""
    try:
        async with asyncio.timeout(state.settings.request_timeout_s):
            await state.generations.switch(generation)
    except TimeoutError as error:
        detail = (
            f"Generation {clean(generation)} is not open after {state.settings.request_timeout_s:g} s; "
            "that goes on: GET /v1/model says when it answers."
        )
        raise ProblemError(Kind.TOO_SLOW, detail, headers={"Retry-After": "5"}) from error
    except BundleError as error:
        if is_short(error):
            raise UnavailableError("the server has too few open files or too little memory now: try later") from error
        raise ProblemError(Kind.BUNDLE_REFUSED, state.settings.hide_paths(str(error)) + ".") from error
    return generation_info(generation, state.batcher.predictor.bundle.manifest, state.generations.active)
