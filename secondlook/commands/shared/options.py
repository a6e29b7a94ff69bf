"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.datasets.left_out import LeftOut, check_ending
from secondlook.indexer.progress import Progress, on_terminal
from secondlook.model.bundles.root import require_root
from secondlook.model.errors import SecondlookError
from secondlook.model.images import DEFAULT_PIXELS, Limits

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _is_root(context: click.Context, option: click.Parameter, root: Path | None) -> Path | None:
    """Refuse a folder with other things before any work is done."""
    if root is not None:
        require_root(root)
    return root


data_root_option: Decorator = click.option(
    "--data-root",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SECONDLOOK_DATA",
    help="Where unpacked datasets lie.  [env: SECONDLOOK_DATA]",
)
bundles_option: Decorator = click.option(
    "--bundles",
    "root",
    type=click.Path(path_type=Path, file_okay=False),
    callback=_is_root,
    envvar="SECONDLOOK_BUNDLES",
    help="The bundle root; without it, the default bundle.  [env: SECONDLOOK_BUNDLES]",
)


new_bundles_option: Decorator = click.option(
    "--bundles",
    "root",
    type=click.Path(path_type=Path, file_okay=False),
    callback=_is_root,
    envvar="SECONDLOOK_BUNDLES",
    required=True,
    help="The bundle root to write to.  [env: SECONDLOOK_BUNDLES]",
)
generation_option: Decorator = click.option("--generation", help="A bundle's id; without it, the active one.")
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
max_pixels_option: Decorator = click.option(
    "--max-pixels",
    "limits",
    type=click.IntRange(1),
    default=DEFAULT_PIXELS,
    show_default=True,
    envvar="SECONDLOOK_MAX_PIXELS",
    callback=lambda _context, _parameter, pixels: Limits(pixels),
    help="Leave out larger images, by their header.  [env: SECONDLOOK_MAX_PIXELS]",
)


def with_ending(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a path of which nothing says how it is written, before any work is done."""
    if path is not None:
        check_ending(path)
    return path


left_out_option: Decorator = click.option(
    "--left-out",
    "left_out_file",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=with_ending,
    help="Write what was left out of DATASET, and why, to a .csv or .json file.",
)
progress_option: Decorator = click.option(
    "--progress",
    "progress_format",
    type=click.Choice(["auto", "json"]),
    default="auto",
    help="json: one object a line on standard output, for programs.",
)


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what network, mixture and cache alone answer with, in place of the bundle's own."""
    for option in reversed(
        (
            click.option("--exact", is_flag=True, help="Sum over all entries instead of the k nearest."),
            click.option("--theta", type=float, help="Another theta than the bundle's."),
            click.option("--lam", type=float, help="Another lam."),
            click.option(
                "--cache-theta", type=float, help="Another theta for the cache alone than the one fitted for it."
            ),
        )
    ):
        command = option(command)
    return command


class KType(click.ParamType):  # type: ignore[type-arg]
    """A number of neighbours, or ``all``; the value of ``all`` is 0, so that None can mean 'not given'."""

    name = "k"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What help shows."""
        return "K|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if value == "all":
            return 0
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a number above 0 nor 'all'", param, ctx)
        return number


@contextmanager
def reporting(progress_format: str) -> Iterator[Progress]:
    """Report progress as asked for; with ``json``, an error becomes a last line ``{"error": ...}`` too."""
    if progress_format == "auto":
        with on_terminal() as progress:
            yield progress
        return
    try:
        yield lambda stage, done, total: print_json(stage=stage, done=done, total=total)
    except SecondlookError as error:
        print_json(error=str(error))
        raise
    except OSError as error:
        print_json(error=describe(error))
        raise


def tell_left_out(datasets: Iterable[Dataset], file: Path | None = None) -> LeftOut:
    """Say what was left out of datasets, on one line, and write all of it to a file where one is given."""
    left_out = LeftOut.joined(dataset.left_out for dataset in datasets)
    if len(left_out):
        click.echo(f"left out: {left_out.said()}", err=True)
    if file is not None:
        left_out.write(file)
    return left_out


def describe(error: OSError) -> str:
    """Say what went wrong with which file."""
    named = f"{error.filename}: " if error.filename is not None else ""
    return f"{named}{error.strerror or error}"


def print_json(**content: object) -> None:
    """Print one JSON object on a line of its own, at once."""
    print(json.dumps(content), flush=True)
