"""The header that says who asks: an API key or an Entra ID token, cached and renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NoReturn, Protocol

from cloudai._core.calls.until import left, within
from cloudai._core.profiles.secrets import Hidden, Secret
from cloudai.errors import AuthenticationError, CallTimeout
from cloudai.protocols import Call

LOOK: Final = 30.0
"""Seconds after which the core's cache of secrets is asked again; it has its own, longer life."""
WAIT: Final = 120.0
"""Seconds for a credential where no call has less."""
EARLY: Final = 300.0
"""Seconds before its end at which a token is renewed (azure-identity itself does so too)."""


class Header:
    """One authentication header, and until when it may be used without another look.

    Its repr shows no value, and it does not pickle (``Secret`` does neither).
    """

    __slots__ = ("name", "secret", "until", "value")

    def __init__(self, name: str, value: str, until: float, secret: Secret) -> None:
        self.name = name
        self.value = Hidden(value)
        self.until = until
        self.secret = secret

    def __repr__(self) -> str:
        return f"Header({self.name!r}, ***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an authentication header does not pickle")


class Auth(Protocol):
    """Gives the header of a request."""

    def fresh(self) -> Header | None:
        """The header, where it is at hand without I/O."""
        ...

    def header(self) -> Header:
        """The header; may ask a vault or Entra ID. Single flight. Raises CloudAIError."""
        ...

    def refused(self, header: Header) -> Header | None:
        """Another header after a 401 on ``header``; None where there is no other."""
        ...


def header(auth: Auth, call: Call) -> Header:
    """The header of a request; what has to be asked for it ends with the call."""
    found = auth.fresh()
    if found is None:
        with within(call.remaining()):
            found = auth.header()
    return found


def another(auth: Auth, refused: Header, call: Call) -> Header | None:
    """The header after a 401, in the same way."""
    with within(call.remaining()):
        return auth.refused(refused)


class _Cached:
    def __init__(self) -> None:
        self._header: Header | None = None
        self._lock = threading.Lock()

    def fresh(self) -> Header | None:
        header = self._header
        if header is not None and header.until > time.monotonic():
            return header
        return None

    def header(self) -> Header:
        header = self.fresh()
        if header is None:
            with self._alone():
                header = self.fresh()
                if header is None:
                    header = self._header = self._make()
        return header

    @contextmanager
    def _alone(self) -> Generator[None]:
        """One asks at a time; the others wait no longer than they have."""
        if not self._lock.acquire(timeout=left(WAIT)):
            raise CallTimeout("no credential came in time", provider="azure")
        try:
            yield
        finally:
            self._lock.release()

    def _make(self) -> Header:
        raise AuthenticationError("no credential", provider="azure")


class ApiKey(_Cached):
    """An API key, from wherever the profile's reference points.

    Parameters
    ----------
    get: gives the key; cached by the core. renew: fetches it anew after one was refused.
    api_version: None for the v1 API, which takes the key as a bearer; dated ones as ``api-key``
        (the rules of openai 3's OpenAI and AzureOpenAI).
    """

    def __init__(
        self,
        get: Callable[[], Secret | None],
        renew: Callable[[Secret], Secret | None],
        api_version: str | None,
    ) -> None:
        super().__init__()
        self._get = get
        self._renew = renew
        self._dated = api_version is not None

    def _make(self) -> Header:
        secret = self._get()
        if secret is None:
            raise AuthenticationError("api_key is not set", provider="azure")
        return self._of(secret)

    def _of(self, secret: Secret) -> Header:
        key = secret.reveal()
        if not key or not key.isascii() or not key.isprintable() or key != key.strip():
            raise AuthenticationError(
                "the API key is empty, or holds spaces, line ends or other than ASCII characters",
                provider="azure",
                hint="Look at the secret's value: a line end at its end is the usual reason",
            )
        if self._dated:
            return Header("api-key", key, time.monotonic() + LOOK, secret)
        return Header("Authorization", f"Bearer {key}", time.monotonic() + LOOK, secret)

    def refused(self, header: Header) -> Header | None:
        with self._alone():
            if self._header is not None and self._header.secret is not header.secret:
                return self._header  # another call has renewed it meanwhile
            fresh = self._renew(header.secret)
            if fresh is None or fresh.reveal() == header.secret.reveal():
                return None
            self._header = self._of(fresh)
            return self._header


class Entra(_Cached):
    """An Entra ID token.

    Parameters
    ----------
    token: gives a token for a scope, and its end in Unix seconds. scope: whom it is for.
    """

    def __init__(self, token: Callable[[str], tuple[str, float]], scope: str) -> None:
        super().__init__()
        self._token = token
        self._scope = scope

    def _make(self) -> Header:
        token, expires = self._token(self._scope)
        left = expires - time.time()
        until = time.monotonic() + (left - EARLY if left > EARLY else min(left / 2, LOOK))
        return Header("Authorization", f"Bearer {token}", until, Secret(token))

    def refused(self, header: Header) -> Header | None:
        with self._alone():
            current = self._header
            if current is not None and current.secret is not header.secret:
                return current
            made = self._make()
            if made.secret.reveal() == header.secret.reveal():
                return None  # azure-identity still holds it for good
            self._header = made
            return made
