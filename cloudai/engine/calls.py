"""Calls of tools, in the formats that chat models are trained to write: the tools as the template
takes them, the grammar that leaves a model free until it calls, and how to tell the formats apart.

- ``tags``, one or more (Hermes, Qwen, SmolLM3)::

      <tool_call>
      {"name": ..., "arguments": {...}}
      </tool_call>

- ``llama``: the whole answer is ``{"name": ..., "parameters": {...}}``, after ``<|python_tag|>``
  or without it. One call an answer: the template refuses more.
- ``mistral``: ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]``; ``mistral-args``, since
  their tokenizer v11: ``[TOOL_CALLS]name[ARGS]{...}`` for each call.

Told by the chat template (those of Qwen3, Hermes 3, Llama 3.2, Mistral Nemo and Small, 2026-11). A
model whose template knows no tools, or writes calls in another way, is told of them in words and
writes tags.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from cloudai.formats.schemas import rewrite
from cloudai.formats.schemas.dialects import GRAMMAR
from cloudai.types import ChatRequest, Tool
from cloudai.types._base import invalid

CallFormat: TypeAlias = Literal["tags", "llama", "mistral", "mistral-args"]
Think: TypeAlias = Literal["", "may", "opened"]
"""Whether an answer may begin with reasoning, or is in it already."""

OPEN: Final[dict[CallFormat, str]] = {
    "tags": "<tool_call>",
    "llama": "<|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral-args": "[TOOL_CALLS]",
}
CLOSE: Final = "</tool_call>"
MARKS: Final = (*dict.fromkeys(OPEN.values()), CLOSE, "[ARGS]", "[CALL_ID]")


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How a model writes what is no text.

    Parameters
    ----------
    calls: its format of calls; None: its template knows no tools, or another format.
    think: what stands before and after its reasoning; None: it writes none.
    switch: the template's variable that turns reasoning on or says its effort; "": there is none.
    marks: special tokens among the marks, which decoding would leave out: id to text.
    tokens: marks that are a token which llguidance takes for no text: special ones, and added ones
        in angle brackets.
    thoughts: whether the template takes earlier reasoning back (``reasoning_content``).
    """

    calls: CallFormat | None = None
    think: tuple[str, str] | None = None
    switch: str = ""
    marks: dict[int, str] = {}
    tokens: dict[str, int] = {}
    thoughts: bool = False

    def literal(self, mark: str) -> str:
        """The mark in a Lark grammar: its token, or its letters."""
        token = self.tokens.get(mark)
        return json.dumps(mark) if token is None else f"<[{token}]>"


def style(template: str, tokenizer: Any) -> Style:
    """What the template and the tokenizer say."""
    think = next(
        (
            pair
            for pair in (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
            if pair[0] in template or pair[1] in template
        ),
        None,
    )
    wanted = {*MARKS, *(think or ())}
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    known = {token: (str(one), one.special) for token, one in added.items() if str(one) in wanted}
    return Style(
        calls=_format(template),
        think=think,
        switch=next((name for name in _SWITCHES if name in template), ""),
        marks={token: text for token, (text, special) in known.items() if special},
        tokens={
            text: token for token, (text, special) in known.items() if special or text[0] == "<"
        },
        thoughts="reasoning_content" in template,
    )


_SWITCHES: Final = ("enable_thinking", "reasoning_effort")


def _format(template: str) -> CallFormat | None:
    if "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return "mistral-args" if "[ARGS]" in template else "mistral"
    if "<tool_call>" in template:
        # Others write XML between the tags (Qwen3-Coder, GLM).
        return None if "<function=" in template or "<arg_key>" in template else "tags"
    if "<|python_tag|>" in template or ("ipython" in template and '"parameters"' in template):
        return "llama"
    return None


def functions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as the template takes them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def in_words(tools: Sequence[Tool], *, forced: bool) -> str:
    """The tools for a model whose template knows none: a text for the system message."""
    if forced:
        lines = [f"- {tool.name}: {tool.description}".rstrip(": ") for tool in tools]
        return "\n".join(["Answer with a call of one of these tools, as JSON:", *lines])
    told = [json.dumps(one["function"], ensure_ascii=False) for one in functions(tools)]
    return "\n".join(
        [
            "You can call these tools:",
            *told,
            "To call one, write <tool_call>",
            '{"name": its name, "arguments": an object with its arguments}',
            "</tool_call>. Where none of them helps, answer in words.",
        ]
    )


def chosen(request: ChatRequest) -> tuple[tuple[Tool, ...], bool]:
    """The tools that the model may call, and whether it has to."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", choice, "asks for a tool, and tools is empty")
        return (), False
    if choice == "none":
        return (), False
    if choice in (None, "auto", "required"):
        return request.tools, choice == "required"
    named = tuple(tool for tool in request.tools if tool.name == choice)
    if not named:
        raise invalid(
            "tool_choice",
            choice,
            "names no tool of the request",
            f"There are: {', '.join(tool.name for tool in request.tools)}.",
        )
    return named, True


_SPACED: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as the templates write it, which the models have seen: ``json.dumps``'s separators."""


def grammar(tools: Sequence[Tool], how: CallFormat, style: Style, think: Think) -> str:
    """A Lark grammar of llguidance: any text, and calls of ``tools`` that satisfy their
    schemas."""
    schema = call_schema(tools, "parameters" if how == "llama" else "arguments")
    lines = [
        "%llguidance {}",
        r"TEXT: /(.|\n)*/",
        f"call: %json {json.dumps({'x-guidance': _SPACED, **schema})}",
    ]
    opening = style.literal(OPEN[how])
    # A special token is no text; letters are looked for in it, lazily.
    lazy = "" if opening.startswith("<[") else "[lazy]"
    head = f"head{lazy}: TEXT {opening}"
    if how == "tags":
        close = style.literal(CLOSE)
        lines += [head, f'tag: head "\\n" call "\\n" {close}', "body: tag* TEXT"]
    elif how == "llama":
        lines += [r"WORDS: /[^{ \n](.|\n)*/", f"body: {opening}? call | WORDS?"]
    elif how == "mistral":
        lines += [head, 'body: TEXT | head "[" call (", " call)* "]"']
    else:
        each: list[str] = []
        for at, tool in enumerate(tools):
            own, shared = _lifted(tool)
            own = {"x-guidance": _SPACED, **own, **({"$defs": shared} if shared else {})}
            name, between = json.dumps(tool.name), style.literal("[ARGS]")
            each.append(f"call_{at}")
            lines.append(f"call_{at}: {name} {between} %json {json.dumps(own)}")
        lines[2] = f"one: {' | '.join(each)}"
        lines += [head, f"body: TEXT | head one ({opening} one)*"]
    return "\n".join([*lines, *_start(style, think)])


def thinking_json(schema: dict[str, Any], style: Style, think: Think) -> str:
    """A Lark grammar: reasoning, then JSON of the schema."""
    compact = {**_SPACED, "item_separator": ",", "key_separator": ":"}
    held = json.dumps({"x-guidance": compact, **schema})
    return "\n".join(["%llguidance {}", f"body: %json {held}", *_start(style, think)])


def _start(style: Style, think: Think) -> list[str]:
    if not think or style.think is None:
        return ["start: body"]
    first, last = (style.literal(mark) for mark in style.think)
    lazy = "" if last.startswith("<[") else "[lazy]"
    lines = [f"ended{lazy}: THOUGHT {last}", r"THOUGHT: /(.|\n)*/", r"BLANK: /\n{0,2}/"]
    if think == "opened":
        return [*lines, "start: ended BLANK body"]
    return [*lines, f"start: ({first} ended BLANK)? body"]


def call_schema(tools: Sequence[Tool], arguments: str = "arguments") -> dict[str, Any]:
    """The JSON Schema of a call of one of the tools."""
    calls = [_lifted(tool) for tool in tools]
    shapes = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, arguments: parameters},
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for tool, (parameters, _) in zip(tools, calls, strict=True)
    ]
    shared: dict[str, Any] = {}
    for _, definitions in calls:
        shared.update(definitions)
    body = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return {**body, **({"$defs": shared} if shared else {})}


def _lifted(tool: Tool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters' schema, and its ``$defs`` under names of this tool's own: references in
    it are from the document's root, where the call's schema now stands."""
    held = rewrite.fit(tool.parameters, GRAMMAR, f"tools[{tool.name}].parameters").schema
    text = json.dumps({k: v for k, v in held.items() if k != "$defs"})
    definitions = held.get("$defs") or {}
    renamed: dict[str, Any] = {}
    swap = [(f'"#/$defs/{name}"', f'"#/$defs/{tool.name}.{name}"') for name in definitions]
    for name, inner in definitions.items():
        renamed[f"{tool.name}.{name}"] = json.loads(_swapped(json.dumps(inner), swap))
    return json.loads(_swapped(text, swap)), renamed


def _swapped(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text
