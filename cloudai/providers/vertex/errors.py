"""From Google's errors to ours: one table over ``google.rpc.Code``, and what the message adds.

Sources: google/rpc/code.proto and the error model of AIP-193 (read 2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cloudai._core.calls.failures import retry_after
from cloudai.errors import (
    AuthenticationError,
    CapacityError,
    CloudAIError,
    Conflict,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)

PROVIDER: Final = "vertex"

CODES: Final[dict[str, type[CloudAIError]]] = {
    "OK": ProviderError,  # an error that says it is none
    "CANCELLED": ServiceUnavailable,
    "UNKNOWN": ServiceUnavailable,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": ServiceUnavailable,  # the service's own deadline, not the caller's
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": Conflict,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": RateLimited,
    "FAILED_PRECONDITION": Conflict,
    "ABORTED": ServiceUnavailable,  # lost a race; the same request may win the next
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": ProviderError,
    "INTERNAL": ServiceUnavailable,
    "UNAVAILABLE": ServiceUnavailable,
    "DATA_LOSS": ProviderError,
    "UNAUTHENTICATED": AuthenticationError,
}
"""Every code of google.rpc.Code, in the order of their numbers (0 to 16)."""

# For answers without a google.rpc status in them, such as a proxy's page.
_STATUSES: Final[dict[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "UNAVAILABLE",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    416: "OUT_OF_RANGE",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
}

# "The input token count (1052577) exceeds the maximum number of tokens allowed (1048576)."
_OVERFLOW: Final = re.compile(
    r"(?:token count|tokens)\D{0,40}?(\d+)?\D{0,20}exceeds? the maximum (?:number of )?"
    r"(?:input )?tokens?(?: allowed| limit)?\D{0,4}(\d+)?",
    re.IGNORECASE,
)
# "The input token count is 1050000 but model only supports up to 1048576."; of embeddings "…the
# input token count is 20923 but the model supports up to 20000." (onyx#3972, 2025-02-12)
_SUPPORTS: Final = re.compile(
    r"token count is (\d+) but (?:the )?model (?:only )?supports up to (\d+)", re.IGNORECASE
)
_CAPACITY: Final = re.compile(
    r"resources? (?:are )?insufficient|insufficient (?:capacity|resources)|stockout|"
    r"does not have enough resources|no capacity|out of capacity",
    re.IGNORECASE,
)
_QUOTA: Final = re.compile(
    r"quota metrics? exceed|quota (?:limits? )?exceeded|exceed(?:s|ed)? (?:the )?quota",
    re.IGNORECASE,
)
# A rate, which passes: "online_prediction_requests_per_base_model" has no time in its name and
# is counted by the minute ("Error code 429", Google Cloud documentation; gemini-cli#14831).
_BY_TIME: Final = re.compile(
    r"per[ _]?(?:minute|second|hour|day)|requests? per|per_base_model", re.IGNORECASE
)
_UNSAFE: Final = re.compile(r"(Bearer\s+|ya29\.)[A-Za-z0-9._~+/=-]+")


def no_capacity(reason: str | None) -> bool:
    """Whether that is what the service says where it has no machine of the kind."""
    return reason is not None and _CAPACITY.search(reason) is not None


class _Detail(msgspec.Struct):
    type: str = msgspec.field(name="@type", default="")
    retryDelay: str = ""
    reason: str = ""
    requestId: str = ""
    fieldViolations: list[dict[str, Any]] = []


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""
    status: str = ""
    details: list[_Detail] = []


class _Envelope(msgspec.Struct):
    error: _Status


_decoder = msgspec.json.Decoder(_Envelope)
_list_decoder = msgspec.json.Decoder(list[_Envelope])


def _status(http: int, body: bytes) -> _Status:
    for decoder in (_decoder, _list_decoder):  # streams answer an error as a list of one
        try:
            found = decoder.decode(body)
        except msgspec.DecodeError:
            continue
        return found.error if isinstance(found, _Envelope) else found[0].error
    # What leads elsewhere is no error of the service's, and its body says nothing of one.
    text = "" if http < 400 else body[:300].decode("utf-8", "replace").strip()
    return _Status(code=http, message=text or f"HTTP {http}")


def from_response(http: int, headers: Mapping[str, str], body: bytes) -> CloudAIError:
    """The error that an answer of HTTP status ``http`` means."""
    found = _status(http, body)
    code = found.status if found.status in CODES else _STATUSES.get(http, "")
    if not code:
        code = "UNAVAILABLE" if http >= 500 else "DATA_LOSS" if http < 400 else "INVALID_ARGUMENT"
    request_id = headers.get("x-request-id") or headers.get("x-goog-request-id")
    told = retry_after(headers)
    for detail in found.details:
        if detail.type.endswith("RetryInfo"):
            told = retry_after({"retry-after": detail.retryDelay.rstrip("s")}) or told
        if detail.type.endswith("RequestInfo"):
            request_id = detail.requestId or request_id
    return make(
        code,
        found.message or f"HTTP {http}",
        status=http,
        request_id=request_id,
        retry_after=told,
        field=_field(found.details),
        # Only an answer of the service's own failure leaves open what it did before.
        ambiguous=http >= 500 and code != "UNIMPLEMENTED",
    )


def make(
    code: str,
    message: str,
    *,
    status: int | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
    field: str | None = None,
    ambiguous: bool = False,
) -> CloudAIError:
    """The error for a code of google.rpc.Code and its message."""
    message = _UNSAFE.sub(r"\1***", message)
    about: dict[str, Any] = {
        "provider": PROVIDER,
        "code": code,
        "status": status,
        "request_id": request_id,
        "retry_after": retry_after,
    }
    kind = CODES.get(code, ProviderError)
    if code in {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION", "INTERNAL"}:
        if _CAPACITY.search(message):
            return CapacityError(
                message, hint="Try another region, accelerator or time, or FLEX_START", **about
            )
        if code == "RESOURCE_EXHAUSTED" and _QUOTA.search(message) and not _BY_TIME.search(message):
            return QuotaExceeded(message, hint="Ask for more under IAM > Quotas", **about)
    if issubclass(kind, InvalidRequest):
        overflow = _OVERFLOW.search(message) or _SUPPORTS.search(message)
        if overflow:
            return ContextOverflow(
                message,
                tokens=int(overflow[1]) if overflow[1] else None,
                limit=int(overflow[2]) if overflow[2] else None,
                field="messages",
                **about,
            )
        return InvalidRequest(message, field=field, **about)
    return kind(message, ambiguous=ambiguous, **about)


def by_number(number: int) -> str:
    """The name of a google.rpc.Code by its number, as a job's or an operation's error has it."""
    names = list(CODES)
    return names[number] if 0 <= number < len(names) else "UNKNOWN"


def _field(details: list[_Detail]) -> str | None:
    for detail in details:
        for violation in detail.fieldViolations:
            return str(violation.get("field") or "") or None
    return None
