"""What the vendors' own SDKs ask (Entra ID, Key Vault, blobs, Cloud Storage), over our transport:
its proxies, authorities, client certificates and bounds hold there too, as do deadlines.

Such an SDK is given ``session``, a ``requests.Session``. It gives up each request for itself, and
may need several; ``within`` is the end of all that are made inside it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cloudai._core.calls import failures
from cloudai.errors import CloudAIError

if TYPE_CHECKING:
    from cloudai._core.calls.http import Http

LONG: Final = 3600.0
"""Seconds for what has no deadline, such as a large file."""

_until: ContextVar[float] = ContextVar("cloudai_sdk_until", default=float("inf"))


@contextmanager
def within(seconds: float) -> Generator[None]:
    """All that SDKs ask in here has ended ``seconds`` from now, or with an outer ``within``. Not
    around a ``yield``: the caller's own requests would fall under it."""
    until = _until.get()
    _until.set(min(until, time.monotonic() + seconds))
    try:
        yield
    finally:
        _until.set(until)


def left(most: float = LONG) -> float:
    """Seconds that a request in here has, at most ``most``. Not below 0."""
    return max(0.0, min(most, _until.get() - time.monotonic()))


def deadline() -> float | None:
    """``time.monotonic()`` at which it ends; None where nothing is bounded."""
    until = _until.get()
    return None if until == float("inf") else until


def cause(error: BaseException | None) -> CloudAIError | None:
    """The failure of our transport that an SDK's error hides."""
    while error is not None and not isinstance(error, CloudAIError):
        error = error.__cause__ or error.__context__
    return error


def session(http: Http) -> Any:
    """A ``requests.Session`` over ``http``, which closes its connections."""
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(
            self,
            request: Any,
            stream: bool = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> Any:
            given = (
                max(filter(None, timeout), default=None) if isinstance(timeout, tuple) else timeout
            )
            seconds = left(given or LONG)
            parts = urlsplit(request.url)
            base = f"{parts.scheme}://{parts.netloc}"
            if not seconds:
                raise failures.late(http.provider, base)
            raw = http.raw(
                request.method,
                base,
                request.path_url,
                request.headers,
                request.body,
                seconds,
                decode=False,
                chunked=request.body is not None and "Content-Length" not in request.headers,
            )
            made = self.build_response(request, raw)
            if not stream:  # read here, so that a failure is ours too
                made._content = http.read(raw, base)
            return made

    made = requests.Session()
    made.trust_env = False  # proxies, authorities and .netrc: ours
    for scheme in ("http://", "https://"):
        made.mount(scheme, Adapter())
    return made
