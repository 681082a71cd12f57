"""The user's inference code: found, loaded, called and checked, the same in an endpoint, in a
batch and in a container.

A handler is one Python file with ``load(model_dir) -> model`` and ``predict(model, inputs,
params) -> list``; ``params`` may be left out of the signature. It may also have ``stream(model,
input, params)``, a generator of one input's answer in pieces. SageMaker's family (``model_fn``,
``input_fn``, ``predict_fn``, ``output_fn`` or ``transform_fn``; the defaults of its PyTorch
inference toolkit, read 2026-11) is taken unchanged. What loads and calls it is ``portable.py``,
which also travels into the clouds' containers.
"""

from __future__ import annotations

import ast
import itertools
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from cloudai._core.files.tree import digest
from cloudai._core.handlers import portable
from cloudai._core.handlers.jsonable import refusal
from cloudai.errors import CloudAIError, HandlerError
from cloudai.types._base import invalid

PLACES: Final = ("handler.py", "code/inference.py")
"""Where a model directory keeps its own handler; the second is SageMaker's place."""

_numbers = itertools.count(1)
_import_lock = threading.Lock()


class Handler(portable.Handler):
    """A handler with cloudai's errors: HandlerError for what it does wrong, InvalidRequest for
    what it was asked wrongly."""

    _passing = (CloudAIError,)

    @staticmethod
    def encode(value: Any) -> bytes:
        return msgspec.json.encode(value)

    @staticmethod
    def decode(data: bytes) -> Any:
        return msgspec.json.decode(data)

    def failed(self, message: str, code: str, hint: str = "") -> HandlerError:
        return HandlerError(message, code=code, hint=hint or None)

    def raised(self, name: str, error: Exception) -> CloudAIError:
        if isinstance(error, portable.Refused):
            return refusal(error)
        return self.failed(
            f"{self.file}: {name} raised {type(error).__name__}: {error}\n"
            f"{_own_lines(error, self.file)}",
            type(error).__name__,
        )


def find_handler(model_dir: Path, handler: Path | None = None) -> Path:
    """The handler's file: ``handler``, else the model directory's own.

    Raises InvalidRequest naming what is missing, or a file that defines neither
    ``load`` and ``predict`` nor ``model_fn``; it is parsed, not run.
    """
    if not model_dir.is_dir():
        raise invalid(
            "model", str(model_dir), "is not a directory", "Give the directory of a trained model."
        )
    if handler is not None:
        if not handler.is_file():
            raise invalid("handler", str(handler), "is not a file", "Give the path of its file.")
        _check_source(handler)
        return handler
    for place in PLACES:
        if (model_dir / place).is_file():
            _check_source(model_dir / place)
            return model_dir / place
    raise invalid(
        "handler",
        None,
        f"is not given, and {model_dir} has neither {' nor '.join(PLACES)}",
        "Name a Python file with load(model_dir) and predict(model, inputs, params).",
    )


def load_handler(model_dir: Path, handler: Path | None = None) -> Handler:
    """Imports the handler and loads the model.

    Parameters
    ----------
    model_dir: the trained model's directory.
    handler: a Python file; None takes ``handler.py``, then ``code/inference.py`` in the model
        directory. Its siblings can be imported by it.

    Raises InvalidRequest as ``find_handler`` does, and HandlerError when the import or the load
    fails, with the user's own traceback lines.
    """
    model_dir = Path(model_dir).absolute()
    file = find_handler(model_dir, Path(handler).absolute() if handler is not None else None)
    return Handler(file, model_dir, _import(file))


def model_digest(model_dir: Path) -> str:
    """``files.tree.digest`` of a directory as it lies here. Python's caches are left out, since
    running the model makes them."""
    found = (path for path in model_dir.rglob("*") if "__pycache__" not in path.parts)
    return digest(
        {path.relative_to(model_dir).as_posix(): path for path in found if path.is_file()}
    )


def travelling(file: Path) -> dict[str, Path]:
    """What has to be put beside a container's script for a handler to run there, by its place:
    the handler with what it imports from its own folder, modules and whole packages, and the file
    that calls it. Raises InvalidRequest for a handler that is not Python."""
    found = {
        portable.MODULE: Path(portable.__file__),
        f"{portable.FOLDER}/{portable.ENTRY}": file,
    }
    found.update({f"{portable.FOLDER}/{name}": path for name, path in siblings(file).items()})
    return found


def siblings(file: Path) -> dict[str, Path]:
    """The files beside a handler that it imports, and what those import: modules, and packages
    with all that is in them; by their paths in its folder."""
    folder = file.parent
    found: dict[str, Path] = {}
    asked = [file]
    while asked:
        for name in _imported(_parsed(asked.pop())):
            module, package = folder / f"{name}.py", folder / name
            if module.is_file() and module != file:
                new = [module]
            elif any(package.glob("*.py")):
                new = [path for path in package.rglob("*") if path.is_file()]
            else:
                continue
            for path in new:
                place = path.relative_to(folder).as_posix()
                if place not in found and "__pycache__" not in path.parts:
                    found[place] = path
                    asked += [path] if path.suffix == ".py" else []
    return found


def _imported(tree: ast.Module) -> set[str]:
    """The first names of all modules that a source imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise invalid(
            "handler", str(file), f"is not Python: {error.msg} in line {error.lineno}"
        ) from None


def _check_source(file: Path) -> None:
    tree = _parsed(file)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name) for alias in node.names)
    if "*" in names or {"load", "predict"} <= names or "model_fn" in names:
        return
    lacking = [name for name in ("load", "predict") if name not in names]
    raise invalid(
        "handler",
        str(file),
        f"does not define {' and '.join(lacking)}",
        "Define load(model_dir) and predict(model, inputs, params), or SageMaker's model_fn.",
    )


def _import(file: Path) -> ModuleType:
    """Imports the file under a name of its own, so that two handlers do not meet."""
    with _import_lock:
        try:
            return portable.import_file(file, f"_cloudai_handler_{next(_numbers)}")
        except portable.Refused as error:
            raise refusal(error) from None
        except Exception as error:  # the user's code may raise anything
            raise HandlerError(
                f"{file}: the import raised {type(error).__name__}: {error}\n"
                f"{_own_lines(error, file)}",
                code=type(error).__name__,
            ) from error


def _own_lines(error: BaseException, file: Path) -> str:
    """The traceback from the handler's own first frame on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == str(file)), len(frames))
    return "".join(traceback.format_list(frames[first:][-12:])).rstrip()
