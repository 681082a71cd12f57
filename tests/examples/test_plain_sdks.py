"""Programs that know nothing of cloudai, pointed at the emulators by the printed environment."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "plain_sdks"
NEEDS = {
    "aws": ("boto3", "moto"),
    "azure": ("openai", "werkzeug", "cryptography"),
    "vertex": ("google.genai", "google.cloud.storage", "werkzeug"),
}


def there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def run(cloud: str, program: str, tmp_path: Path, *options: str) -> str:
    """What the program prints, in an environment that ``cloudai emulate`` has printed."""
    missing = [name for name in NEEDS[cloud] if not there(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    text = (FOLDER / program).read_text()
    assert not re.search(r"^\s*(import|from) cloudai", text, re.MULTILINE)
    command = [sys.executable, "-m", "cloudai.cli", "emulate", cloud, "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            told: dict[str, Any] = json.loads(emulator.stdout.readline())
            env = {k: v for k, v in os.environ.items() if k not in told["unset"]}
            done = subprocess.run(
                [sys.executable, str(FOLDER / program)],
                env={**env, **told["environment"]}, cwd=tmp_path, capture_output=True, text=True,
                timeout=240,
            )  # fmt: skip
        finally:
            emulator.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def models() -> None:
    """Skips where the local models are not."""
    pytest.importorskip("transformers")
    from cloudai.engine import catalog
    from cloudai.errors import ConfigError

    try:
        catalog.find("chat", "", home=Path("nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))


def test_boto3(models: None, tmp_path: Path) -> None:
    said = run("aws", "boto3_program.py", tmp_path, "--execute", "--speed", "5")
    assert said.count("Paris") == 2
    assert "embedding: 512 numbers" in said
    assert "log: step=600 loss=0.000000" in said
    assert "endpoint: [1.0, 3.0, 21.0]" in said
    assert "batch a: [5.0, 7.0]\nbatch b: [9.0]" in said


def test_openai(tmp_path: Path) -> None:
    said = run("azure", "openai_program.py", tmp_path, "--speed", "20")
    for client in ("AzureOpenAI", "OpenAI"):
        assert f"\n{client} chat: What is the capital of France?" in f"\n{said}"
        assert f"{client} embeddings: [1536, 1536]" in said
    assert "tool: weather ['city']" in said
    assert "batch: ['line-0', 'line-1', 'line-2']" in said
    assert "tuned: gpt-4.1-nano-2025-04-14" in said


def test_genai(tmp_path: Path) -> None:
    said = run("vertex", "genai_program.py", tmp_path, "--speed", "20")
    for way in ("Gemini API", "Vertex AI"):
        assert f"{way} chat: What is the capital of France?" in said
        assert f"{way} structured: ['city']" in said
        assert f"{way} embeddings: [768, 768]" in said
    assert "batch: JOB_STATE_SUCCEEDED 3 answers" in said
