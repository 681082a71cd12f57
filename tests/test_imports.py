"""What an import costs: no SDK, no torch, no network, and every extra has its row."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cloudai._core.profiles import registry

ROOT = Path(__file__).parent.parent
HEAVY = {
    "aiohttp", "azure", "boto3", "botocore", "google", "httpx", "httpx2", "moto", "msal",
    "numpy", "openai", "pydantic", "requests", "rich", "sagemaker", "sklearn", "starlette",
    "tokenizers", "torch", "transformers", "urllib3", "uvicorn",
}  # fmt: skip


def loaded(code: str) -> set[str]:
    """The top-level packages that a fresh process has loaded after ``code``; a socket that it
    opens fails the test."""
    guard = (
        "import sys, json\n"
        "def hook(event, args):\n"
        "    if event.startswith('socket.') and event != 'socket.__new__':\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(hook)\n"
        "before = set(sys.modules)  # what the interpreter's own start-up brought\n"
    )
    tail = (
        "\nloaded = {name.partition('.')[0] for name in set(sys.modules) - before}"
        "\nprint(json.dumps(sorted(loaded)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", guard + code + tail], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_cloudai_loads_nothing_heavy() -> None:
    found = loaded("import cloudai")
    assert not found & (HEAVY | {"asyncio", "msgspec", "sqlite3", "typer"})


def test_a_client_loads_nothing_heavy() -> None:
    assert not loaded("import cloudai; cloudai.Client()") & HEAVY


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_provider_is_described_without_its_sdk(name: str) -> None:
    code = f"from cloudai._core.profiles import registry; registry.spec({name!r})"
    assert not loaded(code) & HEAVY


def test_the_command_line_begins_light() -> None:
    assert not loaded("import cloudai.cli") & HEAVY


def test_every_public_name_can_be_had() -> None:
    import cloudai

    for name in dir(cloudai):
        getattr(cloudai, name)
    with pytest.raises(AttributeError):
        _ = cloudai.no_such_name


def test_every_extra_has_a_row_and_every_row_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    rows = {row.extra for row in registry.BUILT_IN.values() if row.extra}
    parts = {extra for name in registry.BUILT_IN for extra in registry.spec(name).extras.values()}
    assert rows | parts <= extras
    # What is no provider's whole: the server, the emulators, spans; and the smaller or heavier
    # part of one (chat on AWS alone; Azure ML, which a profile's `workspace` chooses; adapters).
    assert extras - rows - parts <= {
        "all",
        "server",
        "testing",
        "otel",
        "bedrock",
        "azureml",
        "peft",
    }


def test_the_adapters_that_are_advertised_exist() -> None:
    for name in registry.BUILT_IN:
        spec = registry.spec(name)
        assert set(spec.capabilities) <= set(registry.CAPABILITIES)
        for capability, path in spec.capabilities.items():
            module = path.partition(":")[0].replace(".", "/")
            there = (ROOT / f"{module}.py").exists() or (ROOT / module / "__init__.py").exists()
            assert there, f"{name}: {capability} is advertised and {path} is missing"
