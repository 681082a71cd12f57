"""``cloudai chat``: one answer, or a conversation."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Annotated, Any

import msgspec
import typer

from cloudai.cli.context import CommandContext, command, typed
from cloudai.cli.exits import INTERRUPTED, OK
from cloudai.cli.specs import pairs
from cloudai.errors import CloudAIError, InvalidRequest
from cloudai.types import ChatReply, Message
from cloudai.types._base import invalid

HELP = "/reset forgets the conversation, /exit or ctrl-D ends it, ctrl-C stops an answer."


@command
def chat(
    session: CommandContext,
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="What to say; - reads stdin."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A logical name, or the vendor's own.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="A system prompt.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Above 0, to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the same answer again.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer, at most.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends the answer. Repeatable.")
    ] = None,
    native: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of this provider alone."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds, retries included.")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Print pieces as they come; with --json as JSON Lines.  "
            "[default: on, and off with --json]",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Talk to a chat model; interactive without a text.

    With a text, or one piped in, it answers once. Else it is a conversation.
    """
    options: dict[str, Any] = {
        "model": model,
        "system": system,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "native": {name: typed(value) for name, value in pairs("--native", native).items()},
        "timeout": timeout,
    }
    said = " ".join(text or ())
    if text and not said.strip():
        raise invalid("text", said, "is empty")
    if said == "-" or (not said and not sys.stdin.isatty()):
        said = sys.stdin.read().strip()
        if not said:
            raise InvalidRequest("there is no text on stdin", field="text")
    streamed = not session.json if stream is None else stream
    if not said:
        if session.json:
            raise InvalidRequest("--json needs a text", field="text")
        return _converse(session, options)
    if streamed:
        return _stream(session, [Message("user", said)], options)[0]
    reply = session.client.chat.create(said, **options)
    if session.json:
        session.document(_json(reply))
    session.say(reply.text)
    return OK


def _stream(
    session: CommandContext, messages: list[Message], options: dict[str, Any]
) -> tuple[int, str]:
    """Prints an answer as it comes; gives the exit code and the text. Ctrl-C stops the model."""
    code = OK
    with session.client.chat.stream(messages, **options) as pieces:
        try:
            for piece in pieces:
                if session.json:
                    if piece.text:
                        session.line({"text": piece.text})
                elif piece.text:
                    session.write(piece.text)
            if session.json:
                session.line({"reply": _json(pieces.reply)})
        except KeyboardInterrupt:
            code = INTERRUPTED
            pieces.close()
        finally:
            if pieces.text and not pieces.text.endswith("\n"):
                session.say()
    return code, pieces.text


def _converse(session: CommandContext, options: dict[str, Any]) -> int:
    """A conversation at the terminal."""
    with contextlib.suppress(ImportError):  # Windows has none
        importlib.import_module("readline")  # gives ``input`` line editing and a history
    session.note(HELP)
    history: list[Message] = []
    while True:
        try:
            said = input("> ").strip()
        except EOFError:
            session.note("")
            return OK
        except KeyboardInterrupt:
            session.note("")
            continue
        if said in {"/exit", "/quit"}:
            return OK
        if said == "/reset":
            history = []
        elif said.startswith("/"):
            session.note(HELP)
        elif said:
            history = _turn(session, [*history, Message("user", said)], options)


def _turn(
    session: CommandContext, messages: list[Message], options: dict[str, Any]
) -> list[Message]:
    """One answer in a conversation; what failed is not remembered."""
    try:
        _, answer = _stream(session, messages, options)
    except KeyboardInterrupt:  # before the first piece
        session.note("")
        answer = ""
    except CloudAIError as error:
        session.fail(error)
        answer = ""
    return [*messages, Message("assistant", answer)] if answer else messages[:-1]


def _json(reply: ChatReply) -> dict[str, Any]:
    made = msgspec.to_builtins(reply)
    del made["body"]  # the vendor's answer as bytes
    return made
