"""Creating once between machines. Vertex AI takes no request token and no name for jobs: their
create requests have ``parent`` and the resource alone (aiplatform v1 protos), and each POST makes
another. Cloud Storage makes an object exactly once (``ifGenerationMatch=0``): a small one beside
the work's files says who is at it, and until when he may create; it goes with those files.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from typing import Final

import msgspec

from cloudai.errors import Conflict, NotFound
from cloudai.protocols import Call
from cloudai.providers.vertex.gcs import Files
from cloudai.providers.vertex.resources import pauses

CLAIM: Final = "claim.json"
_SKEW: Final = 60.0
"""Seconds by which the clocks of two machines may differ."""


class _Claim(msgspec.Struct, frozen=True):
    """Whose turn it is: ``owner`` stands for a home of a machine, ``until`` is Unix seconds."""

    owner: str
    until: float


_CLAIM: Final = msgspec.json.Decoder(_Claim)


def rival(files: Files, base: str, find: Callable[[], str | None], call: Call) -> str | None:
    """What another has made for the same key, waited for; None where it is the caller's turn.

    Parameters
    ----------
    base: the ``gs://`` folder of the work's files, which follows from its key.
    find: looks for what the key made.

    Raises CallTimeout where another is at it for longer than the call may take. A claim of this
    home is taken over at once: the ledger's lock says that who made it is gone.
    """
    uri = f"{base}/{CLAIM}"
    owner = _owner(files)
    for pause in pauses():
        mine = msgspec.json.encode(_Claim(owner, time.time() + call.remaining()))
        try:
            files.put(uri, mine, call, generation=0)
        except Conflict:
            found = find()
            if found is not None:
                return found
        else:
            return None
        try:
            data, generation = files.version(uri, call)
            claim = _CLAIM.decode(data)
            if claim.owner == owner or claim.until + _SKEW < time.time():
                files.put(uri, mine, call, generation=generation)
                return find()
        except (NotFound, Conflict):
            continue  # it was let go, or another was quicker
        time.sleep(min(pause, call.remaining()))
    raise AssertionError("pauses do not end")


def _owner(files: Files) -> str:
    try:
        with open("/etc/machine-id") as file:
            machine = file.read().strip()
    except OSError:
        machine = ""
    text = f"{machine}\0{socket.gethostname()}\0{files.home}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
