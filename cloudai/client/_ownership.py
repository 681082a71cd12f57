"""Whose a resource is. What was created is recorded with its place and carries our tag at its
provider; each look, update and removal compares both, so that a name alone is never enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloudai._core.state.ledger import Entry
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.errors import Conflict, NotFound
from cloudai.protocols import Call

_FORGET = "cloudai forget it, or use the profile and the credentials that made it"


def check_place(binding: CapabilityBinding, entry: Entry) -> None:
    """Raises Conflict where a resource was made elsewhere than the profile works now."""
    here, made = binding.where(), entry.lies
    if made is None or here is None:
        return
    if made.differs(here):
        raise Conflict(
            f"{entry.uri or entry.name} was made at {made}; the profile "
            f"{binding.profile.name!r} works at {here} now",
            provider=binding.profile.provider,
            hint=f"Go there to look at it or to remove it: {_FORGET}",
        )


def entry_of(runtime: Runtime, binding: CapabilityBinding, uri: str) -> Entry | None:
    """The ledger's row of a handle, made where the profile works now; None where the ledger has
    none. Raises Conflict where it has one of another place."""
    rows = runtime.ledger(binding).of(uri)
    for index, row in enumerate(rows):
        try:
            check_place(binding, row)
        except Conflict:
            if index + 1 == len(rows):
                raise
        else:
            return row
    return None


def check_owner(
    binding: CapabilityBinding, native: str, entry: Entry | None, call: Call, what: str
) -> None:
    """Raises Conflict for what carries no tag of ours, or that of another create; NotFound."""
    owner: Callable[[str, Call], str | None] | None = getattr(binding.adapter, "owner", None)
    if owner is None:
        return
    tag = owner(native, call)
    if tag is None:
        problem = "carries no tag of cloudai"
    elif entry is None or tag in (entry.key, tag_of(binding, entry.key)):
        return
    else:
        problem = "was made anew by another (it carries another key)"
    raise Conflict(
        f"{native!r} {problem}: it is not {what}",
        provider=binding.profile.provider,
        hint="Somebody else may need it. To do it all the same: --force (force=True) with its name",
    )


def adopt(runtime: Runtime, binding: CapabilityBinding, kind: str, native: str) -> Entry:
    """Takes a resource that carries our tag into the ledger. Raises NotFound; Conflict for what
    cloudai did not make."""

    def look(call: Call) -> tuple[Any, str | None]:
        status = binding.adapter.status(native, call)
        owner = getattr(binding.adapter, "owner", None)
        key = status.idempotency_key if owner is None else owner(status.id, call)
        return status, key

    status, key = binding.caller.run(f"{binding.capability}.adopt", look, binding.caller.call())
    if key is None:
        raise Conflict(
            f"{native!r} carries no tag of cloudai: it is not taken over",
            provider=binding.profile.provider,
            hint="attach() works with it all the same",
        )
    now = time.time()
    entry = Entry(
        profile=binding.profile.name,
        kind=kind,
        key=key,
        provider=binding.profile.provider,
        place=binding.uri(kind, ""),
        name=status.name or native,
        id=status.id,
        uri=binding.uri(kind, status.id),
        state=status.state,
        spec=b"{}",
        created=status.created_at or now,
        updated=now,
        lies=binding.where(),
    )
    runtime.ledger(binding).adopt(entry)
    return entry


def lost(runtime: Runtime, binding: CapabilityBinding, kind: str) -> list[Any]:
    """The snapshots of what carries our tag at the provider and stands in no row of the ledger:
    of another machine, or of a ledger that is gone."""
    found = binding.caller.run(
        f"{binding.capability}.list", binding.adapter.list, binding.caller.call()
    )
    here = binding.where()
    known = {
        row.id
        for row in runtime.ledger(binding).entries(kind)
        if row.provider == binding.profile.provider
        and (row.lies is None or here is None or not row.lies.differs(here))
    }
    return [one for one in found if one.id not in known]


def hourly(binding: CapabilityBinding, native: str) -> float | None:
    """US dollars an hour of what runs now; None where that is not known."""
    ask = getattr(binding.adapter, "hourly", None)
    if ask is None:
        return None
    return binding.caller.run("hourly", lambda call: ask(native, call), binding.caller.call())


def tag_of(binding: CapabilityBinding, key: str) -> str:
    """How a key stands in the provider's tag."""
    return getattr(binding.adapter, "tag_of", str)(key)


def remove(
    runtime: Runtime,
    binding: CapabilityBinding,
    uri: str,
    native: str,
    *,
    entry: Entry | None = None,
    force: bool = False,
) -> None:
    """Removes a resource at its provider, and then its row. What is gone there is taken for
    removed, in the place that it was made in alone.

    Raises Conflict for what is not ours, or was made elsewhere. ``force`` touches what has the
    name where the profile works now, whosever it is.
    """
    try:
        if entry is None:
            entry = entry_of(runtime, binding, uri)
        else:
            check_place(binding, entry)
    except Conflict:
        if not force:
            raise
        entry = None  # the ledger's row is of what lies elsewhere

    def attempt(call: Call) -> None:
        if not force:
            try:
                check_owner(binding, native, entry, call, "removed")
            except NotFound:
                _gone(binding, entry, uri)
        binding.adapter.delete(native, call)

    binding.caller.run(f"{binding.capability}.delete", attempt, binding.caller.call())
    if entry is not None:
        runtime.ledger(binding).remove(entry)


def _gone(binding: CapabilityBinding, entry: Entry | None, uri: str) -> None:
    """Refuses to call something gone where it may never have been."""
    here = binding.where()
    lies = entry.lies if entry is not None else here
    if here is None or (lies is not None and (lies.account or lies.workspace)):
        return
    raise Conflict(
        f"there is no {uri} at {here}, and the ledger does not say where it was made: it may run "
        "elsewhere",
        provider=binding.profile.provider,
        hint=f"Look where it was made, or: cloudai forget {uri}",
    )
