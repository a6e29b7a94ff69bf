"""What a search costs, as a function of entries and dimension: fitted to results of ``secondlook bench``.

A search that looks at every entry takes ``fixed + rate * N * bytes of a key``: it is bound by reading. One that does
not takes ``scale * N ** power``, times D over the dimension measured: with so much of the index searched that answers
stay the same (``indexer.truncation``), which grows with N in a way that no formula gives. Both are fitted to relative
errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from model.errors import ParameterError

COSTS = Path(__file__).with_name("costs.json")
"""The coefficients that come with secondlook: `secondlook plan --fit` wrote them."""
BATCH = 32
"""Queries in the larger of the two searches that are measured."""
SEARCHES = ("one_ms", "many_ms")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Exhaustive(_Part):
    """Milliseconds of a query in a search that looks at every entry."""

    fixed: float
    rate: float
    """For a byte."""

    def ms(self, entries: float, key_bytes: float) -> float:
        """Of so many entries, of so many bytes each."""
        return self.fixed + self.rate * entries * key_bytes


class Approximate(_Part):
    """The same, of a search that looks at some."""

    scale: float
    power: float

    def ms(self, entries: float) -> float:
        """Of so many entries, at the dimension measured."""
        return float(self.scale * entries**self.power)


class StoreCosts(_Part):
    """One kind of store: a query alone, and each of a batch."""

    number_bytes: int
    """Of each number of a key."""
    more_bytes: float
    """Of each entry, beside its key."""
    exhaustive: tuple[Exhaustive, Exhaustive] | None = None
    approximate: tuple[Approximate, Approximate] | None = None

    def bytes(self, dim: int) -> float:
        """Of an entry in memory."""
        return self.number_bytes * dim + self.more_bytes

    def ms(self, entries: float, dim: int, measured_dim: int, *, batch: bool = False) -> float:
        """Milliseconds of a query, alone or one of a batch, on the cores measured."""
        if self.exhaustive is not None:
            return self.exhaustive[batch].ms(entries, self.number_bytes * dim)
        assert self.approximate is not None
        return self.approximate[batch].ms(entries) * dim / measured_dim


class Costs(_Part):
    """All that a plan is made from."""

    machine: str
    cores: int
    dim: int
    k: int
    fitted_to: tuple[str, ...]
    """Which results, in words."""
    encode_ms: float
    """One image alone, on those cores."""
    image_core_ms: float
    """Of one core, for an image under load, from the socket to the answer, without its search."""
    stores: dict[str, StoreCosts]
    milvus_flat: tuple[Exhaustive, Exhaustive]
    """A search there that looks at every entry, from the client's side."""
    milvus_over_faiss: dict[str, tuple[float, float]]
    """The same index with the same effort on the same keys, by its name there: alone, and in a batch."""


def kind(factory: str) -> str:
    """A factory string without its numbers of lists: what is fitted as one."""
    return "IVF,SQ8" if factory.startswith("IVF") and factory.endswith("SQ8") else factory


def fit(results: Iterable[dict[str, Any]]) -> Costs:
    """Fit to results of ``secondlook bench``, each as its JSON says, all of one machine.

    Raises:
        ParameterError: a part is missing, or there are too few sizes.
    """
    results = list(results)
    if not results:
        raise ParameterError("there is nothing to fit to: give results of secondlook bench")
    stores = [row for result in results for row in result["stores"]]
    milvus = [row for result in results for row in result["milvus"]]
    engines = next((r["engines"] for r in results if r["engines"]), None)
    served = next((r["serve"] for r in results if r["serve"]), None)
    if not (stores and milvus and engines and served):
        raise ParameterError("results of the parts engines, serve, stores and milvus are needed")
    machine, dim = results[0]["machine"], results[0]["bundle"]["dim"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in stores:
        by_kind.setdefault(kind(row["factory"]), []).append(row)
    fitted = {name: _store(rows, dim) for name, rows in by_kind.items() if len({r["entries"] for r in rows}) > 1}
    best = max(run["images_per_second"] for server in served["servers"][:1] for run in server["closed"])
    flat = [row for row in milvus if row["index"] == "FLAT"]
    own = next(row for row in engines if row["name"].startswith("onnxruntime") and "bare" not in row["name"])
    searched = fitted.get("IVF,SQ8")
    in_search = searched.ms(results[0]["bundle"]["entries"], dim, dim, batch=True) if searched else 0.0
    return Costs(
        machine=machine["processor"],
        cores=machine["cores"],
        dim=dim,
        k=results[0]["bundle"]["k"],
        fitted_to=tuple(
            f"{part} at {', '.join(f'{n:,}' for n in sorted({row['entries'] for row in rows}))} entries"
            for part, rows in (("stores", stores), ("milvus", milvus))
        ),
        encode_ms=own["milliseconds_one"],
        image_core_ms=machine["cores"] * (1000 / best - in_search),
        stores=fitted,
        milvus_flat=tuple(
            _exhaustive([(r["entries"] * 4 * r["dim"], _milvus_ms(r, batch, "milvus_ms")) for r in flat])
            for batch in (1, BATCH)
        ),
        milvus_over_faiss={
            name: tuple(_largest(milvus, name, batch) for batch in (1, BATCH))
            for name in sorted({row["index"].partition(",")[0] for row in milvus} - {"FLAT"})
        },
    )


def load(path: Path = COSTS) -> Costs:
    """Coefficients that were kept."""
    return Costs.model_validate_json(path.read_bytes())


def read(path: Path) -> dict[str, Any]:
    """One file of ``secondlook bench --out``.

    Raises:
        ParameterError: it is none.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        result["machine"], result["stores"], result["engines"], result["serve"], result["milvus"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{path} is no result of secondlook bench that has all its parts") from error
    return result


def _store(rows: list[dict[str, Any]], dim: int) -> StoreCosts:
    largest = max(rows, key=lambda row: int(row["entries"]))
    number_bytes = 1 if "SQ8" in largest["factory"] else 4
    more = max(0.0, largest["bytes_per_entry"] - number_bytes * dim)
    if largest["effort"] == "all":
        lines = [_exhaustive([(r["entries"] * number_bytes * dim, r[one]) for r in rows]) for one in SEARCHES]
        return StoreCosts(number_bytes=number_bytes, more_bytes=more, exhaustive=(lines[0], lines[1]))
    laws = [_approximate([(r["entries"], r[one]) for r in rows]) for one in SEARCHES]
    return StoreCosts(number_bytes=number_bytes, more_bytes=more, approximate=(laws[0], laws[1]))


def _exhaustive(points: list[tuple[float, float]]) -> Exhaustive:
    size, took = (np.array(column, float) for column in zip(*points, strict=True))
    # Divided by what was measured, so that each point's relative error counts the same; no cost is below 0.
    terms = np.stack([np.ones_like(size), size], axis=1) / took[:, None]
    (fixed, rate), *_ = np.linalg.lstsq(terms, np.ones_like(took), rcond=None)
    if fixed < 0:
        fixed, rate = 0.0, float(1 / np.mean(size / took))
    return Exhaustive(fixed=float(fixed), rate=float(rate))


def _approximate(points: list[tuple[float, float]]) -> Approximate:
    size, took = (np.log(np.array(column, float)) for column in zip(*points, strict=True))
    power, level = np.polyfit(size, took, 1)
    return Approximate(scale=float(np.exp(level)), power=float(power))


def _milvus_ms(row: dict[str, Any], batch: int, side: str) -> float:
    """Milliseconds of one query."""
    return float(row[side][str(batch)]) / batch


def _largest(rows: list[dict[str, Any]], name: str, batch: int) -> float:
    """The ratio at the most entries it was measured at."""
    row = max((row for row in rows if row["index"].startswith(name)), key=lambda row: int(row["entries"]))
    return _milvus_ms(row, batch, "milvus_ms") / _milvus_ms(row, batch, "faiss_ms")
