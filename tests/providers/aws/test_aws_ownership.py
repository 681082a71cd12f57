"""Destroy and its kin against accounts and regions in which colleagues have resources of the same
names: nothing of theirs is touched, and nothing of ours is called removed while it runs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from botocore.exceptions import ClientError

from cloudai import Client, Conflict, Deployment, NotFound, Variant

REGIONS = ("us-east-1", "eu-west-1")
NAMES = ("prod-chat", "search")
SERVER = """
import sys
from cloudai.testing.emulators.aws import AwsEmulator
with AwsEmulator() as made:
    print(made.url, flush=True)
    sys.stdin.read()
"""


class World:
    """An account behind an address of its own: an emulator's, or one that stands for AWS."""

    def __init__(self, account: str, url: str) -> None:
        self.account, self.url = account, url

    def boto(self, region: str) -> Any:
        return boto3.client("sagemaker", region_name=region, endpoint_url=self.url)

    def plain(self, region: str) -> Client:
        """One that is told by the environment alone where it works, so that its handles are the
        same everywhere."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_DEFAULT_REGION", region)
            patch.setenv("CLOUDAI_AWS_ENDPOINT_URL", self.url)
            patch.setenv("CLOUDAI_AWS_ROLE", f"arn:aws:iam::{self.account}:role/jobs")
            patch.setenv("CLOUDAI_AWS_BUCKET", f"b-{region}")
            made = Client(provider="aws")
            made.endpoints._bound.where()  # its session is made here
        return made

    def client(self, region: str) -> Client:
        return Client(
            provider="aws",
            region=region,
            endpoint_url=self.url,
            role=f"arn:aws:iam::{self.account}:role/jobs",
            bucket=f"b-{region}",
        )

    def endpoints(self, region: str) -> set[str]:
        found = self.boto(region).list_endpoints()["Endpoints"]
        return {one["EndpointName"] for one in found}

    def all_of(self, region: str) -> tuple[list[str], ...]:
        """The names of models, configs and endpoints."""
        boto = self.boto(region)
        rows = (
            boto.list_models()["Models"],
            boto.list_endpoint_configs()["EndpointConfigs"],
            boto.list_endpoints()["Endpoints"],
        )
        fields = ("ModelName", "EndpointConfigName", "EndpointName")
        return tuple(
            sorted(str(row[field]) for row in some)
            for some, field in zip(rows, fields, strict=True)
        )


@pytest.fixture(scope="module")
def worlds() -> Generator[list[World]]:
    """Two accounts × an emulator and a second one in the cloud's stead."""
    accounts = ("111111111111", "222222222222") * 2
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "x")
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SERVER],
                    env={**os.environ, "MOTO_ACCOUNT_ID": account},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for account in accounts
        ]
        made: list[World] = []
        for account, process in zip(accounts, started, strict=True):
            assert process.stdout is not None
            made.append(World(account, process.stdout.readline().strip()))
            for region in REGIONS:
                where = {"LocationConstraint": region} if region != "us-east-1" else None
                about = {"CreateBucketConfiguration": where} if where else {}
                boto3.client("s3", region_name=region, endpoint_url=made[-1].url).create_bucket(
                    Bucket=f"b-{region}", **about
                )
        yield made
        for process in started:
            process.kill()


def theirs(world: World, region: str, name: str) -> None:
    """A colleague's endpoint, made with boto3."""
    boto = world.boto(region)
    image = f"{world.account}.dkr.ecr.{region}.amazonaws.com/theirs:1"
    role = f"arn:aws:iam::{world.account}:role/theirs"
    boto.create_model(ModelName=name, PrimaryContainer={"Image": image}, ExecutionRoleArn=role)
    variant = {
        "VariantName": "main",
        "ModelName": name,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.xlarge",
    }
    boto.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    boto.create_endpoint(EndpointName=name, EndpointConfigName=name)


def remove_theirs(world: World, region: str, name: str) -> None:
    boto = world.boto(region)
    boto.delete_endpoint(EndpointName=name)
    boto.delete_endpoint_config(EndpointConfigName=name)
    boto.delete_model(ModelName=name)


@pytest.fixture
def spec(tmp_path: Path) -> Deployment:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "handler.py").write_text("def load(p): ...\ndef predict(m, i, p): return i\n")
    return Deployment(
        name="prod-chat", framework="pytorch==2.6", variants=(Variant(model=str(folder)),)
    )


class Course:
    """One random sequence, with what is true beside it."""

    def __init__(self, worlds: list[World], spec: Deployment, dice: random.Random) -> None:
        self.places = [(world, region) for world in worlds for region in REGIONS]
        self.plain = dice.random() < 0.7
        self.clients = {
            place: place[0].plain(place[1]) if self.plain else place[0].client(place[1])
            for place in self.places
        }
        self.spec, self.dice = spec, dice
        self.ours: dict[tuple[World, str, str], str] = {}
        self.theirs: dict[tuple[World, str, str], tuple[list[str], ...]] = {}

    def step(self) -> None:
        world, region = place = self.dice.choice(self.places)
        name = self.dice.choice(NAMES)
        spot = (world, region, name)
        taken = spot in self.ours or spot in self.theirs
        choice = self.dice.choice(["ours", "ours", "theirs", "destroy", "all", "uri", "ls"])
        client = self.clients[place]
        if choice == "ours":
            try:
                made = client.endpoints.deploy(msgspec.structs.replace(self.spec, name=name))
            except Conflict:
                assert taken
            else:
                assert not taken
                self.ours[spot] = made.id
        elif choice == "theirs" and not taken:
            theirs(world, region, name)
            self.theirs[spot] = ([name], [name], [name])
        elif choice in {"destroy", "all"}:
            rows = client.resources()
            if choice == "destroy" and rows:
                rows = [self.dice.choice(rows)]
            for row in rows:
                lies = self.spot(row)
                elsewhere = self.plain and lies[:2] != place
                try:
                    client.destroy(row)
                except Conflict:
                    assert elsewhere, "ours was refused"
                else:
                    assert not elsewhere
                    self.removed(lies)
        elif choice == "uri":
            uri = client.endpoints._bound.uri("endpoint", name)
            try:
                client.destroy(uri)
            except Conflict:
                assert spot not in self.ours
            else:
                if spot in self.ours:
                    self.removed(spot)
        elif choice == "ls":
            for row in client.resources():
                try:
                    client.attach(str(row.uri))
                except Conflict:
                    assert self.plain
                except NotFound:
                    pytest.fail(f"{row.uri} was called gone")

    def spot(self, row: Any) -> tuple[World, str, str]:
        (world,) = {world for world, _ in self.places if world.url == row.lies.emulator}
        assert row.lies.account == world.account
        return world, row.lies.region, row.name

    def removed(self, spot: tuple[World, str, str]) -> None:
        """What was called removed is gone, from the place that it was made in."""
        assert self.ours.pop(spot, None) is not None, "what was not there"
        assert spot[2] not in spot[0].endpoints(spot[1])

    def check(self) -> None:
        for world, region in self.places:
            there = world.all_of(region)
            for (other, where, name), kept in self.theirs.items():
                if (other, where) == (world, region):
                    for some, wanted in zip(there, kept, strict=True):
                        assert set(wanted) <= set(some), f"theirs was touched: {name}"
            wanted = {
                name
                for (other, where, name) in (*self.ours, *self.theirs)
                if (other, where) == (world, region)
            }
            assert set(there[2]) == wanted

    def end(self) -> None:
        for (world, region, _), uri in list(self.ours.items()):
            self.clients[(world, region)].destroy(uri)
        assert not self.clients[self.places[0]].resources()
        for world, region, name in self.theirs:
            remove_theirs(world, region, name)
        for world, region in self.places:
            assert world.all_of(region) == ([], [], []), "something was left over"
            self.clients[(world, region)].close()


def test_o1_o2_random_sequences_touch_nothing_of_others(
    worlds: list[World], spec: Deployment
) -> None:
    """SEQUENCES=1000 runs the whole."""
    for seed in range(int(os.environ.get("SEQUENCES", "3"))):
        course = Course(worlds, spec, random.Random(seed))
        for _ in range(10):
            course.step()
        course.check()
        course.end()
        if "SEQUENCES" in os.environ:
            print(f"sequence {seed} held", file=sys.__stderr__, flush=True)


def test_o1_a_name_in_another_account_is_left_alone(
    worlds: list[World], spec: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = worlds[0], worlds[1]
    made = here.plain("us-east-1").endpoints.deploy(spec)
    theirs(other, "us-east-1", "prod-chat")
    client = other.plain("us-east-1")
    (row,) = client.resources()
    with pytest.raises(Conflict, match="account 111111111111") as caught:
        client.destroy(row)
    assert "account 222222222222" in str(caught.value)
    assert "prod-chat" in other.endpoints("us-east-1")
    # By its name alone too, also from a ledger that knows of none: it carries no tag of ours.
    monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "another"))
    stranger = other.plain("us-east-1")
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        stranger.endpoints.attach("prod-chat").delete()
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        stranger.endpoints.attach("prod-chat").update(spec)
    assert other.all_of("us-east-1") == (["prod-chat"],) * 3
    # Forced by its name, and then the endpoint alone: its config and model carry no tag either.
    client.destroy(made.id, force=True)
    assert len(client.resources()) == 1, "the row is of the other account"
    assert other.all_of("us-east-1") == (["prod-chat"], ["prod-chat"], [])
    for delete, field in (
        ("delete_endpoint_config", "EndpointConfigName"),
        ("delete_model", "ModelName"),
    ):
        getattr(other.boto("us-east-1"), delete)(**{field: "prod-chat"})
    here.plain("us-east-1").destroy(made.id)
    assert here.all_of("us-east-1") == ([], [], [])


def test_o2_another_region_is_never_called_removed(
    worlds: list[World], spec: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region comes from the environment, so that the handle says none."""
    world = worlds[0]

    def client() -> Client:
        return Client(
            provider="aws",
            endpoint_url=world.url,
            role=f"arn:aws:iam::{world.account}:role/jobs",
        )

    monkeypatch.setenv("CLOUDAI_AWS_BUCKET", "b-us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client().endpoints.deploy(spec)
    (row,) = client().resources()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("CLOUDAI_AWS_BUCKET", "b-eu-west-1")
    with pytest.raises(Conflict, match="region us-east-1"):
        client().destroy(row)
    with pytest.raises(Conflict, match="region us-east-1"):
        client().attach(str(row.uri))
    assert world.endpoints("us-east-1") == {"prod-chat"}
    # The same name in both regions: one handle, two rows, and each is found where it lies.
    client().endpoints.deploy(spec)
    rows = client().resources()
    assert [row.lies.region for row in rows if row.lies] == ["us-east-1", "eu-west-1"]
    client().attach(str(row.uri)).delete()
    assert world.endpoints("eu-west-1") == set()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("CLOUDAI_AWS_BUCKET", "b-us-east-1")
    client().destroy(row)
    assert client().resources() == []


def test_o3_o4_what_is_lost_is_found_by_its_tag_and_taken_back(
    worlds: list[World], spec: Deployment
) -> None:
    client = worlds[2].client("eu-west-1")
    made = client.endpoints.deploy(spec)
    (row,) = client.resources()
    client.forget(row)
    assert client.resources() == []
    assert [(one.uri, one.name) for one in client.lost()] == [(made.id, "prod-chat")]
    assert client.hourly(made.id) == pytest.approx(0.23)
    taken = client.adopt(made.id)
    assert (taken.key, taken.lies) == (row.key, row.lies)
    assert client.lost() == []
    client.destroy(taken)
    assert client.resources() == []
    theirs(worlds[2], "eu-west-1", "search")
    with pytest.raises(Conflict, match="carries no tag of cloudai"):
        client.adopt(client.endpoints._bound.uri("endpoint", "search"))
    remove_theirs(worlds[2], "eu-west-1", "search")


def test_o1_the_tag_is_the_one_that_botocore_reads(worlds: list[World], spec: Deployment) -> None:
    """What AWS's own SDK gives as the tags of the endpoint, its config and its models."""
    client = worlds[3].client("us-east-1")
    made = client.endpoints.deploy(spec)
    (row,) = client.resources()
    boto = worlds[3].boto("us-east-1")
    arns = [
        boto.describe_endpoint(EndpointName="prod-chat")["EndpointArn"],
        boto.list_endpoint_configs()["EndpointConfigs"][0]["EndpointConfigArn"],
        boto.list_models()["Models"][0]["ModelArn"],
    ]
    for arn in arns:
        tags = {tag["Key"]: tag["Value"] for tag in boto.list_tags(ResourceArn=arn)["Tags"]}
        assert tags["cloudai:key"] == row.key
        assert f":{worlds[3].account}:" in arn
    made.delete()
    with pytest.raises(ClientError):
        boto.describe_endpoint(EndpointName="prod-chat")
