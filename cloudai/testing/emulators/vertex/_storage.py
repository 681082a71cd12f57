"""Cloud Storage: the JSON API that google-cloud-storage speaks, with preconditions."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from urllib.parse import quote

import msgspec

from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._state import VertexState, page, stamp


class Stored(msgspec.Struct):
    """One object."""

    data: bytes
    generation: int
    kind: str
    created: float
    metadata: dict[str, str]


class Bucket(msgspec.Struct):
    """One bucket, and where it is."""

    location: str
    objects: dict[str, Stored]


class Storage:
    """Buckets and objects, in memory.

    Attributes
    ----------
    hidden: buckets that may be used but not looked at, as for an account without
        storage.buckets.get.
    """

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self.buckets: dict[str, Bucket] = {}
        self.hidden: set[str] = set()
        self._uploads: dict[str, tuple[str, str, dict[str, Any], bytearray, dict[str, str]]] = {}
        self._generation = 1_700_000_000_000_000

    def routes(self, router: Router) -> None:
        for base in ("/storage/v1", ""):
            router.add("POST", f"{base}/b", self._make)
            router.add("GET", f"{base}/b", self._buckets)
            router.add("GET", f"{base}/b/{{bucket}}", self._bucket)
            router.add("DELETE", f"{base}/b/{{bucket}}", self._drop)
            router.add("GET", f"{base}/b/{{bucket}}/o", self._list)
            router.add("GET", f"{base}/b/{{bucket}}/o/{{name*}}", self._get)
            router.add("DELETE", f"{base}/b/{{bucket}}/o/{{name*}}", self._delete)
            one = f"{base}/b/{{bucket}}/o/{{name*}}"
            router.add("POST", f"{one}/rewriteTo/b/{{to}}/o/{{new*}}", self._rewrite)
            router.add("POST", f"{one}/copyTo/b/{{to}}/o/{{new*}}", self._copy)
        router.add("GET", "/download/storage/v1/b/{bucket}/o/{name*}", self._media)
        router.add("POST", "/upload/storage/v1/b/{bucket}/o", self._upload)
        router.add("PUT", "/upload/storage/v1/b/{bucket}/o", self._resume)

    # -- for tests and for the other services ------------------------------------------------

    def bucket(self, name: str, location: str | None = None) -> Bucket:
        """Makes a bucket, in the emulator's region unless told."""
        with self._cloud_state.lock:
            where = (location or self._cloud_state.location).upper()
            return self.buckets.setdefault(name, Bucket(where, {}))

    def put(self, uri: str, data: bytes | str) -> str:
        """Writes an object by its gs:// URI."""
        bucket, name = split(uri)
        with self._cloud_state.lock:
            self._store(bucket, name, data.encode() if isinstance(data, str) else data)
        return uri

    def get(self, uri: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        bucket, name = split(uri)
        with self._cloud_state.lock:
            held = self.buckets.get(bucket)
            found = held.objects.get(name) if held else None
            return found.data if found else None

    def names(self, uri: str) -> list[str]:
        """The URIs of the objects whose names begin so, sorted."""
        bucket, prefix = split(uri)
        with self._cloud_state.lock:
            held = self.buckets.get(bucket)
            found = [name for name in held.objects if name.startswith(prefix)] if held else []
        return [f"gs://{bucket}/{name}" for name in sorted(found)]

    # -- the API -----------------------------------------------------------------------------

    def _need(self, bucket: str) -> Bucket:
        held = self.buckets.get(bucket)
        if held is None:
            raise Refused(404, "NOT_FOUND", "The specified bucket does not exist.")
        return held

    def _make(self, request: Request) -> dict[str, Any]:
        body = request.json
        name = str(body.get("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", name):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid bucket name: '{name}'")
        if name in self.buckets:
            raise Refused(409, "ALREADY_EXISTS", "You already own this bucket.")
        self.bucket(name, body.get("location"))
        return self._bucket(request, name)

    def _buckets(self, request: Request) -> dict[str, Any]:
        found = [self._bucket(request, name) for name in sorted(self.buckets)]
        return {"kind": "storage#buckets", **page(found, {}, "items")}

    def _bucket(self, request: Request, bucket: str) -> dict[str, Any]:
        held = self._need(bucket)
        if bucket in self.hidden:
            raise Refused(
                403, "PERMISSION_DENIED", "storage.buckets.get access to the bucket is denied."
            )
        kind = "region" if "-" in held.location else "dual-region"
        if held.location in {"US", "EU", "ASIA"}:
            kind = "multi-region"
        return {
            "kind": "storage#bucket",
            "id": bucket,
            "name": bucket,
            "location": held.location,
            "locationType": kind,
            "storageClass": "STANDARD",
        }

    def _drop(self, request: Request, bucket: str) -> Answer:
        if self._need(bucket).objects:
            raise Refused(
                409, "FAILED_PRECONDITION", "The bucket you tried to delete is not empty."
            )
        del self.buckets[bucket]
        return Answer(http=204)

    def _list(self, request: Request, bucket: str) -> dict[str, Any]:
        prefix = request.query.get("prefix", "")
        delimiter = request.query.get("delimiter")
        items: list[dict[str, Any]] = []
        prefixes: set[str] = set()
        held = self._need(bucket)
        for name in sorted(held.objects):
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self._about(bucket, name))
        query = dict(request.query)
        query["pageSize"] = query.pop("maxResults", "1000")
        found = {"kind": "storage#objects", **page(items, query, "items")}
        if prefixes:
            found["prefixes"] = sorted(prefixes)
        return found

    def _found(self, bucket: str, name: str) -> Stored:
        found = self._need(bucket).objects.get(name)
        if found is None:
            raise Refused(404, "NOT_FOUND", f"No such object: {bucket}/{name}")
        return found

    def _get(self, request: Request, bucket: str, name: str) -> Answer | dict[str, Any]:
        self._found(bucket, name)
        if request.query.get("alt") == "media":
            return self._media(request, bucket, name)
        return self._about(bucket, name)

    def _media(self, request: Request, bucket: str, name: str) -> Answer:
        found = self._found(bucket, name)
        headers = {
            "Content-Type": found.kind,
            "x-goog-generation": str(found.generation),
            "x-goog-hash": f"crc32c={crc32c(found.data)},md5={md5(found.data)}",
        }
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if match is None:
            return Answer(data=found.data, headers=headers)
        first, last = int(match[1]), int(match[2] or len(found.data) - 1)
        if first >= len(found.data):
            raise Refused(416, "OUT_OF_RANGE", "Requested range not satisfiable")
        part = found.data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(found.data)}"
        return Answer(data=part, http=206, headers=headers)

    def _delete(self, request: Request, bucket: str, name: str) -> Answer:
        self._found(bucket, name)
        self._precondition(bucket, name, request.query)
        del self.buckets[bucket].objects[name]
        return Answer(http=204)

    def _copy(self, request: Request, bucket: str, name: str, to: str, new: str) -> dict[str, Any]:
        return self._rewrite(request, bucket, name, to, new)["resource"]

    def _rewrite(
        self, request: Request, bucket: str, name: str, to: str, new: str
    ) -> dict[str, Any]:
        found = self._found(bucket, name)
        self._precondition(to, new, request.query)
        self._store(to, new, found.data, found.kind)
        size = str(len(found.data))
        return {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": size,
            "objectSize": size,
            "done": True,
            "resource": self._about(to, new),
        }

    def _upload(self, request: Request, bucket: str) -> Answer | dict[str, Any]:
        self._need(bucket)
        kind = request.query.get("uploadType")
        if kind == "media":
            name = request.query.get("name", "")
            return self._keep(
                bucket, name, {}, request.body, request.query, request.headers.get("content-type")
            )
        if kind == "multipart":
            about, content, data = _parts(request)
            name = about.get("name") or request.query.get("name", "")
            return self._keep(bucket, name, about, data, request.query, content)
        if kind != "resumable":
            raise Refused(400, "INVALID_ARGUMENT", f"Unknown uploadType: {kind}")
        about = request.json
        name = about.get("name") or request.query.get("name", "")
        upload = self._cloud_state.number()
        self._uploads[upload] = (bucket, name, about, bytearray(), request.query)
        host = f"http://{request.headers['host']}"
        place = f"{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
        return Answer(data=b"", headers={"Location": place, "X-GUploader-UploadID": upload})

    def _resume(self, request: Request, bucket: str) -> Answer | dict[str, Any]:
        upload = request.query.get("upload_id", "")
        if upload not in self._uploads:
            raise Refused(404, "NOT_FOUND", "No such upload.")
        _, name, about, data, query = self._uploads[upload]
        span = re.fullmatch(
            r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", "bytes */*")
        )
        if span is None:
            raise Refused(400, "INVALID_ARGUMENT", "Invalid Content-Range")
        if span[1] is not None:
            if int(span[1]) != len(data):
                raise Refused(503, "UNAVAILABLE", "The chunk does not follow the last one.")
            data.extend(request.body)
        elif "content-range" not in request.headers:
            data.extend(request.body)
        whole = span[3] != "*" and len(data) >= int(span[3])
        if whole or "content-range" not in request.headers:
            del self._uploads[upload]
            return self._keep(bucket, name, about, bytes(data), query, about.get("contentType"))
        headers = {"Range": f"bytes=0-{len(data) - 1}"} if data else {}
        return Answer(data=b"", http=308, headers=headers)

    def _keep(
        self,
        bucket: str,
        name: str,
        about: dict[str, Any],
        data: bytes,
        query: dict[str, str],
        kind: str | None,
    ) -> dict[str, Any]:
        if not name:
            raise Refused(400, "INVALID_ARGUMENT", "Required object name")
        self._precondition(bucket, name, query)
        for field, reckon in (("md5Hash", md5), ("crc32c", crc32c)):
            if about.get(field) and about[field] != reckon(data):
                raise Refused(400, "INVALID_ARGUMENT", f"Provided {field} does not match.")
        self._store(bucket, name, data, about.get("contentType") or kind, about.get("metadata"))
        return self._about(bucket, name)

    def _precondition(self, bucket: str, name: str, query: dict[str, str]) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is None:
            return
        found = self._need(bucket).objects.get(name)
        if int(wanted) != (found.generation if found else 0):
            raise Refused(
                412,
                "FAILED_PRECONDITION",
                "At least one of the pre-conditions you specified did not hold.",
            )

    def _store(
        self,
        bucket: str,
        name: str,
        data: bytes,
        kind: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self._generation += 1
        self._need(bucket).objects[name] = Stored(
            data,
            self._generation,
            kind or "application/octet-stream",
            self._cloud_state.clock.now(),
            metadata or {},
        )

    def _about(self, bucket: str, name: str) -> dict[str, Any]:
        found = self.buckets[bucket].objects[name]
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{found.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(found.generation),
            "metageneration": "1",
            "contentType": found.kind,
            "size": str(len(found.data)),
            "md5Hash": md5(found.data),
            "crc32c": crc32c(found.data),
            "etag": f"e{found.generation}",
            "timeCreated": stamp(found.created),
            "updated": stamp(found.created),
            "metadata": found.metadata,
            "mediaLink": f"{self._cloud_state.url}/download/storage/v1/b/{bucket}/o/"
            f"{quote(name, safe='')}?alt=media",
        }


def _parts(request: Request) -> tuple[dict[str, Any], str | None, bytes]:
    """A multipart/related upload: what is said of the object, its type, its bytes."""
    match = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if match is None:
        raise Refused(400, "INVALID_ARGUMENT", "Missing multipart boundary")
    parts = request.body.split(b"--" + match[1].encode())
    if len(parts) != 4:
        raise Refused(400, "INVALID_ARGUMENT", "Malformed multipart body.")
    _, _, about = parts[1].partition(b"\r\n\r\n")
    head, _, data = parts[2].partition(b"\r\n\r\n")
    kind = re.search(rb"content-type: *([^\r\n]+)", head, re.IGNORECASE)
    return (
        msgspec.json.decode(about.strip()),
        kind[1].decode() if kind else None,
        data.removesuffix(b"\r\n"),
    )


def split(uri: str) -> tuple[str, str]:
    """Bucket and name of a gs:// URI. Raises Refused for another."""
    if not uri.startswith("gs://"):
        raise Refused(400, "INVALID_ARGUMENT", f"Invalid Google Cloud Storage URI: {uri}")
    bucket, _, name = uri[5:].partition("/")
    return bucket, name


def md5(data: bytes) -> str:
    """As the API says it: base64."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def crc32c(data: bytes) -> str:
    """As the API says it: base64, big-endian."""
    import google_crc32c

    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
