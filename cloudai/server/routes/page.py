"""The page for a person: what is loaded, a prediction by hand, live plots from /metrics. One
file without any other, so that it works without a network."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def page() -> bytes:
    """The page."""
    return (files("cloudai.server.routes") / "page.html").read_bytes()


@cache
def policy() -> bytes:
    """Its Content-Security-Policy: it talks to its own server and to nobody else, and nothing
    runs in it but the script and the style that it came with."""

    def allowed(tag: bytes) -> bytes:
        own = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page(), re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text).digest()) for text in own)
        return b" ".join(b"'sha256-%b'" % digest for digest in digests)

    return (
        b"default-src 'none'; connect-src 'self'; img-src data:; "
        b"style-src %b; script-src %b; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        % (allowed(b"style"), allowed(b"script"))
    )
