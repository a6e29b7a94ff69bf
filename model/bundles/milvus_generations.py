"""Activates generations whose keys are in Milvus, and drops collections that no generation needs.

Where a Milvus server is set, its alias names the active generation, for every server at one moment, and CURRENT in the
root is what a server starts with while Milvus does not answer. Without such an alias, CURRENT alone counts: the keys
are in the root then (docs/decisions/012).
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secondlook.model.bundles import root as roots
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.root import generations
from secondlook.model.errors import BundleError, StoreError
from secondlook.model.stores.milvus_server import CALL_SECONDS, Milvus, from_environment
from secondlook.model.stores.milvus_store import ADDED_SUFFIX, check_collection, drop, generation_of

logger = logging.getLogger(__name__)

UNKNOWN_ALIAS = 1600
"""Milvus's code for it."""
ORPHAN_SECONDS = 24 * 3600.0
"""A collection whose generation was never seen may be one that another process fills, until it is so old."""


def named_generation(milvus: Milvus) -> str | None:
    """The generation that the alias names; None where there is no alias.

    Raises:
        StoreUnreachableError: the server does not answer.
        StoreError: the alias names what is no generation of this cache.
    """
    cache, collection = milvus.settings.cache, _aliased(milvus)
    if collection is None:
        return None
    generation = generation_of(cache, collection)
    if generation is None:
        raise StoreError(
            f"alias {cache} of the Milvus server at {milvus.address} names {collection}, which is no generation of "
            "this cache: activate one to set it right"
        )
    return generation


def active_generation(root: Path, milvus: Milvus | None) -> str:
    """The generation that servers of a root answer with.

    Raises:
        BundleError: there is none.
        StoreUnreachableError: Milvus does not answer.
        StoreError: its alias names what is no generation of this cache, or none of this root.
    """
    named = named_generation(milvus) if milvus is not None else None
    if named is None:
        return roots.active_generation(root)
    if named not in generations(root):
        assert milvus is not None
        raise StoreError(
            f"alias {milvus.settings.cache} of the Milvus server at {milvus.address} names generation {named}, "
            f"which is not in {root}: bring its folder there, or activate another one"
        )
    return named


def activate(root: Path, generation: str, milvus: Milvus | None = None) -> None:
    """Make a generation the active one: point the alias at its collection, if it has one, and name it in CURRENT.

    The alias is the switch. It is never pointed at a collection that is not loaded or has other keys than the bundle
    says, and is taken away for a generation whose keys are in the root.

    Raises:
        BundleError: there is no such generation, the root cannot be written, or no Milvus server is set.
        StoreUnreachableError, StoreError: the server does not answer, or its collection is not what the bundle says.
    """
    milvus = milvus or from_environment()
    if generation not in generations(root):
        raise BundleError(f"there is no generation {generation} in {root}")
    kept = read_manifest(root, generation).store
    if kept.collection is not None:
        if milvus is None:
            raise BundleError(f"generation {generation} has its keys in Milvus: set SECONDLOOK_MILVUS__ADDRESS")
        check_collection(milvus, kept.collection, kept.dim, kept.count)
        _point(milvus, kept.collection)
    elif milvus is not None and _aliased(milvus) is not None:
        milvus.call("drop_alias", milvus.settings.cache)
    roots.activate(root, generation)


def _aliased(milvus: Milvus) -> str | None:
    """The collection that the alias names."""

    def ask(client: Any) -> str | None:
        from pymilvus import MilvusException

        try:
            told = client.describe_alias(milvus.settings.cache, timeout=CALL_SECONDS)
        except MilvusException as error:
            if error.code != UNKNOWN_ALIAS and "alias not found" not in str(error.message):
                raise
            return None
        return str(told["collection_name"])

    return milvus.run(ask)


def _point(milvus: Milvus, collection: str) -> None:
    before = _aliased(milvus)
    if before != collection:
        milvus.call("create_alias" if before is None else "alter_alias", collection, milvus.settings.cache)
        logger.info("alias %s names collection %s", milvus.settings.cache, collection)


class Sweeper:
    """Drops the collections of generations that were removed from a root, a while after."""

    def __init__(self, milvus: Milvus, root: Path) -> None:
        self._milvus, self._root = milvus, root
        self._seen: set[str] = set()
        self._missing: dict[str, float] = {}

    def sweep(self) -> list[str]:
        """Drop what is due; the collections that were dropped.

        Raises:
            StoreUnreachableError, StoreError: the server does not answer, or refuses.
        """
        settings, now = self._milvus.settings, time.monotonic()
        kept = {*generations(self._root)}
        self._seen |= kept
        aliased = _aliased(self._milvus)
        dropped = []
        for collection in self._milvus.call("list_collections"):
            generation = generation_of(settings.cache, collection.removesuffix(ADDED_SUFFIX))
            if generation is None or generation in kept or aliased == collection.removesuffix(ADDED_SUFFIX):
                self._missing.pop(collection, None)
                continue
            if generation not in self._seen and _age(generation) < ORPHAN_SECONDS:
                continue
            since = self._missing.setdefault(collection, now)
            if now - since >= settings.grace_s and drop(self._milvus, collection):
                del self._missing[collection]
                dropped.append(collection)
                logger.info("collection %s was dropped: its generation is gone", collection)
        return dropped


def _age(generation: str) -> float:
    """Seconds since a generation's id was made."""
    made = datetime.strptime(generation[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - made).total_seconds()
