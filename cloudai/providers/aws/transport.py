"""The core's transport, as botocore's clients want their HTTP session.

botocore fixes its time limits when a client is made; here every request is sent with what is left
of its call's deadline, over connections that all clients of a session share.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from urllib3 import exceptions as bad

from cloudai._core.calls.http import Http
from cloudai._core.profiles.secrets import Hidden

QUIET: Final = 60.0
"""Seconds that a request without a deadline may take."""

remaining: Final[ContextVar[Callable[[], float] | None]] = ContextVar("remaining", default=None)
"""Gives the seconds left to the call that botocore's request belongs to."""


class BotocoreSession:
    """The pool of a session."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        left = remaining.get()
        url, body, streamed = request.url, request.body, request.stream_output
        method = str(request.method)
        parts = urlsplit(str(url))
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        base = f"{parts.scheme}://{parts.netloc}"
        headers = {name: Hidden(_text(value)) for name, value in request.headers.items()}
        del request  # its repr shows its headers, the session's token among them
        # http.client sends a body at once; the pause that Expect asks for has no use then.
        headers.pop("Expect", None)
        raw = self._http.raw(
            method,
            base,
            target,
            headers,
            body,
            QUIET if left is None else left(),
            decode=False,
            chunked=headers.get("Transfer-Encoding") == "chunked",
        )
        response = AWSResponse(url, raw.status, raw.headers, raw)
        if not streamed:
            try:
                response.content  # noqa: B018 - read here, where failures are told apart
            except (bad.HTTPError, OSError) as error:
                raise self._http.failed(error, base) from error
        return response

    def close(self) -> None:
        """The pool is closed by the session that owns it."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
