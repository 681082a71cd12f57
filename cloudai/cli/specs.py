"""Specs from a TOML or JSON file, with options put over them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cloudai.cli.context import pair
from cloudai.client import _create
from cloudai.errors import InvalidRequest
from cloudai.types import BatchTransform, Deployment, TrainingJob
from cloudai.types._base import invalid

Spec = TypeVar("Spec", TrainingJob, BatchTransform, Deployment)

ENDINGS = (".toml", ".json")


def table(file: str | None) -> dict[str, Any]:
    """The file's fields; empty for None. Raises InvalidRequest for a file that cannot be read."""
    if file is None:
        return {}
    path = Path(file)
    if path.suffix not in ENDINGS:
        mend = (
            "To train the script of a folder: --source DIR --entry FILE" if path.is_dir() else None
        )
        raise invalid("file", file, "is neither .toml nor .json", mend)
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise invalid("file", file, f"cannot be read ({error.strerror})") from None
    except ValueError as error:  # of both readers, and of text that is not UTF-8
        raise invalid("file", file, f"is not {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(found, dict):
        raise invalid("file", file, "holds no table of fields")
    return found


def beside(file: str | None, place: Any) -> Any:
    """A path of a spec file, which is relative to that file; URIs and other values as they are."""
    if file is None or not isinstance(place, str) or "://" in place:
        return place
    return os.path.join(os.path.dirname(os.path.abspath(file)), os.path.expanduser(place))


def over(fields: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The fields with the options that were given over them; tables are merged."""
    made = dict(fields)
    for name, value in options.items():
        if value is None or value == {} or value == []:
            continue
        before = made.get(name)
        merge = isinstance(value, dict) and isinstance(before, dict)
        made[name] = {**before, **value} if merge else value  # type: ignore[dict-item]
    return made


def read(kind: type[Spec], fields: dict[str, Any]) -> Spec:
    """The spec of these fields. Raises InvalidRequest naming the bad or unknown one."""
    known = kind.__struct_fields__
    for name in fields:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}"
            raise InvalidRequest(
                f"{name!r} is no field of a {kind.__name__}", field=name, hint=hint
            )
    for one in msgspec.structs.fields(kind):
        if one.required and one.name not in fields:
            raise InvalidRequest(
                f"{one.name} of the {kind.__name__} is missing",
                field=one.name,
                hint=f"Give --{one.name}, or {one.name} in its file",
            )
    return _create.read(kind, fields)


def pairs(option: str, given: Iterable[str] | None) -> dict[str, str]:
    """Repeated ``NAME=VALUE`` options as one table."""
    return dict(pair(option, text) for text in given or ())
