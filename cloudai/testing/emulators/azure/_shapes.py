"""Whether a body has the shape of a Resource Manager type, by the models that Microsoft's
packages ship: unknown fields, types, values and required fields, at any depth.

azure-ai-ml's models say their types as annotations, those of azure-mgmt-cognitiveservices in
tables; both are read here, and neither checks anything itself.
"""

from __future__ import annotations

import datetime
import enum
import types
import typing
from functools import cache
from typing import Any, Final

from cloudai.testing.emulators.azure._http import Refused

_PLAIN: Final[dict[Any, tuple[type, ...]]] = {
    str: (str,),
    int: (int,),
    float: (int, float),
    bool: (bool,),
    datetime.datetime: (str,),
    datetime.timedelta: (str,),
}
_NAMES: Final[dict[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "iso-8601": datetime.datetime,
    "duration": datetime.timedelta,
    "object": Any,
}


def check(body: Any, model: type) -> dict[str, Any]:
    """The body, where it is a ``model``. Raises Refused with the field."""
    _fits(body, model, "")
    return body


def _refuse(where: str, problem: str) -> Refused:
    name = where.lstrip(".") or "the body"
    return Refused(
        400,
        "InvalidRequestContent",
        f"The request content was invalid: {name} {problem}.",
        param=name,
    )


def _fits(value: Any, kind: Any, where: str) -> None:
    origin = typing.get_origin(kind)
    if kind is Any:
        return
    if kind in _PLAIN:
        fine = isinstance(value, _PLAIN[kind]) and (kind is bool or not isinstance(value, bool))
        if not fine:
            raise _refuse(where, f"is no {kind.__name__}")
    elif origin is list:
        if not isinstance(value, list):
            raise _refuse(where, "is no list")
        for index, item in enumerate(value):
            _fits(item, typing.get_args(kind)[0], f"{where}[{index}]")
    elif origin is dict:
        if not isinstance(value, dict):
            raise _refuse(where, "is no object")
        for name, item in value.items():
            _fits(item, typing.get_args(kind)[1], f"{where}.{name}")
    elif origin in {typing.Union, types.UnionType}:
        _fits_one(value, typing.get_args(kind), where)
    elif origin is typing.Literal:
        _known(value, typing.get_args(kind), where)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        _known(value, list(kind), where)
    else:
        _object(value, kind, where)


def _fits_one(value: Any, kinds: tuple[Any, ...], where: str) -> None:
    enums = [k for k in kinds if isinstance(k, type) and issubclass(k, enum.Enum)]
    if value is None and type(None) in kinds:
        return
    if enums:
        _known(value, [member for one in enums for member in one], where)
        return
    problem: Refused | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                _fits(value, kind, where)
                return
            except Refused as refused:
                problem = problem or refused
    raise problem or _refuse(where, "is null")


def _known(value: Any, members: Any, where: str) -> None:
    known = {str(getattr(member, "value", member)) for member in members}
    # Azure takes the names of its enumerations in any case.
    if not isinstance(value, str) or value.lower() not in {name.lower() for name in known}:
        raise _refuse(where, f"is {value!r}, not one of {', '.join(sorted(known))}")


def _object(value: Any, model: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _refuse(where, "is no object")
    fields, chooser = _fields(model)
    subtypes: dict[str, Any] = getattr(model, "__mapping__", {}) if chooser else {}
    if chooser and subtypes:
        named = str(value.get(chooser))
        _known(named, list(subtypes), f"{where}.{chooser}")
        chosen = next(one for name, one in subtypes.items() if name.lower() == named.lower())
        if chosen is not model:
            _object(value, chosen, where)
            return
    for name in value.keys() - fields.keys():
        raise _refuse(f"{where}.{name}", f"is no field of {model.__name__}")
    for name, (kind, required) in fields.items():
        if name in value:
            _fits(value[name], kind, f"{where}.{name}")
        elif required:
            raise _refuse(f"{where}.{name}", "is required")


@cache
def _fields(model: Any) -> tuple[dict[str, tuple[Any, bool]], str | None]:
    """A model's fields by their names on the wire, each with its type and whether it has to be
    there; and the field that tells its subtypes apart."""
    table = getattr(model, "_attribute_map", None)
    return _of_table(model, table) if table is not None else _of_annotations(model)


def _of_table(model: Any, table: dict[str, Any]) -> tuple[dict[str, tuple[Any, bool]], str | None]:
    import azure.mgmt.cognitiveservices.models as named

    def kind(text: str) -> Any:
        if text in _NAMES:
            return _NAMES[text]
        if text[0] in "[{":
            inner = kind(text[1:-1])
            return list[inner] if text[0] == "[" else dict[str, inner]
        return getattr(named, text)

    rules: dict[str, dict[str, Any]] = model._validation
    fields = {
        about["key"]: (kind(about["type"]), bool(rules.get(name, {}).get("required")))
        for name, about in table.items()
        if not rules.get(name, {}).get("readonly")
    }
    return fields, None


def _of_annotations(model: Any) -> tuple[dict[str, tuple[Any, bool]], str | None]:
    import sys

    model()  # its fields have their names once one has been made
    module = sys.modules[model.__module__]
    names = {"_models": sys.modules[module.__package__ or ""], "datetime": datetime, "JSON": Any}
    hints = typing.get_type_hints(model, vars(module), names)
    fields: dict[str, tuple[Any, bool]] = {}
    chooser: str | None = None
    for name, field in model._attr_to_rest_field.items():
        kind = int if field._format == "unix-timestamp" else hints[name]
        if dict[str, str] in typing.get_args(kind):
            kind = dict[str, str | int | float] | None  # azure-ai-ml puts numbers there itself
        optional = kind is Any or type(None) in typing.get_args(hints[name])
        fields[field._rest_name] = (kind, not optional)
        if field._is_discriminator:
            chooser = field._rest_name
    return fields, chooser
