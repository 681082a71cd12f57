"""What travels: the files of a folder of this machine, by one rule for sources, inputs, models and
packages on all providers.

The patterns count in this order, and the last that matches a path decides: caches and version
control, the source's ``.gitignore`` files, names that look like a secret, ``.cloudaiignore``
files, the spec's ``ignore``. ``.gitignore`` counts for a source alone: it tells what is no source,
and a data set or a model is just that (DVC writes the very names of the data into it).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from cloudai._core.files.ignore import ALWAYS, SECRETS, Rules, left_out, lines_of
from cloudai._core.files.paths import here
from cloudai.errors import InvalidRequest
from cloudai.types import BatchTransform, Deployment, LeftOut, TrainingJob, Upload, Violation
from cloudai.types._base import invalid

OWN: Final = ".cloudaiignore"
"""The file with our own patterns, in any folder of what travels."""

MAX_FILES: Final = 1_000_000
"""Of one folder. Links that lead from level to level multiply what they lead to."""

_ODD: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Tree(NamedTuple):
    """Files by their names (relative, with ``/``), in order; their bytes; and what stays here."""

    files: dict[str, Path]
    sizes: dict[str, int]
    left_out: tuple[LeftOut, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())

    def check(self, field: str, name: str | None) -> None:
        """Refuses a file that the spec names and that does not travel."""
        if name is None or os.path.normpath(name) in self.files:
            return
        why = next((one.why for one in self.left_out if f"{name}/".startswith(f"{one.path}/")), "")
        if why:
            raise invalid(field, name, f"stays here: {why}", f"Write !{name} into {OWN}.")
        raise invalid(field, name, "is not a file in the source")

    def upload(self, field: str, path: str) -> Upload:
        """The same for ``plan()``."""
        return Upload(
            field=field, path=path, files=tuple(self.sizes.items()), left_out=self.left_out
        )


def tree(
    root: Path,
    ignore: Iterable[str] = (),
    *,
    field: str = "source",
    git: bool = False,
    rules: bool = True,
    home: Path | None = None,
) -> Tree:
    """The files of a folder that travel, or the one file.

    Links are followed as far as they lead to what travels itself. Raises InvalidRequest naming
    the file for a link that leads out, in a circle or nowhere, a pipe, a socket, a device, and
    for what cannot be read; a pattern that leaves it out is the mend.

    Parameters
    ----------
    root: the folder, or a file. ignore: the spec's patterns. field: of the spec, for errors.
    git: whether ``.gitignore`` counts.
    rules: False takes everything, as for what a job has made.
    home: cloudai's own folder, which never travels should it lie inside.
    """
    try:
        about = root.stat()
    except OSError as error:
        raise invalid(field, str(root), f"cannot be read ({error.strerror})") from None
    kind = stat.S_IFMT(about.st_mode)
    if kind in _ODD:
        raise invalid(field, str(root), f"is {_ODD[kind]}, which cannot travel")
    if not stat.S_ISDIR(kind):
        return Tree({root.name: root}, {root.name: about.st_size}, ())
    walk = _Walk(root, field, home)
    layers = _layers(ignore) if rules else ([], [], [], [])
    walk.folder(root, "", layers, git and rules, ())
    names = sorted(walk.sizes)
    return Tree(
        {name: root / name for name in names},
        {name: walk.sizes[name] for name in names},
        tuple(walk.left_out),
    )


def source(spec: TrainingJob, home: Path | None = None) -> Tree:
    """What travels of a job's source. Raises InvalidRequest for a folder, an entry or
    requirements that are not there."""
    root = here(str(spec.source))
    if root is None or not root.is_dir():
        raise invalid("source", spec.source, "is not a directory", "Name the script's folder.")
    for name in ("entry", "requirements"):
        given = getattr(spec, name)
        if given is not None and not (root / given).is_file():
            there = sorted(one.name for one in root.glob(f"*{Path(given).suffix}"))[:5]
            problem = f"is not a file in source={spec.source!r}"
            raise invalid(name, given, problem, f"There are: {', '.join(there) or 'none'}.")
    entry = str(spec.entry)
    if not entry.endswith((".py", ".sh")):
        raise invalid("entry", entry, "is neither a .py nor a .sh file", "Name the script.")
    if entry.endswith(".sh") and (spec.resources.nproc or 1) > 1:
        raise invalid(
            "resources.nproc", spec.resources.nproc,
            "needs a Python script, and entry is a shell script",
            "Leave it out, and let the shell script start its own processes.",
        )  # fmt: skip
    found = tree(root, spec.ignore, git=True, home=home)
    found.check("entry", spec.entry)
    found.check("requirements", spec.requirements)
    return found


def uploads(
    spec: TrainingJob | Deployment | BatchTransform, home: Path | None = None
) -> tuple[Upload, ...]:
    """What of this machine a cloud would be sent, for ``plan()``; what is not there is passed
    over. Raises InvalidRequest as ``tree`` and ``source`` do."""
    found: list[Upload] = []
    if isinstance(spec, TrainingJob):
        if spec.kind == "script":
            found.append(source(spec, home).upload("source", str(spec.source)))
        places = {f"inputs.{name}": spec.input(name).uri for name in spec.inputs}
    elif isinstance(spec, Deployment):
        places = {
            "model" if len(spec.variants) == 1 else f"variants.{one.name}.model": one.uri
            for one in spec.variants
        }
    else:
        places = {"model": spec.model_uri or "", "input": spec.input}
    for field, uri in places.items():
        path = here(uri)
        if path is not None and path.exists():
            found.append(tree(path, field=field).upload(field, uri))
    return tuple(found)


def planned(
    spec: TrainingJob | Deployment | BatchTransform, home: Path | None = None
) -> tuple[tuple[Upload, ...], list[Violation]]:
    """``uploads``, or what is wrong with them."""
    try:
        return uploads(spec, home), []
    except InvalidRequest as error:
        return (), [Violation(error.field or "source", error.message, error.hint or "")]


def copy(found: Tree, target: Path) -> None:
    """Copies what travels into a folder that is made, with the files' own dates and modes."""
    target.mkdir(parents=True, exist_ok=True)
    for name, path in found.files.items():
        there = target / name
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there)


def digest(files: Mapping[str, Path]) -> str:
    """SHA-256, hexadecimal: relative names in sorted order, each with its length and bytes."""
    whole = hashlib.sha256()
    for name in sorted(files, key=lambda name: name.split("/")):
        text = name.encode()
        whole.update(b"%d:%s%d:" % (len(text), text, files[name].stat().st_size))
        with files[name].open("rb") as file:
            while block := file.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


_Layers = tuple[list[Rules], list[Rules], list[Rules], list[Rules]]


def _layers(ignore: Iterable[str]) -> _Layers:
    always = Rules((one.encode() for one in ALWAYS), "caches, version control")
    secrets = Rules((one.encode() for one in SECRETS), "looks like a secret")
    # "./secrets" is written for what git calls "/secrets".
    own = ("/" + one.removeprefix("./") if one.startswith("./") else one for one in ignore)
    spec = Rules((os.fsencode(one) for one in own), "ignore")
    return [always], [secrets], [], [spec]


class _Walk:
    """One walk over a folder."""

    def __init__(self, root: Path, field: str, home: Path | None) -> None:
        self.root = root
        self.sizes: dict[str, int] = {}
        self.left_out: list[LeftOut] = []
        self._field = field
        self._real = os.path.realpath(root)
        self._within = _boundary(self._real)
        self._home = os.path.realpath(home) if home is not None else None
        if self._real == self._home:
            raise invalid(field, str(root), "is cloudai's own home", "Use another folder.")

    def folder(
        self, here: Path, inner: str, layers: _Layers, git: bool, above: tuple[str, ...]
    ) -> None:
        """Adds the files of a folder, whose name inside the root is ``inner`` (``a/b/``)."""
        real = os.path.realpath(here)
        if real in above:
            raise self._refused(inner.rstrip("/"), "is a link in a circle")
        layers = self._with_files(here, inner, layers, git)
        order = [*layers[0], *layers[1], *layers[2], *layers[3]]
        for entry in self._entries(here, inner):
            name = inner + entry.name
            mode, size = self._about(entry, name, order)
            if mode is None:
                continue
            if stat.S_ISDIR(mode):
                if os.path.realpath(entry.path) != self._home:
                    self.folder(here / entry.name, f"{name}/", layers, git, (*above, real))
                continue
            if len(self.sizes) >= MAX_FILES:
                raise invalid(
                    self._field, str(self.root), f"holds more than {MAX_FILES} files",
                    "Leave some out by ignore, or pack them.",
                )  # fmt: skip
            self.sizes[name] = size

    def _entries(self, here: Path, inner: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(here) as entries:
                yield from sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise self._refused(inner.rstrip("/"), f"cannot be read ({error.strerror})") from None

    def _about(
        self, entry: os.DirEntry[str], name: str, order: list[Rules]
    ) -> tuple[int | None, int]:
        """The kind and the size of what lies there; no kind where it stays here."""
        raw = os.fsencode(name)
        link = entry.is_symlink()
        try:
            about = entry.stat()
        except OSError as error:
            about = None
            problem = f"cannot be read ({error.strerror})"
            if link:
                problem = f"is a link that leads nowhere, to {os.readlink(entry.path)}"
        else:
            problem = self._problem(entry, name, about)
        folder = about is not None and stat.S_ISDIR(about.st_mode)
        why = left_out(order, raw, folder)
        if why is None and link and about is not None:
            why = self._through(entry, order)
        if why is not None:
            self.left_out.append(LeftOut(name, why))
            return None, 0
        if problem or about is None:
            raise self._refused(name, problem)
        return about.st_mode, about.st_size

    def _problem(self, entry: os.DirEntry[str], name: str, about: os.stat_result) -> str:
        kind = stat.S_IFMT(about.st_mode)
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not _inside(target, self._within):
                return f"is a link that leads out, to {target}"
        if kind in _ODD:
            return f"is {_ODD[kind]}, which cannot travel"
        if not os.access(entry.path, os.R_OK):
            return "cannot be read (Permission denied)"
        try:
            name.encode()
        except UnicodeEncodeError:
            return "has a name that is no UTF-8"
        return ""

    def _through(self, entry: os.DirEntry[str], order: list[Rules]) -> str | None:
        """Why what a link leads to stays here: another name makes no secret a plain file."""
        target = os.path.realpath(entry.path)
        if target == self._real or not _inside(target, self._real):
            return None
        parts = os.fsencode(os.path.relpath(target, self._real)).split(b"/")
        for at in range(1, len(parts) + 1):
            path = b"/".join(parts[:at])
            why = left_out(order, path, at < len(parts) or os.path.isdir(target))
            if why is not None:
                return f"leads to {os.fsdecode(path)}: {why}"
        return None

    def _with_files(self, here: Path, inner: str, layers: _Layers, git: bool) -> _Layers:
        """The rules with those of the folder's own ignore files."""
        if not layers[0]:
            return layers
        always, secrets, own, spec = layers
        base = os.fsencode(inner)
        for file, taken in ((".gitignore", git), (OWN, True)):
            path = here / file
            if not taken or not path.is_file() or path.is_symlink():
                continue
            rules = Rules(lines_of(path.read_bytes()), inner + file, base)
            if file == OWN:
                own = [*own, rules]
            else:
                always = [*always, rules]
        return always, secrets, own, spec

    def _refused(self, name: str, problem: str) -> Exception:
        return invalid(
            self._field, str(self.root / name), problem, f"Mend it, or add {name!r} to {OWN}."
        )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _boundary(root: str) -> str:
    """The folder that links may not leave: the root; of a snapshot in the Hugging Face hub's cache
    the model's folder there, since its files are links to the blobs beside it."""
    above = os.path.dirname(root)
    model = os.path.dirname(above)
    if os.path.basename(above) == "snapshots" and os.path.isdir(os.path.join(model, "blobs")):
        return model
    return root
