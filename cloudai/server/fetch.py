"""Fetches a model directory by its URI, for platforms that name one (``AIP_STORAGE_URI``)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudai._core.files.unpack import place
from cloudai.errors import CloudAIError, ConfigError, MissingExtra, NotFound


def fetch(uri: str) -> Path:
    """A new temporary folder with the objects below a ``gs://`` or ``s3://`` URI, fetched with
    the vendor's own client and credential chain.

    Raises ConfigError for another scheme, MissingExtra without the vendor's package, NotFound
    where nothing lies there.
    """
    parts = urlsplit(uri)
    folder = Path(tempfile.mkdtemp(prefix="cloudai-model-"))
    prefix = parts.path.strip("/")
    try:
        if parts.scheme == "gs":
            count = _from_gcs(parts.netloc, prefix, folder)
        elif parts.scheme == "s3":
            count = _from_s3(parts.netloc, prefix, folder)
        else:
            raise ConfigError(
                f"the model's place {uri!r} is not read here",
                hint="Give a directory, or a gs:// or s3:// URI",
            )
    except CloudAIError:
        raise
    except Exception as error:
        raise ConfigError(f"{uri} cannot be fetched: {type(error).__name__}: {error}") from error
    if not count:
        raise NotFound(f"nothing lies at {uri}")
    return folder


def _target(folder: Path, prefix: str, name: str) -> Path | None:
    """Where an object goes; None for a folder's marker. An object's name never leads out."""
    inner = name.removeprefix(prefix).strip("/")
    if not inner or name.endswith("/"):
        return None
    target = place(folder, inner, "the model")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _from_gcs(bucket: str, prefix: str, folder: Path) -> int:
    try:
        from google.cloud import storage
    except ModuleNotFoundError:
        raise MissingExtra("google-cloud-storage", extra="vertex") from None
    client: Any = storage.Client()
    count = 0
    for blob in client.list_blobs(bucket, prefix=f"{prefix}/" if prefix else None):
        target = _target(folder, prefix, blob.name)
        if target is not None:
            blob.download_to_filename(str(target))
            count += 1
    return count


def _from_s3(bucket: str, prefix: str, folder: Path) -> int:
    try:
        import boto3
    except ModuleNotFoundError:
        raise MissingExtra("boto3", extra="aws") from None
    client: Any = boto3.client("s3")
    count = 0
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=f"{prefix}/" if prefix else ""
    )
    for page in pages:
        for entry in page.get("Contents", ()):
            target = _target(folder, prefix, entry["Key"])
            if target is not None:
                client.download_file(bucket, entry["Key"], str(target))
                count += 1
    return count
