"""``secondlook serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.options import bundles_option, data_root_option

PROGRAM = (sys.executable, "-P", "-m", "secondlook")
"""This program, as a server starts it again for rebuilds and for workers: an arrow up that no import shows.

-P: a folder called like one of ours, where the server was started, must not be imported.
"""


@click.command()
@click.option("--host", help="Address to listen on.  [env: SECONDLOOK_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [env: SECONDLOOK_PORT]")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that answer.  [env: SECONDLOOK_WORKERS]")
@bundles_option
@data_root_option
@click.option("--worker", "is_worker", is_flag=True, hidden=True)
def serve(
    host: str | None, port: int | None, workers: int | None, root: Path | None, data_root: Path | None, is_worker: bool
) -> None:
    """Serve the active bundle over HTTP. Every setting is an environment variable; docs/settings.md lists them."""
    from secondlook.service.errors import KeysError
    from secondlook.service.processes import workers as processes
    from secondlook.service.settings import read_settings

    if is_worker:  # one of several, whose parent says what to do
        processes.work(PROGRAM)
        return
    given: dict[str, Any] = {"host": host, "port": port, "workers": workers, "bundles": root, "data": data_root}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    try:
        if settings.workers > 1:
            processes.run(settings, PROGRAM)
        else:
            from secondlook.service.processes.serve import run

            run(settings, PROGRAM)
    except KeysError as error:
        raise click.UsageError(str(error)) from error
