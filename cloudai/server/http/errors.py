"""How a request ends that is not answered with 200."""

from __future__ import annotations

from typing import Any

from cloudai.errors import CloudAIError


class HTTPError(CloudAIError):
    """An answer other than 200, by its HTTP status. ``field``: of the body, where one is wrong."""

    def __init__(
        self, status: int, message: str, *, field: str | None = None, **about: Any
    ) -> None:
        super().__init__(message, status=status, **about)
        self.field = field


class Gone(Exception):
    """The client has left; nobody reads an answer."""


class Broken(Exception):
    """A streamed answer failed on its way: its connection is broken off."""
