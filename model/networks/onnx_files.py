"""Which other files an ONNX graph takes its weights from, read without onnx.

ONNX Runtime follows such references wherever a tensor may stand, to any file of the graph's folder.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_INSIDE = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Reference"},
}
"""The fields of onnx.proto's messages that lead to tensors, by number."""
_KEY, _VALUE = 1, 2
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def referenced(path: Path) -> set[str]:
    """The files that a graph names, as it names them; nothing is looked for.

    Raises:
        ValueError: it is no ONNX graph.
        OSError: it cannot be read.
    """
    found: set[str] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        waiting = [("Model", 0, len(data))]
        while waiting:
            message, start, end = waiting.pop()
            entry: dict[int, bytes] = {}
            for number, first, last in _fields(data, start, end):
                if message == "Reference":
                    entry[number] = data[first:last]
                elif (inner := _INSIDE[message].get(number)) is not None:
                    waiting.append((inner, first, last))
            if entry.get(_KEY) == b"location":
                found.add(entry.get(_VALUE, b"").decode(errors="replace"))
    return found


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Of a message, the number, start and end of each field that holds bytes."""
    while start < end:
        tag, start = _varint(data, start, end)
        kind = tag & 7
        if kind == _VARINT:
            _, start = _varint(data, start, end)
            continue
        if kind == _BYTES:
            length, start = _varint(data, start, end)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError("a field of no known kind")
        if start + length > end:
            raise ValueError("a field ends behind its message")
        if kind == _BYTES:
            yield tag >> 3, start, start + length
        start += length


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """A number, and where what follows it starts."""
    value = 0
    for position in range(start, min(end, start + 10)):
        value |= (data[position] & 0x7F) << 7 * (position - start)
        if data[position] < 0x80:
            return value, position + 1
    raise ValueError("a number that does not end")
