"""Profiles: what cloudai.toml, the environment and the arguments say.

The order is arguments > environment (``CLOUDAI_PROFILE``, ``CLOUDAI_<PROVIDER>_<KEY>``, then
``CLOUDAI_<KEY>``) > cloudai.toml (the nearest in a parent folder, then the user's config folder) >
the vendor's own chain.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from cloudai._core.calls.until import deadline
from cloudai._core.models import prices
from cloudai._core.profiles import registry, trust
from cloudai._core.profiles.registry import ProviderSpec
from cloudai._core.profiles.secrets import Secret, SecretCache, fetch_plain, parse_ref
from cloudai._core.state.home import default_home
from cloudai.errors import ConfigError
from cloudai.protocols import Call
from cloudai.types import SecretRef
from cloudai.types._base import unknown

T = TypeVar("T")

FILE: Final = "cloudai.toml"
DEFAULT_TIMEOUT: Final = 600.0
DEFAULT_RETRIES: Final = 4


class Profile:
    """A named choice of a provider and its keys. Adapters are made from one.

    Attributes
    ----------
    name: in cloudai.toml, or the provider's own name.
    spec: the provider's description.
    models: logical model names → the vendor's. fallback: profiles to ask next.
    capabilities: capability → the profile it lives in.
    prices: the vendor's model names → one's own prices, which go before the provider's table.
    timeout: seconds for one call. retries: further attempts.
    """

    def __init__(
        self,
        name: str,
        spec: ProviderSpec,
        settings: Mapping[str, Any],
        *,
        explicit: Mapping[str, Any] | None = None,
        secrets: SecretCache | None = None,
        fetch: Callable[[SecretRef, Profile], str] | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.models: dict[str, str] = _table(name, settings, "models")
        self.capabilities: dict[str, str] = _table(name, settings, "capabilities")
        self.prices = {
            self.models.get(model, model): price
            for model, price in prices(name, settings.get("prices")).items()
        }
        for capability in self.capabilities:
            if capability not in registry.CAPABILITIES:
                raise unknown("capability", capability, registry.CAPABILITIES)
        self.fallback: tuple[str, ...] = tuple(settings.get("fallback") or ())
        self.timeout: float = _number(name, settings, "timeout", DEFAULT_TIMEOUT)
        self.retries: int = int(_number(name, settings, "retries", DEFAULT_RETRIES))
        self._settings = dict(settings)
        # Without the secrets: they are in the settings, wrapped.
        self._explicit = {
            name: value
            for name, value in (explicit or {}).items()
            if (key := spec.key(name)) is None or key.kind != "secret"
        }
        if fetch is not None and spec.secrets:
            # Its cloud has a store of its own, which it reads with its own credential: what
            # another profile may read is not at hand here.
            secrets = SecretCache(lambda ref: fetch(ref, self))
        self._secrets = secrets or SecretCache(fetch_plain)
        self._shared: dict[Any, Any] = {}
        self._lock = threading.RLock()

    @property
    def provider(self) -> str:
        return self.spec.name

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key that is not a secret; ``default`` when it is not set."""
        value = self._settings.get(key)
        return default if value is None else value

    def require(self, key: str, why: str = "") -> Any:
        """The value of a key; ConfigError when it is not set, saying where it was looked for."""
        value = self.get(key)
        if value is None:
            known = self.spec.key(key)
            raise ConfigError(
                f"{key} is not set{f': {why}' if why else ''}",
                provider=self.provider,
                hint=f"{known.doc if known else key}. Looked in the arguments, in "
                f"CLOUDAI_{key.upper()} and in [profiles.{self.name}] of cloudai.toml",
            )
        return value

    def path(self, key: str, default: Path) -> Path:
        """The value of a ``path`` key, made absolute."""
        value = self.get(key)
        return Path(value).expanduser().absolute() if value is not None else default

    @property
    def home(self) -> Path:
        """The folder of the ledger and of local state."""
        return self.path("home", default_home())

    def secret(self, key: str) -> Secret | None:
        """The value of a ``secret`` key, fetched by its reference; None when it is not set."""
        value = self._settings.get(key)
        if value is None or isinstance(value, Secret):
            return value
        return self._secrets.get(value)

    def renew_secret(self, key: str, stale: Secret) -> Secret | None:
        """The value fetched anew after ``stale`` was refused; None where it has no reference."""
        value = self._settings.get(key)
        return self._secrets.renew(value, stale) if isinstance(value, SecretRef) else None

    def reveal(self, ref: SecretRef) -> str:
        """The value of any reference, for the one place that needs it."""
        return self._secrets.get(ref).reveal()

    def model(self, name: str | None) -> str:
        """The vendor's name for a logical one; other names pass as they are. None gives the
        profile's only model for everything, ``default``, or "" where there is none."""
        if name is None:
            name = "default" if "default" in self.models else ""
        found = self.models.get(name, name)
        if not found and not self.spec.default_models:
            raise ConfigError(
                "no model is named",
                provider=self.provider,
                hint=f'Pass model=, or set default = "…" in [profiles.{self.name}.models]',
            )
        return found

    def shared(self, factory: Callable[[Profile], T]) -> T:
        """The one object that ``factory`` makes for this profile: the adapters' session."""
        with self._lock:
            if factory not in self._shared:
                self._shared[factory] = factory(self)
            return self._shared[factory]

    def close(self) -> None:
        """Closes what ``shared`` made."""
        with self._lock:
            made, self._shared = list(self._shared.values()), {}
        for thing in made:
            close = getattr(thing, "close", None)
            if callable(close):
                close()

    def after_fork(self) -> None:
        """Forgets, without closing, what the parent process made."""
        self._shared = {}
        self._lock = threading.RLock()
        self._secrets.after_fork()

    @property
    def authority(self) -> str:
        """This profile in a handle's URI."""
        return quote(self.name, safe="")

    @property
    def identity(self) -> str:
        """The explicit keys that another process needs to find the same place, as a query."""
        pairs = {
            key.name: str(self._explicit[key.name])
            for key in self.spec.keys
            if key.identity and key.kind != "secret" and key.name in self._explicit
        }
        return urlencode(pairs)

    def __repr__(self) -> str:
        return f"Profile({self.name!r}, provider={self.provider!r})"


class Config:
    """All profiles, read once; the profiles themselves are made on demand.

    Parameters
    ----------
    file: a cloudai.toml; None looks for one.
    start: where to begin to look; None: the current folder.
    """

    def __init__(self, file: str | Path | None = None, start: Path | None = None) -> None:
        self.file = Path(file) if file is not None else find(start or Path.cwd())
        # One that was named, or lies in the user's own folder, has its owner's word.
        self._found = file is None and self.file != own_file()
        self._tables = read(self.file) if self.file else {}
        self._made: dict[str, Profile] = {}
        self._lock = threading.RLock()
        self._secrets = SecretCache(self.fetch)

    @property
    def default(self) -> str | None:
        return os.environ.get("CLOUDAI_PROFILE") or self._tables.get("default")

    @property
    def profiles(self) -> dict[str, Any]:
        return self._tables.get("profiles", {})

    def profile(
        self, name: str | None = None, *, provider: str | None = None, **keys: Any
    ) -> Profile:
        """The profile by name; or the one that ``provider`` and ``keys`` describe.

        Raises ConfigError for an unknown profile, provider or key, naming the nearest valid one.
        """
        if name is None and provider is None:
            name = self.default
            provider = None if name else os.environ.get("CLOUDAI_PROVIDER", "local")
        plain = name is not None and provider is None and not keys
        with self._lock:
            if plain and name in self._made:
                return self._made[name]
            made = self._make(name, provider, keys)
            if plain:
                self._made[made.name] = made
            return made

    def made(self) -> list[Profile]:
        """The profiles made so far."""
        return list(self._made.values())

    def _make(self, name: str | None, provider: str | None, keys: dict[str, Any]) -> Profile:
        table: dict[str, Any] = {}
        if name is not None and name in self.profiles:
            table = dict(self.profiles[name])
            if provider is not None and provider != table.get("provider"):
                raise ConfigError(
                    f"the profile {name!r} is for the provider {table.get('provider')!r}, "
                    f"not for {provider!r}",
                    hint="Pass a profile or a provider, not two that differ",
                )
        elif name is not None and name not in registry.names():
            raise unknown("profile", name, [*self.profiles, *registry.names()])
        chosen = table.pop("provider", None) or provider or name
        if chosen is None:
            raise ConfigError(f"the profile {name!r} names no provider")
        found = registry.spec(chosen)
        valid = [key.name for key in (*found.keys, *registry.COMMON_KEYS)]
        said = {
            key: value
            for key, value in table.items()
            if key not in keys and _variable(chosen, key) is None
        }
        if self._found and self.file is not None and said:
            trust.check(self.file, str(name), found, said)
        settings: dict[str, Any] = {}
        for origin, values in (("cloudai.toml", table), ("arguments", keys)):
            for key, value in values.items():
                if key not in valid:
                    raise unknown(f"key of a {chosen} profile", key, valid)
                settings[key] = self._value(found, key, value, origin)
        for key in valid:
            value = _variable(chosen, key)
            known = found.key(key)
            if value is not None and key not in keys and known and known.kind != "table":
                settings[key] = Secret(value) if known.kind == "secret" else value
        return Profile(
            name or chosen,
            found,
            settings,
            explicit={**keys},
            secrets=self._secrets,
            fetch=self.fetch,
        )

    def _value(self, spec: ProviderSpec, name: str, value: Any, origin: str) -> Any:
        known = spec.key(name)
        if known is None or value is None:
            return value
        if known.kind == "secret":
            if isinstance(value, str):
                if origin == "arguments":
                    return Secret(value)
                raise ConfigError(
                    f"{name} holds a secret itself, and cloudai.toml is no place for one",
                    hint=f'Write a reference: {name} = {{ env = "NAME" }}',
                )
            return value if isinstance(value, Secret) else parse_ref(value, name)
        if known.kind == "path" and origin == "cloudai.toml" and self.file:
            return self.file.parent / Path(value).expanduser()
        return value

    def fetch(self, ref: SecretRef, asker: Profile | None = None) -> str:
        """The value of a reference, as ``asker`` may read it."""
        if ref.store in {"env", "file"}:
            return fetch_plain(ref)
        for name in registry.names():
            found = registry.spec(name)
            if ref.store in found.secrets:
                factory = registry.load_extra(found.secrets[ref.store], found, "secrets")
                own = asker is not None and asker.provider == name
                reader = factory(asker if own else self._store_profile(name))
                return reader.get(ref, Call(deadline()))  # the end of the call that needs it
        raise ConfigError(f"no provider here reads secrets from {ref.store!r}")

    def _store_profile(self, provider: str) -> Profile:
        """The profile whose session reads a cloud's secret store for another cloud's: the first
        of that provider, or a bare one on the vendor's own credential chain."""
        for name, table in self.profiles.items():
            if isinstance(table, dict) and table.get("provider", name) == provider:
                return self.profile(name)
        return self.profile(provider)

    def close(self) -> None:
        for profile in self.made():
            profile.close()

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        self._secrets.after_fork()
        for profile in self.made():
            profile.after_fork()


def find(start: Path) -> Path | None:
    """The nearest cloudai.toml in ``start`` and its parents, then in the user's config folder."""
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    own = own_file()
    return own if own.is_file() else None


def own_file() -> Path:
    """The cloudai.toml of the user's config folder."""
    from platformdirs import user_config_path

    return user_config_path("cloudai", appauthor=False) / FILE


def read(file: Path) -> dict[str, Any]:
    """The tables of a cloudai.toml. Raises ConfigError."""
    import tomllib

    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    for key in tables:
        if key not in {"default", "profiles"}:
            raise unknown(f"key in {file}", key, ["default", "profiles"])
    for name, table in tables.get("profiles", {}).items():
        if not isinstance(table, dict):
            raise ConfigError(f"profiles.{name} in {file} is not a table")
    return tables


def _variable(provider: str, key: str) -> str | None:
    """A key's value in the environment; the one for this provider alone goes first, so that one
    environment can describe several."""
    own = f"CLOUDAI_{re.sub(r'[^A-Z0-9]', '_', provider.upper())}_{key.upper()}"
    # CLOUDAI_PROFILE chooses a profile of cloudai; it is not the aws key of that name.
    common = None if key == "profile" else os.environ.get(f"CLOUDAI_{key.upper()}")
    return os.environ.get(own, common)


def _table(name: str, settings: Mapping[str, Any], key: str) -> dict[str, str]:
    value = settings.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ConfigError(f"{key} of the profile {name!r} is not a table of texts")
    return dict(value)


def _number(name: str, settings: Mapping[str, Any], key: str, default: float) -> float:
    value = settings.get(key)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ConfigError(f"{key}={value!r} of the profile {name!r} is not a number of at least 0")
    return number
