"""Which files a graph takes weights from, wherever in it a tensor may stand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper

from secondlook.model.networks import onnx_files
from secondlook.model.networks.onnx_files import referenced
from tests.networks_for_tests import DIALECTS, classifier, written


def elsewhere(name: str) -> TensorProto:
    tensor = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", name), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_attribute(**fields: object) -> ModelProto:
    node = NodeProto(op_type="Constant", attribute=[AttributeProto(name="a", **fields)])  # type: ignore[arg-type]
    return ModelProto(graph=GraphProto(node=[node]))


GRAPH = GraphProto(initializer=[elsewhere("x")])
SPARSE = SparseTensorProto(values=elsewhere("x"))
MODELS = {
    "an initialiser": ModelProto(graph=GRAPH),
    "a constant": in_attribute(t=elsewhere("x")),
    "constants": in_attribute(tensors=[elsewhere("x")]),
    "a branch": in_attribute(g=GRAPH),
    "a branch of a branch": in_attribute(g=in_attribute(graphs=[GRAPH]).graph),
    "a sparse tensor": ModelProto(graph=GraphProto(sparse_initializer=[SPARSE])),
    "indices of a sparse tensor": in_attribute(sparse_tensor=SparseTensorProto(indices=elsewhere("x"))),
    "sparse tensors": in_attribute(sparse_tensors=[SPARSE]),
    "a function": ModelProto(
        functions=[helper.make_function("me", "F", [], [], list(in_attribute(t=elsewhere("x")).graph.node), [])]
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_reference_is_found_wherever_it_stands(model: ModelProto, tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    assert referenced(tmp_path / "network.onnx") == {"x"}


def test_each_way_to_a_tensor_is_walked() -> None:
    ours = {"TrainingInfo": "Training", "SparseTensor": "Sparse", "StringStringEntry": "Reference"}
    found: dict[str, dict[int, str]] = {}

    def name(message: Descriptor) -> str:
        short = message.name.removesuffix("Proto")
        return ours.get(short, short)

    def leads_on(message: Descriptor, seen: tuple[str, ...] = ()) -> bool:
        """Whether a tensor stands anywhere in it; types of values have none, whose fields are not asked again."""
        if message.full_name in seen:
            return False
        inner = [field.message_type for field in message.fields if field.type == FieldDescriptor.TYPE_MESSAGE]
        return message.name == "TensorProto" or any(leads_on(one, (*seen, message.full_name)) for one in inner)

    waiting = [ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if name(message) in found:
            continue
        fields = {
            field.number: field.message_type
            for field in message.fields
            if field.type == FieldDescriptor.TYPE_MESSAGE
            and (leads_on(field.message_type) if message.name != "TensorProto" else field.name == "external_data")
        }
        found[name(message)] = {number: name(inner) for number, inner in fields.items()}
        waiting.extend(inner for inner in fields.values() if inner.name != "StringStringEntryProto")
    assert found == onnx_files._INSIDE


@pytest.mark.parametrize("name", DIALECTS)
def test_a_graph_in_one_file_names_none(name: str, tmp_path: Path) -> None:
    assert referenced(written(DIALECTS[name](), tmp_path)) == set()


def test_a_graph_names_the_file_beside_it(tmp_path: Path) -> None:
    assert referenced(written(classifier(), tmp_path, external=True)) == {"network.data"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no graph", b"\x3a\x7f", b"\x3a" + 11 * b"\xff", b"\x3b\x00", b"<html></html>", b"\xff" * 40),
        classifier().SerializeToString()[:-7],
    ],
)
def test_what_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        referenced(tmp_path / "network.onnx")


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    good = np.frombuffer(MODELS["a branch of a branch"].SerializeToString(), np.uint8)
    random, path, refused = np.random.default_rng(0), tmp_path / "network.onnx", 0
    for _ in range(300):
        other = good.copy()
        other[random.integers(len(good), size=2)] = random.integers(256, size=2)
        path.write_bytes(other.tobytes())
        try:
            referenced(path)
        except ValueError:
            refused += 1
            with pytest.raises(Exception, match=r"."):
                onnx.load(str(path), load_external_data=False)
    assert 0 < refused < 300
