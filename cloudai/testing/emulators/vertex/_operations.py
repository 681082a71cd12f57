"""Long-running operations: they take their time, then have an effect or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._state import VertexState, page, stamp

Effect = Callable[[], "tuple[str, dict[str, Any]]"]
"""Carries the operation out: gives the response's message and its JSON. May raise Refused."""

_NUMBERS = {
    "CANCELLED": 1,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
}


class Operation(msgspec.Struct):
    """One operation. ``poll`` gives None while it is not yet due."""

    name: str
    kind: str
    began: float
    poll: Callable[[], bool]
    effect: Effect
    done: bool = False
    result: dict[str, Any] = {}


class Operations:
    """All operations of the emulator."""

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self._all: dict[str, Operation] = {}

    def routes(self, router: Router) -> None:
        for version in ("v1", "v1beta1", "ui"):  # the clients ask for some under /ui
            router.add("GET", f"/{version}/{{name*}}/operations", self._list)
            router.add("GET", f"/{version}/{{name*}}", self._get)
            router.add("POST", f"/{version}/{{name*}}:wait", self._get)
            router.add("DELETE", f"/{version}/{{name*}}", self._delete)

    def start(
        self,
        parent: str,
        kind: str,
        seconds: float,
        effect: Effect,
        poll: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """A new operation, as JSON.

        Parameters
        ----------
        parent: the resource it belongs to. kind: the message of its metadata.
        seconds: of the clock, until it is due. poll: instead of a time, whether it is due.
        """
        due = self._cloud_state.clock.now() + seconds
        made = Operation(
            f"{parent}/operations/{self._cloud_state.number()}",
            kind,
            self._cloud_state.clock.now(),
            poll or (lambda: self._cloud_state.clock.now() >= due),
            effect,
        )
        self._all[made.name] = made
        self.advance()
        return self._json(made)

    def advance(self) -> None:
        """Carries out what is due."""
        for one in list(self._all.values()):
            if one.done or not one.poll():
                continue
            one.done = True
            try:
                message, response = one.effect()
            except Refused as error:
                code = _NUMBERS.get(error.status, 2)
                one.result = {"error": {"code": code, "message": error.message}}
            else:
                prefix = "google.protobuf" if message == "Empty" else "google.cloud.aiplatform.v1"
                kind = f"type.googleapis.com/{prefix}.{message}"
                one.result = {"response": {"@type": kind, **response}}

    def running(self, parent: str) -> bool:
        """Whether a resource has an operation that is not done."""
        self.advance()
        begin = f"{parent}/operations/"
        return any(name.startswith(begin) and not one.done for name, one in self._all.items())

    def _json(self, one: Operation) -> dict[str, Any]:
        times = {"createTime": stamp(one.began), "updateTime": stamp(self._cloud_state.clock.now())}
        kind = f"type.googleapis.com/google.cloud.aiplatform.v1.{one.kind}"
        made: dict[str, Any] = {
            "name": one.name,
            "metadata": {"@type": kind, "genericMetadata": times},
        }
        return {**made, "done": True, **one.result} if one.done else made

    def _find(self, name: str) -> Operation:
        # Clients ask by the short form too: …/locations/L/operations/N.
        number = name.rpartition("/")[2]
        for one in self._all.values():
            if "/operations/" in name and one.name.endswith(f"/{number}"):
                return one
        raise Refused(404, "NOT_FOUND", f"The resource {name} was not found.")

    def _get(self, request: Request, name: str) -> dict[str, Any]:
        return self._json(self._find(name))

    def _list(self, request: Request, name: str) -> dict[str, Any]:
        found = [self._json(one) for one in self._all.values() if one.name.startswith(name + "/")]
        return page(found, request.query, "operations")

    def _delete(self, request: Request, name: str) -> Answer:
        del self._all[self._find(name).name]
        return Answer(json={})
