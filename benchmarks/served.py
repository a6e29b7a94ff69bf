"""What ``benchmarks.serve`` measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass

COMPARED = 32
"""The connections at which rates are compared."""


@dataclass(frozen=True)
class LoadResult:
    """How a server bore one load."""

    connections: int | None
    """None: as many as it took (open loop)."""
    offered_per_second: float | None
    """None: as many as were answered (closed loop)."""
    images_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    answered: int
    failures: int
    sender_cores: float
    processor_ms: float | None = None
    """Of the server's processes, for an image; None = not measured."""


@dataclass(frozen=True)
class ServerResult:
    """One server."""

    name: str
    settings: str
    closed: list[LoadResult]
    open: LoadResult

    def at(self, connections: int) -> LoadResult:
        """The closed loop with so many connections."""
        return next(result for result in self.closed if result.connections == connections)


@dataclass(frozen=True)
class Tried:
    """One configuration of a server that has several."""

    name: str
    settings: str
    images_per_second: float
    """At 32 connections."""


@dataclass(frozen=True)
class ServeResult:
    """Ours first, then the peers."""

    images: str
    """What was sent."""
    batch: int
    in_process_images_per_second: float
    in_process_processor_ms: float
    """Of the processor for an image, in batches."""
    in_process_one_ms: float
    """Median."""
    servers: list[ServerResult]
    tried: list[Tried]
    skipped: list[str]
    """Peers that are not installed."""

    def as_dict(self) -> dict[str, object]:
        """For JSON, ratios included."""
        return {**asdict(self), "ratios": {server.name: self.ratios(server) for server in self.servers}}

    def ratios(self, server: ServerResult) -> dict[str, float]:
        """What a server loses against the same pipeline without one, and against the first server (ours)."""
        one, many = server.at(1), server.at(COMPARED)
        found = {
            "images_per_second_over_in_process": many.images_per_second / self.in_process_images_per_second,
            "p50_of_one_over_in_process": one.p50_ms / self.in_process_one_ms,
        }
        if many.processor_ms is not None:
            found["processor_over_in_process"] = many.processor_ms / self.in_process_processor_ms
        ours = self.servers[0]
        if server is not ours:
            found["our_images_per_second_over_its"] = ours.at(COMPARED).images_per_second / many.images_per_second
            found["our_p50_of_one_over_its"] = ours.at(1).p50_ms / one.p50_ms
            for result in server.closed:
                assert result.connections is not None
                ratio = ours.at(result.connections).p99_ms / result.p99_ms
                found[f"our_p99_over_its_at_{result.connections}"] = ratio
        return found
