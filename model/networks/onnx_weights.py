"""ONNX graphs without their weights, and these beside them: held once, or mapped from a file. Needs onnx.

A graph without its weights is small, and so is a copy of it; and what a protobuf cannot hold is no matter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from secondlook.model.networks.engines import DATA, LIGHT

Weights = Mapping[str, NDArray[Any]]
"""The large tensors of a graph by name."""

SMALL = 1024
"""Bytes: tensors up to this stay in a graph, which is where shapes and the like are read."""
_PLAIN = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8),
        *(TensorProto.INT32, TensorProto.INT64),
    }
)


class Weighted(NamedTuple):
    """A graph whose large tensors are elsewhere."""

    model: ModelProto
    weights: Weights


def load(path: Path) -> Weighted:
    """A file, and what lies beside it, which is mapped and not read.

    Raises:
        FileNotFoundError: there is none, or nothing beside it where it says.
        OSError, ValueError: it cannot be read, or what lies beside it is too short or not in its folder.
        google.protobuf.message.DecodeError: it is no ONNX file.
    """
    return weighted(onnx.load(str(path), load_external_data=False), path.parent)


def weighted(model: ModelProto, folder: Path = Path()) -> Weighted:
    """A graph whose large tensors are taken out of it; what it names of other files is mapped from that folder.

    Raises:
        OSError, ValueError: that cannot be read, is too short, or is not in the folder.
    """
    found: dict[str, NDArray[Any]] = {}
    for tensor in model.graph.initializer:
        is_elsewhere = tensor.data_location == TensorProto.EXTERNAL
        if not is_elsewhere and (tensor.data_type not in _PLAIN or tensor_bytes(tensor) <= SMALL):
            continue
        value = _mapped(tensor, folder) if is_elsewhere else numpy_helper.to_array(tensor)
        if tensor.data_type in _PLAIN and value.nbytes > SMALL:
            found[tensor.name] = value
            _empty(tensor)
        else:
            raw = value.tobytes()
            _empty(tensor)
            tensor.ClearField("external_data")
            tensor.data_location, tensor.raw_data = TensorProto.DEFAULT, raw
    # A protobuf keeps the memory of what is taken out of it.
    return Weighted(ModelProto.FromString(model.SerializeToString()), found)


def _where(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _mapped(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    where = _where(tensor)
    name = where["location"]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"its weights are said to be outside of its folder, in {name}")
    offset = int(where.get("offset", 0))
    if tensor.data_type not in _PLAIN:
        with (folder / name).open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(int(where["length"])), np.uint8)
    if not tensor_bytes(tensor):
        return np.empty(tuple(tensor.dims), _dtype(tensor))
    if (folder / name).stat().st_size < offset + tensor_bytes(tensor):
        raise ValueError(f"{name} beside it is too short")
    return np.memmap(folder / name, _dtype(tensor), "r", offset, tuple(tensor.dims))


def _empty(tensor: TensorProto) -> None:
    """Leave of a tensor what it is, without its values."""
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")


def tensor_bytes(tensor: TensorProto) -> int:
    """Of its values, wherever they are."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * _dtype(tensor).itemsize


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def weights_sha256(graph: Weighted) -> str:
    """Of all tensors that are written in a graph, in the order of their names."""
    digest = hashlib.sha256()
    for tensor in sorted(graph.model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.name.encode() + b"\0")
        value = graph.weights.get(tensor.name)
        digest.update(numpy_helper.to_array(tensor).tobytes() if value is None else np.ascontiguousarray(value).data)
    return digest.hexdigest()


def save(graph: Weighted, path: Path, most_bytes: int = LIGHT) -> None:
    """Write a graph; with weights of ``most_bytes`` or more, these to ``path`` and ``.data``.

    A file of weights is mapped: OpenVINO would keep those of the graph beside what it makes of them, each worker its
    own; and a protobuf holds 2 GiB.
    """
    data = path.with_name(f"{path.name}{DATA}")
    model = ModelProto()
    model.CopyFrom(graph.model)
    taken = [tensor for tensor in model.graph.initializer if tensor.name in graph.weights]
    if sum(tensor_bytes(tensor) for tensor in taken) < most_bytes:
        for tensor in taken:
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = np.ascontiguousarray(graph.weights[tensor.name]).tobytes()
        path.write_bytes(model.SerializeToString())
        data.unlink(missing_ok=True)
        return
    new = data.with_name(f"{data.name}.new")  # weights may be mapped from the old one
    with new.open("wb") as file:
        for tensor in taken:
            file.write(bytes(-file.tell() % 4096))
            begins = file.tell()
            np.ascontiguousarray(graph.weights[tensor.name]).tofile(file)
            tensor.ClearField("external_data")
            said = {"location": data.name, "offset": begins, "length": file.tell() - begins}
            for key, value in said.items():
                tensor.external_data.add(key=key, value=str(value))
    os.replace(new, data)
    path.write_bytes(model.SerializeToString())
