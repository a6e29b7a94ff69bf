"""``secondlook serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from secondlook.options import bundles_option, data_root_option


@click.command()
@click.option("--host", help="Address to listen on.  [env: SECONDLOOK_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [env: SECONDLOOK_PORT]")
@bundles_option
@data_root_option
def serve(host: str | None, port: int | None, root: Path | None, data_root: Path | None) -> None:
    """Serve the active bundle over HTTP. Every setting is an environment variable; the README lists them."""
    from pydantic import ValidationError

    from service.errors import KeysError
    from service.serve import run
    from service.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "bundles": root, "data": data_root}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"SECONDLOOK_{'__'.join(map(str, first['loc'])).upper()}: {first['msg']}") from error
    try:
        run(settings)
    except KeysError as error:
        raise click.UsageError(str(error)) from error
