"""Several workers on one root, whichever is asked, against a plain dictionary of what was acknowledged."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from secondlook.model.answering.follower import JournalFollower
from secondlook.model.answering.predictor import Predictor
from secondlook.model.bundles.bundle import Bundle, open_bundle
from secondlook.model.bundles.files import encoder_id
from secondlook.model.errors import LabelTakenError
from secondlook.model.journal import JOURNAL, Journal, NewImage
from secondlook.model.labels import fold
from secondlook.model.stores.added_keys import added_id

WORKERS = 3
LABELS = ["red", "Red", "green", "ant", "Ant", "bee", "cow"]

workers = st.integers(0, WORKERS - 1)
places = st.integers(0, 10**6)


class Worker:
    """What one process has of its own."""

    def __init__(self, root: Path, bundle: Bundle) -> None:
        self.journal, self.predictor = Journal(root), Predictor(bundle)
        self._follower = JournalFollower(self.journal)

    def asked(self) -> Predictor:
        """What answers a call that comes now."""
        self.predictor = self._follower.renew(self.predictor, False)
        assert self._follower.is_current(self.predictor.overlay)
        return self.predictor


class Hammered(RuleBasedStateMachine):
    """The same few images, taught, relabelled and removed through all of them, and the journal put back from copies."""

    bundle: Bundle
    folder: Path
    runs = 0

    @initialize()
    def start(self) -> None:
        type(self).runs += 1
        self.root = self.folder / str(self.runs)
        self.root.mkdir()
        self.workers = [Worker(self.root, self.bundle) for _ in range(WORKERS)]
        manifest = self.bundle.manifest
        self.own = {i: manifest.classes[value] for i, value in enumerate(self.bundle.store.values[:6].tolist())}
        self.now: dict[int, str] = dict(self.own)
        self.copies: list[tuple[Path, dict[int, str], set[int]]] = []
        self.decided: set[int] = set()
        self.random = np.random.default_rng(self.runs)

    def _taken(self, label: str) -> bool:
        classes = self.bundle.manifest.classes
        used = {self.now[i] for i in self.now if i not in self.own or i in self.decided}
        return label not in classes and any(
            fold(other) == fold(label) and other != label for other in {*classes, *used}
        )

    def _key(self) -> Any:
        key = self.random.standard_normal(self.bundle.store.dim).astype(np.float32)
        return key / np.linalg.norm(key)

    @rule(worker=workers, label=st.sampled_from(LABELS), count=st.integers(1, 3))
    def teach(self, worker: int, label: str, count: int) -> None:
        encoder, manifest = encoder_id(self.bundle.manifest), self.bundle.manifest
        images = [NewImage("a.png", b"bytes", {(encoder, False): self._key()}) for _ in range(count)]
        numbers: list[int] = []
        try:
            self.workers[worker].journal.add(
                label, images, "k", known=manifest.classes, answer=lambda kept: str(numbers.extend(kept.numbers))
            )
        except LabelTakenError:
            assert self._taken(label)
            return
        assert not self._taken(label)
        assert len(numbers) == count
        self.now |= {added_id(number): label for number in numbers}

    @rule(worker=workers, place=places, label=st.one_of(st.none(), st.sampled_from(LABELS)))
    def decide(self, worker: int, place: int, label: str | None) -> None:
        known = sorted({*self.own, *self.now})
        entry, journal, manifest = known[place % len(known)], self.workers[worker].journal, self.bundle.manifest
        try:
            if entry in self.own:
                source = self.bundle.entries.get(entry).source  # type: ignore[union-attr]
                name, own = manifest.dataset.name, self.own[entry]
                was = journal.correct(name, source, label, "k", own=own, known=manifest.classes)
            else:
                was = journal.correct_image((entry - added_id(0)) // 2, label, "k", manifest.classes)
        except LabelTakenError:
            assert label is not None
            assert self._taken(label)
            return
        assert was == self.now.get(entry)
        if was is None:
            return
        assert label is None or not self._taken(label)
        if label != was:
            self.decided.add(entry)
        if label is None:
            del self.now[entry]
        else:
            self.now[entry] = label

    @rule(worker=workers)
    def restart(self, worker: int) -> None:
        self.workers[worker] = Worker(self.root, self.bundle)

    @rule(place=places)
    def copy(self, place: int) -> None:
        if (self.root / JOURNAL).exists():
            path = self.root / f"copy{len(self.copies)}"
            shutil.copy(self.root / JOURNAL, path)
            self.copies.append((path, dict(self.now), set(self.decided)))

    @rule(place=places, in_place=st.booleans())
    def put_back(self, place: int, in_place: bool) -> None:
        if not self.copies:
            return
        path, now, decided = self.copies[place % len(self.copies)]
        if in_place:
            shutil.copy(path, self.root / JOURNAL)
        else:
            shutil.copy(path, self.root / "new")
            (self.root / "new").replace(self.root / JOURNAL)
        self.now, self.decided = dict(now), set(decided)

    @rule(worker=workers)
    def ask(self, worker: int) -> None:
        """One worker is behind the others for a while, as long as nobody asks it."""
        self._check(self.workers[worker].asked())

    def _check(self, predictor: Predictor) -> None:
        overlay = predictor.overlay
        found = {entry: overlay.entry(entry) for entry in {*self.own, *self.now, added_id(10**6)}}
        labels = {i: predictor.classes[entry.value] for i, entry in found.items() if entry is not None}
        assert labels == self.now
        others = Counter(self.bundle.manifest.classes[value] for value in self.bundle.store.values[6:].tolist())
        wanted = Counter(self.now.values()) + others
        counts = dict(zip(predictor.classes, overlay.counts.tolist(), strict=True))
        assert {label: count for label, count in counts.items() if count} == dict(wanted)
        listed = dict(zip(overlay.ids.tolist(), predictor.store.values.tolist(), strict=True))
        assert {i: predictor.classes[value] for i, value in listed.items() if i in self.now} == self.now
        assert len(listed) == sum(wanted.values())
        assert overlay.added.images == len(self.now.keys() - self.own.keys())

    def teardown(self) -> None:
        if hasattr(self, "workers"):
            for worker in self.workers:
                self._check(worker.asked())


def test_whichever_worker_is_asked_knows_all_that_any_acknowledged(tiny_bundle: Path, tmp_path: Path) -> None:
    class Machine(Hammered):
        bundle = open_bundle(tiny_bundle, threads=1)
        folder = tmp_path

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
