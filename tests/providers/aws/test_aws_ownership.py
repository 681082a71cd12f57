"""Destroy and its kin against accounts and regions in which colleagues have resources of the same
names: nothing of theirs is touched, and nothing of ours is called removed while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from support import ownership

from cloudai import Client, Conflict, Deployment

REGIONS = ("us-east-1", "eu-west-1")
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
    return ownership.deployment(tmp_path, framework="pytorch==2.6")


class Place(ownership.World):
    """A region of an account."""

    def __init__(self, world: World, region: str, mark: str) -> None:
        self.world, self.account, self.region, self.mark = world, world.account, region, mark

    def env(self) -> dict[str, str]:
        return {
            "AWS_DEFAULT_REGION": self.region,
            "CLOUDAI_AWS_ENDPOINT_URL": self.world.url,
            "CLOUDAI_AWS_ROLE": f"arn:aws:iam::{self.account}:role/jobs",
            "CLOUDAI_AWS_BUCKET": f"b-{self.region}",
        }

    def client(self, plain: bool) -> Client:
        if not plain:
            return self.world.client(self.region)
        made = Client(provider="aws")
        made.endpoints._bound.where()  # its session is made here
        return made

    def endpoints(self) -> set[str]:
        return self.world.endpoints(self.region)

    def rest(self) -> list[str]:
        models, configs, _ = self.world.all_of(self.region)
        return [*(f"model {one}" for one in models), *(f"config {one}" for one in configs)]

    def theirs(self, name: str) -> list[str]:
        theirs(self.world, self.region, name)
        return [f"model {name}", f"config {name}"]

    def remove_theirs(self, name: str) -> None:
        remove_theirs(self.world, self.region, name)


def test_o1_o2_random_sequences_touch_nothing_of_others(
    worlds: list[World], spec: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts in two regions, each behind an emulator and in what stands for AWS."""
    real = [world.url for world in worlds[2:]]
    ownership.vendors_own(monkeypatch, real)
    places = [
        Place(world, region, "" if world.url in real else world.url)
        for world in worlds
        for region in REGIONS
    ]
    ownership.random_courses(list(places), spec, 3)


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
