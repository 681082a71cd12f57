"""Archives that mean harm, and some that are only broken: what unpacking has to refuse.

Each is made in memory in a moment; those that unpack to more than a gibibyte are a few MB."""

from __future__ import annotations

import functools
import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable

Member = tuple[tarfile.TarInfo, bytes]

PLAIN = {"model/weights": b"w" * 700, "handler.py": b"def load(d): ...\n"}


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def file(name: str, data: bytes = b"evil") -> Member:
    made = _info(name)
    made.size = len(data)
    return made, data


def link(name: str, to: str) -> Member:
    return _info(name, tarfile.SYMTYPE, to), b""


def hard(name: str, to: str) -> Member:
    return _info(name, tarfile.LNKTYPE, to), b""


def folder(name: str) -> Member:
    return _info(name, tarfile.DIRTYPE), b""


def odd(name: str, kind: bytes) -> Member:
    made = _info(name, kind)
    made.devmajor, made.devminor = 1, 5  # /dev/zero
    return made, b""


def plain(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for about, data in members:
            archive.addfile(about, io.BytesIO(data))
    return out.getvalue()


def tar(*members: Member) -> bytes:
    return gzip.compress(plain(*members), 6)


def packed(files: dict[str, bytes] = PLAIN) -> bytes:
    return tar(*(file(name, data) for name, data in files.items()))


def zipped(*members: tuple[str, bytes, int], deflate: bool = True) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflate else 0) as archive:
        for name, data, mode in members:
            about = zipfile.ZipInfo(name)
            about.external_attr = mode << 16
            about.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
            archive.writestr(about, data)
    return out.getvalue()


def _encrypted() -> bytes:
    data = bytearray(zipped(("a", b"abc", 0o100644)))
    data[6] |= 1
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    return bytes(data)


def _chain(way_out: str) -> bytes:
    """CVE-2025-4517: links through folders whose names together are longer than PATH_MAX, so that
    ``realpath`` gives up and takes the rest as it is written."""
    part = "d" * 247
    members: list[Member] = []
    path = ""
    for letter in "abcdefghijklmnop":
        members += [folder(f"{path}{part}"), link(f"{path}{letter}", part)]
        path += f"{part}/"
    up = "/".join("abcdefghijklmnop")
    members += [
        link(f"{up}/{'l' * 254}", "../" * 16),
        link("escape", f"{up}/{'l' * 254}/{way_out}"),
        file("escape/evil"),
    ]
    return tar(*members)


def _sparse() -> bytes:
    """An old GNU sparse file of 8 TiB with no data."""
    made = bytearray(_info("hole").tobuf(tarfile.GNU_FORMAT))
    made[156:157] = tarfile.GNUTYPE_SPARSE
    made[483:495] = b"\x80" + (8 << 40).to_bytes(11, "big")
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return gzip.compress(bytes(made) + bytes(1024))


def _negative() -> bytes:
    """CVE-2025-8194: a member of negative size, at which a reader goes back for ever."""
    made = bytearray(_info("back").tobuf(tarfile.GNU_FORMAT))
    made[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return gzip.compress(bytes(made) * 2 + bytes(1024))


def _header() -> bytes:
    """A pax header of 64 MiB, which tarfile reads in one piece."""
    made = _info("x", tarfile.XHDTYPE)
    made.size = 64 << 20
    return gzip.compress(made.tobuf(tarfile.GNU_FORMAT) + bytes(made.size) + bytes(1024), 1)


def _long_names() -> bytes:
    made = _info("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    made.size = 512
    return gzip.compress((made.tobuf(tarfile.GNU_FORMAT) + b"n" * 511 + b"\0") * 3000)


def _bomb(count: int, each: int) -> bytes:
    return tar(*(file(f"zeros{at}", bytes(each)) for at in range(count)))


def _overlap() -> bytes:
    """Fifield's: many entries of the directory for one deflated kernel."""
    whole = zipped(("a", bytes(16 << 20), 0o100644))
    at = whole.index(b"PK\x01\x02")
    entry, end = bytearray(whole[at : whole.index(b"PK\x05\x06")]), bytearray(whole[-22:])
    entries = b"".join(bytes(entry[:46]) + bytes([97 + n]) + bytes(entry[47:]) for n in range(20))
    struct.pack_into("<HHL", end, 8, 20, 20, len(entries))
    return whole[:at] + entries + bytes(end)


def _twice() -> bytes:
    data = zipped(("aa", b"1", 0o100644), ("ab", b"2", 0o100644), deflate=False)
    return data.replace(b"ab", b"aa")


def _damaged() -> bytes:
    data = bytearray(plain(file("a", b"a" * 600), file("b", b"b" * 600)))
    data[1536 + 10] ^= 0xFF  # in the second header
    return gzip.compress(bytes(data))


HOSTILE: dict[str, Callable[[], bytes]] = {
    # Paths.
    "dotdot": lambda: tar(file("../evil")),
    "dotdot inside": lambda: tar(file("a/../../evil")),
    "dotdot down": lambda: tar(folder("a"), file("a/../b")),
    "absolute": lambda: tar(file("/tmp/cloudai-evil")),
    "drive": lambda: tar(file("C:/evil")),
    "backslash": lambda: tar(file("\\evil")),
    "zip dotdot": lambda: zipped(("../evil", b"x", 0o100644)),
    "zip absolute": lambda: zipped(("/tmp/cloudai-evil", b"x", 0o100644)),
    "deep": lambda: tar(file("d/" * 2000 + "evil")),
    "long name": lambda: tar(file("n" * 300)),
    # Links.
    "link out": lambda: tar(link("up", "../outside")),
    "link absolute": lambda: tar(link("etc", "/etc")),
    "write through a link": lambda: tar(link("up", ".."), file("up/evil")),
    "write through an absolute link": lambda: tar(link("tmp", "/tmp"), file("tmp/cloudai-evil")),
    "write through a link inside": lambda: tar(folder("d"), link("l", "d"), file("l/x")),
    "link behind a link": lambda: tar(folder("a/b"), link("d", "a/b"), link("d/x", "../../../out")),
    "link by way of a link": lambda: tar(
        folder("a/b/c"), link("a/b/c/d", "../../.."), link("e", "a/b/c/d/../out")
    ),
    "links in a circle": lambda: tar(link("a", "b"), link("b", "a")),
    "a link to itself": lambda: tar(link("a", "a/x")),
    "file in a link's place": lambda: tar(link("a", "b"), file("a"), file("b")),
    "link chain over PATH_MAX": lambda: _chain("../.."),
    "link chain over PATH_MAX, absolute": lambda: _chain("../../../../tmp"),
    "link by way of a link of another case": lambda: tar(link("a", "."), link("up", "A/..")),
    "link behind a link of another case": lambda: tar(link("a", "d"), link("A/x", "y")),
    "links that differ by case": lambda: tar(link("a", "d"), link("A", "e")),
    "hard link out": lambda: tar(hard("passwd", "../../etc/passwd")),
    "hard link absolute": lambda: tar(hard("passwd", "/etc/passwd")),
    "hard link to a link": lambda: tar(link("a", "/etc/passwd"), hard("b", "a")),
    "hard link to what comes later": lambda: tar(hard("b", "a"), file("a")),
    "zip link out": lambda: zipped(("up", b"../..", stat.S_IFLNK | 0o777)),
    "zip write through a link": lambda: zipped(
        ("up", b"..", stat.S_IFLNK | 0o777), ("up/evil", b"x", 0o100644)
    ),
    # Devices.
    "character device": lambda: tar(odd("zero", tarfile.CHRTYPE)),
    "block device": lambda: tar(odd("disk", tarfile.BLKTYPE)),
    "pipe": lambda: tar(odd("pipe", tarfile.FIFOTYPE)),
    "zip pipe": lambda: zipped(("pipe", b"", stat.S_IFIFO | 0o644)),
    # Bombs.
    "one bomb": lambda: _bomb(1, 96 << 20),
    "many bombs": lambda: _bomb(12, 8 << 20),
    "zip bomb": lambda: zipped(("zeros", bytes(96 << 20), 0o100644)),
    "overlapping zip": _overlap,
    "sparse": _sparse,
    "a header as a bomb": _header,
    "three thousand long names": _long_names,
    # Cut, broken, twice.
    "negative size": _negative,
    "cut gzip": lambda: packed()[:-40],
    "cut tar": lambda: plain(file("a", b"a" * 3000))[:1500],
    "no end": lambda: plain(file("a", b"a" * 512))[:1024],
    "damaged header": _damaged,
    "damaged checksum": lambda: packed()[:-8] + bytes(8),
    "cut zip": lambda: zipped(("a", os.urandom(4000), 0o100644))[:-200],
    "damaged zip": lambda: zipped(("a", b"abcdefgh", 0o100644), deflate=False).replace(
        b"abcdefgh", b"abcdXfgh"
    ),
    "encrypted zip": _encrypted,
    "twice": lambda: tar(file("a", b"1"), file("a", b"2")),
    "folder in a file's place": lambda: tar(file("a"), file("a/b")),
    "zip twice": _twice,
    "no archive": lambda: b"<html>404</html>" * 100,
    "empty": lambda: b"",
}


@functools.cache
def hostile(name: str) -> bytes:
    """One of them, made once."""
    return HOSTILE[name]()
