"""From what a search costs to machines: for each store that could hold a cache, how many of them and how fast it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evaluation.plan.costs import Costs
from model.errors import ParameterError

MILVUS_OVERHEAD = 1.3
"""Memory there over the bytes of keys and index: measured with 2.3.5 on float32 keys."""
GENERATIONS = 2
"""Loaded at once, while one is switched to the next."""
USED_MEMORY = 0.8
"""Of a machine's, at most."""
MOST_BUSY = 0.7
"""Share of the time that cores compute, at most: what is left takes up bursts."""
ROUND_TRIP_MS = 0.5
"""From a server to Milvus and back, and from Milvus' proxy to its nodes, each."""
TABLE_BYTES = 40.0
"""An entry in the bundle's table, without a thumbnail; on disk."""
LABEL_BYTES = 8.0
"""An entry's label in a server's memory."""
GRAPH_LINKS_BYTES = 272.0
"""Of a graph of 32 links, for each entry, in FAISS as in Milvus."""
P99 = 0.99
MANY = 5000
"""Of so many cores, no busier than that, there is always one that is free."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a plan."""

    entries: float
    dim: int
    qps: float
    p99_ms: float
    memory_gb: float = 64.0
    """Of a machine."""
    cores: int = 16

    def __post_init__(self) -> None:
        for name, least in (("entries", 1), ("dim", 1), ("qps", 0), ("p99_ms", 0), ("memory_gb", 0), ("cores", 1)):
            value = getattr(self, name)
            if not math.isfinite(value) or value < least or value == 0:
                raise ParameterError(f"{name.replace('_', ' ')} must be above 0, not {value:g}")


@dataclass(frozen=True)
class Choice:
    """One store that could hold the cache."""

    store: str
    where: str
    """faiss or milvus."""
    memory_gb: float
    """Of keys and index, one copy, all generations that are loaded at once."""
    disk_gb: float
    """Of a bundle, and of the keys in Milvus."""
    shards: int
    """Machines that one copy of the keys is spread over."""
    replicas: int
    """Copies of each."""
    servers: int
    p99_ms: float
    is_met: bool
    why_not: str = ""

    @property
    def machines(self) -> int:
        """All of them; Milvus' own coordinators, etcd and storage come on top."""
        return self.servers + (self.shards * self.replicas if self.where == "milvus" else 0)


def plan(wanted: Wanted, costs: Costs) -> list[Choice]:
    """Every store, those that meet what is asked first, the one of the fewest machines first."""
    choices = [_in_faiss(name, wanted, costs) for name in costs.stores]
    choices += [_in_milvus(name, wanted, costs) for name in ("FLAT", "IVF_SQ8", "HNSW")]
    return sorted(choices, key=lambda one: (not one.is_met, one.machines, one.where, one.p99_ms))


def assumptions(wanted: Wanted, costs: Costs) -> list[str]:
    """All that a plan takes for granted, in sentences."""
    hold, busy = 100 * USED_MEMORY, 100 * MOST_BUSY
    return [
        f"Costs were measured on {costs.cores} cores of {costs.machine}, at {costs.dim} numbers a key and "
        f"k = {costs.k} ({'; '.join(costs.fitted_to)}); a core of the planned machines is taken to be as fast, and "
        "more of them to share the work evenly.",
        "A search that looks at some entries is as good as in those measurements; beyond their largest size its time "
        "is extrapolated.",
        f"A machine has {wanted.cores} cores and {wanted.memory_gb:g} GB, of which {hold:g} % hold keys; cores compute "
        f"{busy:g} % of the time at most.",
        f"{GENERATIONS} generations are loaded while one is switched to the next. Milvus takes {MILVUS_OVERHEAD:g} "
        "times the bytes of keys and index (measured with 2.3.5).",
        "Requests of one image arrive at random (Poisson); what waits is computed by as many cores as are free "
        "(Erlang's C).",
        f"The network takes {ROUND_TRIP_MS:g} ms there and back. Milvus' coordinators, etcd, object storage and the "
        "balancer come on top.",
        "A choice of one machine or copy has nothing that takes over when it is lost: add one.",
        f"An answer takes {costs.image_core_ms:.2f} ms of a core beside its search: this project's default network. "
        "Measure your own with `secondlook bench`.",
    ]


def _in_faiss(name: str, wanted: Wanted, costs: Costs) -> Choice:
    store = costs.stores[name]
    held = wanted.entries * (store.bytes(wanted.dim) + LABEL_BYTES) * GENERATIONS
    one = store.ms(wanted.entries, wanted.dim, costs.dim)
    many = store.ms(wanted.entries, wanted.dim, costs.dim, batch=True) * costs.cores
    fits = held <= wanted.memory_gb * 1e9 * USED_MEMORY
    servers, wait = _fewest(wanted.qps, costs.image_core_ms + many, wanted.cores, wanted.p99_ms - costs.encode_ms - one)
    p99 = costs.encode_ms + one + wait
    return Choice(
        store=name,
        where="faiss",
        memory_gb=held / 1e9,
        disk_gb=wanted.entries * (store.bytes(wanted.dim) + TABLE_BYTES) / 1e9,
        shards=1,
        replicas=servers,
        servers=servers,
        p99_ms=p99,
        is_met=fits and p99 <= wanted.p99_ms,
        why_not="" if fits and p99 <= wanted.p99_ms else "too slow" if fits else "does not fit a machine",
    )


def _in_milvus(name: str, wanted: Wanted, costs: Costs) -> Choice:
    entry = {"FLAT": 4.0 * wanted.dim, "IVF_SQ8": wanted.dim + 16.0, "HNSW": 4.0 * wanted.dim + GRAPH_LINKS_BYTES}[name]
    held = wanted.entries * entry * MILVUS_OVERHEAD * GENERATIONS
    shards = max(1, math.ceil(held / (wanted.memory_gb * 1e9 * USED_MEMORY)))

    def ms(batch: bool) -> float:
        """Of a query in one shard, on the cores measured."""
        part = wanted.entries / shards
        if name == "FLAT":
            return costs.milvus_flat[batch].ms(part, 4.0 * wanted.dim)
        family = "IVF_FLAT" if name == "IVF_SQ8" else name
        beside = costs.stores["IVF,SQ8" if name == "IVF_SQ8" else "HNSW32,SQ8"]
        return beside.ms(part, wanted.dim, costs.dim, batch=batch) * costs.milvus_over_faiss[family][batch]

    answer = costs.encode_ms + ms(False) + 2 * ROUND_TRIP_MS
    # Half of what may be waited for at the servers, half at the nodes.
    left = (wanted.p99_ms - answer) / 2
    servers, wait = _fewest(wanted.qps, costs.image_core_ms, wanted.cores, left)
    replicas, at_nodes = _fewest(wanted.qps, ms(True) * costs.cores, wanted.cores, left)
    p99 = answer + wait + at_nodes
    return Choice(
        store=name,
        where="milvus",
        memory_gb=held / 1e9,
        disk_gb=wanted.entries * (4.0 * wanted.dim + entry + TABLE_BYTES) / 1e9,
        shards=shards,
        replicas=replicas,
        servers=servers,
        p99_ms=p99,
        is_met=p99 <= wanted.p99_ms,
        why_not="" if p99 <= wanted.p99_ms else "too slow",
    )


def _fewest(qps: float, core_ms: float, cores: int, patience_ms: float) -> tuple[int, float]:
    """The fewest machines whose cores are not too busy and let nobody wait too long, and the wait's 99th percentile."""
    machines = max(1, math.ceil(qps * core_ms / 1000 / (cores * MOST_BUSY)))
    if patience_ms <= 0:  # even no wait at all is too much: more machines do not help
        return machines, 0.0
    wait = wait_p99_ms(qps, core_ms, cores * machines)
    while wait > patience_ms:
        machines += max(1, machines // 20)
        wait = wait_p99_ms(qps, core_ms, cores * machines)
    return machines, wait


def wait_p99_ms(qps: float, core_ms: float, cores: int) -> float:
    """The 99th percentile of waiting for one of so many cores (M/M/c; A. K. Erlang, 1917): milliseconds."""
    load = qps * core_ms / 1000
    if load >= cores:
        return math.inf
    if cores > MANY and load <= MOST_BUSY * cores:
        return 0.0
    # Erlang's B by its recursion, then C.
    blocked = 1.0
    for servers in range(1, cores + 1):
        blocked = load * blocked / (servers + load * blocked)
    waits = blocked / (1 - load / cores * (1 - blocked))
    if waits <= 1 - P99:
        return 0.0
    return math.log(waits / (1 - P99)) * core_ms / (cores - load)
