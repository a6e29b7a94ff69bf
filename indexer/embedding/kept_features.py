"""What was embedded, kept by content and encoder, so that nothing is embedded twice.

::

    ROOT/features/<encoder>/<SHA-256 of the file>.npz    some images: keys and what else an index needs of them

An image is known by the SHA-256 of its file's bytes (of its pixels, where it lies in no file), the encoder by what its
keys depend on. Files are whole or absent (``chunks``) and are written as the work goes on, so a run that was killed
goes on where it was. Files of two processes do not meet, as each is called by its own hash; one that was damaged since
does not have that hash any more, is removed, and its images are embedded again. All of it may be removed at any time.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from secondlook.indexer.datasets.copies import Looks
from secondlook.indexer.datasets.left_out import Reason
from secondlook.indexer.embedding.chunks import DAMAGED, Arrays, mapped, packed, write_whole
from secondlook.indexer.embedding.encoders import PreparedEncoder
from secondlook.indexer.embedding.feature_files import (
    DIGEST,
    ENDING,
    FeatureFile,
    FeatureFiles,
    Found,
    SheetInFile,
    Table,
    check,
)
from secondlook.indexer.embedding.sheets import Sheets
from secondlook.model.bundles.bundle import Bundle, OpenEncoder
from secondlook.model.bundles.default import default_root
from secondlook.model.bundles.files import ENCODER, FEATURES, encoder_id, features_of
from secondlook.model.bundles.locks import Lease
from secondlook.model.cache import Floats
from secondlook.model.networks.engines import Encoding

log = logging.getLogger(__name__)

CHUNK = 1024
"""Images in one file at most."""
FIRST_SECONDS, SECONDS = 1.0, 8.0
"""And of so much work, first and later: what a run that is killed loses at most."""
WIDEST = 4096
"""Numbers in a key that is kept: the paper's keys of 12,288 would be 4.9 GB for what a small network embeds quickly."""
MOST_BYTES = 16 << 30
"""Kept of one encoder."""
SPARED_BYTES = 512 << 20
"""Left free on the disk: bundles are written there."""
FEW_TABLES = 16
"""Tables of what was kept, one a file, after which they become one."""


class Left(NamedTuple):
    """Why an image is left out, whatever it is called."""

    reason: Reason
    why: str


@dataclass
class Counts:
    """Images that an index, or what else embeds, has come by so far."""

    embedded: int = 0
    known: int = 0
    """Of earlier runs, or met before in this one."""
    ahead: set[bytes] = field(default_factory=set)
    """Digests of images that this run embedded before it came by them: to measure how they are best shown."""

    def add(self, digests: Sequence[bytes | None], new: Sequence[bool]) -> None:
        """Count images, and whether each was embedded only now."""
        for digest, is_new in zip(digests, new, strict=True):
            if is_new or (digest is not None and digest in self.ahead):
                self.embedded += 1
            else:
                self.known += 1
            self.ahead.discard(digest or b"")

    def said(self) -> str:
        """A sentence."""
        new = f"{self.embedded:,} image{'s' if self.embedded != 1 else ''}"
        return f"embedded {new}, {self.known:,} {'was' if self.known == 1 else 'were'} known"


def keeping(root: Path, encoder: PreparedEncoder, counts: Counts | None = None) -> KeptFeatures:
    """What is kept in a root of an encoder that is to make a bundle there."""
    folder = None if encoder.features is None else root / FEATURES / encoder.features
    return KeptFeatures(folder, encoder.engine.dim, encoder.logits_from, counts=counts)


def keeping_of(root: Path, bundle: Bundle | OpenEncoder, counts: Counts | None = None) -> KeptFeatures:
    """What is kept in a root of a bundle's encoder; nothing in that of the default bundle, which is the package's."""
    if root == default_root():
        return KeptFeatures(None, bundle.engine.dim, counts=counts)
    manifest = bundle.manifest
    features, of_keys = features_of(manifest), None
    if manifest.head == "linear" and features is not None:
        if find_spec("onnx") is None:  # the head is in a graph that nothing else reads
            features = None
        else:
            of_keys = _linear(bundle.path / ENCODER)
    folder = None if features is None else root / FEATURES / features
    head = encoder_id(manifest) if manifest.head == "network" else ""
    return KeptFeatures(folder, bundle.engine.dim, head, of_keys, counts)


def _linear(path: Path) -> Callable[[Floats], Floats]:
    """Gives the logits of keys, by the linear head of an encoder."""
    from secondlook.model.networks.linear_graph import linear_head_of

    weights, bias = linear_head_of(path)
    return lambda keys: keys @ weights.T + bias


class KeptFeatures:
    """The features that are kept of one encoder; used as a context, at whose end the last ones are written.

    ``find`` and ``left`` may be called from several threads, all else from one.

    ``folder`` is the encoder's; None = nothing is kept. ``head`` says whose logits are kept beside the keys: keys serve
    encoders with other heads, and with none. ``of_keys`` gives the logits (n,C) of keys (n,D), where they are made of
    these alone, and then none are kept.
    """

    def __init__(
        self,
        folder: Path | None,
        dim: int,
        head: str = "",
        of_keys: Callable[[Floats], Floats] | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._dim, self._head, self._of_keys = dim, head, of_keys
        self.counts = counts or Counts()
        self.is_kept = folder is not None and dim <= WIDEST
        self._folder = folder or Path()
        self._tables: list[Table] = []
        self._left: dict[bytes, Left] = {}
        self._new_left: dict[bytes, Left] = {}
        self._pending: dict[tuple[bytes, bool], Found] = {}
        self._parts: list[_Part] = []
        self._rows, self._since, self._interval = 0, 0.0, FIRST_SECONDS
        self._files = FeatureFiles(self._folder)
        self._lock = threading.Lock()
        self._bytes = 0
        self._ended = not self.is_kept
        self._lease: Lease | None = None
        if self.is_kept:
            self._open()

    @property
    def is_full(self) -> bool:
        """Whether nothing more is kept: for want of room, or as it cannot be written."""
        return self._ended

    @property
    def count(self) -> int:
        """Images and mirrored copies that are on the disk."""
        return sum(len(table.row) for table in self._tables)

    def find(self, digest: bytes, *, mirrored: bool, picture: bool, keys_alone: bool = False) -> Found | None:
        """What is known of an image, if possible with a ``picture``; with ``keys_alone``, whosever logits those are."""
        if (found := self._pending.get((digest, mirrored))) is not None:
            return found
        best: tuple[str, int] | None = None
        for table in reversed(self._tables):
            for row in table.rows(digest, mirrored=mirrored):
                file = table.files[table.file[row]]
                if (self._head and file.head != self._head and not keys_alone) or not self._files.is_whole(file.name):
                    continue
                if table.pictured[row] or not picture:
                    return self._files.found(file.name, int(table.row[row]))
                best = (file.name, int(table.row[row]))
        return None if best is None else self._files.found(*best)

    def left(self, digest: bytes) -> Left | None:
        """Why an image gives no key; None where that is not known."""
        return self._left.get(digest)

    def leave(self, digest: bytes, reason: Reason, why: str) -> None:
        """Remember that an image gives no key."""
        with self._lock:
            self._left[digest] = self._new_left[digest] = Left(reason, why)

    def logits(self, found: Sequence[Found], keys: Floats, classes: int) -> Floats:
        """(n,C) of images that were found, with their keys (n,D)."""
        if self._of_keys is not None:
            return self._of_keys(keys)
        return np.stack([one.logits for one in found]) if classes else np.empty((len(found), 0), np.float32)

    def take(self, sheets: Sheets, sheet: SheetInFile | int) -> int:
        """Have a contact sheet of what was found among others; its number there."""
        return sheet if isinstance(sheet, int) else sheets.take(sheet.file, sheet.number, sheet.read)

    def keep(
        self,
        digests: Sequence[bytes],
        encoding: Encoding,
        looks: Looks,
        sheet: int | None,
        sheets: Sheets | None,
        *,
        mirrored: bool,
    ) -> None:
        """Keep what was made of images, whose pictures are those of a sheet of this run, in order."""
        if self._ended or not digests:
            return
        if not self._parts and not self._new_left:
            self._since = time.monotonic()
        part = _Part(list(digests), encoding, looks, sheet, sheets, mirrored)
        self._parts.append(part)
        for row, digest in enumerate(digests):
            look = (looks.digests[row], looks.luma[row], looks.colours[row])
            self._pending[digest, mirrored] = Found(encoding.keys[row], encoding.logits[row], look, sheet, row)
        self._rows += len(digests)
        if self._rows >= CHUNK or time.monotonic() - self._since > self._interval:
            self._interval = min(2 * self._interval, SECONDS)
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on the disk."""
        with self._lock:
            left, self._new_left = self._new_left, {}
        parts, self._parts, self._rows = self._parts, [], 0
        if not (parts or left) or self._ended:
            return
        arrays = self._packed(parts, left)
        try:
            content = packed(arrays)
            name = f"{hashlib.sha256(content).hexdigest()}{ENDING}"
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lease = self._lease or Lease(self._folder)
            if self._bytes + len(content) > MOST_BYTES:
                self._end(f"{self._folder.name[:8]} has {MOST_BYTES >> 30} GiB of them already")
            elif shutil.disk_usage(self._folder).free < SPARED_BYTES + len(content):
                self._end(f"less than {SPARED_BYTES >> 20} MiB are free on the disk")
            else:
                write_whole(self._folder / name, content)
                self._bytes += len(content)
                self._files.trust(name)
                self._tables.append(Table.of(FeatureFile(name, self._head), arrays))
                if len(self._tables) > FEW_TABLES:
                    self._tables = [Table.joined(self._tables)]
        except OSError as error:
            self._end(f"{self._folder.parent} cannot be written: {error.strerror}")
        self._pending = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the last ones, and let another process remove them all."""
        self.flush()
        self._lease = None

    def _end(self, why: str) -> None:
        self._ended = True
        log.warning("what is embedded from here on is not kept for later runs: %s", why)

    def _open(self) -> None:
        if not self._folder.is_dir():
            return
        self._lease = Lease(self._folder)
        for path in sorted(self._folder.glob(f"*{ENDING}")):
            try:
                arrays = mapped(path)
                check(arrays, self._dim)
                left = {
                    digest.tobytes(): Left(Reason(str(reason)), str(why))
                    for digest, reason, why in zip(*(arrays[n] for n in ("left", "reasons", "whys")), strict=True)
                }
                table = Table.of(FeatureFile(path.name, str(arrays["head"])), arrays)
                # Few they are, and with them all that says why is gone through: so the hash is asked first.
                if left and not self._files.is_whole(path.name):
                    continue
            except FileNotFoundError:
                continue  # removed meanwhile
            except DAMAGED:
                self._files.drop(path.name)
                continue
            self._tables.append(table)
            self._left |= left
            self._bytes += path.stat().st_size
        if len(self._tables) > 1:
            self._tables = [Table.joined(self._tables)]

    def _packed(self, parts: Sequence[_Part], left: dict[bytes, Left]) -> Arrays:
        empty = Encoding(np.empty((0, 0), np.float32), np.empty((0, self._dim), np.float32))
        encodings = [part.encoding for part in parts] or [empty]
        logits = np.concatenate([encoding.logits for encoding in encodings])
        sheets = [part for part in parts if part.sheet is not None]
        jpegs = [part.sheets.made(part.sheet) for part in sheets if part.sheets is not None and part.sheet is not None]
        numbers = iter(range(len(sheets)))
        of = [np.full(len(part.digests), -1 if part.sheet is None else next(numbers)) for part in parts]
        looks = Looks.joined([part.looks for part in parts])
        return {
            "digests": _bytes_of([digest for part in parts for digest in part.digests]),
            "mirrored": np.repeat([part.mirrored for part in parts], [len(part.digests) for part in parts]).astype(
                bool
            ),
            "keys": np.concatenate([encoding.keys for encoding in encodings]).astype(np.float32),
            "logits": (logits if self._head else logits[:, :0]).astype(np.float32),
            "pixels": looks.digests,
            "luma": looks.luma,
            "colours": looks.colours,
            "sheet": np.concatenate([np.empty(0, np.int64), *of]).astype(np.int64),
            "place": np.concatenate([np.empty(0, np.int64), *(np.arange(len(part.digests)) for part in parts)]),
            "sheets": np.frombuffer(b"".join(jpegs), np.uint8),
            "sheet_sizes": np.array([len(jpeg) for jpeg in jpegs], np.int64),
            "sheet_pictures": np.array([len(part.digests) for part in sheets], np.int64),
            "head": np.array(self._head),
            "left": _bytes_of(list(left)),
            "reasons": np.array([one.reason.value for one in left.values()], np.str_),
            "whys": np.array([one.why for one in left.values()], np.str_),
        }


class _Part(NamedTuple):
    """What was made of some images, not yet on the disk."""

    digests: list[bytes]
    encoding: Encoding
    looks: Looks
    sheet: int | None
    sheets: Sheets | None
    mirrored: bool


def _bytes_of(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)
