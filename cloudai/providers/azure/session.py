"""What the adapters of one profile share: its checked keys, credentials and connections."""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from cloudai._core.calls.http import Http
from cloudai._core.calls.network import Network, network_of
from cloudai._core.calls.sdk import session as sdk_session
from cloudai._core.calls.until import cause, left, within
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden, Secret
from cloudai._version import __version__
from cloudai.errors import AuthenticationError, ConfigError, MissingExtra
from cloudai.providers.azure.auth import WAIT, ApiKey, Auth, Entra
from cloudai.types._base import shorten

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from cloudai._core.calls.aio import Aio

HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/json",
    "User-Agent": f"cloudai/{__version__} python/{platform.python_version()}",
}
_REACH: Final = "Look at the profile's endpoint, at DNS, proxies and private endpoints"

MANAGEMENT: Final = "https://management.azure.com"

PREVIEW: Final = "preview"
"""The v1 API with its preview features (Azure OpenAI's API lifecycle page, read 2025-08)."""
_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?\Z")

# Of the sovereign clouds, by the ending of the resource's host (Azure docs, read 2025-08).
_SCOPES: Final = {
    ".azure.us": "https://cognitiveservices.azure.us/.default",
    ".azure.cn": "https://cognitiveservices.azure.cn/.default",
}
_SCOPE: Final = "https://cognitiveservices.azure.com/.default"

_ML_CLOUDS: Final = {"chinacloudapi": "cn", "usgovcloudapi": "us"}
"""Of the sovereign clouds, by Resource Manager's host."""

_CREDENTIALS: Final = {
    "default": "DefaultAzureCredential",
    "cli": "AzureCliCredential",
    "environment": "EnvironmentCredential",
    "managed-identity": "ManagedIdentityCredential",
    "workload-identity": "WorkloadIdentityCredential",
    "developer-cli": "AzureDeveloperCliCredential",
    "powershell": "AzurePowerShellCredential",
}

_OF_ENTRA: Final = {"default", "environment", "workload-identity"}
"""Credentials that ask Entra ID themselves, at AZURE_AUTHORITY_HOST where that is set."""

_LOCAL: Final = {"cli", "developer-cli", "powershell"}
"""Credentials that ask a program of this machine."""

# The SDK logs whole requests at debug level only; retries are the core's.
_QUIET: Final[dict[str, Any]] = {"retry_total": 0, "logging_enable": False}


class AzureSession:
    """One profile's way to Azure. Thread-safe; nothing is opened before it is needed."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}
        self.tenant = ""
        """Of the subscription; "" until Resource Manager has told it."""

    def _once(self, name: str, make: Any) -> Any:
        found = self._made.get(name)
        if found is None:
            with self._lock:
                found = self._made.get(name)
                if found is None:
                    found = self._made[name] = make()
        return found

    @property
    def has_endpoint(self) -> bool:
        """Whether the profile names an Azure OpenAI resource."""
        return bool(self.profile.get("endpoint") or os.environ.get("AZURE_OPENAI_ENDPOINT"))

    @property
    def endpoint(self) -> str:
        """The Azure OpenAI resource's address. Raises ConfigError for one that cannot be it."""
        given = self.profile.get("endpoint") or os.environ.get("AZURE_OPENAI_ENDPOINT")
        return checked_url(
            "endpoint",
            given or self.profile.require("endpoint"),
            "https://NAME.openai.azure.com",
        )

    @property
    def api_version(self) -> str | None:
        """The dated API version; None for the v1 API. Raises ConfigError for another form."""
        version = self.profile.get("api_version")
        if version in {None, "v1", PREVIEW}:
            return None
        if not _VERSION.match(str(version)):
            raise ConfigError(
                f"api_version={shorten(version)} is not YYYY-MM-DD or YYYY-MM-DD-preview",
                provider="azure",
                hint='Leave it out, or write "v1", for the v1 API, "preview" for that with its '
                'preview features; a dated one is such as "2024-10-21"',
            )
        return str(version)

    @property
    def modern(self) -> bool:
        """Whether the API knows max_completion_tokens and stream_options: v1, and dated
        versions from 2024-09-01-preview on (Azure OpenAI's API lifecycle page, read 2025-08)."""
        version = self.api_version
        return version is None or version[:10] >= "2024-09-01"

    @property
    def auth(self) -> Auth:
        """How requests to the resource say who they are."""
        return self._once("auth", self._make_auth)

    def _make_auth(self) -> Auth:
        profile = self.profile
        # Whether there is one: a vault is not asked here, under the session's lock.
        if profile.get("api_key") is not None:
            return ApiKey(lambda: profile.secret("api_key"), self._renew, self.api_version)
        key = Hidden(os.environ.get("AZURE_OPENAI_API_KEY", ""))
        if key and profile.get("credential") is None:
            kept = Secret(key)
            return ApiKey(lambda: kept, lambda stale: None, self.api_version)
        host = urlsplit(self.endpoint).hostname or ""
        scope = next((s for end, s in _SCOPES.items() if host.endswith(end)), _SCOPE)
        return Entra(self.token, scope)

    def _renew(self, stale: Any) -> Any:
        return self.profile.renew_secret("api_key", stale)

    @property
    def credential(self) -> TokenCredential:
        """The azure-identity credential. Raises ConfigError for an unknown name."""
        return self._once("credential", self._make_credential)

    def _make_credential(self) -> Any:
        import azure.identity

        given = str(self.profile.get("credential", "default"))
        name, _, client = given.partition(":")
        if name not in _CREDENTIALS or (client and name != "managed-identity"):
            raise ConfigError(
                f"credential={shorten(given)} is not one of {', '.join(_CREDENTIALS)}",
                provider="azure",
                hint="managed-identity may be followed by :CLIENT_ID",
            )
        kwargs: dict[str, Any] = {"client_id": client} if client else {}
        if name not in _LOCAL:
            kwargs["transport"] = self.transport
        authority = urlsplit(os.environ.get("AZURE_AUTHORITY_HOST", ""))
        if name in _OF_ENTRA and loopback(authority.hostname):
            # An emulator's: no other authority is asked whether it is one.
            kwargs["disable_instance_discovery"] = True
        return getattr(azure.identity, _CREDENTIALS[name])(**kwargs)

    def token(self, scope: str) -> tuple[Hidden, float]:
        """An Entra ID token and the Unix time it expires. Raises AuthenticationError."""
        from azure.core.exceptions import AzureError

        try:
            with within(left(WAIT)):
                got = self.credential.get_token(scope)
        except (AzureError, ValueError) as error:
            if (failure := cause(error)) is not None:
                raise failure from None
            raise AuthenticationError(
                f"no Entra ID token for {scope}: {tried(error)}",
                provider="azure",
                hint="Sign in (az login), give the machine an identity, set AZURE_CLIENT_ID, "
                "AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or set api_key",
            ) from None  # the SDK's own chain repeats the credential's requests
        return Hidden(got.token), float(got.expires_on)

    @property
    def transport(self) -> Any:
        """Our transport, for what Azure's SDKs ask."""

        def make() -> Any:
            from azure.core.pipeline.transport import RequestsTransport

            return RequestsTransport(session=sdk_session(self.http), session_owner=False)

        return self._once("transport of SDKs", make)

    @property
    def network(self) -> Network:
        """How the profile's requests leave."""
        return self._once("network", lambda: network_of(self.profile))

    @property
    def http(self) -> Http:
        """The connections of this profile, to all of Azure's hosts."""
        return self._once("http", lambda: Http("azure", self.network, _REACH))

    @property
    def aio(self) -> Aio:
        """The same under asyncio. Raises MissingExtra without aiohttp."""

        def make() -> Aio:
            try:
                from cloudai._core.calls.aio import Aio
            except ModuleNotFoundError:
                raise MissingExtra("aiohttp", extra="azure", provider="azure") from None
            return Aio("azure", self.network, _REACH)

        return self._once("aio", make)

    def target(
        self,
        path: str,
        model: str | None = None,
        *,
        api_version: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Path and query of a part of the API, by the rules of openai 3's OpenAI and AzureOpenAI.

        Parameters
        ----------
        model: the deployment that it belongs to, which dated versions have in the path.
        api_version: a dated one instead of the profile's. params: of the query.
        """
        version = api_version or self.api_version
        query: dict[str, Any] = dict(params or {})
        if version is not None:
            query = {"api-version": version, **query}
            if model is not None:
                path = f"deployments/{quote(model, safe='')}/{path}"
        elif self.profile.get("api_version") == PREVIEW:
            query = {"api-version": PREVIEW, **query}
        whole = f"/openai/{path}" if version is not None else f"/openai/v1/{path}"
        return f"{whole}?{urlencode(query)}" if query else whole

    def vault(self, url: str) -> Any:
        """The Key Vault client of a vault; made once."""

        def make() -> Any:
            from azure.keyvault.secrets import SecretClient

            return SecretClient(
                vault_url=url, credential=self.credential, transport=self.transport, **_QUIET
            )

        return self._once(f"vault {url}", make)

    @property
    def management_endpoint(self) -> str:
        given = self.profile.get("management_endpoint", MANAGEMENT)
        return checked_url("management_endpoint", given, MANAGEMENT)

    @property
    def management(self) -> Auth:
        """How requests to Azure Resource Manager say who they are."""
        scope = f"{self.management_endpoint}/.default"
        return self._once("management", lambda: Entra(self.token, scope))

    @property
    def machine_learning(self) -> Auth:
        """The same for what Azure ML's own addresses answer, which take a token of their own
        (azure-ai-ml 1.35, ``_azure_environments.py``)."""
        host = self.management_endpoint
        ending = next((end for sign, end in _ML_CLOUDS.items() if sign in host), "com")
        scope = f"https://ml.azure.{ending}/.default"
        return self._once("machine learning", lambda: Entra(self.token, scope))

    def close(self) -> None:
        """Closes what was opened; it opens again when it is used."""
        with self._lock:
            made, self._made = self._made, {}
        for thing in made.values():
            close = getattr(thing, "close", None)
            if callable(close):
                close()


def tried(error: BaseException) -> str:
    """What azure-identity tells of credentials it tried, in one line."""
    told = str(error).partition("To mitigate this issue")[0]
    return " ".join(told.split())[:1000] or type(error).__name__


def loopback(host: str | None) -> bool:
    """Whether a host is this machine, where plain http leaves nothing in the open."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def checked_url(field: str, url: str, example: str) -> str:
    """A service's address, without a trailing slash. Raises ConfigError for http to another
    machine, for a path, a query, a user or no host."""
    problem = None
    try:
        parts = urlsplit(str(url))
        port = parts.port
    except ValueError:
        raise ConfigError(
            f"{field}={shorten(url)} is not an address", provider="azure", hint=f"Write {example}"
        ) from None
    del port
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        problem = "is not an https address"
    elif parts.scheme == "http" and not loopback(parts.hostname):
        problem = "is plain http, which would show the key to the network"
    elif parts.username or parts.password:
        # Not repeated in the message: what stands before the @ may be a password.
        raise ConfigError(
            f"{field} holds a user or password", provider="azure", hint=f"Write {example}"
        )
    elif parts.path.strip("/") or parts.query or parts.fragment:
        problem = "has a path or a query"
    if problem:
        raise ConfigError(
            f"{field}={shorten(url)} {problem}",
            provider="azure",
            hint=f"Write the address alone, such as {example}; cloudai adds the path",
        )
    return f"{parts.scheme}://{parts.netloc}"


def session(profile: Profile) -> AzureSession:
    """The profile's one session."""
    return profile.shared(AzureSession)
