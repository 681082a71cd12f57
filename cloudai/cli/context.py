"""What all commands share: the common options, the client, output, and errors as exit codes."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeAlias

import msgspec
import typer

from cloudai.cli import exits
from cloudai.cli.terminal import shown, shown_json
from cloudai.errors import CloudAIError, ConfigError, InvalidRequest
from cloudai.types._base import invalid

if TYPE_CHECKING:
    from cloudai.client import BatchJob, Client, Endpoint, Job

    Handle: TypeAlias = Job | BatchJob | Endpoint

P = ParamSpec("P")

ProfileOption = Annotated[
    str | None, typer.Option("--profile", "-p", help="A profile of cloudai.toml, or a provider.")
]
ProviderOption = Annotated[
    str | None, typer.Option("--provider", help="A provider, with its keys by --set.")
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="A cloudai.toml; else the nearest one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key of the profile. Repeatable."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON on stdout; notes and errors on stderr.")
]

_COMMON = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    for name, default, kind in (
        ("profile", None, ProfileOption),
        ("provider", None, ProviderOption),
        ("config", None, ConfigOption),
        ("settings", None, SetOption),
        ("as_json", False, JsonOption),
    )
]


class CommandContext:
    """One run of a command.

    Attributes
    ----------
    json: whether the output is JSON. config: the cloudai.toml that was named.
    """

    def __init__(
        self,
        profile: str | None,
        provider: str | None,
        config: str | None,
        settings: list[str] | None,
        as_json: bool,
    ) -> None:
        self.json = as_json
        self._profile = profile
        self._provider = provider
        self.config = config
        self._settings = settings or []

    @functools.cached_property
    def client(self) -> Client:
        """The client that the common options describe."""
        from cloudai.client import Client

        bare = Client(self._profile, provider=self._provider, config=self.config)
        if not self._settings:
            return bare
        keys = dict(_setting(bare.profile.spec, text) for text in self._settings)
        return Client(self._profile, provider=self._provider, config=self.config, **keys)

    def handle(self, text: str) -> Handle:
        """The handle of a URI, or of a name that `cloudai ls` lists."""
        return self.client.attach(self.uri(text))

    def uri(self, text: str) -> str:
        """The URI of a handle; a name that `cloudai ls` lists stands for its own."""
        if text.startswith("cloudai:"):
            return text
        listed = [one for one in self.client.resources() if one.uri and text in (one.name, one.id)]
        here = [one for one in listed if one.profile == self.client.profile.name]
        found = [one.uri for one in (here if len(listed) > 1 else listed) if one.uri]
        if len(found) == 1:
            return found[0]
        if listed:
            several = "  ".join(one.uri or "" for one in listed)
            raise InvalidRequest(
                f"{text!r} is the name of several", field="uri", hint=f"Say which: {several}"
            )
        raise InvalidRequest(
            f"{text!r} is neither a handle nor a name that `cloudai ls` lists",
            field="uri",
            value=text,
            hint="A handle looks like cloudai://PROFILE/training/ID",
        )

    def document(self, value: object) -> None:
        """Prints the command's one JSON document."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        sys.stdout.write(shown_json(text, sys.stdout) + "\n")

    def line(self, value: object) -> None:
        """Prints one line of a JSON Lines stream, at once."""
        text = msgspec.json.encode(value).decode()
        sys.stdout.write(shown_json(text, sys.stdout) + "\n")
        sys.stdout.flush()

    def say(self, text: str = "") -> None:
        """Prints a line of the result, where the output is not JSON."""
        if not self.json:
            self.write(text + "\n")

    def write(self, text: str) -> None:
        """Prints a piece of the result, at once."""
        sys.stdout.write(shown(text, sys.stdout))
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Prints a line for a person, beside the result: on stderr."""
        sys.stderr.write(shown(text, sys.stderr) + "\n")
        sys.stderr.flush()

    def fail(self, error: BaseException) -> int:
        """Says what went wrong, and gives the exit code."""
        number = exits.code(error)
        expected = isinstance(error, CloudAIError)
        message = str(error) if expected else f"{type(error).__name__}: {error}"
        if self.json:
            about = {"type": type(error).__name__, "message": message, "exit_code": number}
            self.note(msgspec.json.encode({"error": about}).decode())
        else:
            self.note(f"cloudai: {message}")
        if os.environ.get("CLOUDAI_DEBUG"):
            traceback.print_exception(error)
        elif not expected:
            self.note("Set CLOUDAI_DEBUG=1 to see where; this is a defect of cloudai.")
        return number


def command(function: Callable[Concatenate[CommandContext, P], int | None]) -> Callable[..., None]:
    """Makes a command of a function: adds the common options to its own, hands it a
    ``CommandContext``, and turns errors and what it returns into the exit code."""

    @functools.wraps(function)
    def run(**options: Any) -> None:
        session = CommandContext(**{one.name: options.pop(one.name) for one in _COMMON})
        try:
            number = function(session, **options) or exits.OK  # type: ignore[call-arg]
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            session.note("cloudai: interrupted")
            number = exits.INTERRUPTED
        except BrokenPipeError:
            number = exits.BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 - the outermost frame; nothing is swallowed
            number = session.fail(error)
        finally:
            client = session.__dict__.get("client")
            if client is not None:
                client.close()
        raise typer.Exit(number)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    parameters = [*by_name, *_COMMON]
    # typer reads both, and must not follow the wrapped function to its own.
    del run.__wrapped__  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def pair(field: str, text: str) -> tuple[str, str]:
    """``NAME=VALUE``, split. Raises InvalidRequest naming the option."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise invalid(field, text, "is not NAME=VALUE")
    return name, value


def typed(text: str) -> Any:
    """The JSON value that the text is, or else the text itself."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _setting(spec: Any, text: str) -> tuple[str, Any]:
    name, value = pair("--set", text)
    key = spec.key(name)
    kind = key.kind if key is not None else "text"
    if kind == "secret":
        raise InvalidRequest(
            f"--set {name}=…: every process of this machine can read a command line",
            field="--set",
            hint=f"Set CLOUDAI_{name.upper()}, or write a reference into cloudai.toml",
        )
    if kind in {"number", "flag", "table"}:
        found = typed(value)
        if isinstance(found, str):
            raise ConfigError(f"{name}={value!r} is not a {kind}")
        return name, found
    return name, value
