"""Files, batches and fine-tuning of Azure OpenAI. None of it is a hot path."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from cloudai._core.calls.failures import Told
from cloudai._core.calls.http import Answer, Stream
from cloudai._core.calls.paging import paged
from cloudai.errors import CallTimeout, CloudAIError, InvalidRequest, NotFound, ProviderError
from cloudai.protocols import Call
from cloudai.providers.azure.auth import ApiKey, Header, another
from cloudai.providers.azure.auth import header as header_of
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.session import HEADERS, AzureSession

PAGE: Final = 100
"""Items of a list at once, the most the API gives."""
_POLL: Final = 1.0
_BLOCK: Final = 1 << 20
_LARGEST: Final = 1 << 30
"""Bytes of a file that is read whole; the service's own limit is 512 MB."""


def send(
    session: AzureSession,
    method: str,
    path: str,
    call: Call,
    *,
    body: Any = None,
    params: dict[str, Any] | None = None,
    files: Any = None,
    api_version: str | None = None,
) -> bytes:
    """One request, such as ``POST batches``; gives the answer's body. Raises CloudAIError.

    Parameters
    ----------
    body: JSON. files: of a multipart form, whose other fields ``body`` then holds.
    api_version: another one than the profile's, for what the v1 API lacks.
    """
    header = header_of(session.auth, call)
    answer = _once(session, method, path, call, header, body, params, files, api_version)
    if answer.status == 401:
        other = another(session.auth, header, call)
        if other is not None:
            answer = _once(session, method, path, call, other, body, params, files, api_version)
    if not 200 <= answer.status < 300:
        raise error_of(answer.status, answer.headers, answer.data)
    return answer.data


def _once(
    session: AzureSession,
    method: str,
    path: str,
    call: Call,
    header: Header,
    body: Any = None,
    params: Mapping[str, Any] | None = None,
    files: Mapping[str, tuple[str, IO[bytes]]] | None = None,
    api_version: str | None = None,
) -> Answer:
    target = session.target(path, api_version=api_version, params=params)
    headers = {**HEADERS, **_who(session, header, api_version)}
    sent: Any = None
    if files is not None:
        sent, headers["Content-Type"], headers["Content-Length"] = _form(body, files)
    elif body is not None:
        sent = msgspec.json.encode(body)
    left = call.remaining()
    return session.http.send(method, session.endpoint, target, headers, sent, left, _LARGEST)


def _who(session: AzureSession, header: Header, api_version: str | None) -> dict[str, str]:
    if api_version is not None and isinstance(session.auth, ApiKey):
        return {"api-key": header.secret.reveal()}  # dated versions take no bearer key
    return {header.name: header.value}


def _form(
    fields: Mapping[str, str], files: Mapping[str, tuple[str, IO[bytes]]]
) -> tuple[Iterator[bytes], str, str]:
    """A multipart form: its blocks, its type and its length. Files are read as they are sent."""
    mark = secrets.token_hex(16)
    parts: list[bytes | IO[bytes]] = []
    for name, value in fields.items():
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        parts.append(head.encode())
    for name, (filename, file) in files.items():
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        parts += [head.encode(), file, b"\r\n"]
    parts.append(f"--{mark}--\r\n".encode())
    size = sum(len(p) if isinstance(p, bytes) else os.fstat(p.fileno()).st_size for p in parts)

    def blocks() -> Iterator[bytes]:
        for part in parts:
            if isinstance(part, bytes):
                yield part
            else:
                part.seek(0)
                while block := part.read(_BLOCK):
                    yield block

    return blocks(), f"multipart/form-data; boundary={mark}", str(size)


def get(session: AzureSession, path: str, call: Call, **params: Any) -> Any:
    """The decoded answer of a GET."""
    return decoded(send(session, "GET", path, call, params=params))


def post(session: AzureSession, path: str, call: Call, body: Any = None) -> Any:
    """The decoded answer of a POST."""
    return decoded(send(session, "POST", path, call, body=body))


def decoded(content: bytes) -> Any:
    """A JSON object. Raises ProviderError for anything else."""
    try:
        return Told("azure", "Azure OpenAI", msgspec.json.decode(content))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderError(f"the answer is no JSON ({error})", provider="azure") from None


def listed(session: AzureSession, path: str, call: Call, **params: Any) -> Iterator[dict[str, Any]]:
    """The items of a list, page after page, in the service's order: the newest first."""

    def fetch(after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        query = {"limit": PAGE, **params, **({"after": after} if after else {})}
        page = get(session, path, call, **query)
        items: list[dict[str, Any]] = page["data"] or []
        return items, str(items[-1]["id"]) if page.get("has_more") and items else None

    return paged("azure", fetch)


def upload(
    session: AzureSession, file: Path, name: str, purpose: str, call: Call
) -> tuple[str, bool]:
    """Uploads a file under a name that its content and purpose make unique, unless it is there
    already: an upload whose reply was lost is found again. Gives its id once it is processed,
    and whether it was not there before.

    Raises InvalidRequest for a file that the service refuses.
    """
    found = next(
        (
            item
            for item in listed(session, "files", call, purpose=purpose)
            if item.get("filename") == name
            and item.get("bytes") in {None, 0, file.stat().st_size}
            and item.get("status") not in {"error", "deleted", "deleting"}
        ),
        None,
    )
    new = found is None
    if found is None:
        with file.open("rb") as content:
            answer = send(
                session,
                "POST",
                "files",
                call,
                body={"purpose": purpose},
                files={"file": (name, content)},
            )
        found = decoded(answer)
    return _processed(session, found, call), new


def _processed(session: AzureSession, item: dict[str, Any], call: Call) -> str:
    # A deadline that has passed raises CallTimeout, which says that nothing is lost: the file
    # is found by its name when the submission is tried again.
    while item.get("status") not in {"processed", "uploaded", None}:
        if item.get("status") in {"error", "deleted"}:
            raise InvalidRequest(
                f"the service refused the file {item.get('filename')}: "
                f"{item.get('status_details') or item.get('error') or 'no reason was given'}",
                field="input",
                provider="azure",
            )
        if call.remaining() < 2 * _POLL:
            raise CallTimeout("the uploaded file is still being processed", provider="azure")
        time.sleep(_POLL if item.get("status") == "running" else 0.2)
        item = get(session, f"files/{item['id']}", call)
    return str(item["id"])


def unique_name(file: Path, stem: str) -> str:
    """A file name that tells its content: ``train-<digest>.jsonl``."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return f"{stem}-{digest.hexdigest()[:24]}.jsonl"


def content(session: AzureSession, id: str, call: Call) -> bytes:
    """A file's content."""
    return send(session, "GET", f"files/{id}/content", call)


def download(session: AzureSession, id: str, to: IO[bytes], call: Call) -> None:
    """Writes a file's content to ``to``, piece by piece."""
    header = header_of(session.auth, call)
    stream = _content(session, id, header, call)
    try:
        if stream.status == 401:
            other = another(session.auth, header, call)
            if other is not None:
                stream.close()
                stream = _content(session, id, other, call)
        if not 200 <= stream.status < 300:
            raise error_of(stream.status, stream.headers, stream.read())
        for piece in stream:
            stream.heard()
            to.write(piece)
    finally:
        stream.close()


def _content(session: AzureSession, id: str, header: Header, call: Call) -> Stream:
    headers = {**HEADERS, **_who(session, header, None)}
    target = session.target(f"files/{id}/content")
    return session.http.open("GET", session.endpoint, target, headers, None, call.remaining())


def discard(session: AzureSession, ids: Iterable[str], call: Call) -> None:
    """Deletes files that a failed submission leaves; an error of its own would hide the first."""
    for id in ids:
        with suppress(CloudAIError):
            delete_file(session, id, call)


def delete_file(session: AzureSession, id: str, call: Call) -> None:
    """Deletes a file; one that is gone is fine."""
    try:
        send(session, "DELETE", f"files/{id}", call)
    except NotFound:
        return
