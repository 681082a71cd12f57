"""An environment of a job's own for its requirements. Standard library only; the supervisor
imports it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


class Venv:
    """A virtual environment that also sees this one's packages, so that what is here already
    needs no network.

    Parameters
    ----------
    folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        # An environment made without pip lends ours; one without either is given its own.
        self._pip = find_spec("pip") is not None

    def make(self) -> list[str]:
        """The command that makes it."""
        without = ["--without-pip"] if self._pip else []
        return [sys.executable, "-m", "venv", *without, str(self.folder)]

    def show_parent(self) -> None:
        """Lets it see this environment's packages. ``--system-site-packages`` would show those
        of the base interpreter, which are others where this is a virtual environment itself."""
        ours = {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = self.folder / "lib" / version / "site-packages"
        # addsitedir, so that the .pth files there count too, such as an editable install's.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in sorted(ours)]
        (site / "_cloudai_parent.pth").write_text("".join(lines))

    def install(self, requirements: str) -> list[str]:
        """The command that installs a requirements file."""
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        if not self._pip:
            pip = [self.python, "-m", "pip"]
        quiet = ["--disable-pip-version-check", "--no-input"]
        return [*pip, *quiet, "install", "-r", requirements]
