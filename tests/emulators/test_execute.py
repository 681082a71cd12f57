"""Emulators that run: the local models answer, and scripts of the vendors' own contracts train."""

from __future__ import annotations

from pathlib import Path

import pytest

import cloudai
from cloudai.testing import EmulatedCloud

for name in ("torch", "transformers", "moto", "openai", "google.genai"):
    pytest.importorskip(name)

CHAT = {
    "aws": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure": "gpt-4o",
    "vertex": "gemini-2.5-flash",
}
EMBED = {
    "aws": ("cohere.embed-v4:0", 1024),
    "azure": ("text-embedding-3-small", 1536),
    "vertex": ("text-embedding-005", 768),
}
pytestmark = [pytest.mark.cloudai_emulated(execute=True)]


@pytest.fixture(scope="session", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The embedded chat model, converted at most once."""
    from cloudai.errors import ConfigError
    from cloudai.providers.local import _convert, _models
    from cloudai.testing.emulators._models import shared

    try:
        found = _models.find("chat", "", home=Path("nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))
    local = shared()
    if not _convert.ready(found.key, local._home / "models"):
        local._home = tmp_path_factory.mktemp("models")


@pytest.fixture(params=list(CHAT))
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


def test_the_local_models_answer(cloud: EmulatedCloud) -> None:
    client = cloudai.Client(cloud.name)
    model = CHAT[cloud.name]
    reply = client.chat.create("What is the capital of France?", model=model, temperature=0)
    assert "Paris" in reply.text
    assert 5 < reply.usage.output_tokens < 40
    pieces = list(client.chat.stream("What is the capital of Italy?", model=model, temperature=0))
    assert "Rome" in "".join(piece.text for piece in pieces)
    assert sum(bool(piece.text) for piece in pieces) > 3
    name, size = EMBED[cloud.name]
    array = client.embeddings.create(["a cat", "a kitten", "interest rates"], model=name).array
    assert array.shape == (3, size)
    near, far = array[0] @ array[1], array[0] @ array[2]
    assert near > 0.6 > 0.3 > far
