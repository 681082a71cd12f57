"""Patterns of what stays here, as ``.gitignore`` has them (gitignore(5), git 2.39; the tests hold
them to ``git check-ignore``), and the names that look like a secret.

Matching is done on bytes, as git does it: ``?`` is one byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

ALWAYS: Final = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", ".pytest_cache", ".mypy_cache",
    ".ruff_cache", ".ipynb_checkpoints", ".DS_Store", ".#*",
)  # fmt: skip
"""Caches, version control and editors' locks: of no use elsewhere."""

SECRETS: Final = (
    ".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template", "!.env.dist", ".envrc",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.kdbx", "*.gpg",
    ".netrc", "_netrc", ".pgpass", ".my.cnf", ".pypirc", ".npmrc", ".yarnrc.yml", ".htpasswd",
    ".git-credentials", ".gitconfig", ".dockercfg", ".docker/config.json", ".boto", ".s3cfg",
    ".ssh/", ".aws/", ".azure/", ".gnupg/", ".kube/", ".config/gcloud/", ".gcloud/",
    "application_default_credentials.json", "client_secret*.json", "service[-_]account*.json",
    "credentials.json", "credentials.db", "access_tokens.db", "kaggle.json", ".vault-token",
    "secrets.toml", "secrets.yaml", "secrets.yml", "secrets.json", "*.tfstate", "*.tfvars",
    ".cache/huggingface/token", ".huggingface/token", ".bash_history", ".python_history",
)  # fmt: skip
"""What holds a key or a password by its name. ``!NAME`` in ``.cloudaiignore`` or in the spec's
``ignore`` lets one travel."""

_POSIX: Final = {
    b"alnum": b"0-9A-Za-z", b"alpha": b"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": b"0-9", b"graph": rb"\x21-\x7e", b"lower": b"a-z", b"print": rb"\x20-\x7e",
    b"punct": rb"!-/:-@\[-`{-~", b"space": rb" \t-\r", b"upper": b"A-Z", b"xdigit": b"0-9A-Fa-f",
}  # fmt: skip


class Rules:
    """Some patterns of one origin; the last that matches decides.

    Parameters
    ----------
    lines: the patterns; comments and blank ones are passed over.
    why: what is told of a path that they leave out.
    base: the folder that they are relative to, with ``/`` at its end; empty: the root.
    """

    def __init__(self, lines: Iterable[bytes], why: str, base: bytes = b"") -> None:
        self.why = why
        self._base = base
        self._rules: list[tuple[re.Pattern[bytes], bool, bool, bool]] = []
        quick: dict[bool, list[bytes]] = {False: [], True: []}
        for line in lines:
            found = _parse(line)
            if found is not None:
                pattern, by_name, negated, folders = found
                self._rules.append((re.compile(pattern, re.DOTALL), by_name, negated, folders))
                quick[by_name].append(pattern)
        self._quick = [
            (by_name, re.compile(b"|".join(b"(?:%s)" % one for one in patterns), re.DOTALL))
            for by_name, patterns in quick.items()
            if patterns
        ]

    def verdict(self, path: bytes, folder: bool) -> bool | None:
        """Whether a path below the root stays here; None where no pattern speaks of it."""
        if not path.startswith(self._base):
            return None
        path = path[len(self._base) :]
        name = path.rpartition(b"/")[2]
        # Most paths meet no pattern: one look tells that of all of them.
        if not any(one.fullmatch(name if by_name else path) for by_name, one in self._quick):
            return None
        for pattern, by_name, negated, folders in reversed(self._rules):
            if (folder or not folders) and pattern.fullmatch(name if by_name else path):
                return not negated
        return None


def left_out(rules: Iterable[Rules], path: bytes, folder: bool) -> str | None:
    """Why a path stays here; None where it travels. The last of ``rules`` that speaks decides."""
    why: str | None = None
    for one in rules:
        verdict = one.verdict(path, folder)
        if verdict is not None:
            why = one.why if verdict else None
    return why


def lines_of(data: bytes) -> list[bytes]:
    """The lines of an ignore file."""
    return [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]


def _parse(line: bytes) -> tuple[bytes, bool, bool, bool] | None:
    """A pattern as a regular expression; whether it is held to the last name alone, whether it
    takes a path back in, and whether it is about folders alone. None for what matches nothing."""
    if line.startswith(b"#"):
        return None
    line = _trimmed(line)
    negated = line.startswith(b"!")
    line = line.removeprefix(b"!")
    folders = line.endswith(b"/")
    line = line.removesuffix(b"/")
    by_name = b"/" not in line
    pattern = _translated(line.removeprefix(b"/"))
    return (pattern, by_name, negated, folders) if pattern else None


def _trimmed(line: bytes) -> bytes:
    """Without the spaces at its end; one with a backslash before it stays."""
    bare = line.rstrip(b" ")
    slashes = len(bare) - len(bare.rstrip(b"\\"))
    return bare + b" " if slashes % 2 and len(bare) < len(line) else bare


def _translated(pattern: bytes) -> bytes | None:
    out: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at + len(pattern[at:]) - len(pattern[at:].lstrip(b"*"))
            begins = at == 0 or pattern[at - 1 : at] == b"/"
            if end - at > 1 and begins and end == len(pattern):
                out.append(b".*")
            elif end - at > 1 and begins and pattern[end : end + 1] == b"/":
                out.append(b"(?:.*/)?")
                end += 1
            else:
                out.append(b"[^/]*")
            at = end
            continue
        if char == b"[":
            found = _class(pattern, at)
            if found is None:
                return None
            text, at = found
            out.append(text)
            continue
        if char == b"?":
            out.append(b"[^/]")
        else:
            if char == b"\\":
                at += 1
                char = pattern[at : at + 1]
            if not char:
                return None
            out.append(re.escape(char))
        at += 1
    return b"".join(out)


def _class(pattern: bytes, at: int) -> tuple[bytes, int] | None:
    """``[…]`` from ``at`` on, and where it ends; None for one that has no end."""
    at += 1
    negated = pattern[at : at + 1] in {b"!", b"^"}
    at += negated
    parts: list[bytes] = []
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if pattern[at : at + 2] == b"[:" and (end := pattern.find(b":]", at)) > 0:
            name = pattern[at + 2 : end]
            if name not in _POSIX:
                return None
            parts.append(_POSIX[name])
            at = end + 2
            continue
        low, at = _member(pattern, at)
        if low is None:
            return None
        high = low
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in {b"]", b""}:
            high, at = _member(pattern, at + 1)
            if high is None:
                return None
        parts.append(re.escape(low))
        if low < high:
            parts.append(re.escape(low) + b"-" + re.escape(high))
    return b"(?!/)[" + (b"^" if negated else b"") + b"".join(parts) + b"]", at + 1


def _member(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    if pattern[at : at + 1] == b"\\":
        at += 1
    char = pattern[at : at + 1]
    return (char or None), at + 1
