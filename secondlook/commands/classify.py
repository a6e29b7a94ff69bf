"""``secondlook classify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import click

from secondlook.answers import Asked, Prediction
from secondlook.commands.classify_rows import COLUMNS, Failure, Line, as_csv, as_json, as_text, csv_line
from secondlook.commands.shared.options import KType, bundles_option, generation_option, json_option, max_pixels_option
from secondlook.indexer.datasets.left_out import FAULTS, LeftOut, LeftOutError, Reason, printable, reason_of
from secondlook.indexer.datasets.walk import read_image, walk
from secondlook.indexer.progress import on_terminal, silent
from secondlook.model.images import DEFAULT_PIXELS, Limits

HERE, THERE = ("root", "generation", "limits"), ("key", "concurrency")
"""Options that only go without, or only with, a server."""

TOO_LARGE = ("too-many-pixels", "too-many-bytes")
"""A server's problems with one image that is too large for it."""


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--server", metavar="URL", help="Ask a running server, such as http://127.0.0.1:8000.")
@click.option("--key", envvar="SECONDLOOK_KEY", help="The server's key, if it wants one.  [env: SECONDLOOK_KEY]")
@click.option(
    "--concurrency", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests to the server at once."
)
@bundles_option
@generation_option
@click.option("--theta", type=float, help="Another theta than the bundle's.")
@click.option("--lam", type=float, help="Another lam.")
@click.option("--k", type=KType(), help="Another k.")
@click.option("--coverage", type=float, help="Give the labels that hold the right one so often, such as 0.95.")
@max_pixels_option
@json_option
@click.option("--csv", "as_csv_", is_flag=True, help="Print the result as CSV, with a header.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file: .csv and .json say how.")
@click.pass_context
def classify(
    context: click.Context,
    images: tuple[Path, ...],
    server: str | None,
    key: str | None,
    concurrency: int,
    root: Path | None,
    generation: str | None,
    theta: float | None,
    lam: float | None,
    k: int | None,
    coverage: float | None,
    limits: Limits,
    as_json: bool,
    as_csv_: bool,
    out: Path | None,
) -> None:
    """Classify IMAGES, files or folders of them: what mixture, network and cache say of each, and how far to trust it.

    Here, with a bundle, or by a running server. Results are in the order given; files that fail are named, and the exit
    status is 1 then. What else is in the folders is left out, and counted at the end.
    """
    for name in HERE if server is not None else THERE:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"root": "bundles", "limits": "max-pixels"}.get(name, name)
            raise click.UsageError(f"--{option} {'does not go' if server is not None else 'goes'} with --server")
    line, header = _form(as_json, as_csv_, out, coverage)
    is_json = as_json or (out is not None and out.suffix.lower() == ".json")
    voters: int | Literal["all"] | None = "all" if k == 0 else k
    left_out = LeftOut()
    given = list(_given(images, left_out))
    asked = [one.path for one in given if one.path is not None]
    answering = (
        _here(root, generation, theta, lam, voters, coverage, limits)
        if server is None
        else _there(server, key, concurrency, theta, lam, voters, coverage)
    )
    has_failed = False
    # The results' own stream is taken before a bar takes its place, but where both are the terminal's.
    piped = None if sys.stdout.isatty() else sys.stdout
    with answering as answer, _writing(out, piped) as write:
        if header is not None:
            write(header)
        with on_terminal() if sys.stderr.isatty() and len(given) > 1 else nullcontext(silent) as progress:
            progress("classify", 0, len(given))
            answers = iter(answer(asked))
            for done, (file, path, failure) in enumerate(given, start=1):
                said = next(answers) if failure is None else failure
                if isinstance(said, Failure):
                    if said.reason:
                        left_out.add(file, Reason(said.reason), said.sentence)
                    # What is no image in a folder of images is no failure; nor is it told for each.
                    if path is not None or not said.reason or said.reason in FAULTS:
                        has_failed = True
                        click.echo(f"{file}: {said.sentence}", err=True)
                if (written := line(file, said)) is not None:
                    write(written)
                progress("classify", done, len(given))
        if len(left_out):
            click.echo(f"left out: {left_out.said()}", err=True)
            if is_json:
                write(json.dumps({"left_out": left_out.counts()}))
    if has_failed:
        raise click.exceptions.Exit(1)


class Given(NamedTuple):
    """A file that is to be told of."""

    file: str
    path: Path | None
    """None where it cannot be asked about."""
    failure: Failure | None


Answering = Callable[[list[Path]], Iterable[Prediction | Failure]]
Voters = int | Literal["all"] | None


@contextmanager
def _here(
    root: Path | None,
    generation: str | None,
    theta: float | None,
    lam: float | None,
    k: Voters,
    coverage: float | None,
    limits: Limits,
) -> Iterator[Answering]:
    """By a bundle, in this process."""
    from secondlook.classifier import Classifier

    classifier = Classifier(root, generation, max_pixels=limits.pixels)
    options: Asked = {"top": 1, "lam": lam, "theta": theta, "k": k, "coverage": coverage}
    classifier.predictions([], **options)  # what is wrong with them is said before a file is written

    def ask(paths: list[Path]) -> Iterator[Prediction | Failure]:
        for path, answer in zip(paths, classifier.predictions(paths, **options), strict=True):
            if isinstance(answer, Prediction):
                yield answer
            else:
                yield Failure(_without_name(str(answer), path), reason_of(answer))

    yield ask


@contextmanager
def _there(
    server: str,
    key: str | None,
    concurrency: int,
    theta: float | None,
    lam: float | None,
    k: Voters,
    coverage: float | None,
) -> Iterator[Answering]:
    """By a server."""
    from secondlook.client import Client, ClientError, ImageReadError, KeyRefusedError, ProblemError, Retry

    def ask(paths: list[Path]) -> Iterator[Prediction | Failure]:
        answers = client.predictions(
            paths, top=1, lam=lam, theta=theta, k=k, coverage=coverage, concurrency=concurrency
        )
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, Prediction):
                yield answer
            else:
                yield Failure(_without_name(str(answer), path), reason(answer, path))

    def reason(error: ClientError, path: Path) -> str:
        if isinstance(error, ImageReadError):
            return Reason.UNREADABLE
        if not isinstance(error, ProblemError) or error.slug not in ("undecodable-image", *TOO_LARGE):
            return ""
        if error.slug in TOO_LARGE:
            return Reason.TOO_LARGE
        try:
            read_image(path, Limits(DEFAULT_PIXELS))
        except LeftOutError as seen:
            return seen.reason
        return Reason.DAMAGED

    try:
        # The first is for one call without patience: a wrong address is told at once.
        impatient, client = Client(server, key, retry=Retry(within_s=0)), Client(server, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with impatient, client:
            impatient.model()
            yield ask
    except KeyRefusedError as error:
        raise click.ClickException(f"{server}: {error.detail} Give it with --key or SECONDLOOK_KEY.") from error
    except ProblemError as error:
        if error.status == 422:
            raise click.UsageError(error.detail) from error
        raise click.ClickException(f"{server}: {error.detail}") from error
    except ClientError as error:
        raise click.ClickException(str(error)) from error


def _given(images: Iterable[Path], left_out: LeftOut) -> Iterator[Given]:
    """Files as they are given; of a folder, all that is in it and below. What is hidden is only noted."""
    for path in images:
        if not path.is_dir():
            yield Given(printable(str(path)), path, None)
            continue
        others = LeftOut()
        found = walk(path, [""], others)
        for name in found:
            yield Given(printable(str(path / name)), path / name, None)
        for left in others:
            file = f"{printable(str(path))}/{left.file}"
            if left.reason == Reason.SYSTEM:
                left_out.add(file, left.reason)
            else:
                yield Given(file, None, Failure(left.why, left.reason))
        if not found:
            yield Given(printable(str(path)), None, Failure("the folder has no images"))


def _form(is_json: bool, is_csv: bool, out: Path | None, coverage: float | None) -> tuple[Line, str | None]:
    """How results are written, and what stands above them."""
    if is_json and is_csv:
        raise click.UsageError("give --json or --csv")
    ending = out.suffix.lower() if out is not None else ""
    if (ending and ending not in (".csv", ".json")) or (out is not None and not ending):
        raise click.UsageError(f"--out {out}: the ending says how it is written: give .csv or .json")
    if (ending == ".csv" and is_json) or (ending == ".json" and is_csv):
        raise click.UsageError(f"--out {out} does not go with --{'json' if is_json else 'csv'}")
    if is_csv or ending == ".csv":
        return as_csv, csv_line(list(COLUMNS))
    return (as_json if is_json or ending == ".json" else as_text)(coverage), None


@contextmanager
def _writing(out: Path | None, piped: object) -> Iterator[Callable[[str], None]]:
    if out is None:
        yield lambda line: click.echo(line, file=piped)  # type: ignore[arg-type]
        return
    with out.open("w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file, flush=True)


def _without_name(sentence: str, path: Path) -> str:
    """A sentence on an image, as this command's lines put it: after the path, without a full stop."""
    for name in (f"{path}: ", f"{path.name}: "):
        sentence = sentence.removeprefix(name)
    return sentence.removesuffix(".")
