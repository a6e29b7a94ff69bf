"""What an index of photos costs again: ``python -m benchmarks.kept``.

Photos are made, indexed, indexed again with some added, and then from nothing by a process that is killed at random
moments (SIGKILL) until it has been so often, and is let finish: nothing that was kept may be there twice.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from secondlook.commands.shared.options import print_json
from secondlook.indexer.embedding.chunks import DAMAGED, mapped

CLASSES = 5


@dataclass(frozen=True)
class Indexed:
    """One index."""

    images: int
    seconds: float
    embedded: int
    known: int


@dataclass(frozen=True)
class Killed:
    """An index that was killed again and again, and then let finish."""

    kills: int
    last: Indexed
    kept: int
    """Images in the files of kept features, all runs together."""
    twice: int
    """Of them those that were embedded again although they were kept."""


def make_photos(folder: Path, count: int, side: int, first: int = 0) -> None:
    """Write so many JPEGs, each unlike the others, into class folders."""

    def one(number: int) -> None:
        path = folder / f"class-{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        made[..., number % 3] //= 2
        Image.fromarray(made).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(first, first + count)))


def command(photos: Path, root: Path, network: str | None) -> list[str]:
    """An index of photos, its parameters given: what it costs is to look, to embed and to write.

    None = the network of the bundle that is there, as photos are shown it: a new one is measured on some of them.
    """
    given = ["--theta", "20", "--lam", "1", "--k", "20", "--progress", "json"]
    index = [sys.executable, "-m", "secondlook", "index", str(photos), "--bundles", str(root)]
    return [*index, *(["--network", network, "--head", "none"] if network else []), *given]


def indexed(photos: Path, root: Path, network: str | None = None) -> Indexed:
    """Run it."""
    started = time.perf_counter()
    run = subprocess.run(command(photos, root, network), capture_output=True, text=True, check=False)
    if run.returncode:
        raise click.ClickException(run.stderr)
    last = json.loads(run.stdout.splitlines()[-1])
    embedded, known = last["embedded"], last["known"]
    return Indexed(embedded + known, time.perf_counter() - started, embedded, known)


def killed(photos: Path, root: Path, kills: int, longest: float, network: str | None = None) -> Killed:
    """Kill it at random moments of its first ``longest`` seconds until it was killed so often, and let it finish."""
    moments = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(command(photos, root, network), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    last = indexed(photos, root, network)
    rows: dict[bytes, list[tuple[bool, bytes]]] = {}
    for path in (root / "features").rglob("*.npz"):
        try:
            arrays = mapped(path)
            for digest, sheet, key in zip(arrays["digests"], arrays["sheet"], arrays["keys"], strict=True):
                rows.setdefault(bytes(digest), []).append((bool(sheet >= 0), key.tobytes()))
        except DAMAGED as error:
            raise click.ClickException(f"{path} is not whole") from error
    return Killed(kills, last, len(rows), sum(map(_again, rows.values())))


def _again(rows: list[tuple[bool, bytes]]) -> int:
    """How often one image was embedded again: what was measured without a picture may be there with one too, as is."""
    with_picture = sum(pictured for pictured, _ in rows)
    others = len(rows) - with_picture
    is_anew = bool(with_picture and others) and len({key for _, key in rows}) > 1
    return max(with_picture - 1, 0) + max(others - 1, 0) + is_anew


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--images", type=click.IntRange(50), default=10_000, show_default=True)
@click.option("--more", type=click.IntRange(1), default=10, show_default=True, help="Photos that are added.")
@click.option("--side", type=click.IntRange(32), default=320, show_default=True, help="Pixels of a photo's sides.")
@click.option("--network", default="efficientnet-lite0", show_default=True)
@click.option("--kills", type=click.IntRange(0), default=50, show_default=True)
@click.option("--longest", type=float, default=20.0, show_default=True, help="Seconds until it is killed, at most.")
@click.option("--json", "as_json", is_flag=True)
def main(images: int, more: int, side: int, network: str, kills: int, longest: float, as_json: bool) -> None:
    """Index photos, add some and index again; then one that is killed at random moments."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, root = folder / "photos", folder / "bundles"
        make_photos(photos, images, side)
        first = indexed(photos, root, network)
        make_photos(photos, more, side, first=images)
        again = indexed(photos, root)
        click.echo(f"first: {first}\nwith {more} more: {again}", err=True)
        shutil.rmtree(root)
        stopped = killed(photos, root, kills, longest, network) if kills else None
        click.echo(f"killed: {stopped}", err=True)
    if as_json:
        print_json(first=asdict(first), again=asdict(again), killed=None if stopped is None else asdict(stopped))


if __name__ == "__main__":
    main()
