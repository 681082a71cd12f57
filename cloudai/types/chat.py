"""Chat: messages, tools, requests, replies. Frozen values, no I/O.

Longer than other modules: the values of one conversation name each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from cloudai.types._base import JSON, invalid

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "error"]
"""Why the model stopped: its own end or a stop sequence, the token limit, a call of a tool,
the provider's safety system, or a failure in the middle."""

ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high"]


class Text(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A part of a message: text."""

    text: str


class Image(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    """A part of a message: an image, inline or by URL.

    Parameters
    ----------
    data: the encoded bytes (PNG, JPEG, GIF, WebP); None when ``url`` is given.
    media_type: such as ``"image/png"``; ``"image/jpg"`` is read as ``"image/jpeg"``.
    url: ``https://``, ``gs://`` or ``s3://``, where the provider takes one.
    detail: ``"low"``, ``"high"`` or ``"auto"``, where the provider has it (OpenAI's format).
    """

    data: bytes | None = None
    media_type: str = "image/png"
    url: str | None = None
    detail: str | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise invalid("image", self.url, "needs exactly one of data and url")
        if self.media_type == "image/jpg":  # often written, and no registered type (RFC 2046)
            msgspec.structs.force_setattr(self, "media_type", "image/jpeg")


class Document(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    """A part of a message: a document, such as a PDF.

    Parameters
    ----------
    data: the bytes; None when ``url`` is given.
    media_type: such as ``"application/pdf"``.
    name: what the model sees as its name.
    url: ``gs://`` or ``s3://``, where the provider takes one.
    """

    data: bytes | None = None
    media_type: str = "application/pdf"
    name: str = "document"
    url: str | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise invalid("document", self.url, "needs exactly one of data and url")


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A part of an assistant's message: its reasoning, with the vendor's signature, which has
    to go back unchanged in the next turn. It goes to the provider and the family of models that
    made it, and to no other: these refuse signatures that are not their own.

    Parameters
    ----------
    text: the reasoning, where the vendor shows it.
    signature: the vendor's opaque proof (base64 text). Without a text it belongs to the part
        after it (Gemini signs any part).
    redacted: opaque reasoning that the vendor encrypted (base64 text).
    provider, family: who made it, such as ``"aws"`` and ``"anthropic.claude"``; None where that
        is not known, and then it goes to any that takes reasoning.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    provider: str | None = None
    family: str | None = None

    def made_by(self, provider: str, family: str) -> bool:
        """Whether it may go back to these models."""
        return self.provider in (None, provider) and self.family in (None, family)


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call"):
    """The model's wish to call a tool.

    Parameters
    ----------
    id: ties the result to the call.
    name: the tool's name.
    arguments: the arguments as the model wrote them, JSON text.
    signature: the vendor's opaque thought signature (Gemini), to be sent back unchanged.
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None

    @property
    def input(self) -> Any:
        """The arguments, decoded. Raises InvalidRequest where the model wrote no valid JSON."""
        try:
            return msgspec.json.decode(self.arguments or "{}")
        except msgspec.DecodeError as error:
            raise invalid(
                f"tool_calls[{self.name}].arguments", self.arguments, f"is not JSON ({error})"
            ) from None


class ToolResult(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """A tool's answer, in a message of role ``tool``.

    Parameters
    ----------
    id: the call's id.
    content: text, any JSON value, an ``Image``, or a sequence of ``Text`` and ``Image``. Images
        go as images where the model takes them in a result (Bedrock, Gemini 3).
    error: True when the tool failed.
    """

    id: str
    content: JSON | Image | Sequence[Text | Image]
    error: bool = False

    @property
    def text(self) -> str:
        """The content as text, any other value as JSON; images are left out."""
        content = self.content
        if isinstance(content, str):
            return content
        parts = self.parts
        if parts is None:
            return msgspec.json.encode(content).decode()
        return "".join(part.text for part in parts if isinstance(part, Text))

    @property
    def told(self) -> str:
        """``text``, with a word before it when the tool failed: for formats without a mark."""
        return f"Error: {self.text}" if self.error else self.text

    @property
    def parts(self) -> tuple[Text | Image, ...] | None:
        """The content where it is made of parts; None for a text or a JSON value."""
        content = self.content
        if isinstance(content, Text | Image):
            return (content,)
        if not isinstance(content, list | tuple) or not content:
            return None
        if not all(isinstance(one, Text | Image) for one in content):
            return None
        return tuple(content)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images among its parts."""
        return tuple(part for part in self.parts or () if isinstance(part, Image))


class NativePart(msgspec.Struct, frozen=True, tag_field="type", tag="native"):
    """A part of an assistant's message in the vendor's own format, such as the code that a model
    ran on the vendor's side and what came of it. It goes back unchanged to the provider and the
    family of models that made it; others never see it.

    Parameters
    ----------
    provider, family: who made it.
    data: the part as the vendor's JSON has it.
    """

    provider: str
    family: str
    data: dict[str, Any]

    def made_by(self, provider: str, family: str) -> bool:
        """Whether it may go back to these models."""
        return self.provider == provider and self.family == family


Part: TypeAlias = Text | Image | Document | Reasoning | ToolCall | ToolResult | NativePart


class CachePoint(msgspec.Struct, frozen=True, tag_field="type", tag="cache_point"):
    """Marks the end of a prefix worth caching, where the provider caches on demand
    (Bedrock). Others ignore it, which changes the price and not the answer."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation.

    Parameters
    ----------
    role: who speaks.
    content: text, or a tuple of parts.
    name: of the speaker, where the provider carries it.
    """

    role: Role
    content: str | tuple[Part | CachePoint, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts, joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may ask for.

    Parameters
    ----------
    name: letters, digits, ``_`` and ``-``, at most 64 (OpenAI's and Bedrock's limit).
    description: what it does and when to use it.
    parameters: the JSON Schema of its arguments, an object.
    strict: True makes the provider hold the model to the schema, where it can.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool = False


class ResponseSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON Schema that the answer has to satisfy.

    Parameters
    ----------
    schema: a JSON Schema of type object.
    name: what the provider calls it.
    strict: True has the provider enforce it, where it can.
    """

    schema: dict[str, Any]
    name: str = "answer"
    strict: bool = True


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens spent.

    Parameters
    ----------
    input_tokens: all of the prompt, the cached ones counted in.
    output_tokens: all of the answer, the reasoning counted in.
    cached_input_tokens: the part of the prompt that was read from a cache.
    cache_write_tokens: the part of the prompt that was written to a cache.
    reasoning_tokens: the part of the answer that was reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def check_tool_choice(
    choice: str | None, tools: Sequence[Tool], *, native: bool, field: str = "tool_choice"
) -> None:
    """Raises InvalidRequest for a choice that ``tools`` cannot meet; with ``native`` they may
    stand there."""
    if choice is not None and choice not in {"auto", "none", "required"}:
        names = [tool.name for tool in tools]
        if choice not in names:
            raise invalid(field, choice, f"is not auto, none, required or one of {names}")
    if choice == "required" and not tools and not native:
        raise invalid(field, choice, "asks for a tool, and tools is empty", "Give tools.")


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One chat request, as an adapter gets it: the model is the vendor's own name, and every
    message is a ``Message``. Fields left None are not sent, so that the vendor's default holds.

    Parameters
    ----------
    model: the vendor's model or deployment; empty for the profile's default (local only).
    messages: at least one.
    temperature: 0 to 2. top_p: above 0, to 1. seed: any integer.
    max_tokens: the most tokens of the answer.
    stop: sequences that end the answer; they are not part of it.
    tools, tool_choice: ``"auto"``, ``"none"``, ``"required"`` or a tool's name.
    response_schema: structured output.
    reasoning: how much effort the model spends on reasoning.
    native: arguments of this provider alone, passed on as they are.
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    response_schema: ResponseSchema | None = None
    reasoning: ReasoningEffort | None = None
    native: dict[str, Any] = {}


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """The model's answer.

    Parameters
    ----------
    text: the answer; empty when the model only called tools.
    finish_reason: why it ended.
    usage: tokens spent.
    model: what answered, in the vendor's words. provider: its name.
    tool_calls: what the model wants called.
    reasoning: its reasoning, to be sent back in the next turn.
    parts: the answer's parts in the vendor's order, images and parts of its own among them;
        empty for an answer of text alone. ``message`` is made of them.
    parsed: the value of ``response_type``, when one was asked for.
    cost: US dollars from the dated price table; None where the price is not known; 0.0 locally.
    id, request_id: the vendor's ids.
    body: the vendor's answer as it came, JSON; ``raw`` decodes it.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    provider: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: tuple[Reasoning, ...] = ()
    parts: tuple[Part, ...] = ()
    parsed: Any = None
    cost: float | None = None
    id: str | None = None
    request_id: str | None = None
    body: bytes = b""

    @property
    def raw(self) -> Any:
        """The vendor's answer, decoded on each access; None where there was no body."""
        return msgspec.json.decode(self.body) if self.body else None

    @property
    def message(self) -> Message:
        """This answer as a message, to be appended to the conversation."""
        if self.parts:
            return Message("assistant", self.parts)
        if not self.tool_calls and not self.reasoning:
            return Message("assistant", self.text)
        parts: list[Part | CachePoint] = list(self.reasoning)
        if self.text:
            parts.append(Text(self.text))
        parts.extend(self.tool_calls)
        return Message("assistant", tuple(parts))


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a tool call in a stream. Pieces of one call share ``index``."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of a streamed answer. The last piece with a ``finish_reason`` is the stream's
    terminator; a stream that ends without one raises StreamTruncated.

    Parameters
    ----------
    text: a piece of the answer. reasoning: a piece of the reasoning.
    reasoning_signature, reasoning_redacted: see ``Reasoning``.
    block: which block of the answer the text or the reasoning belongs to, where the vendor tells
        blocks apart (Claude, Gemini); None joins it to what came before of its kind.
    family: of the model, for ``Reasoning``.
    tool_calls: pieces of calls. usage: once, at or after the end.
    parts: whole parts of other kinds: images, and those that are the vendor's own.
    cost: US dollars, with the usage, where the price is known.
    """

    text: str = ""
    reasoning: str = ""
    reasoning_signature: str | None = None
    reasoning_redacted: str | None = None
    block: int | None = None
    family: str | None = None
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    cost: float | None = None
    model: str | None = None
    id: str | None = None
    request_id: str | None = None
