"""moto's S3 and CloudWatch Logs, from inside."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from cloudai._core.files import unpack as archives
from cloudai.testing.emulators.aws._state import ACCOUNT


def _s3() -> Any:
    from moto.s3.models import s3_backends

    return s3_backends[ACCOUNT]["aws"]


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def has_bucket(name: str) -> bool:
    return name in _s3().buckets


def write(uri: str, data: bytes) -> None:
    """Puts an object."""
    bucket, key = split(uri)
    _s3().put_object(bucket, key, data)


def read(uri: str) -> bytes | None:
    """An object's bytes; None where there is none."""
    bucket, key = split(uri)
    if not has_bucket(bucket):
        return None
    found = _s3().get_object(bucket, key)
    return None if found is None else found.value


def under(uri: str) -> dict[str, bytes]:
    """The objects whose keys begin so, by key, in order."""
    bucket, prefix = split(uri)
    if not has_bucket(bucket):
        return {}
    keys = _s3().get_bucket(bucket).keys
    return {name: keys[name].value for name in sorted(keys) if name.startswith(prefix)}


def tarred(files: dict[str, bytes]) -> bytes:
    """The files as a tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def log(region: str, group: str, stream: str, lines: list[tuple[float, str]], known: int) -> int:
    """Appends the lines past the first ``known`` ones; gives how many there are now."""
    from moto.logs.models import logs_backends

    fresh = lines[known:]
    if not fresh:
        return known
    backend: Any = logs_backends[ACCOUNT][region]
    if group not in backend.groups:
        backend.create_log_group(group, {})
    if stream not in backend.groups[group].streams:
        backend.create_log_stream(group, stream)
    events = [{"timestamp": int(at * 1000), "message": text} for at, text in fresh]
    backend.put_log_events(group, stream, events)
    return len(lines)


def lay_out(uri: str, target: Path) -> None:
    """What lies at or below a URI, as a directory. Raises InvalidRequest for a key that would lead
    out of it."""
    _, prefix = split(uri)
    files: dict[str, bytes] = {}
    for key, data in under(uri).items():
        name = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
        if prefix and not prefix.endswith("/") and key != prefix:
            name = key.removeprefix(prefix.rpartition("/")[0]).lstrip("/")
            name = name.partition("/")[2] or name
        files[name] = data
    archives.lay_out(target, files, uri)


def unpack(uri: str, target: Path) -> None:
    """An archive, as a directory; an empty one where there is none. Raises InvalidRequest."""
    data = read(uri)
    if data is None:
        target.mkdir(exist_ok=True)
    else:
        archives.unpack(io.BytesIO(data), target)
