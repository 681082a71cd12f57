"""Logs from CloudWatch: pages of lines over all streams of a job or an endpoint."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.errors import InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.aws._session import AwsSession
from cloudai.types import LogLine, LogPage

_PAGE: Final = 10_000
"""Events in one answer of GetLogEvents at most (API reference, read 2026-11)."""


class _Cursor(msgspec.Struct, array_like=True):
    """The next token of each stream."""

    tokens: dict[str, str] = {}


_decode: Final = msgspec.json.Decoder(_Cursor).decode


def page(session: AwsSession, group: str, prefix: str, cursor: str | None, call: Call) -> LogPage:
    """What is new since the cursor; nothing while there is no log yet.

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
        source = (
            stream.removeprefix(prefix).strip("/").partition("-1")[0] if len(streams) > 1 else ""
        )
        lines.extend(_events(session, group, stream, source, at, call))
    if len(streams) > 1:
        lines.sort(key=lambda line: line.time or 0.0)
    return LogPage(lines=tuple(lines), cursor=msgspec.json.encode(at).decode())


def _streams(session: AwsSession, group: str, prefix: str, call: Call) -> list[str]:
    found: list[str] = []
    token: dict[str, Any] = {}
    while True:
        about: dict[str, Any] = {"logStreamNamePrefix": prefix} if prefix else {}
        try:
            answer = session.call(
                "logs", "describe_log_streams", call, logGroupName=group, **about, **token
            )
        except NotFound:
            return []
        found += [row["logStreamName"] for row in answer["logStreams"]]
        if "nextToken" not in answer:
            return sorted(found)
        token = {"nextToken": answer["nextToken"]}


def _events(
    session: AwsSession, group: str, stream: str, source: str, at: _Cursor, call: Call
) -> list[LogLine]:
    lines: list[LogLine] = []
    while True:
        token = at.tokens.get(stream)
        about: dict[str, Any] = {"nextToken": token} if token else {}
        try:
            answer = session.call(
                "logs", "get_log_events", call,
                logGroupName=group, logStreamName=stream, startFromHead=True, limit=_PAGE, **about,
            )  # fmt: skip
        except NotFound:
            return lines
        for event in answer["events"]:
            text = event["message"].rstrip("\r\n")
            lines.append(LogLine(text, event["timestamp"] / 1000, source))
        following = answer["nextForwardToken"]
        at.tokens[stream] = following
        # The end of a stream is told by the same token once more.
        if following == token or not answer["events"]:
            return lines
