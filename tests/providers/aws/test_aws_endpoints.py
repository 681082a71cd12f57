"""Endpoints on SageMaker: plans, modes, rollouts, scaling, what is left."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from cloudai import AsyncClient, Client, Deployment
from cloudai.errors import (
    Conflict,
    EndpointError,
    HandlerError,
    InvalidRequest,
    StreamTruncated,
    UnsupportedByProvider,
)
from cloudai.testing.emulators.aws import BUCKET, AwsEmulator, ScriptedExecutor
from cloudai.types import Resources, Rollout, SecretRef, State, Variant

HANDLER = "def load(d):\n    return 0\n\n\ndef predict(m, inputs, params):\n    return inputs\n"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w")
    (folder / "handler.py").write_text(HANDLER)
    return str(folder)


def spec(model: str, **about: Any) -> Deployment:
    variants = about.pop("variants", (Variant(model=model),))
    given = {"name": "house", "variants": variants, "framework": "pytorch==2.6", **about}
    return Deployment(**given)


def nothing_left(aws: AwsEmulator) -> bool:
    return aws.cloud_state.left("Model", "EndpointConfig", "Endpoint") == []


def test_what_plan_shows_is_what_is_sent(aws: AwsEmulator, client: Client, model: str) -> None:
    wanted = spec(
        model,
        idempotency_key="k",
        env={"MODE": "fast"},
        tags={"team": "vision"},
        variants=(
            Variant(model=model, name="old", weight=3.0, resources=Resources(
                instance_type="ml.m5.xlarge"), min=1, max=4, target=2.0),
            Variant(model=model, name="new", weight=1.0, resources=Resources(accelerator="L4:1")),
        ),
    )  # fmt: skip
    before = len(aws.requests)
    plan = client.endpoints.plan(wanted)
    assert len(aws.requests) == before, "plan asked somebody"
    assert plan.ok, plan.violations
    client.endpoints.deploy(wanted)
    planned = [r for r in plan.requests if r.operation.startswith("sagemaker:")]
    sent = [
        one
        for one in aws.requests
        if one.operation in {"CreateModel", "CreateEndpointConfig", "CreateEndpoint"}
    ]
    assert [one.body for one in sent] == [json.dumps(r.body).encode() for r in planned]
    golden = Path(__file__).parent / "golden" / "endpoints.json"
    assert [_named(one.json) for one in sent] == json.loads(golden.read_text())


def _named(body: Any) -> Any:
    """The request without digests, which change with the files that are packed."""
    import re

    return json.loads(re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", json.dumps(body)))


def test_scaling_is_set_up_once_in_service(aws: AwsEmulator, client: Client, model: str) -> None:
    variant = Variant(model=model, min=1, max=4, target=2.5)
    endpoint = client.endpoints.deploy(spec(model, variants=(variant,)))
    scaling = boto3.client("application-autoscaling", endpoint_url=aws.url)
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 4)
    assert target["ResourceId"] == "endpoint/house/variant/main"
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 150.0
    endpoint.delete()
    left = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert left == []
    assert nothing_left(aws)


def test_scaling_changes_with_an_update(aws: AwsEmulator, client: Client, model: str) -> None:
    scaling = boto3.client("application-autoscaling", endpoint_url=aws.url)

    def targets() -> dict[str, tuple[int, int]]:
        rows = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        return {row["ResourceId"].rpartition("/")[2]: (row["MinCapacity"], row["MaxCapacity"])
                for row in rows}  # fmt: skip

    two = (
        Variant(model=model, name="a", max=3, target=1.0),
        Variant(model=model, name="b", max=2, target=1.0),
    )
    endpoint = client.endpoints.deploy(spec(model, variants=two))
    assert targets() == {"a": (1, 3), "b": (1, 2)}
    one = (Variant(model=model, name="a", min=2, max=5, target=4.0),)
    endpoint.update(spec(model, variants=one))
    assert targets() == {"a": (2, 5)}
    (sent,) = aws.sent("UpdateEndpoint")
    assert sent.json["RetainAllVariantProperties"] is True
    # Other numbers alone are no update of SageMaker's.
    endpoint.update(spec(model, variants=(Variant(model=model, name="a", min=2, max=7, target=4),)))
    assert targets() == {"a": (2, 7)}
    assert len(aws.sent("UpdateEndpoint")) == 1
    # A rollback brings the former rules back, and another process sets up just these.
    aws.cloud_state.alarms.add("errors-high")
    other = (Variant(model=model, name="a", max=9, target=4.0), Variant(model=model, name="c"))
    with pytest.raises(EndpointError, match="rolled back"):
        rollout = Rollout(kind="canary", alarms=("errors-high",))
        endpoint.update(spec(model, variants=other, rollout=rollout))
    assert endpoint.status.state is State.RUNNING
    assert targets() == {"a": (2, 7)}
    endpoint.update(spec(model, variants=(Variant(model=model, name="a", min=2),), env={"A": "1"}))
    assert targets() == {}
    endpoint.delete()
    assert nothing_left(aws)


def test_an_asynchronous_endpoint_scales_to_zero_by_its_backlog(
    aws: AwsEmulator, client: Client, model: str
) -> None:
    variant = Variant(model=model, min=0, max=4, target=0.5)
    plan = client.endpoints.plan(spec(model, mode="async", variants=(variant,)))
    endpoint = client.endpoints.deploy(spec(model, mode="async", variants=(variant,)))
    scaling = boto3.client("application-autoscaling", endpoint_url=aws.url)
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 4)
    rows = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    tracked, step = sorted(rows, key=lambda row: row["PolicyType"], reverse=True)
    about = tracked["TargetTrackingScalingPolicyConfiguration"]
    assert about["TargetValue"] == 30.0
    assert about["CustomizedMetricSpecification"]["MetricName"] == (
        "ApproximateBacklogSizePerInstance"
    )
    watch = boto3.client("cloudwatch", endpoint_url=aws.url)
    (alarm,) = watch.describe_alarms(AlarmNamePrefix="cloudai-house")["MetricAlarms"]
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert alarm["AlarmActions"] == [step["PolicyARN"]]
    assert plan.requests[-1].body["AlarmName"] == alarm["AlarmName"]
    endpoint.delete()
    assert watch.describe_alarms(AlarmNamePrefix="cloudai-house")["MetricAlarms"] == []
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    assert nothing_left(aws)


def test_large_requests_and_slow_models(client: Client, model: str) -> None:
    wanted = spec(model, mode="async", timeout=1800.0, env={"TS_MAX_REQUEST_SIZE": "1"})
    made, config, *_ = [r.body for r in client.endpoints.plan(wanted).requests
                        if r.operation.startswith("sagemaker:")]  # fmt: skip
    env = made["PrimaryContainer"]["Environment"]
    assert env["MMS_MAX_REQUEST_SIZE"] == env["TS_MAX_RESPONSE_SIZE"] == str(100 << 20)
    assert env["TS_MAX_REQUEST_SIZE"] == "1"
    assert env["TS_DEFAULT_RESPONSE_TIMEOUT"] == "3600"
    variant = config["ProductionVariants"][0]
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 1800
    plain = client.endpoints.plan(spec(model)).requests[-2].body["ProductionVariants"][0]
    assert "ModelDataDownloadTimeoutInSeconds" not in plain


def test_serverless(aws: AwsEmulator, client: Client, model: str) -> None:
    variant = Variant(model=model, resources=Resources(memory=3), max=5)
    endpoint = client.endpoints.deploy(spec(model, mode="serverless", variants=(variant,)))
    (sent,) = aws.sent("CreateEndpointConfig")
    assert sent.json["ProductionVariants"][0]["ServerlessConfig"] == {
        "MemorySizeInMB": 3072, "MaxConcurrency": 5,
    }  # fmt: skip
    assert endpoint.predict([1, 2]) == [1, 2]
    endpoint.delete()
    assert nothing_left(aws)


def test_m10_asynchronous(aws: AwsEmulator, client: Client, model: str) -> None:
    endpoint = client.endpoints.deploy(spec(model, mode="async"))
    assert endpoint.predict([{"a": 1}, 2]) == [{"a": 1}, 2]
    (sent,) = aws.sent("/async-invocations")
    # M10: as long as the container itself may take.
    assert sent.headers["x-amzn-sagemaker-invocationtimeoutseconds"] == "3600"
    assert sent.headers["x-amzn-sagemaker-inputlocation"].startswith(f"s3://{BUCKET}/")
    aws.cloud_state.executor = ScriptedExecutor(invoke=lambda body, kind: (500, b"it broke"))
    endpoint.delete()
    again = client.endpoints.deploy(spec(model, mode="async", name="second"))
    with pytest.raises(HandlerError, match="it broke"):
        again.predict([1])
    again.delete()
    assert nothing_left(aws)
    s3 = boto3.client("s3", endpoint_url=aws.url)
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0


@pytest.mark.parametrize(
    ("rollout", "routing"),
    [
        (Rollout(), {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}),
        (
            Rollout(kind="canary", percent=20, bake=60),
            {"Type": "CANARY", "WaitIntervalInSeconds": 60,
             "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 20}},
        ),
        (
            Rollout(kind="linear", percent=25, bake=30),
            {"Type": "LINEAR", "WaitIntervalInSeconds": 30,
             "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25}},
        ),
    ],
    ids=["all", "canary", "linear"],
)  # fmt: skip
def test_rollouts(
    aws: AwsEmulator, client: Client, model: str, rollout: Rollout, routing: Any
) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    endpoint.update(spec(model, env={"V": "2"}, rollout=rollout))
    (sent,) = aws.sent("UpdateEndpoint")
    policy = sent.json["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"] == routing
    # What was replaced is gone, what serves is there.
    assert len(aws.cloud_state.left("Model")) == len(aws.cloud_state.left("EndpointConfig")) == 1
    endpoint.delete()
    assert nothing_left(aws)


def test_an_alarm_rolls_back_and_is_told(aws: AwsEmulator, client: Client, model: str) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    before = aws.cloud_state.left("EndpointConfig")
    aws.cloud_state.alarms.add("errors-high")
    rollout = Rollout(kind="canary", alarms=("errors-high",))
    with pytest.raises(EndpointError, match="rolled back"):
        endpoint.update(spec(model, env={"V": "2"}, rollout=rollout))
    assert endpoint.status.state is State.RUNNING
    assert aws.cloud_state.left("EndpointConfig") == before
    endpoint.delete()
    assert nothing_left(aws)


@pytest.mark.parametrize("seconds", [0.0, 1.5], ids=["took effect", "under way"])
def test_an_update_whose_reply_was_lost(
    aws: AwsEmulator, client: Client, model: str, seconds: float
) -> None:
    """It is sent once more at most, and what it replaced is removed all the same."""
    endpoint = client.endpoints.deploy(spec(model))
    aws.cloud_state.endpoint_seconds = seconds
    aws.faults.add("lose_reply", r"UpdateEndpoint$")
    endpoint.update(spec(model, env={"V": "2"}))
    assert len(aws.cloud_state.left("Model")) == len(aws.cloud_state.left("EndpointConfig")) == 1
    assert endpoint.predict([1]) == [1]
    endpoint.delete()
    assert nothing_left(aws)


def test_somebody_elses_update_is_a_conflict(aws: AwsEmulator, client: Client, model: str) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    aws.cloud_state.endpoint_seconds = 1000.0
    endpoint.update(spec(model, env={"V": "2"}), wait=False)
    before = aws.cloud_state.left("EndpointConfig")
    with pytest.raises(Conflict, match="in-progress"):
        endpoint.update(spec(model, env={"V": "3"}), wait=False)
    assert aws.cloud_state.left("EndpointConfig") == before
    aws.cloud_state.advance(2000)
    assert endpoint.wait(10).state is State.RUNNING


def test_a_network_that_serverless_endpoints_cannot_have(
    aws: AwsEmulator, keys: Any, model: str
) -> None:
    with Client(**keys, subnets="subnet-1", security_groups="sg-1") as client:
        with pytest.raises(UnsupportedByProvider, match="realtime"):
            client.endpoints.deploy(spec(model, mode="serverless"))
        plan = client.endpoints.plan(spec(model))
    (made,) = [r.body for r in plan.requests if r.operation == "sagemaker:CreateModel"]
    assert made["VpcConfig"]["Subnets"] == ["subnet-1"]


def test_an_update_that_is_refused_leaves_nothing(
    aws: AwsEmulator, client: Client, model: str
) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    before = aws.cloud_state.left("Model", "EndpointConfig")
    bad = {"aws": {"UpdateEndpoint": {"DeploymentConfig": {"BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {"Type": "SIDEWAYS"}}}}}}  # fmt: skip
    with pytest.raises(InvalidRequest, match="rollout"):
        endpoint.update(spec(model, env={"V": "2"}, native=bad))
    assert aws.sent("UpdateEndpoint") == []
    assert aws.cloud_state.left("Model", "EndpointConfig") == before


def test_a_config_that_somebody_deleted(aws: AwsEmulator, keys: Any, model: str) -> None:
    """The endpoint serves all the same, and can be looked at and deleted."""
    with Client(**keys) as first:
        first.endpoints.deploy(spec(model, variants=(Variant(model=model, max=2, target=1.0),)))
    sagemaker = boto3.client("sagemaker", endpoint_url=aws.url)
    (name,) = [
        one["EndpointConfigName"] for one in aws.cloud_state.of(aws.region, "EndpointConfig")
    ]
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    with Client(**keys) as second:
        endpoint = second.endpoints.attach("house")
        assert endpoint.predict([1]) == [1]
        endpoint.delete()
    assert nothing_left(aws)


def test_an_update_that_changes_nothing_sends_nothing(
    aws: AwsEmulator, client: Client, model: str
) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    endpoint.update(spec(model))
    assert aws.sent("UpdateEndpoint") == []


def test_an_endpoint_that_is_coming_up(aws: AwsEmulator, client: Client, model: str) -> None:
    aws.cloud_state.endpoint_seconds = 1000.0
    endpoint = client.endpoints.deploy(spec(model), wait=False)
    assert endpoint.status.state is State.STARTING
    aws.cloud_state.advance(2000)
    assert endpoint.wait(10).state is State.RUNNING


def test_a_response_stream(aws: AwsEmulator, client: Client, keys: Any, model: str) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    pieces = list(endpoint.stream(range(100)))
    assert len(pieces) > 1
    assert json.loads(b"".join(pieces)) == {"predictions": list(range(100))}

    async def later() -> list[bytes]:
        async with AsyncClient(**keys) as other:
            found = await other.endpoints.attach("house")
            return [piece async for piece in found.stream(list(range(100)))]

    assert asyncio.run(later()) == pieces
    with pytest.raises(InvalidRequest, match="list"):
        next(endpoint.stream("text"))


def test_a_response_stream_that_is_cut(aws: AwsEmulator, client: Client, model: str) -> None:
    endpoint = client.endpoints.deploy(spec(model))
    whole = b"".join(endpoint.stream(range(200))).decode()
    told = 0
    for after in range(150, 2000, 170):
        aws.faults.add("cut", r"/invocations-response-stream$", after=after)
        came: list[bytes] = []
        cut: StreamTruncated | None = None
        try:
            for piece in endpoint.stream(range(200), timeout=60.0):
                came.append(piece)
        except StreamTruncated as error:
            cut = error
        text = b"".join(came).decode()
        if cut is None:
            assert text == whole
            continue
        told += 1
        assert cut.text == text
        assert whole.startswith(text)
    assert told > 5


def test_modes_that_do_not_stream_and_requests_that_are_too_large(
    aws: AwsEmulator, client: Client, model: str
) -> None:
    endpoint = client.endpoints.deploy(spec(model, mode="serverless"))
    with pytest.raises(UnsupportedByProvider, match="predict"):
        next(endpoint.stream([1]))
    with pytest.raises(InvalidRequest, match="async"):
        endpoint.predict(["x" * (5 << 20)])
    assert aws.sent("/invocations") == []


def test_a_container_that_fails(aws: AwsEmulator, client: Client, model: str) -> None:
    aws.cloud_state.executor = ScriptedExecutor(invoke=lambda body, kind: (503, b"out of memory"))
    endpoint = client.endpoints.deploy(spec(model))
    with pytest.raises(HandlerError, match="out of memory"):
        endpoint.predict([1])


def test_a_failed_deploy_leaves_nothing(aws: AwsEmulator, client: Client, model: str) -> None:
    client.endpoints.deploy(spec(model)).delete()
    boto3.client("sagemaker", endpoint_url=aws.url)
    client.endpoints.deploy(spec(model, name="other"))
    with pytest.raises(Conflict):
        client.endpoints.deploy(spec(model, name="other", env={"A": "1"}))
    assert len(aws.cloud_state.left("Model")) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "instance": ({"variants": (Variant(model="m", resources=Resources(
        instance_type="ml.nope")),)}, "instance_type"),
    "scale-without-target": ({"variants": (Variant(model="m", max=3),)}, "target"),
    "zero": ({"variants": (Variant(model="m", min=0),)}, "serverless"),
    "memory": ({"mode": "serverless", "variants": (
        Variant(model="m", resources=Resources(memory=10)),)}, "6 GiB"),
    "gpu": ({"mode": "serverless", "variants": (
        Variant(model="m", resources=Resources(accelerator="L4:1")),)}, "accelerator"),
    "canary": ({"rollout": Rollout(kind="canary", percent=60)}, "rollout.percent"),
    "linear": ({"rollout": Rollout(kind="linear", percent=5)}, "10 to 50"),
    "bake": ({"rollout": Rollout(kind="linear", bake=4000)}, "rollout.bake"),
    "serverless-rollout": ({"mode": "serverless", "rollout": Rollout(kind="canary")}, "rollout"),
    "zero-without-target": ({"mode": "async", "variants": (Variant(model="m", min=0),)}, "target"),
    "image-region": ({"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x:1"}, "eu-west-1"),
    "image-folder": ({"image": "./nowhere"}, "no platforms.json"),
    "secrets": ({"secrets": {"K": SecretRef(store="ssm", name="x")}}, "secrets"),
    "tensorflow": ({"framework": "tensorflow==2.19"}, "framework"),
    "remote-model": ({"variants": (Variant(model=f"s3://{BUCKET}/none/model.tar.gz"),)}, "model"),
    "other-cloud": ({"variants": (Variant(model="gs://x/y"),)}, "model"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_anything_is_made(
    aws: AwsEmulator, client: Client, model: str, case: str
) -> None:
    about, word = BAD[case]
    variants = tuple(
        Variant(**{**{f: getattr(v, f) for f in v.__struct_fields__},
                   "model": model if v.model == "m" else v.model})
        for v in about.get("variants", (Variant(model=model),))
    )  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        client.endpoints.deploy(spec(model, **{**about, "variants": variants}))
    assert word in str(caught.value)
    assert nothing_left(aws)
    assert client.resources() == []


def test_m7_a_machine_with_disks_of_its_own_takes_no_other(client: Client, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def load(d): return 1\ndef predict(m, i): return i\n")

    def plan(machine: str) -> Any:
        resources = Resources(instance_type=machine, disk=200)
        variant = Variant(model=str(tmp_path), resources=resources)
        return client.endpoints.plan([variant], name="disk")

    for machine in ("ml.g4dn.xlarge", "ml.g5.xlarge", "ml.p4d.24xlarge"):
        found = plan(machine)
        assert any("disks of its own" in dropped for dropped in found.dropped), machine
        (config,) = [r for r in found.requests if r.operation.endswith("CreateEndpointConfig")]
        assert "VolumeSizeInGB" not in config.body["ProductionVariants"][0]
    (config,) = [
        r for r in plan("ml.m5.large").requests if r.operation.endswith("CreateEndpointConfig")
    ]
    assert config.body["ProductionVariants"][0]["VolumeSizeInGB"] == 200
