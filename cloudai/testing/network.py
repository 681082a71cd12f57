"""Blocks the network, all but this machine's own loopback and Unix sockets."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

_SENDING: Final = ("connect", "connect_ex", "sendto", "sendmsg")
_RESOLVING: Final = ("getaddrinfo", "gethostbyname", "gethostbyname_ex")
_LOCAL_NAMES: Final = frozenset({"", "localhost", "ip6-localhost", "testserver"})


class NetworkBlocked(RuntimeError):
    """A test tried to reach another machine. Not an OSError, so that no SDK takes it for a
    failure of the network and tries again."""


@contextmanager
def block_network() -> Generator[None]:
    """While it is open, Python's sockets reach nothing but loopback and Unix sockets, and names
    of other machines are not looked up: NetworkBlocked is raised instead.

    It holds for this process's Python code. Code that opens sockets by itself in C (uvloop,
    grpc), and child processes, it does not see.
    """
    originals: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        originals.append((owner, name, owner.__dict__.get(name)))
        setattr(owner, name, value)

    try:
        for name in _SENDING:
            put(socket.socket, name, _guarded_send(getattr(socket.socket, name)))
        for name in _RESOLVING:
            put(socket, name, _guarded_lookup(getattr(socket, name)))
        yield
    finally:
        for owner, name, value in reversed(originals):
            if value is None:  # it was inherited
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def is_local(host: object) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name.lower() in _LOCAL_NAMES or name.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guarded_send(original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        # The address is the last tuple; a connected socket's sendmsg has none.
        address = next((arg for arg in reversed(args) if isinstance(arg, tuple)), None)
        networked = self.family in {socket.AF_INET, socket.AF_INET6}
        if networked and address is not None and not is_local(address[0]):
            raise NetworkBlocked(f"a test may not connect to {address[0]}:{address[1]}")
        return original(self, *args, **kwargs)

    return guarded


def _guarded_lookup(original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise NetworkBlocked(f"a test may not look up {host!r}")
        return original(host, *args, **kwargs)

    return guarded
