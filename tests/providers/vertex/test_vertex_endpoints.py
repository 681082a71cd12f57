"""Endpoints over real sockets, against the emulator, with real handlers behind them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from vertextools import golden, sent

from cloudai import Client
from cloudai._core.profiles.config import Config
from cloudai.errors import (
    Conflict,
    EndpointError,
    HandlerError,
    InvalidRequest,
    StreamTruncated,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.vertex.chat.openai import dedicated
from cloudai.providers.vertex.endpoints import rollout as _rollout
from cloudai.providers.vertex.endpoints import wire
from cloudai.providers.vertex.endpoints.adapter import raw_predict, stream_raw_predict
from cloudai.providers.vertex.session import VertexSession
from cloudai.testing.conformance.harness import ASSETS
from cloudai.testing.emulators.vertex import VertexEmulator
from cloudai.types import (
    ChatRequest,
    Deployment,
    Message,
    Resources,
    Rollout,
    SecretRef,
    State,
    Variant,
)


@pytest.fixture
def cloud() -> Iterator[VertexEmulator]:
    with VertexEmulator(execute=True) as emulator:
        yield emulator


def model(cloud: VertexEmulator, scale: int) -> str:
    base = f"gs://{cloud.bucket}/models/{scale}"
    cloud.storage.put(f"{base}/model.json", json.dumps({"scale": scale}))
    cloud.storage.put(f"{base}/handler.py", (ASSETS / "handler.py").read_text())
    return base


def spec(**about: Any) -> Deployment:
    about = {
        "name": "sentiment",
        "variants": (Variant(model="gs://m/2"),),
        "idempotency_key": "k1",
        **about,
    }
    return Deployment(**about)


DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "endpoint_plain": {},
    "endpoint_everything": {
        "variants": (
            Variant(
                model="gs://m/2",
                weight=3,
                min=1,
                max=4,
                target=2.5,
                resources=Resources(accelerator="L4:1"),
            ),
            Variant(name="new", model="gs://m/3", weight=1),
        ),
        "image": "europe-docker.pkg.dev/p/r/serve:1",
        "env": {"A": "1"},
        "tags": {"team": "x"},
        "workers": 2,
        "native": {
            "vertex": {
                "model": {"predictSchemata": {"instanceSchemaUri": "gs://m/schema.yaml"}},
                "endpoint": {"network": "projects/1/global/networks/vpc"},
            }
        },
    },
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_golden(name: str) -> None:
    made = spec(**DEPLOYMENTS[name])
    assert wire.violations(made, "us-central1") == []
    parent = "projects/p/locations/us-central1"
    kept = wire.Record(
        variants=tuple(wire.target(made, one, "us-central1", parent) for one in made.variants)
    )
    models = [wire.model(made, one, one.uri, "us-central1") for one in made.variants]
    for one in models:  # the start is a file of its own
        if "command" in one["model"]["containerSpec"]:
            one["model"]["containerSpec"]["command"][2] = "start.py"
    golden(
        name,
        {
            "models": models,
            "endpoint": wire.endpoint(made, kept),
            "deploy": [wire.deploy(one, {"0": 100}, "robot") for one in kept.variants],
        },
    )


def test_plan_is_what_is_sent(client: Client, cloud: VertexEmulator) -> None:
    made = spec(variants=(Variant(model=model(cloud, 2)),))
    plan = client.endpoints.plan(made)
    assert plan.ok
    client.endpoints.deploy(made)
    posted = [one for one in cloud.requests if one.method == "POST" and "/v1/projects" in one.path]
    assert [one.path for one in posted] == [
        request.operation.split(" ")[1].partition("?")[0] for request in plan.requests
    ]
    upload, _, deploy = posted
    assert upload.body == msgspec.json.encode(plan.requests[0].body)
    assert deploy.body == msgspec.json.encode(plan.requests[2].body)


def test_split() -> None:
    assert wire.split({"a": 1, "b": 1, "c": 1}) == {"a": 34, "b": 33, "c": 33}
    assert wire.split({"a": 3, "b": 1}) == {"a": 75, "b": 25}
    assert sum(wire.split({str(n): n + 0.1 for n in range(7)}).values()) == 100


def test_traffic_is_split(client: Client, cloud: VertexEmulator) -> None:
    variants = [
        Variant(name="old", model=model(cloud, 2), weight=3),
        Variant(name="new", model=model(cloud, 5), weight=1),
    ]
    endpoint = client.endpoints.deploy(variants, name="split")
    shares = {one.name: one.share for one in endpoint.status.variants}
    assert shares == {"old": 0.75, "new": 0.25}
    answers = {endpoint.invoke([1]).variant for _ in range(40)}
    assert answers == {"old", "new"}
    with pytest.raises(UnsupportedByProvider):
        endpoint.predict([1], variant="old")
    endpoint.delete()


def test_canary_bakes_then_takes_over(client: Client, cloud: VertexEmulator) -> None:
    endpoint = client.endpoints.deploy(model(cloud, 2), name="canary")
    rollout = Rollout(kind="canary", percent=20, bake=4.0)
    endpoint.update(model(cloud, 3), rollout=rollout, wait=False)
    seen: list[dict[float, str]] = []
    end = time.monotonic() + 120
    while time.monotonic() < end:
        status = endpoint.status
        shares = {one.share for one in status.variants if one.share}
        if not seen or shares != seen[-1]:
            seen.append(shares)  # type: ignore[arg-type]
        assert endpoint.predict([1])[0] in {2, 3}  # never without an answer
        if status.state is State.RUNNING:
            break
        time.sleep(0.05)
    # Where the first look comes late, the canary has begun.
    assert seen in ([{1.0}, {0.2, 0.8}, {1.0}], [{0.2, 0.8}, {1.0}])
    assert endpoint.predict([1]) == [3]
    assert len(cloud.serving.models) == 1
    endpoint.delete()


def test_rollback_of_a_canary(client: Client, cloud: VertexEmulator) -> None:
    endpoint = client.endpoints.deploy(model(cloud, 2), name="back")
    rollout = Rollout(kind="canary", percent=20, bake=3600)
    endpoint.update(model(cloud, 3), rollout=rollout, wait=False)
    end = time.monotonic() + 30
    while len([one for one in endpoint.status.variants if one.share]) != 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    endpoint.update(model(cloud, 2))
    assert endpoint.status.state is State.RUNNING
    assert endpoint.predict([1]) == [2]
    assert len(cloud.serving.models) == 1
    endpoint.delete()


def test_update_that_fails_leaves_the_former(client: Client, cloud: VertexEmulator) -> None:
    endpoint = client.endpoints.deploy(model(cloud, 2), name="kept")
    cloud.serving.failures["main"] = "the model is corrupt"
    with pytest.raises(EndpointError, match="the model is corrupt"):
        endpoint.update(model(cloud, 3))
    cloud.serving.failures.clear()
    assert endpoint.predict([1]) == [2]
    endpoint.wait(30)
    assert endpoint.status.state is State.RUNNING
    assert len(cloud.serving.models) == 1
    endpoint.delete()


def test_nothing_is_left(client: Client, cloud: VertexEmulator) -> None:
    handler = str(ASSETS / "handler.py")
    endpoint = client.endpoints.deploy(model(cloud, 2), name="gone", handler=handler)
    mine = f"gs://{cloud.bucket}/cloudai/"
    assert cloud.storage.names(mine)
    client.destroy(endpoint.id)
    assert cloud.serving.models == {}
    assert cloud.serving.endpoints == {}
    assert cloud.storage.names(mine) == []
    cloud.serving.failures["main"] = "it does not start"
    with pytest.raises(EndpointError, match="it does not start"):
        client.endpoints.deploy(model(cloud, 2), name="gone", handler=handler)
    assert cloud.serving.models == {}
    assert cloud.serving.endpoints == {}
    assert cloud.storage.names(mine) == []
    assert client.resources() == []


def test_nothing_is_left_of_what_is_refused(client: Client, cloud: VertexEmulator) -> None:
    mine = f"gs://{cloud.bucket}/cloudai/"
    handler = str(ASSETS / "handler.py")
    for part in ("model", "endpoint"):
        with pytest.raises(InvalidRequest, match="nonsense"):
            client.endpoints.deploy(
                model(cloud, 2),
                name="refused",
                handler=handler,
                native={"vertex": {part: {"nonsense": 1}}},
            )
        assert cloud.serving.models == cloud.serving.endpoints == {}
        assert cloud.storage.names(mine) == []
    endpoint = client.endpoints.deploy(model(cloud, 2), name="kept", handler=handler)
    kept = cloud.storage.names(mine)
    with pytest.raises(InvalidRequest, match="nonsense"):
        endpoint.update(
            model(cloud, 3), handler=handler, native={"vertex": {"model": {"nonsense": 1}}}
        )
    assert cloud.storage.names(mine) == kept
    assert len(cloud.serving.models) == 1
    assert endpoint.predict([1]) == [2]
    endpoint.delete()


@pytest.mark.parametrize("path", ["/models:upload$", "/endpoints$", ":deployModel$"])
def test_lost_replies_make_nothing_twice(client: Client, cloud: VertexEmulator, path: str) -> None:
    cloud.faults.add("lose_reply", f"POST .*{path}")
    endpoint = client.endpoints.deploy(model(cloud, 2), name="once")
    assert endpoint.predict([1]) == [2]
    assert len(cloud.serving.models) == 1
    assert [len(one["deployedModels"]) for one in cloud.serving.endpoints.values()] == [1]
    endpoint.delete()


def test_name_of_somebody_else(client: Client, cloud: VertexEmulator) -> None:
    client.endpoints.deploy(model(cloud, 2), name="taken")
    with pytest.raises(Conflict):
        client.endpoints.deploy(model(cloud, 2), name="taken")
    assert len(cloud.serving.models) == 1


def test_instances_against_the_schema(client: Client, cloud: VertexEmulator) -> None:
    schema = """
type: object
required: [age]
properties:
  age: {type: integer, minimum: 0}
  name: {type: string, maxLength: 5}
"""
    uri = cloud.storage.put(f"gs://{cloud.bucket}/schema.yaml", schema)
    native = {"vertex": {"model": {"predictSchemata": {"instanceSchemaUri": uri}}}}
    endpoint = client.endpoints.deploy(model(cloud, 2), name="strict", native=native)
    assert endpoint.predict([{"age": 3}]) == [{"age": 6}]
    before = len(sent(cloud, ":predict"))
    for bad, word in (
        ([{"age": 1}, {"name": "x"}], r"inputs\[1\].*age"),
        ([{"age": "1"}], "age"),
        ([{"age": -1}], "below"),
        ([{"age": 1, "name": "too long"}], "name"),
        ([5], r"inputs\[0\]"),
    ):
        with pytest.raises(InvalidRequest, match=word):
            endpoint.predict(bad)
    assert len(sent(cloud, ":predict")) == before
    endpoint.delete()


def test_raw_and_streaming_predict(client: Client, cloud: VertexEmulator, tmp_path: Path) -> None:
    endpoint = client.endpoints.deploy(model(cloud, 2), name="raw")
    body = msgspec.json.encode({"instances": [1, 2]})
    answer = msgspec.json.decode(raw_predict(endpoint, body))
    assert answer == {"predictions": [2, 4]}
    cloud.faults.add("unavailable", ":streamRawPredict")  # before the first piece: tried again
    pieces = list(stream_raw_predict(endpoint, body))
    assert len(pieces) > 1
    assert msgspec.json.decode(b"".join(pieces)) == {"predictions": [2, 4]}
    pieces = list(endpoint.stream([1, 2], params={"add": 1}))
    assert len(pieces) > 1
    assert msgspec.json.decode(b"".join(pieces)) == {"predictions": [3, 5]}
    with pytest.raises(HandlerError, match="this input is bad"):
        list(endpoint.stream(["bad"]))
    cloud.faults.add("cut", ":streamRawPredict", after=30)
    with pytest.raises(StreamTruncated) as caught:
        list(endpoint.stream(list(range(50))))
    assert caught.value.text.startswith('{"predictions":[0,2')
    with pytest.raises(InvalidRequest, match="bytes"):
        raw_predict(endpoint, b" " * 10_000_001)
    with pytest.raises(InvalidRequest, match="10000000"):
        endpoint.predict(["x" * 10_000_000])
    (tmp_path / "handler.py").write_bytes((ASSETS / "handler.py").read_bytes())
    (tmp_path / "model.json").write_text('{"scale": 2}')
    with (
        Client(provider="fake") as fake,
        pytest.raises(UnsupportedByProvider, match="raw"),
    ):
        raw_predict(fake.endpoints.deploy(tmp_path, name="e"), body)
    endpoint.delete()


async def test_chat_in_the_openai_format(
    client: Client, cloud: VertexEmulator, aclient: Any
) -> None:
    client.endpoints.deploy(model(cloud, 2), name="chatty")
    reply = client.chat.create("Hello there", model="openai:chatty")
    assert reply.text == "Hello there"
    assert reply.usage.total_tokens == 7
    stream = client.chat.stream("Hello there", model="openai:chatty")
    assert "".join(chunk.text for chunk in stream) == reply.text
    assert stream.reply.usage.total_tokens == 7
    again = await aclient.chat.create("Hello there", model="openai:chatty")
    assert again.text == reply.text
    texts = [chunk.text async for chunk in aclient.chat.stream("Hi", model="openai:chatty")]
    assert "".join(texts) == "Hi"
    partner = client.chat.create("Hi", model="openai:meta/llama-4")
    assert partner.model == "meta/llama-4"
    adapter = client._runtime.binding("chat").adapter
    request = ChatRequest(model="openai:chatty", messages=(Message("user", "x"),), seed=1)
    adapter.create(request, Call())
    assert sent(cloud, "/chat/completions")[-1] == {
        "model": "",
        "messages": [{"role": "user", "content": "x"}],
        "seed": 1,
    }


def test_dedicated_endpoints_answer_at_their_own_address() -> None:
    """Vertex AI refuses their predictions at the region's address; a gateway is asked itself."""
    about = {"dedicatedEndpointEnabled": True, "dedicatedEndpointDns": "e.vertexai.goog"}
    keys: dict[str, Any] = {"provider": "vertex", "project": "p", "location": "us-central1"}
    plain = VertexSession(Config().profile(**keys))
    assert dedicated(plain, about) == "https://e.vertexai.goog"
    assert dedicated(plain, {}) == "https://us-central1-aiplatform.googleapis.com"
    gateway = VertexSession(Config().profile(**keys, endpoint="http://gateway"))
    assert dedicated(gateway, about) == "http://gateway"


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"name": "Upper"}, "name"),
        ({"rollout": Rollout(kind="canary", alarms=("a",))}, "alarms"),
        ({"mode": "serverless"}, "mode"),
        ({"secrets": {"X": SecretRef(store="secretmanager", name="y")}}, "secrets"),
        ({"variants": (Variant(model="gs://m/2", min=0, max=1),)}, "min"),
        ({"variants": (Variant(model="s3://m/2"),)}, "model"),
        (
            {"variants": (Variant(model="gs://m/2", resources=Resources(accelerator="B200:1")),)},
            "accelerator",
        ),
        ({"requirements": "none.txt"}, "requirements"),
        ({"handler": "none.py"}, "handler"),
    ],
)
def test_bad_input_is_not_sent(
    client: Client, cloud: VertexEmulator, about: dict[str, Any], field: str
) -> None:
    before = len(cloud.requests)
    plan = client.endpoints.plan(spec(**about))
    assert any(field in violation.field for violation in plan.violations)
    with pytest.raises(InvalidRequest, match=field):
        client.endpoints.deploy(spec(**about))
    assert len(cloud.requests) == before


def test_linear_rollout_step_by_step() -> None:
    def target(name: str, id: str) -> wire.Target:
        return wire.Target(name, f"gs://{name}", 1.0, id, f"models/{name}", {})

    kept = wire.Record(
        variants=(target("new", "2"),),
        former=(target("old", "1"),),
        rollout=Rollout(kind="linear", percent=40, bake=10),
        since=100.0,
    )
    endpoint: dict[str, Any] = {"deployedModels": [{"id": "1"}], "trafficSplit": {"1": 100}}
    step = _rollout.next_step(endpoint, [], kept, 100.0)
    assert step == _rollout.Deploy(kept.variants[0], {"0": 0, "1": 100})
    running = [{"name": "x", "done": False}]
    assert isinstance(_rollout.next_step(endpoint, running, kept, 101.0), _rollout.Wait)
    endpoint = {"deployedModels": [{"id": "1"}, {"id": "2"}], "trafficSplit": {"1": 100, "2": 0}}
    shares: list[dict[str, int]] = []
    for now in (200.0, 205.0, 210.0, 220.0):
        step = _rollout.next_step(endpoint, [], kept, now)
        if isinstance(step, _rollout.Shift):
            shares.append(step.split)
            endpoint["trafficSplit"], kept = step.split, step.record
    assert shares == [{"2": 40, "1": 60}, {"2": 80, "1": 20}, {"2": 100}]
    assert _rollout.next_step(endpoint, [], kept, 220.0) == _rollout.Undeploy("1", {"2": 100})
    endpoint["deployedModels"] = [{"id": "2"}]
    step = _rollout.next_step(endpoint, [], kept, 221.0)
    assert isinstance(step, _rollout.Tidy)
    assert step.models == ("models/old",)
    assert isinstance(_rollout.next_step(endpoint, [], step.record, 222.0), _rollout.Settled)
