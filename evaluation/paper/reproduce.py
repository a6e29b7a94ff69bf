"""The paper's figures and what goes beyond them, on one or more networks, step by step and resumable.

For each network (a subject) its cache is built under each key recipe, and each step is measured on it. A step's result
is written to ``steps/`` under the folder of the run, whole or not at all, with a hash of what it depends on; a run that
was interrupted takes up what is there. ``report.html`` and ``report.json`` are written anew after each step.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secondlook.evaluation.machine import processor
from secondlook.evaluation.paper.claims import claims_of
from secondlook.evaluation.paper.report_html import Built, Drawn, Measured, Report, page
from secondlook.evaluation.paper.steps import STEPS, Plan, command, measure
from secondlook.evaluation.paper.subjects import AS_IS, Subject, thinned
from secondlook.indexer.datasets.datasets import Dataset, load
from secondlook.indexer.embedding.encoders import best_device
from secondlook.indexer.index import IndexOptions, index
from secondlook.indexer.progress import Progress, silent
from secondlook.indexer.results import Table
from secondlook.indexer.sources.from_cifar import FromCifar
from secondlook.model.answering.predictor import Parameters
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import file_sha256
from secondlook.model.bundles.root import activate, active_generation
from secondlook.model.errors import SecondlookError


@dataclass
class Run:
    """One run into a folder; what lies there already is taken up."""

    out: Path
    plan: Plan
    data_root: Path | None
    command: str
    """How it was called, for the report."""
    preset: str = "orhan2018"
    quick: bool = False
    steps: tuple[str, ...] = STEPS
    recipes: tuple[str, ...] | None = None
    """Measure these only; None = all of each subject."""
    keep_bundles: bool = False
    progress: Progress = silent
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        packages = ("secondlook", "torch", "numpy", "faiss-cpu", "faiss-gpu", "onnxruntime")
        versions = {name: found for name in packages if (found := _version(name))}
        self.report = Report(
            command=self.command,
            preset=self.preset,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=self.quick,
            plan=asdict(self.plan),
            machine=f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
            device=best_device(),
            versions=versions,
        )

    def measure(self, subjects: Sequence[Subject]) -> Report:
        """Measure every step of every subject; what fails is reported and the others go on.

        Raises:
            DatasetError: a subject's images are not there.
        """
        for subject in subjects:
            train = load(subject.dataset, "train", self.data_root)
            test = load(subject.dataset, "test", self.data_root)
            _Measuring(self, subject, train, test).all()
        self.report.finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.write()
        return self.report

    def write(self) -> None:
        """Write the report as it stands."""
        _write(self.out / "report.json", json.dumps(self.report.as_dict(), indent=1, allow_nan=False) + "\n")
        _write(self.out / "report.html", page(self.report))


@dataclass
class _Measuring:
    """One subject of a run."""

    run: Run
    subject: Subject
    train: Dataset
    test: Dataset
    made: dict[Any, Any] = field(default_factory=dict)
    """Adversarial images: made against the network, they are the same for every recipe."""

    def __post_init__(self) -> None:
        self.hashes = {
            "network": file_sha256(self.subject.network),
            "train": self.train.content_hash(),
            "test": self.test.content_hash(),
        }

    def all(self) -> None:
        """Measure every recipe, and in it every step."""
        for recipe in self.subject.recipes:
            if self.run.recipes is not None and recipe not in self.run.recipes:
                continue
            self._recipe(recipe)

    def _recipe(self, recipe: str) -> None:
        opened: list[Bundle] = []

        def bundle() -> Bundle:
            if not opened:
                root, generation = self._bundle(recipe)
                opened.append(open_bundle(root, generation))
            return opened[0]

        try:
            built = self._kept(recipe, "index", {}, lambda: self._describe(bundle(), time.perf_counter()))
        except SecondlookError as error:
            self.run.report.failed.append(f"{self.subject.name}, {recipe}: {error}")
            self.run.write()
            return
        self.run.report.built.append(Built(self.subject.name, recipe, **built["result"]))
        self.run.write()
        complete = True
        for step in self.run.steps:
            if step == "curves" and recipe == "paper":
                continue  # Each of its points would be an exact sum anew; its layers are those of the compact recipe's.
            try:
                kept = self._kept(recipe, step, self.run.plan.amounts(step), partial(self._step, step, recipe, bundle))
            except SecondlookError as error:
                self.run.report.failed.append(f"{self.subject.name}, {recipe}, {step}: {error}")
                complete = False
            else:
                self.run.report.measured.append(self._measured(recipe, step, kept))
            self.run.write()
        opened.clear()
        if complete and recipe != AS_IS and not self.run.keep_bundles:
            shutil.rmtree(self._root(recipe), ignore_errors=True)

    def _root(self, recipe: str) -> Path:
        return self.run.out / "bundles" / f"{self.subject.name}-{recipe}"

    def _bundle(self, recipe: str) -> tuple[Path, str]:
        """Root and generation of the cache under a recipe, built where it is not there."""
        if recipe == AS_IS:
            assert self.subject.bundle is not None
            return self.subject.bundle
        root, plan, published = self._root(recipe), self.run.plan, self.subject.published
        inputs = self._inputs(recipe, "index", {})
        marker = root / "inputs"
        if marker.is_file() and marker.read_text() == inputs:
            return root, active_generation(root)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        parameters = None
        if recipe == "paper" and published is not None and plan.cached is None:
            # Fitted to a whole cache; with a part of it another mixture is best.
            parameters = Parameters(published.theta, published.lam, None)
        generation = index(
            thinned(self.train, plan.cached),
            root,
            # What was published comes with mirrored copies made after normalising.
            FromCifar(self.subject.network, recipe, mirror_normalized=published is not None),
            # Keys as they are, for the paper's own figures.
            IndexOptions("Flat" if recipe == "paper" else "auto", plan.mirror, parameters, thumbnails=False),
            self._reporting(recipe, "index"),
        )
        activate(root, generation)
        _write(marker, inputs)
        return root, generation

    def _reporting(self, recipe: str, step: str) -> Progress:
        return lambda stage, done, total: self.run.progress(
            f"{self.subject.name}, {recipe}, {step}{'' if stage == step else f': {stage}'}", done, total
        )

    def _inputs(self, recipe: str, step: str, amounts: dict[str, Any]) -> str:
        """A hash of what a step's result depends on."""
        plan = self.run.plan
        generation = None
        if recipe == AS_IS and self.subject.bundle:
            generation = self.subject.bundle[1]
        depends = {
            **self.hashes,
            "recipe": recipe,
            "generation": generation,
            "cached": [plan.cached, plan.mirror],
            "published": asdict(self.subject.published) if self.subject.published else None,
            "step": step,
            "amounts": amounts,
            "version": version("secondlook"),
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def _kept(
        self, recipe: str, step: str, amounts: dict[str, Any], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A step's saved result, or what work gives, saved."""
        path = self.run.out / "steps" / self.subject.name / f"{recipe}-{step}.json"
        inputs = self._inputs(recipe, step, amounts)
        try:
            saved: dict[str, Any] = json.loads(path.read_text())
            if saved["inputs"] == inputs:
                self._reporting(recipe, step)("taken up", 1, 1)
                return saved
        except (OSError, ValueError, KeyError):
            pass
        started = time.perf_counter()
        result = {"inputs": inputs, **work()}
        result.setdefault("seconds", round(time.perf_counter() - started, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, allow_nan=False)
        _write(path, text)
        # As it will be read another time.
        fresh: dict[str, Any] = json.loads(text)
        return fresh

    def _describe(self, bundle: Bundle, started: float) -> dict[str, Any]:
        m = bundle.manifest
        size = m.files["keys.faiss"].size
        return {
            "result": {
                "generation": m.generation,
                "dataset": f"{m.dataset.name}, {m.dataset.images:,} images{' and mirrored' * m.dataset.mirrored}",
                "entries": m.store.count,
                "dim": m.store.dim,
                "store": m.store.factory,
                "keys_mb": round(size / 1e6, 1),
                "theta": m.theta,
                "lam": m.lam,
                "k": m.k,
                "fitted": m.fit is not None,
                "network_sha256": self.hashes["network"],
                "keys_sha256": m.files["keys.faiss"].sha256,
                "dataset_sha256": m.dataset.sha256,
            },
        }

    def _cache_theta(self, recipe: str) -> float | None:
        published, whole = self.subject.published, self.run.plan.cached is None
        return published.cache_theta if published is not None and recipe == "paper" and whole else None

    def _step(self, step: str, recipe: str, bundle: Callable[[], Bundle]) -> dict[str, Any]:
        images, alone = (self.train, self.test), self._cache_theta(recipe)
        study = measure(step, bundle(), images, self.run.plan, alone, self.made, self._reporting(recipe, step))
        whose = f"{self.subject.name}-{recipe}-"
        return {
            "result": study.as_dict(),
            "tables": [asdict(table) for table in study.tables()],
            "figures": [
                {"name": f.name, "title": f.title, "alt": f.alt, "width": f.size[0], "svg": f.svg(whose)}
                for f in study.figures()
            ],
        }

    def _measured(self, recipe: str, step: str, kept: dict[str, Any]) -> Measured:
        root = self.subject.bundle[0] if recipe == AS_IS and self.subject.bundle else self._root(recipe)
        whole = self.run.plan.asked is None and self.run.plan.cached is None and recipe == "paper"
        return Measured(
            subject=self.subject.name,
            recipe=recipe,
            step=step,
            seconds=kept["seconds"],
            command=command(step, self.subject.dataset, root, self.run.plan, self._cache_theta(recipe)),
            result=kept["result"],
            tables=[
                Table(t["title"], tuple(t["columns"]), tuple(map(tuple, t["rows"])), t["note"], t.get("names", 1))
                for t in kept["tables"]
            ],
            figures=[Drawn(**figure) for figure in kept["figures"]],
            claims=claims_of(step, kept["result"], self.subject.published if whole else None),
        )


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)
