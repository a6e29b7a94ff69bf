"""``FILE.py:FUNCTION``: what people write in such files, and what is said of what gives no network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from secondlook.model.errors import MemoryLimitError, NetworkError
from secondlook.model.networks.sources import open_network
from tests.images_for_tests import photos

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, side=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.9)
        self.fc = nn.Linear(12 * side * side // 16 if side else 12, 5)
        self.side = side

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc(self.drop(x.flatten(1) if self.side else x.mean((2, 3))))


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3)

    def forward(self, x):
        return self.stem(x).mean((2, 3))


class OnAGpu(Net):
    def forward(self, x):
        return super().forward(x.cuda())


class Pieces(Net):
    def forward(self, x):
        return "cat"


def make():
    torch.manual_seed(0)
    return Net().train()


def seeded(side=None):
    torch.manual_seed(0)
    return Net(side)


def half():
    return make().half()


def wrapped():
    return nn.DataParallel(make())


def talkative():
    print("loading", flush=True)
    import sys
    sys.stderr.write("a warning\\n")
    return make()


def of_96():
    return seeded(96)


def of_100():
    return seeded(100)


def with_argument(path, size=3):
    return make()


def broken():
    raise ValueError("no such thing\\nsecond line")


def weights():
    return make().state_dict()


def nothing():
    return None


def asks():
    input("which one? ")


def ends():
    import sys
    sys.exit(0)


def dies():
    import os
    os.kill(os.getpid(), 9)


def odd_preprocessing():
    return make(), 7


def odd_classes():
    return make(), None, 5


ready = make()
"""
USERS = """
from model.helper import WIDE  # packages of the user's own, called as some of this project's
from service import NAME

from nets import make as _make


def make():
    assert (WIDE, NAME) == (12, "theirs")
    return _make()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "users.py").write_text(USERS)
    for package, name, text in (("model", "helper.py", "WIDE = 12"), ("service", "__init__.py", "NAME = 'theirs'")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / name).write_text(text)
    inside = tmp_path / "package" / "nets"
    inside.mkdir(parents=True)
    for part in (inside.parent, inside):
        (part / "__init__.py").touch()
    (inside / "parts.py").write_text(NETS)
    (inside / "whole.py").write_text("from .parts import make\n")
    (tmp_path / "json.py").write_text(NETS)  # called as a module that this project has imported
    (tmp_path / "syntax.py").write_text("import torch\ndef make(:\n    pass\n")
    (tmp_path / "needs.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "script.py").write_text("import sys\nprint('done')\nsys.exit('no file given')\n")
    (tmp_path / "wrong.py").write_text("import torch\n\nlayers = torch.nn.Nothing(3)\n")
    before, there = list(sys.path), dict(sys.modules)
    yield tmp_path
    sys.path[:] = before
    for name in [name for name in sys.modules if name not in there]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


REFUSED = [
    (
        "syntax.py:make",
        r"cannot be imported \(SyntaxError: .*, line 2\): mend it until python syntax\.py runs",
    ),
    ("needs.py:make", r"needs the package a_package_that_nobody_has: pip install a_package_that_nobody_has"),
    ("script.py:make", "ends the program when it is imported: put what it runs below if __name__"),
    ("wrong.py:make", r"cannot be imported \(AttributeError: .*, line 3\): mend it"),
    ("nets.py:mak", r"has no function mak: it has make.*; name one that returns a torch\.nn\.Module"),
    ("nets.py:torch", "has no function torch"),
    ("nets.py:with_argument", r"wants arguments \(path\): add a function without any"),
    ("nets.py:broken", r"broken fails \(ValueError: no such thing, line \d+\): mend it"),
    ("nets.py:weights", r"returns weights without their module: return the torch\.nn\.Module"),
    ("nets.py:nothing", r"returns NoneType: return a torch\.nn\.Module"),
    ("nets.py:asks", r"asks fails \(.*Error"),
    ("nets.py:ends", "ends the program: return the module instead"),
    ("nets.py:odd_preprocessing", r"a preprocessing that cannot be read \(int\): return a dict"),
    ("nets.py:odd_classes", "returns int for class names: return a list"),
    ("nets.py:Grey", r"does not take a float32 tensor of \(2,3,224,224\) .*: return \(module, "),
    ("nets.py:OnAGpu", r"does not take a float32 tensor of \(2,3,224,224\) on the CPU"),
    ("nets.py:of_100", r"does not take a float32 tensor of \(2,3,224,224\)"),
    ("nets.py:Pieces", "gives str, not a tensor: wrap it so that forward returns logits"),
]


@pytest.mark.parametrize(("name", "said"), REFUSED, ids=[name for name, _ in REFUSED])
def test_what_gives_no_network_gets_one_sentence(
    name: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secondlook.model.networks.torch_export import exported_or_refused

    monkeypatch.setattr("sys.stdin", None)
    out = folder / "network.onnx"
    sentence = exported_or_refused("file", str(folder / name), "", out, str(folder / name))
    assert sentence is not None
    assert re.search(said, sentence), sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert not out.exists()


def test_what_a_process_of_its_own_cannot_say_is_said_for_it(folder: Path) -> None:
    with pytest.raises(NetworkError, match="most likely for want of memory: export it by hand") as caught:
        open_network(f"{folder / 'nets.py'}:dies")
    assert "secondlook network" in str(caught.value)


@pytest.mark.networks
@pytest.mark.parametrize(
    "name", ["users.py:make", "nets.py:half", "nets.py:talkative", "nets.py:wrapped", "nets.py:ready", "json.py:make",
             "package/nets/whole.py:make"],
)  # fmt: skip
def test_a_module_is_taken_as_it_would_be_used(name: str, folder: Path) -> None:
    """In evaluation mode, float32, on the CPU, whatever it was in; prints and packages of its own do no harm."""
    command = [sys.executable, "-c", "import numpy as np, torch, nets; m = nets.make().eval();"
               "x = torch.from_numpy(np.load('images.npy'));"
               "np.save('logits.npy', m(x).detach().numpy())"]  # fmt: skip
    network = open_network(f"{folder / name}")
    assert network.preprocess.geometry.size == (224, 224)
    images = photos(3, 224)
    np.save(folder / "images.npy", network.preprocess.arithmetic.apply(images))
    (folder / "json.py").unlink()
    subprocess.run(command, cwd=folder, check=True)
    expected = np.load(folder / "logits.npy")
    logits = network.activations(images).logits
    tolerance = 1e-2 if name.endswith("half") else 1e-4
    np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.slow
def test_a_module_says_by_what_it_takes_at_which_size_it_does(folder: Path) -> None:
    assert open_network(f"{folder / 'nets.py'}:of_96").preprocess.geometry.size == (96, 96)


def test_too_little_memory_is_said_before_the_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secondlook.model.networks.torch_export import exported_or_refused

    monkeypatch.setattr("secondlook.model.memory.available_bytes", lambda: 1 << 20)
    out = folder / "network.onnx"
    name = f"{folder / 'nets.py'}:make"
    sentence = exported_or_refused("file", name, "", out, name)
    assert sentence is not None
    assert re.search(r"GB of memory, 0\.0 GB are free: export it on a larger machine \(torch\.onnx\.export", sentence)
    assert not out.exists()
    with pytest.raises(MemoryLimitError):
        raise MemoryLimitError(sentence)
