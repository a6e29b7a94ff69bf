"""Tensors of PyTorch's old files, read without it; and files that want something else of their reader."""

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secondlook.model.networks.torch_file import PICKLES, read_tensors


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 6, generator=random)
    return OrderedDict(
        plain=whole,
        turned=torch.randn(3, 5, 2, generator=random).permute(2, 0, 1),
        shared=whole[1:3, ::2],
        one=torch.tensor(7),
        column=torch.randn(9, 1, generator=random),
        expanded=torch.randn(1, 3, generator=random)[0],
        half=torch.randn(3, generator=random).half(),
        double=torch.randn(3, generator=random).double(),
        bytes=torch.arange(5, dtype=torch.uint8),
        signed=torch.arange(-2, 3, dtype=torch.int8),
        short=torch.arange(-2, 3, dtype=torch.int16),
        int=torch.arange(-2, 3, dtype=torch.int32),
        truth=torch.tensor([True, False, True]),
    )


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_tensors_are_those_that_torch_reads(kind: type, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = saved(tmp_path / "weights.pth", kind(tensors))
    ours, theirs = read_tensors(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs) == list(tensors)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(ours[name], tensor.numpy(), strict=True)
        assert not ours[name].flags.writeable


def test_a_modules_weights_with_their_versions_are_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    ours = read_tensors(saved(tmp_path / "weights.pth", module.state_dict()))
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(ours[name], tensor.numpy(), strict=True)


class Runs:
    """Its pickle would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\b(its?|tensors?)\b") as caught:
        read_tensors(path)
    return str(caught.value)


@pytest.mark.parametrize("inside", ["alone", "in the dictionary"])
def test_nothing_in_a_file_is_run(inside: str, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    runs = Runs(tmp_path / "it ran")
    path = saved(tmp_path / "runs.pth", runs if inside == "alone" else {**tensors, "more": runs})
    assert "would call" in refused(path)
    (tmp_path / "runs.pkl").write_bytes(pickle.dumps(runs))
    refused(tmp_path / "runs.pkl")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.nn.Linear(2, 3),
        [torch.zeros(2)],
        torch.zeros(2),
        {},
        {"epoch": 3},
        {"model": {"weight": torch.zeros(2)}},
        {1: torch.zeros(2)},
        {"a": torch.zeros(2, dtype=torch.complex64)},
        {"a": torch.zeros(0)},
        {"a": torch.zeros(3).to_sparse()},
        {"a": torch.nn.Parameter(torch.zeros(3))},
    ],
    ids=["module", "list", "tensor", "nothing", "number", "nested", "no name", "complex", "empty", "sparse",
         "parameter"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_anything_but_tensors_by_name_is_refused(content: Any, tmp_path: Path) -> None:
    refused(saved(tmp_path / "other.pth", content))


def test_a_zip_a_text_and_nothing_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "new.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    for name in ("new.pth", "text.pth", "empty.pth"):
        refused(tmp_path / name)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = saved(tmp_path / "weights.pth", {name: tensors[name] for name in ("turned", "shared", "one")})
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        refused(path)
    path.write_bytes(content + b"\0")
    assert refused(path) == "something lies behind its tensors"


def test_a_byte_that_was_changed_is_refused_or_changes_a_value_alone(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = saved(tmp_path / "weights.pth", {name: tensors[name] for name in ("turned", "shared", "one")})
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << random.integers(8)]) + content[place + 1 :])
        try:
            found = read_tensors(path)
        except ValueError:
            continue
        assert sum(tensor.size for tensor in found.values()) <= sum(tensor.numel() for tensor in tensors.values()) * 4
        assert all(np.array(tensor).shape == tensor.shape for tensor in found.values())  # within what was read


def replaced(path: Path, part: int, old: bytes, new: bytes) -> None:
    """Change the bytes of one of the file's pickles."""
    stream = io.BytesIO(path.read_bytes())
    ends = [0]
    for _ in range(PICKLES):
        list(pickletools.genops(stream))
        ends.append(stream.tell())
    content = stream.getvalue()
    parts = [content[start:end] for start, end in zip(ends, [*ends[1:], len(content)], strict=True)]
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new, 1)
    path.write_bytes(b"".join(parts))


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({b"K\x0b": number(12)}, "reaches behind"),  # its side
        ({b"K\x0b": number(-1)}, "something else than tensors"),
        ({b"K\x0b\x85": number(2**31 - 1) + b"\x85"}, "reaches behind"),
        ({b"K\x0d\x85": number(2**31 - 1) + b"\x85"}, "reaches behind"),  # its step
        ({b"K\x0d\x85": b"\x8a\x10" + b"\xff" * 15 + b"\x7f\x85"}, "reaches behind"),
        ({b"K\x0d\x85": number(-1) + b"\x85"}, "something else than tensors"),
        ({b"K\x89N": b"K\x8aN"}, "another number of numbers"),
        ({b"K\x89N": number(-1) + b"N"}, "no known way"),
        ({b"s.": b"ss."}, "takes what is not there"),
        ({b"((": b"("}, "takes what is not there"),
        ({b"((": b"(e("}, "where a list belongs"),
        ({b"((": b"(S'\\Q'\n("}, "has a step that makes no tensors, STRING"),
        ({b"((": b"(i os\nsystem\n("}, "has a step that makes no tensors, INST"),
        ({b"torch\nFloatStorage": b"os\nsystem"}, "would call os.system"),
        ({b"torch\nFloatStorage": b"torch\nload"}, "would call torch.load"),
        ({b"torch._utils\n_rebuild_tensor_v2": b"torch._utils\n_rebuild_parameter"}, "would call"),
        ({b"X\x04\x00\x00\x00odd!": b"N"}, "something else where a str belongs"),
        ({b"s.": b"s0."}, "has a step that makes no tensors, POP"),
        ({b"s.": b"sN."}, "makes several things"),
        ({b"s.": b"sj\xff\xff\xff\x7f."}, "takes what is not there"),
    ],
)
def test_places_that_are_not_there_are_refused(new: dict[bytes, bytes], said: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", {"odd!": torch.arange(137.0)[:133:13]})
    for old, other in new.items():
        replaced(path, 3, old, other)
    with pytest.raises(ValueError, match=said):
        read_tensors(path)


def test_numbers_of_another_machine_and_keys_of_others_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", {"a": torch.zeros(3)})
    whole = path.read_bytes()
    replaced(path, 2, b"\x88", b"\x89")
    assert refused(path) == "its numbers are big endian"
    path.write_bytes(whole)
    replaced(path, 4, b"a.", b"h\x01\x86a.")  # its key twice
    assert "not those" in refused(path)
    path.write_bytes(whole)
    replaced(path, 0, b"\x6c", b"\x6d")
    assert "torch.save" in refused(path)


def test_a_pickle_that_grows_costs_no_more_than_its_bytes(tmp_path: Path) -> None:
    """Tuples of tuples, each twice in the next: 2 ** 200 numbers, were they written out."""
    bomb = b"\x80\x02)q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(200)) + b"."
    path = saved(tmp_path / "weights.pth", {"a": torch.zeros(3)})
    stream = io.BytesIO(path.read_bytes())
    for _ in range(3):
        list(pickletools.genops(stream))
    for more in (bomb, bomb[:-1] + b"Q.", b"\x80\x02}(" + bomb[2:-1] + b"K\x01u."):
        path.write_bytes(stream.getvalue()[: stream.tell()] + more + b"\x80\x02].")
        refused(path)
