"""Cassettes: recorded exchanges in one format for all clouds, without their secrets.

The format is vcrpy's (version 1), so that its cassettes load as they are and it loads ours: YAML
where the file ends in .yaml or .yml, else JSON. Ours may add to a response ``chunks`` (the
lengths in which an event stream came) and ``truncated`` (the connection broke in the body).
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from cloudai.errors import ConfigError, MissingExtra

HIDDEN: Final = "SCRUBBED"
"""What stands in a cassette in the place of a secret."""

SECRET_HEADERS: Final = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "proxy-authorization",
        "set-cookie",
        "x-amz-security-token",
        "x-api-key",
        "x-goog-api-key",
        "x-ms-authorization-auxiliary",
    }
)
SECRET_NAMES: Final = frozenset(
    {
        "access_token",
        "accesskeyid",
        "api_key",
        "apikey",
        "assertion",
        "client_assertion",
        "client_secret",
        "id_token",
        "key",
        "password",
        "private_key",
        "refresh_token",
        "secret",
        "secretaccesskey",
        "secretbinary",
        "secretstring",
        "sessiontoken",
        "sig",
        "subject_token",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)
"""Names, in lower case, of query parameters and of fields of forms whose values are secrets;
and, but for the short ones that mean much else there, of JSON fields."""

# In a JSON body these are ordinary words: a key of a map, a token of a text.
_JSON_NAMES: Final = SECRET_NAMES - {"key", "token", "secret", "sig"}

_SHORTEST: Final = 8
"""A learned value shorter than this is not looked for elsewhere: it would hit by chance."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded answer. ``chunks`` are the lengths in which an event stream came."""

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    chunks: tuple[int, ...] = ()
    truncated: bool = False


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded request with its answer."""

    method: str
    uri: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    response: Response


_GZIP: Final = b"\x1f\x8b"


def unpack(body: bytes) -> bytes:
    """A gzip body's content; of one that broke off, what had come."""
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)


def _repacked(exchange: Exchange, pack: Callable[[bytes], bytes]) -> Exchange:
    """The exchange with its answer's body packed or unpacked, which no longer comes in pieces."""
    body = pack(exchange.response.body)
    response = msgspec.structs.replace(exchange.response, body=body, chunks=())
    return msgspec.structs.replace(exchange, response=response)


class Scrubber:
    """Takes secrets out of exchanges.

    Headers, query parameters and fields that hold secrets by their name are hidden, and their
    values wherever else they occur, in any exchange that comes after.

    Parameters
    ----------
    secrets: further values to hide.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values = {value for value in secrets if value}

    def exchange(self, exchange: Exchange) -> Exchange:
        """The exchange without its secrets."""
        # Names first, over the whole exchange, so that what they teach is hidden everywhere.
        packed = exchange.response.body[:2] == _GZIP
        if packed:
            exchange = _repacked(exchange, unpack)
        headers = self._headers(exchange.headers)
        uri = self._uri(exchange.uri)
        body = self._body(exchange.body, exchange.headers)
        response = exchange.response
        answered = self._headers(response.headers)
        told = self._body(response.body, response.headers)
        done = msgspec.structs.replace(
            exchange,
            headers=self._plain_headers(headers),
            uri=self._plain(uri),
            body=self._plain_bytes(body),
            response=msgspec.structs.replace(
                response,
                headers=self._plain_headers(answered),
                body=self._plain_bytes(told),
                # A body of another length no longer comes in the pieces it came in.
                chunks=response.chunks if len(told) == len(response.body) else (),
            ),
        )
        return _repacked(done, gzip.compress) if packed else done

    def request(
        self, method: str, uri: str, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> Exchange:
        """A request as it would stand in a cassette, to be compared with what does."""
        return self.exchange(
            Exchange(
                method=method,
                uri=uri,
                headers=headers,
                body=body,
                response=Response(status=0),
            )
        )

    def _learn(self, value: str) -> str:
        # "Bearer x" teaches x; a signature's own words are of no use elsewhere.
        for part in (value, *value.split()):
            if len(part) >= _SHORTEST and part.lower() not in {"bearer", HIDDEN.lower()}:
                self._values.add(part)
        return HIDDEN

    def _headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, self._learn(value) if name.lower() in SECRET_HEADERS else value)
            for name, value in headers
        )

    def _plain_headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple((name, self._plain(value)) for name, value in headers)

    def _uri(self, uri: str) -> str:
        parts = urlsplit(uri)
        return urlunsplit(parts._replace(query=self._form(parts.query)))

    def _form(self, text: str) -> str:
        pairs = parse_qsl(text, keep_blank_values=True)
        if not any(name.lower() in SECRET_NAMES for name, _ in pairs):
            return text
        return urlencode(
            [
                (name, self._learn(value) if name.lower() in SECRET_NAMES else value)
                for name, value in pairs
            ]
        )

    def _body(self, body: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
        kind = next((value for name, value in headers if name.lower() == "content-type"), "")
        if "x-www-form-urlencoded" in kind:
            return self._form(body.decode("utf-8", "replace")).encode()
        if "json" in kind:
            try:
                value = json.loads(body)
            except ValueError:
                return body
            hidden = self._json(value)
            return body if hidden == value else msgspec.json.encode(hidden)
        return body

    def _json(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: self._learn(inner)
                if isinstance(inner, str) and str(name).lower() in _JSON_NAMES
                else self._json(inner)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._json(inner) for inner in value]
        return value

    def _plain(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, HIDDEN).replace(quote(value, safe=""), HIDDEN)
        return text

    def _plain_bytes(self, body: bytes) -> bytes:
        for value in sorted(self._values, key=len, reverse=True):
            body = body.replace(value.encode(), HIDDEN.encode())
        return body


def load(path: Path) -> list[Exchange]:
    """The exchanges of a cassette, ours or vcrpy's. Raises ConfigError for one that cannot be
    read."""
    try:
        text = path.read_text(encoding="utf-8")
        data = _read_yaml(text) if _is_yaml(path) else json.loads(text)
        return [_exchange(one) for one in data["interactions"]]
    except OSError as error:
        raise ConfigError(f"the cassette {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no cassette: {error!r}") from error


def save(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Writes a cassette, in one step."""
    data = {"interactions": [_plain_exchange(one, path) for one in exchanges], "version": 1}
    if _is_yaml(path):
        text = _yaml().safe_dump(data, sort_keys=True, allow_unicode=True)
    else:
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def same(one: Exchange, other: Exchange, match: Iterable[str]) -> bool:
    """Whether two requests are the same in what ``match`` names: ``method``, ``host``,
    ``path``, ``query``, ``body``."""
    here, there = urlsplit(one.uri), urlsplit(other.uri)
    compared = {
        "method": lambda: one.method.upper() == other.method.upper(),
        "host": lambda: here.netloc.lower() == there.netloc.lower(),
        # Clients differ in what they escape ("us.model:0" or "us.model%3A0").
        "path": lambda: unquote(here.path) == unquote(there.path),
        "query": lambda: (
            sorted(parse_qsl(here.query, keep_blank_values=True))
            == sorted(parse_qsl(there.query, keep_blank_values=True))
        ),
        "body": lambda: one.body == other.body or _value(one.body) == _value(other.body),
    }
    return all(compared[part]() for part in match)


def _value(body: bytes) -> Any:
    """What JSON says; the body itself where it is none, told apart from any JSON value."""
    try:
        return json.loads(body)
    except ValueError:
        return (body,)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in {".yaml", ".yml"}


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise MissingExtra("PyYAML", extra="testing") from None
    return yaml


def _read_yaml(text: str) -> Any:
    yaml = _yaml()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _exchange(given: Mapping[str, Any]) -> Exchange:
    request, response = given["request"], given["response"]
    status = response["status"]
    return Exchange(
        method=request["method"],
        uri=request["uri"],
        headers=_pairs(request.get("headers")),
        body=_bytes(request.get("body")),
        response=Response(
            status=int(status["code"] if isinstance(status, Mapping) else status),
            reason=str(status.get("message") or "") if isinstance(status, Mapping) else "",
            headers=_pairs(response.get("headers")),
            body=_bytes(response.get("body")),
            chunks=tuple(response.get("chunks") or ()),
            truncated=bool(response.get("truncated")),
        ),
    )


def _pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for name, values in dict(headers or {}).items():
        listed = values if isinstance(values, list) else [values]
        pairs += [(str(name), _text(value)) for value in listed]
    return tuple(pairs)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _bytes(body: Any) -> bytes:
    if isinstance(body, Mapping):
        if "base64_string" in body or "base64" in body:
            return base64.b64decode(body.get("base64_string") or body.get("base64") or "")
        body = body.get("string")
    if body is None:
        return b""
    return body if isinstance(body, bytes) else str(body).encode()


def _plain_exchange(one: Exchange, path: Path) -> dict[str, Any]:
    response = one.response
    told: dict[str, Any] = {
        "status": {"code": response.status, "message": response.reason},
        "headers": _lists(response.headers),
        "body": _plain_body(response.body, path),
    }
    if response.chunks:
        told["chunks"] = list(response.chunks)
    if response.truncated:
        told["truncated"] = True
    asked = _plain_body(one.body, path)
    return {
        "request": {
            "method": one.method,
            "uri": one.uri,
            "headers": _lists(one.headers),
            "body": asked.get("string", asked) if one.body else None,
        },
        "response": told,
    }


def _lists(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for name, value in headers:
        made.setdefault(name, []).append(value)
    return made


_UNSAFE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _plain_body(body: bytes, path: Path) -> dict[str, Any]:
    try:
        text = body.decode("utf-8")
        if not _UNSAFE.search(text):
            return {"string": text}
    except UnicodeDecodeError:
        pass
    # YAML has a type for bytes, which is what vcrpy writes; JSON has none.
    return {"string": body} if _is_yaml(path) else {"base64": base64.b64encode(body).decode()}
