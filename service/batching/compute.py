"""A batch computed: its pixels through the predictor, and what came of each request. Runs in the compute thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secondlook.model.answering.predictor import Answer, Outcome, Predictor, Wanted
from secondlook.model.answering.stage_timer import StageTimer
from secondlook.model.cache import Floats
from secondlook.model.errors import StoreUnreachableError
from secondlook.service.batching.turns import Part, Reply, Request, Turns, wanted
from secondlook.service.errors import GeometryChangedError
from secondlook.service.metrics import Metrics

logger = logging.getLogger(__name__)


def compute(
    batch: Sequence[Part], current: Predictor, timer: StageTimer, turns: Turns, metrics: Metrics
) -> dict[Request, Reply | Exception]:
    """Compute a batch of one part or more; what came of the requests that are over with it.

    ``current`` answers, but for requests of which another one has answered the first part. Each request is told
    what it asks for, a prediction under its own parameters and with its number of neighbours.
    """
    outcomes: dict[Request, Reply | Exception] = {}
    predictor = batch[0].request.predictor or current
    accepted: list[tuple[Part, Wanted]] = []
    for part in batch:
        request = part.request
        try:
            if request.geometry != predictor.bundle.geometry:
                raise GeometryChangedError("another generation took over while the images were decoded: try again")
            request.predictor = predictor
            request.wanted = request.wanted or wanted(request.asked, predictor)
            accepted.append((part, request.wanted))
        except Exception as error:
            outcomes[request] = error
    if not accepted:
        return outcomes
    began = time.monotonic()
    images = _together([part.images for part, _ in accepted])
    queries = [asked for part, asked in accepted for _ in part.images]
    neighbors = max(part.request.neighbors for part, _ in accepted)
    answers = iter(_predict(predictor, images, queries, neighbors, metrics, timer))
    turns.took(accepted[0][0].request.kind, len(images), time.monotonic() - began - timer.lent)
    for part, asked in accepted:
        request = part.request
        of_part = [next(answers) for _ in part.images]
        request.answers += [_with_neighbors(answer, request.neighbors) for answer in of_part]
        request.timing.batch.add(timer)
        if unreachable := [answer for answer in of_part if isinstance(answer, StoreUnreachableError)]:
            outcomes[request] = unreachable[0]  # all of it: no image is to blame
        elif len(request.answers) == len(request.images):
            outcomes[request] = Reply(predictor, asked, request.answers)
    return outcomes


def embed(predictor: Predictor, images: NDArray[np.uint8], max_batch: int) -> Floats:
    """Keys (n,D) of images (n,height,width,3), ``max_batch`` at a time.

    Raises:
        Whatever the engine raises.
    """
    starts = range(0, len(images), max_batch)
    encode = predictor.bundle.engine.encode
    return np.concatenate([encode(images[start : start + max_batch]).keys for start in starts])


def _together(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The batch's images (B,height,width,3). Those of one request are where decoders wrote them."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _predict(
    predictor: Predictor,
    images: NDArray[np.uint8],
    queries: Sequence[Wanted],
    neighbors: int,
    metrics: Metrics,
    timer: StageTimer,
) -> list[Outcome | Exception]:
    """Predict; if that fails, once more for each image alone, so that only the bad one fails."""
    try:
        before = replace(timer)
        answers: list[Outcome | Exception] = [*predictor.predict(images, queries, neighbors, timer)]
        metrics.observe_batch(len(images), timer.since(before))
        return answers
    except StoreUnreachableError as error:  # which no image is to blame for
        return [error] * len(images)
    except Exception as error:
        logger.warning("a batch of %d failed", len(images), exc_info=True)
        if len(images) == 1:
            return [error]
    singly = (slice(i, i + 1) for i in range(len(images)))
    return [_predict(predictor, images[one], queries[one], neighbors, metrics, timer)[0] for one in singly]


def _with_neighbors(answer: Outcome | Exception, count: int) -> Outcome | Exception:
    if not isinstance(answer, Answer):
        return answer
    return replace(
        answer,
        ids=answer.ids[:count],
        values=answer.values[:count],
        similarities=answer.similarities[:count],
        weights=answer.weights[:count],
    )
