"""``secondlook start``."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from secondlook.commands.serve import PROGRAM
from secondlook.commands.shared.network_options import network_help, network_source
from secondlook.commands.shared.options import bundles_option, json_option, print_json, reporting
from secondlook.commands.shared.photos_report import PhotosReport
from secondlook.commands.shared.taught_report import TaughtReport
from secondlook.indexer.datasets.datasets import nothing
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.datasets.left_out import printable
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.embedding.kept_features import Counts
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.photos import Noted, Photos, look, root_name
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.home import bundles_home, local_key
from secondlook.model.bundles.milvus_generations import activate
from secondlook.model.bundles.root import CURRENT, active_generation, prune, require_root
from secondlook.model.errors import BundleError, DatasetError, HoldoutError, HomeError, JournalError
from secondlook.model.images import Limits
from secondlook.model.journal import Journal
from secondlook.model.networks.backbones import BACKBONES, DEFAULT_BACKBONE
from secondlook.service.http.hosts import is_loopback, tell_at_start
from secondlook.service.processes.listening import bind
from secondlook.service.settings import Settings, read_settings
from secondlook.service.shortage import causes

TAUGHT_ROOT = "taught"
"""The root in the user's home that begins with nothing; that of photos ends in eight digits (``root_name``)."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that is full, or of which this user has a share that is."""


@click.command()
@click.argument("photos", type=click.Path(path_type=Path), required=False)
@click.option(
    "--network",
    metavar="NETWORK",
    help=f"{network_help}.  [default: what the photos were indexed with before, or {DEFAULT_BACKBONE}]",
)
@bundles_option
@click.option("--host", help="Address to listen on.  [env: SECONDLOOK_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [env: SECONDLOOK_PORT]")
@click.option("--no-serve", is_flag=True, help="Index and report, and serve nothing.")
@click.option("--no-open", is_flag=True, help="Open no browser.")
@json_option
def start(
    photos: Path | None,
    network: str | None,
    root: Path | None,
    host: str | None,
    port: int | None,
    no_serve: bool,
    no_open: bool,
    as_json: bool,
) -> None:
    """Make a classifier of PHOTOS, a folder with a folder of photos for each class, and serve it.

    Says how well each class is told and what to do next. Run again, it goes on: only new photos are looked at, and
    what was taught stays. Without PHOTOS it begins with nothing, and knows what it is taught on its page.
    """
    root = root or bundles_home() / (TAUGHT_ROOT if photos is None else root_name(photos.expanduser()))
    require_root(root)
    given: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in given.items() if value is not None}
    if photos is not None:
        given["data"] = photos.expanduser().resolve().parent
    settings = read_settings(bundles=root, **given)
    found = None if photos is None else look(photos, Limits(settings.max_pixels))
    # Bound before the work and not after it, so that a port that is taken is said at once.
    listening = [] if no_serve else _listen(settings)
    with _written_below(root), reporting("auto") as progress:
        generation = bring_up_to_date(found, root, network, settings.keep_generations, progress)
    manifest = read_manifest(root, generation)
    report = TaughtReport.of(root, manifest) if found is None else PhotosReport.of(found, root, manifest)
    if as_json:
        print_json(**report.as_dict())
    else:
        report.show()
    sys.stdout.flush()
    if not no_serve:
        _serve(settings, listening, opens=not no_open)


def bring_up_to_date(photos: Photos | None, root: Path, network: str | None, keep: int, progress: Progress) -> str:
    """Index what is not indexed yet; the active generation.

    Without photos it begins with nothing where there is no bundle yet; another network takes in what was taught.

    Raises:
        BundleError: there is a bundle of photos, and none are given to be looked at by another network.
        SecondlookError: as ``indexer.index.index`` and ``activate``.
    """
    before = Noted.read(root)
    if photos is None and (root / CURRENT).exists():
        if network is None:
            return active_generation(root)
        manifest = read_manifest(root, active_generation(root))
        if not manifest.is_taught_alone:
            raise BundleError(
                f"{root} has an index of {manifest.dataset.name}: name its folder too, for {network} to look at: "
                "secondlook start PHOTOS"
            )
    if network is not None and Path(network).is_file():
        network = os.fspath(Path(network).resolve())
    name = network or (before.network if before is not None else DEFAULT_BACKBONE)
    now = Noted.of(photos, name)
    if before == now:
        return active_generation(root)
    is_same = before is not None and (before.network, before.network_stamp) == (now.network, now.network_stamp)
    source: EncoderSource = FromBundle(root) if is_same else network_source(name, None)
    if name in BACKBONES:  # that it knows none of the photos' classes is what it is for
        logging.getLogger("secondlook.indexer.sources").setLevel(logging.ERROR)
    dataset, holdout = (photos.dataset, photos.holdout) if photos is not None else (nothing(), None)
    images, counts = fold(dataset, Journal(root)), Counts()
    try:
        generation = index(images, root, source, IndexOptions(holdout=holdout), progress, counts=counts)
    except HoldoutError as error:
        if photos is None:
            raise
        where = f"{printable(str(photos.folder))}/val"
        raise DatasetError(f"{error.why}: put {error.wanted} into {where}, or remove that folder") from error
    if len(images.labels):
        click.echo(counts.said(), err=True)
    activate(root, generation)
    now.write(root)
    if keep:
        prune(root, keep)
    return generation


@contextmanager
def _written_below(root: Path) -> Iterator[None]:
    """Say of what cannot be written where that is, and what to do.

    Raises:
        BundleError: something cannot be written below the root.
    """
    try:
        yield
    except (OSError, sqlite3.Error, BundleError, JournalError) as error:
        why = next((one for one in causes(error) if isinstance(one, OSError | sqlite3.Error)), None)
        named = getattr(error, "filename", None)
        if why is None or "--bundles" in str(error) or (named is not None and not Path(named).is_relative_to(root)):
            raise
        is_full = "full" in str(why) or (isinstance(why, OSError) and why.errno in FULL)
        said = str(error) if why is not error else f"{root} cannot be written: {getattr(why, 'strerror', None) or why}"
        what = "free some space there, or name a folder on another disk" if is_full else "name another folder"
        raise BundleError(f"{said}: {what} with --bundles") from error


def _serve(settings: Settings, listening: list[socket.socket], *, opens: bool) -> None:
    """Serve with the user's own key where nobody else reaches the server and no other key is named."""
    from secondlook.service.processes import serve, workers
    from secondlook.service.processes.browser import Browser
    from secondlook.service.processes.home import announce, page

    is_ours = is_loopback(settings.host) and settings.admin_key is None and settings.keys_file is None
    if is_ours:
        try:
            settings = settings.model_copy(update={"admin_key": SecretStr(local_key())})
        except HomeError as error:
            click.echo(f"this server cannot be taught: {error}", err=True)
            is_ours = False

    with Browser() as browser:

        def ready(address: str) -> None:
            tell_at_start(settings)
            announce(settings, address, shows_key=is_ours)
            if opens and has_display():
                browser.open(address, page(address, settings, shows_key=is_ours))

        run = workers.run if settings.workers > 1 else serve.run
        run(settings, PROGRAM, listening, ready)


def _listen(settings: Settings) -> list[socket.socket]:
    from secondlook.service.processes.workers import reserve_port

    return reserve_port(settings) if settings.workers > 1 else bind(settings.host, settings.port)


def has_display() -> bool:
    """Whether somebody sits before this terminal who sees a browser's window that it opens."""
    if not sys.stderr.isatty() or os.environ.keys() & {"SSH_CONNECTION", "SSH_TTY"}:
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"})
