"""What ``benchmarks.at_size`` measured, as tables and a plot."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from benchmarks.stores import StoreResult
from secondlook.indexer.plots import COLOURS
from secondlook.indexer.results import Figure, Table

FITTED = ("search", "fit", "approximation", "calibrate", "novelty")
"""Steps of an index that are fit and calibration."""


def size_tables(found: dict[str, Any]) -> list[Table]:
    """The parts that there are."""
    makers: dict[str, Callable[[dict[str, Any]], list[Table]]] = {"index": _index, "serve": _serve, "sizes": _sizes}
    return [table for part, of in found.items() if part in makers for table in makers[part](of)]


def fit_seconds(index: dict[str, Any]) -> tuple[float, float]:
    """Seconds of fit and calibration, and those of the processor."""
    steps = [step for step in index["steps"] if step["name"] in FITTED]
    return sum(step["seconds"] for step in steps), sum(step["cpu_seconds"] for step in steps)


def _index(index: dict[str, Any]) -> list[Table]:
    took, cpu = fit_seconds(index)
    rows = [
        (step["name"], f"{step['seconds']:,.1f}", f"{step['cpu_seconds']:,.1f}", f"{step['peak_bytes'] / 1e6:,.0f}")
        for step in index["steps"]
    ]
    of_files = ", ".join(
        f"{name} {size / 1e6:,.0f}" for name, size in sorted(index["files"].items(), key=lambda file: -file[1])[:3]
    )
    return [
        Table(
            f"index of {index['entries']:,} entries x {index['dim']} in {index['store']}",
            ("step", "seconds", "of processors", "peak, MB beyond what it began with"),
            tuple(rows),
            f"anonymous memory at its widest {index['peak_bytes'] / 1e6:,.0f} MB, {index['before_bytes'] / 1e6:,.0f} "
            f"of them before; said {index['said_bytes'] / 1e6:,.0f} beyond that. Fit and calibration {took:,.0f} s, "
            f"{cpu:,.0f} of processors, on {index['holdout']:,} images. MB: {of_files}. theta {index['theta']:g}, lam "
            f"{index['lam']:g}, k {index['k']}; searched {index['search']}",
        )
    ]


def _serve(serve: dict[str, Any]) -> list[Table]:
    rows = (
        ("store, MB", f"{serve['store_bytes'] / 1e6:,.0f}"),
        ("server resident, MB", f"{serve['resident_bytes'] / 1e6:,.0f}"),
        ("over the store", f"{serve['resident_over_store']:.2f}"),
        ("start, s (of processors)", f"{serve['start_seconds']:.1f} ({serve['start_cpu_seconds']:.1f})"),
        ("search of one image, ms: mean", f"{serve['search_ms']:.2f}"),
        ("of the processor", f"{serve['search_processor_ms']:.2f}"),
        ("p50, p99", f"{serve['search_p50_ms']:.2f}, {serve['search_p99_ms']:.2f}"),
        ("mixed top-1 as by the exact search, %", f"{serve['same_top1_percent']:.2f}"),
        ("the cache's alone, %", f"{serve['cache_same_top1_percent']:.2f}"),
        ("error of the network, %", f"{serve['network_error_percent']:.2f}"),
        (
            "mixed (by the exact search)",
            f"{serve['mixed_error_percent']:.2f} ({serve['exact_mixed_error_percent']:.2f})",
        ),
        (
            "cache (by the exact search)",
            f"{serve['cache_error_percent']:.2f} ({serve['exact_cache_error_percent']:.2f})",
        ),
    )
    return [Table(f"served, {serve['images']:,} test images", ("", "figure"), rows)]


def kind_of(result: StoreResult) -> str:
    """A store's name, however many lists it has."""
    return re.sub(r"IVF\d+", "IVF", result.factory)


def _sizes(sizes: dict[str, Any]) -> list[Table]:
    rows = [
        (
            f"{one.entries:,}",
            kind_of(one) + (" (auto)" if one.is_auto else ""),
            f"{one.build_processor_seconds:,.0f}",
            f"{one.bytes_per_entry * one.entries / 1e6:,.0f}",
            f"{one.one_processor_ms:.2f}",
            f"{one.many_processor_ms:.2f}",
            f"{100 - one.changed_among_nearest_percent:.1f}",
            one.search_settings,
        )
        for one in (StoreResult(**of) for of in sizes["stores"])
    ]
    columns = (
        *("entries", "store", "build, s of processors", "MB", "one image, ms of the processor", "each of 32"),
        *("mixed top-1 as by the exact search, %", "searched"),
    )
    return [Table("by size", columns, tuple(rows), names=2)]


def size_figure(results: list[StoreResult]) -> Figure:
    """Build, bytes, search and answers by the number of entries, a line a store."""
    lines: dict[str, list[StoreResult]] = {}
    for result in sorted(results, key=lambda one: one.entries):
        lines.setdefault(kind_of(result), []).append(result)
    panels: tuple[tuple[str, str, Callable[[StoreResult], float]], ...] = (
        ("build, s of processors", "log", lambda one: one.build_processor_seconds),
        ("store, MB", "log", lambda one: one.bytes_per_entry * one.entries / 1e6),
        ("one image: search and vote,\nms of the processor", "log", lambda one: one.one_processor_ms),
        ("each of 32: search and vote,\nms of the processor", "log", lambda one: one.many_processor_ms),
        ("mixed top-1 as by\nthe exact search, %", "linear", lambda one: 100 - one.changed_among_nearest_percent),
    )

    def draw(into: Any) -> None:
        places = list(into.subplots(2, 3).flat)
        for axes, (label, scale, value) in zip(places, panels, strict=False):
            for (name, line), colour, marker in zip(lines.items(), COLOURS, "os^Dv", strict=False):
                axes.plot(
                    [one.entries for one in line], [value(one) for one in line], f"{marker}-", color=colour, label=name
                )
            chosen = [one for one in results if one.is_auto]
            axes.plot(
                [one.entries for one in chosen],
                [value(one) for one in chosen],
                "o",
                color="#222222",
                markersize=13,
                fillstyle="none",
                label="what auto takes",
            )
            axes.set(xscale="log", yscale=scale, xlabel="entries", ylabel=label)
            if scale == "linear":
                axes.axhline(99.5, color="#444444", linestyle="--")
                axes.set_ylim(98.9, 100.1)
        places[-1].axis("off")
        places[-1].legend(*places[0].get_legend_handles_labels(), loc="center", fontsize=10)

    return Figure(
        "at-size",
        "What a store costs by its size, CIFAR-100's keys of 512 numbers",
        draw,
        "Processor seconds of the build, megabytes, processor milliseconds of a search, and the share of answers that "
        "are those of the exact search, by the number of entries, a line for each store.",
        (11.0, 6.4),
    )
