"""Archives that come in: tar, tar.gz and zip, from wherever.

What Python's own filters promise differs between its patch releases (CVE-2025-4517 and its like
led out through links longer than PATH_MAX). So nothing is left to them: names are taken apart
here, links are followed in memory and made last, files are made only where none is, and count,
bytes and ratio are bounded. All is written beside the target and renamed: it is whole, or absent.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from cloudai.errors import InvalidRequest

MAX_BYTES: Final = 256 << 30
"""Of all files. A disk that is full sooner ends it as well."""
MAX_MEMBERS: Final = 1_000_000
MAX_RATIO: Final = 200
"""Unpacked to packed bytes, past the first 64 MiB: deflate comes to 1,032, and weights do not
come to 2."""
_FREE: Final = 64 << 20
_DEPTH: Final = 100
_HOPS: Final = 40
_BLOCK: Final = 1 << 20


def unpack(
    archive: Path | IO[bytes],
    target: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    max_ratio: int = MAX_RATIO,
) -> None:
    """Unpacks into a folder that is not there yet, or is empty.

    Raises InvalidRequest, and leaves nothing, for what is no tar, tar.gz or zip; that is cut or
    damaged; for a member whose place is outside, or taken; for a link out; for a device or a pipe;
    for more members, bytes, or bytes for each packed one, than allowed.
    """
    with _opened(archive) as (file, shown):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        most = min(max_bytes, max_ratio * size + _FREE)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise _refused(shown, f"cannot be unpacked: {target} is not empty")
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
            stage = _Stage(Path(beside, "files"), shown, most, max_members)
            try:
                magic = file.read(4)
                file.seek(0)
                if magic in {b"PK\x03\x04", b"PK\x05\x06"}:
                    _zip(file, stage)
                else:
                    _tar(file, stage, packed=magic[:2] == b"\x1f\x8b")
                stage.finish()
            except InvalidRequest:  # a ValueError too
                raise
            except (
                EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile,
                ValueError, OverflowError, RuntimeError,
            ) as error:  # fmt: skip
                raise _refused(shown, f"is cut or damaged ({error})") from None
            except OSError as error:
                what = error.strerror or type(error).__name__
                raise _refused(shown, f"cannot be unpacked ({what})") from None
            if target.exists():  # it may be where somebody stands
                for one in stage.root.iterdir():
                    os.rename(one, target / one.name)
            else:
                os.rename(stage.root, target)


def place(folder: Path, name: str, shown: str) -> Path:
    """Where an object or a blob of that name goes below a folder. Raises InvalidRequest for a
    name that leads out of it; ``shown`` tells whose name it is."""
    return folder.joinpath(*_parts(name, shown))


def lay_out(folder: Path, objects: Mapping[str, bytes], shown: str) -> None:
    """Writes objects or blobs as files below a folder, which is made. Raises InvalidRequest as
    ``place`` does, and where a name is a file's and a folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in objects.items():
        path = place(folder, name, shown)
        if name.endswith("/"):  # a folder's marker
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise _refused(shown, f"holds {_short(name)} ({error.strerror})") from None


@contextmanager
def _opened(archive: Path | IO[bytes]) -> Generator[tuple[IO[bytes], str]]:
    if isinstance(archive, Path):
        with archive.open("rb") as file:
            yield file, archive.name
    else:
        yield archive, "the archive"


def _refused(shown: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{shown} {problem}", field="archive", value=shown)


def _parts(name: str, shown: str) -> list[str]:
    """The parts of a name, none of which leads anywhere but down."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    drive = len(name) > 1 and name[1] == ":" and name[2:3] in {"\\", "/", ""}
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or drive:
        raise _refused(shown, f"holds {_short(name)}, whose place is outside of the folder")
    if len(parts) > _DEPTH:
        raise _refused(shown, f"holds {_short(name)}, which lies {len(parts)} folders deep")
    return parts


def _folded(name: str) -> str:
    """What a file system that tells neither case nor a composed letter apart takes it for."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFC", name).casefold())


def _short(name: str) -> str:
    return repr(name if len(name) < 80 else f"{name[:60]}…{name[-16:]}")


class _Stage:
    """What is unpacked so far, in a folder that nobody else knows."""

    def __init__(self, root: Path, shown: str, most: int, members: int) -> None:
        self.root = root
        self.shown = shown
        self.most = most
        self._left = most
        self._members = members
        self._count = 0
        self._files: set[str] = set()
        self._links: dict[str, str] = {}
        self._folded: set[str] = set()
        root.mkdir()

    def too_much(self) -> InvalidRequest:
        return _refused(self.shown, f"holds more than the {self.most:,} bytes that it may")

    def name(self, name: str) -> str:
        """A member's name, taken apart and put together again."""
        self._count += 1
        if self._count > self._members:
            raise _refused(self.shown, f"holds more than {self._members:,} members")
        return "/".join(_parts(name, self.shown))

    def folder(self, name: str) -> None:
        self._made(self.root / name)

    def file(self, name: str, data: IO[bytes], size: int, executable: bool) -> None:
        if not name:
            raise _refused(self.shown, "holds a file without a name")
        path = self.root / name
        self._made(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with self._free(name):
            number = os.open(path, flags, 0o777 if executable else 0o666)
        with open(number, "wb") as out:
            written = 0
            while block := data.read(_BLOCK):
                self._left -= len(block)
                if self._left < 0:
                    raise self.too_much()
                written += len(block)
                out.write(block)
        if written != size:
            raise _refused(self.shown, f"is cut or damaged (in {_short(name)})")
        self._files.add(name)

    def link(self, name: str, to: str) -> None:
        """A symbolic link, which is made when all else is there."""
        if _folded(name) in self._folded or not name:
            raise self._twice(name)
        self._links[name] = to
        self._folded.add(_folded(name))

    def same(self, name: str, as_: str) -> None:
        """A hard link to a file of the archive that came before."""
        to = "/".join(_parts(as_, self.shown))
        if to not in self._files:
            raise _refused(
                self.shown, f"holds a link {_short(name)} to {_short(as_)}, which is no file of it"
            )
        path = self.root / name
        self._made(path.parent)
        with self._free(name):
            os.link(self.root / to, path, follow_symlinks=False)
        self._files.add(name)

    def finish(self) -> None:
        """Makes the links, once each is known to stay inside."""
        for name in self._links:
            above = name.split("/")
            if any(_folded("/".join(above[:at])) in self._folded for at in range(1, len(above))):
                raise _refused(self.shown, f"holds {_short(name)}, which lies behind a link")
            self._follow(name)
        for name, to in self._links.items():
            path = self.root / name
            self._made(path.parent)
            with self._free(name):
                os.symlink(to, path)

    def _follow(self, name: str) -> None:
        """Walks from a link, one part at a time, over the links that there will be. None is made
        yet, so that this is all there is to follow."""
        here: list[str] = []
        todo = name.split("/")
        hops = 0
        while todo:
            part = todo.pop(0)
            if part in {"", "."}:
                continue
            if part == "..":
                if not here:
                    raise self._out(name)
                here.pop()
                continue
            here.append(part)
            at = "/".join(here)
            to = self._links.get(at)
            if to is None and _folded(at) in self._folded:
                raise self._out(name)  # a file system without case would follow it
            if to is not None:
                hops += 1
                if hops > _HOPS:
                    raise _refused(self.shown, f"holds {_short(name)}, a link in a circle")
                if to.startswith("/") or "\0" in to or not to:
                    raise self._out(name)
                here.pop()
                todo = to.split("/") + todo
            if len(todo) + len(here) > 10 * _DEPTH:
                raise self._out(name)

    def _out(self, name: str) -> InvalidRequest:
        return _refused(
            self.shown,
            f"holds a link {_short(name)} to {_short(self._links[name])}, outside of the folder",
        )

    def _made(self, folder: Path) -> None:
        with self._free(folder.name):
            folder.mkdir(parents=True, exist_ok=True)

    def _twice(self, name: str) -> InvalidRequest:
        return _refused(self.shown, f"holds {_short(name)} twice")

    @contextmanager
    def _free(self, name: str) -> Generator[None]:
        try:
            yield
        except (FileExistsError, NotADirectoryError):
            raise self._twice(name) from None


class _Bounded:
    """A tar's bytes as tarfile reads them: forwards alone, each counted, and no header larger than
    headers are."""

    def __init__(self, file: Any, stage: _Stage) -> None:
        self._file = file
        self._stage = stage
        # Of a tar's bytes half may be headers; those of a sparse file are not in it.
        self._left = 2 * stage.most
        self._at = 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> int:
        if to < self._at:
            raise tarfile.ReadError("its members overlap")
        while self._at < to and self._take(min(_BLOCK, to - self._at)):
            pass
        return self._at

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _BLOCK:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        self.last = self._take(count)
        return self.last

    def _take(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count > 0 and (data := self._file.read(count)):
            parts.append(data)
            count -= len(data)
        found = b"".join(parts)
        self._left -= len(found)
        if self._left < 0:
            raise self._stage.too_much()
        self._at += len(found)
        return found


def _tar(file: IO[bytes], stage: _Stage, packed: bool) -> None:
    seen: Any = _Bounded(gzip.GzipFile(fileobj=file) if packed else file, stage)
    try:
        archive: Any = tarfile.open(fileobj=seen, mode="r:")  # noqa: SIM115 - closed below
    except tarfile.ReadError:
        raise _refused(stage.shown, "is no tar, tar.gz or zip") from None
    with archive:
        while (member := archive.next()) is not None:
            archive.members = []  # else each is kept in memory
            name = stage.name(member.name)
            if member.isdir():
                stage.folder(name)
            elif member.issym():
                stage.link(name, member.linkname)
            elif member.islnk():
                stage.same(name, member.linkname)
            elif member.isreg() and (data := archive.extractfile(member)) is not None:
                stage.file(name, data, member.size, bool(member.mode & 0o100))
            else:
                raise _refused(stage.shown, f"holds {_short(name)}, a device or a pipe")
    # tarfile takes a damaged header for the end; a tar ends in zeros.
    if seen.last.strip(b"\0") or len(seen.last) < tarfile.BLOCKSIZE:
        raise _refused(stage.shown, "is cut or damaged (it has no end)")
    while seen.read(_BLOCK):  # to gzip's checksum
        pass


def _zip(file: IO[bytes], stage: _Stage) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = stage.name(member.filename)
            mode = member.external_attr >> 16
            if member.flag_bits & 1:
                raise _refused(stage.shown, f"holds {_short(name)}, which is encrypted")
            if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise _refused(stage.shown, f"holds {_short(name)}, packed in a way of its own")
            if member.is_dir():
                stage.folder(name)
                continue
            kind = stat.S_IFMT(mode)
            if kind not in {0, stat.S_IFREG, stat.S_IFLNK}:
                raise _refused(stage.shown, f"holds {_short(name)}, a device or a pipe")
            with archive.open(member) as data:
                if kind == stat.S_IFLNK:
                    stage.link(name, os.fsdecode(data.read(4097)))
                else:
                    stage.file(name, data, member.file_size, bool(mode & 0o100))
