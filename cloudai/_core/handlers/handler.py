"""The user's inference code: found, loaded, called and checked, the same in an endpoint, in a
batch and in a container.

A handler is one Python file with ``load(model_dir) -> model`` and ``predict(model, inputs,
params) -> list``; ``params`` may be left out of the signature. It may also have ``stream(model,
input, params)``, a generator of one input's answer in pieces. SageMaker's family (``model_fn``,
``input_fn``, ``predict_fn``, ``output_fn`` or ``transform_fn``; the defaults of its PyTorch
inference toolkit, read 2026-11) is taken unchanged. Its parts are in ``sagemaker.py``.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cloudai._core.files.tree import digest
from cloudai._core.handlers.jsonable import NOT_FINITE, jsonable
from cloudai._core.handlers.sagemaker import Transform
from cloudai._core.handlers.signatures import takes
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.types import JSON
from cloudai.types._base import invalid

PLACES: Final = ("handler.py", "code/inference.py")
"""Where a model directory keeps its own handler; the second is SageMaker's place."""

_numbers = itertools.count(1)
_import_lock = threading.Lock()


class Handler:
    """A loaded handler. ``predict`` may be called from one thread at a time.

    Attributes
    ----------
    file: the handler's file. model_dir: what ``load`` got. model: what ``load`` gave.
    raw: True for SageMaker's family, which also takes whole bodies through ``transform``.
    streams: whether it answers in pieces: it has ``stream``, or a ``transform_fn`` or
        ``predict_fn`` that is a generator.
    """

    def __init__(self, file: Path, model_dir: Path, module: ModuleType) -> None:
        self.file = file
        self.model_dir = model_dir
        self.module = module
        self.raw = not hasattr(module, "predict")
        self._transform: Transform | None = None
        if self.raw:
            self._transform = Transform(module)
            self.streams = self._transform.streams
            loader, argument = _function(file, module, "model_fn"), str(model_dir)
        else:
            loader, argument = _function(file, module, "load"), model_dir
            predict = _function(file, module, "predict")
            self._predict = predict if takes(predict, 3) else _without_params(predict)
            stream: Callable[..., Any] | None = getattr(module, "stream", None)
            self.streams = callable(stream)
            if stream is not None:
                self._stream = stream if takes(stream, 3) else _without_params(stream)
        self._loader_name = "model_fn" if self.raw else "load"
        self.model: Any = self._guard(self._loader_name, _optional_context(loader), argument)

    def predict(self, inputs: list[Any], params: dict[str, JSON] | None = None) -> list[JSON]:
        """One JSON value for each input, in their order.

        Raises HandlerError when the handler raises (``code`` is the exception's class name),
        gives another number of outputs, or an output that JSON cannot hold (``BadOutput``). NaN
        and infinity are such outputs (``NotFinite``): a null in their place would hide a broken
        model.
        """
        if self.raw:
            outputs: Any = self._predict_raw(inputs)
        else:
            outputs = self._guard("predict", self._predict, self.model, inputs, params or {})
        return self._check(outputs, len(inputs))

    def transform(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """A whole body through SageMaker's functions: the answer and its content type.

        Raises HandlerError as ``predict`` does, and InvalidRequest for a content type that the
        defaults do not read.
        """
        if self._transform is None:
            raise invalid("handler", str(self.file), "has predict and takes no whole bodies")
        return self._guard("transform", self._transform, self.model, body, content_type, accept)

    def stream(
        self, value: Any, params: dict[str, JSON] | None = None
    ) -> Generator[JSON, None, None]:
        """One input's answer, piece by piece, each a JSON value; closing it closes the
        handler's generator.

        Raises InvalidRequest for a handler that has no ``stream``, and HandlerError as
        ``predict`` does, at whichever piece it happens.
        """
        if self.raw or not self.streams:
            raise invalid("stream", True, f"is not what {self.file.name} does: it has no stream")
        pieces = self._guard("stream", lambda: iter(self._stream(self.model, value, params or {})))
        for piece in self._pieces("stream", pieces):
            try:
                yield jsonable(piece, "piece")
            except InvalidRequest as error:
                raise self._bad_output("stream", error) from None

    def stream_body(self, body: bytes, content_type: str, accept: str) -> Iterator[bytes]:
        """The answer to a whole body, in pieces, from SageMaker's functions."""
        if self._transform is None or not self.streams:
            raise invalid("handler", str(self.file), "has no generator to stream from")
        pieces = self._guard(
            "transform", self._transform.stream, self.model, body, content_type, accept
        )
        yield from self._pieces("transform", pieces)

    def _pieces(self, name: str, pieces: Iterator[Any]) -> Iterator[Any]:
        nothing = object()
        try:
            while (piece := self._guard(name, next, pieces, nothing)) is not nothing:
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def _predict_raw(self, inputs: list[Any]) -> Any:
        import msgspec

        name = "predict_fn"
        try:
            body = msgspec.json.encode(inputs)
        except (TypeError, ValueError) as error:
            raise invalid(
                "inputs", inputs, f"cannot be sent to input_fn as JSON ({error})"
            ) from None
        answer, kind = self.transform(body, "application/json", "application/json")
        try:
            return msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise HandlerError(
                f"{self.file}: output_fn gave {kind} for application/json, and no JSON ({error})",
                code=name,
            ) from None

    def _check(self, outputs: Any, count: int) -> list[JSON]:
        function = "output_fn" if self.raw else "predict"
        try:
            listed = jsonable(outputs, "outputs")
        except InvalidRequest as error:
            raise self._bad_output(function, error) from None
        if not isinstance(listed, list):
            raise HandlerError(
                f"{self.file}: {function} gave {type(outputs).__name__}, not a list of "
                f"{count} outputs",
                code="BadOutput",
            )
        if len(listed) != count:
            raise HandlerError(
                f"{self.file}: {function} gave {len(listed)} outputs for {count} inputs",
                code="WrongLength",
                hint="Return one output for each input, in their order.",
            )
        return listed

    def _bad_output(self, function: str, error: InvalidRequest) -> HandlerError:
        return HandlerError(
            f"{self.file}: {function} gave a value that JSON cannot hold: {error}",
            code="NotFinite" if NOT_FINITE in error.message else "BadOutput",
        )

    def _guard(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except CloudAIError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise HandlerError(
                f"{self.file}: {name} raised {type(error).__name__}: {error}\n"
                f"{_own_lines(error, self.file)}",
                code=type(error).__name__,
            ) from error


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


def _check_source(file: Path) -> None:
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise invalid(
            "handler", str(file), f"is not Python: {error.msg} in line {error.lineno}"
        ) from None
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
    name = f"_cloudai_handler_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise invalid("handler", str(file), "is not a Python file", "Give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    with _import_lock:
        sys.modules[name] = module
        if folder not in sys.path:
            # Kept for the process's life: a handler may import a sibling when it predicts.
            sys.path.insert(0, folder)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's code may raise anything
            sys.modules.pop(name, None)
            raise HandlerError(
                f"{file}: the import raised {type(error).__name__}: {error}\n"
                f"{_own_lines(error, file)}",
                code=type(error).__name__,
            ) from error
    return module


def _function(file: Path, module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise invalid(
            "handler",
            str(file),
            f"does not define {name}",
            "Define load(model_dir) and predict(model, inputs, params), or SageMaker's model_fn.",
        )
    return function


def _without_params(predict: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, inputs, _: predict(model, inputs)


def _optional_context(loader: Callable[..., Any]) -> Callable[[Any], Any]:
    """SageMaker's newer toolkit passes a context after the model directory; None here."""
    if takes(loader, 1):
        return loader
    return lambda model_dir: loader(model_dir, None)


def _own_lines(error: BaseException, file: Path) -> str:
    """The traceback from the handler's own first frame on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename == str(file)), len(frames))
    return "".join(traceback.format_list(frames[first:][-12:])).rstrip()
