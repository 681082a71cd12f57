"""Whose an endpoint is on Azure: two subscriptions of two tenants, two workspaces, an emulator and
a second one in the cloud's stead."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import ownership

from cloudai import Client, Conflict
from cloudai.errors import InvalidRequest
from cloudai.testing.emulators.azure import AzureEmulator

ACCOUNTS = {
    "aaaaaaaa-0000-0000-0000-000000000001": "11111111-0000-0000-0000-00000000000a",
    "bbbbbbbb-0000-0000-0000-000000000002": "22222222-0000-0000-0000-00000000000b",
}
WORKSPACES = {"lab-east": "eastus", "lab-west": "westeurope"}


class Place(ownership.World):
    """A workspace of a subscription."""

    def __init__(self, azure: AzureEmulator, mark: str) -> None:
        self.azure, self.mark = azure, mark
        about = azure.keys()
        self.account = f"{about['subscription']}/{about['resource_group']}"
        self.region = about["workspace"]
        self.ml = azure.cloud_state.ml

    def env(self) -> dict[str, str]:
        about = self.azure.keys()
        keys = {f"CLOUDAI_{name.upper()}": str(about[name]) for name in ("workspace", "compute")}
        return {**self.azure.env, **keys}

    def client(self, plain: bool) -> Client:
        about = {} if plain else self.azure.keys()
        made = Client(provider="azure", **about)
        made.endpoints._bound.where()
        return made

    def _names(self, kind: str) -> list[str]:
        return [key for key in self.ml if key.startswith(kind)]

    def endpoints(self) -> set[str]:
        return {key.split("/")[1] for key in self._names("onlineEndpoints/") if key.count("/") == 1}

    def rest(self) -> list[str]:
        return [key for key in self._names("onlineEndpoints/") if key.count("/") == 3]

    def theirs(self, name: str) -> list[str]:
        """As another program made it: no tag of ours."""
        key, deployment = f"onlineEndpoints/{name}", f"onlineEndpoints/{name}/deployments/blue"
        self.ml[key] = {
            "id": f"{self.azure.cloud_state.workspace_id}/{key}", "name": name,
            "location": "eastus", "tags": {"team": "theirs"},
            "properties": {"authMode": "Key", "scoringUri": "https://x", "traffic": {"blue": 100}},
        }  # fmt: skip
        self.ml[deployment] = {
            "id": f"{self.azure.cloud_state.workspace_id}/{deployment}", "name": "blue",
            "location": "eastus", "tags": {}, "sku": {"name": "Default", "capacity": 1},
            "properties": {"instanceType": "Standard_DS3_v2"},
        }  # fmt: skip
        return [deployment]

    def remove_theirs(self, name: str) -> None:
        for key in [key for key in self.ml if key.split("/")[1] == name]:
            del self.ml[key]


@pytest.fixture(scope="module")
def emulators() -> Generator[list[AzureEmulator]]:
    """The first four behind their addresses, the rest in Azure's stead."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                AzureEmulator(
                    speed=100.0, subscription=subscription, tenant=tenant, workspace=workspace,
                    location=location,
                )
            )
            for _ in range(2)
            for subscription, tenant in ACCOUNTS.items()
            for workspace, location in WORKSPACES.items()
        ]  # fmt: skip


def test_o1_o2_random_sequences_touch_nothing_of_others(
    emulators: list[AzureEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = emulators[4:]
    ownership.vendors_own(monkeypatch, [one.secure_url for one in real])
    places = [Place(one, "" if one in real else one.secure_url) for one in emulators]
    ownership.random_courses(list(places), ownership.deployment(tmp_path), 3)


def test_o1_a_row_says_the_subscription_s_tenant(
    emulators: list[AzureEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Resource Manager tells it ("Subscriptions - Get"), and a change of it is another place."""
    place = Place(emulators[0], emulators[0].secure_url)
    for name, value in place.env().items():
        monkeypatch.setenv(name, value)
    client = place.client(plain=True)
    client.endpoints.deploy(ownership.deployment(tmp_path))
    (row,) = client.resources()
    assert row.lies is not None
    assert row.lies.tenant == ACCOUNTS[place.account.partition("/")[0]]
    assert "tenant 11111111" in str(row.lies)
    elsewhere = msgspec.structs.replace(row.lies, tenant="33333333-0000-0000-0000-00000000000c")
    assert row.lies.differs(elsewhere)
    # What an earlier version noted, or could not learn, is no other place.
    assert not row.lies.differs(msgspec.structs.replace(row.lies, tenant=""))
    client.destroy(row)
    assert place.endpoints() == set()


def test_o1_what_is_not_ours_is_left_alone(
    emulators: list[AzureEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Any = Place(emulators[1], emulators[1].secure_url)
    for name, value in place.env().items():
        monkeypatch.setenv(name, value)
    client = place.client(plain=False)
    place.theirs("prod-chat")
    spec = ownership.deployment(tmp_path)
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        client.endpoints.attach("prod-chat").delete()
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        client.endpoints.attach("prod-chat").update(spec)
    with pytest.raises((Conflict, InvalidRequest)):
        client.adopt(client.endpoints._bound.uri("endpoint", "prod-chat"))
    assert place.endpoints() == {"prod-chat"}
    # Nor is a job of theirs.
    monkeypatch.setitem(
        place.ml, "jobs/theirs",
        {"name": "theirs", "properties": {"status": "Running", "jobType": "Command", "tags": {}}},
    )  # fmt: skip
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        client.training.attach("theirs").delete()
    assert "jobs/theirs" in place.ml
    client.destroy(client.endpoints._bound.uri("endpoint", "prod-chat"), force=True)
    assert place.endpoints() == set()
