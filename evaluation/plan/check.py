"""A plan's predictions beside measurements that it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evaluation.plan.costs import BATCH, SEARCHES, Costs, kind


@dataclass(frozen=True)
class Checked:
    """One figure, twice."""

    case: str
    what: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


def check(result: dict[str, Any], costs: Costs) -> Iterator[Checked]:
    """Every time and size of a result of ``secondlook bench`` that the coefficients say something of."""
    dim = result["bundle"]["dim"]
    for row in result["stores"]:
        store = costs.stores.get(kind(row["factory"]))
        if store is None:
            continue
        case = f"faiss {row['factory']}, {row['entries']:,} entries"
        for batch, measured in enumerate(SEARCHES):
            what = f"ms a query, {BATCH} at once" if batch else "ms of one query"
            yield Checked(case, what, store.ms(row["entries"], dim, costs.dim, batch=bool(batch)), row[measured])
        yield Checked(case, "bytes an entry", store.bytes(dim), row["bytes_per_entry"])
    for row in result["milvus"]:
        if row["index"] != "FLAT":
            continue
        case = f"milvus FLAT, {row['entries']:,} entries"
        for place, batch in enumerate((1, BATCH)):
            what = f"ms a query, {batch} at once" if place else "ms of one query"
            predicted = costs.milvus_flat[place].ms(row["entries"], 4 * row["dim"])
            yield Checked(case, what, predicted, row["milvus_ms"][str(batch)] / batch)
