"""Archives: the source of a job, and a model with the code that serves it.

They are the same bytes for the same files: names in order, no times, no owners.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from cloudai._core.handlers.handler import find_handler
from cloudai.providers.aws import s3
from cloudai.types._base import invalid

CONTAINER: Final = Path(__file__).with_name("container")

ALWAYS_IGNORED: Final = (
    ".git", "__pycache__", "*.pyc", ".venv", ".pytest_cache", ".mypy_cache", ".ruff_cache",
    ".ipynb_checkpoints", ".DS_Store",
)  # fmt: skip
"""As the local provider leaves out."""


def sources(folder: Path, ignore: Iterable[str]) -> list[tuple[str, Path]]:
    """The files that travel, by their names in the archive."""
    patterns = [*ALWAYS_IGNORED, *(pattern.strip("/").removeprefix("./") for pattern in ignore)]
    found: list[tuple[str, Path]] = []
    for file in s3.files_in(folder):
        name = file.relative_to(folder).as_posix()
        parts = name.split("/")
        paths = ["/".join(parts[: at + 1]) for at in range(len(parts))]
        if not any(_matches(path, pattern) for path in paths for pattern in patterns):
            found.append((name, file))
    return found


def _matches(path: str, pattern: str) -> bool:
    if fnmatch.fnmatch(path, pattern):
        return True
    return "/" not in pattern and fnmatch.fnmatch(path.rpartition("/")[2], pattern)


def write_source(
    out: IO[bytes], folder: Path, ignore: Iterable[str], extra: dict[str, bytes]
) -> None:
    """The source as a tar.gz, with further files beside it."""
    with _archive(out) as archive:
        for name, file in sources(folder, ignore):
            _add_file(archive, name, file)
        for name, data in sorted(extra.items()):
            _add(archive, name, data)


def _archive(out: IO[bytes]) -> tarfile.TarFile:
    # Level 6 packs sources nearly as well as 9, in a third of the time.
    packed = gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=6, mtime=0)
    archive = tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT)
    close = archive.close

    def closing() -> None:
        close()
        packed.close()

    archive.close = closing  # type: ignore[method-assign]  # one owner of both streams
    return archive


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(data))


def _add_file(archive: tarfile.TarFile, name: str, file: Path) -> None:
    info = tarfile.TarInfo(name)
    about = file.stat()
    info.size = about.st_size
    info.mode = 0o755 if about.st_mode & 0o100 else 0o644
    with file.open("rb") as data:
        archive.addfile(info, data)


class Code:
    """What is put beside a model so that SageMaker's inference containers serve it.

    Parameters
    ----------
    handler: the user's file; None takes the model's own ``handler.py``, or the ``code`` that the
        model has already. requirements: a requirements file.
    """

    def __init__(self, handler: str | None, requirements: str | None) -> None:
        self.handler = Path(handler).expanduser() if handler is not None else None
        self.requirements = Path(requirements).expanduser() if requirements is not None else None

    def check(self) -> None:
        """Refuses files that are missing, and a handler without its functions."""
        if self.handler is not None:
            find_handler(self.handler.parent, self.handler)
        if self.requirements is not None and not self.requirements.is_file():
            raise invalid("requirements", str(self.requirements), "is not a file")

    @property
    def digest(self) -> str:
        """Of the files' contents."""
        parts = [
            file.read_bytes() if file is not None and file.is_file() else b""
            for file in (self.handler, self.requirements)
        ]
        return s3.digest(*parts, (CONTAINER / "inference.py").read_bytes())

    def files(self, own: bytes | None) -> dict[str, bytes]:
        """The files by their names in the archive; ``own`` is the model's own handler."""
        source = self.handler.read_bytes() if self.handler is not None else own
        made: dict[str, bytes] = {}
        if source is not None:
            if is_sagemaker(source):
                made["code/inference.py"] = source
            else:
                made["code/inference.py"] = (CONTAINER / "inference.py").read_bytes()
                made["code/cloudai_handler.py"] = source
        if self.requirements is not None:
            made["code/requirements.txt"] = self.requirements.read_bytes()
        return made


def is_sagemaker(source: bytes) -> bool:
    """Whether a handler is written with SageMaker's own functions."""
    import ast

    names = {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    return "model_fn" in names and not {"load", "predict"} <= names


def write_model(out: IO[bytes], folder: Path, code: Code) -> None:
    """A model directory as SageMaker's model.tar.gz, with its code."""
    own_file = find_handler(folder, code.handler)
    files = code.files(own_file.read_bytes())
    with _archive(out) as archive:
        for file in s3.files_in(folder):
            name = file.relative_to(folder).as_posix()
            if name not in files and "__pycache__" not in name:
                _add_file(archive, name, file)
        for name, data in sorted(files.items()):
            _add(archive, name, data)


def repack(source: Path, out: IO[bytes], code: Code, uri: str) -> None:
    """A model.tar.gz of S3 with code put beside it. Raises InvalidRequest where neither the
    spec nor the archive has a handler."""
    with tarfile.open(source, "r:*") as packed:
        names = {member.name.removeprefix("./") for member in packed.getmembers()}
        own: bytes | None = None
        if code.handler is None and "handler.py" in names:
            at = "handler.py" if "handler.py" in packed.getnames() else "./handler.py"
            data = packed.extractfile(at)
            own = data.read() if data is not None else None
        if code.handler is None and own is None and "code/inference.py" not in names:
            raise invalid(
                "handler",
                None,
                f"is missing, and {uri} holds neither handler.py nor code/inference.py",
                "Name the file with load and predict.",
            )
        files = code.files(own)
        with _archive(out) as archive:
            for member in packed.getmembers():
                name = member.name.removeprefix("./")
                if not member.isfile() or name in files:
                    continue
                info = tarfile.TarInfo(name)
                info.size, info.mode = member.size, member.mode
                archive.addfile(info, packed.extractfile(member))
            for name, data in sorted(files.items()):
                _add(archive, name, data)


def unpack(archive: Path, target: Path) -> None:
    """A tar.gz into a folder; members that would leave it are refused."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:*") as packed:
        try:
            packed.extractall(target, filter="data")
        except tarfile.FilterError as error:
            shutil.rmtree(target, ignore_errors=True)
            raise invalid(
                "model", str(archive), f"holds a member that leaves it ({error})"
            ) from None
