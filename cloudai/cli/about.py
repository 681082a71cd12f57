"""``cloudai providers``, ``version``, ``trust`` and ``local setup``: about the installation."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from cloudai._core.profiles import config, registry
from cloudai._core.profiles import trust as _trust
from cloudai._version import __version__
from cloudai.cli.context import CommandContext, command
from cloudai.cli.terminal import table
from cloudai.errors import CloudAIError, NotFound
from cloudai.types._base import invalid

BEGIN = "<!-- providers: made by `cloudai providers --update README.md` -->"
END = "<!-- /providers -->"


@command
def trust(
    session: CommandContext,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A cloudai.toml; else the nearest one.")
    ] = None,
) -> None:
    """Let a project's cloudai.toml name addresses, files and a home.

    Shows what it names. A file that was only found may not do so by itself; the word counts for
    the file as it is now, and a change needs it anew.
    """
    path = Path(file) if file is not None else config.find(Path.cwd())
    if path is None:
        raise NotFound(f"there is no {config.FILE} here or above", hint="Name the file")
    told = list(_trust.reasons(path, config.read(path)))
    _trust.trust(path)
    if session.json:
        session.document({"trusted": str(path.resolve()), "said": told})
    for line in told:
        session.say(f"{path}, {line}")
    session.say(f"trusted {path.resolve()}" if told else f"{path} needed no word")


@command
def providers(
    session: CommandContext,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As Markdown, with what each cannot do.")
    ] = False,
    update: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Put the Markdown between its markers in a file."),
    ] = None,
) -> None:
    """Show which provider can do what.

    Loads no SDK.
    """
    found: list[registry.ProviderSpec] = []
    for name in registry.names():
        try:
            found.append(registry.spec(name))
        except (CloudAIError, ImportError) as error:
            session.note(f"the provider {name!r} cannot be loaded: {error}")
    if update is not None:
        _update(Path(update), found)
        session.say(f"{update}: written")
    elif markdown:
        session.say(_markdown(found))
    elif session.json:
        session.document(
            [
                {
                    "name": spec.name,
                    "title": spec.title,
                    "install": _install(spec.name),
                    "capabilities": {
                        one: one in spec.capabilities for one in registry.CAPABILITIES
                    },
                    "keys": {key.name: key.doc for key in spec.keys},
                    "gaps": spec.gaps,
                }
                for spec in found
            ]
        )
    else:
        head = ("PROVIDER", *(one.upper() for one in registry.CAPABILITIES), "INSTALL")
        for line in table([head, *(_row(spec) for spec in found)]):
            session.say(line)
        for spec in found:
            if spec.gaps:
                session.say(f"\n{spec.name} ({spec.title}) lacks:")
                for name, why in spec.gaps.items():
                    session.say(f"  {name}: {why}")


@command
def version(session: CommandContext) -> None:
    """Print the version."""
    if session.json:
        session.document({"cloudai": __version__, "python": platform.python_version()})
    session.say(f"cloudai {__version__}")


@command
def local_setup(session: CommandContext) -> None:
    """Bring the embedded chat and embedding models.

    They come as two packages, by version and hash. Only this command needs a network, and only
    where they are not installed.
    """
    from cloudai.engine import catalog

    catalog.setup(session.note, home=session.client.profile.home)
    if session.json:
        session.document(
            {one.model: {"package": one.distribution, "kind": one.kind} for one in catalog.PACKAGES}
        )
    session.say("chat and embeddings are ready")


def _install(name: str) -> str:
    row = registry.BUILT_IN.get(name)
    if row is None:
        return "a package of its own"
    return f"pip install 'cloudai[{row.extra}]'" if row.extra else "pip install cloudai"


def _row(spec: registry.ProviderSpec) -> tuple[str, ...]:
    marks = ("yes" if one in spec.capabilities else "-" for one in registry.CAPABILITIES)
    return (spec.name, *marks, _install(spec.name))


def _markdown(specs: list[registry.ProviderSpec]) -> str:
    head = ["provider", *registry.CAPABILITIES, "install"]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    for spec in specs:
        cells = _row(spec)
        lines.append(f"| {' | '.join((f'`{cells[0]}`', *cells[1:-1], f'`{cells[-1]}`'))} |")
    for spec in specs:
        if spec.gaps:
            lines += ["", f"What `{spec.name}` cannot do:", ""]
            lines += [f"- `{name}`: {why}" for name, why in spec.gaps.items()]
    return "\n".join(lines)


def _update(file: Path, specs: list[registry.ProviderSpec]) -> None:
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise invalid("--update", str(file), f"lacks the markers {BEGIN} and {END}")
    made = f"{before}{BEGIN}\n{_markdown(specs)}\n{END}{after}"
    file.write_text(made, encoding="utf-8")
