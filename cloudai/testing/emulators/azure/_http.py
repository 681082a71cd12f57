"""Requests and answers of the emulated services, and the table that finds a handler."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote

import msgspec


class Request(msgspec.Struct, kw_only=True):
    """One request as it came.

    Parameters
    ----------
    path: with its percent signs resolved. query: the last value of each name.
    headers: by name in lower case. groups: what the route's pattern caught.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    secure: bool
    host: str
    groups: dict[str, str] = {}

    def json(self) -> Any:
        """The body. Raises Refused for what is no JSON."""
        try:
            return json.loads(self.body or b"null")
        except ValueError as error:
            raise Refused(
                400, "BadRequest", f"The request body is not valid JSON: {error}"
            ) from None


class Response(msgspec.Struct, kw_only=True):
    """An answer; ``body`` is JSON, bytes, or an iterable of bytes."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}
    content_type: str = "application/json"


class Refused(Exception):
    """A request that the service refuses."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: dict[str, str] | None = None,
        param: str | None = None,
        inner: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        error: dict[str, Any] = {"code": code, "message": message}
        if param is not None:
            error["param"] = param
        if inner is not None:
            error["innererror"] = inner
        self.response = Response(status=status, body={"error": error}, headers=headers or {})


Handler: TypeAlias = Callable[[Request], Response]


class Routes:
    """Handlers by method and path. ``{name}`` in a pattern catches one segment."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """Puts a handler into the table; the first that fits is taken. Case does not matter, as
        with Azure's own paths."""
        expression = re.sub(r"(?<!\$)\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
        self._rows.append((method, re.compile(f"{expression}/?\\Z", re.IGNORECASE), handler))

    def find(self, request: Request) -> Response:
        """Raises Refused where nothing fits."""
        known = False
        for method, pattern, handler in self._rows:
            match = pattern.match(request.path)
            if match is None:
                continue
            known = True
            if method == request.method:
                request.groups = match.groupdict()
                return handler(request)
        if known:
            raise Refused(405, "MethodNotAllowed", "The method is not allowed on this resource.")
        raise Refused(404, "404", "Resource not found")


_IDS: Final = ("apim-request-id", "x-request-id", "x-ms-request-id")


def read(environ: dict[str, Any]) -> Request:
    """The request of a WSGI environment."""
    raw = environ.get("REQUEST_URI") or environ["PATH_INFO"]
    return Request(
        method=environ["REQUEST_METHOD"],
        path=unquote(raw.partition("?")[0]),
        query={k: v[-1] for k, v in parse_qs(environ.get("QUERY_STRING", "")).items()},
        headers={
            **{
                name[5:].replace("_", "-").lower(): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            },
            "content-type": environ.get("CONTENT_TYPE", ""),
        },
        body=_body(environ),
        secure=environ["wsgi.url_scheme"] == "https",
        host=environ.get("HTTP_HOST", ""),
    )


def _body(environ: dict[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return stream.read()
    return stream.read(int(environ.get("CONTENT_LENGTH") or 0))


def write(response: Response, start: Callable[..., Any]) -> Iterable[bytes]:
    """The answer as WSGI wants it."""
    body = response.body
    headers = [(name, value) for name, value in response.headers.items()]
    identity = secrets.token_hex(8)
    headers.extend((name, identity) for name in _IDS)
    status = f"{response.status} {HTTPStatus(response.status).phrase}"
    if body is not None and not isinstance(body, (bytes, dict, list, str)):
        headers.append(("Content-Type", response.content_type))
        start(status, headers)
        return body
    content = (
        b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    )
    if content:
        headers.append(("Content-Type", response.content_type))
    headers.append(("Content-Length", str(len(content))))
    start(status, headers)
    return [content]
