"""Servers as a person starts them: a command, and the address that it serves at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

KEY = "a key for a benchmark"
READY = re.compile(r"ready: (http://[^/\s]+)/")


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """The address of what a command serves, once it answers; in the end it is stopped.

    Raises:
        click.ClickException: the command fails.
    """
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if ready := READY.search(line):
                break
        else:
            raise click.ClickException(f"{' '.join(command[2:4])} failed: {said}")
        # What it writes is read until it ends, or it would wait for that.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield ready[1]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a server of a folder of bundles, which KEY opens.

    Raises:
        click.ClickException: it does not start.
    """
    environment = os.environ | {"SECONDLOOK_BUNDLES": str(root), "SECONDLOOK_ADMIN_KEY": KEY}
    with started([sys.executable, "-m", "secondlook", "serve", "--port", "0"], environment) as address:
        yield address
