"""PyTorch modules to ONNX files, in a process of its own: ``python -P -m secondlook.model.networks.torch_export``.

It is told on the command line which module (KIND NAME WEIGHTS OUT SHOWN, the last being its name for people), and
writes OUT, an ONNX file whose metadata holds the preprocessing and the class names; or OUT.error, a sentence, and exits
with 3. A user's own file finds the packages beside it, whatever they are called; weights are downloaded or read by the
library that the network is of.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from secondlook.model.errors import NetworkError, SecondlookError
from secondlook.model.memory import check_memory
from secondlook.model.networks.declared import METADATA, assumed
from secondlook.model.networks.onnx_graph import EXPORT, LAYERS
from secondlook.model.networks.onnx_network import SIZES
from secondlook.model.networks.preprocess import Preprocess
from secondlook.model.networks.torch_load import LOADERS, Loaded, TransformersModule

REFUSED = 3


def export(loaded: Loaded, path: Path) -> None:
    """Write a module, with its layers as further outputs where they can be had.

    Raises:
        NetworkError: it takes no images of the size that was said, nor of the usual ones where none was; or no exporter
            of PyTorch's can.
        MemoryLimitError: that needs more memory than is free.
    """
    module = _plain(loaded.module)
    _check_memory(module)
    module = module.eval().float().cpu()
    listened = Listened(module)
    images = _taken(listened, loaded.preprocess)
    first: Exception | None = None
    for names, how in (
        (listened.names, {"dynamo": True}),
        ((), {"dynamo": True}),
        (listened.names, {"dynamo": False}),
        ((), {"dynamo": False}),
    ):
        listened.names = tuple(names)
        try:
            _export(listened, images, path, **how)
        except NetworkError:
            raise
        except Exception as error:  # of many kinds
            first = first or error
            continue
        break
    else:
        assert first is not None
        raise NetworkError(
            f"PyTorch cannot export it to ONNX ({_line(first)}): change what it names, or export it by hand "
            f"({EXPORT}), and give the ONNX file"
        )
    _describe(path, listened, loaded)


def _plain(module: nn.Module) -> nn.Module:
    """What is inside of wrappers for training."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # of torch.compile
            module = inner
        else:
            return module


COPIES = 4
"""Of the weights: the module's, in the exported program, in its graph, and what is written of them."""
_LIBRARIES = 500e6
"""Bytes that the exporter takes for itself."""


def _check_memory(module: nn.Module) -> None:
    size = 4 * sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    check_memory(
        COPIES * size + _LIBRARIES,
        f"to export a network of {size / 1e6:,.0f} MB",
        f"export it on a larger machine ({EXPORT}), and give the ONNX file",
    )


def _taken(listened: Listened, declared: Preprocess | None) -> Tensor:
    """Two images of the size that was declared, or of the first usual one that the module takes."""
    first: Exception | None = None
    for size in [declared.geometry.size] if declared is not None else SIZES:
        images = torch.from_numpy(_noise(2, size))
        if declared is not None and declared.arithmetic.layout == "NHWC":
            images = images.permute(0, 2, 3, 1).contiguous()
        try:
            with torch.no_grad():
                listened.listen(images)
        except NetworkError:
            raise
        except Exception as error:  # a user's own code
            first = first or error
            continue
        return images
    assert first is not None
    height, width = (declared.geometry if declared is not None else assumed().geometry).size
    raise NetworkError(
        f"it does not take a float32 tensor of (2,3,{height},{width}) on the CPU ({_line(first)}): return (module, "
        '{"geometry": {"height": H, "width": W}}) with the size that it takes'
    )


class Listened(nn.Module):
    """A module that also gives what its parts give."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names: tuple[str, ...] = ()
        self.aliases: dict[str, str] = {}
        """Other names of the same tensors."""
        self.order: tuple[str, ...] = ()
        """Names and aliases, as they were called."""
        self._calls: dict[str, int] = {}
        self._seen: dict[str, Tensor] = {}
        wrapped = module.module if isinstance(module, TransformersModule) else module
        for name, part in wrapped.named_modules():
            if name and not isinstance(part, torch.jit.ScriptModule):
                part.register_forward_hook(self._hook(name))
                if isinstance(part, nn.Linear | nn.Conv2d):
                    part.register_forward_pre_hook(self._pre_hook(name))

    def listen(self, images: Tensor) -> None:
        """Find out which parts give something for each image."""
        self._calls, self._seen = {}, {}
        _tensors(self.module(images))
        by_tensor: dict[int, str] = {}
        for name, tensor in self._seen.items():
            earlier = by_tensor.get(id(tensor))
            if earlier is not None:
                # The same tensor is a part's and its container's, or one part wrote over what another gave.
                if earlier.startswith(f"{name.partition('#')[0]}."):
                    self.aliases[earlier] = name
                self.aliases = {alias: name if of == earlier else of for alias, of in self.aliases.items()}
            by_tensor[id(tensor)] = name
        heads = [name for name in self._seen if name.endswith(":input")]
        kept = set(by_tensor.values())
        self.names = tuple(
            name
            for name, tensor in self._seen.items()
            if name in kept and tensor.ndim in (2, 3, 4) and (not name.endswith(":input") or name == heads[-1])
        )
        self.aliases = {alias: of for alias, of in self.aliases.items() if of in self.names}
        self.order = tuple(name for name in self._seen if name in self.names or name in self.aliases)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The module's own output, or outputs, and its parts'."""
        self._calls, self._seen = {}, {}
        given = self.module(images)
        own = _tensors(given)
        return (*own, *(self._seen[name] for name in self.names))

    def _hook(self, name: str) -> Callable[..., None]:
        def note(part: nn.Module, given: Any, made: Any) -> None:
            calls = self._calls[name] = self._calls.get(name, 0) + 1
            if isinstance(made, Tensor) and made.is_floating_point() and made.ndim >= 2:
                self._seen[name if calls == 1 else f"{name}#{calls}"] = made

        return note

    def _pre_hook(self, name: str) -> Callable[..., None]:
        def note(part: nn.Module, given: Any) -> None:
            if given and isinstance(given[0], Tensor):
                self._seen.pop(f"{name}:input", None)  # the last call counts
                if all(given[0] is not tensor for tensor in self._seen.values()):
                    self._seen[f"{name}:input"] = given[0]

        return note


def _tensors(given: Any) -> tuple[Tensor, ...]:
    if isinstance(given, Tensor):
        return (given,)
    if isinstance(given, dict):
        return tuple(value for value in given.values() if isinstance(value, Tensor))
    if isinstance(given, list | tuple):
        return tuple(value for value in given if isinstance(value, Tensor))
    raise NetworkError(f"it gives {type(given).__name__}, not a tensor: wrap it so that forward returns logits")


def _export(listened: Listened, images: Tensor, path: Path, *, dynamo: bool) -> None:
    with torch.no_grad():
        count = len(_tensors(listened.module(images)))
    own = ["output"] if count == 1 else [f"output{i}" for i in range(count)]
    names = [*own, *listened.names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                listened,
                (images,),
                input_names=["images"],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=True)
        else:
            torch.onnx.export(
                listened,
                (images,),
                str(path),
                input_names=["images"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
                dynamo=False,
            )


def _describe(path: Path, listened: Listened, loaded: Loaded) -> None:
    """Write what is known of a network into its file."""
    # The weights may lie beside it, and stay there.
    model: ModelProto = onnx.load(str(path), load_external_data=False)
    named = list(listened.order) if listened.names else []
    own = [output for output in model.graph.output if output.name not in listened.names]
    for name in named:
        if name in listened.aliases:
            model.graph.node.append(helper.make_node("Identity", [listened.aliases[name]], [name]))
    del model.graph.output[:]
    model.graph.output.extend((*own, *(onnx.ValueInfoProto(name=name) for name in named)))
    said = {LAYERS: str(len(named))}
    if loaded.preprocess is not None:
        said[METADATA] = loaded.preprocess.model_dump_json()
    if loaded.classes is not None:
        said["names"] = json.dumps(loaded.classes)
    helper.set_model_props(model, said)
    path.write_bytes(model.SerializeToString())


def _noise(count: int, size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).standard_normal((count, 3, *size)).astype(np.float32)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_DOWNLOADS = ("URLError", "HTTPError", "HfHubHTTPError", "LocalEntryNotFoundError", "ConnectError", "ConnectionError")


def refusal(name: str, error: Exception) -> str:
    """What a person is told of a network that cannot be loaded, by a user's own code or a library's download too."""
    if isinstance(error, SecondlookError):
        said = str(error)
        return f"{name}: {said}" if said.startswith(("it ", "to ")) else said
    if isinstance(error, ModuleNotFoundError):
        return f"{name} needs the package {error.name}: install it (pip install {error.name})"
    if any(type(cause).__name__ in _DOWNLOADS for cause in _causes(error)):
        bare = name.partition("@")[0]
        return f"the weights of {bare} cannot be downloaded here ({_line(error)}): give a file of them, as {bare}@FILE"
    return f"{name} cannot be loaded ({_line(error)}): check that it runs by itself"


def exported_or_refused(kind: str, name: str, weights: str, path: Path, shown: str) -> str | None:
    """Load a module and export it; or the sentence that says why not."""
    try:
        export(LOADERS[kind](name, weights), path)
    except Exception as error:
        return refusal(shown, error)
    return None


def main() -> None:
    """Be the process."""
    kind, name, weights, out, shown = sys.argv[1:6]
    path = Path(out)
    said = exported_or_refused(kind, name, weights, path, shown)
    if said is not None:
        path.with_name(f"{path.name}.error").write_text(said)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
