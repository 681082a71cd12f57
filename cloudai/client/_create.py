"""Creating something exactly once, and recording it: the flow of every submit and deploy.

The order is: intent into the ledger → ask the provider → confirm in the ledger. A reply that
was lost is looked up by its idempotency key before anything is sent again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from cloudai._core.state.ledger import Entry, Ledger
from cloudai.client import _ownership as ownership
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.errors import CloudAIError, Conflict, InvalidRequest
from cloudai.protocols import Call
from cloudai.types import BatchTransform, Deployment, TrainingJob
from cloudai.types._base import check_encodable, met

Spec = TypeVar("Spec", TrainingJob, BatchTransform, Deployment)


def checked(spec: Spec) -> Spec:
    """The spec, with every field's type checked as reading it from a file would. Raises
    InvalidRequest naming the field."""
    check_encodable(spec, "")
    try:
        return msgspec.convert(msgspec.to_builtins(spec), met(type(spec)))
    except (msgspec.ValidationError, TypeError) as error:
        raise _invalid(spec, error) from None


def _invalid(spec: object, error: Exception) -> InvalidRequest:
    if isinstance(error.__cause__, InvalidRequest):
        return error.__cause__
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".") or type(spec).__name__
    return InvalidRequest(f"{field}: {text}", field=field)


def read(kind: type[Spec], table: object) -> Spec:
    """A spec from a table, as TOML or JSON gives it. Raises InvalidRequest naming the field."""
    try:
        return msgspec.convert(table, met(kind))
    except msgspec.ValidationError as error:
        raise _invalid(kind, error) from None


def named(spec: Spec, stem: str) -> Spec:
    """The spec with a name and an idempotency key, made up where it has none."""
    key = spec.idempotency_key or secrets.token_hex(16)
    name = spec.name
    if name is None:
        # It follows from the key, so that whoever asks with it elsewhere meets the same name.
        clean = re.sub(r"[^a-zA-Z0-9]+", "-", stem).strip("-")[:48] or "job"
        name = f"{clean}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return msgspec.structs.replace(spec, name=name, idempotency_key=key)


def create(
    runtime: Runtime,
    binding: CapabilityBinding,
    kind: str,
    spec: Spec,
    send: Callable[[Spec, Call], str],
    timeout: float | None,
) -> str:
    """Creates what ``spec`` says, once, and gives the handle's URI."""
    key = spec.idempotency_key
    assert key is not None  # noqa: S101 - ``named`` set it
    ledger = runtime.ledger(binding)
    first = binding.caller.call(timeout, key)
    # A rival waits here for the outcome, and is given the same handle.
    held = ledger.creating(kind, key, first.remaining())
    try:
        return _create(binding, ledger, kind, spec, send, timeout)
    finally:
        held.free()


def _create(
    binding: CapabilityBinding,
    ledger: Ledger,
    kind: str,
    spec: Spec,
    send: Callable[[Spec, Call], str],
    timeout: float | None,
) -> str:
    key = str(spec.idempotency_key)
    profile = binding.profile.name
    encoded = msgspec.json.encode(spec)
    check = getattr(binding.adapter, "check", None)
    if check is not None and not ledger.knows(profile, kind, key):
        check(spec)
    here = binding.where()
    before = ledger.intend(
        profile=profile,
        kind=kind,
        key=key,
        provider=binding.profile.provider,
        place=binding.uri(kind, ""),
        name=spec.name or "",
        spec=encoded,
        lies=here,
    )
    if before is not None:
        _same(before, spec, encoded)
        ownership.check_place(binding, before)
        if before.uri is not None:
            resume = getattr(binding.adapter, "resume", None)
            if resume is not None:
                binding.caller.run(
                    f"{binding.capability}.resume",
                    lambda call: resume(before.id, spec, call),
                    binding.caller.call(timeout, key),
                )
            return before.uri
    # Nothing is known of what an earlier process achieved: ask before sending.
    unsure = before is not None

    def attempt(call: Call) -> str:
        nonlocal unsure
        if unsure:
            found = binding.adapter.find(key, call)
            if found is not None:
                return found
        try:
            return send(spec, call)
        except CloudAIError as error:
            unsure = unsure or error.ambiguous
            raise

    try:
        id = binding.caller.run(
            f"{binding.capability}.create", attempt, binding.caller.call(timeout, key)
        )
    except CloudAIError:
        if not unsure:
            ledger.drop(profile, kind, key)
        raise
    uri = binding.uri(kind, id)
    ledger.confirm(profile, kind, key, id=id, uri=uri)
    return uri


def _same(before: Entry, spec: Spec, encoded: bytes) -> None:
    """Refuses a key that was used for another spec; a made-up name does not count."""
    old, new = msgspec.json.decode(before.spec), msgspec.json.decode(encoded)
    changed = sorted(name for name in new if name != "name" and old.get(name) != new[name])
    if changed:
        raise Conflict(
            f"the idempotency key {spec.idempotency_key!r} was used for another "
            f"{type(spec).__name__}; they differ in {', '.join(changed)}",
            hint="Use another key for other work",
        )
