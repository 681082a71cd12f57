"""Golden requests: what each operation sends, all of them in one course through the client.

``WRITE_GOLDEN=1`` writes the file anew; look at what changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import boto3
import pytest
from msgspec.structs import replace

from cloudai import BatchTransform, Client, Deployment, Resources, TrainingJob
from cloudai._core.profiles.config import Profile
from cloudai.protocols import Call
from cloudai.providers.aws import SPEC
from cloudai.providers.aws.secrets import AwsSecrets
from cloudai.testing.emulators.aws import BUCKET, AwsEmulator, Fate, Recorded, ScriptedExecutor
from cloudai.types import Rollout, SecretRef, Variant

GOLDEN = Path(__file__).parent / "golden" / "calls.json"
CHAT = "anthropic.claude-sonnet-4-5-20250929-v1:0"
HANDLER = "def load(d):\n    return 0\n\n\ndef predict(m, inputs, params):\n    return inputs\n"


def course(aws: AwsEmulator, client: Client, keys: dict[str, Any], tmp_path: Path) -> None:
    """Every operation that the adapters have, at least once."""
    source, model = tmp_path / "source", tmp_path / "model"
    for folder in (source, model):
        folder.mkdir()
    (source / "train.py").write_text("print('trained')\n")
    (model / "handler.py").write_text(HANDLER)
    aws.cloud_state.executor = ScriptedExecutor([Fate(running=1e6)])
    job = client.training.submit(
        TrainingJob(source=str(source), entry="train.py", name="job", idempotency_key="t",
                    framework="pytorch==2.6")
    )  # fmt: skip
    list(job.logs())
    job.cancel()
    job.delete()
    aws.cloud_state.executor = ScriptedExecutor()
    client.training.list()

    about = {"framework": "pytorch==2.6", "idempotency_key": "e"}
    scaled = (Variant(model=str(model), resources=Resources(cpus=4), min=1, max=2, target=1.0),)
    endpoint = client.endpoints.deploy(Deployment(name="house", variants=scaled, **about))
    endpoint.predict([1], params={"a": 2}, variant="main")
    list(endpoint.stream([1]))
    rollout = Rollout(kind="canary", percent=20, bake=60, alarms=("errors",))
    endpoint.update(
        Deployment(name="house", variants=scaled, env={"V": "2"}, rollout=rollout, **about)
    )
    list(endpoint.logs())
    endpoint.delete()
    zero = (Variant(model=str(model), min=0, max=2, target=1.0),)
    later = client.endpoints.deploy(Deployment(name="later", variants=zero, mode="async", **about))
    later.predict([1])
    later.delete()
    bare = client.endpoints.deploy(
        Deployment(name="bare", variants=(Variant(model=str(model)),), mode="serverless", **about)
    )
    bare.delete()
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own:1"
    packaged = Deployment(name="own", variants=(Variant(model=str(model)),), image=own, workers=2,
                          max_batch=8, env={"V": "3"}, **about)  # fmt: skip
    client.endpoints.deploy(packaged).delete()

    for count, kind in ((3, {"model": str(model)}), (100, {"chat": CHAT}),
                        (100, {"embeddings": "amazon.titan-embed-text-v2:0"})):  # fmt: skip
        path = tmp_path / f"{next(iter(kind))}.jsonl"
        path.write_text("".join(f'"line {n}"\n' for n in range(count)))
        batch = client.batch.submit(
            BatchTransform(**kind, input=str(path), output=f"s3://{BUCKET}/{path.stem}.out.jsonl",
                           name=path.stem, idempotency_key=path.stem, framework="pytorch==2.6",
                           params={"max_tokens": 4} if "chat" in kind else {})
        )  # fmt: skip
        batch.wait(30)
        batch.delete()
    client.batch.list()

    client.chat.create("Hi", model=CHAT)
    list(client.chat.stream("Hi", model=CHAT))
    client.embeddings.create(["a", "b"], model="cohere.embed-v4:0", task="query")
    client.embeddings.create("a", model="amazon.titan-embed-text-v2:0", dimensions=256)
    settings = {key: value for key, value in keys.items() if key != "provider"}
    store = AwsSecrets(Profile("aws", SPEC, settings))
    for kind, name in (("secretsmanager", "db"), ("ssm", "/k")):
        store.get(SecretRef(store=kind, name=name), Call())  # type: ignore[arg-type]


def operation(one: Recorded) -> str | None:
    """What a request is called in the file; None for S3's, which are objects."""
    target = one.headers.get("x-amz-target")
    if target:
        return target
    service = one.headers["authorization"].split("/")[3]
    if service in {"s3", "sts"}:
        return None
    action = dict(parse_qsl(one.body.decode(errors="replace"))).get("Action")
    return f"{service} {action}" if action else f"{service} {one.method} {plain(one.path)}"


def plain(text: str) -> str:
    """Without what differs from run to run: digests of files, ids, tokens, dates."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "TOKEN", text)
    text = re.sub(r"(?<=[-/])[0-9a-f]{12}\b", "DIGEST", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "NUMBER", text)
    return re.sub(r"f/\d+", "f/TOKEN", text)


def body(one: Recorded) -> Any:
    text = plain(one.body.decode())
    if one.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(text))
    return json.loads(text) if text else {}


def sent(requests: list[Recorded]) -> Iterator[tuple[str, list[Any]]]:
    """Each operation, with the different requests of it in their order."""
    found: dict[str, list[Any]] = {}
    for one in requests:
        name = operation(one)
        if name is not None and body(one) not in found.setdefault(name, []):
            found[name].append(body(one))
    yield from sorted(found.items())


def test_each_call_is_the_golden_one(
    aws: AwsEmulator, client: Client, keys: dict[str, Any], tmp_path: Path
) -> None:
    boto3.client("secretsmanager", endpoint_url=aws.url).create_secret(Name="db", SecretString="x")
    boto3.client("ssm", endpoint_url=aws.url).put_parameter(Name="/k", Value="x", Type="String")
    aws.requests.clear()
    course(aws, client, keys, tmp_path)
    found = dict(sent(aws.requests))
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert sorted(found) == sorted(golden)
    for name, wanted in golden.items():
        assert found[name] == wanted, name


def specs(tmp_path: Path) -> dict[str, Any]:
    """What is planned and then done, of each kind."""
    source, model = tmp_path / "source", tmp_path / "model"
    for folder in (source, model, tmp_path / "data"):
        folder.mkdir()
    (source / "train.py").write_text("")
    (tmp_path / "data" / "a.csv").write_text("1\n")
    (model / "handler.py").write_text(HANDLER)
    for name in ("chat", "vectors", "lines"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'"line {n}"\n' for n in range(100)))
    zero = (Variant(model=str(model), min=0, max=2, target=1.0),)
    scaled = (Variant(model=str(model), max=2, target=1.0), Variant(model=str(model), name="b"))
    about: dict[str, Any] = {"framework": "pytorch==2.6"}

    def batch(name: str, **more: Any) -> BatchTransform:
        source, output = str(tmp_path / f"{name}.jsonl"), str(tmp_path / f"{name}.out.jsonl")
        return BatchTransform(input=source, output=output, name=name, **more)

    return {
        "training": TrainingJob(source=str(source), entry="train.py", name="job",
                                inputs={"train": str(tmp_path / "data")}, **about),
        "scaled": Deployment(name="scaled", variants=scaled, **about),
        "async": Deployment(name="later", variants=zero, mode="async", **about),
        "serverless": Deployment(name="bare", variants=scaled[1:], mode="serverless", **about),
        "transform": batch("lines", model=str(model), **about),
        "chat": batch("chat", chat=CHAT, params={"max_tokens": 5}),
        "embeddings": batch("vectors", embeddings="amazon.titan-embed-text-v2:0"),
    }  # fmt: skip


@pytest.mark.parametrize("case", ["training", "scaled", "async", "serverless", "transform",
                                  "chat", "embeddings"])  # fmt: skip
def test_every_planned_request_is_sent_byte_for_byte(
    aws: AwsEmulator, client: Client, tmp_path: Path, case: str
) -> None:
    spec = replace(specs(tmp_path)[case], idempotency_key="the-key")
    kinds = {
        TrainingJob: client.training,
        Deployment: client.endpoints,
        BatchTransform: client.batch,
    }
    api: Any = kinds[type(spec)]
    plan = api.plan(spec)
    assert plan.ok, plan.violations
    assert aws.requests == [], "plan asked somebody"
    (api.deploy if isinstance(spec, Deployment) else api.submit)(spec)
    puts = [one.path for one in aws.requests if one.method == "PUT"]
    bodies = [one.body for one in aws.requests]
    position = -1
    for one in plan.requests:
        if one.operation == "s3:PutObject":
            where = "/" + one.body["to"].removeprefix("s3://")
            assert any(path == where or (where[-1] == "/" and path.startswith(where))
                       for path in puts), where  # fmt: skip
            continue
        wanted = json.dumps(one.body).encode()
        if one.operation == "cloudwatch:PutMetricAlarm":
            wanted = wanted.replace(b"PolicyARN", _arn(aws).encode())
        # In the plan's order, too.
        position = bodies.index(wanted, position + 1)


def _arn(aws: AwsEmulator) -> str:
    scaling = boto3.client("application-autoscaling", endpoint_url=aws.url)
    rows = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    return next(row["PolicyARN"] for row in rows if row["PolicyType"] == "StepScaling")
