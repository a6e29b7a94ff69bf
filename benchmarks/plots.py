"""Results as plots, and by which power of the entries a query's time grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.served import ServeResult
from benchmarks.stages import StageResult
from benchmarks.stores import StoreResult
from secondlook.indexer.plots import COLOURS
from secondlook.indexer.results import Figure


def growth(results: list[StoreResult]) -> dict[str, float]:
    """Fit, for each store measured at several sizes, the exponent by which one query's time grows with the entries.

    ``auto`` is the store that ``--store auto`` takes at each size, whichever that is.
    """
    lines = _lines(results)
    found = {}
    for name, line in lines.items():
        if len(line) > 1:
            sizes, times = np.log([r.entries for r in line]), np.log([r.one_ms for r in line])
            found[name] = float(np.polyfit(sizes, times, 1)[0])
    return found


def _lines(results: list[StoreResult]) -> dict[str, list[StoreResult]]:
    lines: dict[str, list[StoreResult]] = {}
    for result in sorted(results, key=lambda r: r.entries):
        lines.setdefault(result.factory, []).append(result)
        if result.is_auto:
            lines.setdefault("auto", []).append(result)
    return lines


def stage_figure(results: list[StageResult]) -> Figure:
    """Network and cache, stacked, by batch size."""

    def draw(into: Any) -> None:
        axes = into.subplots()
        places = np.arange(len(results))
        bottom = np.zeros(len(results))
        for name, label in (("encode_ms", "network"), ("cache_ms", "cache: search, vote and mixture")):
            heights = np.array([getattr(result, name) for result in results])
            axes.bar(places, heights, 0.6, bottom=bottom, label=label)
            bottom += heights
        for place, result in zip(places, results, strict=True):
            axes.annotate(
                f"cache: {100 * result.cache_over_encode:.0f} % of network",
                (place, bottom[place]),
                ha="center",
                va="bottom",
                fontsize=9,
            )
        axes.set_xticks(places, [f"batch {result.batch}" for result in results])
        axes.set_ylabel("ms for an image")
        axes.legend()

    return Figure(
        "stages",
        "What a second opinion costs beside the first, by batch size",
        draw,
        "Milliseconds for an image, by batch size: the network's, and on them those of search, vote and mixture.",
    )


def serve_figure(result: ServeResult) -> Figure:
    """Rates by connections, a bar a server."""

    def draw(into: Any) -> None:
        axes = into.subplots()
        places = np.arange(len(result.servers[0].closed))
        width = 0.8 / len(result.servers)
        for i, server in enumerate(result.servers):
            rates = [r.images_per_second for r in server.closed]
            bars = axes.bar(places + (i - (len(result.servers) - 1) / 2) * width, rates, width, label=server.name)
            waits = [f"{r.p99_ms:,.0f}" for r in server.closed]
            axes.bar_label(bars, waits, fontsize=8 if len(result.servers) < 3 else 7)
        axes.axhline(
            result.in_process_images_per_second,
            color="#444444",
            linestyle="--",
            label=f"without HTTP, batches of {result.batch}",
        )
        axes.set_xticks(places, [str(r.connections) for r in result.servers[0].closed])
        axes.set(xlabel="connections", ylabel="images/s")
        axes.margins(y=0.3)
        axes.legend(fontsize=9, loc="upper left", ncols=2)

    return Figure(
        "serve",
        "Images a second over HTTP; on the bars, 99 % of waits in ms",
        draw,
        "Images a second by connections, a bar for each server, beside the same pipeline without HTTP.",
    )


def store_figure(results: list[StoreResult]) -> Figure:
    """Time of a query by the number of entries, a line a store."""
    encode_ms = results[0].one_ms / results[0].one_over_encode
    lines = {name: line for name, line in _lines(results).items() if len(line) > 1}
    exponents = growth(results)

    def draw(into: Any) -> None:
        axes = into.subplots()
        for (name, line), colour in zip(lines.items(), COLOURS * 3, strict=False):
            axes.plot(
                [r.entries for r in line],
                [r.one_ms for r in line],
                marker="o",
                linewidth=3 if name == "auto" else 1.5,
                color=colour,
                label=f"{name}: entries^{exponents[name]:.2f}",
            )
        axes.axhline(encode_ms, color="#444444", linestyle="--", label="the network itself")
        axes.set(xscale="log", yscale="log", xlabel="entries", ylabel="ms")
        axes.legend(fontsize=9)

    return Figure(
        "stores",
        "One query alone: search and vote, by number of entries",
        draw,
        "Milliseconds of a query by the number of entries, a line for each store, beside the network itself.",
    )
