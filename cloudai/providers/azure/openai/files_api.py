"""Files, batches and fine-tuning of Azure OpenAI: the SDK's URL rules and transport, our errors
and key renewal. None of it is a hot path."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import httpx2
import msgspec

from cloudai._core.calls.paging import paged
from cloudai.errors import CallTimeout, CloudAIError, InvalidRequest, NotFound, ProviderError
from cloudai.protocols import Call
from cloudai.providers.azure.auth import ApiKey, Header
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.openai.transport import failure
from cloudai.providers.azure.session import AzureSession

PAGE: Final = 100
"""Items of a list at once, the most the API gives."""
_POLL: Final = 1.0


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
    header = session.auth.fresh() or session.auth.header()
    response = _once(session, method, path, call, header, body, params, files, api_version)
    if response.status_code == 401:
        other = session.auth.refused(header)
        if other is not None:
            response = _once(session, method, path, call, other, body, params, files, api_version)
    if not response.is_success:
        raise error_of(response.status_code, response.headers, response.content)
    return response.content


def _once(
    session: AzureSession,
    method: str,
    path: str,
    call: Call,
    header: Header,
    body: Any = None,
    params: dict[str, Any] | None = None,
    files: Any = None,
    api_version: str | None = None,
    *,
    stream: bool = False,
) -> httpx2.Response:
    client = session.openai
    query: dict[str, Any] = {**client.default_query, **(params or {})}
    base = str(client.base_url)
    if api_version is not None:
        base, query["api-version"] = f"{session.endpoint}/openai/", api_version
    headers = {
        name: value
        for name, value in client.default_headers.items()
        if isinstance(value, str) and not (files and name.lower() == "content-type")
    }
    name, value = header.name, header.value
    if api_version is not None and isinstance(session.auth, ApiKey):
        name, value = "api-key", header.secret.reveal()  # dated versions take no bearer key
    headers[name] = value
    left = call.remaining()
    given: dict[str, Any] = {}
    if files is not None:
        for _, file, _ in files.values():
            file.seek(0)
        given = {"files": files, "data": body}
    elif body is not None:
        given = {"content": msgspec.json.encode(body)}
    request = session.http.build_request(
        method,
        f"{base}{path}",
        params=query,
        headers=headers,
        timeout=httpx2.Timeout(left, connect=min(10.0, left)),
        **given,
    )
    try:
        return session.http.send(request, auth=None, stream=stream)
    except httpx2.TransportError as error:
        raise failure(error) from error


def get(session: AzureSession, path: str, call: Call, **params: Any) -> Any:
    """The decoded answer of a GET."""
    return decoded(send(session, "GET", path, call, params=params))


def post(session: AzureSession, path: str, call: Call, body: Any = None) -> Any:
    """The decoded answer of a POST."""
    return decoded(send(session, "POST", path, call, body=body))


def decoded(content: bytes) -> Any:
    """JSON. Raises ProviderError for anything else."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderError(f"the answer is no JSON ({error})", provider="azure") from None


def listed(session: AzureSession, path: str, call: Call, **params: Any) -> Iterator[dict[str, Any]]:
    """The items of a list, page after page, in the service's order: the newest first."""

    def fetch(after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        query = {"limit": PAGE, **params, **({"after": after} if after else {})}
        page = get(session, path, call, **query)
        items: list[dict[str, Any]] = page.get("data") or []
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
                files={"file": (name, content, "application/octet-stream")},
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
    header = session.auth.fresh() or session.auth.header()
    response = _content(session, id, header, call)
    try:
        if response.status_code == 401:
            other = session.auth.refused(header)
            if other is not None:
                response.close()
                response = _content(session, id, other, call)
        if not response.is_success:
            raise error_of(response.status_code, response.headers, response.read())
        for piece in response.iter_bytes():
            to.write(piece)
    except httpx2.TransportError as error:
        raise failure(error) from error
    finally:
        response.close()


def _content(session: AzureSession, id: str, header: Header, call: Call) -> httpx2.Response:
    return _once(session, "GET", f"files/{id}/content", call, header, stream=True)


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
