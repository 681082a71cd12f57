"""Jobs of one kind: the routes and the answers that all kinds have alike."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Final

from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._operations import Operations
from cloudai.testing.emulators.vertex._state import VertexState, fits, page

DONE: Final = frozenset(
    f"JOB_STATE_{name}"
    for name in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
)


class Collection(abc.ABC):
    """Jobs by their names, in the order in which they were made.

    Parameters
    ----------
    operations: what deletes them; None where they cannot be deleted.
    """

    kind: ClassVar[str]

    def __init__(self, cloud_state: VertexState, operations: Operations | None) -> None:
        self._cloud_state = cloud_state
        self._operations: Any = operations
        self.all: dict[str, dict[str, Any]] = {}

    @property
    def _path(self) -> str:
        return f"{self.kind[0].lower()}{self.kind[1:]}s"

    def routes(self, router: Router) -> None:
        for version in ("v1", "v1beta1"):
            base = f"/{version}/projects/{{project}}/locations/{{location}}/{self._path}"
            router.add("POST", base, self._create)
            router.add("GET", base, self._list)
            router.add("GET", base + "/{id}", self._get)
            if self._operations is not None:
                router.add("DELETE", base + "/{id}", self._delete)
            router.add("POST", base + "/{id}:cancel", self._cancel)

    @abc.abstractmethod
    def _create(self, request: Request, project: str, location: str) -> dict[str, Any]: ...

    @abc.abstractmethod
    def _cancel(self, request: Request, project: str, location: str, id: str) -> Answer: ...

    @abc.abstractmethod
    def _advance(self, name: str) -> dict[str, Any]:
        """The job as it stands now."""

    def _need(self, project: str, location: str, id: str) -> dict[str, Any]:
        name = f"{self._cloud_state.parent(project, location)}/{self._path}/{id}"
        if name not in self.all:
            raise Refused(404, "NOT_FOUND", f'The {self.kind} "{name}" does not exist.')
        return self._advance(name)

    def _get(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        return self._need(project, location, id)

    def _list(self, request: Request, project: str, location: str) -> dict[str, Any]:
        self._cloud_state.parent(project, location)
        found = [self._advance(name) for name in self.all]
        wanted = request.query.get("filter", "")
        found = [job for job in reversed(found) if fits(job, wanted)]
        return page(found, request.query, self._path)

    def _delete(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        job = self._need(project, location, id)
        if job["state"] not in DONE:
            told = (
                f'The {self.kind} "{job["name"]}" is in state {job["state"]} and cannot be deleted.'
            )
            raise Refused(400, "FAILED_PRECONDITION", told)

        def effect() -> tuple[str, dict[str, Any]]:
            self.all.pop(job["name"], None)
            return "Empty", {}

        return self._operations.start(job["name"], "DeleteOperationMetadata", 0.0, effect)
