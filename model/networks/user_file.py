"""A function of a user's file that gives a PyTorch module: ``FILE.py:FUNCTION``.

Run in a process of its own only (``torch_export``): the file finds the packages beside it, whatever they are called.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from secondlook.model.errors import NetworkError


def given_by(name: str) -> tuple[nn.Module, object, object]:
    """The module that FILE.py:FUNCTION names or gives, and what it gives beside: preprocessing, class names, or None.

    Raises:
        NetworkError: there is no such file or function, its code fails, or it gives no module.
    """
    path, _, function = name.rpartition(":")
    file = Path(path).resolve()
    code = _imported(file, path)
    found = getattr(code, function, None)
    if isinstance(found, nn.Module):
        return found, None, None
    if not callable(found):
        there = [
            key
            for key, value in vars(code).items()
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == code.__name__
        ]
        near = difflib.get_close_matches(function, there, 5, 0.4) or there[:5]
        has = f": it has {', '.join(near)}" if near else ""
        raise NetworkError(f"{path} has no function {function}{has}; name one that returns a torch.nn.Module")
    if wants := _wanted(found):
        raise NetworkError(
            f"{name} wants arguments ({', '.join(wants)}): add a function without any that calls it, and name that one"
        )
    try:
        given = found()
    except SystemExit as error:
        raise NetworkError(f"{name} ends the program: return the module instead") from error
    except Exception as error:
        raise _failed(name, "fails", error, file) from error
    module, declared, classes = (*given, None, None)[:3] if isinstance(given, tuple) else (given, None, None)
    if isinstance(module, dict):
        raise NetworkError(f"{name} returns weights without their module: return the torch.nn.Module that has them")
    if not isinstance(module, nn.Module):
        raise NetworkError(
            f"{name} returns {type(module).__name__}: return a torch.nn.Module, or (module, preprocessing)"
        )
    return module, declared, classes


def _imported(file: Path, path: str) -> ModuleType:
    """The code of a file, by itself or as a part of the package that it lies in."""
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    sys.path[:0] = list(dict.fromkeys((str(root), str(file.parent), os.getcwd())))
    try:
        if len(parts) > 1:
            return importlib.import_module(".".join(parts))
        # A file may be called as something that is there already.
        name = file.stem if file.stem not in sys.modules else f"user.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise NetworkError(f"{path} is no Python file: name one as FILE.py:FUNCTION")
        code = importlib.util.module_from_spec(spec)
        sys.modules[name] = code
        spec.loader.exec_module(code)
    except NetworkError:
        raise
    except ModuleNotFoundError as error:
        raise NetworkError(
            f"{path} needs the package {error.name}: pip install {error.name}, or start where it is found"
        ) from error
    except SystemExit as error:
        raise NetworkError(
            f"{path} ends the program when it is imported: put what it runs below if __name__ == '__main__'"
        ) from error
    except Exception as error:
        raise _failed(path, "cannot be imported", error, file) from error
    return code


def _wanted(function: Any) -> list[str]:
    """Arguments that it cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in open_ended]


def _failed(name: str, does: str, error: Exception, file: Path) -> NetworkError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = (str(error).strip().splitlines() or [""])[0][:160]
    where = "" if line is None else f", line {line}"
    return NetworkError(f"{name} {does} ({type(error).__name__}: {said}{where}): mend it until python {file.name} runs")
