"""What Converse refuses in a conversation's turns, in the service's words.

The words are of reports from the real service: botocore issue 3525 (2025-07), generative-ai-use-
cases 1685 (2026-08), archestra pull request 4220 (2026-04), OpenHands 5339; those about thinking
are Anthropic's own, as opencode 3077 and forgecode 1853 have them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_PREFIX: Final = re.compile(r"(?:arn:[^/]*/)?(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?")
_NAME: Final = re.compile(r"(?!.*\s\s)[a-zA-Z0-9\s()\[\]-]{1,200}\Z")

# By family, as pydantic-ai found them (its Bedrock profile, 2026-07).
_ASSISTANT_BEGINS: Final = ("anthropic.claude", "qwen.", "zai.", "moonshot")
_SEES_RESULTS: Final = ("anthropic.claude", "meta.llama", "amazon.nova")


def refusal(body: Mapping[str, Any], model: str, signatures: set[str | None]) -> str | None:
    """Why the turns are refused; None where they are taken.

    Parameters
    ----------
    signatures: those that this account's models have given.
    """
    turns = body.get("messages") or []
    if not turns:
        return "The messages are empty."
    name = _PREFIX.sub("", model, count=1)
    if turns[0]["role"] != "user" and not name.startswith(_ASSISTANT_BEGINS):
        return (
            "A conversation must start with a user message. Try again with a conversation that "
            "starts with a user message."
        )
    for before, after in itertools.pairwise(turns):
        if before["role"] == after["role"]:
            return "Roles must alternate between user and assistant."
    speaks = any(
        "toolUse" in block or "toolResult" in block for turn in turns for block in turn["content"]
    )
    if speaks and "toolConfig" not in body:
        return (
            "The toolConfig field must be defined when using toolUse and toolResult content blocks."
        )
    return next(
        itertools.chain(
            _contents(turns),
            _documents(turns),
            _pairs(turns),
            _pictures(turns, name),
            _thoughts(body, turns, name, signatures),
        ),
        None,
    )


def _contents(turns: list[Any]) -> Iterator[str]:
    for at, turn in enumerate(turns):
        if not turn["content"]:
            yield (
                f"The content field in the Message object at messages.{at} is empty. Add a "
                "ContentBlock object to the content field and try again."
            )
        for number, block in enumerate(turn["content"]):
            if "text" in block and not block["text"].strip():
                yield (
                    f"The text field in the ContentBlock object at messages.{at}.content.{number} "
                    "is blank. Add text to the text field, and try again."
                )


def _documents(turns: list[Any]) -> Iterator[str]:
    names: set[str] = set()
    for turn in turns:
        found = [block["document"] for block in turn["content"] if "document" in block]
        if found and not any("text" in block for block in turn["content"]):
            yield "A text block must be included when using documents."
        for document in found:
            if not _NAME.match(document["name"]):
                yield (
                    "The document file name can only contain alphanumeric characters, whitespace "
                    "characters, hyphens, parentheses, and square brackets. The name can't contain "
                    "more than one consecutive whitespace character."
                )
            if document["name"].lower() in names:
                yield (
                    "Messages can't contain duplicate document names. Rename the document and "
                    "retry your request."
                )
            names.add(document["name"].lower())


def _pairs(turns: list[Any]) -> Iterator[str]:
    """Each call is answered in the turn after it, and nothing else is."""
    for at, turn in enumerate(turns):
        called = _ids(turns[at - 1], "toolUse") if at else []
        answered = _ids(turn, "toolResult")
        if turn["role"] != "user":
            continue
        missing = [id for id in called if id not in answered]
        if missing:
            yield (
                f"Expected toolResult blocks at messages.{at}.content for the following Ids: "
                f"{', '.join(missing)}"
            )
        if len(answered) > len(called):
            yield (
                f"The number of toolResult blocks at messages.{at}.content exceeds the number of "
                "toolUse blocks of previous turn."
            )


def _ids(turn: Mapping[str, Any], kind: str) -> list[str]:
    return [
        block[kind]["toolUseId"]
        for block in turn["content"]
        if kind in block and block[kind].get("type") is None  # the service's own tools have one
    ]


def _pictures(turns: list[Any], name: str) -> Iterator[str]:
    for at, turn in enumerate(turns):
        for number, block in enumerate(turn["content"]):
            if "image" in block and turn["role"] == "assistant":
                yield f"messages.{at}.content.{number}: an assistant's turn can't hold images."
            shown = block.get("toolResult", {}).get("content", ())
            if any("image" in one for one in shown) and not name.startswith(_SEES_RESULTS):
                yield "This model doesn't support the image field in toolResult content."


def _thoughts(
    body: Mapping[str, Any], turns: list[Any], name: str, signatures: set[str | None]
) -> Iterator[str]:
    claude = name.startswith("anthropic.claude")
    for at, turn in enumerate(turns):
        for number, block in enumerate(turn["content"]):
            thought = block.get("reasoningContent")
            if thought is None:
                continue
            if not name.startswith(("anthropic.claude", "amazon.nova-2", "openai.", "deepseek.")):
                yield "This model doesn't support the reasoningContent field."
            where = f"messages.{at}.content.{number}"
            signature = thought.get("reasoningText", {}).get("signature")
            redacted = thought.get("redactedContent")
            if claude and redacted is None and signature is None:
                yield f"{where}.thinking.signature: Field required"
            if claude and (redacted or signature) not in signatures:
                yield f"{where}: Invalid `signature` in `thinking` block"
    if not claude:
        return
    kind = body.get("additionalModelRequestFields", {}).get("thinking", {}).get("type")
    last = turns[-1]
    if last["role"] == "assistant" and any("reasoningContent" in one for one in last["content"]):
        yield (
            "When `thinking` is disabled, an `assistant` message in the final position cannot "
            "contain `thinking`. To use thinking blocks, enable `thinking` in your request."
        )
    for at in range(len(turns) - 1, -1, -1) if kind == "enabled" else ():
        blocks = turns[at]["content"]
        if turns[at]["role"] == "user":
            if not any("toolResult" in block for block in blocks):
                return
        elif any("toolUse" in block for block in blocks) and "reasoningContent" not in blocks[0]:
            yield (
                f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but "
                "found `tool_use`. When `thinking` is enabled, a final `assistant` message must "
                "start with a thinking block (preceeding the lastmost set of `tool_use` and "
                "`tool_result` blocks). To avoid this requirement, disable `thinking`."
            )
