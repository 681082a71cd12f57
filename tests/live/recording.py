"""What a program says with a cloud, as urllib3 has it (botocore, requests and cloudai's own sync
path stand on it): each exchange without its secrets, in a cassette of ``cloudai.testing``."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from cloudai.testing.cassette import Exchange, Response, load, save
from cloudai.testing.scrub import Scrubber

_LARGE = 1 << 16
"""Bytes of a body that are kept: of models and wheels their beginning."""


class _Tee:
    """An answer's body, whose bytes are kept as they are read."""

    def __init__(self, real: Any, kept: bytearray) -> None:
        self._real, self._kept = real, kept

    def __getattr__(self, name: str) -> Any:
        if name == "fp":  # urllib3 would read chunks past us
            raise AttributeError(name)
        return getattr(self._real, name)

    def _keep(self, data: bytes) -> bytes:
        if len(self._kept) < _LARGE:
            self._kept += data
        return data

    def read(self, *count: Any) -> bytes:
        return self._keep(self._real.read(*count))

    def read1(self, *count: Any) -> bytes:
        return self._keep(self._real.read1(*count))

    def readinto(self, buffer: Any) -> int:
        count = self._real.readinto(buffer)
        self._keep(bytes(memoryview(buffer)[:count]))
        return count


class Kept:
    """The exchanges of a run.

    Parameters
    ----------
    path: the cassette.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[tuple[str, str, tuple[tuple[str, str], ...], bytes, Any, bytearray]] = []

    @contextmanager
    def listening(self, patch: pytest.MonkeyPatch) -> Generator[None]:
        real = urllib3.connectionpool.HTTPConnectionPool.urlopen
        made = self._made

        def urlopen(pool: Any, method: str, url: str, *rest: Any, **about: Any) -> Any:
            answer = real(pool, method, url, *rest, **about)
            body = rest[0] if rest else about.get("body")
            sent = body.encode() if isinstance(body, str) else body
            headers = dict(about.get("headers") or {})
            kept = bytearray()
            if (
                answer._fp is not None
                and not answer.closed
                and about.get("preload_content") is False
            ):
                answer._fp = _Tee(answer._fp, kept)
            else:
                kept += answer.data or b""
            whole = url if "://" in url else f"{pool.scheme}://{pool.host}:{pool.port}{url}"
            told = tuple((str(name), str(value)) for name, value in headers.items())
            whole_body = sent if isinstance(sent, (bytes, bytearray)) else b""
            made.append((method, whole, told, bytes(whole_body[:_LARGE]), answer, kept))
            return answer

        patch.setattr(urllib3.connectionpool.HTTPConnectionPool, "urlopen", urlopen)
        yield

    def save(self) -> None:
        """Writes the cassette. A secret that a later answer tells is hidden in earlier ones too."""
        scrub = Scrubber(())
        exchanges = [
            Exchange(
                method=method, uri=uri, headers=headers, body=body,
                response=Response(
                    status=answer.status, reason=answer.reason or "",
                    headers=tuple(answer.headers.items()), body=bytes(kept),
                ),
            )
            for method, uri, headers, body, answer, kept in self._made
        ]  # fmt: skip
        for one in exchanges:
            scrub.exchange(one)  # learns what is secret
        save(self.path, [scrub.exchange(one) for one in exchanges])


def shapes(path: Path) -> dict[str, set[str]]:
    """Of each operation of a cassette: the status and the names in its answers' JSON."""
    import json

    found: dict[str, set[str]] = {}
    for one in load(path):
        place = re.sub(r"^https?://[^/]+", "", one.uri).partition("?")[0]
        place = re.sub(r"(?<=/)[^/:]*\d[^/:]*", "*", place)
        target = {name.lower(): value for name, value in one.headers}.get("x-amz-target", "")
        key = f"{one.method} {place} {target}".strip()
        told = found.setdefault(key, set())
        told.add(str(one.response.status))
        try:
            body = json.loads(one.response.body)
        except ValueError:
            continue
        told.update(_names(body, ""))
    return found


def _names(value: Any, place: str) -> Generator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}.{name}"
            yield from _names(inner, f"{place}.{name}")
    elif isinstance(value, list) and value:
        yield from _names(value[0], f"{place}[]")


def differences(real: Path, emulated: Path) -> list[str]:
    """What an emulator answers in other names than the cloud that was recorded, of the operations
    that both have met."""
    ours, theirs = shapes(emulated), shapes(real)
    told: list[str] = []
    for key in sorted(ours.keys() & theirs.keys()):
        for name in sorted(ours[key] - theirs[key]):
            told.append(f"{key}: {name} is the emulator's alone")
    return told
