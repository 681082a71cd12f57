"""Secret Manager: the values of ``{ secretmanager = "NAME" }`` references."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai.errors import ProviderError
from cloudai.protocols import Call
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.session import VertexSession
from cloudai.types import SecretRef
from cloudai.types._base import invalid


class SecretManager:
    """Google Secret Manager. A name is a secret's id, or ``projects/P/secrets/NAME``."""

    def __init__(self, profile: Profile) -> None:
        self._session = profile.shared(VertexSession.of)

    def get(self, ref: SecretRef, call: Call) -> str:
        """The value. Raises NotFound, PermissionDenied."""
        name = ref.name.strip("/")
        if not name.startswith("projects/"):
            name = f"projects/{self._session.project}/secrets/{name}"
        version = ref.version or "latest"
        if len(name.split("/")) != 4 or any(c in name + version for c in "?#% "):
            raise invalid("secret", ref.name, "is not the name of a secret", "Such as openai-key.")
        path = f"/v1/{name}/versions/{version}:access"
        found = self._text(path, call)
        if found is None:
            raise ProviderError(f"the secret {ref.name!r} is no text", provider=PROVIDER)
        return found

    def _text(self, path: str, call: Call) -> Hidden | None:
        """The value, in a frame that ends before anything is raised about it."""
        found = self._session.http.json("GET", self._session.url("secretmanager"), path, None, call)
        # What is raised here would hold a part of the value.
        with suppress(ProviderError, KeyError, TypeError, binascii.Error, UnicodeDecodeError):
            return Hidden(base64.b64decode(found["payload"]["data"], validate=True).decode())
        return None
