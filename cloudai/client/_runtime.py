"""What a client and its async twin share: profiles, adapters, callers, the ledger."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from msgspec.structs import replace

from cloudai._core.calls.call import Caller
from cloudai._core.calls.retry import Budget, RetryPolicy
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Config, Profile
from cloudai._core.profiles.registry import Capability
from cloudai._core.state.ledger import Ledger
from cloudai.errors import ConfigError, InvalidRequest
from cloudai.protocols import Place
from cloudai.types._base import shorten, unknown

KINDS: dict[str, Capability] = {
    "training": "training",
    "endpoint": "endpoints",
    "batch": "batch",
}


class CapabilityBinding:
    """A capability of a profile, ready to be called.

    Attributes
    ----------
    profile: where it lives. adapter: the provider's. caller: the path its calls take.
    """

    __slots__ = ("_where", "adapter", "caller", "capability", "profile")

    def __init__(
        self, capability: Capability, profile: Profile, adapter: Any, caller: Caller
    ) -> None:
        self.capability = capability
        self.profile = profile
        self.adapter = adapter
        self.caller = caller
        self._where: Place | None = None

    def where(self) -> Place | None:
        """The place that the profile works in, asked for once; None where the provider has one
        place alone."""
        if self._where is None:
            ask = getattr(self.adapter, "where", None)
            if ask is None:
                return None
            found: Place = self.caller.run("where", ask, self.caller.call())
            if not found.account and not found.workspace:
                return found  # it could not be learnt; the next time it may
            self._where = found
        return self._where

    def priced(self, reply: Any, model: str) -> Any:
        """The reply with its cost by the profile's own price of the model, where it has one."""
        price = self.profile.prices.get(model)
        return reply if price is None else replace(reply, cost=price.cost(reply.usage))

    @property
    def remote(self) -> bool:
        """Whether looking at a job there costs a request."""
        return self.profile.provider not in {"local", "fake"}

    def uri(self, kind: str, id: str) -> str:
        """The handle of a resource here."""
        query = self.profile.identity
        path = f"cloudai://{self.profile.authority}/{kind}/{quote(id, safe='')}"
        return f"{path}?{query}" if query else path


def place_of(uri: str) -> str:
    """A handle without its id: the profile and the keys that find it."""
    head, _, query = uri.partition("?")
    place = head[: head.rindex("/") + 1]
    return f"{place}?{query}" if query else place


class Runtime:
    """The state behind one client. Thread-safe; survives a fork."""

    def __init__(
        self,
        profile: str | None,
        provider: str | None,
        config: str | Path | None,
        keys: dict[str, Any],
    ) -> None:
        self.config = Config(config)
        self.profile = self.config.profile(profile, provider=provider, **keys)
        self._bindings: dict[tuple[int, Capability], CapabilityBinding] = {}
        self._budgets: dict[str, Budget] = {}
        self._lock = threading.RLock()
        self._extra: list[Profile] = []
        _runtimes.add(self)

    def binding(self, capability: Capability) -> CapabilityBinding:
        """The capability, where the profile says it lives."""
        found = self._bindings.get((id(self.profile), capability))
        if found is not None:
            return found
        other = self.profile.capabilities.get(capability)
        profile = self.config.profile(other) if other else self.profile
        made = self.bind(capability, profile)
        self._bindings[(id(self.profile), capability)] = made
        return made

    def bind(self, capability: Capability, profile: Profile) -> CapabilityBinding:
        """The capability of one profile; made once."""
        with self._lock:
            found = self._bindings.get((id(profile), capability))
            if found is None:
                factory = registry.adapter_factory(profile.spec, capability)
                budget = self._budgets.setdefault(profile.name, Budget())
                caller = Caller(
                    profile.provider, profile.timeout, RetryPolicy(profile.retries, budget)
                )
                found = CapabilityBinding(capability, profile, factory(profile), caller)
                self._bindings[(id(profile), capability)] = found
            return found

    def fallbacks(
        self, capability: Capability, binding: CapabilityBinding
    ) -> list[CapabilityBinding]:
        """Where to ask next, in order."""
        return [
            self.bind(capability, self.config.profile(name)) for name in binding.profile.fallback
        ]

    def ledger(self, binding: CapabilityBinding) -> Ledger:
        return Ledger(binding.profile.home)

    def locate(self, uri: str) -> tuple[CapabilityBinding, str, str]:
        """The capability, kind and provider's id that a handle's URI names. The id is empty for
        a place: the URI of a create that was never confirmed."""
        parts = urlsplit(uri)
        kind, slash, name = parts.path.lstrip("/").partition("/")
        if parts.scheme != "cloudai" or not parts.netloc or not slash or "/" in name:
            raise InvalidRequest(
                f"{uri!r} is not a handle",
                field="uri",
                value=uri,
                hint="It looks like cloudai://PROFILE/training/ID",
            )
        if kind not in KINDS:
            raise unknown("kind of handle", kind, KINDS)
        profile = self._profile(unquote(parts.netloc), dict(parse_qsl(parts.query)), uri)
        return self.bind(KINDS[kind], profile), kind, unquote(name)

    def _profile(self, name: str, keys: dict[str, str], uri: str) -> Profile:
        candidates = [self.profile, *self.config.made(), *self._extra]
        for profile in candidates:
            if profile.name == name and (not keys or dict(parse_qsl(profile.identity)) == keys):
                return profile
        # A handle names a place. Where keys and data go is said by the profile, or by a handle
        # that this machine made itself.
        plain = self.config.profile(name)
        for key, value in keys.items():
            known = plain.spec.key(key)
            if known is None or known.trust == "ordinary" or str(plain.get(key)) == value:
                continue
            if any(row.place == place_of(uri) for row in Ledger(self.profile.home).entries()):
                continue
            raise ConfigError(
                f"the handle says {key}={shorten(value)}, and the profile {name!r} does not",
                provider=plain.provider,
                hint=f"A handle never says where credentials go. If you trust it, set {key} "
                f"yourself: in the profile, or as CLOUDAI_{key.upper()}",
            )
        profile = self.config.profile(name, **keys)
        if keys:
            self._extra.append(profile)
        return profile

    def close(self) -> None:
        """Closes what the adapters hold. A closed runtime opens again when it is used."""
        with self._lock:
            bindings = {id(binding): binding for binding in self._bindings.values()}
            self._bindings.clear()
        for binding in bindings.values():
            close = getattr(binding.adapter, "close", None)
            if callable(close):
                close()
        for profile in (self.profile, *self._extra):
            profile.close()
        self.config.close()

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        self._bindings = {}
        self._budgets = {}
        for profile in (self.profile, *self._extra):
            profile.after_fork()
        self.config.after_fork()


_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    # Sockets and sessions of the parent must not be used from two processes.
    for runtime in list(_runtimes):
        runtime.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
