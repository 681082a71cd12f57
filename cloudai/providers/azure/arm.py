"""Azure Resource Manager: requests, answers, operations that take their time."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from cloudai._core.calls.failures import retry_after
from cloudai._core.calls.http import Answer as Reply
from cloudai._core.calls.paging import paged
from cloudai._core.profiles import registry
from cloudai.errors import CloudAIError
from cloudai.protocols import Call, Place
from cloudai.providers.azure.auth import Auth, Header, another
from cloudai.providers.azure.auth import header as header_of
from cloudai.providers.azure.errors import error_of
from cloudai.providers.azure.session import HEADERS, AzureSession

_SUBSCRIPTIONS: Final = "2021-01-01"
_ABOUT: Final = 10.0
"""Seconds that a question which is not needed may take."""
_SHORTEST: Final = 0.05
_USUAL: Final = 2.0
_LONGEST: Final = 15.0
"""Seconds between two looks at an operation; between the first and the last what the service
says, else the second."""


class Answer(msgspec.Struct, frozen=True):
    """An answer with status 2xx, decoded; None where it had no body."""

    status: int
    body: Any
    headers: dict[str, str]


def send(
    session: AzureSession,
    method: str,
    path: str,
    api_version: str,
    call: Call,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    auth: Auth | None = None,
) -> Answer:
    """One request. ``path`` may be a whole URL, as ``nextLink`` and operations give it; ``auth``
    another than Resource Manager's. Raises CloudAIError."""
    whole = path.startswith("https://")
    url = urlsplit(path if whole else session.management_endpoint)
    target = f"{url.path}?{url.query}" if url.query else url.path
    if not whole:
        target = f"{path}?{urlencode({'api-version': api_version, **(params or {})})}"
    sent = None if body is None else msgspec.json.encode(body)
    base = f"{url.scheme}://{url.netloc}"

    def ask(header: Header) -> Reply:
        made = {**HEADERS, header.name: header.value, **(headers or {})}
        return session.http.send(method, base, target, made, sent, call.remaining())

    auth = auth or session.management
    header = header_of(auth, call)
    answer = ask(header)
    if answer.status == 401:
        other = another(auth, header, call)
        if other is not None:
            answer = ask(other)
    low = {name.lower(): value for name, value in answer.headers.items()}
    if not 200 <= answer.status < 300:
        raise error_of(answer.status, low, answer.data)
    return Answer(answer.status, _decoded(answer.data, low), low)


def _decoded(content: bytes, headers: dict[str, str]) -> Any:
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        error: CloudAIError = error_of(502, headers, content)
        raise error from None


def settled(session: AzureSession, answer: Answer, call: Call) -> bool:
    """Waits for the end of the operation that an answer begins; whether it succeeded. An answer
    that begins none has done its work. Raises CallTimeout when the call's time is over."""
    url = answer.headers.get("azure-asyncoperation")
    if not url:
        return True
    told = retry_after(answer.headers)
    pause = min(_LONGEST, max(_SHORTEST, _USUAL if told is None else told))
    while True:
        body = send(session, "GET", url, "", call).body or {}
        state = str(body.get("status") or "").lower()
        if state in {"succeeded", "failed", "canceled"}:
            return state == "succeeded"
        time.sleep(min(pause, call.remaining()))


def pages(session: AzureSession, path: str, api_version: str, call: Call) -> list[Any]:
    """All items of a list that comes in pages."""

    def fetch(link: str | None) -> tuple[list[Any], str | None]:
        body = send(session, "GET", link or path, api_version, call).body or {}
        return body.get("value") or [], body.get("nextLink")

    return list(paged("azure", fetch))


def tenant(session: AzureSession, call: Call) -> str:
    """The subscription's, which is asked for once ("Subscriptions - Get"); "" where it cannot be
    learnt, and where the profile names no subscription."""
    subscription = session.profile.get("subscription")
    if not session.tenant and subscription:
        path = f"/subscriptions/{quote(str(subscription), safe='')}"
        soon = Call(time.monotonic() + min(_ABOUT, call.remaining()))
        with suppress(CloudAIError):
            told = send(session, "GET", path, _SUBSCRIPTIONS, soon).body
            session.tenant = str(told["tenantId"])
    return session.tenant


def place(session: AzureSession, call: Call | None = None) -> Place:
    """The subscription with its tenant and resource group where the profile names them, the Azure
    OpenAI resource, and its address where it is none of Microsoft's own.

    Parameters
    ----------
    call: to ask for the tenant; None takes what is known of it: work that needs an API key alone
        does without Resource Manager.
    """
    profile = session.profile
    named = (profile.get("subscription"), profile.get("resource_group"))
    url = session.endpoint if session.has_endpoint else session.management_endpoint
    return Place(
        account="/".join(map(str, named)) if all(named) else "",
        tenant=session.tenant if call is None else tenant(session, call),
        workspace=str(profile.get("account") or urlsplit(url).netloc),
        emulator=registry.mark(profile.spec, url),
    )
