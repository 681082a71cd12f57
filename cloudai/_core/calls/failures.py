"""What a request that got no answer, or no good one, means: one reading for all providers."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CertificateRefused,
    CloudAIError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)

STATUSES: Final[dict[int, type[CloudAIError]]] = {
    400: InvalidRequest,
    401: AuthenticationError,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: NotFound,
    405: InvalidRequest,
    408: ServiceUnavailable,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    416: InvalidRequest,
    422: InvalidRequest,
    424: ServiceUnavailable,
    429: RateLimited,
}
"""What a status means where the answer says no more (RFC 9110; 424 is a gateway's)."""


def by_status(status: int | None) -> type[CloudAIError]:
    """The class for a status."""
    if status is None:
        return ProviderError
    return ServiceUnavailable if status >= 500 else STATUSES.get(status, ProviderError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a service asks to wait; None where it does not say.

    ``headers``: of whatever case. Retry-After is seconds or a date (RFC 9110, 10.2.3); Azure
    has it in milliseconds too, which say more.
    """
    low: Mapping[str, str] = {}
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "retry-after"):
        text = headers.get(name) or headers.get(name.title())
        if text is None:
            low = low or {key.lower(): value for key, value in headers.items()}
            text = low.get(name)
        if not text:
            continue
        try:
            seconds = float(text) / (1000.0 if name.endswith("ms") else 1.0)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
            except (TypeError, ValueError):
                continue
        if seconds == seconds and seconds != float("inf"):  # "nan" and "inf" are numbers too
            return max(0.0, seconds)
    return None


def unreachable(
    error: BaseException, provider: str, where: str, *, sent: bool, hint: str | None = None
) -> CloudAIError:
    """The error for a connection that could not be made, or that broke.

    Parameters
    ----------
    where: the address that was asked, without a path. sent: whether the request may have
        arrived. hint: where to look.
    """
    refused = _certificate(error)
    if refused is not None:
        return CertificateRefused(
            f"the TLS certificate of {where} is not trusted ({refused})",
            provider=provider,
            hint="For authorities of your own, name their bundle in REQUESTS_CA_BUNDLE",
        )
    text = " ".join(str(error).split())[:300]
    what = "the connection broke" if sent else "no connection could be made"
    return ConnectionFailed(
        f"{what}: {where}: {text or type(error).__name__}",
        provider=provider,
        ambiguous=sent,
        hint=hint,
    )


def late(provider: str, where: str, *, sent: bool = True) -> CloudAIError:
    """The error for a call that outlasted its deadline."""
    return CallTimeout(f"{where} did not answer in time", provider=provider, ambiguous=sent)


def too_large(provider: str, where: str, most: int) -> CloudAIError:
    """The error for an answer that is larger than it can be."""
    return ProviderError(
        f"{where} answers with more than the {most >> 20} MiB that are taken",
        provider=provider,
        hint="Something else than the service may be answering: look at the address and proxies",
    )


def _certificate(error: BaseException) -> str | None:
    """Why a certificate was refused, where that is behind an error, however often wrapped."""
    seen: set[int] = set()
    todo: list[object] = [error]
    found = None
    while todo:
        one = todo.pop()
        if isinstance(one, ssl.SSLCertVerificationError):
            found = "it was not accepted"
            told = getattr(one, "verify_message", "")  # aiohttp's own subclass has none
            if told:
                return str(told)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            todo += [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]
    return found


class Told(dict[str, Any]):
    """A service's answer. A field that it lacks is the service's fault, and no KeyError.

    Parameters
    ----------
    what: whose answer it is. fields: as decoded. Raises ProviderError where they are no object.
    """

    def __init__(self, provider: str, what: str, fields: Any) -> None:
        self._whose = provider, what
        if not isinstance(fields, dict):
            raise ProviderError(f"the answer of {what} is no object", provider=provider)
        super().__init__(fields)

    def __missing__(self, key: str) -> Any:
        provider, what = self._whose
        raise ProviderError(f"the answer of {what} lacks {key!r}", provider=provider)
