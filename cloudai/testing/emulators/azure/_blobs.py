"""Blob storage, emulated: what a signed address lets one put, read, list and delete."""

from __future__ import annotations

import re
from typing import Any
from xml.sax.saxutils import escape

from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import AzureState

_AUDIENCE = "https://storage.azure.com"
STORE = "store"
"""The storage account's name: the first segment of the path, as with Azurite."""


class Blobs:
    """``/store/CONTAINER/…``."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state

    def routes(self, table: Routes) -> None:
        table.add("GET", f"/{STORE}/(?P<container>[^/]+)", self._list)
        table.add("PUT", f"/{STORE}/(?P<path>.+)", self._put)
        table.add("GET", f"/{STORE}/(?P<path>.+)", self._get)
        table.add("HEAD", f"/{STORE}/(?P<path>.+)", self._get)
        table.add("DELETE", f"/{STORE}/(?P<path>.+)", self._delete)

    def admit(self, request: Request) -> None:
        """Raises Refused without a signature or a token for storage."""
        token = self._cloud_state.token_for(request.headers.get("authorization", ""))
        if request.query.get("sig") != self._cloud_state.sas and token != _AUDIENCE:
            raise Refused(403, "AuthenticationFailed", "Server failed to authenticate the request.")

    def _put(self, request: Request) -> Response:
        path = request.groups["path"]
        kind, block = request.query.get("comp"), request.query.get("blockid", "")
        with self._cloud_state.lock:
            if kind == "block":
                self._cloud_state.blobs[f"{path}\0{block}"] = request.body
            elif kind == "blocklist":
                names = re.findall(rb"<Latest>([^<]+)</Latest>", request.body)
                whole = b"".join(
                    self._cloud_state.blobs.pop(f"{path}\0{name.decode()}") for name in names
                )
                self._cloud_state.blobs[path] = whole
            elif kind == "metadata":
                self._held(request)  # taken, and shown to nobody
            else:
                if request.headers.get("x-ms-blob-type") != "BlockBlob":
                    raise Refused(400, "InvalidHeaderValue", "x-ms-blob-type must be BlockBlob.")
                self._cloud_state.blobs[path] = request.body
        return Response(status=200 if kind == "metadata" else 201, headers=_HEADERS)

    def _held(self, request: Request) -> bytes:
        found = self._cloud_state.blobs.get(request.groups["path"])
        if found is None:
            raise Refused(
                404,
                "BlobNotFound",
                "The specified blob does not exist.",
                headers={"x-ms-error-code": "BlobNotFound"},
            )
        return found

    def _get(self, request: Request) -> Response:
        content = self._held(request)
        given = request.headers.get("x-ms-range") or request.headers.get("range")
        headers = {**_HEADERS, "x-ms-blob-type": "BlockBlob", "Accept-Ranges": "bytes"}
        if given is None:
            return Response(body=content, headers=headers, content_type="application/octet-stream")
        first, _, last = given.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        if start >= len(content):
            raise Refused(
                416,
                "InvalidRange",
                "The range specified is invalid.",
                headers={
                    "x-ms-error-code": "InvalidRange",
                    "Content-Range": f"bytes */{len(content)}",
                },
            )
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return Response(
            status=206,
            body=content[start : end + 1],
            headers=headers,
            content_type="application/octet-stream",
        )

    def _list(self, request: Request) -> Response:
        prefix = f"{request.groups['container']}/"
        wanted = f"{prefix}{request.query.get('prefix', '')}"
        with self._cloud_state.lock:
            names = sorted(
                n for n in self._cloud_state.blobs if n.startswith(wanted) and "\0" not in n
            )
        blobs = "".join(
            f"<Blob><Name>{escape(name[len(prefix) :])}</Name><Properties>"
            f"<Content-Length>{len(self._cloud_state.blobs[name])}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name in names
        )
        body: Any = (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults>'
            f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        ).encode()
        return Response(body=body, content_type="application/xml", headers=_HEADERS)

    def _delete(self, request: Request) -> Response:
        with self._cloud_state.lock:
            self._held(request)
            del self._cloud_state.blobs[request.groups["path"]]
        return Response(status=202, headers=_HEADERS)


_HEADERS = {
    "ETag": '"0x1"',
    "Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT",
    "x-ms-version": "2025-11-05",
}
