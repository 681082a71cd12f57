"""What the emulated models answer: it follows from the request alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

import msgspec

from cloudai.testing.emulators.common.answers import Reply
from cloudai.testing.emulators.vertex._http import Answer, Refused


def text_of(body: Any) -> str:
    """All texts of a request, with the names and arguments of its calls."""
    if isinstance(body, dict):
        return " ".join(
            filter(
                None, (text_of(value) for key, value in body.items() if key != "thoughtSignature")
            )
        )
    if isinstance(body, list):
        return " ".join(filter(None, map(text_of, body)))
    return body if isinstance(body, str) else ""


SIGNATURES: Final = frozenset({None, "c2lnbmVk", "skip_thought_signature_validator"})
"""No signature, that of the rules' answers, and the placeholder that Google documents."""


def signatures_of(value: Any) -> Iterator[str]:
    """All signatures in an answer."""
    if isinstance(value, dict):
        if isinstance(value.get("thoughtSignature"), str):
            yield value["thoughtSignature"]
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from signatures_of(one)


def check(
    model: str, body: dict[str, Any], config: dict[str, Any], signatures: Collection[str | None]
) -> None:
    """Rules of a generateContent request that its message does not carry. Raises Refused.

    Parameters
    ----------
    signatures: those that are taken back.
    """
    contents = body.get("contents", [])
    for index, content in enumerate(contents):
        if content.get("role") not in {"user", "model"}:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                "Please use a valid role: user, model.",
                fields=[f"contents[{index}].role"],
            )
        if not content.get("parts"):
            raise Refused(
                400, "INVALID_ARGUMENT", "Unable to submit request because it must have parts."
            )
        for part in content["parts"]:
            if part.get("text") == "" and "thoughtSignature" not in part:
                raise Refused(
                    400,
                    "INVALID_ARGUMENT",
                    "Unable to submit request because it has an empty text parameter. Add a value "
                    "to the parameter and try again.",
                )
            if part.get("thoughtSignature") not in signatures:
                raise Refused(400, "INVALID_ARGUMENT", "Corrupted thought signature.")
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and not index:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn.",
            )
        if model.startswith("gemini-3") and calls and "thoughtSignature" not in calls[0]:
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                f"Function call `{calls[0]['functionCall'].get('name')}` in the {index}. content "
                "block is missing a `thought_signature`.",
            )
        answers = sum("functionResponse" in part for part in content["parts"])
        before = contents[index - 1]["parts"] if index else []
        if answers and answers != sum("functionCall" in part for part in before):
            raise Refused(
                400,
                "INVALID_ARGUMENT",
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn.",
            )
    refused = _families(model, body, config)
    if refused is not None:
        raise Refused(400, "INVALID_ARGUMENT", refused)
    if len(config.get("stopSequences", ())) > 5:
        raise Refused(400, "INVALID_ARGUMENT", "The number of stop sequences must be at most 5.")
    temperature = config.get("temperature", 0)
    if not 0 <= temperature <= 2:
        raise Refused(400, "INVALID_ARGUMENT", "temperature must be in the range [0.0, 2.0].")


# "Thinking", Google's documentation, read 2026-11-30; in its own words: opencode-gemini-auth#14
# (2025-12-17), Roo-Code#10700 (2026-01-13), python-genai#867, vercel/ai#16540 (2026-07-01).
_LEVELS: Final = (
    ("gemini-3-pro", {"LOW", "HIGH"}),
    ("gemini-3.1-flash-image", {"MINIMAL", "HIGH"}),
    ("gemini-3.1-pro", {"LOW", "MEDIUM", "HIGH"}),
    ("gemini-3.7-flash", {"LOW", "MEDIUM", "HIGH"}),
    ("gemini-3.8-flash", {"LOW", "MEDIUM", "HIGH"}),
    ("gemini-4", {"LOW", "MEDIUM", "HIGH"}),
)


def _families(model: str, body: dict[str, Any], config: dict[str, Any]) -> str | None:
    """What the model's family refuses."""
    thinking = config.get("thinkingConfig", {})
    level = thinking.get("thinkingLevel")
    if level is not None and model.startswith("gemini-2"):
        return "Thinking level is not supported for this model."
    if level is not None and "thinkingBudget" in thinking:
        return "You can only set only one of thinking budget and thinking level."
    for name, levels in _LEVELS:
        if level is not None and model.startswith(name) and level not in levels:
            return (
                f"Unable to submit request because thinking_level {level} is not supported by "
                "this model. Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/"
                "model-reference/gemini"
            )
    schemas = [config.get("responseJsonSchema")]
    declared = [one for tool in body.get("tools", ()) for one in tool["functionDeclarations"]]
    schemas += [one.get("parametersJsonSchema") for one in declared]
    for schema in schemas:
        found = None if schema is None else _schema_refused(schema, schema, ())
        if found is not None:
            return found
    if declared and config.get("responseMimeType") == "application/json":
        mode = body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode")
        about = "with a response mime type: 'application/json' is unsupported"
        if model.startswith("gemini-2"):
            return f"Function calling {about}"
        if mode == "ANY":
            return f"Forced function calling (mode = ANY) {about}"
    return None


def _schema_refused(node: Any, root: Any, path: tuple[str, ...]) -> str | None:
    """What a JSON Schema is refused for; words that Gemini does not know it passes over
    (google-genai 2.34, ``response_json_schema``)."""
    if not isinstance(node, dict):
        return None
    if "$ref" in node:
        if any(not word.startswith("$") for word in node):
            return "A schema with a $ref may set no other fields."
        name = node["$ref"].rpartition("/")[2]
        if name in path:
            return f"Recursive schema {name} is only allowed in non-required properties."
        return _schema_refused(root.get("$defs", {}).get(name), root, (*path, name))
    for value in node.get("enum", ()):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return "Enum values must be strings or numbers."
    properties = node.get("properties", {})
    inner = [properties[name] for name in node.get("required", ()) if name in properties]
    inner += [*node.get("anyOf", ()), *node.get("prefixItems", ()), node.get("items")]
    return next((found for one in inner if (found := _schema_refused(one, root, path))), None)


def parts_of(reply: Reply) -> tuple[list[dict[str, Any]], str]:
    """The parts of an answer, a word each, and why it ends."""
    made: list[dict[str, Any]] = []
    if reply.reasoning:
        made.append({"text": reply.reasoning, "thought": True})
    made += [{"text": piece} for piece in re.findall(r"\S+\s*|\s+", reply.text)]
    made += [
        {
            "functionCall": {"name": one.name, "args": one.arguments},
            **({"thoughtSignature": "c2lnbmVk"} if not index else {}),
        }
        for index, one in enumerate(reply.tool_calls)
    ]
    return made, "MAX_TOKENS" if reply.finish_reason == "length" else "STOP"


def openai_answer(body: dict[str, Any], about: dict[str, Any]) -> Answer:
    """A chat completion in OpenAI's format, whole or as a stream."""
    text = str(body["messages"][-1]["content"])
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Answer(json={**about, "choices": [choice], "usage": usage})
    pieces: list[dict[str, Any]] = [
        {**about, "choices": [{"index": 0, "delta": {"content": word}}]}
        for word in re.findall(r"\S+\s*", text)
    ]
    pieces.append({**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    pieces.append({**about, "choices": [], "usage": usage})

    def sent() -> Iterator[bytes]:
        for piece in pieces:
            yield b"data: " + msgspec.json.encode(piece) + b"\n\n"
        yield b"data: [DONE]\n\n"

    return Answer(data=sent(), headers={"Content-Type": "text/event-stream"})
