"""Copies an overlay into Milvus, for servers that cannot read the root's journal.

The journal stays the truth: one server, the primary, has it. It writes how the journal changes a generation (an
overlay) into a collection beside the generation's own, and its replicas make the same overlay of that. Every row has
the number of the change that it came with; the head's is written last, so that what it names is all there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from secondlook.model.added.overlay import Overlay
from secondlook.model.cache import Floats
from secondlook.model.labels import MAX_LABEL
from secondlook.model.stores.added_keys import added_id, number_of
from secondlook.model.stores.milvus_server import WRITE_SECONDS, Milvus
from secondlook.model.stores.milvus_store import ADDED_SUFFIX, ID, KEY, collection_of, is_loaded

CHANGE, STATE, LABEL = "change", "state", "label"
HEAD = -(1 << 40)
"""The id of the row whose change is the newest that is wholly there."""
AT_ONCE = 1000
"""Rows in one call."""


class State(IntEnum):
    """What a row says of its entry."""

    AS_BEFORE = 0
    """The overlay no longer changes it."""
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
        self._name = collection_of(milvus.settings.cache, generation) + ADDED_SUFFIX

    def publish(self, overlay: Overlay, before: Overlay) -> None:
        """Write what differs from an overlay that is there already.

        Raises:
            StoreUnreachableError, StoreError: the server does not answer, or refuses; the next call writes it again.
        """
        if not self._milvus.call("has_collection", self._name):
            self._milvus.run(self._create)
        changed = list(_differing(overlay, before))
        for start in range(0, len(changed), AT_ONCE):
            self._upsert(changed[start : start + AT_ONCE], overlay.change)
        self._upsert([_Row(HEAD, State.LABELLED, overlay.token.hex())], overlay.change)

    def replayed(self, overlay: Overlay) -> Overlay:
        """The overlay with the changes published since; itself where there are none.

        Raises:
            StoreUnreachableError, StoreError: the server does not answer, or refuses.
        """
        if not is_loaded(self._milvus, self._name):  # or not yet: the primary makes it at this moment
            return overlay
        head = self._query(f"{ID} == {HEAD}", [CHANGE, LABEL])
        if not head:
            return overlay
        newest, token = int(head[0][CHANGE]), bytes.fromhex(str(head[0][LABEL]))
        if (newest, token) == (overlay.change, overlay.token):
            return overlay
        if newest <= overlay.change:  # the primary's journal was put back from a copy
            overlay = Overlay(overlay.bundle)
        labels: dict[int, str | None] = {}
        images: dict[int, tuple[str, dict[bool, Floats]] | None] = {}
        corrections: dict[int, str | None] = {}
        own, values = overlay.bundle.manifest.classes, overlay.bundle.store.values
        # Rows that are newer than the head come once more with the next one: each says what is, and not what changed.
        for row in self._since(overlay.change):
            row_id, state, label = int(row[ID]), State(row[STATE]), str(row[LABEL])
            number = number_of(row_id)
            if row_id < 0:
                labels[-1 - row_id] = label if state is State.LABELLED else None
            elif number is None:
                as_before = own[values[row_id]] if state is State.AS_BEFORE else None
                corrections[row_id] = label if state is State.LABELLED else as_before
            elif state is State.LABELLED:
                copies = (images.get(number) or (label, {}))[1]
                copies[row_id != added_id(number)] = np.array(row[KEY], np.float32)
                images[number] = label, copies
            else:
                images.setdefault(number, None)
        return overlay.changed(newest, token, labels=labels, images=images, corrections=corrections)

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


def _differing(overlay: Overlay, before: Overlay) -> Iterator[_Row]:
    """Rows in which an overlay differs from one before it."""
    for place in sorted({*overlay.labels, *before.labels}):
        label = overlay.labels.get(place)
        if label is None:
            yield _Row(-1 - place, State.AS_BEFORE)
        elif label != before.labels.get(place):
            yield _Row(-1 - place, State.LABELLED, label)
    (ids, codes, keys), (old_ids, old_codes, old_keys) = overlay.added.now(), before.added.now()
    yield from (_Row(int(gone), State.AS_BEFORE) for gone in np.setdiff1d(old_ids, ids, assume_unique=True))
    common, at, old_at = np.intersect1d(ids, old_ids, assume_unique=True, return_indices=True)
    is_same = np.zeros(len(ids), bool)
    is_same[at] = [overlay.label(a) == before.label(b) for a, b in zip(codes[at], old_codes[old_at], strict=True)]
    is_same[at] &= (keys[at] == old_keys[old_at]).all(axis=1) if len(common) else True
    for row in np.flatnonzero(~is_same).tolist():
        yield _Row(int(ids[row]), State.LABELLED, overlay.label(codes[row]) or "", keys[row])
    for position in np.union1d(overlay.corrections.positions, before.corrections.positions).tolist():
        now, then = (each.corrections.get(position) for each in (overlay, before))
        if now is None:
            yield _Row(position, State.AS_BEFORE)
        elif then is None or overlay.label(now) != before.label(then):
            label = overlay.label(now)
            yield _Row(position, State.REMOVED if label is None else State.LABELLED, label or "")
