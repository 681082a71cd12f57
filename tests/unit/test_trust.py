"""K6, K7: what a found cloudai.toml, and a handle, may say by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloudai
from cloudai._core.profiles import trust
from cloudai._core.profiles.config import Config
from cloudai.errors import ConfigError

ORDINARY = """default = "a"
[profiles.a]
provider = "azure"
endpoint = "https://acme.openai.azure.com"
api_key = { env = "KEY" }
[profiles.vault]
provider = "azure"
endpoint = "http://127.0.0.1:4000"
api_key = { keyvault = "https://acme.vault.azure.net", secret = "key" }
[profiles.inside]
provider = "azure"
endpoint = "https://acme.openai.azure.us"
api_key = { file = "secrets/key" }
[profiles.b]
provider = "aws"
region = "eu-west-1"
[profiles.c]
provider = "vertex"
endpoint = "https://europe-west4-aiplatform.googleapis.com"
[profiles.d]
provider = "fake"
home = "state"
script = "script.toml"
[profiles.d.models]
smart = "any"
"""

CARRIES_OFF = {
    "azure": [
        'endpoint = "https://evil.example"',
        # Anybody may have a server below these.
        'endpoint = "https://vm.westeurope.cloudapp.azure.com"',
        'endpoint = "https://openai.azure.com.evil.example"',
        'endpoint = "https://acme.openai.azure.com@evil.example"',
        'management_endpoint = "https://evil.example"',
        'api_key = { file = "~/.ssh/id_rsa" }',
        'api_key = { file = "../outside" }',
        'api_key = { keyvault = "https://evil.example", secret = "x" }',
        'home = "here"',
    ],
    "aws": [
        'endpoint_url = "https://evil.example"',
        'endpoint_url = "http://x-1.us-east-1.elb.amazonaws.com"',
        'endpoint_url = "https://evil.s3.us-east-1.amazonaws.com"',
    ],
    "vertex": ['endpoint = "https://evil.run.app"', 'credentials = "account.json"'],
    "local": ['home = "prepared"'],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CLOUDAI_HOME", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project" / "cloudai.toml"


def test_k6_an_ordinary_file_works_without_a_word(project: Path) -> None:
    project.write_text(ORDINARY)
    config = Config()
    for name in config.profiles:
        config.profile(name)


@pytest.mark.parametrize(
    ("provider", "line"), [(name, line) for name, lines in CARRIES_OFF.items() for line in lines]
)
def test_k6_what_could_carry_something_off_needs_the_owners_word(
    project: Path, provider: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_text(f'[profiles.one]\nprovider = "{provider}"\n\n{line}\n')
    with pytest.raises(ConfigError) as caught:
        Config().profile("one")
    assert "line 4" in caught.value.message
    assert f"cloudai trust {project}" in str(caught.value)
    Config(project).profile("one")  # it was named
    with monkeypatch.context() as patch:
        patch.setenv("CLOUDAI_TRUST", "1")
        Config().profile("one")
    key = line.partition(" ")[0]
    if key != "api_key":
        Config().profile("one", **{key: "http://localhost:1"})  # an argument goes before it
    trust.trust(project)
    Config().profile("one")
    project.write_text(project.read_text() + "# changed\n")
    with pytest.raises(ConfigError, match="cloudai trust"):
        Config().profile("one")


def test_k6_another_profile_of_the_file_still_works(project: Path) -> None:
    project.write_text('[profiles.bad]\nprovider = "local"\nhome = "x"\n[profiles.fake]\n')
    Config().profile("fake")


def test_k6_the_users_own_file_has_his_word(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "cloudai" / "cloudai.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[profiles.one]\nprovider = "local"\nhome = "x"\n')
    Config().profile("one")


@pytest.mark.parametrize(
    "uri",
    [
        "cloudai://azure/training/x?endpoint=https%3A%2F%2Fevil.example",
        "cloudai://azure/training/x?endpoint=https%3A%2F%2Fother.openai.azure.com",
        "cloudai://azure/endpoint/x?management_endpoint=https%3A%2F%2Fevil.example",
        "cloudai://aws/training/x?endpoint_url=https%3A%2F%2Fevil.example",
        "cloudai://vertex/training/x?endpoint=https%3A%2F%2Fevil.example",
        "cloudai://local/training/x?home=%2Ftmp%2Fprepared",
    ],
)
def test_k7_a_handle_never_says_where_credentials_go(uri: str) -> None:
    with pytest.raises(ConfigError, match="A handle never says where credentials go"):
        cloudai.Client("fake").attach(uri)


def test_k7_a_handle_that_agrees_with_the_profile_is_followed(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    source = tmp_path / "s"
    source.mkdir()
    (source / "train.py").write_text("")
    client = cloudai.Client(provider="fake", home=home)
    job = client.training.submit(cloudai.TrainingJob(source=str(source), entry="train.py"))
    assert cloudai.Client(provider="fake", home=home).attach(job.id).id == job.id
