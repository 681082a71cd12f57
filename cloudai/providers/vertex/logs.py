"""Cloud Logging: the lines of a job or an endpoint, page by page.

Entries of several machines arrive out of order by some seconds, so that each look goes back a
little and leaves out what it has seen.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cloudai._core.calls.paging import paged
from cloudai.protocols import Call
from cloudai.providers.vertex.common import seconds
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.session import VertexSession
from cloudai.types import LogLine, LogPage
from cloudai.types._base import invalid, met

BACK: Final = 10.0
"""Seconds that a look goes back."""
_PAGE: Final = 1000


class _Cursor(msgspec.Struct):
    last: float = 0.0
    seen: list[str] = []


def read(
    session: VertexSession, what: str, since: float | None, cursor: str | None, call: Call
) -> LogPage:
    """The lines that are new since ``cursor``.

    Parameters
    ----------
    what: a filter of Cloud Logging. since: Unix seconds before which there is nothing.
    """
    state = _decoded(cursor)
    begin = state.last - BACK if state.last else (since or 0.0) - BACK
    query = what
    if begin > 0:
        query += f' AND timestamp>="{_stamp(begin)}"'
    seen = set(state.seen)
    found: list[dict[str, Any]] = []
    recent: list[tuple[float, str]] = []

    def fetch(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{session.project}"],
            "filter": query,
            "orderBy": "timestamp asc",
            "pageSize": _PAGE,
        }
        if token:
            body["pageToken"] = token
        page = session.http.json("POST", session.url("logging"), "/v2/entries:list", body, call)
        # A cursor covers whole pages: no further one is asked for once this look has its fill.
        entries: list[dict[str, Any]] = page.get("entries", [])
        fresh = sum(str(entry.get("insertId", "")) not in seen for entry in entries)
        full = len(found) + fresh >= _PAGE
        return entries, None if full else page.get("nextPageToken")

    for entry in paged(PROVIDER, fetch):
        at = seconds(entry.get("timestamp")) or 0.0
        name = str(entry.get("insertId", ""))
        recent.append((at, name))
        if name not in seen:
            found.append(entry)
    last = max([at for at, _ in recent], default=state.last)
    kept = [name for at, name in recent if at >= last - BACK]
    return LogPage(
        lines=tuple(_line(entry) for entry in found),
        cursor=_encoded(_Cursor(last, kept if recent else state.seen)),
    )


def tail(
    session: VertexSession, what: str, since: float | None, count: int, call: Call
) -> tuple[str, ...]:
    """The texts of a log's last lines, in order. Parameters as of ``read``; ``count``: how many
    at most."""
    begin = (since or 0.0) - BACK
    body = {
        "resourceNames": [f"projects/{session.project}"],
        "filter": what + (f' AND timestamp>="{_stamp(begin)}"' if begin > 0 else ""),
        "orderBy": "timestamp desc",
        "pageSize": count,
    }
    page = session.http.json("POST", session.url("logging"), "/v2/entries:list", body, call)
    return tuple(_line(entry).text for entry in reversed(page.get("entries", [])[:count]))


def _line(entry: dict[str, Any]) -> LogLine:
    text = entry.get("textPayload")
    if text is None:
        payload = entry.get("jsonPayload") or {}
        text = payload.get("message")
        if text is None:
            text = msgspec.json.encode(payload).decode()
    labels = entry.get("resource", {}).get("labels", {})
    return LogLine(
        str(text).rstrip("\n"),
        seconds(entry.get("timestamp")),
        str(labels.get("task_name") or labels.get("deployed_model_id") or ""),
    )


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _encoded(cursor: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def _decoded(cursor: str | None) -> _Cursor:
    if cursor is None:
        return _Cursor()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=met(_Cursor))
    except ValueError:
        raise invalid("cursor", cursor, "is not one of this provider") from None
