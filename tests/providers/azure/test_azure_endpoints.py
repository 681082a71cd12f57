"""Model deployments: the long-running create, scaling, weights, quota, deletion."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cloudai
from cloudai.errors import (
    ConfigError,
    EndpointError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
)
from cloudai.providers.azure.openai.wire import endpoints as wire
from cloudai.testing.emulators.azure import AzureEmulator
from cloudai.types import Deployment, State, Variant


def puts(azure: AzureEmulator) -> list[Any]:
    return [json.loads(r.body) for r in azure.requests if r.method == "PUT"]


def test_deploy_ask_scale_delete(azure: AzureEmulator, client: cloudai.Client) -> None:
    endpoint = client.endpoints.deploy("gpt-5.1", name="mine")
    assert endpoint.status.state is State.RUNNING
    assert endpoint.predict(["hi"], params={"max_tokens": 5})[0]["text"] == "hi"
    assert endpoint.predict([{"messages": [{"role": "user", "content": "yo"}]}])[0]["text"]
    endpoint.update("gpt-5.1", native={"azure": {"capacity": 50, "sku": "DataZoneStandard"}})
    assert azure.cloud_state.deployments["mine"].capacity == 50
    assert azure.cloud_state.deployments["mine"].sku == "DataZoneStandard"
    assert [one.name for one in client.endpoints.list()] == ["mine"]
    endpoint.delete()
    endpoint.delete()
    assert client.endpoints.list() == []
    with pytest.raises(NotFound):
        client.endpoints.attach(endpoint.id)


def test_embeddings_deployment(azure: AzureEmulator, client: cloudai.Client) -> None:
    endpoint = client.endpoints.deploy("text-embedding-3-small", name="vectors")
    (answer,) = endpoint.predict(["hi"])
    assert len(answer["embedding"]) == 1536  # the model's own


def test_what_plan_shows_is_what_is_sent(azure: AzureEmulator, client: cloudai.Client) -> None:
    spec = Deployment(
        name="mine",
        variants=(Variant(model="gpt-5.1", name="a", weight=3), Variant(model="gpt-5.2", name="b")),
        idempotency_key="k",
        native={"azure": {"version": "2024-08-06", "capacity": 20}},
    )
    plan = client.endpoints.plan(spec)
    assert plan.ok
    assert any("splits no traffic" in loss for loss in plan.dropped)
    client.endpoints.deploy(spec)
    assert [request.body for request in plan.requests] == puts(azure)
    expected = json.loads((Path(__file__).parent / "golden" / "deployments.json").read_text())
    assert puts(azure) == expected


def test_traffic_by_weight(azure: AzureEmulator, client: cloudai.Client) -> None:
    endpoint = client.endpoints.deploy(
        [Variant(model="gpt-5.1", name="a", weight=3), Variant(model="gpt-5.2", name="b")],
        name="mine",
    )
    asked = [endpoint.invoke(["x"]).variant for _ in range(80)]
    assert 40 <= asked.count("a") < 80
    assert endpoint.invoke(["x"], variant="b").version == "gpt-5.2"
    with pytest.raises(InvalidRequest, match="variant"):
        endpoint.invoke(["x"], variant="c")
    shares = {v.name: v.share for v in endpoint.status.variants}
    assert shares == {"a": 0.75, "b": 0.25}
    endpoint.update([Variant(model="gpt-5.1", name="a")])
    assert sorted(azure.cloud_state.deployments) == ["embed", "mine--a", "smart"]


def test_an_update_that_fails_keeps_what_serves(
    azure: AzureEmulator, client: cloudai.Client
) -> None:
    endpoint = client.endpoints.deploy([Variant(model="gpt-5.1", name="a")], name="mine")
    azure.fate("deployments", "Failed")
    with pytest.raises(EndpointError, match="Failed"):
        endpoint.update([Variant(model="gpt-5.2", name="b")])
    assert azure.cloud_state.deployments["mine--a"].fate == "Succeeded"


def test_one_operation_at_a_time(azure: AzureEmulator, client: cloudai.Client) -> None:
    variants = [Variant(model="gpt-5.1", name=name) for name in "abc"]
    endpoint = client.endpoints.deploy(variants, name="mine")
    with ThreadPoolExecutor(2) as pool:
        others = list(
            pool.map(lambda name: client.endpoints.deploy("gpt-5.1", name=name), ("one", "two"))
        )
    for one in (endpoint, *others):
        one.delete()
    assert sorted(azure.cloud_state.deployments) == ["embed", "smart"]


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.74, 0.75, 0.999999])
def test_choice(chance: float) -> None:
    chosen = wire.choose([("a", 0.75), ("b", 0.25), ("off", 0.0)], chance)
    assert chosen == ("a" if chance < 0.75 else "b")


def test_fine_tuned_models_carry_a_warning(
    azure: AzureEmulator, client: cloudai.Client, caplog: pytest.LogCaptureFixture
) -> None:
    azure.cloud_state.tuned["gpt-4o.ft-1-mine"] = {}
    plan = client.endpoints.plan("gpt-4o.ft-1-mine", name="tuned")
    assert any("15 days" in loss for loss in plan.dropped)
    client.endpoints.deploy("gpt-4o.ft-1-mine", name="tuned")
    assert "15 days" in caplog.text


def test_quota_and_failures(azure: AzureEmulator, client: cloudai.Client) -> None:
    with pytest.raises(QuotaExceeded, match="quota"):
        client.endpoints.deploy("gpt-5.1", name="big", native={"azure": {"capacity": 5000}})
    with pytest.raises(InvalidRequest, match="not supported"):
        client.endpoints.deploy("no-such-model", name="x")
    azure.fate("deployments", "Failed")
    with pytest.raises(EndpointError, match="Failed"):
        client.endpoints.deploy("gpt-5.1", name="broken")


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"native": {"azure": {"sku": "Huge"}}}, "sku"),
        ({"native": {"azure": {"capacity": 0}}}, "capacity"),
        ({"native": {"azure": {"replicas": 2}}}, "replicas"),
        ({"handler": "handler.py"}, "handler"),
        ({"mode": "serverless"}, "mode"),
        ({"name": "a--b"}, "name"),
    ],
)
def test_bad_specs(
    azure: AzureEmulator, client: cloudai.Client, about: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        client.endpoints.deploy("gpt-5.1", **{"name": "mine", **about})
    with pytest.raises(InvalidRequest, match="workspace"):
        client.endpoints.deploy("./model", name="mine")
    assert not azure.requests


def test_lost_replies_make_no_duplicate(
    azure: AzureEmulator, client: cloudai.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    azure.faults.add("lose_reply", "PUT /subscriptions/.*/deployments/")
    client.endpoints.deploy("gpt-5.1", name="mine")
    assert len(azure.cloud_state.deployments) == 3


def test_what_is_missing(
    azure: AzureEmulator, client: cloudai.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDAI_SUBSCRIPTION")
    with (
        cloudai.Client(provider="azure", api_key=azure.key) as other,
        pytest.raises(ConfigError, match="CLOUDAI_SUBSCRIPTION"),
    ):
        other.endpoints.deploy("gpt-5.1", name="mine")
    with (
        cloudai.Client(provider="azure", subscription="other") as other,
        pytest.raises((NotFound, PermissionDenied)),
    ):
        other.endpoints.list()


def test_the_management_sdk_works_with_the_emulator(azure: AzureEmulator) -> None:
    from azure.identity import ManagedIdentityCredential
    from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient
    from azure.mgmt.cognitiveservices.models import (
        Deployment as NativeDeployment,
    )
    from azure.mgmt.cognitiveservices.models import (
        DeploymentModel,
        DeploymentProperties,
        Sku,
    )

    env = azure.env
    with CognitiveServicesManagementClient(
        ManagedIdentityCredential(),
        env["CLOUDAI_SUBSCRIPTION"],
        base_url=azure.secure_url,
        credential_scopes=[f"{azure.secure_url}/.default"],
        polling_interval=0.05,
    ) as manager:
        group, account = env["CLOUDAI_RESOURCE_GROUP"], env["CLOUDAI_ACCOUNT"]
        made = manager.deployments.begin_create_or_update(
            group,
            account,
            "theirs",
            NativeDeployment(
                sku=Sku(name="Standard", capacity=1),
                properties=DeploymentProperties(
                    model=DeploymentModel(format="OpenAI", name="gpt-5.1", version="1")
                ),
            ),
        ).result()
        assert made.properties.provisioning_state == "Succeeded"
        names = [d.name for d in manager.deployments.list(group, account)]
        assert names == ["smart", "embed", "theirs"]
        manager.deployments.begin_delete(group, account, "theirs").result()
        assert len(azure.cloud_state.deployments) == 2


@pytest.mark.parametrize("model", ["gpt-5.1", "text-embedding-3-small"])
@pytest.mark.parametrize("way", ["predict", "stream", "async"])
async def test_c3_an_input_that_was_answered_is_not_asked_again(
    azure: AzureEmulator,
    client: cloudai.Client,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    way: str,
) -> None:
    monkeypatch.setattr("cloudai._core.calls.retry.BASE", 0.001)
    monkeypatch.setattr("cloudai.providers.azure.openai.wire.embeddings.MAX_TEXTS", 1)
    endpoint = client.endpoints.deploy(model, name="mine")
    del azure.requests[:]
    # What a fault meets does not reach the service: whatever stands in .requests was paid.
    azure.faults.add("unavailable", "completions|embeddings", times=None, chance=0.15)
    texts = [f"text {n}" for n in range(40)]
    if way == "predict":
        outputs: Any = endpoint.predict(texts, timeout=60)
    elif way == "stream":
        outputs = json.loads(b"".join(endpoint.stream(texts, timeout=60)))["predictions"]
    else:
        async with cloudai.AsyncClient("azure", provider="azure", api_key=azure.key) as other:
            handle: Any = await other.endpoints.attach(endpoint.id)
            outputs = await handle.predict(texts, timeout=60)
    paid = [r for r in azure.requests if r.method == "POST"]
    assert len(outputs) == len(paid) == 40
    if model == "gpt-5.1":
        assert [output["text"] for output in outputs] == texts


@pytest.mark.parametrize("model", ["gpt-5.1", "text-embedding-3-small"])
def test_e11_half_a_character_in_an_endpoint_s_inputs(
    azure: AzureEmulator, client: cloudai.Client, model: str
) -> None:
    endpoint = client.endpoints.deploy(model, name="mine")
    for inputs in (["caf\u00e9 \ud83d"], ["a", {"prompt": "\ud83d", "text": "\ud83d"}]):
        with pytest.raises(InvalidRequest, match=r"inputs\[\d\].*half of a character"):
            endpoint.predict(inputs)
