"""What all adapters of one profile share: who asks, on which project, where, over what."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from cloudai._core.calls.http import Http
from cloudai._core.calls.network import network_of
from cloudai._core.calls.sdk import session as sdk_session
from cloudai._core.calls.until import left
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai.errors import (
    AuthenticationError,
    CloudAIError,
    ConfigError,
    ConnectionFailed,
    MissingExtra,
    ServiceUnavailable,
)
from cloudai.protocols import Place
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.http import Requests
from cloudai.providers.vertex.tokens import Tokens, expiry

if TYPE_CHECKING:
    from cloudai.providers.vertex.aio import AsyncRequests

SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)
API: Final = "v1"
_filters: Final = threading.Lock()
_TOKEN_TIMEOUT: Final = 120.0
"""Seconds for a token, google-auth's own default."""

PROJECT_VARIABLES: Final = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
LOCATION_VARIABLES: Final = ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION", "CLOUD_ML_REGION")

# google-genai's rule (its _api_client, 2.34): these two are served under rep.googleapis.com.
_MULTI_REGIONS: Final = ("us", "eu")


class VertexSession:
    """The credentials, the project and the connections of one profile. Thread-safe."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.tokens = Tokens(self._fetch)
        self._credentials: Any = None
        self._project: str | None = None
        self.network = network_of(profile)
        self._transport = Http(PROVIDER, self.network)
        self.http = Requests(self.tokens, self._transport)
        self._aio: AsyncRequests | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, profile: Profile) -> VertexSession:
        """The session of a profile, for ``profile.shared``."""
        return cls(profile)

    @property
    def location(self) -> str:
        """The region. Raises ConfigError, saying where it was looked for."""
        found = self.profile.get("location") or _variable(LOCATION_VARIABLES)
        if not found:
            raise self._missing("location", LOCATION_VARIABLES, 'a region, or "global" for Gemini')
        return str(found)

    @property
    def project(self) -> str:
        """The project's id. Raises ConfigError, saying where it was looked for."""
        found = self.profile.get("project") or _variable(PROJECT_VARIABLES) or self._project
        if not found:
            self.credentials()
            found = self._project
        if not found:
            raise self._missing("project", PROJECT_VARIABLES, "the project's id")
        return str(found)

    @property
    def parent(self) -> str:
        """``projects/…/locations/…``"""
        return f"projects/{self.project}/locations/{self.location}"

    def place(self) -> Place:
        """The project, the region, and the address where it is none of Google's own."""
        return Place(
            account=self.project,
            region=self.location,
            emulator=registry.mark(self.profile.spec, self.url()),
        )

    def _missing(self, key: str, variables: tuple[str, ...], what: str) -> ConfigError:
        own = ", in the credential itself" if key == "project" else ""
        return ConfigError(
            f"{key} is not set",
            provider=PROVIDER,
            hint=f"Give {what}. Looked in the arguments, in CLOUDAI_{key.upper()}, in "
            f"[profiles.{self.profile.name}] of cloudai.toml, in {', '.join(variables)}{own}",
        )

    @property
    def bucket(self) -> str:
        """The staging bucket's name. Raises ConfigError where none is set."""
        found = str(
            self.profile.require("bucket", "files travel to Vertex AI through a bucket")
        ).removeprefix("gs://")
        return found.strip("/").partition("/")[0]

    def url(self, service: str = "aiplatform") -> str:
        """The base URL of a Google API, without a slash at its end.

        ``CLOUDSDK_API_ENDPOINT_OVERRIDES_<SERVICE>`` is gcloud's own variable for the same;
        Cloud Storage also has ``STORAGE_EMULATOR_HOST``.
        """
        found = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}")
        given = self.profile.get("endpoint")
        if service == "aiplatform":
            found = given or found
        elif service == "storage":
            found = os.environ.get("STORAGE_EMULATOR_HOST") or found
        if not found and given and not _is_google(given):
            found = given
        if found:
            return str(found).rstrip("/")
        if service != "aiplatform":
            return f"https://{service}.googleapis.com"
        location = self.location
        if location == "global":
            return "https://aiplatform.googleapis.com"
        if location in _MULTI_REGIONS:
            return f"https://aiplatform.{location}.rep.googleapis.com"
        return f"https://{location}-aiplatform.googleapis.com"

    @property
    def overridden(self) -> bool:
        """Whether Vertex AI is asked somewhere else than at Google's own hosts."""
        return not _is_google(self.url())

    @property
    def aio(self) -> AsyncRequests:
        """The requests under asyncio. Raises MissingExtra without aiohttp."""
        if self._aio is None:
            with self._lock:
                if self._aio is None:
                    try:
                        from cloudai._core.calls.aio import Aio
                    except ModuleNotFoundError:
                        raise MissingExtra("aiohttp", extra="vertex", provider=PROVIDER) from None
                    from cloudai.providers.vertex.aio import AsyncRequests

                    self._aio = AsyncRequests(self.tokens, Aio(PROVIDER, self.network))
        return self._aio

    def credentials(self) -> Any:
        """The google-auth credentials; found once. Raises AuthenticationError."""
        if self._credentials is None:
            from google.auth.exceptions import GoogleAuthError

            try:
                found, project = self._find()
                found = self._impersonated(found)
            except GoogleAuthError as error:
                raise _auth_error(error) from None
            except (OSError, ValueError) as error:
                raise AuthenticationError(
                    f"the credential file cannot be used: {str(error)[:200]}", provider=PROVIDER
                ) from None
            self._project = project
            self._credentials = found
        return self._credentials

    def _find(self) -> tuple[Any, str | None]:
        import google.auth

        path = self.profile.get("credentials")
        if path is None:
            found: tuple[Any, str | None] = google.auth.default(scopes=SCOPES)
            return found
        import warnings

        # The filters are the process's: of two threads in here one would undo the other's.
        with _filters, warnings.catch_warnings():
            # It warns of files from strangers; this one is the user's own, by configuration.
            warnings.simplefilter("ignore", DeprecationWarning)
            return google.auth.load_credentials_from_file(
                str(path), scopes=SCOPES, request=self._request()
            )

    def _request(self) -> Any:
        """google-auth's way out, over our pools. A federated credential looks its project up
        while it is loaded; that too goes where the profile sends Google's APIs."""
        from google.auth.exceptions import TransportError

        theirs = "https://cloudresourcemanager.googleapis.com"
        ours = self.url("cloudresourcemanager")

        def request(
            url: str,
            method: str = "GET",
            body: Any = None,
            headers: Mapping[str, str] | None = None,
            timeout: float | None = None,
            **_: Any,
        ) -> Any:
            parts = urlsplit(url.replace(theirs, ours, 1))
            base = f"{parts.scheme}://{parts.netloc}"
            target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            try:
                seconds = left(timeout or _TOKEN_TIMEOUT)
                return self._transport.send(method, base, target, headers or {}, body, seconds)
            except CloudAIError as error:
                raise TransportError(error) from error

        return request

    def requests(self, credentials: Any) -> Any:
        """A session of Google's own clients, over our transport."""
        from google.auth.transport.requests import AuthorizedSession

        made, ours = AuthorizedSession(credentials), sdk_session(self._transport)
        made.trust_env = ours.trust_env
        made.adapters = ours.adapters
        return made

    def _impersonated(self, source: Any) -> Any:
        account = self.profile.get("impersonate")
        if account is None:
            return source
        from google.auth import impersonated_credentials

        base = self.url("iamcredentials")
        return impersonated_credentials.Credentials(
            source_credentials=source,
            target_principal=account,
            target_scopes=list(SCOPES),
            iam_endpoint_override=f"{base}/v1/projects/-/serviceAccounts/{account}"
            ":generateAccessToken",
        )

    def _fetch(self) -> tuple[dict[str, str], float]:
        from google.auth.exceptions import GoogleAuthError

        credentials = self.credentials()
        try:
            credentials.refresh(self._request())
        except GoogleAuthError as error:
            raise _auth_error(error) from None
        headers: dict[str, str] = {}
        credentials.apply(headers)
        return {name: Hidden(value) for name, value in headers.items()}, expiry(credentials)

    def close(self) -> None:
        """Closes the connections; they open again on use."""
        self._transport.close()
        if self._aio is not None:
            self._aio.close()


def _variable(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _is_google(url: str) -> bool:
    host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
    return host.endswith(".googleapis.com")


def _auth_error(error: Exception) -> CloudAIError:
    """google-auth's errors. Only its own sentence is kept: the rest may hold what was sent."""
    from google.auth.exceptions import DefaultCredentialsError, TransportError

    if error.args and isinstance(error.args[0], CloudAIError):  # our own transport's
        return error.args[0]
    text = str(error.args[0] if error.args else error)[:300]
    if isinstance(error, TransportError):
        return ConnectionFailed(text, provider=PROVIDER)
    if getattr(error, "retryable", False):  # the token service's own 429 or 5xx
        return ServiceUnavailable(text, provider=PROVIDER)
    hint = "Check the credential, its rights, and this machine's clock"
    if isinstance(error, DefaultCredentialsError):
        hint = (
            "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS or "
            "the profile's credentials to a service account's file"
        )
    return AuthenticationError(text, provider=PROVIDER, hint=hint)
