"""The server process."""

from __future__ import annotations

import logging
import logging.config
import signal
import socket
import sys
from contextlib import suppress

import uvicorn

from service import logs
from service.app import create_app
from service.generations import open_predictor
from service.settings import Settings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30
"""How long running requests may take to finish after a signal to stop."""


def run(settings: Settings) -> None:
    """Serve until a signal stops it.

    Raises:
        BundleError: the active bundle is refused.
        KeysError: the file of keys is wrong.
        SystemExit: the address cannot be listened on.
    """
    logging.config.dictConfig(logs.config(settings.log))
    logging.captureWarnings(True)
    # Opened before the server starts, whose own answer to an error at start is a traceback.
    app = create_app(settings, predictor=open_predictor(settings))
    server = _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    # Once it has stopped, the server raises the signal anew: a clean stop shall end with status 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with suppress(KeyboardInterrupt):  # raised anew by the server once it has stopped
        server.run()
    if not server.started:
        sys.exit(1)


class _Server(uvicorn.Server):
    """Says where the page is once it can be reached."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            logger.info("secondlook is ready: http://%s:%d/ (stop it with Ctrl-C)", shown, port)
