"""What a request has to look like, from the vendor's own clients: field names and types from the
messages of ``google.cloud.aiplatform``, field behaviour from their docstrings.

The messages carry no ``field_behavior`` at run time; the generated docstrings begin with
``Required.`` or ``Output only.`` where the proto says so.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from typing import Any, Final

from cloudai.testing.emulators.vertex._http import Refused

_FIELD: Final = re.compile(r"^ {4}(\w+) \([^\n]*\):\n((?: {8,}[^\n]*\n?|\n)+)", re.MULTILINE)
_WELL_KNOWN: Final = "google.protobuf."

_PLACE: Final = "projects/{}/locations/{}"
_MODEL: Final = (f"{_PLACE}/models/{{}}",)
_ENDPOINT: Final = (f"{_PLACE}/endpoints/{{}}", f"{_PLACE}/publishers/{{}}/models/{{}}")
_NETWORK: Final = ("projects/{}/global/networks/{}",)

REFERENCES: Final[dict[str, tuple[str, ...]]] = {
    "CustomJobSpec.network": _NETWORK,
    "CustomJobSpec.tensorboard": (f"{_PLACE}/tensorboards/{{}}",),
    "CustomJobSpec.models": _MODEL,
    "Endpoint.network": _NETWORK,
    "DeployedModel.model": _MODEL,
    "DeployedModel.shared_resources": (f"{_PLACE}/deploymentResourcePools/{{}}",),
    "DeployModelRequest.endpoint": _ENDPOINT,
    "UndeployModelRequest.endpoint": _ENDPOINT,
    "PredictRequest.endpoint": _ENDPOINT,
    "CountTokensRequest.endpoint": _ENDPOINT,
    "EmbedContentRequest.model": _ENDPOINT,
    "GenerateContentRequest.cached_content": (f"{_PLACE}/cachedContents/{{}}",),
    "UploadModelRequest.parent": (_PLACE,),
    "BatchPredictionJob.model": _MODEL,
    "PreTunedModel.tuned_model_name": _MODEL,
}
"""Fields that name a resource, and how such names look: the protos' resource_reference and the
patterns of the resources, which the messages do not carry at run time either. A Model may be
followed by ``@VERSION``."""

# BatchPredictionJob.model: "For Google's own models: publishers/{publisher}/models/{model}".
_ALSO: Final = {"BatchPredictionJob.model": ("publishers/{}/models/{}",)}


class Behaviour:
    """The fields of one message that must be given, and those that only the service sets."""

    def __init__(self, doc: str) -> None:
        self.required: set[str] = set()
        self.output_only: set[str] = set()
        for name, text in _FIELD.findall(inspect.cleandoc(doc)):
            said = text.strip()
            if said.startswith("Required."):
                self.required.add(name.rstrip("_"))
            elif said.startswith("Output only."):
                self.output_only.add(name.rstrip("_"))


@functools.cache
def _messages(version: str) -> dict[str, Any]:
    """The message classes of one API version, by full name."""
    import proto

    module = importlib.import_module(f"google.cloud.aiplatform_{version}.types")
    found: dict[str, Any] = {}

    def add(cls: Any) -> None:
        found[cls.meta.full_name or cls.pb().DESCRIPTOR.full_name] = cls
        for inner in vars(cls).values():
            if isinstance(inner, type) and issubclass(inner, proto.Message):
                add(inner)

    for name in module.__all__:
        cls = getattr(module, name)
        if isinstance(cls, type) and issubclass(cls, proto.Message):
            add(cls)
    return found


@functools.cache
def behaviour(version: str, full_name: str) -> Behaviour:
    """The behaviour of a message's fields."""
    cls = _messages(version).get(full_name)
    return Behaviour((cls.__doc__ or "") + "\n" if cls is not None else "")


def names(version: str) -> list[str]:
    """The full names of all messages of a version."""
    return sorted(_messages(version))


def _named(field: str, value: Any, path: str) -> None:
    """Refuses a resource's name that does not look like one."""
    patterns = (*REFERENCES.get(field, ()), *_ALSO.get(field, ()))
    if not patterns:
        return
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or not name:
            continue
        for pattern in patterns:
            expression = pattern.replace("{}", "[^/@?#\\s]+") + "(@[^/@?#\\s]+)?"
            if re.fullmatch(expression, name):
                break
        else:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"Invalid resource name \"{name}\" at '{path}'; expected "
                f"{' or '.join(pattern.replace('{}', '*') for pattern in patterns)}.",
                fields=[path],
            )


def checked(
    version: str, message: str, body: Any, *, ignored: list[str], partial: bool = False
) -> dict[str, Any]:
    """The body of a request as the service would read it: fields that only the service sets are
    left out, as AIP-203 has it, and named in ``ignored``.

    Parameters
    ----------
    message: the short name, such as ``"CustomJob"``.
    partial: True for an update, whose message need not be whole.

    Raises Refused (400, INVALID_ARGUMENT) for what is no JSON object, an unknown field, a value of
    another type, a resource's name that is none, or a required field that is missing.
    """
    if not isinstance(body, dict):
        raise Refused(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Not an object.")
    prefix = f"google.cloud.aiplatform.{version}."
    cls = _messages(version)[prefix + message]
    descriptor = cls.pb().DESCRIPTOR
    missing: list[str] = []
    clean = _walk(version, descriptor, body, "", ignored, [] if partial else missing)
    if missing:
        told = "; ".join(f"{name}: Required field is not set" for name in missing)
        raise Refused(400, "INVALID_ARGUMENT", f"List of found errors: {told}.", fields=missing)
    from google.protobuf import json_format

    try:
        json_format.ParseDict(clean, cls.pb()())
    except json_format.ParseError as error:
        raise Refused(400, "INVALID_ARGUMENT", f"Invalid value at '{message}': {error}") from None
    return clean


def _walk(
    version: str,
    descriptor: Any,
    body: dict[str, Any],
    where: str,
    ignored: list[str],
    missing: list[str],
) -> dict[str, Any]:
    fields = {field.json_name: field for field in descriptor.fields}
    fields |= {field.name: field for field in descriptor.fields}
    about = behaviour(version, descriptor.full_name)
    clean: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in body.items():
        field = fields.get(key)
        if field is None:
            at = f" at '{where}'" if where else ""
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.',
                fields=[f"{where}.{key}".lstrip(".")],
            )
        path = f"{where}.{field.name}".lstrip(".")
        if value is None:
            continue
        if field.name in about.output_only:
            ignored.append(path)
            continue
        if value != "" and value != [] and value != {}:
            seen.add(field.name)
        _named(f"{descriptor.name}.{field.name}", value, path)
        clean[key] = _value(version, field, value, path, ignored, missing)
    missing.extend(
        f"{where}.{name}".lstrip(".")
        for name in sorted(about.required - seen)
        if name in fields and not _defaults(fields[name], body)
    )
    return clean


def _defaults(field: Any, body: dict[str, Any]) -> bool:
    """Whether an empty value was given where empty is a value: numbers and flags."""
    given = field.json_name in body or field.name in body
    return given and field.message_type is None and field.type != field.TYPE_STRING


def _value(
    version: str, field: Any, value: Any, path: str, ignored: list[str], missing: list[str]
) -> Any:
    inner = field.message_type
    if inner is None or inner.full_name.startswith(_WELL_KNOWN):
        return value
    if inner.GetOptions().map_entry:
        held = inner.fields_by_name["value"].message_type
        if held is None or held.full_name.startswith(_WELL_KNOWN) or not isinstance(value, dict):
            return value
        return {
            key: _walk(version, held, one, f"{path}[{key}]", ignored, missing)
            if isinstance(one, dict)
            else one
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [
            _walk(version, inner, one, f"{path}[{index}]", ignored, missing)
            if isinstance(one, dict)
            else one
            for index, one in enumerate(value)
        ]
    if isinstance(value, dict):
        return _walk(version, inner, value, path, ignored, missing)
    return value
