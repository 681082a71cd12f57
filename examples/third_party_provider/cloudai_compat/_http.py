"""One HTTP request, and what its failure means in cloudai's tree of errors."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from cloudai import Profile
from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    ContextOverflow,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProviderError,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.protocols import Call

PROVIDER = "compat"

_BY_STATUS: dict[int, type[CloudAIError]] = {
    400: InvalidRequest,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    422: InvalidRequest,
    429: RateLimited,
}


@contextmanager
def asked(
    profile: Profile, path: str, body: dict[str, Any], call: Call
) -> Iterator[http.client.HTTPResponse]:
    """The answer of a POST, open for reading. Makes one attempt: whoever called it tries again."""
    endpoint = urlsplit(str(profile.require("endpoint")).rstrip("/"))
    kind = http.client.HTTPSConnection if endpoint.scheme == "https" else http.client.HTTPConnection
    headers = {"Content-Type": "application/json"}
    key = profile.secret("api_key")
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    connection = kind(endpoint.netloc, timeout=call.remaining())
    try:
        with passing():
            connection.request("POST", endpoint.path + path, json.dumps(body), headers)
            response = connection.getresponse()
            failed = response.read() if response.status >= 400 else b""
        if failed or response.status >= 400:
            raise error(response, failed)
        yield response
    finally:
        connection.close()


@contextmanager
def passing() -> Iterator[None]:
    """What a broken connection means."""
    try:
        yield
    except TimeoutError as late:
        raise CallTimeout("the server did not answer in time", provider=PROVIDER) from late
    except (OSError, http.client.HTTPException) as broken:
        refused = isinstance(broken, (ConnectionRefusedError, socket.gaierror))
        raise ConnectionFailed(
            f"the connection failed: {type(broken).__name__}",
            provider=PROVIDER,
            ambiguous=not refused,
        ) from broken


def error(response: http.client.HTTPResponse, body: bytes) -> CloudAIError:
    """The error that an answer says."""
    try:
        about = json.loads(body).get("error") or {}
    except (ValueError, AttributeError):
        about = {}
    about = about if isinstance(about, dict) else {"message": str(about)}
    message = str(about.get("message") or response.reason)
    status = response.status
    told: dict[str, Any] = {
        "provider": PROVIDER,
        "status": status,
        "code": str(about.get("code") or status),
        "request_id": response.getheader("x-request-id"),
        "retry_after": seconds(response.getheader("Retry-After")),
    }
    if re.search(r"maximum (context|input) length|context_length_exceeded", f"{message}{about}"):
        numbers = [int(number) for number in re.findall(r"(\d+) tokens", message)]
        limit = numbers[0] if numbers else None
        tokens = numbers[1] if len(numbers) > 1 else None
        return ContextOverflow(message, limit=limit, tokens=tokens, **told)
    if status >= 500:
        return ServiceUnavailable(message, **told)
    return _BY_STATUS.get(status, ProviderError)(message, **told)


def seconds(text: str | None) -> float | None:
    """Retry-After's seconds."""
    try:
        return float(text) if text else None
    except ValueError:
        return None
