"""What the adapters of one profile share: its checked keys, credentials and connections."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai.errors import AuthenticationError, ConfigError
from cloudai.protocols import Place
from cloudai.providers.azure.auth import ApiKey, Auth, Entra
from cloudai.types._base import shorten

if TYPE_CHECKING:
    import httpx2
    import openai
    from azure.core.credentials import TokenCredential

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

# The SDK logs whole requests at debug level only; retries are the core's.
_QUIET: Final[dict[str, Any]] = {"retry_total": 0, "logging_enable": False}


class AzureSession:
    """One profile's way to Azure. Thread-safe; nothing is opened before it is needed."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._lock = threading.RLock()
        self._made: dict[str, Any] = {}

    def _once(self, name: str, make: Any) -> Any:
        found = self._made.get(name)
        if found is None:
            with self._lock:
                found = self._made.get(name)
                if found is None:
                    found = self._made[name] = make()
        return found

    def place(self) -> Place:
        """The subscription and resource group where the profile names them, the Azure OpenAI
        resource, and its address where it is none of Microsoft's own."""
        profile = self.profile
        named = (profile.get("subscription"), profile.get("resource_group"))
        url = self.endpoint if self.has_endpoint else self.management_endpoint
        return Place(
            account="/".join(map(str, named)) if all(named) else "",
            workspace=str(profile.get("account") or urlsplit(url).netloc),
            emulator=registry.mark(profile.spec, url),
        )

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
        key = os.environ.get("AZURE_OPENAI_API_KEY")
        if key and profile.get("credential") is None:
            from cloudai._core.profiles.secrets import Secret

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
        authority = urlsplit(os.environ.get("AZURE_AUTHORITY_HOST", ""))
        if name in _OF_ENTRA and loopback(authority.hostname):
            # An emulator's: no other authority is asked whether it is one.
            kwargs["disable_instance_discovery"] = True
        return getattr(azure.identity, _CREDENTIALS[name])(**kwargs)

    def token(self, scope: str) -> tuple[str, float]:
        """An Entra ID token and the Unix time it expires. Raises AuthenticationError."""
        from azure.core.exceptions import AzureError

        try:
            got = self.credential.get_token(scope)
        except (AzureError, ValueError) as error:
            raise AuthenticationError(
                f"no Entra ID token for {scope}: {tried(error)}",
                provider="azure",
                hint="Sign in (az login), give the machine an identity, set AZURE_CLIENT_ID, "
                "AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or set api_key",
            ) from None  # the SDK's own chain repeats the credential's requests
        return got.token, float(got.expires_on)

    @property
    def tls(self) -> ssl.SSLContext:
        """The one TLS context; making it takes tens of milliseconds."""

        def make() -> ssl.SSLContext:
            import httpx2

            return httpx2.create_ssl_context()

        return self._once("tls", make)

    @property
    def http(self) -> httpx2.Client:
        """The SDK's transport, with its own defaults."""

        def make() -> httpx2.Client:
            import openai

            secure = self.endpoint.startswith("https:")
            # Plain http needs no certificates, which take tens of milliseconds to read.
            verify: Any = self.tls if secure else False
            return openai.DefaultHttpxClient(verify=verify, follow_redirects=False)

        return self._once("http", make)

    @property
    def scoring(self) -> httpx2.Client:
        """The transport to scoring endpoints, which are hosts of their own."""

        def make() -> httpx2.Client:
            import httpx2

            return httpx2.Client(verify=self.tls, follow_redirects=False)

        return self._once("scoring", make)

    @property
    def openai(self) -> openai.OpenAI:
        """The SDK's client: its URL rules, its transport, and its files, batches and
        fine-tuning. Its retries are off: the core owns them."""
        return self._once("openai", self._make_openai)

    def _make_openai(self) -> Any:
        import openai

        endpoint, version = self.endpoint, self.api_version
        # The key is put in by ``auth`` with each request, so that a rotated one is picked up.
        common: dict[str, Any] = {"api_key": "-", "max_retries": 0, "http_client": self.http}
        if version is None:
            if self.profile.get("api_version") == PREVIEW:
                common["default_query"] = {"api-version": PREVIEW}
            return openai.OpenAI(base_url=f"{endpoint}/openai/v1/", **common)
        return openai.AzureOpenAI(azure_endpoint=endpoint, api_version=version, **common)

    def vault(self, url: str) -> Any:
        """The Key Vault client of a vault; made once."""

        def make() -> Any:
            from azure.keyvault.secrets import SecretClient

            return SecretClient(vault_url=url, credential=self.credential, **_QUIET)

        return self._once(f"vault {url}", make)

    @property
    def management_endpoint(self) -> str:
        given = self.profile.get("management_endpoint", MANAGEMENT)
        return checked_url("management_endpoint", given, MANAGEMENT)

    @property
    def arm(self) -> Any:
        """Azure Resource Manager: the SDK's pipeline, without its retries."""

        return self._once("arm", lambda: self._pipeline(self.management_endpoint))

    @property
    def machine_learning(self) -> Any:
        """The same for what Azure ML's own addresses answer, which take a token of their own
        (azure-ai-ml 1.35, ``_azure_environments.py``)."""
        host = self.management_endpoint
        ending = next((end for sign, end in _ML_CLOUDS.items() if sign in host), "com")
        return self._once("ml", lambda: self._pipeline(f"https://ml.azure.{ending}"))

    def _pipeline(self, audience: str) -> Any:
        from azure.core.pipeline import policies
        from azure.mgmt.core import ARMPipelineClient
        from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy, ARMHttpLoggingPolicy

        chain = [
            policies.RequestIdPolicy(),
            policies.UserAgentPolicy(),
            ARMChallengeAuthenticationPolicy(self.credential, f"{audience}/.default"),
            ARMHttpLoggingPolicy(),
        ]
        return ARMPipelineClient(base_url=self.management_endpoint, policies=chain)

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
