"""Tensors of a file that ``torch.save`` wrote in its old format, read without PyTorch and without unpickling.

Such a file is five pickles and the numbers behind them. The pickles are followed step by step; what is not a step to
tensors, or calls anything but what makes one, is refused before anything is done.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

PICKLES = 5
"""Two that say what it is, one on the machine that wrote it, then the tensors' places, then their keys."""
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
}  # fmt: skip
_DICTIONARY, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_VALUES = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS = {
    *("PROTO", "MARK", "TUPLE", "EMPTY_DICT", "EMPTY_LIST", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT"),
    *("LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID", "REDUCE", "BUILD", "STOP"),
    *(_VALUES | _CONSTANTS.keys() | _TUPLES.keys()),
}
_NAMES = {operation.code: operation.name for operation in pickletools.opcodes}
_MARK = object()


class _Callable(NamedTuple):
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    numbers: int


class _Place(NamedTuple):
    """Where a tensor's numbers are."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    """From one number of a dimension to its next."""


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors by name, as ``torch.load`` gives a dictionary of them; they share one copy of the file's bytes.

    Raises:
        ValueError: it is no such file, it is cut off, or it holds anything but tensors with numbers in them.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    magic, version, machine, places, keys = (_followed(stream) for _ in range(PICKLES))
    if magic != _MAGIC or version != _VERSION:
        raise _none()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("its numbers are big endian")
    if not isinstance(places, dict) or not places or not all(isinstance(place, _Place) for place in places.values()):
        raise ValueError("it holds something else than tensors by name")
    storages = dict(_storages(content, stream.tell(), {place.storage for place in places.values()}, keys))
    return {name: _tensor(place, storages[place.storage.key]) for name, place in places.items()}


def _storages(content: bytes, start: int, named: set[_Storage], keys: object) -> Iterator[tuple[str, NDArray[Any]]]:
    known = {storage.key: storage for storage in named}
    if len(known) != len(named):
        raise ValueError("two of its tensors say different things of the same numbers")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(known):
        raise ValueError("its tensors are not those that it has numbers of")
    for key in keys:
        storage = known[key]
        count = int.from_bytes(content[start : start + 8], "little")
        start += 8
        end = start + storage.numbers * np.dtype(storage.dtype).itemsize
        if count != storage.numbers or end > len(content):
            raise ValueError("it is cut off, or a tensor has another number of numbers than it says")
        yield key, np.frombuffer(content, storage.dtype, count, start)
        start = end
    if start != len(content):
        raise ValueError("something lies behind its tensors")


def _tensor(place: _Place, numbers: NDArray[Any]) -> NDArray[Any]:
    steps = [step if side > 1 else 0 for side, step in zip(place.shape, place.steps, strict=True)]
    last = place.offset + sum((side - 1) * step for side, step in zip(place.shape, steps, strict=True))
    if not 1 <= prod(place.shape) <= len(numbers) or last >= len(numbers):
        raise ValueError("a tensor is empty, or reaches behind its numbers")
    strides = [step * numbers.itemsize for step in steps]
    return as_strided(numbers[place.offset :], place.shape, strides, writeable=False)


def _followed(stream: io.BytesIO) -> Any:
    """What one pickle makes."""
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    operations = pickletools.genops(stream)
    while True:
        _check_step(stream)
        try:
            operation, argument, _ = next(operations)
        except ValueError as error:
            raise _none() from error
        if operation.name == "STOP":
            break
        try:
            _follow(operation.name, argument, stack, memory)
        except (IndexError, KeyError) as error:
            raise ValueError("its pickle takes what is not there") from error
    if len(stack) != 1:
        raise ValueError("its pickle makes several things, or none")
    return stack[0]


def _check_step(stream: io.BytesIO) -> None:
    """Refuse the next step, before its argument is read, where it is none that is known here."""
    name = _NAMES.get(stream.getbuffer()[stream.tell() :][:1].tobytes().decode("latin-1"))
    if name is None:
        raise _none()
    if name not in _STEPS:
        raise ValueError(f"its pickle has a step that makes no tensors, {name}")


def _none() -> ValueError:
    return ValueError("it is cut off, or none of torch.save's old format")


def _follow(step: str, argument: Any, stack: list[Any], memory: dict[int, Any]) -> None:
    if step in _VALUES:
        stack.append(argument)
    elif step in _CONSTANTS:
        stack.append(_CONSTANTS[step])
    elif step in _TUPLES:
        stack.append(tuple(_last(stack, _TUPLES[step])))
    elif step == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif step == "MARK":
        stack.append(_MARK)
    elif step == "EMPTY_DICT":
        stack.append({})
    elif step == "EMPTY_LIST":
        stack.append([])
    elif step in ("BINPUT", "LONG_BINPUT"):
        memory[argument] = stack[-1]
    elif step in ("BINGET", "LONG_BINGET"):
        stack.append(memory[argument])
    elif step in ("SETITEM", "SETITEMS"):
        _set(stack, _last(stack, 2) if step == "SETITEM" else _since_mark(stack))
    elif step in ("APPEND", "APPENDS"):
        values = _last(stack, 1) if step == "APPEND" else _since_mark(stack)
        _is(stack[-1], list).extend(values)
    elif step == "GLOBAL":
        stack.append(_named(argument))
    elif step == "BINPERSID":
        stack.append(_stored(stack.pop()))
    elif step == "REDUCE":
        function, arguments = _last(stack, 2)
        stack.append(_called(function, arguments))
    elif step == "BUILD":  # notes of a dictionary's versions
        _, _ = _is(stack.pop(), dict), _is(stack[-1], dict)


def _last(stack: list[Any], count: int) -> list[Any]:
    values = [stack.pop() for _ in range(count)][::-1]
    if _MARK in values:
        raise ValueError("its pickle takes what is not there")
    return values


def _since_mark(stack: list[Any]) -> list[Any]:
    values: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _set(stack: list[Any], items: list[Any]) -> None:
    made = _is(stack[-1], dict)
    for name, value in zip(items[::2], items[1::2], strict=True):
        made[_is(name, str)] = value


def _is(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has something else where a {kind.__name__} belongs")
    return value


def _named(name: str) -> _Callable | str:
    module, _, storage = name.partition(" ")
    if name in (_DICTIONARY, _TENSOR):
        return _Callable(name)
    if module == "torch" and storage in _STORAGES:
        return _STORAGES[storage]
    raise ValueError(f"it would call {name.replace(' ', '.')[:80]}, which makes no tensor")


def _stored(said: Any) -> _Storage:
    match said:
        case ("storage", str(dtype), str(key), str(), int(count), None) if dtype in _STORAGES.values() and count >= 0:
            return _Storage(key, dtype, count)
    raise ValueError("its pickle names numbers in no known way")


def _called(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Callable(name=name), () if name == _DICTIONARY:
            return {}
        case _Callable(name=name), (_Storage() as storage, int(offset), tuple(shape), tuple(steps), bool(), dict()) if (
            name == _TENSOR and len(shape) == len(steps) and _are_counts((offset, *shape, *steps))
        ):
            return _Place(storage, offset, shape, steps)
    raise ValueError("its pickle makes something else than tensors")


def _are_counts(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)
