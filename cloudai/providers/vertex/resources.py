"""What training jobs and batch prediction jobs have in common at the service."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from cloudai._core.calls.paging import paged
from cloudai.errors import Conflict, NotFound
from cloudai.protocols import Call
from cloudai.providers.vertex import common, errors
from cloudai.providers.vertex.session import API, VertexSession
from cloudai.types._base import invalid

_RESOURCE: Final = re.compile(r"projects/[^/?#\s]+/locations/[^/?#\s]+/[A-Za-z]+/[^/?#\s]+\Z")


class Resources:
    """One collection of resources, such as ``customJobs``.

    Parameters
    ----------
    collection: its name in URLs, and in lists.
    """

    def __init__(self, session: VertexSession, collection: str) -> None:
        self.session = session
        self.collection = collection

    def name(self, id: str) -> str:
        """The resource name of an id: itself, or its last part. Raises InvalidRequest."""
        if "/" not in id:
            id = f"{self.session.parent}/{self.collection}/{id}"
        if not _RESOURCE.match(id) or id.split("/")[4] != self.collection:
            raise invalid("id", id, f"is not the name of one of {self.collection}")
        return id

    def create(self, body: dict[str, Any], call: Call, query: str = "") -> dict[str, Any]:
        path = f"/{API}/{self.session.parent}/{self.collection}{query}"
        return self.session.http.json("POST", self.session.url(), path, body, call)

    def get(self, id: str, call: Call) -> dict[str, Any]:
        """The resource. Raises NotFound."""
        return self.ask("GET", self.name(id), None, call)

    def ask(self, method: str, resource: str, body: Any, call: Call) -> dict[str, Any]:
        """Any call on a resource, with a method's name after a colon where there is one."""
        return self.session.http.json(method, self.session.url(), f"/{API}/{resource}", body, call)

    def list(self, filter: str, call: Call) -> Iterator[dict[str, Any]]:
        """All that fit a filter."""

        def fetch(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
            path = f"/{API}/{self.session.parent}/{self.collection}?pageSize=100"
            path += f"&filter={quote(filter, safe='')}"
            if token:
                path += f"&pageToken={quote(token, safe='')}"
            page = self.session.http.json("GET", self.session.url(), path, None, call)
            return page.get(self.collection, []), page.get("nextPageToken")

        return paged(errors.PROVIDER, fetch)

    def find(self, key: str, call: Call) -> dict[str, Any] | None:
        """The resource that was made with an idempotency key, by its label."""
        wanted = f'labels.{common.KEY_LABEL}="{common.key_label(key)}"'
        return next(iter(self.list(wanted, call)), None)

    def cancel(self, id: str, call: Call) -> None:
        """Asks for its end; harmless when it has ended."""
        try:
            self.ask("POST", f"{self.name(id)}:cancel", {}, call)
        except Conflict:
            if not common.state(self.get(id, call).get("state")).done:
                raise

    def end(self, id: str, call: Call) -> dict[str, Any] | None:
        """A job that has ended: cancelled and waited for if it runs, since a running one cannot
        be removed. None where there is none."""
        try:
            found = self.get(id, call)
            if common.state(found.get("state")).done:
                return found
            self.cancel(id, call)
            for pause in pauses():
                found = self.get(id, call)
                if common.state(found.get("state")).done:
                    break
                time.sleep(min(pause, call.remaining()))
            return found
        except NotFound:
            return None

    def drop(self, id: str, call: Call) -> None:
        """Removes what has ended. It goes after all that belongs to it: a removal that breaks
        off is taken up again by whoever finds it. Harmless when it is gone."""
        with suppress(NotFound):
            self.wait(self.ask("DELETE", self.name(id), None, call), call)

    def wait(self, operation: dict[str, Any], call: Call) -> dict[str, Any]:
        """The response of a long-running operation, once it is done. Raises what it failed of."""
        for pause in pauses():
            if operation.get("done"):
                failure(operation)
                return operation.get("response", {})
            time.sleep(min(pause, call.remaining()))
            operation = self.ask("GET", operation["name"], None, call)
        raise AssertionError("pauses do not end")


def pauses() -> Iterator[float]:
    """Seconds between two looks."""
    pause = 0.1
    while True:
        yield pause
        pause = min(5.0, pause * 1.5)


def failure(operation: dict[str, Any]) -> None:
    """Raises what an operation failed of."""
    error = operation.get("error")
    if error:
        code = errors.by_number(int(error.get("code") or 2))
        raise errors.make(code, str(error.get("message") or code))
