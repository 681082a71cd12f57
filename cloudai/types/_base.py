"""What all value types share: JSON values, secret references, checks that name the field."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from cloudai.errors import ConfigError, InvalidRequest

JSON: TypeAlias = Any
"""A value that JSON can hold: None, bool, int, float, str, or lists and dicts of them."""

Seconds: TypeAlias = float

SecretStoreName: TypeAlias = Literal[
    "env", "file", "keyvault", "secretsmanager", "ssm", "secretmanager"
]

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,62})\Z")


class SecretRef(msgspec.Struct, frozen=True, kw_only=True):
    """A reference to a secret; never its value.

    Parameters
    ----------
    store: where it lies: ``env`` (a variable), ``file``, ``keyvault`` (Azure),
        ``secretsmanager`` or ``ssm`` (AWS), ``secretmanager`` (Google).
    name: the variable, the path, or the secret's name in its store.
    vault: the Key Vault's URL; only for ``keyvault``.
    version: one version of the secret; None for the newest.
    """

    store: SecretStoreName
    name: str
    vault: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidRequest("a secret reference needs a name", field="name", value="")
        if (self.store == "keyvault") != (self.vault is not None):
            raise InvalidRequest(
                "a keyvault reference, and only that, names its vault's URL",
                field="vault",
                value=self.vault,
            )


meeting: Final = threading.Lock()
"""Held while msgspec reads a type's fields. It (0.22) shows the type to other threads before it has
read them all, and one that decodes to it in between ends the process."""
_met: Final[set[Any]] = set()


def met(kind: Any) -> Any:
    """One of our types, once msgspec knows it: for ``convert`` and ``decode`` in functions, which
    several threads may call first."""
    if kind not in _met:
        with meeting:
            msgspec.json.Decoder(kind)
        _met.add(kind)
    return kind


def shorten(value: object, limit: int = 80) -> str:
    """``repr(value)``, cut to ``limit`` characters for an error message. The middle goes: the
    end of a path says which file it is."""
    text = repr(value)
    if len(text) <= limit:
        return text
    end = limit // 2
    return f"{text[: limit - end - 1]}…{text[-end:]}"


def invalid(field: str, value: object, problem: str, mend: str | None = None) -> InvalidRequest:
    """The error for one bad field: names the field, the value (where there is one) and the
    mend."""
    named = field if value is None else f"{field}={shorten(value)}"
    return InvalidRequest(f"{named} {problem}", field=field, value=value, hint=mend)


def check_encodable(value: object, field: str) -> None:
    """Raises InvalidRequest, naming the place within ``field``, for half of a character (a lone
    surrogate), which no JSON can carry: in texts, lists, dicts and values of our own."""
    if isinstance(value, str):
        if value.isascii():
            return
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise invalid(
                field,
                value[max(error.start - 20, 0) : error.end],
                f"holds half of a character (a lone surrogate) at {error.start}",
                "It was cut in the middle, or decoded wrongly: text.encode('utf-16', "
                "'surrogatepass').decode('utf-16', 'replace') mends it.",
            ) from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_encodable(key, field)
            check_encodable(inner, f"{field}.{key}")
    elif isinstance(value, (list, tuple)):
        for at, inner in enumerate(value):
            check_encodable(inner, f"{field}[{at}]")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            check_encodable(getattr(value, name), f"{field}.{name}" if field else name)


_PATH = re.compile(r" - at `\$\.([^`]+)`")


def wrong_field(error: Exception) -> str | None:
    """Which field msgspec's error over a JSON body is about: its path without the ``$.``."""
    found = _PATH.search(str(error))
    return None if found is None else found[1]


def check_name(field: str, name: str) -> None:
    """Refuses a name that one of the providers could not carry.

    The common denominator is SageMaker's ``[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}``
    (CreateTrainingJob API reference, read 2026-11).
    """
    if not _NAME.match(name) or name.endswith("-"):
        raise invalid(
            field,
            name,
            "is not a name every provider accepts",
            "Use 1 to 63 letters, digits and inner hyphens, beginning with a letter or digit.",
        )


def check_positive(field: str, value: float | None) -> None:
    """Refuses zero and below; None passes."""
    if value is not None and not value > 0:
        raise invalid(field, value, "is not positive", "Give a number above zero.")


def check_json(field: str, value: JSON) -> None:
    """Refuses what JSON cannot hold (objects, NaN, non-text keys), naming the inner path."""
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise invalid(field, value, "cannot be held by JSON", "Use a finite number or a text.")
        return
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(key, str):
                raise invalid(field, key, "is a key that JSON cannot hold", "Use text keys.")
            check_json(f"{field}.{key}", inner)
        return
    if isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            check_json(f"{field}[{index}]", inner)
        return
    raise invalid(
        field,
        value,
        f"is a {type(value).__name__}, which JSON cannot hold",
        "Use None, bool, int, float, str, lists and dicts of them.",
    )


def unknown(what: str, name: str, valid: Iterable[str]) -> ConfigError:
    """The error for a name that does not exist; its hint names the nearest one that does."""
    choices = list(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(choices) or "none"
    return ConfigError(f"there is no {what} {name!r}", hint=f"{hint}There are: {listed}")
