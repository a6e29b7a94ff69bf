"""Which generation answers: opened at start, switched by a call, by a rebuild, or by another process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from secondlook.model.added.overlay import Overlay
from secondlook.model.added.replay import Decode, replayed
from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root, seed
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import activate, active_generation
from secondlook.model.bundles.root import active_generation as current_generation
from secondlook.model.bundles.root import (
    generations,
    previous_generation,
    prune,
    refuse,
)
from secondlook.model.errors import BundleError, SecondlookError, StoreError, StoreUnreachableError
from secondlook.model.images import decode
from secondlook.model.journal import Journal
from secondlook.model.manifest import Manifest
from secondlook.model.stores.milvus_server import Milvus
from secondlook.service.batching.batcher import Batcher
from secondlook.service.batching.compute import step_back
from secondlook.service.errors import AcceptanceError, ReadOnlyError, UnavailableError, UnknownGenerationError
from secondlook.service.generations.acceptance import check_canary, compare
from secondlook.service.generations.cluster import Primary, mirror_of
from secondlook.service.settings import Settings
from secondlook.service.shortage import causes

logger = logging.getLogger(__name__)

TAUGHT_SECONDS = 1.0
"""How often it is looked whether anything was taught that nobody asked for, and replicas are told."""
FOLLOW_SECONDS = 2.0
"""How often CURRENT is looked at for another process's switch."""
LONGEST_RETRY_SECONDS = 300.0
"""Between two tries to open what could not be read, or did not fit into memory; each is twice the one before."""


def open_predictor(settings: Settings) -> Predictor:
    """Open the active bundle, seeding an empty root with the default one.

    Where it is damaged, the one that was active before it answers, and the log says which file is amiss. No other:
    a newer one may be there because it was found wanting.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        JournalError: what was taught to it cannot be read.
    """
    if settings.bundles is not None and not settings.replica:
        seed(settings.bundles)
    root, milvus = settings.bundles or default_root(), _milvus(settings)
    journal = _journal(settings)
    try:
        return _open(settings, root, _named(root, milvus), journal, milvus)
    except BundleError as error:
        previous = previous_generation(root)
        try:
            if previous is None:
                raise
            fallback = _open(settings, root, previous, journal, milvus)
        except BundleError:
            raise error from None
        logger.error("%s; generation %s, active before, answers instead", error, previous)
        return fallback


def _milvus(settings: Settings) -> Milvus | None:
    return Milvus(settings.milvus) if settings.milvus is not None else None


def _journal(settings: Settings) -> Journal | None:
    """The root's journal, for a server that may write there; a replica's is the mirror in Milvus."""
    return Journal(settings.bundles) if settings.bundles is not None and not settings.replica else None


def _named(root: Path, milvus: Milvus | None) -> str:
    """The generation to start with."""
    try:
        return active_generation(root, milvus)
    except (StoreUnreachableError, StoreError) as error:
        logger.error("%s; what %s names answers", error, root / "CURRENT")
        return current_generation(root)


def _open(
    settings: Settings,
    root: Path,
    generation: str,
    journal: Journal | None,
    milvus: Milvus | None,
    decode: Decode = decode,
) -> Predictor:
    # An engine's own threads are as nice as the one that made them.
    with ThreadPoolExecutor(1, thread_name_prefix="open", initializer=step_back) as opener:
        return opener.submit(_open_here, settings, root, generation, journal, milvus, decode).result()


def _open_here(
    settings: Settings, root: Path, generation: str, journal: Journal | None, milvus: Milvus | None, decode: Decode
) -> Predictor:
    bundle = open_bundle(
        root,
        generation,
        threads=settings.threads,
        # That core is the event loop's: where batches took all, a seventh fewer images were answered (008).
        spare_core=settings.threads == 0,
        # One copy in memory for all workers.
        mapped=settings.workers > 1,
        device=settings.device,
        precision=settings.precision,
        milvus=milvus,
        even_unreachable=True,
    )
    overlay = _caught_up(Overlay(bundle), journal, milvus, decode)
    predictor = Predictor(
        bundle, overlay, network_fallback=milvus is not None and milvus.settings.when_away == "network"
    )
    if not bundle.is_store_unreachable:
        check_canary(predictor)
    return predictor


def _caught_up(overlay: Overlay, journal: Journal | None, milvus: Milvus | None, decode: Decode = decode) -> Overlay:
    """The overlay with all that was taught: by the journal, or by what the primary put into Milvus."""
    if journal is not None:
        return replayed(overlay, journal, decode=decode)
    if milvus is None or overlay.bundle.manifest.store.kind != "milvus":
        return overlay
    try:
        return mirror_of(milvus, overlay).replayed(overlay)
    except (StoreUnreachableError, StoreError) as error:
        logger.error("what was taught is not known now: %s", error)
        return overlay


def _is_final(error: BaseException | None) -> bool:
    """Whether a bundle is wrong, and not the moment: a file system that hiccups, or memory that is short."""
    if not isinstance(error, BundleError):
        return False
    return not any(isinstance(one, OSError | MemoryError) for one in causes(error))


def _log_alone(switching: asyncio.Task[None]) -> None:
    """Note how a switch ended; whoever asked for it may have left."""
    if not switching.cancelled() and (error := switching.exception()) is not None:
        logger.warning("%s failed: %s", switching.get_name(), error)


class Generations:
    """The generations below a root, and the switch between them. One switch at a time."""

    def __init__(self, settings: Settings, batcher: Batcher, decode: Decode = decode) -> None:
        self._batcher, self._settings, self._decode = batcher, settings, decode
        self._writable = settings.bundles is not None and not settings.replica
        self.root: Path = settings.bundles or batcher.predictor.bundle.path.parent
        self.journal = _journal(settings)
        """What was taught to the root; None for the default bundle's, to which nothing is, and in a replica."""
        self._follower = JournalFollower(self.journal, decode) if self.journal is not None else None
        if self._follower is not None:
            batcher.renew = self._follower.renew
        self._milvus = _milvus(settings)
        self._primary = Primary(self._milvus, self.root) if self._milvus is not None and self._writable else None
        self._switching = asyncio.Lock()
        # Only these are pruned: what came since may be another server's rebuild that it has not opened yet.
        self._known = generations(self.root)

    @property
    def active(self) -> str:
        """The generation that answers."""
        return self._batcher.predictor.bundle.manifest.generation

    def require_writable(self) -> None:
        """Refuse to change the default bundle's folder, or anything from a replica.

        Raises:
            ReadOnlyError: no folder for bundles was set, or this is a replica.
        """
        if self._settings.replica:
            raise ReadOnlyError("this server is a replica, which changes nothing: send this call to the primary")
        if not self._writable:
            raise ReadOnlyError("the default bundle cannot be changed: set SECONDLOOK_BUNDLES to a folder and restart")

    def listing(self) -> dict[str, Manifest | None]:
        """All generations, oldest first; None for one whose manifest cannot be read."""
        found: dict[str, Manifest | None] = {}
        for generation in generations(self.root):
            try:
                found[generation] = read_manifest(self.root, generation)
            except BundleError as error:
                logger.warning("%s", error)
                found[generation] = None
        return found

    async def adopt(self, generation: str, force: bool) -> str:
        """Switch to what a rebuild made and prune; what was compared before, as a sentence.

        Raises:
            AcceptanceError: it is worse than the active one, and force is not given.
            ReadOnlyError, UnknownGenerationError, BundleError: as for ``switch``.
        """
        if force:
            compared = "errors not compared: the rebuild was forced"
        else:
            new = await asyncio.to_thread(read_manifest, self.root, generation)
            try:
                compared = compare(new, self._batcher.predictor.bundle.manifest, self._settings.gate_margin)
            except AcceptanceError:
                await asyncio.to_thread(refuse, self.root, generation)
                await self._prune()
                raise
        await self.switch(generation)
        await self._prune()
        return compared

    async def _prune(self) -> None:
        try:
            keep = self._settings.keep_generations
            for removed in await asyncio.to_thread(prune, self.root, keep, self._known):
                logger.info("generation %s was removed: there are newer ones", removed)
            self._known = await asyncio.to_thread(generations, self.root)
        except BundleError as error:
            logger.warning("%s", error)

    async def switch(self, generation: str) -> None:
        """Verify and load a generation, name it in CURRENT, and let it answer from the next batch on.

        Raises:
            ReadOnlyError: no folder for bundles was set, or this is a replica.
            UnknownGenerationError: there is no such generation.
            BundleError: it is refused; the one before keeps answering.
            StoreUnreachableError, StoreError: its keys are in Milvus, which does not answer or refuses; the same holds.
        """
        self.require_writable()
        # To its end, whoever waits for that: of a switch that is given up halfway, nobody knows what is so.
        switching = asyncio.create_task(self._switch(generation), name=f"switch to {generation}")
        switching.add_done_callback(_log_alone)
        await asyncio.shield(switching)

    async def _switch(self, generation: str) -> None:
        async with self._switching:
            if generation not in await asyncio.to_thread(generations, self.root):
                raise UnknownGenerationError("there is no such generation: /v1/admin/generations lists them")
            opened = None if generation == self.active else await self._open(generation)
            if self._primary is not None and opened is not None:  # a replica that follows at once finds it there
                await asyncio.to_thread(self._primary.publish, opened.overlay)
            # Written first: this may fail, and then nothing has changed. Replacing the predictor cannot fail.
            await asyncio.to_thread(activate, self.root, generation, self._milvus)
            if opened is not None:
                self._batcher.predictor = opened
        logger.info("generation %s answers", generation)

    async def catch_up(self) -> None:
        """Know all that was acknowledged until now, here or by another process; every batch does so by itself.

        Raises:
            JournalError: the journal cannot be read.
            UnavailableError: nothing computes answers, or what it computes takes too long.
        """
        if self._follower is None or self._follower.is_current(self._batcher.predictor.overlay):
            return
        await self._renewed()

    async def _renewed(self) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._batcher.renewed()
        except TimeoutError as error:
            raise UnavailableError("what was taught is not known yet: try again later") from error

    async def follow_taught(self) -> None:
        """Embed what was kept without keys, and let replicas know what was taught; runs until cancelled."""
        complaint = ""
        while True:
            await asyncio.sleep(TAUGHT_SECONDS)
            try:
                await self._follow_taught()
                complaint = ""
            except Exception as error:
                if str(error) != complaint:
                    complaint = str(error)
                    is_ours = isinstance(error, SecondlookError)
                    logger.error("what was taught cannot be followed: %s", error, exc_info=not is_ours)

    async def _follow_taught(self) -> None:
        if self._follower is None:  # a replica's is in Milvus, where all has its keys
            predictor = self._batcher.predictor
            overlay = await asyncio.to_thread(_caught_up, predictor.overlay, None, self._milvus)
            if overlay is not predictor.overlay:
                renewed = Predictor(predictor.bundle, overlay, network_fallback=predictor.network_fallback)
                self._batcher.replace(predictor, renewed)
            return
        await self.catch_up()
        while waiting := self._batcher.predictor.overlay.waiting:
            await self._renewed()
            if self._batcher.predictor.overlay.waiting == waiting:  # each call gets some of them done
                break
        if self._primary is not None:
            await asyncio.to_thread(self._primary.publish, self._batcher.predictor.overlay)

    async def follow(self) -> None:
        """Switch whenever another process changes what the alias or CURRENT names; runs until cancelled."""
        complaint, failed, wait, again = "", "", 0.0, 0.0
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            named = ""
            try:
                async with self._switching:
                    try:
                        named = await asyncio.to_thread(active_generation, self.root, self._milvus)
                    except StoreUnreachableError:  # searches find out, and say so
                        continue
                    if self._primary is not None:
                        await asyncio.to_thread(self._primary.sweep)
                    if named == self.active:
                        complaint = failed = ""
                        continue
                    if named == failed and time.monotonic() < again:
                        continue
                    self._batcher.predictor = await self._open(named)
                logger.info("generation %s answers, activated by another process", named)
                complaint = failed = ""
            except Exception as error:
                wait = min(2 * wait, LONGEST_RETRY_SECONDS) if named == failed else FOLLOW_SECONDS
                # Verifying reads every byte: a bundle that is wrong is not tried again.
                again = math.inf if _is_final(error) else time.monotonic() + wait
                failed = named
                if str(error) != complaint:
                    complaint = str(error)
                    is_ours = isinstance(error, SecondlookError)
                    said = complaint if is_ours else "CURRENT cannot be followed"
                    logger.error("%s; generation %s keeps answering", said, self.active, exc_info=not is_ours)

    def close(self) -> None:
        """Let another process write to Milvus."""
        if self._primary is not None:
            self._primary.close()

    async def _open(self, generation: str) -> Predictor:
        return await asyncio.to_thread(
            _open, self._settings, self.root, generation, self.journal, self._milvus, self._decode
        )
