"""Objects in S3: what jobs read and write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from cloudai._core.files.tree import tree
from cloudai._core.files.unpack import place
from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.providers.aws.session import AwsSession
from cloudai.types._base import invalid

_URI: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?\Z", re.DOTALL)

_PART: Final = 8 * 1024 * 1024
"""Bytes above which a file goes up in parts, by boto3's transfer manager."""

_AT_ONCE: Final = 16
"""Objects that are read or written at once."""


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def parse(uri: str, field: str = "uri") -> tuple[str, str]:
    """Bucket and key. Raises InvalidRequest for what is no S3 URI."""
    match = _URI.match(uri)
    if match is None:
        raise invalid(field, uri, "is not an S3 URI", "It looks like s3://bucket/key.")
    return match[1], match[2] or ""


def join(base: str, *parts: str) -> str:
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


class Store:
    """S3 through a profile's session."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def _encryption(self) -> dict[str, str]:
        key = self._session.kms_key()
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    def put(self, uri: str, data: bytes, call: Call) -> None:
        """Writes a small object."""
        bucket, key = parse(uri)
        self._session.call(
            "s3", "put_object", call, Bucket=bucket, Key=key, Body=data, **self._encryption()
        )

    def upload(self, path: Path, uri: str, call: Call) -> None:
        """Writes a file of any size."""
        if path.stat().st_size <= _PART:
            self.put(uri, path.read_bytes(), call)
            return
        bucket, key = parse(uri)
        client = self._session.client("s3")
        self._session.within(
            call,
            lambda: client.upload_file(str(path), bucket, key, ExtraArgs=self._encryption()),
        )

    def get(self, uri: str, call: Call) -> bytes | None:
        """A small object's bytes; None where there is none."""
        bucket, key = parse(uri)
        try:
            found = self._session.call("s3", "get_object", call, Bucket=bucket, Key=key)
        except NotFound:
            return None
        return self._session.within(call, found["Body"].read)

    def download(self, uri: str, path: Path, call: Call) -> None:
        """Reads an object of any size into a file. Raises NotFound."""
        bucket, key = parse(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        client = self._session.client("s3")
        self._session.within(call, lambda: client.download_file(bucket, key, str(path)))

    def exists(self, uri: str, call: Call) -> bool:
        """Whether there is an object of exactly this key."""
        bucket, key = parse(uri)
        try:
            self._session.call("s3", "head_object", call, Bucket=bucket, Key=key)
        except NotFound:
            return False
        return True

    def any_under(self, uri: str, call: Call) -> bool:
        """Whether any object's key begins so."""
        bucket, prefix = parse(uri)
        found = self._session.call(
            "s3", "list_objects_v2", call, Bucket=bucket, Prefix=prefix, MaxKeys=1
        )
        return bool(found.get("KeyCount"))

    def keys(self, uri: str, call: Call) -> Iterator[str]:
        """The keys that begin so, in order."""
        bucket, prefix = parse(uri)
        token: dict[str, Any] = {}
        while True:
            page = self._session.call(
                "s3", "list_objects_v2", call, Bucket=bucket, Prefix=prefix, **token
            )
            for row in page.get("Contents", ()):
                yield row["Key"]
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete_under(self, uri: str, call: Call) -> None:
        """Removes every object whose key begins so; a bucket that is gone is done."""
        bucket, _ = parse(uri)
        try:
            keys = list(self.keys(uri, call))
        except NotFound:
            return
        for at in range(0, len(keys), 1000):
            rows = [{"Key": key} for key in keys[at : at + 1000]]
            self._session.call(
                "s3", "delete_objects", call, Bucket=bucket, Delete={"Objects": rows, "Quiet": True}
            )

    def delete(self, uri: str, call: Call) -> None:
        """Removes one object; one that is gone is done."""
        bucket, key = parse(uri)
        self._session.call("s3", "delete_object", call, Bucket=bucket, Key=key)

    def check_bucket(self, bucket: str, field: str, call: Call) -> None:
        """Refuses a bucket that does not exist or lies in another region than the profile's."""
        try:
            found = self._session.call("s3", "head_bucket", call, Bucket=bucket)
        except NotFound:
            raise invalid(
                field, bucket, "is a bucket that does not exist", "Create it, or name another."
            ) from None
        headers = found["ResponseMetadata"]["HTTPHeaders"]
        region = found.get("BucketRegion") or headers.get("x-amz-bucket-region")
        if region and region != self._session.region:
            raise invalid(
                field,
                bucket,
                f"lies in {region}, and the profile works in {self._session.region}",
                "SageMaker reads from its own region: use a bucket there, or set region.",
            )

    def check_exists(self, uri: str, field: str, call: Call) -> None:
        """Refuses a URI that nothing lies at or below."""
        bucket, _ = parse(uri, field)
        self.check_bucket(bucket, field, call)
        if not self.any_under(uri, call):
            raise invalid(field, uri, "does not exist", "Nothing lies there in S3.")

    def upload_tree(self, path: Path, uri: str, call: Call) -> None:
        """Writes what travels of a directory below the URI, or a file as one object there."""
        found = tree(path, field="inputs").files
        together(partial(self.upload, file, join(uri, name), call) for name, file in found.items())

    def download_tree(self, uri: str, target: Path, call: Call) -> None:
        """Reads every object whose key begins so into a directory."""
        bucket, prefix = parse(uri)

        def inner(key: str) -> str:
            return key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]

        together(
            partial(self.download, f"s3://{bucket}/{key}", place(target, inner(key), uri), call)
            for key in self.keys(uri, call)
            if not key.endswith("/")  # a folder, as the console makes them
        )


def together(work: Iterable[Callable[[], object]]) -> None:
    """Does some pieces of work at once, since each waits on the network; the first failure ends
    it."""
    with ThreadPoolExecutor(_AT_ONCE, "cloudai-aws-s3") as pool:
        under_way = [pool.submit(one) for one in work]
        try:
            for future in under_way:
                future.result()
        finally:
            for future in under_way:
                future.cancel()


def digest(*parts: bytes | str) -> str:
    """A short digest, for names."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big"))
        whole.update(data)
    return whole.hexdigest()[:12]
