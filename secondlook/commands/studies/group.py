"""``secondlook study``, and how a study becomes a command of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.options import (
    json_option,
    progress_option,
    reporting,
    tell_left_out,
)
from secondlook.commands.shared.trials import Trial, tell, trial_options
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import Study, write
from secondlook.model.images import Limits

Measure = Callable[..., Study]


@click.group("study")
def study() -> None:
    """Ask one question about a bundle and its cache, on real images."""


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add where results go."""
    out = click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON and plots."
    )
    return out(json_option(progress_option(command)))


def run(
    name: str,
    measure: Callable[[Progress], tuple[Study, Sequence[Dataset]]],
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure, print what came of it, write it to --out, and say which images of those asked were left out."""
    with reporting(progress_format) as progress, _each_said_once():
        found, asked = measure(progress)
        if out is not None:
            write(found, out, name)
    tell_left_out(asked)
    tell(found, as_json or progress_format == "json")


@contextmanager
def _each_said_once() -> Iterator[None]:
    """Show each warning once: a study that indexes many times would repeat them."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        is_new = said not in shown
        shown.add(said)
        return is_new

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(is_new)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def of_trial(name: str) -> Callable[[Measure], Measure]:
    """Make ``secondlook study NAME DATASET`` of a function of a ``Trial`` and its own options.

    The function's docstring is the command's help; what it returns is printed, and written to --out.
    """

    def register(measure: Measure) -> Measure:
        @study.command(name)
        @trial_options
        @result_options
        @wraps(measure)
        def command(
            dataset: str,
            root: Path | None,
            data_root: Path | None,
            generation: str | None,
            split: str,
            images: int | None,
            limits: Limits,
            out: Path | None,
            as_json: bool,
            progress_format: str,
            **own: Any,
        ) -> None:
            def measured(progress: Progress) -> tuple[Study, Sequence[Dataset]]:
                trial = Trial.open(dataset, root, data_root, generation, split, images, limits, progress)
                return measure(trial, **own), [trial.dataset]

            run(name, measured, out, as_json, progress_format)

        return measure

    return register
