"""A process that decodes images for a server, and the one it is forked from: ``python -P -m model.images.decoder``.

A decoder can be killed, whatever library its image keeps busy, and what it held goes with it. Bytes and pixels are
passed in memory that both processes have mapped. Linux only.

The parent of all decoders (the nursery) has read everything that they need, so that one more takes milliseconds. It
does as told over its standard input, a socket: FORK comes with a decoder's own socket and memory, and is answered with
its process id; REAP with the id of one that has ended. Until then the id stays taken, so that it can be killed by it.
When the server ends, of whatever, the socket does: the nursery ends too, and the kernel ends its decoders.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import resource
import select
import signal
import socket
import struct
import time
from contextlib import suppress
from math import ceil
from typing import NamedTuple, NoReturn, Self, get_args

import numpy as np
from PIL import Image

from secondlook.model.errors import ImageError, ImageTooLargeError
from secondlook.model.images import Geometry, Interpolation, Limits, Rule, decode, read_header
from secondlook.model.malloc import give_back

FORK, REAP = b"F", b"R"
PID = struct.Struct("<q")
READY = PID.pack(0)

_JOB = struct.Struct("<5Q2H2B3Bd")
JOB_BYTES = _JOB.size
_RULES, _INTERPOLATIONS = get_args(Rule), get_args(Interpolation)


class Job(NamedTuple):
    """What a decoder is asked for, beside the file, which begins the shared memory."""

    file_bytes: int
    pixels: int
    """That are accepted."""
    at_once: int
    """Pixels that are decoded without asking."""
    most_bytes: int
    """That decoding may take at the very most."""
    most_seconds: int
    """The same, of the processor."""
    geometry: Geometry

    def packed(self) -> bytes:
        """The message, JOB_BYTES long."""
        how = self.geometry
        rule, interpolation = _RULES.index(how.rule), _INTERPOLATIONS.index(how.interpolation)
        return _JOB.pack(*self[:5], how.height, how.width, rule, interpolation, *how.fill, how.crop_share)

    @classmethod
    def unpacked(cls, message: bytes) -> Self:
        """What ``packed`` gave."""
        *numbers, height, width, rule, interpolation, red, green, blue, crop_share = _JOB.unpack(message)
        file_bytes, pixels, at_once, most_bytes, most_seconds = numbers
        geometry = Geometry(
            height=height,
            width=width,
            rule=_RULES[rule],
            crop_share=crop_share,
            interpolation=_INTERPOLATIONS[interpolation],
            fill=(red, green, blue),
        )
        return cls(file_bytes, pixels, at_once, most_bytes, most_seconds, geometry)


REPLY = struct.Struct("<cdQQ")
"""What came of it, and the processor's seconds that this process has taken in all. For LARGE: the pixels, and the bytes
that decoding them takes. For REFUSED and TOO_LARGE, the error's sentence follows."""
DONE, LARGE, REFUSED, TOO_LARGE = b"D", b"L", b"R", b"T"
"""The pixels, uint8 (height,width,3), begin the shared memory; the image has more pixels than are decoded without
asking, nothing was decoded, and the file is where it was; ImageError; ImageTooLargeError."""
MAX_REPLY = REPLY.size + 4096

SLACK_BYTES = 64 << 20
"""What the limits of the system leave beyond the bytes asked for, for what the table of peaks misses: an AVIF, say, may
have more pixels than its header tells. All kinds of images in the table do without."""
_REAP_MS = 50
_PR_SET_PDEATHSIG = 1


def _work(jobs: socket.socket, shared: int) -> None:
    """Decode one image after another, until the server hangs up."""
    memory, bounds = mmap.mmap(shared, 0), _Bounds()
    while message := jobs.recv(JOB_BYTES):
        file_bytes, pixels, at_once, most_bytes, most_seconds, geometry = Job.unpacked(message)
        pixel_bytes = 3 * geometry.height * geometry.width
        if max(file_bytes, pixel_bytes) > len(memory):  # the server has enlarged it
            memory = mmap.mmap(shared, 0)
        bounds.set(most_bytes, most_seconds)
        file = memory[:file_bytes]
        kind, first, second, sentence = DONE, 0, 0, ""
        try:
            try:
                image = decode(file, geometry, Limits(min(pixels, at_once)))
            except ImageTooLargeError:
                if pixels <= at_once:
                    raise
                header = read_header(file, Limits(pixels), geometry)
                kind, first, second = LARGE, header.width * header.height, header.peak_bytes
            else:
                np.frombuffer(memory, np.uint8, pixel_bytes)[:] = image.reshape(-1)
                del image
        except ImageTooLargeError as error:
            kind, sentence = TOO_LARGE, str(error)
        except ImageError as error:
            kind, sentence = REFUSED, str(error)
        del file
        reply = REPLY.pack(kind, time.process_time(), first, second)
        jobs.send(reply + sentence.encode()[: MAX_REPLY - REPLY.size])


class _Bounds:
    """Has the system end what passes the limits of a job by far, should the server not come to it."""

    def __init__(self) -> None:
        with open("/proc/self/statm") as file:
            self._base = int(file.read().split()[5]) * mmap.PAGESIZE  # what RLIMIT_DATA counts
        self._bytes, self._seconds = 0, 0.0

    def set(self, most_bytes: int, most_seconds: int) -> None:
        """Set them, where they are other ones."""
        if most_bytes != self._bytes:
            self._bytes = most_bytes
            _set(resource.RLIMIT_DATA, self._base + most_bytes + SLACK_BYTES)
        now = time.process_time()
        if now + most_seconds > self._seconds:
            self._seconds = now + 2 * most_seconds
            _set(resource.RLIMIT_CPU, ceil(self._seconds))


def _set(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _nurse(control: socket.socket) -> None:
    """Fork and reap as told, until the server ends."""
    ended: set[int] = set()
    ready = select.poll()
    ready.register(control, select.POLLIN)
    while True:
        if not ready.poll(_REAP_MS if ended else None):
            # Not waited for: a process with much memory takes its time to go.
            ended -= {pid for pid in ended if os.waitpid(pid, os.WNOHANG)[0]}
            continue
        message, handed, _, _ = socket.recv_fds(control, 1 + PID.size, 2)
        if not message:
            return
        if message[:1] == REAP:
            ended.add(*PID.unpack(message[1:]))
            continue
        own = os.getpid()
        if (pid := os.fork()) == 0:
            _be_decoder(own, control, *handed)
        control.send(PID.pack(pid))
        for descriptor in handed:
            os.close(descriptor)


def _be_decoder(nursery: int, control: socket.socket, jobs: int, shared: int) -> NoReturn:
    """What the fork does instead of going on."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == nursery:  # else it has ended before
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, control.fileno())
            os.close(null)
            with suppress(OSError):  # the server has hung up
                _work(socket.socket(fileno=jobs), shared)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)


def main() -> None:
    """Be the nursery."""
    give_back()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which then finishes what has begun
        signal.signal(number, signal.SIG_IGN)
    Image.init()  # Pillow's formats, which are otherwise read with the first image of a rarer one
    control = socket.socket(fileno=0)
    control.send(READY)
    gc.collect()
    gc.freeze()  # or else collecting would copy the pages that decoders share
    with suppress(ConnectionError):
        _nurse(control)


if __name__ == "__main__":
    main()
