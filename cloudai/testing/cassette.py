"""Cassettes: recorded exchanges in one format for all clouds; ``scrub.py`` takes their secrets out.

The format is vcrpy's (version 1), so that its cassettes load as they are and it loads ours: YAML
where the file ends in .yaml or .yml, else JSON. Ours may add to a response ``chunks`` (the
lengths in which an event stream came) and ``truncated`` (the connection broke in the body).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from cloudai._core.state.disk import write_whole
from cloudai.errors import ConfigError, MissingExtra


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
    write_whole(path, text.encode(), mode=0o666)


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
