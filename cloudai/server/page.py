"""The page for a person: what is loaded, a prediction by hand, live plots from /metrics. One
file without any other, so that it works without a network."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

POLICY: Final = (
    b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    b"script-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'"
)
"""Its Content-Security-Policy: it talks to its own server and to nobody else."""


@cache
def page() -> bytes:
    """The page."""
    return (files("cloudai.server") / "page.html").read_bytes()
