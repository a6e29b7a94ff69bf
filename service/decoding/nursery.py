"""A server's side of its decoders (``images.decoder``): started, spoken to, killed, and replaced when they end."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from secondlook.model.images.decoder import FORK, MAX_REPLY, PID, REAP, Job

logger = logging.getLogger(__name__)

# -P: a folder called like one of ours, where the server was started, must not be imported.
COMMAND = (sys.executable, "-P", "-m", "secondlook.model.images.decoder")
# NumPy's threads for matrices, of which there are none there.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
START_S, RESTART_S = 60.0, 1.0
"""How long the nursery may take until it is ready, and how long one that ended is waited with."""
END_S = 2.0
LOWEST = 19


class Process:
    """One decoder. Its memory holds the file that it is given, and then the pixels."""

    def __init__(self, room: int) -> None:
        self.pid = 0
        """0 until it is known."""
        self.seconds = 0.0
        """The processor's, which it had taken when it last replied."""
        self.nice = 0
        """By how much it is nicer than the server."""
        self.is_doomed = False
        """It was killed, and has not ended yet."""
        self.has_ended = False
        self.jobs, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.jobs.setblocking(False)
            self._shared = os.memfd_create("images")
            try:
                os.ftruncate(self._shared, room)
                self._memory = mmap.mmap(self._shared, room)
            except OSError:
                os.close(self._shared)
                raise
        except OSError:
            self.jobs.close()
            self._theirs.close()
            raise

    def hand(self, control: socket.socket) -> None:
        """Give its ends of what is shared to the nursery."""
        try:
            socket.send_fds(control, [FORK], [self._theirs.fileno(), self._shared])
        finally:
            self._theirs.close()
            os.close(self._shared)

    def put(self, file: bytes | bytearray) -> None:
        """Lay a file where it is decoded."""
        self._enlarge(len(file))
        self._memory[: len(file)] = file

    def ask(self, job: Job) -> None:
        """Have the file decoded that was put there.

        Raises:
            OSError: it has ended.
        """
        self._enlarge(3 * job.geometry.height * job.geometry.width)
        self.jobs.send(job.packed())

    def take(self, into: NDArray[np.uint8]) -> None:
        """Copy the pixels (height,width,3) that it has decoded."""
        into[:] = np.frombuffer(self._memory, np.uint8, into.size).reshape(into.shape)

    def tidy(self, most: int) -> None:
        """Give memory back beyond so many bytes."""
        if len(self._memory) > most:
            self._memory.madvise(mmap.MADV_REMOVE, most, len(self._memory) - most)

    def used_s(self) -> float:
        """Seconds of the processor since it last replied."""
        if self.pid == 0 or self.has_ended:
            return 0.0
        with suppress(OSError):  # it has ended
            return time.clock_gettime((~self.pid << 3) | 2) - self.seconds  # its clock (clock_getcpuclockid of glibc)
        return 0.0

    def step_back(self, by: int) -> None:
        """Let others go before it, and before the threads that it has."""
        self.nice = max(self.nice, by)
        if self.pid == 0 or self.has_ended:
            return
        with suppress(OSError):  # it has ended, or the system forbids it
            nice = min(LOWEST, os.getpriority(os.PRIO_PROCESS, os.getpid()) + self.nice)
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.is_doomed = True
        if self.pid and not self.has_ended:
            with suppress(ProcessLookupError):  # the nursery has ended, and with it this one
                os.kill(self.pid, signal.SIGKILL)

    def _enlarge(self, room: int) -> None:
        if room > len(self._memory):
            self._memory.resize(room)


class Nursery:
    """The process that decoders are forked from. What they say is told to ``heard``, their ends to ``ended``.

    Where it ends itself, its decoders do too: each is told of, and it is started anew.
    """

    def __init__(
        self, heard: Callable[[Process, bytes], None], ended: Callable[[Process], None], ready: Callable[[], None]
    ) -> None:
        self._heard, self._ended, self._ready = heard, ended, ready
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unnamed: deque[Process] = deque()
        """Those that were asked for, in order, and whose ids are not known yet."""
        self._processes: set[Process] = set()
        self._restarting: asyncio.TimerHandle | None = None
        self.is_ready = False
        self._loop: asyncio.AbstractEventLoop

    async def start(self) -> None:
        """Start it, in the running event loop.

        Raises:
            OSError, TimeoutError: it cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        self._begin()
        until = self._loop.time() + START_S
        while not self.is_ready:
            if self._control is None or self._loop.time() > until:
                raise TimeoutError("the process that starts decoders does not answer")
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """End it and all decoders."""
        if self._restarting is not None:
            self._restarting.cancel()
        popen, self._popen = self._popen, None
        for process in self._processes:
            process.kill()
        self._hang_up()
        if popen is not None:
            try:
                await asyncio.to_thread(popen.wait, END_S)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()

    def fork(self, room: int) -> Process:
        """One more decoder, which can be given an image at once.

        Raises:
            OSError: there is no descriptor or no memory left.
        """
        if self._control is None:
            raise OSError("the process that starts decoders has ended")
        process = Process(room)
        process.hand(self._control)
        self._unnamed.append(process)
        self._processes.add(process)
        self._loop.add_reader(process.jobs, self._hear, process)
        return process

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            environment = {**os.environ, **ENVIRONMENT}
            self._popen = subprocess.Popen(COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._loop.add_reader(ours, self._listen, ours)

    def _listen(self, control: socket.socket) -> None:
        try:
            message = control.recv(PID.size)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._end()
            return
        (pid,) = PID.unpack(message)
        if pid == 0:
            self.is_ready = True
            self._ready()
            return
        process = self._unnamed.popleft()
        process.pid = pid
        if process.has_ended:
            self._reap(process)
        elif process.is_doomed:
            process.kill()
        elif process.nice:
            process.step_back(process.nice)

    def _hear(self, process: Process) -> None:
        try:
            message = process.jobs.recv(MAX_REPLY)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            self._heard(process, message)
        elif self._popen is not None and self._popen.poll() is not None:
            self._end()
        else:
            self._bury(process)

    def _bury(self, process: Process) -> None:
        """Its socket is closed, which the system does once its memory is free."""
        process.has_ended = True
        self._processes.discard(process)
        self._loop.remove_reader(process.jobs)
        process.jobs.close()
        if process.pid:
            self._reap(process)
        self._ended(process)

    def _reap(self, process: Process) -> None:
        if self._control is not None:
            with suppress(OSError):  # it has ended: so will be heard
                self._control.send(REAP + PID.pack(process.pid))

    def _hang_up(self) -> None:
        self.is_ready = False
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None
        self._unnamed.clear()
        for process in list(self._processes):
            self._bury(process)

    def _end(self) -> None:
        """It has ended by itself, and the decoders with it."""
        popen = self._popen
        self._hang_up()
        if popen is not None:
            logger.critical("no images are decoded: that starts anew in %g s", RESTART_S)
            popen.kill()
            self._restarting = self._loop.call_later(RESTART_S, self._restart, popen)

    def _restart(self, before: subprocess.Popen[bytes]) -> None:
        before.poll()
        try:
            self._begin()
        except OSError as error:
            logger.critical("the process that starts decoders cannot be started: %s", error.strerror)
            self._restarting = self._loop.call_later(RESTART_S, self._restart, before)
