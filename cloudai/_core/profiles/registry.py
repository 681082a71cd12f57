"""The providers that there are: rows of data, so that none is imported before it is used.

A provider is described by its ``SPEC``, a ``ProviderSpec`` in its package's ``__init__``, which
imports no SDK. Third parties name theirs in the entry point group ``cloudai.providers``.
"""

from __future__ import annotations

import importlib
import ipaddress
import re
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from cloudai._core.models import Table
from cloudai.errors import ConfigError, MissingExtra, UnsupportedByProvider
from cloudai.types._base import unknown

Capability: TypeAlias = Literal["training", "endpoints", "batch", "chat", "embeddings"]

CAPABILITIES: Final[tuple[Capability, ...]] = (
    "training",
    "endpoints",
    "batch",
    "chat",
    "embeddings",
)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a provider's profile.

    Parameters
    ----------
    name, doc: what it is called and what it means.
    kind: the value's type in cloudai.toml. A ``secret`` is a reference there, never a value.
        A ``path`` is relative to the file that names it.
    identity: True puts it into handle URIs, so that another process finds the same place.
    trust: what a found cloudai.toml, or a handle, may set by itself. ``address``: one of the
        provider's ``domains`` and of this machine; ``word``: nothing without the owner's word.
    """

    name: str
    doc: str
    kind: Literal["text", "path", "number", "flag", "table", "secret"] = "text"
    identity: bool = False
    trust: Literal["ordinary", "address", "word"] = "ordinary"


NETWORK_KEYS: Final[tuple[Key, ...]] = (
    Key(
        name="client_certificate",
        doc="a PEM file with the certificate that this client shows, and its key",
        kind="path",
    ),
    Key(name="client_key", doc="the key of client_certificate, where it is a file", kind="path"),
)

COMMON_KEYS: Final[tuple[Key, ...]] = (
    Key(
        name="home",
        doc="the folder of the ledger and of local state; absent: CLOUDAI_HOME, then the user's "
        "data folder",
        kind="path",
        trust="word",
    ),
    Key(name="timeout", doc="seconds for one call, all its retries included", kind="number"),
    Key(name="retries", doc="further attempts after a failed one", kind="number"),
    Key(name="fallback", doc="profiles to ask when this one fails", kind="table"),
    Key(name="models", doc="logical model names", kind="table"),
    Key(
        name="prices",
        doc="US dollars for a million tokens (input, output, cached, written), by model",
        kind="table",
    ),
    Key(name="capabilities", doc="capabilities that live in another profile", kind="table"),
    *NETWORK_KEYS,
)


class ProviderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A provider, described without loading it.

    Parameters
    ----------
    name, title: such as ``"aws"`` and ``"AWS: SageMaker and Bedrock"``.
    keys: of its profiles, beside the common ones.
    capabilities: for each one it has, ``"module:attribute"`` of what makes its adapter when
        called with the profile: a class, or a function that picks one.
    extras: for each capability, the extra of cloudai that brings its packages.
    secrets: for each of its secret stores, ``"module:attribute"`` of its adapter.
    gaps: what it truly cannot do, in words, by feature (``"training:spot"``); printed in the
        capability matrix.
    defaults: False when a model must always be named for chat and embeddings.
    stand_ins: sets of keys that a plan can be made with where none are set; the first set that
        suits the spec is taken.
    domains: patterns of the vendor's own hosts, whole, which no customer can have a server at.
    store: how an object's URI looks in the provider's own store, with ``{path}`` for the bucket
        and the key; empty where it reads no objects.
    models: ``"module:attribute"`` of its ``_core.models.Table``; empty where it has none.
    """

    name: str
    title: str
    keys: tuple[Key, ...] = ()
    capabilities: dict[str, str] = {}
    extras: dict[str, str] = {}
    secrets: dict[str, str] = {}
    gaps: dict[str, str] = {}
    default_models: bool = False
    stand_ins: tuple[dict[str, str], ...] = ()
    domains: tuple[str, ...] = ()
    store: str = ""
    models: str = ""

    def key(self, name: str) -> Key | None:
        return next((key for key in (*self.keys, *COMMON_KEYS) if key.name == name), None)


def is_vendors(spec: ProviderSpec, url: str) -> bool:
    """Whether an address is one of the vendor's own services."""
    host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").lower()
    return any(re.fullmatch(pattern, host) for pattern in spec.domains)


def is_here(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def mark(spec: ProviderSpec, url: str) -> str:
    """The address that a ``Place`` carries: none where it is the vendor's own."""
    if is_vendors(spec, url):
        return ""
    parts = urlsplit(url if "//" in url else f"//{url}")
    return f"{parts.scheme or 'https'}://{parts.netloc}"


class Row(msgspec.Struct, frozen=True):
    """Where a built-in provider's SPEC is, and the extra that brings it (None: no extra)."""

    path: str
    extra: str | None


BUILT_IN: Final[dict[str, Row]] = {
    "local": Row("cloudai.providers.local:SPEC", "local"),
    "fake": Row("cloudai.providers.fake:SPEC", None),
    "aws": Row("cloudai.providers.aws:SPEC", "aws"),
    "azure": Row("cloudai.providers.azure:SPEC", "azure"),
    "vertex": Row("cloudai.providers.vertex:SPEC", "vertex"),
}

ENTRY_POINTS: Final = "cloudai.providers"


def load(path: str) -> Any:
    """The object at ``"module:attribute"``."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def names() -> list[str]:
    """All providers' names: the built-in ones, then third parties', sorted."""
    return [*BUILT_IN, *sorted(set(_third_parties()) - set(BUILT_IN))]


def _third_parties() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def spec(name: str) -> ProviderSpec:
    """The provider's description. Raises ConfigError for an unknown one, naming the nearest."""
    if name in BUILT_IN:
        return load(BUILT_IN[name].path)
    point = _third_parties().get(name)
    if point is None:
        raise unknown("provider", name, names())
    found = point.load()
    if not isinstance(found, ProviderSpec):
        raise ConfigError(
            f"the entry point {name!r} of {ENTRY_POINTS} gives {type(found).__name__}, "
            "not a ProviderSpec"
        )
    return found


def table(provider: ProviderSpec) -> Table | None:
    """What is known of the provider's models; None where it has no table."""
    return load(provider.models) if provider.models else None


def tuning_table(provider: ProviderSpec) -> Table | None:
    """What is known of the models that the provider fine-tunes; None where it has no table."""
    module = provider.models.partition(":")[0]
    return getattr(importlib.import_module(module), "TUNING", None) if module else None


def adapter_factory(provider: ProviderSpec, capability: str) -> Any:
    """What makes the provider's adapter for a capability. Raises UnsupportedByProvider where
    there is none, and MissingExtra where its packages are not installed."""
    path = provider.capabilities.get(capability)
    if path is None:
        others = [name for name in names() if capability in spec(name).capabilities]
        raise UnsupportedByProvider(
            capability,
            provider=provider.name,
            alternative=provider.gaps.get(capability)
            or f"Providers with it: {', '.join(others) or 'none'}. "
            f"A profile may send one capability elsewhere: [profiles.NAME.capabilities] "
            f'{capability} = "OTHER-PROFILE".',
        )
    return load_extra(path, provider, capability)


def load_extra(path: str, provider: ProviderSpec, part: str) -> Any:
    """Loads ``path``; a package that is missing becomes MissingExtra, with the pip command."""
    try:
        return load(path)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"", "cloudai"}:
            raise
        raise MissingExtra(
            missing, extra=provider.extras.get(part, provider.name), provider=provider.name
        ) from error
