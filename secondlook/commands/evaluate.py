"""``secondlook evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from secondlook.commands.shared.options import (
    json_option,
    left_out_option,
    print_json,
    progress_option,
    reporting,
    setting_options,
    tell_left_out,
)
from secondlook.commands.shared.trials import Trial, trial_options
from secondlook.commands.studies import of_bundles as study
from secondlook.evaluation.evaluate import evaluate as measure
from secondlook.evaluation.studies.same_picture import IMAGES as TAUGHT
from secondlook.evaluation.studies.shift import REFILL
from secondlook.indexer.results import Study, show, write
from secondlook.model.images import Limits


def moved_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Studies that were options of this command, kept for scripts that have them."""
    for name in ("--curves", "--shift", "--doubt", "--same"):
        command = click.option(name, is_flag=True, hidden=True)(command)
    command = click.option("--refill", type=click.IntRange(0), default=REFILL, hidden=True)(command)
    command = click.option("--unknown", multiple=True, hidden=True)(command)
    return click.option("--teach", hidden=True)(command)


@click.command()
@trial_options
@setting_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for the figures as JSON and plots."
)
@left_out_option
@json_option
@progress_option
@moved_options
def evaluate(
    dataset: str,
    root: Path | None,
    data_root: Path | None,
    generation: str | None,
    split: str,
    images: int | None,
    limits: Limits,
    exact: bool,
    theta: float | None,
    lam: float | None,
    cache_theta: float | None,
    out: Path | None,
    left_out_file: Path | None,
    as_json: bool,
    progress_format: str,
    **moved: Any,
) -> None:
    """Measure error, calibration and likelihood of network, mixture and cache on DATASET."""
    if moved["unknown"] and not moved["doubt"]:
        raise click.UsageError("--unknown goes with --doubt")
    setting: dict[str, Any] = {"exact": exact, "theta": theta, "lam": lam, "cache_theta": cache_theta}
    with reporting(progress_format) as progress:
        trial = Trial.open(dataset, root, data_root, generation, split, images, limits, progress)
        measured = measure(trial.bundle, trial.dataset, images=images, progress=progress, **setting)
        if measured.in_holdout:
            click.echo(
                f"Warning: the parameters were fitted on {measured.in_holdout:,} of these images, which flatters "
                "it: evaluate others, such as --split test",
                err=True,
            )
        found: dict[str, Study] = {"errors": measured, **dict(_studies(trial, setting, moved))}
        if out is not None:
            for name, one in found.items():
                write(one, out, name)
    is_json = as_json or progress_format == "json"
    if not is_json:
        for one in found.values():
            show(one)
    left_out = tell_left_out([trial.dataset], left_out_file)
    if is_json:
        others = {name: one.as_dict() for name, one in found.items() if one is not measured}
        print_json(**measured.as_dict(), **others, **left_out.as_dict())


def _studies(trial: Trial, setting: dict[str, Any], moved: dict[str, Any]) -> Iterator[tuple[str, Study]]:
    """What ``moved_options`` asks for, by the options' names."""
    if moved["curves"]:
        _say("curves", "study curves` and `secondlook study layers")
        yield "curves", study.curves_and_layers(trial)
    if moved["shift"]:
        _say("shift", "study shift")
        yield "shift", study.shift(trial, **setting, refill=moved["refill"])
    if moved["doubt"]:
        _say("doubt", "study doubt")
        yield "doubt", study.doubt(trial, moved["unknown"])
    if moved["teach"] is not None:
        _say("teach", "study new-classes")
        yield "teach", study.new_classes(trial, moved["teach"])
    if moved["same"]:
        _say("same", "study same-picture")
        yield "same", study.same_picture(replace(trial, images=min(trial.images or TAUGHT, TAUGHT)))


def _say(option: str, command: str) -> None:
    click.echo(f"--{option} is a command of its own now: `secondlook {command}`", err=True)
