"""Key Vault and identities, emulated: the 401 challenge, tokens, versions, soft deletion."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

from cloudai.testing.emulators.azure import _shapes
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import CLIENT, AzureState, Vaulted

VERSIONS: Final = {"7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"}


class KeyVault:
    """``/secrets/…`` of one vault; https only, as the real one."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state

    def routes(self, table: Routes) -> None:
        table.add("GET", "/secrets", self._list)
        table.add("GET", "/secrets/{name}/versions", self._list_versions)
        table.add("GET", "/secrets/{name}", self._get)
        table.add("GET", "/secrets/{name}/{version}", self._get)
        table.add("PUT", "/secrets/{name}", self._put)
        table.add("PATCH", "/secrets/{name}/{version}", self._patch)
        table.add("DELETE", "/secrets/{name}", self._delete)
        table.add("GET", "/deletedsecrets/{name}", self._get_deleted)
        table.add("DELETE", "/deletedsecrets/{name}", self._purge)
        table.add("POST", "/deletedsecrets/{name}/recover", self._recover)

    def admit(self, request: Request) -> None:
        """Challenges whoever brings no token for this vault. Raises Refused."""
        if not request.secure:
            raise Refused(400, "BadParameter", "Key Vault answers https alone.")
        if request.query.get("api-version") not in VERSIONS:
            raise Refused(400, "BadParameter", "The api-version is not supported.")
        resource = self._resource(request)
        if self._cloud_state.token_for(request.headers.get("authorization", "")) != resource:
            raise Refused(
                401,
                "Unauthorized",
                "AKV10000: Request is missing a Bearer or PoP token.",
                headers={
                    "WWW-Authenticate": f'Bearer authorization="https://{request.host}'
                    f'/{self._cloud_state.tenant}", resource="{resource}"'
                },
            )
        if self._cloud_state.vault.forbidden:
            raise Refused(
                403,
                "Forbidden",
                "Caller is not authorized to perform action on resource. Action: "
                "'Microsoft.KeyVault/vaults/secrets/getSecret/action'",
                inner={"code": "ForbiddenByRbac"},
            )

    def _resource(self, request: Request) -> str:
        # The SDK wants the vault's host to be a part of the challenge's domain, as
        # acme.vault.azure.net is of vault.azure.net; so 127.0.0.1 is of 0.0.1.
        return f"https://{request.host.partition('.')[2]}"

    def _get(self, request: Request) -> Response:
        vault = self._cloud_state.vault
        name, version = request.groups["name"], request.groups.get("version")
        with self._cloud_state.lock:
            vault.reads += 1
            versions = vault.secrets.get(name, [])
            found = next((v for v in reversed(versions) if version in {None, v.version}), None)
        if found is None:
            raise Refused(
                404,
                "SecretNotFound",
                f"A secret with (name/id) {name}{f'/{version}' if version else ''} was not found "
                "in this key vault.",
            )
        if not found.enabled:
            raise Refused(
                403,
                "Forbidden",
                "Operation get is not allowed on a disabled secret.",
                inner={"code": "SecretDisabled"},
            )
        return Response(body=self._bundle(request, name, found))

    def _bundle(self, request: Request, name: str, secret: Vaulted) -> dict[str, Any]:
        attributes = {
            "enabled": secret.enabled,
            "created": int(self._cloud_state.clock()),
            "updated": int(self._cloud_state.clock()),
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": 90,
        }
        if secret.expires is not None:
            attributes["exp"] = secret.expires
        return {
            "value": secret.value,
            "id": f"https://{request.host}/secrets/{name}/{secret.version}",
            "attributes": attributes,
        }

    def _list(self, request: Request) -> Response:
        with self._cloud_state.lock:
            found = [(name, held[-1]) for name, held in self._cloud_state.vault.secrets.items()]
        return self._items(request, found)

    def _list_versions(self, request: Request) -> Response:
        name = request.groups["name"]
        with self._cloud_state.lock:
            found = [(name, version) for version in self._cloud_state.vault.secrets.get(name, [])]
        return self._items(request, found)

    def _items(self, request: Request, found: list[tuple[str, Vaulted]]) -> Response:
        items = [self._bundle(request, name, secret) for name, secret in found]
        for item in items:
            del item["value"]  # a list shows none
        return Response(body={"value": items})  # no nextLink: the only page

    def _patch(self, request: Request) -> Response:
        from azure.keyvault.secrets._generated.models import SecretUpdateParameters

        body = _shapes.check(request.json(), SecretUpdateParameters)
        name, version = request.groups["name"], request.groups["version"]
        with self._cloud_state.lock:
            versions = self._cloud_state.vault.secrets.get(name, [])
            found = next((held for held in versions if held.version == version), None)
            if found is None:
                raise Refused(404, "SecretNotFound", f"A secret with {name} was not found.")
            attributes = body.get("attributes") or {}
            found.enabled = attributes.get("enabled", found.enabled)
            found.expires = attributes.get("exp", found.expires)
            bundle = self._bundle(request, name, found)
        del bundle["value"]
        return Response(body=bundle)

    def _put(self, request: Request) -> Response:
        from azure.keyvault.secrets._generated.models import SecretSetParameters

        body, name = _shapes.check(request.json(), SecretSetParameters), request.groups["name"]
        attributes = body.get("attributes") or {}
        with self._cloud_state.lock:
            if name in self._cloud_state.vault.deleted:
                raise Refused(
                    409,
                    "Conflict",
                    f"Secret {name} is currently in a deleted but recoverable state, and its "
                    "name cannot be reused; recover or purge it first.",
                    inner={"code": "ObjectIsDeletedButRecoverable"},
                )
            self._cloud_state.vault.put(
                name,
                body["value"],
                enabled=attributes.get("enabled", True),
                expires=attributes.get("exp"),
            )
            found = self._cloud_state.vault.secrets[name][-1]
        return Response(body=self._bundle(request, name, found))

    def _delete(self, request: Request) -> Response:
        name = request.groups["name"]
        with self._cloud_state.lock:
            if name not in self._cloud_state.vault.secrets:
                raise Refused(404, "SecretNotFound", f"A secret with {name} was not found.")
            self._cloud_state.vault.delete(name)
        return self._get_deleted(request)

    def _get_deleted(self, request: Request) -> Response:
        name = request.groups["name"]
        found = self._cloud_state.vault.deleted.get(name)
        if found is None:
            raise Refused(404, "SecretNotFound", f"Deleted Secret not found: {name}")
        bundle = self._bundle(request, name, found[-1])
        del bundle["value"]
        return Response(
            body={
                **bundle,
                "recoveryId": f"https://{request.host}/deletedsecrets/{name}",
                "deletedDate": int(self._cloud_state.clock()),
                "scheduledPurgeDate": int(self._cloud_state.clock()) + 90 * 86_400,
            }
        )

    def _purge(self, request: Request) -> Response:
        with self._cloud_state.lock:
            if self._cloud_state.vault.deleted.pop(request.groups["name"], None) is None:
                raise Refused(404, "SecretNotFound", "The deleted secret was not found.")
        return Response(status=204)

    def _recover(self, request: Request) -> Response:
        name = request.groups["name"]
        with self._cloud_state.lock:
            versions = self._cloud_state.vault.deleted.pop(name, None)
            if versions is None:
                raise Refused(404, "SecretNotFound", f"Deleted Secret not found: {name}")
            self._cloud_state.vault.secrets[name] = versions
        return Response(body=self._bundle(request, name, versions[-1]))


class Identity:
    """The managed identity endpoint of App Service: a token for whoever knows the header."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state
        self.issued = 0

    def routes(self, table: Routes) -> None:
        table.add("GET", "/identity/token", self._token)

    def admit(self, request: Request) -> None:
        """Raises Refused without the identity header."""
        if request.headers.get("x-identity-header") != self._cloud_state.identity_header:
            raise Refused(401, "Unauthorized", "The identity header is wrong.")

    def _token(self, request: Request) -> Response:
        resource = request.query.get("resource")
        if not resource or request.query.get("api-version") != "2019-08-01":
            raise Refused(400, "BadRequest", "resource and api-version=2019-08-01 are required.")
        self.issued += 1
        token, until = self._cloud_state.issue(resource)
        return Response(
            body={
                "access_token": token,
                "expires_on": str(int(until)),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": "emulated",
            }
        )


class Authority:
    """Entra ID's token endpoint, for one service principal; https only."""

    def __init__(self, cloud_state: AzureState, identity: Identity) -> None:
        self._cloud_state = cloud_state
        self._identity = identity

    def routes(self, table: Routes) -> None:
        table.add(
            "GET", f"/{self._cloud_state.tenant}/v2.0/.well-known/openid-configuration", self._about
        )
        table.add("POST", f"/{self._cloud_state.tenant}/oauth2/v2.0/token", self._token)

    def admit(self, request: Request) -> None:
        """Raises Refused over plain http."""
        if not request.secure:
            raise Refused(400, "BadRequest", "Entra ID answers https alone.")

    def _about(self, request: Request) -> Response:
        base = f"https://{request.host}/{self._cloud_state.tenant}"
        return Response(
            body={
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
            }
        )

    def _token(self, request: Request) -> Response:
        form = {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
        if form.get("grant_type") != "client_credentials":
            return _denied("unsupported_grant_type", "AADSTS70003: The grant is not supported.")
        if form.get("client_id") != CLIENT:
            return _denied("unauthorized_client", "AADSTS700016: Application was not found.")
        if form.get("client_secret") != self._cloud_state.client_secret:
            return _denied("invalid_client", "AADSTS7000215: Invalid client secret provided.")
        scope = form.get("scope", "").split(" ")[0]
        if not scope.endswith("/.default"):
            return _denied("invalid_scope", "AADSTS1002012: The scope must end with /.default.")
        self._identity.issued += 1
        token, _ = self._cloud_state.issue(scope.removesuffix("/.default"))
        return Response(body={"token_type": "Bearer", "expires_in": 3599, "access_token": token})


def _denied(code: str, message: str) -> Response:
    status = 400 if code == "invalid_scope" else 401
    return Response(status=status, body={"error": code, "error_description": message})
