"""SageMaker's handler family, with the defaults of its PyTorch inference toolkit (2.0, read
2026-11): what a script that runs there leaves out, runs here alike."""

from __future__ import annotations

import csv
import inspect
import io
import sys
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

import msgspec

from cloudai._core.handlers.jsonable import jsonable
from cloudai._core.handlers.signatures import takes
from cloudai.types._base import invalid

JSON_TYPE, CSV_TYPE, NPY_TYPE = "application/json", "text/csv", "application/x-npy"


class Transform:
    """Calls ``transform_fn``, or ``input_fn`` → ``predict_fn`` → ``output_fn``.

    Parameters
    ----------
    module: the user's; each function of the family that it lacks has the toolkit's default.
        Each may take a ``context`` as its last argument, as the toolkit's newer ones do.
    """

    def __init__(self, module: ModuleType) -> None:
        whole = getattr(module, "transform_fn", None)
        self._whole = None if whole is None else _with_context(whole, 4)
        self._input = _with_context(getattr(module, "input_fn", default_input_fn), 2)
        self._predict = _with_context(getattr(module, "predict_fn", default_predict_fn), 2)
        self._output = _with_context(getattr(module, "output_fn", default_output_fn), 2)
        maker = whole or getattr(module, "predict_fn", None)
        self.streams = inspect.isgeneratorfunction(maker)

    def stream(
        self, model: Any, body: bytes, content_type: str, accept: str
    ) -> Generator[bytes, None, None]:
        """The pieces that a generator ``transform_fn`` or ``predict_fn`` gives, as they go out:
        bytes and texts as they are, other values as a line of JSON each."""
        data, plain = self._data(body, content_type)
        if self._whole is not None:
            pieces = self._whole(model, data, plain, accept)
        else:
            pieces = self._predict(self._input(data, plain), model)
        for piece in pieces:
            if isinstance(piece, str):
                yield piece.encode()
            elif isinstance(piece, (bytes, bytearray)):
                yield bytes(piece)
            else:
                yield msgspec.json.encode(jsonable(piece, "piece")) + b"\n"

    def _data(self, body: bytes, content_type: str) -> tuple[Any, str]:
        # The toolkit hands text types over as str, others as bytes.
        plain = content_type.partition(";")[0].strip().lower()
        text = plain == JSON_TYPE or plain.startswith("text/")
        return body.decode() if text else body, plain

    def __call__(
        self, model: Any, body: bytes, content_type: str, accept: str
    ) -> tuple[bytes, str]:
        if self.streams:
            return b"".join(self.stream(model, body, content_type, accept)), accept
        data, plain = self._data(body, content_type)
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
            answer, kind = msgspec.json.encode(jsonable(answer, "output_fn")), JSON_TYPE
        return bytes(answer), kind


def default_input_fn(data: Any, content_type: str) -> Any:
    """JSON, CSV and NumPy's format become a tensor (an array, where torch is not loaded)."""
    import numpy as np

    if content_type == JSON_TYPE:
        array = np.asarray(msgspec.json.decode(data), dtype=np.float32)
    elif content_type == CSV_TYPE:
        rows = [[float(cell) for cell in row] for row in csv.reader(io.StringIO(data)) if row]
        array = np.asarray(rows, dtype=np.float32)
    elif content_type == NPY_TYPE:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    else:
        raise invalid(
            "content_type",
            content_type,
            "is not read by the default input_fn",
            f"Send {JSON_TYPE}, {CSV_TYPE} or {NPY_TYPE}, or define input_fn.",
        )
    torch = sys.modules.get("torch")
    return array if torch is None else torch.from_numpy(array)


def default_predict_fn(data: Any, model: Any) -> Any:
    """Calls the model, without gradients and in evaluation mode where it is torch's."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        return model(data)
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), None)
    with torch.inference_mode():
        return model(data if device is None else data.to(device))


def default_output_fn(prediction: Any, accept: str) -> tuple[bytes, str]:
    """JSON, CSV or NumPy's format, as the caller accepts; JSON when it does not say."""
    kind = accept.partition(",")[0].partition(";")[0].strip().lower()
    if kind == NPY_TYPE:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, np.asarray(jsonable(prediction, "output_fn")), allow_pickle=False)
        return buffer.getvalue(), NPY_TYPE
    value = jsonable(prediction, "output_fn")
    if kind == CSV_TYPE:
        rows = value if isinstance(value, list) else [value]
        text = io.StringIO()
        csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in rows)
        return text.getvalue().encode(), CSV_TYPE
    return msgspec.json.encode(value), JSON_TYPE


def _with_context(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    if takes(function, count):
        return function
    return lambda *arguments: function(*arguments, None)
