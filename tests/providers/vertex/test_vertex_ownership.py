"""Whose an endpoint is on Vertex AI: two projects in two regions, an emulator and a second one in
the cloud's stead."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import ownership

from cloudai import Client, Conflict
from cloudai.testing.emulators.vertex import VertexEmulator

PROJECTS = ("project-one", "project-two")
REGIONS = ("us-central1", "europe-west4")


class Place(ownership.World):
    """A region of a project."""

    def __init__(self, cloud: VertexEmulator, mark: str) -> None:
        self.cloud, self.mark = cloud, mark
        self.account, self.region = cloud.project, cloud.location
        self.parent = f"projects/{cloud.project}/locations/{cloud.location}"

    def env(self) -> dict[str, str]:
        return {**self.cloud.env, "CLOUDAI_BUCKET": self.cloud.bucket}

    def client(self, plain: bool) -> Client:
        about = {} if plain else self.cloud.keys()
        made = Client(provider="vertex", **about)
        made.endpoints._bound.where()
        return made

    def endpoints(self) -> set[str]:
        return {name.rpartition("/")[2] for name in self.cloud.serving.endpoints}

    def rest(self) -> list[str]:
        objects = self.cloud.storage.buckets[self.cloud.bucket].objects
        return [*self.cloud.serving.models, *objects]

    def theirs(self, name: str) -> list[str]:
        """As another program made it: no label of ours."""
        model, file = f"{self.parent}/models/{name}", f"cloudai/endpoints/{name}/theirs.txt"
        self.cloud.serving.models[model] = {"name": model, "displayName": name}
        self.cloud.serving.endpoints[f"{self.parent}/endpoints/{name}"] = {
            "name": f"{self.parent}/endpoints/{name}", "displayName": name, "etag": "1",
            "deployedModels": [], "trafficSplit": {},
        }  # fmt: skip
        self.cloud.storage.put(f"gs://{self.cloud.bucket}/{file}", b"theirs")
        return [model, file]

    def remove_theirs(self, name: str) -> None:
        del self.cloud.serving.models[f"{self.parent}/models/{name}"]
        del self.cloud.serving.endpoints[f"{self.parent}/endpoints/{name}"]
        objects = self.cloud.storage.buckets[self.cloud.bucket].objects
        del objects[f"cloudai/endpoints/{name}/theirs.txt"]


@pytest.fixture(scope="module")
def emulators() -> Generator[list[VertexEmulator]]:
    """The first four behind their addresses, the rest in Google Cloud's stead."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(VertexEmulator(speed=1000.0, project=project, location=region))
            for _ in range(2)
            for project in PROJECTS
            for region in REGIONS
        ]


def test_o1_o2_random_sequences_touch_nothing_of_others(
    emulators: list[VertexEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = emulators[4:]
    ownership.vendors_own(monkeypatch, [one.url for one in real])
    places = [Place(one, "" if one in real else one.url) for one in emulators]
    ownership.random_courses(list(places), ownership.deployment(tmp_path), 3)


def test_o1_what_is_not_ours_is_left_alone(
    emulators: list[VertexEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(emulators[1], emulators[1].url)
    for name, value in place.env().items():
        monkeypatch.setenv(name, value)
    client = place.client(plain=False)
    kept = place.theirs("prod-chat")
    for act in ("delete", "update"):
        endpoint = client.endpoints.attach(f"{place.parent}/endpoints/prod-chat")
        with pytest.raises(Conflict, match="carries no tag of cloudai"):
            endpoint.delete() if act == "delete" else endpoint.update(
                ownership.deployment(tmp_path / act)
            )
    assert set(kept) <= set(place.rest())
    place.remove_theirs("prod-chat")
