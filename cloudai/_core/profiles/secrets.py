"""Secret values: held so that they do not leak, fetched by reference, cached for a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, cast, get_args

from cloudai.errors import ConfigError, NotFound
from cloudai.types import SecretRef
from cloudai.types._base import SecretStoreName

TTL: Final = 300.0
"""Seconds that a fetched value is used before it is fetched anew."""


class Hidden(str):
    """A text that is sent as it is, and that no repr shows: a traceback with its frames' variables
    (as Sentry and rich write it) has ``***`` instead. It does not pickle."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not pickle; pass a reference to it instead")


class Secret:
    """A secret value. Its repr, str and format show nothing, and it does not pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = Hidden(value)

    def reveal(self) -> Hidden:
        """The value, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret does not pickle; pass a reference to it instead")


class SecretCache:
    """Values by reference, each fetched once at a time however many threads ask.

    Parameters
    ----------
    fetch: gives a reference's value; may take long, may raise.
    ttl: seconds that a value is used.
    """

    def __init__(self, fetch: Callable[[SecretRef], str], ttl: float = TTL) -> None:
        self._fetch = fetch
        self._ttl = ttl
        self._values: dict[SecretRef, tuple[Secret, float]] = {}
        self._locks: dict[SecretRef, threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, ref: SecretRef) -> Secret:
        """The value, from the cache while it is fresh."""
        found = self._values.get(ref)
        if found and found[1] > time.monotonic():
            return found[0]
        return self._refresh(ref, found[0] if found else None)

    def renew(self, ref: SecretRef, stale: Secret) -> Secret:
        """The value fetched anew, because ``stale`` was refused; single flight: threads that
        come with a value that has been replaced meanwhile get the new one at once."""
        return self._refresh(ref, stale)

    def _refresh(self, ref: SecretRef, stale: Secret | None) -> Secret:
        with self._guard:
            lock = self._locks.setdefault(ref, threading.Lock())
        with lock:
            found = self._values.get(ref)
            if found and found[0] is not stale and found[1] > time.monotonic():
                return found[0]
            fresh = Secret(self._fetch(ref))
            self._values[ref] = (fresh, time.monotonic() + self._ttl)
            return fresh

    def after_fork(self) -> None:
        """Forgets the locks, which a thread of the parent may have held."""
        self._locks = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cache of secrets does not pickle")


def parse_ref(value: Any, field: str) -> SecretRef:
    """Reads a reference as cloudai.toml writes it: ``{ env = "NAME" }``, ``{ file = PATH }``,
    ``{ keyvault = URL, secret = NAME, version? }``, ``{ secretsmanager = NAME, version? }``,
    ``{ ssm = NAME }``, ``{ secretmanager = NAME, version? }``."""
    if isinstance(value, SecretRef):
        return value
    if isinstance(value, dict):
        table: dict[str, Any] = dict(value)
        version = table.pop("version", None)
        if "keyvault" in table and set(table) == {"keyvault", "secret"}:
            return SecretRef(
                store="keyvault", name=table["secret"], vault=table["keyvault"], version=version
            )
        if len(table) == 1:
            ((store, name),) = table.items()
            if store != "keyvault" and store in get_args(SecretStoreName):
                return SecretRef(store=cast("SecretStoreName", store), name=name, version=version)
    # The value itself is left out of the message: it may be the secret.
    raise ConfigError(
        f"{field} is not a reference to a secret",
        hint='Write { env = "NAME" }, { file = "PATH" }, { keyvault = "URL", secret = "NAME" }, '
        '{ secretsmanager = "NAME" }, { ssm = "NAME" } or { secretmanager = "NAME" }',
    )


def fetch_plain(ref: SecretRef) -> str:
    """The value of a reference into this machine: an environment variable or a file."""
    if ref.store == "env":
        value = os.environ.get(ref.name)
        if value is None:
            raise NotFound(f"the environment variable {ref.name} is not set")
        return value
    try:
        return Path(ref.name).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotFound(f"the secret's file {ref.name} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError:  # which has the file in it
        problem = "is no text in UTF-8"
    raise NotFound(f"the secret's file {ref.name} {problem}")
