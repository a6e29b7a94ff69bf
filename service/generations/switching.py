"""Switches what answers to another generation: by a call, after a rebuild, or as another process did."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from pathlib import Path

from secondlook.model.added.replay import Decode
from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.milvus_generations import activate, active_generation
from secondlook.model.bundles.root import generations, prune, refuse
from secondlook.model.errors import BundleError, SecondlookError, StoreUnreachableError
from secondlook.model.images import decode
from secondlook.model.manifest import Manifest
from secondlook.service.batching.batcher import Batcher
from secondlook.service.errors import AcceptanceError, ReadOnlyError, UnavailableError, UnknownGenerationError
from secondlook.service.generations.acceptance import compare
from secondlook.service.generations.cluster import Primary
from secondlook.service.generations.opening import Opener
from secondlook.service.settings import Settings
from secondlook.service.shortage import causes

logger = logging.getLogger(__name__)

TAUGHT_SECONDS = 1.0
"""Between two looks for changes that no request asked for, and two publications to replicas."""
FOLLOW_SECONDS = 2.0
"""Between two looks at CURRENT for another process's switch."""
LONGEST_RETRY_SECONDS = 300.0
"""Between two tries to open what could not be read, or did not fit into memory; each is twice the one before."""


def _is_final(error: BaseException | None) -> bool:
    """Whether a bundle is wrong, and not the moment: a file system that hiccups, or memory that is short."""
    if not isinstance(error, BundleError):
        return False
    return not any(isinstance(one, OSError | MemoryError) for one in causes(error))


def _log_outcome(switching: asyncio.Task[None]) -> None:
    """Note how a switch ended; whoever asked for it may have left."""
    if not switching.cancelled() and (error := switching.exception()) is not None:
        logger.warning("%s failed: %s", switching.get_name(), error)


class Generations:
    """The generations below a root, and the switch between them. One switch at a time."""

    def __init__(self, settings: Settings, batcher: Batcher, decode: Decode = decode) -> None:
        self._batcher, self._settings = batcher, settings
        self._opener = Opener(settings, decode)
        self._writable = settings.bundles is not None and not settings.replica
        self.root: Path = settings.bundles or batcher.predictor.bundle.path.parent
        self.journal = self._opener.journal
        """What was taught to the root; None for the default bundle's, to which nothing is, and in a replica."""
        self._follower = JournalFollower(self.journal, decode) if self.journal is not None else None
        if self._follower is not None:
            batcher.renew = self._follower.renew
        milvus = self._opener.milvus
        self._primary = Primary(milvus, self.root) if milvus is not None and self._writable else None
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
                compared = compare(new, self._batcher.predictor.bundle.manifest)
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
        # Shielded: a switch that is given up halfway could leave CURRENT naming one and another answering.
        switching = asyncio.create_task(self._switch(generation), name=f"switch to {generation}")
        switching.add_done_callback(_log_outcome)
        await asyncio.shield(switching)

    async def _switch(self, generation: str) -> None:
        async with self._switching:
            if generation not in await asyncio.to_thread(generations, self.root):
                raise UnknownGenerationError("there is no such generation: /v1/admin/generations lists them")
            opened = None if generation == self.active else await asyncio.to_thread(self._opener.open, generation)
            if self._primary is not None and opened is not None:  # a replica that follows at once finds it there
                await asyncio.to_thread(self._primary.publish, opened.overlay)
            # Written first: this may fail, and then nothing has changed. Replacing the predictor cannot fail.
            await asyncio.to_thread(activate, self.root, generation, self._opener.milvus)
            if opened is not None:
                self._batcher.predictor = opened
        logger.info("generation %s answers", generation)

    async def catch_up(self) -> None:
        """Apply every change acknowledged until now, here or by another process; each batch does so by itself.

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
        """Embed added images that have no keys, and publish added entries to replicas; runs until cancelled."""
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
            overlay = await asyncio.to_thread(self._opener.replayed, predictor.overlay)
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
                        named = await asyncio.to_thread(active_generation, self.root, self._opener.milvus)
                    except StoreUnreachableError:  # searches find out, and say so
                        continue
                    if self._primary is not None:
                        await asyncio.to_thread(self._primary.sweep)
                    if named == self.active:
                        complaint = failed = ""
                        continue
                    if named == failed and time.monotonic() < again:
                        continue
                    self._batcher.predictor = await asyncio.to_thread(self._opener.open, named)
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
        """Let another process be the one that writes to Milvus."""
        if self._primary is not None:
            self._primary.close()
