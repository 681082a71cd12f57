"""Requirements files that travel alone, held to pip's own reader of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudai._core.files import requirements
from cloudai.errors import InvalidRequest

TEXT = """\
# what we need
numpy>=2  # and why
torch==2.8.*; python_version >= "3.10"
--extra-index-url https://example.invalid/simple

-r more/base.txt
tokenizers == \\
    0.22
named @ https://example.invalid/named-1.0-py3-none-any.whl
git+https://example.invalid/repo.git@main#egg=repo
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("scipy\n-r ../last.txt\n")
    (tmp_path / "last.txt").write_text("pandas<4\n-r requirements.txt\n")
    return tmp_path


def theirs(path: Path) -> list[str]:
    """What pip reads of a file."""
    from pip._internal.network.session import PipSession
    from pip._internal.req.req_file import parse_requirements

    session = PipSession()
    return [one.requirement for one in parse_requirements(str(path), session=session)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_z10_what_pip_reads_is_what_travels(folder: Path, encoding: str) -> None:
    path = folder / "requirements.txt"
    path.write_bytes(TEXT.replace("-r more", "-r more").encode(encoding))
    (folder / "last.txt").write_text("pandas<4\n")  # pip refuses a file that includes itself
    ours = requirements.lines(str(path))
    whole = folder / "whole.txt"
    whole.write_text("\n".join(ours))
    assert theirs(whole) == theirs(path)
    assert "--extra-index-url https://example.invalid/simple" in ours
    assert not any("base.txt" in line for line in ours)


def test_z10_files_that_include_one_another_are_read_once(folder: Path) -> None:
    path = folder / "requirements.txt"
    path.write_text("numpy\n-r more/base.txt\n")
    assert requirements.lines(str(path)) == ["numpy", "scipy", "pandas<4"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_z10_nothing_in_it(folder: Path, text: str) -> None:
    (folder / "requirements.txt").write_text(text)
    assert requirements.lines(str(folder / "requirements.txt")) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("./mypkg", "beside the handler"),
        ("-e ./mypkg[extra]", "beside the handler"),
        ("--editable=mypkg/", "beside the handler"),
        ("mypkg-1.0-py3-none-any.whl", "beside the handler"),
        ("mypkg @ file:///home/me/mypkg", "beside the handler"),
        ("/home/me/mypkg", "beside the handler"),
        ("-c pins.txt", "Write the versions into requirements.txt"),
        ("--requirement=gone.txt", "is not a file"),
    ],
)
def test_z10_what_lies_on_this_machine_alone_is_named(folder: Path, line: str, told: str) -> None:
    path = folder / "requirements.txt"
    path.write_text(f"numpy\n{line}\n")
    with pytest.raises(InvalidRequest, match="requirements") as caught:
        requirements.lines(str(path))
    assert told in str(caught.value)


def test_z10_what_is_no_text(folder: Path) -> None:
    path = folder / "requirements.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(InvalidRequest, match=r"is no utf-8.*Save it as UTF-8"):
        requirements.lines(str(path))
