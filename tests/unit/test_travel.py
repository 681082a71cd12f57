"""What travels of a folder: one rule for sources, inputs, models and packages."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from cloudai._core.files import pack
from cloudai._core.files.ignore import Rules, left_out
from cloudai._core.files.tree import Tree, digest, source, tree, uploads
from cloudai.errors import InvalidRequest
from cloudai.types import BatchTransform, Deployment, LeftOut, Resources, TrainingJob, Variant

ATOMS = [
    "a", "b", "foo", "*", "**", "***", "?", "[ab]", "[!a]", "[^a]", "[a-c]", "[c-a]", "[a-]",
    "[[:alpha:]]", "[[:x:]]", "[]a]", "[\\]a]", "[a", "\\*", "\\a", ".", "é", " ", "\\ ", "!", "#",
]  # fmt: skip
NAMES = ["a", "b", "c", "foo", "ab", "aab", "é", ".x", "a b", "*", "[a", "a ", "!a", "#b", "-"]


def made(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(found: Tree) -> list[str]:
    return list(found.files)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_k8_patterns_are_those_of_git_check_ignore(tmp_path: Path) -> None:
    dice = random.Random(8)

    def pattern() -> str:
        text = "".join(
            "".join(dice.choices(ATOMS, k=dice.randint(1, 2))) + dice.choice(["", "/"])
            for _ in range(dice.randint(1, 4))
        )
        return dice.choice(["", "", "", "/", "!"]) + text

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    compared = 0
    for _ in range(60):
        patterns = [pattern() for _ in range(dice.randint(1, 3))]
        (tmp_path / ".gitignore").write_text("\n".join(patterns))
        paths = sorted({"/".join(dice.choices(NAMES, k=dice.randint(1, 4))) for _ in range(60)})
        told = subprocess.run(
            ["git", "-C", tmp_path, "check-ignore", "--no-index", "-z", "--stdin", "-v", "-n"],
            input="\0".join(paths), capture_output=True, text=True, check=False,
        ).stdout.split("\0")  # fmt: skip
        rules = [Rules([line.encode() for line in patterns], "git")]
        for at in range(0, len(told) - 3, 4):
            where, _, line, path = told[at : at + 4]
            git = bool(where) and not line.startswith("!")
            parts = path.encode().split(b"/")
            ours = any(
                left_out(rules, b"/".join(parts[:end]), end < len(parts))
                for end in range(1, len(parts) + 1)
            )
            assert ours == git, (patterns, path)
            compared += 1
    assert compared > 3000


def test_k8_what_looks_like_a_secret_stays_here(tmp_path: Path) -> None:
    secret = [
        ".env", ".env.local", "conf/.env", "id_rsa", "keys/id_ed25519", "server.pem", "a/b.key",
        ".netrc", ".aws/credentials", ".ssh/config", ".npmrc", ".pypirc", "client_secret_12.json",
        "service-account.json", "terraform.tfstate", ".git-credentials", ".docker/config.json",
        ".kube/config", ".cache/huggingface/token", "secrets.toml", "kaggle.json",
    ]  # fmt: skip
    fine = [".env.example", "id_rsa.pub", "model.safetensors", "tokenizer.json", "train.py"]
    made(tmp_path, *secret, *fine, ".git/config")
    found = tree(tmp_path)
    assert names(found) == sorted(fine)
    why = {one.path: one.why for one in found.left_out}
    assert why.pop(".git") == "caches, version control"
    assert set(why.values()) == {"looks like a secret"}
    assert {
        path for path in secret if not any(f"{path}/".startswith(f"{o}/") for o in why)
    } == set()


def test_k8_the_owners_word_lets_one_travel(tmp_path: Path) -> None:
    made(tmp_path, "ca.pem", "a.pem", "b.pem")
    (tmp_path / ".cloudaiignore").write_text("!ca.pem\n")
    assert names(tree(tmp_path, ["!a.pem"])) == [".cloudaiignore", "a.pem", "ca.pem"]
    # One that git keeps is a secret all the same.
    (tmp_path / ".gitignore").write_text("!b.pem\n")
    assert "b.pem" not in tree(tmp_path, git=True).files


def test_k8_ignore_files_of_any_folder_and_the_order(tmp_path: Path) -> None:
    made(tmp_path, "a.log", "b.log", "data/x.csv", "data/keep.csv", "pkg/m.py", "pkg/gen.py")
    (tmp_path / ".gitignore").write_bytes(b"\xef\xbb\xbf*.log\r\n# no\r\n/data/*\n")
    (tmp_path / "pkg" / ".gitignore").write_text("/gen.py\n")
    (tmp_path / ".cloudaiignore").write_text("!b.log\n!/data/keep.csv\n.gitignore\n")
    found = tree(tmp_path, git=True)
    assert names(found) == [".cloudaiignore", "b.log", "data/keep.csv", "pkg/m.py"]
    assert LeftOut("a.log", ".gitignore") in found.left_out
    assert LeftOut("pkg/gen.py", "pkg/.gitignore") in found.left_out
    # What git leaves out of a source is the very thing in a data set.
    assert "data/x.csv" in tree(tmp_path).files


def test_z7_patterns_of_the_spec(tmp_path: Path) -> None:
    made(tmp_path, "data/a", "secrets/k", "sub/secrets/k", "sub/data/b", "m.py", "m.pyc")
    found = tree(tmp_path, ("data/", "./secrets"))
    assert names(found) == ["m.py", "sub/secrets/k"]
    assert {one.path: one.why for one in found.left_out} == {
        "data": "ignore", "secrets": "ignore", "sub/data": "ignore",
        "m.pyc": "caches, version control",
    }  # fmt: skip


def test_z8_links_are_followed_inside(tmp_path: Path) -> None:
    root = made(tmp_path / "root", "real/a.txt", "b.txt")
    (root / "folder").symlink_to("real")
    (root / "file").symlink_to(root / "b.txt")
    assert names(tree(root)) == ["b.txt", "file", "folder/a.txt", "real/a.txt"]
    assert tree(root).files["folder/a.txt"].read_text() == "real/a.txt"
    # The root itself may be a link.
    (tmp_path / "other").symlink_to(root)
    assert names(tree(tmp_path / "other")) == names(tree(root))


@pytest.mark.parametrize(
    ("name", "to", "problem"),
    [
        ("up", "..", "is a link that leads out, to "),
        ("key", "../outside/id", "is a link that leads out, to "),
        ("etc", "/etc", "is a link that leads out, to /etc"),
        ("zero", "/dev/zero", "is a link that leads out, to /dev/zero"),
        ("dead", "nowhere", "is a link that leads nowhere, to nowhere"),
        ("loop", "loop", "is a link that leads nowhere, to loop"),
        ("circle", ".", "is a link in a circle"),
    ],
)
def test_k8_k15_links_that_cannot_travel_are_named(
    name: str, to: str, problem: str, tmp_path: Path
) -> None:
    root = made(tmp_path / "root", "sub/a.txt")
    made(tmp_path, "outside/id")
    (root / "sub" / name).symlink_to(to if to != ".." else "../..")
    if to.startswith("../o"):
        (root / "sub" / name).unlink()
        (root / "sub" / name).symlink_to("../../outside/id")
    with pytest.raises(InvalidRequest) as caught:
        tree(root, field="inputs.train")
    assert problem in str(caught.value)
    assert f"sub/{name}" in str(caught.value)
    assert caught.value.field == "inputs.train"
    assert names(tree(root, [name])) == ["sub/a.txt"]


def test_k8_another_name_makes_a_secret_no_plain_file(tmp_path: Path) -> None:
    made(tmp_path, ".env", ".git/config", "a.py")
    (tmp_path / "settings").symlink_to(".env")
    (tmp_path / "remote").symlink_to(".git/config")
    (tmp_path / "store").symlink_to(".git")
    found = tree(tmp_path)
    assert names(found) == ["a.py"]
    assert LeftOut("settings", "leads to .env: looks like a secret") in found.left_out
    assert LeftOut("remote", "leads to .git: caches, version control") in found.left_out


def test_k15_pipes_sockets_and_what_cannot_be_read_are_named(tmp_path: Path) -> None:
    made(tmp_path, "a.py")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="pipe' is a named pipe, which cannot travel"):
        tree(tmp_path)
    assert names(tree(tmp_path, ["pipe"])) == ["a.py"]
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "sock"))
        with pytest.raises(InvalidRequest, match="sock' is a socket"):
            tree(tmp_path)
    (tmp_path / "sock").unlink()
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(InvalidRequest, match="has a name that is no UTF-8"):
        tree(tmp_path)
    with pytest.raises(InvalidRequest, match="/dev/zero' is a device"):
        tree(Path("/dev/zero"), field="inputs.train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_k15_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    made(tmp_path, "a.py", "closed")
    (tmp_path / "closed").chmod(0)
    with pytest.raises(InvalidRequest, match="closed' cannot be read"):
        tree(tmp_path)


def test_z8_a_snapshot_of_the_hub_is_links_to_its_blobs(tmp_path: Path) -> None:
    model = made(tmp_path / "models--org--m", "blobs/abc", "blobs/def", "refs/main")
    snapshot = model / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert names(tree(snapshot)) == ["config.json"]
    (snapshot / "out").symlink_to(tmp_path)
    with pytest.raises(InvalidRequest, match="leads out"):
        tree(snapshot)


def test_k8_an_entry_that_stays_here_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "train.py", "requirements.txt")
    (tmp_path / ".gitignore").write_text("train.py\n")

    def job(**changes: object) -> TrainingJob:
        given = {"source": str(tmp_path), "entry": "train.py", **changes}
        return TrainingJob(**given)  # type: ignore[arg-type]

    with pytest.raises(InvalidRequest, match=r"entry='train\.py' stays here: \.gitignore.*!train"):
        source(job())
    assert names(source(job(ignore=("!train.py",)))) == [
        ".gitignore",
        "requirements.txt",
        "train.py",
    ]
    with pytest.raises(InvalidRequest, match=r"requirements='r\.txt' is not a file in source="):
        source(job(requirements="r.txt"))
    with pytest.raises(InvalidRequest, match="is not a directory"):
        source(job(source=str(tmp_path / "train.py")))


@pytest.mark.parametrize("field", ["entry", "requirements"])
@pytest.mark.parametrize("path", ["../m.py", "/etc/m.py", "a/../../m.py"])
def test_l5_a_file_outside_of_the_source_is_refused_when_the_job_is_made(
    field: str, path: str
) -> None:
    given = {"source": "src", "entry": "m.py", field: path}
    with pytest.raises(InvalidRequest, match=f"{field}='.*' is not inside source"):
        TrainingJob(**given)  # type: ignore[arg-type]


def test_k8_uploads_tell_what_goes_and_what_stays(tmp_path: Path) -> None:
    made(tmp_path, "src/train.py", "src/.env", "data/a.csv", "data/.env", "one.jsonl", "model/w")
    spec = TrainingJob(
        source=str(tmp_path / "src"), entry="train.py",
        inputs={"train": str(tmp_path / "data"), "far": "s3://b/k", "one": f"{tmp_path}/one.jsonl"},
    )  # fmt: skip
    found = {one.field: one for one in uploads(spec)}
    assert found["source"].files == (("train.py", len("src/train.py")),)
    assert found["source"].left_out == (LeftOut(".env", "looks like a secret"),)
    assert found["inputs.train"].size == len("data/a.csv")
    assert found["inputs.train"].left_out == (LeftOut(".env", "looks like a secret"),)
    assert found["inputs.one"].files == (("one.jsonl", len("one.jsonl")),)
    assert "inputs.far" not in found
    (model,) = uploads(Deployment(name="e", variants=(Variant(model=f"{tmp_path}/model"),)))
    assert (model.field, model.files) == ("model", (("w", 7),))
    batch = BatchTransform(model=f"{tmp_path}/model", input=f"{tmp_path}/one.jsonl", output="o")
    assert [one.field for one in uploads(batch)] == ["model", "input"]


def test_k8_cloudais_own_home_stays_here(tmp_path: Path) -> None:
    made(tmp_path, "a.py", "home/ledger.db")
    assert names(tree(tmp_path, home=tmp_path / "home")) == ["a.py"]
    with pytest.raises(InvalidRequest, match="is cloudai's own home"):
        tree(tmp_path, home=tmp_path)


def test_m12_an_archive_is_the_same_bytes_and_zip_can_hold_its_dates(tmp_path: Path) -> None:
    made(tmp_path, "a.py", "run.sh")
    (tmp_path / "run.sh").chmod(0o755)
    os.utime(tmp_path / "a.py", (0, 0))

    def packed() -> bytes:
        out = io.BytesIO()
        pack.write(out, {**tree(tmp_path).files, "b.txt": b"b"}, "in")
        return out.getvalue()

    before = packed()
    os.utime(tmp_path / "a.py")
    assert packed() == before
    with tarfile.open(fileobj=io.BytesIO(before)) as archive:
        found = {one.name: (one.mode, one.uid) for one in archive}
        assert found == {"in/a.py": (0o644, 0), "in/run.sh": (0o755, 0), "in/b.txt": (0o644, 0)}
        archive.extractall(tmp_path / "out", filter="data")
    with zipfile.ZipFile(io.BytesIO(), "w") as wheel:  # ValueError before 1980
        wheel.write(tmp_path / "out" / "in" / "a.py")


def test_k8_a_digest_is_of_what_travels(tmp_path: Path) -> None:
    made(tmp_path, "a/b", "c")
    before = digest(tree(tmp_path).files)
    made(tmp_path, ".env", "a/__pycache__/m.pyc")
    assert digest(tree(tmp_path).files) == before
    (tmp_path / "l").symlink_to("a")  # another folder of the model
    assert digest(tree(tmp_path).files) != before


@pytest.mark.parametrize("name", ["run.txt", "run"])
def test_l5_an_entry_is_python_or_a_shell_script(name: str, tmp_path: Path) -> None:
    made(tmp_path, name, "run.sh")
    with pytest.raises(InvalidRequest, match=r"is neither a \.py nor a \.sh file"):
        source(TrainingJob(source=str(tmp_path), entry=name))
    job = TrainingJob(source=str(tmp_path), entry="run.sh", resources=Resources(nproc=2))
    with pytest.raises(InvalidRequest, match=r"nproc=2 needs a Python script"):
        source(job)
