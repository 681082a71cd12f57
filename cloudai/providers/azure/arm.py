"""Azure Resource Manager: requests through the SDK's pipeline, errors by our table."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from cloudai._core.calls.paging import paged
from cloudai.errors import AuthenticationError, CallTimeout, CloudAIError, ConnectionFailed
from cloudai.protocols import Call
from cloudai.providers.azure.errors import error_of, retry_after
from cloudai.providers.azure.session import AzureSession

CONNECT: Final = 10.0
_SHORTEST: Final = 0.05
_USUAL: Final = 2.0
_LONGEST: Final = 15.0
"""Seconds between two looks at an operation; between the first and the last what the service
says, else the second."""


class Answer(msgspec.Struct, frozen=True):
    """An answer with status 2xx, decoded; None where it had no body."""

    status: int
    body: Any
    headers: dict[str, str]


def send(
    session: AzureSession,
    method: str,
    path: str,
    api_version: str,
    call: Call,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    client: Any = None,
) -> Answer:
    """One request. ``path`` may be a whole URL, as ``nextLink`` and operations give it;
    ``client`` another pipeline than Resource Manager's. Raises CloudAIError."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        ServiceRequestError,
        ServiceResponseError,
    )
    from azure.core.rest import HttpRequest

    client = client or session.arm
    whole = path.startswith("https://")
    query = {} if whole else {"api-version": api_version, **(params or {})}
    request = HttpRequest(
        method,
        path if whole else f"{session.management_endpoint}{path}",
        params=query,
        content=None if body is None else msgspec.json.encode(body),
        headers={
            "Accept": "application/json",
            **({} if body is None else {"Content-Type": "application/json"}),
            **(headers or {}),
        },
    )
    left = call.remaining()
    try:
        response: Any = client.send_request(
            request, connection_timeout=min(CONNECT, left), read_timeout=left
        )
        content: bytes = response.content
    except ClientAuthenticationError as error:
        raise AuthenticationError(
            f"no token for Azure Resource Manager: {_line(error)}",
            provider="azure",
            hint="Sign in (az login), or set credential; an API key does not open management",
        ) from None
    except ServiceRequestError as error:
        raise ConnectionFailed(
            f"no connection: {_line(error)}",
            provider="azure",
            hint="Look at management_endpoint, DNS and proxies",
        ) from error
    except ServiceResponseError as error:
        if "timed out" in str(error).lower():
            raise CallTimeout("no answer in time", provider="azure", ambiguous=True) from error
        raise ConnectionFailed(
            f"the connection broke: {_line(error)}", provider="azure", ambiguous=True
        ) from error
    except AzureError as error:
        raise AuthenticationError(_line(error), provider="azure") from None
    low = {name.lower(): value for name, value in response.headers.items()}
    if not 200 <= response.status_code < 300:
        raise error_of(response.status_code, low, content)
    return Answer(response.status_code, _decoded(content, low), low)


def _decoded(content: bytes, headers: dict[str, str]) -> Any:
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        error: CloudAIError = error_of(502, headers, content)
        raise error from None


def settled(session: AzureSession, answer: Answer, call: Call) -> bool:
    """Waits for the end of the operation that an answer begins; whether it succeeded. An answer
    that begins none has done its work. Raises CallTimeout when the call's time is over."""
    url = answer.headers.get("azure-asyncoperation")
    if not url:
        return True
    told = retry_after(answer.headers)
    pause = min(_LONGEST, max(_SHORTEST, _USUAL if told is None else told))
    while True:
        body = send(session, "GET", url, "", call).body or {}
        state = str(body.get("status") or "").lower()
        if state in {"succeeded", "failed", "canceled"}:
            return state == "succeeded"
        time.sleep(min(pause, call.remaining()))


def pages(session: AzureSession, path: str, api_version: str, call: Call) -> list[Any]:
    """All items of a list that comes in pages."""

    def fetch(link: str | None) -> tuple[list[Any], str | None]:
        body = send(session, "GET", link or path, api_version, call).body or {}
        return body.get("value") or [], body.get("nextLink")

    return list(paged("azure", fetch))


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
