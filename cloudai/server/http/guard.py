"""Who may come to a server on loopback: programs of this machine, and its own page.

A page of another origin reaches loopback as any program does, and a name that its owner points at
127.0.0.1 makes it the same origin (DNS rebinding). The first tells its origin (Fetch, "append a
request Origin header"; Fetch Metadata), the second its name in Host.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Final

from cloudai.server.http.errors import HTTPError

_OWN: Final = re.compile(rb"localhost|[a-z0-9.-]+\.localhost|127(?:\.\d{1,3}){3}|\[::1\]")


class Guard:
    """Looks at where a request comes from.

    Parameters
    ----------
    hosts: names by which this server is asked, beside loopback's own: of a proxy before it.
    """

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        self._hosts = {host.lower().encode() for host in hosts}
        self._known: set[bytes] = set()

    def check(self, headers: dict[bytes, bytes]) -> None:
        """Raises HTTPError 403 for another machine's name, and for a page of another origin."""
        host = headers.get(b"host", b"")
        if host not in self._known:
            self._check_host(host)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
            raise HTTPError(403, f"a page of {_text(origin)} may not ask this server")
        site = headers.get(b"sec-fetch-site")
        # A link to the page is followed; nothing else of another site's is.
        if site not in (None, b"same-origin", b"none") and (
            headers.get(b"sec-fetch-mode") != b"navigate" or origin is not None
        ):
            raise HTTPError(403, "a page of another site may not ask this server")

    def _check_host(self, host: bytes) -> None:
        name = re.sub(rb":\d*\Z", b"", host.lower())
        if name and name not in self._hosts and not _OWN.fullmatch(name):  # HTTP/1.0 may have none
            raise HTTPError(
                403,
                f"the host {_text(host)} is not this machine",
                hint="Ask 127.0.0.1 or localhost, or serve with --allow-host",
            )
        if len(self._known) < 100:
            self._known.add(host)


def guard_of(sockets: Sequence[socket.socket], hosts: Sequence[str]) -> Guard | None:
    """The guard of a server that listens on loopback alone; None for any other: who comes from
    outside is a matter of the network, of the proxy before it, and of the token."""
    for sock in sockets:
        if sock.family == socket.AF_UNIX or not on_loopback(sock.getsockname()[0]):
            return None
    return Guard(hosts)


def on_loopback(address: str) -> bool:
    """Whether an IP address is this machine's own."""
    return address == "::1" or address.startswith("127.")


def _text(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
