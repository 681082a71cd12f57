"""The vendor's errors, made into cloudai's: a table by code, then one by HTTP status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cloudai._core.calls.failures import STATUSES, retry_after
from cloudai.errors import (
    AuthenticationError,
    CapacityError,
    CloudAIError,
    Conflict,
    ContentFiltered,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.types import Violation

CODES: Final[dict[str, type[CloudAIError]]] = {
    # Azure OpenAI, data plane (Microsoft's error pages and openai's API reference, read 2025-08)
    "deploymentnotfound": NotFound,
    "model_not_found": NotFound,
    "modelnotfound": NotFound,
    "resourcenotfound": NotFound,
    "notfound": NotFound,
    "not_found": NotFound,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,
    "contentfilter": ContentFiltered,
    "context_length_exceeded": ContextOverflow,
    "string_above_max_length": InvalidRequest,
    "max_tokens_per_request": InvalidRequest,
    "unsupported_parameter": InvalidRequest,
    "unsupported_value": InvalidRequest,
    "invalid_value": InvalidRequest,
    "invalid_type": InvalidRequest,
    "missing_required_parameter": InvalidRequest,
    "unknown_parameter": InvalidRequest,
    "unrecognized_argument": InvalidRequest,
    "invalid_request_error": InvalidRequest,
    "badrequest": InvalidRequest,
    "operationnotsupported": InvalidRequest,
    "unavailablemodel": InvalidRequest,
    "invalidpayload": InvalidRequest,
    "duplicate_custom_id": InvalidRequest,
    "empty_file": InvalidRequest,
    "empty_batch": InvalidRequest,
    "invalid_json_line": InvalidRequest,
    "too_many_tasks": InvalidRequest,
    "url_mismatch": InvalidRequest,
    "model_mismatch": InvalidRequest,
    "invalid_training_file": InvalidRequest,
    "invalid_file_format": InvalidRequest,
    "invalid_n_examples": InvalidRequest,
    "insufficient_quota": QuotaExceeded,
    "quotaexceeded": QuotaExceeded,
    "token_limit_exceeded": QuotaExceeded,
    "tokenlimitexceeded": QuotaExceeded,
    "insufficientquota": QuotaExceeded,
    "rate_limit_exceeded": RateLimited,
    "ratelimitexceeded": RateLimited,
    "ratelimitreached": RateLimited,
    "too_many_requests": RateLimited,
    "toomanyrequests": RateLimited,
    "nocapacity": CapacityError,
    "modelcapacityexceeded": CapacityError,
    "modelisoverloaded": ServiceUnavailable,
    "engine_overloaded": ServiceUnavailable,
    "server_error": ServiceUnavailable,
    "internalservererror": ServiceUnavailable,
    "internal_error": ServiceUnavailable,
    "internalfailure": ServiceUnavailable,
    "serviceunavailable": ServiceUnavailable,
    "timeout": ServiceUnavailable,
    "invalid_api_key": AuthenticationError,
    "unauthorized": AuthenticationError,
    "permissiondenied": PermissionDenied,
    "accessdenied": PermissionDenied,
    # Azure Resource Manager (Common deployment errors, read 2025-08)
    "authenticationfailed": AuthenticationError,
    "invalidauthenticationtoken": AuthenticationError,
    "invalidauthenticationtokentenant": AuthenticationError,
    "expiredauthenticationtoken": AuthenticationError,
    "authorizationfailed": PermissionDenied,
    "linkedauthorizationfailed": PermissionDenied,
    "requestdisallowedbypolicy": PermissionDenied,
    "resourcegroupnotfound": NotFound,
    "parentresourcenotfound": NotFound,
    "subscriptionnotfound": NotFound,
    "invalidsubscriptionid": NotFound,
    "conflict": Conflict,
    "requestconflict": ServiceUnavailable,  # another operation is under way: later it goes
    "ifmatchpreconditionfailed": Conflict,
    "anotheroperationinprogress": ServiceUnavailable,
    "resourceexists": Conflict,
    "invalidresourceproperties": InvalidRequest,
    "invalidcapacity": InvalidRequest,
    "invalidrequestcontent": InvalidRequest,
    "invalidparameter": InvalidRequest,
    "deploymentmodelnotsupported": InvalidRequest,
    "specialfeatureorquotaidrequired": QuotaExceeded,
    "skunotavailable": CapacityError,
    "allocationfailed": CapacityError,
    "zonalallocationfailed": CapacityError,
    "overconstrainedallocationrequest": CapacityError,
    "outofcapacity": CapacityError,
    "outofquota": QuotaExceeded,
    "operationnotallowed": QuotaExceeded,
    "subscriptionrequeststhrottled": RateLimited,
    # Key Vault (REST API error codes, read 2025-08)
    "secretnotfound": NotFound,
    "vaultnotfound": NotFound,
    "secretdisabled": Conflict,
    "forbiddenbypolicy": PermissionDenied,
    "forbiddenbyrbac": PermissionDenied,
    "forbiddenbyfirewall": PermissionDenied,
    "forbidden": PermissionDenied,
    "badparameter": InvalidRequest,
    "throttled": RateLimited,
    # Azure ML (Troubleshoot online endpoints, read 2025-08)
    "usererror": InvalidRequest,
    "validationerror": InvalidRequest,
    "servererror": ServiceUnavailable,
    "imagebuildfailure": InvalidRequest,
    "badargument": InvalidRequest,
}
"""By the vendor's code, in lower case."""

_IDS: Final = ("apim-request-id", "x-request-id", "x-ms-request-id", "x-ms-client-request-id")
_OVERFLOW: Final = re.compile(
    r"maximum context length is (\d+) tokens.*?(?:requested|resulted in) (\d+)"
)
# Keys are 32 or 84 characters; ids of files and jobs as long follow a prefix and a hyphen.
_KEY: Final = re.compile(r"(?<![-_/\w])[0-9a-zA-Z]{32,}\b")


def request_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's id of a request, from an answer's headers."""
    for name in _IDS:
        found = headers.get(name)
        if found:
            return found
    return None


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> CloudAIError:
    """The error for an answer that is none."""
    return made(
        told(body),
        status=status,
        request_id=request_id(headers),
        retry_after=retry_after(headers),
    )


def told(body: bytes) -> dict[str, Any]:
    """What the body says: Azure's ``{"error": {…}}``, the gateway's ``{"statusCode", "message"}``,
    or a text of a proxy in between."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body[:200].decode("utf-8", "replace").strip()
        return {"message": text.splitlines()[0] if text else ""}
    if not isinstance(decoded, dict):
        return {"message": str(decoded)[:200]}
    inner = decoded.get("error", decoded)
    return inner if isinstance(inner, dict) else {"message": str(inner)}


def made(
    inner: Mapping[str, Any],
    *,
    status: int | None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> CloudAIError:
    """The error that ``{"code", "message", "innererror", …}`` describes."""
    innermost: Any = inner.get("innererror") or {}
    code = str(inner.get("code") or inner.get("type") or "")
    deep = str(innermost.get("code") or "") if isinstance(innermost, dict) else ""
    message = _clean(str(inner.get("message") or "")) or f"HTTP status {status}"
    kind = CODES.get(deep.lower()) or CODES.get(code.lower()) or STATUSES.get(status or 0)
    if kind is InvalidRequest and code.lower() == "invalid_request_error":
        # A type, which OpenAI-like servers give every refusal: the status says more.
        kind = STATUSES.get(status or 0, kind)
        kind = ContextOverflow if kind is InvalidRequest and _OVERFLOW.search(message) else kind
    if status == 401 and not (kind and issubclass(kind, AuthenticationError)):
        kind = AuthenticationError
    if kind is None:
        kind = ServiceUnavailable if status is None or status >= 500 else ProviderError
    about: dict[str, Any] = {
        "provider": "azure",
        "code": deep or code or None,
        "status": status,
        "request_id": request_id,
        "retry_after": retry_after,
    }
    if status is not None and status >= 500 and kind is ServiceUnavailable:
        about["ambiguous"] = True
    if kind is ContextOverflow:
        limit, tokens = _numbers(message)
        return ContextOverflow(
            message, tokens=tokens, limit=limit, field="messages", **_hinted(about, kind, inner)
        )
    if issubclass(kind, InvalidRequest):
        return kind(message, field=inner.get("param"), **_hinted(about, kind, inner))
    return kind(message, **_hinted(about, kind, inner))


def _hinted(
    about: dict[str, Any], kind: type[CloudAIError], inner: Mapping[str, Any]
) -> dict[str, Any]:
    hint = None
    if kind is ContentFiltered:
        hint = _filtered(inner) or "Change the prompt, or the resource's content filter"
    elif kind is AuthenticationError:
        hint = "Look at api_key or credential of the profile, and that it belongs to this endpoint"
    elif kind is PermissionDenied:
        hint = "Give the identity a role on the resource, such as Cognitive Services OpenAI User"
    elif kind is QuotaExceeded:
        hint = "Ask for more quota in the Azure portal, or lower the capacity"
    elif kind is ContextOverflow:
        hint = "Shorten the conversation, or lower max_tokens"
    about["hint"] = hint
    return about


def _filtered(inner: Mapping[str, Any]) -> str | None:
    """Which categories of the content filter said no."""
    deep = inner.get("innererror")
    results = deep.get("content_filter_result") if isinstance(deep, dict) else None
    if not isinstance(results, dict):
        return None
    said = [
        f"{name} ({result.get('severity', 'detected')})"
        for name, result in results.items()
        if isinstance(result, dict) and (result.get("filtered") or result.get("detected"))
    ]
    return f"Filtered: {', '.join(said)}" if said else None


def _numbers(message: str) -> tuple[int | None, int | None]:
    match = _OVERFLOW.search(message)
    return (int(match[1]), int(match[2])) if match else (None, None)


def _clean(message: str) -> str:
    """The vendor's message in one line, without what looks like a key: a 401 of OpenAI's
    repeats part of the key, and some gateways repeat all of it."""
    line = " ".join(message.split())
    return _KEY.sub("***", line)[:1000]


def refuse(violations: Sequence[Violation]) -> None:
    """Raises InvalidRequest for the first violation."""
    if violations:
        first = violations[0]
        raise InvalidRequest(
            f"{first.field} {first.problem}",
            field=first.field,
            provider="azure",
            hint=first.mend or None,
        )
