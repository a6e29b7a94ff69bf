"""One server process, from its port to the end of its last request."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from secondlook.model.malloc import give_back
from secondlook.service import logs
from secondlook.service.app import create_app
from secondlook.service.generations.opening import open_predictor
from secondlook.service.http.connection import connection
from secondlook.service.http.connections import Connections
from secondlook.service.http.hosts import tell_at_start
from secondlook.service.processes.ending import STOPPING, Ending
from secondlook.service.processes.home import announce, at_home
from secondlook.service.processes.listening import bind, refusal
from secondlook.service.processes.pulse import Pulse
from secondlook.service.settings import Settings
from secondlook.service.shortage import most_connections
from secondlook.service.state import State

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 1
"""How long connections may take to close once the time for running requests is over."""
LOOK_SECONDS = 0.05
"""How often it is looked whether running requests are finished."""


def run(
    settings: Settings,
    program: Sequence[str],
    listening: list[socket.socket] | None = None,
    ready: Callable[[str], None] | None = None,
    pulse: Pulse | None = None,
) -> None:
    """Serve until a signal stops it; ``program`` is the command line that starts ``secondlook``, for rebuilds.

    On those sockets, where they are given, telling ``ready`` the address; and where this is one of several, telling its
    parent by ``pulse`` whether it goes on. Where they are not, bundles may be in the user's home (``at_home``).

    Raises:
        BundleError: the active bundle is refused.
        KeysError: the file of keys is wrong.
        ListenError: the address cannot be listened on.
    """
    logging.config.dictConfig(logs.config(settings.log))
    logging.captureWarnings(True)
    give_back()
    for number in STOPPING:  # while it starts, there is nothing to finish
        signal.signal(number, signal.SIG_DFL)
    if listening is None:
        listening = bind(settings.host, settings.port)
        tell_at_start(settings)
        settings, shows_key = at_home(settings)
        ready = partial(announce, settings, shows_key=shows_key)
    # Opened before the server starts, whose own answer to an error at start is a traceback.
    app = create_app(settings, program, predictor=open_predictor(settings))
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            http=connection(settings.body_timeout_s, Connections(most_connections())),
            timeout_graceful_shutdown=CLOSE_SECONDS,
        ),
        app,
        settings.drain_timeout_s,
        ready or partial(announce, settings),
        pulse,
    )
    server.run(listening)
    if not server.started:
        sys.exit(1)


class _Server(uvicorn.Server):
    """Says where the page is once it can be reached, and finishes what has begun before it stops."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        drain_timeout_s: float,
        ready: Callable[[str], None],
        pulse: Pulse | None,
    ) -> None:
        super().__init__(config)
        self._app, self._drain_timeout_s, self._ready, self._pulse = app, drain_timeout_s, ready, pulse
        self._ending = Ending(drain_timeout_s)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear signals until the process ends. Uvicorn raises them anew when it has stopped, for another status."""
        for number in STOPPING:
            signal.signal(number, self.handle_exit)
        self._ending.listen()
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.drain.has_begun = True
        super().handle_exit(sig, frame)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets)
        self._ending.over()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("stopping: running requests have %g s to finish", self._drain_timeout_s)
        running: State = self._app.state.running
        running.jobs.stop()
        deadline = time.monotonic() + self._drain_timeout_s
        # Still listening: who asks whether the server is ready shall hear 503, not a connection refused.
        while self.server_state.tasks and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # another program began to listen since the port was bound
            raise refusal(error, self.config.host, self.config.port) from error
        if self.started:
            running: State = self._app.state.running
            self._ending.stop_children = running.jobs.kill
            if self._pulse is not None:
                self._pulse.follow(lambda: running.hangs)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            self._ready(f"http://{shown}:{port}{self._app.state.settings.root_path}/")
