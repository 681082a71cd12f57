"""InvokeEndpoint: the container's answer."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.errors import HandlerError, ProviderError
from cloudai.types import Prediction

_decode: Final = msgspec.json.decode


def prediction(data: bytes, count: int, variant: str | None, request_id: str | None) -> Prediction:
    """The container's answer."""
    try:
        answer: Any = _decode(data)
    except msgspec.DecodeError as error:
        raise ProviderError(
            f"the endpoint's answer is not JSON ({error})", provider="aws", request_id=request_id
        ) from None
    failed = handler_error(answer, request_id)
    if failed is not None:
        raise failed
    outputs: Any = answer
    if isinstance(answer, dict):
        outputs = answer.get("predictions", answer.get("outputs"))
    if not isinstance(outputs, list) or len(outputs) != count:
        got = f"{len(outputs)} outputs" if isinstance(outputs, list) else "no list of outputs"
        raise HandlerError(
            f"the endpoint gave {got} for {count} inputs",
            code="WrongLength",
            provider="aws",
            request_id=request_id,
        )
    return Prediction(outputs=outputs, variant=variant, request_id=request_id)


def handler_error(answer: Any, request_id: str | None = None) -> HandlerError | None:
    """What ``container/inference.py`` tells of a handler that failed."""
    told = answer.get("cloudai_error") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        return None
    return HandlerError(
        f"predict raised {told.get('type')}: {told.get('message')}",
        code=str(told.get("type")),
        provider="aws",
        request_id=request_id,
    )
