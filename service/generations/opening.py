"""Opens a generation, whole and with all that was taught to it; one that is damaged is refused."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from secondlook.model.added import replay
from secondlook.model.added.overlay import Overlay
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import open_bundle
from secondlook.model.bundles.default import default_root, seed
from secondlook.model.bundles.milvus_generations import active_generation
from secondlook.model.bundles.root import active_generation as current_generation
from secondlook.model.bundles.root import previous_generation
from secondlook.model.errors import BundleError, StoreError, StoreUnreachableError
from secondlook.model.images import decode
from secondlook.model.journal import Journal
from secondlook.model.stores.milvus_server import Milvus
from secondlook.service.batching.thread import step_back
from secondlook.service.generations.acceptance import check_canary
from secondlook.service.generations.cluster import mirror_of
from secondlook.service.settings import Settings

logger = logging.getLogger(__name__)


def open_predictor(settings: Settings) -> Predictor:
    """Open the active generation, seeding an empty root with the default bundle.

    Where it is damaged, the one that was active before it answers, and the log says which file is amiss. No other:
    a newer one may be there because it was found wanting.

    Raises:
        BundleError: names the file that is amiss and what is wrong with it.
        JournalError: what was taught to it cannot be read.
    """
    if settings.bundles is not None and not settings.replica:
        seed(settings.bundles)
    opener = Opener(settings)
    try:
        return opener.open(opener.named())
    except BundleError as error:
        previous = previous_generation(opener.root)
        try:
            if previous is None:
                raise
            fallback = opener.open(previous)
        except BundleError:
            raise error from None
        logger.error("%s; generation %s, active before, answers instead", error, previous)
        return fallback


class Opener:
    """Opens generations below the root that the settings name; ``decode`` decodes taught images that have no keys."""

    def __init__(self, settings: Settings, decode: replay.Decode = decode) -> None:
        self._settings, self._decode = settings, decode
        self.root = settings.bundles or default_root()
        self.milvus = Milvus(settings.milvus) if settings.milvus is not None else None
        is_writable = settings.bundles is not None and not settings.replica
        self.journal = Journal(self.root) if is_writable else None
        """What was taught to the root; None for the default bundle's, to which nothing is, and in a replica."""

    def named(self) -> str:
        """The active generation: as Milvus says, or as CURRENT does where Milvus does not answer."""
        try:
            return active_generation(self.root, self.milvus)
        except (StoreError, StoreUnreachableError) as error:
            logger.error("%s; what %s names answers", error, self.root / "CURRENT")
            return current_generation(self.root)

    def open(self, generation: str) -> Predictor:
        """Open, verify and try out a generation; the engine's threads give way to the event loop.

        Raises:
            BundleError, JournalError: as for ``open_predictor``.
        """
        # An engine's own threads are as nice as the one that made them.
        with ThreadPoolExecutor(1, thread_name_prefix="open", initializer=step_back) as opener:
            return opener.submit(self._open, generation).result()

    def _open(self, generation: str) -> Predictor:
        settings, milvus = self._settings, self.milvus
        bundle = open_bundle(
            self.root,
            generation,
            threads=settings.threads,
            # That core is the event loop's: where batches took all, a seventh fewer images were answered (008).
            spare_core=settings.threads == 0,
            # One copy in memory for all workers.
            mapped=settings.workers > 1,
            device=settings.device,
            precision=settings.precision,
            engine=settings.engine,
            milvus=milvus,
            even_unreachable=True,
            even_empty=True,
        )
        overlay = self.replayed(Overlay(bundle))
        predictor = Predictor(
            bundle, overlay, network_fallback=milvus is not None and milvus.settings.when_away == "network"
        )
        if not bundle.is_store_unreachable:
            check_canary(predictor)
        return predictor

    def replayed(self, overlay: Overlay) -> Overlay:
        """The overlay with all that was taught: by the journal, or in a replica by what the primary put into Milvus."""
        if self.journal is not None:
            return replay.replayed(overlay, self.journal, decode=self._decode)
        if self.milvus is None or overlay.bundle.manifest.store.kind != "milvus":
            return overlay
        try:
            return mirror_of(self.milvus, overlay).replayed(overlay)
        except (StoreError, StoreUnreachableError) as error:
            logger.error("what was taught is not known now: %s", error)
            return overlay
