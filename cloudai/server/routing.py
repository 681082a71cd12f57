"""The table: which route a path and a method lead to. It knows no route by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from cloudai.server.http.errors import HTTPError
from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference

Route: TypeAlias = Callable[[Inference, Request], Awaitable[Response]]

Methods: TypeAlias = Mapping[str, tuple[str, Route]]
"""Method → the route's name, for metrics and limits, and its function."""


class Table:
    """All routes of a server."""

    def __init__(self) -> None:
        self.paths: dict[str, dict[str, tuple[str, Route]]] = {}
        self._below: dict[str, Callable[[str], Methods | None]] = {}

    def add(self, method: str, path: str, name: str, route: Route) -> None:
        """A route at one path."""
        self.paths.setdefault(path, {})[method] = (name, route)

    def below(self, prefix: str, methods: Callable[[str], Methods | None]) -> None:
        """Routes with a model's name in their path: ``methods`` gets what follows ``prefix``, and
        gives None for what is no route. The name is only looked up."""
        self._below[prefix] = methods

    def methods(self, path: str) -> Methods | None:
        """The routes of a path, by method; None where there is none."""
        found = self.paths.get(path)
        if found is None:
            for prefix, methods in self._below.items():
                if path.startswith(prefix):
                    return methods(path[len(prefix) :])
        return found

    def find(self, request: Request) -> tuple[str, Route]:
        """The route's name and function. Raises HTTPError 404, or 405 with the allowed methods."""
        path = request.path
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/")
        methods = self.methods(path)
        if methods is None:
            raise HTTPError(404, "there is no such route")
        method = "GET" if request.method == "HEAD" else request.method
        found = methods.get(method)
        if found is None:
            raise HTTPError(
                405, f"{request.method[:20]} is not allowed here", hint=", ".join(methods)
            )
        return found
