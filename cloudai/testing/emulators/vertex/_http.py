"""Requests, answers and routes of the emulator; Google's shape of an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec

STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}


class Refused(Exception):
    """The service refuses a request.

    Parameters
    ----------
    http: the status. status: of google.rpc.Code. fields: the offending ones.
    """

    def __init__(self, http: int, status: str, message: str, *, fields: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.http = http
        self.status = status
        self.message = message
        self.fields = list(fields)

    def body(self) -> bytes:
        return error_body(self.http, self.message, self.status, self.fields)[1]


def error_body(
    http: int, message: str, status: str | None = None, fields: Iterable[str] = ()
) -> tuple[str, bytes]:
    """Google's shape of an error: content type and body."""
    details = [
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": message} for field in fields],
        }
    ]
    error: dict[str, Any] = {
        "code": http,
        "message": message,
        "status": status or STATUSES.get(http, "UNKNOWN"),
    }
    if list(fields):
        error["details"] = details
    return "application/json; charset=UTF-8", msgspec.json.encode({"error": error})


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came.

    Parameters
    ----------
    path: decoded. raw_path: as it was sent, without the query. query: its pairs.
    headers: names in lower case; without the token. body: the bytes.
    """

    method: str
    path: str
    raw_path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded. Raises Refused where it is no JSON."""
        try:
            return msgspec.json.decode(self.body) if self.body else {}
        except msgspec.DecodeError as error:
            raise Refused(
                400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {error}"
            ) from None


class Answer(msgspec.Struct, kw_only=True):
    """One answer: JSON, bytes, or a stream of them."""

    json: Any = None
    data: bytes | Iterator[bytes] | None = None
    http: int = 200
    headers: dict[str, str] = {}


Handler: TypeAlias = Callable[..., "Answer | dict[str, Any] | list[Any]"]

_PHRASES: Final = {200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content"}


class Router:
    """Finds the handler of a request: the first route that fits."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, pattern: str, handler: Handler) -> None:
        """``pattern``: a path with ``{name}`` (one segment) and ``{name*}`` (several)."""
        expression = re.sub(
            r"\\\{(\w+)(\\\*)?\\\}",
            lambda m: f"(?P<{m[1]}>.+)" if m[2] else f"(?P<{m[1]}>[^/:]+)",
            re.escape(pattern),
        )
        self._routes.append((method, re.compile(expression + r"\Z"), handler))

    def find(self, request: Request) -> tuple[Handler, dict[str, str]] | None:
        for method, pattern, handler in self._routes:
            if method == request.method and (match := pattern.match(request.raw_path)):
                return handler, {name: unquote(text) for name, text in match.groupdict().items()}
        return None


def read(environ: dict[str, Any]) -> tuple[Request, str | None]:
    """The request of a WSGI environment, and its bearer token."""
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = environ[name]
    token = headers.pop("authorization", None)
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ["PATH_INFO"])
    raw = re.sub(r"\Ahttps?://[^/]+", "", raw).partition("?")[0]
    if environ.get("wsgi.input_terminated"):
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    request = Request(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"],
        raw_path=raw,
        query=dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)),
        headers=headers,
        body=body,
    )
    return request, token.removeprefix("Bearer ") if token else None


def send(answer: Answer, start: Callable[..., Any]) -> Iterable[bytes]:
    """Carries out an answer."""
    headers = dict(answer.headers)
    data = answer.data
    if data is None:
        data = b"" if answer.http == 204 else msgspec.json.encode(answer.json)
        headers.setdefault("Content-Type", "application/json; charset=UTF-8")
    if isinstance(data, bytes):
        headers.setdefault("Content-Length", str(len(data)))
        start(f"{answer.http} {_PHRASES.get(answer.http, 'Status')}", list(headers.items()))
        return [data]
    start(f"{answer.http} {_PHRASES.get(answer.http, 'Status')}", list(headers.items()))
    return data
