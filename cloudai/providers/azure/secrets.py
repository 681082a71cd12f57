"""Key Vault: the value of a secret by reference."""

from __future__ import annotations

import re
from typing import Any, Final

from cloudai._core.calls.until import cause, within
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CloudAIError,
    ConfigError,
    Conflict,
    ConnectionFailed,
    NotFound,
    PermissionDenied,
)
from cloudai.protocols import Call
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.session import checked_url, session, tried
from cloudai.types import SecretRef
from cloudai.types._base import invalid

_NAME: Final = re.compile(r"[0-9a-zA-Z-]{1,127}\Z")
_ALTERNATIVES: Final = "Grant the identity the role Key Vault Secrets User on it"


class KeyVaultSecrets:
    """Reads secrets with the profile's credential; never with its API key, which may itself lie
    in the vault."""

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)

    def get(self, ref: SecretRef, call: Call) -> str:
        """The value. Raises NotFound (no such vault, secret or version; deleted but still
        recoverable), Conflict (disabled, expired), PermissionDenied, ConnectionFailed."""
        from azure.core import exceptions as azure

        if not _NAME.match(ref.name):
            raise invalid(
                "secret",
                ref.name,
                "is not the name of a Key Vault secret",
                "Use 1 to 127 letters, digits and hyphens.",
            )
        vault = checked_url("keyvault", ref.vault or "", "https://NAME.vault.azure.net")
        if not vault.startswith("https:"):
            raise ConfigError(
                f"keyvault={vault!r} is plain http, which Key Vault and its SDK refuse",
                provider="azure",
                hint="Write https://NAME.vault.azure.net",
            )
        where = f"the secret {ref.name!r} of {vault}"
        try:
            with within(call.remaining(60.0)):
                found = self._session.vault(vault).get_secret(ref.name, ref.version or "")
        except azure.ClientAuthenticationError as error:
            if (failure := cause(error)) is not None:
                raise failure from None
            raise AuthenticationError(
                f"{where}: no token: {tried(error)}", provider="azure", hint=_SIGN_IN
            ) from None
        except azure.HttpResponseError as error:
            raise self._refused(error, where, ref, call) from None
        except azure.ServiceResponseTimeoutError as error:
            raise CallTimeout(f"{where}: no answer in time", provider="azure") from error
        except (azure.ServiceRequestError, azure.ServiceResponseError) as error:
            raise ConnectionFailed(
                f"{where}: {_line(error)}",
                provider="azure",
                hint="Look at the vault's URL, its firewall and private endpoint",
            ) from error
        except ValueError as error:  # the SDK's check of the challenge's domain
            raise ConfigError(
                f"{where}: {_line(error)}", provider="azure", hint="Look at the vault's URL"
            ) from None
        value = found.value
        if not value:
            raise NotFound(f"{where} has no value", provider="azure")
        return value

    def _refused(self, error: Any, where: str, ref: SecretRef, call: Call) -> Exception:
        response = error.response
        headers = {k.lower(): v for k, v in response.headers.items()} if response else {}
        told = error_of(
            error.status_code or 0, headers, response.text().encode() if response else b""
        )
        about: dict[str, Any] = {
            "provider": "azure",
            "code": told.code,
            "status": told.status,
            "request_id": told.request_id,
        }
        if isinstance(told, Conflict):
            return Conflict(
                f"{where} cannot be read: {told.message}",
                hint="Enable it, or name a version that is enabled and not expired",
                **about,
            )
        if isinstance(told, PermissionDenied):
            return PermissionDenied(f"{where}: {told.message}", hint=_ALTERNATIVES, **about)
        if isinstance(told, NotFound):
            return NotFound(
                f"{where}{f', version {ref.version},' if ref.version else ''} does not exist"
                f"{self._deleted(ref, call)}",
                hint="Look at its name in the vault",
                **about,
            )
        told.message = f"{where}: {told.message}"
        return told

    def _deleted(self, ref: SecretRef, call: Call) -> str:
        """A word on a secret that is deleted but can be recovered, where we may see that."""
        from azure.core.exceptions import AzureError

        try:
            with within(min(10.0, call.remaining(10.0))):
                self._session.vault(str(ref.vault).rstrip("/")).get_deleted_secret(ref.name)
        except (AzureError, ValueError, CloudAIError):
            return ""
        return ": it is deleted, and recoverable until it is purged"


_SIGN_IN: Final = "Sign in (az login), or set the profile's credential"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
