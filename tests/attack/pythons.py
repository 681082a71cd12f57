"""The hostile archives at the extractor under other Pythons, whose tarfile and zipfile differ even
between patch releases. The extractor needs the standard library alone, and so does this::

    make attack PYTHONS="python3.11 python3.12 python3.13 python3.14"

Every place that unpacks does it by this extractor (``test_places.py``).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def attacked(name: str, folder: Path) -> str | None:
    """What went wrong with one archive; None: it was refused whole, in clear words."""
    import archives

    from cloudai._core.files.unpack import unpack
    from cloudai.errors import InvalidRequest

    (folder / "a.tar.gz").write_bytes(archives.hostile(name))
    try:
        unpack(folder / "a.tar.gz", folder / "there" / "deep" / "out")
    except InvalidRequest as error:
        if not str(error).startswith("a.tar.gz ") or len(str(error)) > 400:
            return f"said {error}"
    except BaseException as error:
        return f"raised {error!r}"
    else:
        return "was taken"
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    if left != ["a.tar.gz", "there", "there/deep"] or Path("/tmp/cloudai-evil").exists():
        return f"left {left}"
    return None


def under_this_python() -> int:
    """Tries all of them, and an ordinary one. Gives the number of those that went wrong."""
    import archives

    from cloudai._core.files.unpack import unpack

    wrong = 0
    for name in archives.HOSTILE:
        with tempfile.TemporaryDirectory() as folder:
            problem = attacked(name, Path(folder))
        if problem is not None:
            wrong += 1
            print(f"  {name}: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(archives.packed())
        unpack(Path(folder) / "a", Path(folder) / "out")
        assert (Path(folder) / "out" / "model" / "weights").read_bytes() == b"w" * 700
    whole = len(archives.HOSTILE)
    print(f"{platform.python_version()}: {whole - wrong} of {whole} refused whole", flush=True)
    return wrong


def main(pythons: list[str]) -> int:
    """Runs this file under each. Gives the exit code."""
    if not pythons:
        return min(1, under_this_python())
    found = os.pathsep.join((str(HERE.parents[1]), str(HERE)))
    env = {**os.environ, "PYTHONPATH": found, "PYTHONDONTWRITEBYTECODE": "1"}
    return max(subprocess.run([one, __file__], env=env).returncode for one in pythons)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
