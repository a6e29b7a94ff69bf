"""Images decoded in processes that can be ended, and whose turn it is.

Two lanes. Images of few bytes and pixels, which most are, are decoded at once, in milliseconds: the **quick** lane. All
others go to the **slow** one: those that are large by their header, and those that took longer than they should have.
There the smallest goes first, and before it the images of requests that have cost less so far. Slow ones run in
processes of their own, behind all else that the machine does, and one that is in the way of smaller ones is killed and
begun anew later, with more time. So whoever sends what takes seconds waits for it alone.

Each image is charged the memory that decoding it takes at most (``model.images``), and the sum has a limit. Each
request is charged the processor's time. What goes beyond it is killed, as is what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import numpy as np
from numpy.typing import NDArray

from secondlook.model.errors import ImageError, ImageTooLargeError, JournalError
from secondlook.model.images import Geometry, Limits
from secondlook.model.images.decoder import DONE, LARGE, REPLY, TOO_LARGE
from secondlook.service.batching.thread import STEPS
from secondlook.service.decoding.jobs import (
    IMAGE_S,
    LONG_TURN_S,
    PIXEL_S,
    QUICK_BYTES,
    QUICK_FILE_BYTES,
    QUICK_PIXELS,
    TURN_S,
    Job,
    Running,
    Spending,
)
from secondlook.service.decoding.lanes import Lanes
from secondlook.service.decoding.nursery import Nursery, Process
from secondlook.service.errors import UnavailableError
from secondlook.service.metrics import EndedBy, Metrics

logger = logging.getLogger(__name__)

QUICK_S = 0.05
"""Of the processor, after which an image is in the wrong lane. 1 megapixel takes 5 to 25 ms."""
STUCK_S = 2.0
"""The same on the clock, for what waits for something else than the processor."""
SLOW_STEPS, SLOWER_STEPS = 10, 15
"""By how much slow ones are nicer than the event loop, and once they have taken their first turn."""
LOOK_S = 0.02
THREAD_S = 30.0
"""How long a thread waits for an image."""
EVERY_PIXEL = 2**63


class Decoders:
    """Decodes ``places`` quick images at once, and as many slow ones, in ``max_bytes`` of memory."""

    def __init__(self, *, places: int, max_bytes: int, max_seconds: float, room: int, metrics: Metrics) -> None:
        self._places, self._max_seconds, self._room = places, max_seconds, room
        self._slow_bytes = max_bytes - places * QUICK_BYTES
        self._metrics = metrics
        self._nursery = Nursery(self._heard, self._ended, self._keep)
        self._order = itertools.count()
        self._lanes = Lanes()
        self._running: dict[Process, Running] = {}
        self._slow_running = 0
        """How many of them are slow."""
        self._dying: dict[Process, int] = {}
        """Killed, and still holding so many bytes of what slow ones may."""
        self._idle: list[Process] = []
        self._idle_slow: list[Process] = []
        self._loaded: dict[Process, Job] = {}
        """Whose file lies in a process still."""
        self._processes: set[Process] = set()
        self._looking: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Begin, in the running event loop.

        Raises:
            OSError, TimeoutError: processes cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        await self._nursery.start()

    async def close(self) -> None:
        """End all of it; whoever still waits gets an error."""
        self._is_closed = True
        if self._looking is not None:
            self._looking.cancel()
        await self._nursery.close()
        self._give_up_all()

    @property
    def is_running(self) -> bool:
        """Whether images are decoded now."""
        return self._nursery.is_ready

    def spending(self, images: int) -> Spending:
        """The account of a request of so many images."""
        return Spending(max(self._max_seconds, images * IMAGE_S))

    async def decode(
        self,
        file: bytes | bytearray,
        out: NDArray[np.uint8],
        geometry: Geometry,
        limits: Limits,
        spending: Spending,
        deadline: float,
    ) -> None:
        """Decode an image into ``out`` (height,width,3), by ``deadline`` (of ``time.monotonic()``).

        Cancelling the call ends the decoding.

        Raises:
            ImageError, ImageTooLargeError: as ``model.images.decode``; or it ends the process that decodes it, or takes
                more memory than there is.
            ImageTooSlowError: its request takes more of the processor than it may.
            TimeoutError: its turn did not come in time, or not for long enough.
            UnavailableError: nothing is decoded now.
        """
        if not self._nursery.is_ready or self._is_closed:
            raise _unavailable()
        job = Job(file, out, geometry, limits, spending, deadline, self._loop.create_future(), next(self._order))
        if len(file) <= QUICK_FILE_BYTES:
            self._lanes.add_quick(job)
        else:
            self._lanes.add_slow(job)
        self._go_on()
        await job.done

    def decode_in_thread(self, file: bytes, geometry: Geometry, limits: Limits) -> NDArray[np.uint8]:
        """As ``model.images.decode``, for another thread than the event loop's, which waits.

        Raises:
            ImageError: as ``decode``.
            JournalError: it cannot be decoded now.
        """
        out = np.empty((*geometry.size, 3), np.uint8)
        decoding = self.decode(file, out, geometry, limits, self.spending(1), time.monotonic() + THREAD_S)
        try:
            asyncio.run_coroutine_threadsafe(decoding, self._loop).result()
        except (TimeoutError, UnavailableError) as error:
            raise JournalError("taught images cannot be decoded now") from error
        return out

    def _go_on(self) -> None:
        """Give all who can work something to do."""
        while self._idle and len(self._running) - self._slow_running < self._places:
            job = self._lanes.take_quick()
            if job is None:
                break
            self._give(self._idle.pop(), job, is_slow=False)
        while self._slow_running < self._places:
            job = self._lanes.first_slow()
            process = self._for_slow(job) if job is not None else None
            if job is None or process is None:
                break
            self._lanes.take_slow(job)
            self._give(process, job, is_slow=True)
        if (self._running or self._lanes) and self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _for_slow(self, job: Job) -> Process | None:
        """A process for it, if there is one, and the memory."""
        if job.charge > self._free_bytes() or not (self._idle_slow or self._idle):
            return None
        for process in self._idle_slow:
            if self._loaded.get(process) is job:
                self._idle_slow.remove(process)
                return process
        if self._idle_slow:
            return self._idle_slow.pop()
        process = self._idle.pop()
        process.step_back(SLOW_STEPS)
        self._keep()
        return process

    def _free_bytes(self) -> int:
        held = sum(running.charge for running in self._running.values() if running.is_slow)
        return self._slow_bytes - held - sum(self._dying.values())

    def _give(self, process: Process, job: Job, *, is_slow: bool) -> None:
        self._running[process] = Running(job, is_slow, job.charge if is_slow else 0)
        self._slow_running += is_slow
        try:
            if self._loaded.pop(process, None) is not job:
                process.put(job.file)
            process.ask(job.message)
        except (OSError, ValueError):  # it has ended, as will be heard; or there is no memory to share
            self._take_off(process)
            self._kill(process, 0)
            if is_slow:
                self._lanes.add_slow(job)
            else:
                self._lanes.add_quick(job)

    def _heard(self, process: Process, message: bytes) -> None:
        """A process has something to say of its image."""
        running = self._running.get(process)
        if running is None or process.is_doomed:  # killed as it was about to say it
            return
        kind, seconds, first, second = REPLY.unpack_from(message)
        job = running.job
        job.spending.spent_s += seconds - process.seconds
        process.seconds = seconds
        if not job.done.done():
            if kind == DONE:
                process.take(job.out)
                job.done.set_result(None)
            elif kind == LARGE:
                self._to_be_granted(job, first, second)
                if running.is_slow:
                    self._loaded[process] = job
            else:
                sentence = message[REPLY.size :].decode(errors="replace")
                job.done.set_exception(ImageTooLargeError(sentence) if kind == TOO_LARGE else ImageError(sentence))
        self._take_off(process)
        if process.nice == STEPS:
            self._idle.append(process)
        elif process.nice == SLOW_STEPS and len(self._idle_slow) < self._places:
            self._idle_slow.append(process)
        else:  # it cannot go back to where it was
            self._kill(process, running.charge)
        self._go_on()
        if len(job.file) > QUICK_FILE_BYTES and process not in self._running:
            self._loaded.pop(process, None)
            process.tidy(QUICK_FILE_BYTES)

    def _to_be_granted(self, job: Job, pixels: int, peak: int) -> None:
        """It is larger than what is decoded without asking: the slow lane, if there can be memory enough."""
        job.pixels, job.peak, job.at_once = pixels, peak, EVERY_PIXEL
        if job.charge > self._slow_bytes:
            job.done.set_exception(
                ImageTooLargeError(
                    f"decoding the image takes {job.charge >> 20:,} MiB of memory, more than the "
                    f"{self._slow_bytes >> 20:,} MiB that there are for it: send it smaller"
                )
            )
            return
        self._lanes.add_slow(job)

    def _ended(self, process: Process) -> None:
        """A process has ended, and its memory is free."""
        self._processes.discard(process)
        self._dying.pop(process, None)
        self._loaded.pop(process, None)
        for idle in (self._idle, self._idle_slow):
            if process in idle:
                idle.remove(process)
        running = self._take_off(process)
        if running is not None and not running.job.done.done():
            self._crashed(running)
        if not self._nursery.is_ready:
            self._give_up_all()
        elif not self._is_closed:
            self._keep()
            self._go_on()

    def _crashed(self, running: Running) -> None:
        job = running.job
        if not self._nursery.is_ready:
            job.done.set_exception(_unavailable())
            return
        logger.warning("a process ended while it decoded an image of %d bytes", len(job.file))
        self._metrics.count_ended_decoding("crashed")
        job.crashes += 1
        if job.crashes > 1:
            job.done.set_exception(ImageError("the image makes its decoder fail"))
        else:  # it may have been killed, by whoever frees memory, for nothing that this image did
            self._lanes.add_slow(job)

    def _keep(self) -> None:
        """Have one process more than quick places, so that one that is killed is not missed."""
        fresh = sum(process.nice == STEPS and not process.is_doomed for process in self._processes)
        try:
            for _ in range(self._places + 1 - fresh):
                process = self._nursery.fork(self._room)
                process.step_back(STEPS)
                self._processes.add(process)
                self._idle.insert(0, process)
        except OSError as error:
            logger.error("no process to decode images can be started: %s", error.strerror or error)

    def _look(self) -> None:
        """See who takes too long, or for nobody."""
        self._looking = None
        now = time.monotonic()
        accounts = {running.job.spending: 0.0 for running in self._running.values()}
        for process, running in self._running.items():
            running.used_s = process.used_s()
            accounts[running.job.spending] += running.used_s
        for spending, used_s in accounts.items():
            spending.running_s = used_s
        for process, running in list(self._running.items()):
            self._judge(process, running, now)
        for spending in accounts:
            spending.running_s = 0.0
        for job in self._lanes:
            if job.deadline < now and not job.done.done():
                job.done.set_exception(TimeoutError())
        self._go_on()

    def _judge(self, process: Process, running: Running, now: float) -> None:
        job, used_s = running.job, running.used_s
        is_overdue = used_s > QUICK_S or now - running.started > STUCK_S
        if job.done.done():
            if is_overdue or running.is_slow:
                self._stop(process, "abandoned")
        elif job.spending.is_over:
            self._stop(process, "too_slow")
            job.done.set_exception(job.too_slow)
        elif job.deadline < now:
            self._stop(process, "deadline")
            is_slow = used_s > max(LONG_TURN_S, PIXEL_S * job.pixels)  # else it is the machine that is
            job.done.set_exception(job.too_slow if is_slow else TimeoutError())
        elif not running.is_slow:
            if is_overdue:
                self._to_slow_lane(process, running)
        else:
            if used_s > TURN_S:
                process.step_back(SLOWER_STEPS)
            first = self._lanes.first_of_others(job)
            if first is None:
                return
            turn_s = TURN_S if first.pixels < job.pixels else max(LONG_TURN_S, PIXEL_S * job.pixels)
            if used_s > turn_s * 2**job.tries and first.rank < job.rank_after(used_s):
                self._put_off(process, running)
                job.tries += 1

    def _to_slow_lane(self, process: Process, running: Running) -> None:
        """With its process, if it can go on at once; else it is begun anew there."""
        job = running.job
        job.pixels = job.pixels or QUICK_PIXELS
        self._lanes.suspect(job)
        if self._slow_running < self._places and job.charge <= self._free_bytes():
            running.is_slow, running.charge = True, job.charge
            self._slow_running += 1
            process.step_back(SLOW_STEPS)
            self._keep()
        else:
            self._put_off(process, running)

    def _put_off(self, process: Process, running: Running) -> None:
        """Kill it to begin anew later."""
        self._stop(process, "put_off")
        running.job.spending.spent_s -= running.used_s
        running.job.spending.lost_s += running.used_s
        self._lanes.add_slow(running.job)

    def _stop(self, process: Process, reason: EndedBy) -> None:
        """End what a process does; its memory counts until it is free."""
        running = self._running[process]
        self._take_off(process)
        running.job.spending.spent_s += running.used_s
        running.job.spending.running_s -= running.used_s
        self._metrics.count_ended_decoding(reason)
        self._kill(process, running.charge)

    def _take_off(self, process: Process) -> Running | None:
        running = self._running.pop(process, None)
        if running is not None:
            self._slow_running -= running.is_slow
        return running

    def _kill(self, process: Process, charge: int) -> None:
        self._dying[process] = charge
        process.kill()
        self._keep()

    def _give_up_all(self) -> None:
        for job in self._lanes:
            if not job.done.done():
                job.done.set_exception(_unavailable())
        self._lanes.clear()


def _unavailable() -> UnavailableError:
    return UnavailableError("no images are decoded now: try again later")
