"""Profiles: the order of their origins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudai import Client, ConfigError, Secret
from cloudai._core.profiles.config import Config, find

TOML = """
default = "dev"
[profiles.dev]
provider = "fake"
home = "state"
fallback = ["other"]
[profiles.dev.models]
smart = "big-model"
[profiles.dev.capabilities]
training = "other"
[profiles.other]
provider = "fake"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloudai.toml"
    path.write_text(TOML)
    return path


def test_the_nearest_file_in_a_parent_folder_is_taken(file: Path) -> None:
    deep = file.parent / "a" / "b"
    deep.mkdir(parents=True)
    assert find(deep) == file
    (deep.parent / "cloudai.toml").write_text("")
    assert find(deep) == deep.parent / "cloudai.toml"


def test_without_any_configuration_it_is_the_local_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = Config(start=tmp_path)
    assert config.file is None
    assert config.profile().provider == "local"


def test_arguments_go_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDAI_HOME", raising=False)
    assert Config(file).profile("dev").home == file.parent / "state"
    monkeypatch.setenv("CLOUDAI_HOME", str(file.parent / "env"))
    assert Config(file).profile("dev").home == file.parent / "env"
    assert Config(file).profile("dev", home=str(file.parent / "arg")).home == file.parent / "arg"


def test_one_environment_describes_several_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDAI_PROFILE", "aws")  # chooses; it is not aws's key `profile`
    monkeypatch.setenv("CLOUDAI_BUCKET", "both")
    monkeypatch.setenv("CLOUDAI_VERTEX_BUCKET", "of-vertex")
    config = Config(start=tmp_path)
    assert config.profile().get("profile") is None
    assert config.profile().get("bucket") == "both"
    assert config.profile("vertex").get("bucket") == "of-vertex"
    assert config.profile(provider="vertex", bucket="given").get("bucket") == "given"
    monkeypatch.setenv("CLOUDAI_AWS_PROFILE", "sso")
    assert Config(start=tmp_path).profile("aws").get("profile") == "sso"


def test_the_environment_picks_the_profile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config(file).profile().name == "dev"
    monkeypatch.setenv("CLOUDAI_PROFILE", "other")
    assert Config(file).profile().name == "other"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[profiles.x]\nprovider = "fake"\nmodles = {}', "Did you mean 'models'"),
        ('[profiles.x]\nprovider = "fkae"', "Did you mean 'fake'"),
        ('[profiles.x]\nprovider = "fake"\ntimeout = "soon"', "timeout='soon'"),
        ('[profiles.x]\nprovider = "fake"\nretries = -1', "retries=-1"),
        ('[profiles.x]\nprovider = "fake"\nmodels = { smart = 3 }', "table of texts"),
        ('[profiles.x]\nprovider = "fake"\ncapabilities = { trainign = "y" }', "'training'"),
        ("[profiles]\nx = 3", "not a table"),
        ('profile = "x"', "Did you mean 'profiles'"),
        ("[profiles.x", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, toml: str, message: str) -> None:
    path = tmp_path / "cloudai.toml"
    path.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        Config(path).profile("x")
    assert message in str(caught.value)


def test_an_unknown_profile_names_the_nearest(file: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'other'"):
        Config(file).profile("othre")


def test_a_profile_and_another_provider_do_not_go_together(file: Path) -> None:
    with pytest.raises(ConfigError, match="is for the provider 'fake'"):
        Config(file).profile("dev", provider="local")


def test_logical_models_and_the_default(file: Path) -> None:
    profile = Config(file).profile("dev")
    assert profile.model("smart") == "big-model"
    assert profile.model("vendor/own-name") == "vendor/own-name"
    assert profile.model(None) == ""


def test_a_capability_may_live_elsewhere(file: Path) -> None:
    client = Client("dev", config=file)
    assert client._runtime.binding("training").profile.name == "other"
    assert client._runtime.binding("chat").profile.name == "dev"


def test_a_secret_in_the_file_itself_is_refused_without_being_shown() -> None:
    from cloudai._core.profiles.registry import Key, ProviderSpec

    config = Config()
    spec = ProviderSpec(
        name="x", title="x", keys=(Key(name="api_key", doc="the key", kind="secret"),)
    )
    with pytest.raises(ConfigError) as caught:
        config._value(spec, "api_key", "sk-canary", "cloudai.toml")
    assert "sk-canary" not in repr(caught.value) + str(caught.value)
    assert isinstance(config._value(spec, "api_key", "sk-canary", "arguments"), Secret)


def test_handles_carry_the_explicit_keys_that_identify_the_place(tmp_path: Path) -> None:
    client = Client(provider="fake", home=str(tmp_path))
    bound = client._runtime.binding("training")
    uri = bound.uri("training", "projects/1/jobs/2")
    assert uri.startswith("cloudai://fake/training/projects%2F1%2Fjobs%2F2?home=")
    found, kind, native = Client(provider="fake")._runtime.locate(uri)
    assert (kind, native) == ("training", "projects/1/jobs/2")
    assert found.profile.home == tmp_path


@pytest.mark.parametrize(
    "uri", ["http://x/training/1", "cloudai://fake/training", "cloudai:///training/1", "nothing"]
)
def test_what_is_no_handle_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="is not a handle"):
        Client(provider="fake")._runtime.locate(uri)
