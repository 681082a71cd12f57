"""A user's handler, loaded and called: the one file of it, wherever the handler runs.

The standard library alone, and Python 3.8 and later, since it also travels: into SageMaker's and
Azure ML's containers, where it lies as ``cloudai_handlers.py`` beside the script that imports it
and nothing else of cloudai is. Here ``handler.py`` stands on it.

A handler is a file with ``load(model_dir)`` and ``predict(model, inputs, params)``, and perhaps
``stream(model, input, params)``; or one of SageMaker's family, ``model_fn`` with ``input_fn``,
``predict_fn`` and ``output_fn``, or with ``transform_fn``. What such a one leaves out has the
default of SageMaker's PyTorch inference toolkit (2.0.25, read 2026-11).

It is longer than other files, since it has to be one.

Longer than other modules: it travels as one file.
"""

from __future__ import annotations

import csv
import importlib.util
import inspect
import io
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

MODULE = "cloudai_handlers.py"
"""This file, where it travels."""
FOLDER = "cloudai_handler"
"""Beside it: a handler that was named, and what that imports."""
ENTRY = "cloudai_entry.py"
"""The handler in there."""

JSON_TYPE, CSV_TYPE, NPY_TYPE = "application/json", "text/csv", "application/x-npy"

NOT_FINITE = "is a number that JSON cannot hold"
"""What is said of NaN and infinity."""


class Refused(ValueError):
    """A value that cannot be used.

    Attributes
    ----------
    field, value, problem, hint: which one, what it was, what is wrong with it, and the mend.
    """

    def __init__(self, field: str, value: Any, problem: str, hint: str = "") -> None:
        super().__init__(f"{field}={value!r:.80} {problem}")
        self.field, self.value, self.problem, self.hint = field, value, problem, hint


class Failed(Exception):
    """What the handler did wrong. ``code``: the class of what it raised, or of its fault."""

    def __init__(self, message: str, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.hint = code, hint


# -- outputs to JSON -------------------------------------------------------------------------


def jsonable(value: Any, path: str = "value") -> Any:
    """The value with numpy's and torch's as plain numbers and lists (without importing either).

    Raises Refused naming the inner path of what JSON cannot hold, NaN and infinity too.
    """
    # Nearly all outputs are plain already: they need neither a copy nor the paths to name.
    return value if _plain(value) else _jsonable(value, path)


def _plain(value: Any) -> bool:
    """Whether JSON holds the value as it is."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_plain, value.values()))
    if kind is list:
        return all(map(_plain, value))
    return kind is str or kind is int or kind is bool or value is None or (
        kind is float and math.isfinite(value)
    )  # fmt: skip


def _jsonable(value: Any, path: str) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise Refused(path, value, NOT_FINITE)
        return value
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                key = _jsonable(key, path)
                if not isinstance(key, (str, int)):
                    raise Refused(path, key, "is a key that JSON cannot hold")
                key = str(key)
            made[key] = _jsonable(inner, f"{path}.{key}")
        return made
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
    array = _array(value)
    if array is not None:
        return _array_json(array, path)
    if isinstance(value, (str, bool, int)):  # subclasses, such as enums of text
        return getattr(value, "value", value)
    if isinstance(value, float):
        return _jsonable(float(value), path)
    raise Refused(path, value, f"is a {kind.__name__}, which JSON cannot hold")


def _array(value: Any) -> Any:
    """The value as a numpy array if it is a tensor, array or scalar of a loaded library."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return numpy.asarray(value)
    return None


def _array_json(array: Any, path: str) -> Any:
    numpy: Any = sys.modules["numpy"]
    if array.dtype.kind == "f" and not numpy.isfinite(array).all():
        where = "".join(f"[{i}]" for i in numpy.argwhere(~numpy.isfinite(array))[0].tolist())
        raise Refused(f"{path}{where}", "nan or infinity", NOT_FINITE)
    if array.dtype.kind not in "fiubU":
        raise Refused(path, str(array.dtype), "is a type that JSON cannot hold")
    return array.tolist()


def dumps(value: Any) -> bytes:
    """Plain JSON of what ``jsonable`` gave."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


# -- loading ---------------------------------------------------------------------------------


def find(script: str, model_dir: str) -> Path:
    """The handler of a container: the one that was named, which travelled beside ``script``, else
    the model's own."""
    here = Path(script).resolve().parent
    places = (here / FOLDER / ENTRY, here / ENTRY, Path(model_dir, "handler.py"),
              Path(model_dir, "code", "inference.py"))  # fmt: skip
    for place in places:
        if place.is_file():
            return place
    raise Failed(f"there is no handler: none of {', '.join(map(str, places))}", "NoHandler")


def import_file(file: Path, name: str) -> Any:
    """Imports the file under a name of its own, with its folder to import from.

    The folder stays there for the process's life: a handler may import a sibling when it
    predicts. The module is in ``sys.modules`` before it runs, where dataclasses and pickle look
    for it.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Refused("handler", str(file), "is not a Python file", "Give a file ending in .py.")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class Handler:
    """A loaded handler. ``predict`` may be called from one thread at a time.

    Attributes
    ----------
    file: the handler's file. model_dir: what ``load`` got. model: what ``load`` gave.
    raw: True for SageMaker's family, which also takes whole bodies through ``transform``.
    streams: whether it answers in pieces: it has ``stream``, or a ``transform_fn`` or
        ``predict_fn`` that is a generator.
    """

    def __init__(self, file: Path, model_dir: Path, module: Any) -> None:
        self.file = file
        self.model_dir = model_dir
        self.module = module
        self.raw = not hasattr(module, "predict")
        self._transform: Transform | None = None
        argument: Any = model_dir
        if self.raw:
            self._transform = Transform(module, self.encode)
            self.streams = self._transform.streams
            loader, argument = self._function("model_fn"), str(model_dir)
        else:
            loader = self._function("load")
            self._predict = _with_params(self._function("predict"))
            stream = getattr(module, "stream", None)
            self.streams = callable(stream)
            if callable(stream):
                self._stream = _with_params(stream)
        name = "model_fn" if self.raw else "load"
        self.model: Any = self._guard(name, with_context(loader, 1), argument)
        if self._transform is not None and hasattr(module, "stream_fn"):
            self.streams = self._transform.streams = bool(self.model.streams)

    # What cloudai has errors and an encoder of its own for.
    _passing: tuple[Any, ...] = (Failed, Refused)

    @staticmethod
    def encode(value: Any) -> bytes:
        return dumps(value)

    @staticmethod
    def decode(data: bytes) -> Any:
        return json.loads(data)

    def failed(self, message: str, code: str, hint: str = "") -> Exception:
        """The error for what the handler did wrong."""
        return Failed(message, code, hint)

    def raised(self, name: str, error: Exception) -> Exception:
        """The error for what one of its functions raised."""
        if isinstance(error, Refused):
            return error
        return self.failed(f"{name} raised {type(error).__name__}: {error}", type(error).__name__)

    def predict(self, inputs: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        """One JSON value for each input, in their order.

        Raises ``failed`` when the handler raises (``code`` is the exception's class name), gives
        another number of outputs, or an output that JSON cannot hold (``BadOutput``). NaN and
        infinity are such outputs (``NotFinite``): a null in their place would hide a broken model.
        """
        if self.raw:
            outputs: Any = self._predict_raw(inputs)
        else:
            outputs = self._guard("predict", self._predict, self.model, inputs, params or {})
        function = "output_fn" if self.raw else "predict"
        try:
            listed = jsonable(outputs, "outputs")
        except Refused as error:
            raise self._bad_output(function, error) from None
        count = len(inputs)
        if not isinstance(listed, list):
            raise self.failed(
                f"{self.file}: {function} gave {type(outputs).__name__}, not a list of "
                f"{count} outputs", "BadOutput",
            )  # fmt: skip
        if len(listed) != count:
            raise self.failed(
                f"{self.file}: {function} gave {len(listed)} outputs for {count} inputs",
                "WrongLength", "Return one output for each input, in their order.",
            )  # fmt: skip
        return listed

    def _predict_raw(self, inputs: list[Any]) -> Any:
        try:
            body = self.encode(inputs)
        except (TypeError, ValueError) as error:
            problem = f"cannot be sent to input_fn as JSON ({error})"
            raise self.raised("", Refused("inputs", inputs, problem)) from None
        answer, kind = self.transform(body, JSON_TYPE, JSON_TYPE)
        try:
            return self.decode(answer)
        except ValueError as error:
            raise self.failed(
                f"{self.file}: output_fn gave {kind} for application/json, and no JSON ({error})",
                "predict_fn",
            ) from None

    def transform(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """A whole body through SageMaker's functions: the answer and its content type.

        Raises ``failed`` as ``predict`` does, and Refused for a content type that the defaults do
        not read.
        """
        if self._transform is None:
            problem = "has predict and takes no whole bodies"
            raise self.raised("", Refused("handler", str(self.file), problem))
        return self._guard("transform", self._transform, self.model, body, content_type, accept)

    def stream(
        self, value: Any, params: dict[str, Any] | None = None
    ) -> Generator[Any, None, None]:
        """One input's answer, piece by piece, each a JSON value; closing it closes the
        handler's generator.

        Raises Refused for a handler that has no ``stream``, and ``failed`` as ``predict`` does, at
        whichever piece it happens.
        """
        if self.raw or not self.streams:
            problem = f"is not what {self.file.name} does: it has no stream"
            raise self.raised("", Refused("stream", True, problem))
        pieces = self._guard("stream", lambda: iter(self._stream(self.model, value, params or {})))
        for piece in self._guarded("stream", pieces):
            try:
                yield jsonable(piece, "piece")
            except Refused as error:
                raise self._bad_output("stream", error) from None

    def stream_body(self, body: bytes, content_type: str, accept: str) -> Iterator[bytes]:
        """The answer to a whole body, in pieces, from SageMaker's functions."""
        if self._transform is None or not self.streams:
            problem = "has no generator to stream from"
            raise self.raised("", Refused("handler", str(self.file), problem))
        pieces = self._guard(
            "transform", self._transform.stream, self.model, body, content_type, accept
        )
        yield from self._guarded("transform", pieces)

    def _guarded(self, name: str, pieces: Iterator[Any]) -> Iterator[Any]:
        nothing = object()
        try:
            while True:
                piece = self._guard(name, next, pieces, nothing)
                if piece is nothing:
                    return
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    def _bad_output(self, function: str, error: Refused) -> Exception:
        return self.failed(
            f"{self.file}: {function} gave a value that JSON cannot hold: {error}",
            "NotFinite" if error.problem == NOT_FINITE else "BadOutput",
        )

    def _guard(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._passing:
            raise
        except Exception as error:  # the user's code may raise anything
            raise self.raised(name, error) from error

    def _function(self, name: str) -> Callable[..., Any]:
        function = getattr(self.module, name, None)
        if not callable(function):
            raise self.raised(
                "",
                Refused(
                    "handler", str(self.file), f"does not define {name}",
                    "Define load(model_dir) and predict(model, inputs, params), or SageMaker's "
                    "model_fn.",
                ),
            )  # fmt: skip
        return function


# -- SageMaker's family ----------------------------------------------------------------------


class Transform:
    """Calls ``transform_fn``, or ``input_fn`` → ``predict_fn`` → ``output_fn``.

    Parameters
    ----------
    module: the user's; each function of the family that it lacks has the toolkit's default.
        Each may take a ``context`` as its last argument, as the toolkit's newer ones do.
    encode: plain values into JSON.
    """

    def __init__(self, module: Any, encode: Callable[[Any], bytes] = dumps) -> None:
        whole = getattr(module, "transform_fn", None)
        self._whole = None if whole is None else with_context(whole, 4)
        self._input = with_context(getattr(module, "input_fn", default_input_fn), 2)
        self._predict = with_context(getattr(module, "predict_fn", default_predict_fn), 2)
        self._output = with_context(getattr(module, "output_fn", default_output_fn), 2)
        self._encode = encode
        # Of our own script in SageMaker's containers alone: which handler it carries, and whether
        # that streams, is known once it has loaded.
        self._made = getattr(module, "stream_fn", None)
        maker = whole or getattr(module, "predict_fn", None)
        self.streams: bool = inspect.isgeneratorfunction(maker)

    def stream(
        self, model: Any, body: bytes, content_type: str, accept: str
    ) -> Generator[bytes, None, None]:
        """The pieces that a generator ``transform_fn`` or ``predict_fn`` gives, as they go out:
        bytes and texts as they are, other values as a line of JSON each."""
        data, plain = _data(body, content_type)
        if self._made is not None:
            pieces = self._made(model, body, content_type, accept)
        elif self._whole is not None:
            pieces = self._whole(model, data, plain, accept)
        else:
            pieces = self._predict(self._input(data, plain), model)
        for piece in pieces:
            if isinstance(piece, str):
                yield piece.encode()
            elif isinstance(piece, (bytes, bytearray)):
                yield bytes(piece)
            else:
                yield self._encode(jsonable(piece, "piece")) + b"\n"

    def __call__(
        self, model: Any, body: bytes, content_type: str, accept: str
    ) -> tuple[bytes, str]:
        if self.streams:
            return b"".join(self.stream(model, body, content_type, accept)), accept
        data, plain = _data(body, content_type)
        if self._whole is not None:
            answer = self._whole(model, data, plain, accept)
        else:
            answer = self._output(self._predict(self._input(data, plain), model), accept)
        kind = accept
        if isinstance(answer, tuple) and len(answer) == 2:
            answer, kind = answer
        if isinstance(answer, str):
            answer = answer.encode()
        elif not isinstance(answer, (bytes, bytearray)):
            answer, kind = self._encode(jsonable(answer, "output_fn")), JSON_TYPE
        return bytes(answer), kind


def _data(body: Any, content_type: str) -> tuple[Any, str]:
    # The toolkit hands text types over as str, others as bytes.
    plain = content_type.partition(";")[0].strip().lower()
    text = plain == JSON_TYPE or plain.startswith("text/")
    return body.decode() if text and isinstance(body, (bytes, bytearray)) else body, plain


def default_input_fn(data: Any, content_type: str) -> Any:
    """JSON, CSV and NumPy's format become a tensor (an array, where torch is not loaded)."""
    import numpy as np

    if content_type == JSON_TYPE:
        array = np.asarray(json.loads(data), dtype=np.float32)
    elif content_type == CSV_TYPE:
        rows = [[float(cell) for cell in row] for row in csv.reader(io.StringIO(data)) if row]
        array = np.asarray(rows, dtype=np.float32)
    elif content_type == NPY_TYPE:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    else:
        raise Refused(
            "content_type", content_type, "is not read by the default input_fn",
            f"Send {JSON_TYPE}, {CSV_TYPE} or {NPY_TYPE}, or define input_fn.",
        )  # fmt: skip
    torch: Any = sys.modules.get("torch")
    return array if torch is None else torch.from_numpy(array)


def default_predict_fn(data: Any, model: Any) -> Any:
    """Calls the model, without gradients and in evaluation mode where it is torch's."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return model(data)
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), None)
    with torch.inference_mode():
        return model(data if device is None else data.to(device))


def default_output_fn(prediction: Any, accept: str) -> tuple[bytes, str]:
    """JSON, CSV or NumPy's format, as the caller accepts; JSON when it does not say."""
    kind = accept.partition(",")[0].partition(";")[0].strip().lower()
    value = jsonable(prediction, "output_fn")
    if kind == NPY_TYPE:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(value), allow_pickle=False)
        return buffer.getvalue(), NPY_TYPE
    if kind == CSV_TYPE:
        rows = value if isinstance(value, list) else [value]
        text = io.StringIO()
        csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in rows)
        return text.getvalue().encode(), CSV_TYPE
    return dumps(value), JSON_TYPE


# -- signatures ------------------------------------------------------------------------------


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether the function takes ``count`` positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return True
    return True


def with_context(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function of ``count`` arguments; one that takes a context too gets None for it."""
    if takes(function, count):
        return function
    return lambda *arguments: function(*arguments, None)


def _with_params(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of (model, inputs, params); one may leave ``params`` out of its signature."""
    if takes(function, 3):
        return function
    return lambda model, inputs, _: function(model, inputs)


# -- what our own clients ask ----------------------------------------------------------------


MARK = b" "
"""How a body of ours begins. No reader of JSON sees it; a container whose handler is of SageMaker's
family is told by it to give the handler the inputs alone, and any other body as it came."""


class Container:
    """What the scripts for SageMaker and Azure ML have in common: the handler of the container,
    and bodies of ours."""

    def __init__(self, script: str, model_dir: str) -> None:
        file = find(script, model_dir)
        self.handler = Handler(file, Path(model_dir), import_file(file, "cloudai_user_handler"))
        self.streams = self.handler.streams

    def told(self, error: Exception) -> dict[str, Any]:
        """An error as the body tells it, since the containers hide what was raised."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        print("".join(lines), flush=True)  # noqa: T201 - into the endpoint's log
        cause = error.__cause__ or error
        code = error.code if isinstance(error, Failed) else type(cause).__name__
        return {"type": code, "message": str(error)}

    def outputs(self, inputs: list[Any], params: dict[str, Any]) -> list[dict[str, Any]]:
        """``{"output": …}`` for each input, or ``{"error": …}``: the inputs that the handler
        refuses are halved until the one that is to blame stands alone."""
        if not inputs:
            return []
        try:
            return [{"output": one} for one in self.handler.predict(inputs, params)]
        except Exception as error:  # noqa: BLE001 - the user's own code
            if len(inputs) == 1:
                return [{"error": self.told(error)}]
        half = len(inputs) // 2
        return [*self.outputs(inputs[:half], params), *self.outputs(inputs[half:], params)]

    def batch(self, inputs: list[Any]) -> list[dict[str, Any]]:
        """The same for the lines of a batch, as ``CLOUDAI_BATCH`` says."""
        settings = json.loads(os.environ.get("CLOUDAI_BATCH") or "{}")
        params, size = settings.get("params") or {}, int(settings.get("batch_size") or 64)
        made: list[dict[str, Any]] = []
        for at in range(0, len(inputs), size):
            made += self.outputs(inputs[at : at + size], params)
        return made

    def pieces(self, body: dict[str, Any], inputs: list[Any]) -> Iterator[bytes] | None:
        """The lines of a streamed answer; None where the body asks for none, or the handler gives
        none."""
        if not body.get("stream") or not self.handler.streams or len(inputs) != 1:
            return None
        if self.handler.raw:
            return self.handler.stream_body(dumps(inputs), JSON_TYPE, JSON_TYPE)
        params = body.get("parameters") or body.get("params") or {}
        return (dumps(piece) + b"\n" for piece in self.handler.stream(inputs[0], params))
