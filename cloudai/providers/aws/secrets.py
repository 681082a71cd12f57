"""Secrets of AWS: Secrets Manager and SSM's parameters."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai.errors import CloudAIError, NotFound, ProviderError
from cloudai.protocols import Call
from cloudai.providers.aws.session import session
from cloudai.types import SecretRef
from cloudai.types._base import invalid


class AwsSecrets:
    """Gives the values of ``secretsmanager`` and ``ssm`` references.

    A name may be an ARN. Secrets Manager's may end in ``#field``: the value is then that field of
    a secret that holds a JSON object, as its console makes them. ``version`` is a version id or a
    stage (``AWSPREVIOUS``) there, and a number or a label at SSM.
    """

    def __init__(self, profile: Profile) -> None:
        self._session = session(profile)

    def get(self, ref: SecretRef, call: Call) -> str:
        """Raises NotFound, PermissionDenied, InvalidRequest; never with the value."""
        try:
            if ref.store == "ssm":
                return self._parameter(ref, call)
            if ref.store == "secretsmanager":
                return self._secret(ref, call)
        except CloudAIError as error:
            error.hint = error.hint or f"Asked {ref.store} for {ref.name!r}"
            raise
        raise invalid("store", ref.store, "is no store of AWS", "Use secretsmanager or ssm.")

    def _parameter(self, ref: SecretRef, call: Call) -> str:
        name = f"{ref.name}:{ref.version}" if ref.version is not None else ref.name
        found = self._session.call("ssm", "get_parameter", call, Name=name, WithDecryption=True)
        return found["Parameter"]["Value"]

    def _secret(self, ref: SecretRef, call: Call) -> str:
        name, _, field = ref.name.partition("#")
        about: dict[str, str] = {}
        if ref.version is not None:
            # Stages are AWSCURRENT, AWSPREVIOUS, AWSPENDING or one's own; ids are UUIDs.
            stage = len(ref.version) < 32
            about["VersionStage" if stage else "VersionId"] = ref.version
        value = self._whole(name, about, call)
        if value is not None and field:
            value = _field(value, field)
            if value is None:
                # What the secret holds stays out of the message.
                raise NotFound(f"the secret {name!r} has no field {field!r}", provider="aws")
        if value is None:
            raise ProviderError(f"the secret {name!r} is no text", provider="aws")
        return value

    def _whole(self, name: str, about: dict[str, str], call: Call) -> Hidden | None:
        """The secret's text, in a frame that ends before anything is raised about it."""
        found = self._session.call(
            "secretsmanager", "get_secret_value", call, SecretId=name, **about
        )
        text = found.get("SecretString")
        with suppress(UnicodeDecodeError):  # which has the value in it
            return Hidden(found["SecretBinary"].decode() if text is None else text)
        return None


def _field(value: Hidden, field: str) -> Hidden | None:
    with suppress(msgspec.DecodeError):
        table: Any = msgspec.json.decode(value.encode())
        if isinstance(table, dict) and field in table:
            return Hidden(table[field])
    return None
