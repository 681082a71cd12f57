"""One suite for all clouds: ``pytest examples/every_cloud``. Nothing leaves this machine."""

from __future__ import annotations

import pytest
from assistant import ask, nearest

import cloudai
from cloudai.testing import EmulatedCloud

CHAT = {
    "aws": "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "azure": "gpt-5.1",
    "vertex": "gemini-3.5-flash",
}
EMBED = {
    "aws": "amazon.titan-embed-text-v2:0",
    "azure": "text-embedding-3-small",
    "vertex": "text-embedding-005",
}


@pytest.fixture(params=["aws", "azure", "vertex"])
def cloud(request: pytest.FixtureRequest) -> EmulatedCloud:
    return request.getfixturevalue(f"emulated_{request.param}")


def test_the_tool_is_used(cloud: EmulatedCloud) -> None:
    cloud.reply(tool_calls={"order_state": {"number": "A-17"}}).reply("It is on its way.")
    with cloudai.Client() as client:
        assert ask(client, "Where is A-17?", CHAT[cloud.name]) == "It is on its way."


def test_a_busy_service_is_waited_for(cloud: EmulatedCloud) -> None:
    cloud.reply("too many", error="RateLimited").reply("Hello.")
    with cloudai.Client() as client:
        assert ask(client, "Hello?", CHAT[cloud.name]) == "Hello."


def test_what_is_refused_is_told(cloud: EmulatedCloud) -> None:
    cloud.reply("not for you", error="PermissionDenied")
    with cloudai.Client() as client, pytest.raises(cloudai.errors.PermissionDenied):
        ask(client, "Hello?", CHAT[cloud.name])


def test_the_nearest_text_is_found(cloud: EmulatedCloud) -> None:
    texts = ["how to send a parcel back", "opening hours of the shop"]
    with cloudai.Client() as client:
        found = nearest(client, "when is the shop open", texts, EMBED[cloud.name])
    assert found == texts[1]
