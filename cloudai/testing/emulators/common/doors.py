"""Who may knock: programs of this machine, and no web page.

An emulator listens on loopback, which a page in a browser reaches too: by a request to
``127.0.0.1``, or by a name of its own that it lets point there (DNS rebinding). So the Host has to
be a name of this machine, and a request that tells of a page elsewhere is refused. Nothing is
answered with permission for other origins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from cloudai.testing.emulators.common.faults import WSGI, ErrorBody

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def local(host: str) -> bool:
    """Whether a Host names this machine."""
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    return name in _LOOPBACK or name.endswith(".localhost")


def guarded(app: WSGI, error_body: ErrorBody) -> WSGI:
    """The application behind its door."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        refused = _refused(environ)
        if refused is not None:
            kind, body = error_body(403, refused)
            headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
            start("403 Forbidden", [*headers, ("Connection", "close")])
            return [body]

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            # moto permits every origin.
            kept = [one for one in headers if not one[0].lower().startswith("access-control-")]
            return start(status, kept, *rest)

        return app(environ, begin)

    return answer


def _refused(environ: dict[str, Any]) -> str | None:
    host = environ.get("HTTP_HOST", "")
    if not local(host):
        return f"The host {host!r} is not this machine's; ask for 127.0.0.1 or localhost."
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return f"Pages of {origin!r} may not ask an emulated cloud."
    if environ.get("HTTP_SEC_FETCH_SITE") not in {None, "same-origin", "none"}:
        return "Pages from elsewhere may not ask an emulated cloud."
    return None
