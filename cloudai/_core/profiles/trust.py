"""What a cloudai.toml that was only found may say. An ordinary one works without a word. What could
carry something off counts after the owner's word, given once for the file as it is: an address
outside the vendor's own services and this machine, a secret read from a file outside the project,
a credential file, another home. As direnv's ``allow`` and git's ``safe.directory`` have it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cloudai._core.profiles import registry
from cloudai._core.profiles.registry import ProviderSpec
from cloudai._core.state.disk import write_whole
from cloudai._core.state.home import ensure
from cloudai.errors import ConfigError

# Key Vault's and Managed HSM's own, in all clouds (Azure's "Key Vault service endpoints", 2026-11).
_VAULT: Final = re.compile(
    r"[a-z0-9-]+\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net)"
)
_YES: Final = {"1", "true", "yes", "on"}


def check(file: Path, profile: str, spec: ProviderSpec, table: Mapping[str, Any]) -> None:
    """Raises ConfigError for what the file's profile says and needs the owner's word for.

    Parameters
    ----------
    table: what counts of it: no key that an argument or the environment has set.
    """
    for key, value in table.items():
        why = _reason(file, spec, key, value)
        if why is not None and not trusted(file):
            raise ConfigError(
                f"{file}, line {line_of(file, profile, key)}: {key} {why}, and this file was only "
                "found, not named",
                provider=spec.name,
                hint=f"Read it; if it is yours, say so once: cloudai trust {file} (or name it: "
                "config=, --config; or CLOUDAI_TRUST=1)",
            )


def reasons(file: Path, tables: Mapping[str, Any]) -> Iterator[str]:
    """Each thing in a file that needs the word, with its line."""
    for profile, table in tables.get("profiles", {}).items():
        spec = registry.spec(table.get("provider", profile))
        for key, value in table.items():
            why = _reason(file, spec, key, value)
            if why is not None:
                yield f"line {line_of(file, profile, key)}: {key} {why}"


def _reason(file: Path, spec: ProviderSpec, name: str, value: Any) -> str | None:
    key = spec.key(name)
    if key is None or value is None:
        return None
    if key.trust == "word":
        return "says which files are used or run"
    if key.trust == "address" and not (
        registry.is_vendors(spec, str(value)) or registry.is_here(str(value))
    ):
        return "is an address outside the vendor's own services and this machine"
    if key.kind == "secret" and isinstance(value, dict) and "file" in value:
        root = file.parent.resolve()
        path = (root / Path(str(value["file"])).expanduser()).resolve()
        if not path.is_relative_to(root):
            return "is read from a file outside the project"
    if key.kind == "secret" and isinstance(value, dict) and "keyvault" in value:
        host = urlsplit(str(value["keyvault"])).hostname or ""
        if not _VAULT.fullmatch(host) and not registry.is_here(str(value["keyvault"])):
            return "is asked of a vault at an address that is none of Key Vault's"
    return None


def line_of(file: Path, profile: str, key: str) -> int:
    """The line of a profile's key; of the profile where it stands in another form."""
    heading = re.compile(rf"""\s*\[\s*profiles\s*\.\s*["']?{re.escape(profile)}["']?\s*[\].]""")
    within, first = False, 1
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("["):
            within = heading.match(line) is not None
            first = number if within else first
        if within and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""", line):
            return number
    return first


def trusted(file: Path) -> bool:
    """Whether the owner has given his word for the file as it is."""
    if os.environ.get("CLOUDAI_TRUST", "").lower() in _YES:
        return True
    with suppress(OSError):
        return _mark(file) in _store().read_text("utf-8").splitlines()
    return False


def trust(file: Path) -> None:
    """Notes the owner's word for the file as it is; a change needs it anew."""
    store = _store()
    known: list[str] = []
    with suppress(FileNotFoundError):
        known = store.read_text("utf-8").splitlines()
    path = str(file.resolve())
    kept = [line for line in known if line.partition("  ")[2] != path]
    ensure(store.parent)
    write_whole(store, "".join(f"{line}\n" for line in (*kept, _mark(file))).encode())


def _mark(file: Path) -> str:
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.resolve()}"


def _store() -> Path:
    """A file of the user's own that no project names: not the home, which one may."""
    from platformdirs import user_config_path

    return user_config_path("cloudai", appauthor=False) / "trusted"
