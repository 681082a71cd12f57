"""The deployments of the profile's resource, asked of Azure Resource Manager."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import quote

from cloudai.errors import CloudAIError, ConfigError, NotFound
from cloudai.protocols import Call
from cloudai.providers.azure import arm
from cloudai.providers.azure.session import AzureSession

API_VERSION: Final = "2025-09-01"
"""What azure-mgmt-cognitiveservices 14.1 sends."""

_LISTING: Final = 15.0
"""Seconds to spend on asking for deployments beside the call itself."""


def base(session: AzureSession) -> str:
    """The resource's path in Resource Manager. Raises ConfigError where a key is missing."""
    profile = session.profile
    why = "deployments are managed in Azure Resource Manager"
    return (
        f"/subscriptions/{quote(str(profile.require('subscription', why)), safe='')}"
        f"/resourceGroups/{quote(str(profile.require('resource_group', why)), safe='')}"
        "/providers/Microsoft.CognitiveServices"
        f"/accounts/{quote(str(profile.require('account', why)), safe='')}"
    )


def path(session: AzureSession, name: str) -> str:
    return f"{base(session)}/deployments/{quote(name, safe='')}"


def listed(session: AzureSession, call: Call) -> list[dict[str, Any]]:
    """All deployments."""
    return arm.pages(session, f"{base(session)}/deployments", API_VERSION, call)


def model(session: AzureSession, name: str, call: Call) -> str | None:
    """The model of a deployment, where that can be found out."""
    asking = Call(time.monotonic() + min(_LISTING, call.remaining(_LISTING)))
    try:
        item = arm.send(session, "GET", path(session, name), API_VERSION, asking).body
        return str(item["properties"]["model"]["name"])
    except (CloudAIError, KeyError, TypeError):
        return None


_CODES: Final = {"deploymentnotfound", "model_not_found", "modelnotfound", "resourcenotfound"}


def explained(error: NotFound, session: AzureSession, model: str, call: Call) -> NotFound:
    """The error of a deployment that does not exist, with those that do."""
    code = (error.code or "").lower()
    if code not in _CODES and code != "404":
        return error  # something else was not found: the key's secret, say
    left = min(_LISTING, call.remaining(_LISTING))
    names: list[str] = []
    try:
        listing = Call(time.monotonic() + left)
        names = sorted(str(item["name"]) for item in listed(session, listing))
    except ConfigError:
        known = ", ".join(sorted(set(session.profile.models.values())))
        hint = (
            f"The profile's models name: {known}. " if known else ""
        ) + "Set subscription, resource_group and account, and this error lists what exists"
    except CloudAIError as failure:
        hint = f"The existing ones could not be listed ({type(failure).__name__})"
    else:
        hint = f"There are: {', '.join(names)}" if names else "The resource has none"
    problem = f"there is no deployment {model!r} at {session.endpoint}"
    if code == "404" and (model in names or not names):
        # The gateway knows no such path: an api_version that does not exist looks like this.
        version = session.api_version
        problem = f"{session.endpoint} knows no such path for the deployment {model!r}"
        hint = f"Look at api_version={version}. {hint}" if version else f"Look at endpoint. {hint}"
    return NotFound(
        problem,
        provider="azure",
        code=error.code,
        status=error.status,
        request_id=error.request_id,
        hint=hint,
    )
