"""``secondlook plan``."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from evaluation.plan import costs as fitted
from evaluation.plan.check import Checked, check
from evaluation.plan.costs import Costs
from evaluation.plan.sizing import Choice, Wanted, assumptions, plan
from secondlook.options import json_option, print_json

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1000.0}


class Amount(click.ParamType):  # type: ignore[type-arg]
    """A number above 0, which may be written as 1e9, and end in a unit."""

    def __init__(self, name: str, units: dict[str, float]) -> None:
        self.name, self._units = name, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        parts = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*", str(value), re.IGNORECASE)
        unit = self._units.get(parts[2]) if parts else None
        if parts is None or unit is None or parts[1].count(".") > 1 or not float(parts[1]) > 0:
            known = " or ".join(one for one in self._units if one)
            self.fail(f"{value!r} is no number above 0" + (f" in {known}" if known else ""), param, ctx)
        return float(parts[1]) * unit


@click.command(name="plan")
@click.option("--entries", type=Amount("NUMBER", {"": 1.0}), help="Entries of the cache, such as 1e9.")
@click.option("--dim", type=int, default=320, show_default=True, help="Numbers of a key.")
@click.option("--qps", type=Amount("NUMBER", {"": 1.0}), default=100.0, show_default=True, help="Images a second.")
@click.option(
    "--p99", type=Amount("TIME", UNITS), default="50ms", show_default=True, help="Most that 99 % of them may take."
)
@click.option("--machine-memory", type=Amount("GB", {"": 1.0, "GB": 1.0}), default=64.0, show_default=True)
@click.option("--machine-cores", type=int, default=16, show_default=True)
@click.option(
    "--price", type=Amount("NUMBER", {"": 1.0}), help="Of a machine for an hour; adds what each choice costs."
)
@click.option(
    "--costs",
    "costs_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Coefficients of another machine than the one that comes with secondlook.",
)
@click.option(
    "--fit",
    "results",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A bench.json of `secondlook bench --out` to fit coefficients to; may be repeated. Prints them.",
)
@click.option(
    "--check",
    "checked",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A bench.json that the coefficients were not fitted to: what they predict beside what it measured.",
)
@json_option
def plan_command(
    entries: float | None,
    dim: int,
    qps: float,
    p99: float,
    machine_memory: float,
    machine_cores: int,
    price: float | None,
    costs_file: Path | None,
    results: tuple[Path, ...],
    checked: tuple[Path, ...],
    as_json: bool,
) -> None:
    """How many machines a cache of so many entries takes, for each store that could hold it.

    From a cost model fitted to `secondlook bench` results; every assumption is printed with the answer.
    """
    if results:
        click.echo(fitted.fit([fitted.read(path) for path in results]).model_dump_json(indent=1))
        return
    costs = fitted.load(costs_file) if costs_file else fitted.load()
    if checked:
        _show_checked([one for path in checked for one in check(fitted.read(path), costs)], as_json)
        return
    if entries is None:
        raise click.UsageError("how many entries? give --entries, such as 1e9")
    wanted = Wanted(entries, dim, qps, p99, machine_memory, machine_cores)
    choices = plan(wanted, costs)
    if as_json:
        told = [{**asdict(one), "machines": one.machines} for one in choices]
        print_json(wanted=asdict(wanted), choices=told, advice=advice(choices), assumptions=assumptions(wanted, costs))
        return
    _show(wanted, costs, choices, price)


def advice(choices: list[Choice]) -> str:
    """What to take, in a sentence."""
    best = choices[0]
    if not best.is_met:
        return "Nothing meets that: allow more time, fewer numbers a key, or larger machines."
    machines = f"{best.machines:,} machine{'s' if best.machines > 1 else ''}"
    if best.where == "faiss":
        return f"Stay on FAISS: {best.store} on {machines}, each with all keys."
    return (
        f"Move to Milvus: {best.store}, {best.shards:,} shard{'s' if best.shards > 1 else ''} in {best.replicas:,} "
        f"cop{'ies' if best.replicas > 1 else 'y'} and {best.servers:,} server{'s' if best.servers > 1 else ''}, "
        f"{machines} in all."
    )


def _show(wanted: Wanted, costs: Costs, choices: list[Choice], price: float | None) -> None:
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(title=f"{wanted.entries:,.0f} entries of {wanted.dim} numbers, {wanted.qps:,g} images/s")
    for name in ("store", "memory, GB", "disk, GB", "shards", "copies", "servers", "machines", "p99, ms", ""):
        table.add_column(name, justify="left" if name in ("store", "") else "right")
    if price:
        table.add_column("an hour", justify="right")
    for one in choices:
        row = [
            f"{one.where} {one.store}",
            f"{one.memory_gb:,.1f}",
            f"{one.disk_gb:,.1f}",
            f"{one.shards:,}",
            f"{one.replicas:,}",
            f"{one.servers:,}",
            f"{one.machines:,}",
            f"{one.p99_ms:,.1f}",
            one.why_not or "yes",
        ]
        table.add_row(*row, *([f"{price * one.machines:,.2f}"] if price else []))
    console.print(table)
    console.print(advice(choices), highlight=False)
    console.print("Assumed:", highlight=False)
    for sentence in assumptions(wanted, costs):
        console.print(f"- {sentence}", highlight=False)


def _show_checked(found: list[Checked], as_json: bool) -> None:
    if as_json:
        print_json(checked=[{**asdict(one), "ratio": one.ratio} for one in found])
        return
    table = Table(title="what was not fitted to")
    for name in ("case", "what", "predicted", "measured", "ratio"):
        table.add_column(name, justify="left" if name in ("case", "what") else "right")
    for one in found:
        table.add_row(one.case, one.what, f"{one.predicted:,.2f}", f"{one.measured:,.2f}", f"{one.ratio:.2f}")
    Console(width=None if Console().is_terminal else 120).print(table)
