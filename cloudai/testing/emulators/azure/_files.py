"""Files of the emulated resource: uploads, their processing, content."""

from __future__ import annotations

import io
import secrets
from typing import Any, Final

from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import AzureState, Held

_PURPOSES: Final = {"fine-tune", "batch", "assistants", "user_data", "vision", "evals"}
_MAX: Final = {"fine-tune": 512_000_000, "batch": 200_000_000}


class Files:
    """``/openai/…/files``."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state

    def routes(self, table: Routes) -> None:
        for prefix in ("/openai/v1", "/openai"):
            table.add("POST", f"{prefix}/files", self._create)
            table.add("GET", f"{prefix}/files", self._list)
            table.add("GET", f"{prefix}/files/{{id}}", self._get)
            table.add("DELETE", f"{prefix}/files/{{id}}", self._delete)
            table.add("GET", f"{prefix}/files/{{id}}/content", self._content)

    def add(self, name: str, purpose: str, content: bytes) -> str:
        """Puts a file there, and gives its id."""
        id = f"file-{secrets.token_hex(16)}"
        with self._cloud_state.lock:
            self._cloud_state.files[id] = Held(
                id=id,
                name=name,
                purpose=purpose,
                content=content,
                created=self._cloud_state.clock(),
            )
        return id

    def held(self, id: str) -> Held:
        """Raises Refused for one that is not there."""
        found = self._cloud_state.files.get(id)
        if found is None:
            raise Refused(404, "NotFound", f"File with id '{id}' not found.")
        return found

    def _create(self, request: Request) -> Response:
        purpose, name, content = form(request)
        if purpose not in _PURPOSES:
            raise Refused(400, "invalidPayload", f"Invalid purpose: {purpose!r}", param="purpose")
        if not content:
            raise Refused(400, "invalidPayload", "The uploaded file must not be empty.")
        if len(content) > _MAX.get(purpose, 512_000_000):
            raise Refused(400, "invalidPayload", "The file is too large.", param="file")
        if purpose in {"fine-tune", "batch"} and not name.endswith(".jsonl"):
            raise Refused(400, "invalidPayload", "The file must be .jsonl.", param="file")
        id = self.add(name, purpose, content)
        return Response(status=201, body=self._shown(self._cloud_state.files[id]))

    def _shown(self, file: Held) -> dict[str, Any]:
        # Azure works on an upload for a moment before it may be used.
        young = self._cloud_state.clock() - file.created < 0.05
        return {
            "id": file.id,
            "object": "file",
            "bytes": len(file.content),
            "filename": file.name,
            "purpose": file.purpose,
            "created_at": int(file.created),
            "status": "pending" if young and file.status == "processed" else file.status,
        }

    def _list(self, request: Request) -> Response:
        wanted = request.query.get("purpose")
        with self._cloud_state.lock:
            found = [f for f in self._cloud_state.files.values() if wanted in {None, f.purpose}]
        return paged([self._shown(file) for file in reversed(found)], request)

    def _get(self, request: Request) -> Response:
        return Response(body=self._shown(self.held(request.groups["id"])))

    def _delete(self, request: Request) -> Response:
        with self._cloud_state.lock:
            self.held(request.groups["id"])
            del self._cloud_state.files[request.groups["id"]]
        return Response(body={"id": request.groups["id"], "object": "file", "deleted": True})

    def _content(self, request: Request) -> Response:
        return Response(
            body=self.held(request.groups["id"]).content,
            content_type="application/octet-stream",
        )


def form(request: Request) -> tuple[str, str, bytes]:
    """Purpose, file name and content of a multipart upload. Raises Refused."""
    from werkzeug.formparser import parse_form_data

    environ: dict[str, Any] = {
        "wsgi.input": io.BytesIO(request.body),
        "CONTENT_LENGTH": str(len(request.body)),
        "CONTENT_TYPE": request.headers["content-type"],
        "REQUEST_METHOD": "POST",
    }
    _, fields, files = parse_form_data(environ)
    if "file" not in files or "purpose" not in fields:
        raise Refused(400, "invalidPayload", "The form fields purpose and file are required.")
    file = files["file"]
    content = file.read()
    file.close()
    return fields["purpose"], file.filename or "", content


def paged(items: list[dict[str, Any]], request: Request) -> Response:
    """A page of a list, by ``limit`` and ``after``."""
    limit = int(request.query.get("limit", 20))
    if not 1 <= limit <= 100:
        raise Refused(400, "BadRequest", "limit must be between 1 and 100", param="limit")
    after = request.query.get("after")
    if after is not None:
        places = [index for index, item in enumerate(items) if item["id"] == after]
        if not places:
            raise Refused(400, "BadRequest", f"No item with id {after!r}.", param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return Response(
        body={
            "object": "list",
            "data": page,
            "has_more": len(items) > limit,
            "first_id": page[0]["id"] if page else "",
            "last_id": page[-1]["id"] if page else "",
        }
    )
