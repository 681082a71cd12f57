"""What the vendors' own SDKs ask (Entra ID, Key Vault, blobs, Cloud Storage), over our transport:
its proxies, authorities, client certificates and bounds hold there too, and ``until.within``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from cloudai._core.calls import failures
from cloudai._core.calls.http import Http
from cloudai._core.calls.until import LONG, left


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
