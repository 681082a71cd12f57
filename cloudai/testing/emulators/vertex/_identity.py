"""OAuth tokens, the metadata server, IAM credentials, Secret Manager and Cloud Logging."""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from typing import Any
from urllib.parse import parse_qsl

from cloudai.testing.emulators.vertex._http import Answer, Refused, Request, Router
from cloudai.testing.emulators.vertex._state import VertexState, page, stamp


class Identity:
    """Hands out tokens, and knows them again.

    Attributes
    ----------
    lifetime: seconds of a token (wall clock). issued: how many were handed out.
    delay: seconds that handing out one takes.
    """

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self.lifetime = 3600.0
        self.delay = 0.0
        self.issued = 0
        self._valid: dict[str, float] = {}

    def routes(self, router: Router) -> None:
        router.add("POST", "/token", self._token)
        router.add(
            "POST",
            "/v1/projects/-/serviceAccounts/{account}:generateAccessToken",
            self._impersonate,
        )
        router.add("GET", "/v1/projects/{number}", self._project)
        root = "/computeMetadata/v1"
        account = f"{root}/instance/service-accounts/{{account}}"
        router.add("GET", "/", self._metadata)
        router.add("GET", f"{account}/token", self._meta)
        router.add("GET", f"{account}/", self._metadata)
        router.add("GET", f"{root}/project/project-id", self._metadata)
        router.add("GET", f"{root}/universe/universe-domain", self._metadata)

    def knows(self, token: str | None) -> bool:
        """Whether a token is one of ours, and good."""
        return token is not None and self._valid.get(token, 0.0) > time.time()

    def revoke(self) -> None:
        """Makes all tokens bad."""
        self._valid.clear()

    def issue(self) -> dict[str, Any]:
        """A new token, as OAuth answers one."""
        self.issued += 1
        token = f"ya29.emulated-{self.issued}"
        self._valid[token] = time.time() + self.lifetime
        return {"access_token": token, "expires_in": int(self.lifetime), "token_type": "Bearer"}

    def _token(self, request: Request) -> Answer | dict[str, Any]:
        form = dict(parse_qsl(request.body.decode()))
        if form.get("grant_type") not in {
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "refresh_token",
        }:
            return Answer(json={"error": "unsupported_grant_type"}, http=400)
        time.sleep(self.delay)
        return self.issue()

    def _impersonate(self, request: Request, account: str) -> dict[str, Any]:
        found = self.issue()
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return {"accessToken": found["access_token"], "expireTime": ends}

    def _project(self, request: Request, number: str) -> dict[str, Any]:
        return {"projectId": self._cloud_state.project, "projectNumber": number}

    def _meta(self, request: Request, account: str) -> Answer:
        return Answer(json=self.issue(), headers=_FLAVOR)

    def _metadata(self, request: Request, account: str = "") -> Answer:
        """The metadata server of Google's machines, as far as google-auth asks it."""
        email = f"emulated@{self._cloud_state.project}.iam.gserviceaccount.com"
        told = {
            "project-id": self._cloud_state.project,
            "universe-domain": "googleapis.com",
        }.get(request.path.rpartition("/")[2], "computeMetadata/")
        if account:
            return Answer(
                json={"aliases": ["default"], "email": email, "scopes": [_SCOPE]}, headers=_FLAVOR
            )
        return Answer(data=told.encode(), headers={**_FLAVOR, "Content-Type": "application/text"})


_FLAVOR = {"Metadata-Flavor": "Google"}
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@functools.cache
def _private_key() -> str:
    """A key of this process's own: google-auth signs with it, and nobody checks."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def service_account(project: str, url: str) -> str:
    """A service account's file, whose tokens come from the emulator."""
    email = f"emulated@{project}.iam.gserviceaccount.com"
    return json.dumps(
        {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "emulated",
            "private_key": _private_key(),
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{url}/token",
        }
    )


class Secrets:
    """Secret Manager: ``secrets["NAME"] = "value"`` adds a version."""

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self._values: dict[str, list[bytes]] = {}

    def __setitem__(self, name: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self._values.setdefault(name, []).append(data)

    def routes(self, router: Router) -> None:
        router.add(
            "GET", "/v1/projects/{project}/secrets/{name}/versions/{version}:access", self._access
        )

    def _access(self, request: Request, project: str, name: str, version: str) -> dict[str, Any]:
        values = self._values.get(name)
        number = len(values or ()) if version == "latest" else int(version)
        if project != self._cloud_state.project or not values or not 1 <= number <= len(values):
            raise Refused(
                404,
                "NOT_FOUND",
                f"Secret [projects/{project}/secrets/{name}] not found or has no versions.",
            )
        data = base64.b64encode(values[number - 1]).decode()
        resource = f"projects/{project}/secrets/{name}/versions/{number}"
        return {"name": resource, "payload": {"data": data}}


class Logging:
    """Cloud Logging: what jobs and endpoints wrote."""

    def __init__(self, cloud_state: VertexState) -> None:
        self._cloud_state = cloud_state
        self._entries: list[dict[str, Any]] = []

    def routes(self, router: Router) -> None:
        router.add("POST", "/v2/entries:list", self._list)

    def write(
        self,
        kind: str,
        labels: dict[str, str],
        text: str,
        *,
        at: float | None = None,
        severity: str = "INFO",
        structured: bool = False,
    ) -> None:
        """Adds a line."""
        with self._cloud_state.lock:
            entry: dict[str, Any] = {
                "insertId": f"line{len(self._entries):08d}",
                "timestamp": stamp(self._cloud_state.clock.now() if at is None else at),
                "severity": severity,
                "resource": {"type": kind, "labels": labels},
                "logName": f"projects/{self._cloud_state.project}/logs/emulated",
            }
            entry |= {"jsonPayload": {"message": text}} if structured else {"textPayload": text}
            self._entries.append(entry)

    def _list(self, request: Request) -> dict[str, Any]:
        body = request.json
        if body.get("resourceNames") != [f"projects/{self._cloud_state.project}"]:
            raise Refused(400, "INVALID_ARGUMENT", "resourceNames is required")
        found = [entry for entry in self._entries if _passes(entry, body.get("filter", ""))]
        found.sort(key=lambda entry: entry["timestamp"])
        if body.get("orderBy") == "timestamp desc":
            found.reverse()
        query = {name: str(body[name]) for name in ("pageSize", "pageToken") if body.get(name)}
        return page(found, query, "entries")


def _passes(entry: dict[str, Any], text: str) -> bool:
    for one in filter(None, (part.strip() for part in text.split(" AND "))):
        match = re.fullmatch(r'([\w.]+)\s*(=|>=|>)\s*"([^"]*)"', one)
        if match is None:
            raise Refused(400, "INVALID_ARGUMENT", f"Unparseable filter: {one}")
        held: Any = entry
        for name in match[1].split("."):
            held = held.get(name) if isinstance(held, dict) else None
        held = held or ""
        good = {"=": held == match[3], ">=": held >= match[3], ">": held > match[3]}[match[2]]
        if not good:
            return False
    return True
