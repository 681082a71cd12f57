"""Every archive that means harm, at the extractor: nothing outside, nothing over the bound, one
clear error, nothing left."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import archives
import pytest

from cloudai._core.files.unpack import place, unpack
from cloudai.errors import InvalidRequest


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", archives.HOSTILE)
def test_k5_a_hostile_archive_is_refused_whole(name: str, tmp_path: Path) -> None:
    data = archives.hostile(name)
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"^a\.tar\.gz ") as caught:
        unpack(tmp_path / "a.tar.gz", tmp_path / "there" / "deep" / "out")
    assert len(str(caught.value)) < 400
    assert str(caught.value).count("a.tar.gz") == 1
    assert tree(tmp_path) == ["a.tar.gz", "there", "there/deep"]
    assert not Path("/tmp/cloudai-evil").exists()


def test_k5_there_are_forty_and_more() -> None:
    assert len(archives.HOSTILE) >= 40


def test_k5_bounds_count_members_and_bytes(tmp_path: Path) -> None:
    many = archives.tar(*(archives.file(f"f{at}", b"") for at in range(30)))
    with pytest.raises(InvalidRequest, match="more than 20 members"):
        unpack(io.BytesIO(many), tmp_path / "out", max_members=20)
    big = archives.packed({"a": bytes(range(256)) * 40})
    with pytest.raises(InvalidRequest, match="more than the 10,000 bytes"):
        unpack(io.BytesIO(big), tmp_path / "out", max_bytes=10_000)
    assert tree(tmp_path) == []


def test_k5_names_that_differ_by_case_stay_two_files_or_are_refused(tmp_path: Path) -> None:
    data = archives.packed({"a": b"1", "A": b"2"})
    unpack(io.BytesIO(data), tmp_path / "out")
    assert tree(tmp_path / "out") == ["A", "a"]


@pytest.mark.parametrize("form", ["tar.gz", "tar", "zip"])
def test_k5_an_ordinary_archive_comes_whole(form: str, tmp_path: Path) -> None:
    members = [
        archives.folder("./"),
        archives.folder("model"),
        archives.file("./model/weights", b"w" * 5000),
        archives.link("latest", "model/weights"),
        archives.link("model/self", "../model"),
        archives.link("gone", "checkpoint-5"),
        archives.hard("same", "./model/weights"),
        archives.file("run.sh", b"#!/bin/sh\n"),
    ]
    members[-1][0].mode = 0o4755
    if form == "zip":
        data = archives.zipped(
            ("model/", b"", 0o40755), ("model/weights", b"w" * 5000, 0o100644),
            ("latest", b"model/weights", 0o120777), ("model/self", b"../model", 0o120777),
            ("gone", b"checkpoint-5", 0o120777), ("same", b"w" * 5000, 0),
            ("run.sh", b"#!/bin/sh\n", 0o104755),
        )  # fmt: skip
    else:
        data = archives.plain(*members)
        data = gzip.compress(data) if form == "tar.gz" else data
    out = tmp_path / "out"
    out.mkdir()
    unpack(io.BytesIO(data), out)
    found = ["gone", "latest", "model", "model/self", "model/weights", "run.sh", "same"]
    assert tree(out) == found
    assert (out / "latest").read_bytes() == (out / "same").read_bytes() == b"w" * 5000
    assert (out / "model" / "self" / "weights").exists()
    assert (out / "run.sh").stat().st_mode & 0o7111 == 0o111 & ~_umask()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_k5_a_folder_that_holds_something_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InvalidRequest, match="is not empty"):
        unpack(io.BytesIO(archives.packed()), tmp_path / "out")
    assert tree(tmp_path) == ["out", "out/mine"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\0b", "C:/x", "\\x"])
def test_k25_an_objects_name_never_leads_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="outside of the folder"):
        place(tmp_path, name, "s3://bucket")
    assert place(tmp_path, "a//./b", "s3://bucket") == tmp_path / "a" / "b"


def _umask() -> int:
    import os

    found = os.umask(0)
    os.umask(found)
    return found
