"""What was taught, put into Milvus for the servers that cannot read the root's journal.

The journal stays the truth: one server, the primary, has it. It writes how the journal changes a generation (an
overlay) into a collection beside the generation's own, and its replicas make the same overlay of that. Every row has
the number of the change that it came with; the head's is written last, so that what it names is all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from model.cache import Floats
from model.labels import MAX_LABEL
from model.milvus import WRITE_SECONDS, Milvus
from model.milvus_store import ID, KEY, TAUGHT, collection_of, is_loaded
from model.overlay import Overlay, number_of, taught_id

CHANGE, STATE, LABEL = "change", "state", "label"
HEAD = -(1 << 40)
"""The id of the row whose change is the newest that is wholly there."""
AT_ONCE = 1000
"""Rows in one call."""


class State(IntEnum):
    """What a row says of its entry."""

    AS_BEFORE = 0
    """The overlay says nothing of it any more."""
    LABELLED = 1
    REMOVED = 2


class _Row(NamedTuple):
    id: int
    state: State
    label: str = ""
    key: Floats | None = None


class Mirror:
    """A generation's overlay in Milvus."""

    def __init__(self, milvus: Milvus, generation: str, dim: int) -> None:
        self._milvus, self._dim = milvus, dim
        self._name = collection_of(milvus.settings.cache, generation) + TAUGHT

    def publish(self, overlay: Overlay, before: Overlay) -> None:
        """Write what differs from an overlay that is there already.

        Raises:
            StoreAwayError, StoreError: the server does not answer, or refuses; the next call writes it again.
        """
        if not self._milvus.call("has_collection", self._name):
            self._milvus.run(self._create)
        now, then = _rows(overlay, before), _rows(before, overlay)
        changed = [row for row_id, row in now.items() if not _same(row, then.get(row_id))]
        changed += [_Row(row_id, State.AS_BEFORE) for row_id in then.keys() - now.keys()]
        for start in range(0, len(changed), AT_ONCE):
            self._upsert(changed[start : start + AT_ONCE], overlay.change)
        self._upsert([_Row(HEAD, State.LABELLED)], overlay.change)

    def caught_up(self, overlay: Overlay) -> Overlay:
        """The overlay with all that was published since; itself where that is nothing.

        Raises:
            StoreAwayError, StoreError: the server does not answer, or refuses.
        """
        if not is_loaded(self._milvus, self._name):  # or not yet: the primary makes it at this moment
            return overlay
        head = self._query(f"{ID} == {HEAD}", [CHANGE])
        if not head or head[0][CHANGE] == overlay.change:
            return overlay
        newest = int(head[0][CHANGE])
        if newest < overlay.change:  # the primary's journal was put back from a copy
            overlay = Overlay(overlay.bundle)
        labels = dict(enumerate(overlay.labels))
        added, decided = dict(overlay.added), dict(overlay.decided)
        copies: dict[int, dict[int, tuple[str, Floats]]] = {}
        # Rows that are newer than the head come once more with the next one: each says what is, and not what changed.
        for row in self._since(overlay.change):
            row_id, state, label = int(row[ID]), State(row[STATE]), str(row[LABEL])
            number = number_of(row_id)
            if row_id < 0 and state is State.LABELLED:
                labels[-1 - row_id] = label
            elif row_id < 0:
                labels.pop(-1 - row_id, None)
            elif number is not None:
                copies.setdefault(number, {})
                if state is State.LABELLED:
                    copies[number][row_id - taught_id(number)] = (label, np.array(row[KEY], np.float32))
            elif state is State.AS_BEFORE:
                decided.pop(row_id, None)
            else:
                decided[row_id] = label if state is State.LABELLED else None
        for number, of_number in copies.items():
            added.pop(number, None)
            if of_number:
                kept = [of_number[copy] for copy in sorted(of_number)]
                added[number] = (kept[0][0], np.stack([key for _, key in kept]))
        return replace(
            overlay,
            change=newest,
            labels=tuple(labels[place] for place in sorted(labels)),
            added=dict(sorted(added.items())),
            decided=decided,
        )

    def _since(self, change: int) -> Iterator[dict[str, Any]]:
        """Rows of the changes after one."""
        ids = sorted(int(row[ID]) for row in self._query(f"{CHANGE} > {change}", [ID]) if row[ID] > HEAD)
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            yield from self._milvus.call(
                "query",
                self._name,
                ids=some,
                output_fields=[ID, STATE, LABEL, KEY],
                consistency_level="Strong",
                timeout=WRITE_SECONDS,
            )

    def _query(self, wanted: str, fields: list[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._milvus.call(
            "query",
            self._name,
            filter=wanted,
            output_fields=fields,
            consistency_level="Strong",
            timeout=WRITE_SECONDS,
        )
        return found

    def _upsert(self, rows: list[_Row], change: int) -> None:
        nothing = np.zeros(self._dim, np.float32)
        written = [
            {
                ID: row.id,
                CHANGE: change,
                STATE: int(row.state),
                LABEL: row.label,
                KEY: nothing if row.key is None else row.key,
            }
            for row in rows
        ]
        self._milvus.call("upsert", self._name, written, timeout=WRITE_SECONDS)

    def _create(self, client: Any) -> None:
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ID, DataType.INT64, is_primary=True)
        schema.add_field(CHANGE, DataType.INT64)
        schema.add_field(STATE, DataType.INT8)
        schema.add_field(LABEL, DataType.VARCHAR, max_length=4 * MAX_LABEL)
        schema.add_field(KEY, DataType.FLOAT_VECTOR, dim=self._dim)
        # A collection can be read only once it has an index and is loaded.
        parameters = client.prepare_index_params()
        parameters.add_index(KEY, index_type="FLAT", metric_type="IP")
        client.create_collection(
            self._name, schema=schema, index_params=parameters, consistency_level="Strong", timeout=WRITE_SECONDS
        )


def _rows(overlay: Overlay, other: Overlay) -> dict[int, _Row]:
    """An overlay's rows by id, without those of images that another has too: most, of two that follow each other."""
    rows = [_Row(-1 - place, State.LABELLED, label) for place, label in enumerate(overlay.labels)]
    for number, taught in overlay.added.items():
        if taught is other.added.get(number):
            continue
        label, keys = taught
        rows += [
            _Row(taught_id(number, mirrored=copy > 0), State.LABELLED, label, key) for copy, key in enumerate(keys)
        ]
    for position, now in overlay.decided.items():
        rows.append(_Row(position, State.REMOVED if now is None else State.LABELLED, now or ""))
    return {row.id: row for row in rows}


def _same(row: _Row, other: _Row | None) -> bool:
    return other is not None and row[:3] == other[:3] and np.array_equal(row.key, other.key)  # type: ignore[arg-type]
