"""``secondlook start``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from secondlook.commands.serve import PROGRAM
from secondlook.commands.shared.network_options import network_help, network_source
from secondlook.commands.shared.options import bundles_option, json_option, print_json, reporting
from secondlook.commands.shared.photos_report import PhotosReport
from secondlook.indexer.datasets.fold import fold
from secondlook.indexer.embedding.encoders import EncoderSource, FromBundle
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.photos import Noted, Photos, look, root_name
from secondlook.indexer.progress import Progress
from secondlook.model.bundles.files import read_manifest
from secondlook.model.bundles.home import bundles_home
from secondlook.model.bundles.milvus_generations import activate
from secondlook.model.bundles.root import active_generation, prune, require_root
from secondlook.model.images import Limits
from secondlook.model.journal import Journal
from secondlook.model.networks.backbones import DEFAULT_BACKBONE
from secondlook.service.processes.listening import bind, close
from secondlook.service.settings import Settings, read_settings


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
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
    photos: Path,
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
    what was taught stays.
    """
    root = root or bundles_home() / root_name(photos.expanduser())
    require_root(root)
    given: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in given.items() if value is not None}
    settings = read_settings(bundles=root, data=photos.expanduser().resolve().parent, **given)
    if not no_serve:  # what is wrong with the address is said before the work
        close(bind(settings.host, settings.port))
    found = look(photos, Limits(settings.max_pixels))
    with reporting("auto") as progress:
        generation = bring_up_to_date(found, root, network, settings.keep_generations, progress)
    report = PhotosReport.of(found, root, read_manifest(root, generation))
    if as_json:
        print_json(**report.as_dict())
    else:
        report.show()
    sys.stdout.flush()
    if not no_serve:
        _serve(settings, opens=not no_open)


def bring_up_to_date(photos: Photos, root: Path, network: str | None, keep: int, progress: Progress) -> str:
    """Index what is not indexed yet; the active generation.

    Raises:
        SecondlookError: as ``indexer.index.index`` and ``activate``.
    """
    before = Noted.read(root)
    if network is not None and Path(network).is_file():
        network = os.fspath(Path(network).resolve())
    name = network or (before.network if before is not None else DEFAULT_BACKBONE)
    now = Noted.of(photos, name)
    if before == now:
        return active_generation(root)
    is_same = before is not None and (before.network, before.network_stamp) == (now.network, now.network_stamp)
    source: EncoderSource = FromBundle(root) if is_same else network_source(name, None)
    images = fold(photos.dataset, Journal(root))
    generation = index(images, root, source, IndexOptions(holdout=photos.holdout), progress)
    activate(root, generation)
    now.write(root)
    if keep:
        prune(root, keep)
    return generation


def _serve(settings: Settings, *, opens: bool) -> None:
    from secondlook.service.processes.serve import run

    run(settings, PROGRAM)
