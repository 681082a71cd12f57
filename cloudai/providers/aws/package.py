"""A model as SageMaker takes it: an archive with the code that serves it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Final

from cloudai._core.files import pack
from cloudai._core.files import requirements as required
from cloudai._core.files.tree import tree
from cloudai._core.files.unpack import unpack
from cloudai._core.handlers import portable
from cloudai._core.handlers.handler import PLACES, find_handler, travelling
from cloudai.providers.aws import s3
from cloudai.types._base import invalid

CONTAINER: Final = Path(__file__).with_name("container")
SCRIPT: Final = "code/inference.py"
"""What SageMaker's containers run; ours, which calls the handler."""


class Code:
    """What is put beside a model so that SageMaker's inference containers serve it.

    Parameters
    ----------
    handler: the user's file; None takes the model's own ``handler.py``, or the ``code`` that the
        model has already. requirements: a requirements file.
    """

    def __init__(self, handler: str | None, requirements: str | None) -> None:
        self.handler = Path(handler).expanduser() if handler is not None else None
        self.requirements = requirements

    def check(self) -> None:
        """Refuses files that are missing, and a handler without its functions."""
        if self.handler is not None:
            find_handler(self.handler.parent, self.handler)
        if self.requirements is not None:
            required.lines(self.requirements)

    @property
    def digest(self) -> str:
        """Of the files' names and contents."""
        return s3.digest(*(part for row in sorted(self.files(None).items()) for part in row))

    def files(self, own: bytes | None) -> dict[str, bytes]:
        """The files by their names in the archive; ``own`` is the model's own
        ``code/inference.py``, whose place ours takes."""
        script = (CONTAINER / "inference.py").read_bytes()
        made = {SCRIPT: script, f"code/{portable.MODULE}": Path(portable.__file__).read_bytes()}
        if self.handler is not None:
            for name, path in travelling(self.handler).items():
                made[f"code/{name}"] = path.read_bytes()
        elif own is not None and portable.MODULE[:-3].encode() not in own:
            made[f"code/{portable.ENTRY}"] = own
        if self.requirements is not None:
            lines = required.lines(self.requirements)
            made["code/requirements.txt"] = "".join(f"{line}\n" for line in lines).encode()
        return made


def write_model(out: IO[bytes], folder: Path, code: Code, field: str = "model") -> None:
    """A model directory as SageMaker's model.tar.gz, with its code."""
    own = find_handler(folder, code.handler)
    files = code.files(own.read_bytes() if own == folder / SCRIPT else None)
    found = tree(folder, field=field).files
    pack.write(
        out, {n: p for n, p in found.items() if n not in files} | dict(sorted(files.items()))
    )


def repack(source: Path, out: IO[bytes], code: Code, uri: str) -> None:
    """A model.tar.gz with code put beside it. Raises InvalidRequest where neither the spec nor
    the archive has a handler, and for an archive that ``unpack`` refuses."""
    with tempfile.TemporaryDirectory(prefix="cloudai-") as beside:
        folder = Path(beside, "model")
        unpack(source, folder)
        if code.handler is None and not any((folder / place).is_file() for place in PLACES):
            raise invalid(
                "handler",
                None,
                f"is missing, and {uri} holds neither {' nor '.join(PLACES)}",
                "Name the file with load and predict.",
            )
        write_model(out, folder, code)
