"""Logs from CloudWatch: pages of lines over all streams of a job or an endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from cloudai._core.calls.paging import paged
from cloudai.errors import InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.aws.session import AwsSession
from cloudai.types import LogLine, LogPage

_PAGE: Final = 10_000
"""Events in one answer of GetLogEvents at most (API reference, read 2026-11)."""


_STAMP: Final = re.compile(r"-\d{10,}\Z")
"""The time at the end of a stream's name."""


class _Cursor(msgspec.Struct, array_like=True):
    """The next token of each stream."""

    tokens: dict[str, str] = {}


_decode: Final = msgspec.json.Decoder(_Cursor).decode


def page(session: AwsSession, group: str, prefix: str, cursor: str | None, call: Call) -> LogPage:
    """What is new since the cursor, one answer of each stream at most; no lines at the end of what
    there is so far.

    Parameters
    ----------
    group: the log group. prefix: of the streams' names; each stream is a machine or a variant.
    """
    try:
        at = _decode(cursor) if cursor else _Cursor()
    except msgspec.DecodeError:
        raise InvalidRequest(
            f"{cursor!r} is not a cursor of this log", field="cursor", value=cursor
        ) from None
    streams = _streams(session, group, prefix, call)
    lines: list[LogLine] = []
    for stream in streams:
        lines.extend(_events(session, group, stream, _source(stream, prefix, streams), at, call))
    if len(streams) > 1:
        lines.sort(key=lambda line: line.time or 0.0)
    return LogPage(lines=tuple(lines), cursor=msgspec.json.encode(at).decode())


def everything(session: AwsSession, group: str, prefix: str, call: Call) -> Iterator[LogLine]:
    """All lines of a log, page by page."""
    cursor: str | None = None
    while True:
        found = page(session, group, prefix, cursor, call)
        if not found.lines:
            return
        yield from found.lines
        cursor = found.cursor


def tail(session: AwsSession, group: str, prefix: str, count: int, call: Call) -> tuple[str, ...]:
    """The last lines of all streams, without reading what comes before them."""
    found: list[tuple[float, str]] = []
    for stream in _streams(session, group, prefix, call):
        try:
            answer = session.call(
                "logs", "get_log_events", call,
                logGroupName=group, logStreamName=stream, startFromHead=False, limit=count,
            )  # fmt: skip
        except NotFound:
            continue
        found += [(event["timestamp"], event["message"]) for event in answer["events"]]
    found.sort(key=lambda row: row[0])
    return tuple(text.rstrip("\r\n") for _, text in found[-count:])


def _source(stream: str, prefix: str, streams: Sequence[str]) -> str:
    """Which machine or variant a stream is of; empty where there is only one.

    Training: ``JOB/algo-2-1700000000``; endpoints: ``VARIANT/i-0123456789``.
    """
    if len(streams) == 1:
        return ""
    return _STAMP.sub("", stream.removeprefix(prefix).strip("/"))


def _streams(session: AwsSession, group: str, prefix: str, call: Call) -> list[str]:
    def fetch(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
        about: dict[str, Any] = {"logStreamNamePrefix": prefix} if prefix else {}
        if token:
            about["nextToken"] = token
        try:
            answer = session.call("logs", "describe_log_streams", call, logGroupName=group, **about)
        except NotFound:
            return [], None
        return answer["logStreams"], answer.get("nextToken")

    return sorted(row["logStreamName"] for row in paged("aws", fetch))


def _events(
    session: AwsSession, group: str, stream: str, source: str, at: _Cursor, call: Call
) -> list[LogLine]:
    while True:
        token = at.tokens.get(stream)
        about: dict[str, Any] = {"nextToken": token} if token else {}
        try:
            answer = session.call(
                "logs", "get_log_events", call,
                logGroupName=group, logStreamName=stream, startFromHead=True, limit=_PAGE, **about,
            )  # fmt: skip
        except NotFound:
            return []
        following = at.tokens[stream] = answer["nextForwardToken"]
        # The end of a stream is told by the same token once more; an answer without events is not
        # the end (GetLogEvents, API reference, read 2026-11).
        if answer["events"] or following == token:
            return [
                LogLine(event["message"].rstrip("\r\n"), event["timestamp"] / 1000, source)
                for event in answer["events"]
            ]
