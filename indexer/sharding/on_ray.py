"""Shards of an index (``sharding.shards``) on a Ray cluster: Ray Data feeds them to actors, an encoder in each.

Only numbers of shards and short answers pass through Ray. Images and parts lie in folders that all nodes see, so
nothing that an actor wrote is lost with it or with its node: Ray Data starts another and hands it the shard again,
which goes on after its last file.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from secondlook.indexer.datasets.datasets import DEFAULT_LIMITS, load_to_cache
from secondlook.indexer.datasets.published import CIFAR
from secondlook.indexer.embedding.encoders import FromBundle
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.sharding.shards import Plan, Shards, shard_folder, shard_range
from secondlook.model.bundles.files import NETWORK, read_manifest
from secondlook.model.errors import EngineError, PartsError, SecondlookError
from secondlook.model.images import Limits

LOCAL = "local"
IMAGES_PER_SHARD = 2048
MOST_SHARDS = 10_000
TRIES = 10
"""A shard that ends its actor's process so often, as where memory ends, is given up; Ray Data would never."""

CONNECT_S = 10.0

STORE_BYTES = 128 << 20
"""Ray's object store on this machine alone; next to nothing passes through it."""


@dataclass(frozen=True)
class Job:
    """What all actors embed, as it can be opened on any node."""

    name: str
    split: str
    data_root: Path | None
    """A folder is looked for there first; in the end, where it is."""
    source: FromBundle
    parts: Path
    shards: int
    mirror: bool = False
    thumbnails: bool = True
    limits: Limits = DEFAULT_LIMITS
    skip_empty: bool = False
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """Differs from run to run."""

    def __post_init__(self) -> None:
        """Make paths absolute, since nodes work in other folders; the dataset keeps the name that it was given by."""
        is_below = self.data_root is not None and (self.name in CIFAR or (self.data_root / self.name).is_dir())
        below = self.data_root if self.data_root is not None and is_below else Path()
        source = replace(self.source, root=self.source.root.resolve())
        for name, value in (("data_root", below.resolve()), ("source", source), ("parts", self.parts.resolve())):
            object.__setattr__(self, name, value)

    def opened(self, threads: int = 0) -> Shards:
        """Open the dataset on this machine."""
        dataset = load_to_cache(self.name, self.split, self.data_root, self.limits, skip_empty=self.skip_empty)
        return Shards(
            dataset,
            self.source,
            self.parts,
            self.shards,
            mirror=self.mirror,
            thumbnails=self.thumbnails,
            threads=threads,
        )


class _Actor:
    """Embeds one shard after another; what a user can cause comes back as a sentence."""

    def __init__(self, job: Job, plan: Plan, threads: int) -> None:
        self._job, self._plan, self._threads = job, plan, threads
        self._shards: Shards | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (shard,) = batch["shard"].tolist()
        said = ""
        try:
            tries = shard_folder(self._job.parts, shard) / f".tries-{self._job.run}"
            tries.parent.mkdir(parents=True, exist_ok=True)
            with tries.open("ab") as file:
                file.write(b".")
                if file.tell() > TRIES:
                    raise PartsError(f"its process ended {TRIES} times before it was finished, as where memory ends")
            self._opened().write(shard)
            tries.unlink()
        except (SecondlookError, OSError) as error:
            said = f"on {socket.gethostname()}: {error}"
        return {"shard": np.array([shard]), "error": np.array([said])}

    def _opened(self) -> Shards:
        if self._shards is None:
            found = self._job.opened(self._threads)
            if (other := found.plan.difference(self._plan)) is not None:
                raise PartsError(f"the folders show {other}: all nodes must see the same")
            self._shards = found
        return self._shards


def default_shards(images: int) -> int:
    """As many as leave little to do again and keep every actor busy to the end."""
    return max(1, min(MOST_SHARDS, -(-images // IMAGES_PER_SHARD)))


def embed_on_ray(address: str, job: Job, workers: int | None = None, progress: Progress = silent) -> None:
    """Embed the shards that are not finished on a cluster; ``local`` starts one of this machine alone.

    ``workers`` actors; None = one for each GPU or, where there is none, for each node.

    Raises:
        EngineError: Ray is not installed, or no cluster answers at the address.
        PartsError: an actor says what is wrong, or a shard was tried TRIES times in vain.
        DatasetError, BundleError: as ``Shards`` does.
    """
    shards = job.opened()
    plan, todo = shards.plan, shards.unfinished()
    images = [len(shard_range(plan.images, plan.shards, shard)) for shard in range(plan.shards)]
    done = plan.images - sum(images[shard] for shard in todo)
    progress("embed", done, plan.images)
    if not todo:
        return
    with _cluster(address) as ray:
        manifest = read_manifest(job.source.root, plan.generation)
        size, resources = _pool(ray.nodes(), workers, has_network=NETWORK in manifest.files)
        given = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo))
        answers = given.map_batches(
            _Actor,
            fn_constructor_args=(job, plan, resources["num_cpus"]),
            batch_size=1,
            # A second shard waiting at a slow actor could be with another.
            compute=ray.data.ActorPoolStrategy(size=min(size, len(todo)), max_tasks_in_flight_per_actor=1),
            **resources,
        )
        try:
            for answer in answers.iter_rows():
                if answer["error"]:
                    raise PartsError(f"shard {answer['shard']} {answer['error']}")
                done += images[answer["shard"]]
                progress("embed", done, plan.images)
        except ray.exceptions.RayError as error:
            raise PartsError(
                f"Ray gave up ({type(error).__name__}: {str(error).strip().splitlines()[-1]}): "
                "what is finished is kept, and the same command goes on from there"
            ) from error


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    if address == LOCAL:
        # Ray's name for it, on all systems: without it whoever reaches this machine could run programs in its cluster.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # warnings about its own insides
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise EngineError(f"--ray needs {error.name}: install secondlook with the ray extra") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        quiet |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        if ":" in address:  # of a cluster that is not there, Ray would wait for a very long time
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_S).close()
        stopped = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, **quiet)
        signal.signal(signal.SIGTERM, stopped)  # Ray would end this process then and there, and write where it was
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[0]}") from error
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield ray
    finally:
        ray.shutdown()


def _pool(nodes: list[dict[str, Any]], workers: int | None, *, has_network: bool) -> tuple[int, dict[str, int]]:
    """How many actors, and what each of them takes of its node.

    Raises:
        EngineError: no node has a processor.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    if gpus and has_network:
        return min(workers or gpus, gpus), {"num_cpus": 1, "num_gpus": 1}
    cpus = [count for resources in alive if (count := int(resources.get("CPU", 0)))]
    if not cpus:
        raise EngineError("the Ray cluster has no processors: add nodes")
    size = min(workers or len(cpus), sum(cpus))
    return size, {"num_cpus": max(1, min(max(cpus), sum(cpus) // size))}
