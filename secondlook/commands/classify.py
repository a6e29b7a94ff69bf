"""``secondlook classify``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import click

from indexer.progress import on_terminal, silent
from model.errors import ImageError
from model.images import DEFAULT_PIXELS, EXTENSIONS, Limits, decode
from secondlook.options import KType, bundles_option, generation_option, json_option
from secondlook.rows import COLUMNS, Failure, Line, Opinion, Row, as_csv, as_json, as_text, csv_line

HERE, THERE = ("root", "generation"), ("key", "concurrency")
"""Options that only go without, or only with, a server."""


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
    as_json: bool,
    as_csv_: bool,
    out: Path | None,
) -> None:
    """Classify IMAGES, files or folders of them: what mixture, network and cache say of each, and how far to trust it.

    Here, with a bundle, or by a running server. Results are in the order given; files that fail are named, and the exit
    status is 1 then.
    """
    for name in HERE if server is not None else THERE:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "bundles" if name == "root" else name
            raise click.UsageError(f"--{option} {'does not go' if server is not None else 'goes'} with --server")
    files = list(_files(images))
    voters: int | Literal["all"] | None = "all" if k == 0 else k
    line, header = _form(as_json, as_csv_, out, coverage)
    answering = (
        _here(root, generation, theta, lam, voters, coverage)
        if server is None
        else _there(server, key, concurrency, theta, lam, voters, coverage)
    )
    failed = 0
    # The results' own stream is taken before a bar takes its place, but where both are the terminal's.
    piped = None if sys.stdout.isatty() else sys.stdout
    with answering as answer, _writing(out, piped) as write:
        if header is not None:
            write(header)
        with on_terminal() if sys.stderr.isatty() and len(files) > 1 else nullcontext(silent) as progress:
            progress("classify", 0, len(files))
            for done, (path, said) in enumerate(zip(files, answer(files), strict=True), start=1):
                if isinstance(said, Failure):
                    failed += 1
                    said = Failure("the folder has no images") if path.is_dir() else said
                    click.echo(f"{path}: {said.sentence}", err=True)
                if (written := line(str(path), said)) is not None:
                    write(written)
                progress("classify", done, len(files))
    if failed:
        raise click.exceptions.Exit(1)


Answering = Callable[[list[Path]], Iterable[Row | Failure]]
Voters = int | Literal["all"] | None


@contextmanager
def _here(
    root: Path | None,
    generation: str | None,
    theta: float | None,
    lam: float | None,
    k: Voters,
    coverage: float | None,
) -> Iterator[Answering]:
    """By a bundle, in this process."""
    from model.bundle import open_bundle
    from model.doubt import check_coverage
    from model.journal import Journal
    from model.overlay import Overlay
    from model.predictor import Predictor
    from model.root import default_root

    if coverage is not None:
        check_coverage(coverage)
    bundle = open_bundle(root or default_root(), generation)
    overlay = Overlay(bundle)
    if root is not None:  # answers as a server on it gives them: with what was taught
        overlay = overlay.caught_up(Journal(root))
    predictor = Predictor(bundle, overlay)
    parameters = predictor.parameters(theta, lam, k)
    classes = predictor.classes

    def one(path: Path) -> Row | Failure:
        try:
            (answer,) = predictor.predict(
                decode(path.read_bytes(), bundle.engine.size, Limits(DEFAULT_PIXELS))[None], [parameters]
            )
        except OSError as error:
            return Failure(error.strerror or "cannot be read")
        except ImageError as error:
            return Failure(str(error))
        if isinstance(answer, ImageError):
            return Failure(str(answer))
        mixed, network, cache = (
            Opinion(classes[int(p.argmax())], float(p.max())) for p in (answer.mixed, answer.network, answer.cache)
        )
        labels = predictor.prediction_set(answer, parameters, coverage) if coverage is not None else None
        return Row(
            bundle.manifest.generation,
            mixed,
            network,
            cache if answer.has_cache else None,
            answer.novelty,
            answer.is_novel,
            predictor.credibility(answer, parameters),
            labels,
            predictor.standing(answer, parameters),
            answer.same_as,
        )

    yield lambda paths: map(one, paths)


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
    from secondlook.client import Client, ClientError, KeyRefusedError, Prediction, ProblemError, Retry

    def ask(paths: list[Path]) -> Iterator[Row | Failure]:
        answers = client.predictions(
            paths, top=1, lam=lam, theta=theta, k=k, coverage=coverage, concurrency=concurrency
        )
        for path, answer in zip(paths, answers, strict=True):
            yield row(answer) if isinstance(answer, Prediction) else Failure(_without_name(str(answer), path))

    def row(answer: Prediction) -> Row:
        return Row(
            answer.generation,
            Opinion(answer.label, answer.probability),
            Opinion(answer.network.label, answer.network.probability),
            Opinion(answer.cache.label, answer.cache.probability) if answer.cache else None,
            answer.novelty.score if answer.novelty else None,
            answer.novelty.is_novel if answer.novelty else None,
            answer.credibility,
            answer.prediction_set,
            answer.standing,
            answer.same_as,
        )

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


def _files(given: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of a folder, all images in it and below, hidden ones left out, or itself without any."""
    for path in given:
        inside = sorted(
            found
            for found in (path.rglob("*") if path.is_dir() else ())
            if found.suffix.lower() in EXTENSIONS
            and not any(part.startswith(".") for part in found.relative_to(path).parts)
            and found.is_file()
        )
        yield from inside or [path]


def _form(is_json: bool, is_csv: bool, out: Path | None, coverage: float | None) -> tuple[Line, str | None]:
    """How results are written, and what stands above them."""
    if is_json and is_csv:
        raise click.UsageError("give --json or --csv")
    ending = out.suffix.lower() if out is not None and not is_json and not is_csv else ""
    if is_csv or ending == ".csv":
        return as_csv, csv_line(list(COLUMNS))
    return (as_json if is_json or ending in (".json", ".jsonl") else as_text)(coverage), None


@contextmanager
def _writing(out: Path | None, piped: object) -> Iterator[Callable[[str], None]]:
    if out is None:
        yield lambda line: click.echo(line, file=piped)  # type: ignore[arg-type]
        return
    with out.open("w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file, flush=True)


def _without_name(sentence: str, path: Path) -> str:
    """A server's sentence on an image, as this command's lines put it: after the path, without a full stop."""
    for name in (f"{path}: ", f"{path.name}: "):
        sentence = sentence.removeprefix(name)
    return sentence.removesuffix(".")
