"""What every predictor has in common: its interface, and what its errors are answered with."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from cloudai._core.handlers.jsonable import jsonable
from cloudai.errors import CloudAIError, HandlerError, InvalidRequest
from cloudai.server.workers.wire import Item, Result
from cloudai.types._base import invalid

# What predict raises over an input that it cannot use; anything else is the handler's own fault.
_INPUT_ERRORS = frozenset(
    {
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "IndexError",
        "KeyError",
        "LookupError",
        # An input may well lead a sound model to infinity: 1e308 doubled. The log has a warning.
        "NotFinite",
        "OverflowError",
        "TypeError",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "UnicodeError",
        "ValidationError",
        "ValueError",
        "ZeroDivisionError",
    }
)


class Predictor(Protocol):
    """A loaded model. ``run`` answers each item, in order, and raises for none of them."""

    def info(self) -> dict[str, Any]: ...
    def warm(self) -> None: ...
    def run(self, items: Sequence[Item]) -> list[Result]: ...
    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result: ...


@runtime_checkable
class Together(Predictor, Protocol):
    """One that answers several requests at once, each in a thread of its own.

    ``info()["together"]``: how many.
    """

    def answer(self, item: Item, wanted: Callable[[], bool]) -> Result:
        """``run`` for one item; ends early once ``wanted`` says that nobody waits for it."""
        ...


def failure(error: CloudAIError) -> Result:
    """The answer for an error: 400 for a request that is wrong, 422 for inputs that ``predict``
    cannot use, 500 for the handler's own fault."""
    if isinstance(error, InvalidRequest):
        status = 400
    elif isinstance(error, HandlerError):
        status = 422 if error.code in _INPUT_ERRORS else 500
    else:
        status = 500
    kind = "NotFinite" if error.code == "NotFinite" else type(error).__name__
    field = getattr(error, "field", None) or ""
    return Result(status, error=str(error), error_type=kind, field=field)


def is_long(value: Any, limit: int) -> bool:
    """Whether an input's text has more characters than ``limit``."""
    text = value.get("text") if isinstance(value, dict) else value
    return isinstance(text, str) and len(text) > limit


def to_npy(outputs: Any) -> bytes:
    """Outputs as one array in NumPy's format. Raises InvalidRequest where they are none."""
    import numpy as np

    try:
        array = outputs if isinstance(outputs, np.ndarray) else np.asarray(jsonable(outputs))
        if array.dtype.kind not in "fiub":
            raise ValueError(f"they are {array.dtype}")
    except ValueError as error:
        raise invalid(
            "accept", "application/x-npy", f"does not fit the outputs: {error}", "Ask for JSON."
        ) from None
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
