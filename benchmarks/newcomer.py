"""The newcomer's clock: from a folder of photos and one command to the first right answer.

PHOTOS has ``<class>/<photo>``, or the splits ``train`` and ``test`` of that: some photos of some classes are copied,
``secondlook start`` is run on them as a person types it who has never used it, and it is asked about others by HTTP.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import httpx

from benchmarks.started import started
from secondlook.cli import main
from secondlook.commands.shared.options import json_option, print_json
from secondlook.evaluation.machine import Machine, machine
from secondlook.indexer.datasets.datasets import DEFAULT_LIMITS, load, splits
from secondlook.indexer.datasets.folders import FolderDataset
from secondlook.model.errors import DatasetError
from secondlook.model.intervals import wilson


@dataclass(frozen=True)
class Clock:
    """What a newcomer waits for, in seconds, and gets."""

    machine: Machine
    classes: int
    photos: int
    """Of all classes together."""
    ready_s: float
    """From the command to the server's being ready."""
    first_right_s: float
    """From the command to the first right answer."""
    asked: int
    """Photos that it had not seen."""
    right: int
    again_ready_s: float
    """When the same command is typed a second time."""
    added_ready_s: float
    """And when a tenth of the photos more are there."""

    def as_dict(self) -> dict[str, object]:
        """For JSON, the share and its interval included."""
        share = wilson(self.right, self.asked)
        percent = [round(100 * one, 2) for one in share]
        return {**asdict(self), "machine": self.machine.model_dump(), "right_percent": percent}


def measure(photos: Path, classes: int, cached: int, asked: int, network: str | None) -> Clock:
    """Run it.

    Raises:
        DatasetError: there are too few photos or classes.
        click.ClickException: the command fails.
    """
    with tempfile.TemporaryDirectory(prefix="secondlook-newcomer-") as place:
        own, later, others = (Path(place) / name for name in ("photos", "later", "others"))
        _copy(photos, classes, cached, asked, own, later, others)
        environment = os.environ | {"XDG_DATA_HOME": str(Path(place) / "home")}
        command = [sys.executable, "-m", "secondlook", "start", str(own), "--port", "0", "--no-open"]
        first = [*command, "--network", network] if network else command
        begin = time.monotonic()
        with started(first, environment) as address, httpx.Client(base_url=address, timeout=60) as client:
            ready, first_right, right, count = time.monotonic() - begin, 0.0, 0, 0
            for photo in sorted(others.glob("*/*"), key=lambda path: path.name):
                answer = client.post("/v1/predict", files={"file": photo.read_bytes()}).raise_for_status().json()
                count += 1
                if answer["predictions"][0]["label"] == photo.parent.name:
                    right += 1
                    first_right = first_right or time.monotonic() - begin
        begin = time.monotonic()
        with started(command, environment):
            again = time.monotonic() - begin
        shutil.copytree(later, own, dirs_exist_ok=True)
        begin = time.monotonic()
        with started(command, environment):
            added = time.monotonic() - begin
    return Clock(machine(), classes, classes * cached, ready, first_right, count, right, again, added)


def _copy(photos: Path, classes: int, cached: int, asked: int, own: Path, later: Path, others: Path) -> None:
    """Photos to learn from, a tenth as many for later, and some to ask about, in class folders."""
    there = splits(str(photos))
    train = load(str(photos), "train", None, DEFAULT_LIMITS)
    test = load(str(photos), "test", None, DEFAULT_LIMITS) if "test" in there else None
    assert isinstance(train, FolderDataset)
    extra = max(1, cached // 10)
    if len(train.classes) < classes:
        raise DatasetError(f"{photos} has {len(train.classes)} classes: give --classes of so many at most")
    for label, name in enumerate(train.classes[:classes]):
        of = [
            train.root / file for file, value in zip(train.files, train.labels.tolist(), strict=True) if value == label
        ]
        rest = of[cached + extra :]
        if test is not None:
            assert isinstance(test, FolderDataset)
            rest = [
                test.root / file
                for file, value in zip(test.files, test.labels.tolist(), strict=True)
                if test.classes[value] == name
            ]
        if len(of) < cached + extra or len(rest) < asked:
            raise DatasetError(f"{photos} has too few photos of {name}: give smaller --photos and --asked")
        for folder, some in ((own, of[:cached]), (later, of[cached : cached + extra]), (others, rest[:asked])):
            (folder / name).mkdir(parents=True)
            for photo in some:
                shutil.copy(photo, folder / name)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--classes", type=click.IntRange(2), default=3, show_default=True, help="Classes learned.")
@click.option("--photos", "cached", type=click.IntRange(2), default=60, show_default=True, help="Photos of each.")
@click.option(
    "--asked", type=click.IntRange(1), default=40, show_default=True, help="Other photos of each asked about."
)
@click.option("--network", metavar="NAME", help="In place of the network that start takes.")
@json_option
def newcomer(photos: Path, classes: int, cached: int, asked: int, network: str | None, as_json: bool) -> None:
    """Run `secondlook start` on some of PHOTOS, and take the time to the first right answer about others."""
    found = measure(photos, classes, cached, asked, network)
    if as_json:
        print_json(**found.as_dict())
        return
    share = wilson(found.right, found.asked)
    click.echo(
        f"{found.photos} photos of {found.classes} classes: ready after {found.ready_s:.1f} s, "
        f"first right answer after {found.first_right_s:.1f} s\n"
        f"right about {found.right} of {found.asked} other photos: {100 * share.value:.1f} % "
        f"({100 * share.low:.1f} to {100 * share.high:.1f})\n"
        f"again: ready after {found.again_ready_s:.1f} s; with a tenth more photos after {found.added_ready_s:.1f} s\n"
        f"on {found.machine.cores} cores of {found.machine.processor}"
    )


if __name__ == "__main__":
    main(newcomer)
