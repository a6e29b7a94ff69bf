"""What things cost: ``python -m benchmarks [PART]...``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.run import ON_REQUEST, PARTS, Plan, run
from secondlook.cli import main
from secondlook.commands.shared.options import (
    bundles_option,
    data_root_option,
    generation_option,
    json_option,
    print_json,
    progress_option,
    reporting,
)
from secondlook.model.bundles import bundle as bundles
from secondlook.model.bundles.default import default_root
from secondlook.service.settings import Settings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("named", metavar="[PART]...", type=click.Choice(PARTS), nargs=-1)
@bundles_option
@generation_option
@data_root_option
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="The same as PART.")
@click.option(
    "--images", type=click.IntRange(64), default=20_000, show_default=True, help="Images indexed by 'index' and 'ray'."
)
@click.option(
    "--entries",
    type=click.IntRange(1000),
    multiple=True,
    default=(10_000, 50_000, 1_000_000),
    show_default=True,
    help="A size at which 'stores' and 'milvus' are measured; may be repeated.",
)
@click.option(
    "--store",
    "factories",
    multiple=True,
    default=("auto", "Flat", "SQ8", "HNSW32,SQ8"),
    show_default=True,
    help="A store measured; may be repeated.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Spent on each time taken.",
)
@click.option("--peers", is_flag=True, help="'serve' also measures LitServe and FastAPI where they are installed.")
@click.option(
    "--network", "network_name", metavar="NAME", help="A network that 'network' measures in place of the bundle's."
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="SECONDLOOK_PHOTOS",
    show_envvar=True,
    help="Folders of photos with the splits train and test: 'backbones' are measured on them, and 'serve' where the "
    "images that the bundle caches are not here.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder for bench.json and plots.")
@json_option
@progress_option
def bench(
    named: tuple[str, ...],
    root: Path | None,
    generation: str | None,
    data_root: Path | None,
    parts: tuple[str, ...],
    images: int,
    entries: tuple[int, ...],
    factories: tuple[str, ...],
    seconds: float,
    peers: bool,
    network_name: str | None,
    photos: Path | None,
    out: Path | None,
    as_json: bool,
    progress_format: str,
) -> None:
    """Measure what things cost, on CIFAR images (engines and serve on any bundle's): all of it, or the PARTs named.

    engines (those that can run the bundle's encoder), network (start, memory and speed of an encoder: the bundle's, or
    one made of --network), index (its build), stages (of an answer), taught (answers beside taught entries), serve (a
    running server under load, beside the same pipeline without HTTP), stores (by size), decoding (in processes, beside
    threads: what a server does, and might do instead). Only where it is named: backbones (those that packages carry:
    bytes, speed, and what is right with a few photos of each class), milvus (the same keys in the server of
    SECONDLOOK_MILVUS__ADDRESS and in FAISS), ray (images embedded in one piece, in shards, and in shards on Ray).

    Figures are of one run on this machine: compare their ratios, not the figures of two machines.
    """
    root = root or default_root()
    bundle = bundles.open_bundle(root, generation)
    max_batch = int(Settings.model_fields["max_batch"].default)
    plan = Plan(
        (*named, *parts) or tuple(part for part in PARTS if part not in ON_REQUEST),
        images,
        entries,
        factories,
        seconds,
        max_batch,
        peers,
        network_name,
        photos,
    )
    with reporting(progress_format) as progress:
        report = run(root, bundle, data_root, plan, progress)
    if as_json or progress_format == "json":
        print_json(**report.as_dict())
    else:
        report.show()
    if out is not None:
        for path in report.write(out):
            click.echo(path, err=True)


if __name__ == "__main__":
    main(bench)
