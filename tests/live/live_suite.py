"""The conformance suite against a real account, and what cannot be known without one. Started by
``run.py`` alone: ``make live PROVIDER=aws BUDGET=5``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

import cloudai
from cloudai.testing.conformance import Harness, suites
from cloudai.types import TrainingJob, Variant
from live.rules import ABOUT

MODELS: dict[str, tuple[str, str]] = {
    "aws": ("us.amazon.nova-micro-v1:0", "amazon.titan-embed-text-v2:0"),
    "azure": ("smart", "embed"),
    "vertex": ("gemini-2.5-flash-lite", "gemini-embedding-001"),
}
"""The cheapest: of Azure OpenAI, deployments of that name."""


class LiveHarness(Harness):
    """A real account; what differs comes from ``run.py``."""

    provider = ABOUT["provider"]
    chat_model = ABOUT.get("chat") or MODELS[ABOUT["provider"]][0]
    embedding_model = ABOUT.get("embedding") or MODELS[ABOUT["provider"]][1]
    patience: ClassVar[float] = float(ABOUT.get("patience") or 1800)
    deterministic = False

    def keys(self) -> dict[str, Any]:
        return dict(ABOUT["keys"])


globals().update(suites(LiveHarness))


@pytest.fixture
def client() -> Any:
    with cloudai.Client(provider=ABOUT["provider"], **ABOUT["keys"]) as made:
        yield made


def only(provider: str) -> None:
    if ABOUT["provider"] != provider:
        pytest.skip(f"a question to {provider}")


# -- what cannot be known without the service (docs/providers/*.md say what we do) --------------


def test_azure_ml_put_without_traffic(client: Any, tmp_path: Path) -> None:
    """Does PUT of an online endpoint keep the traffic that it does not name? We send it along, so
    that both answers are safe; this shows which it is."""
    only("azure")
    from cloudai.protocols import Call

    model = LiveHarness(tmp_path).model()
    endpoint = client.endpoints.deploy(model, name="live-traffic")
    endpoint.wait(1800)
    workspace: Any = client.endpoints._bound.adapter._workspace
    call = Call(time.monotonic() + 600)
    before = workspace.send("GET", "onlineEndpoints/live-traffic", call)
    body = {key: before[key] for key in ("location", "tags", "identity") if key in before}
    body["properties"] = {"authMode": "Key", "properties": before["properties"]["properties"]}
    workspace.send("PUT", "onlineEndpoints/live-traffic", call, body)
    after = workspace.send("GET", "onlineEndpoints/live-traffic", call)
    kept = after["properties"].get("traffic") == before["properties"].get("traffic")
    told("azure: a PUT without traffic keeps it", kept)


def test_azure_v1_takes_training_type(client: Any, tmp_path: Path) -> None:
    """Does the v1 API of fine-tuning accept ``trainingType``? We send it only where it is
    asked for. The job is cancelled as soon as it is taken."""
    only("azure")
    lines = tmp_path / "train.jsonl"
    lines.write_text("".join(f'{{"prompt": "{n}?", "completion": "yes"}}\n' for n in range(10)))
    with cloudai.Client(
        provider="azure", **{k: v for k, v in ABOUT["keys"].items() if k != "workspace"}
    ) as plain:
        spec = TrainingJob(
            kind="finetune", base_model="gpt-4.1-nano-2025-04-14", inputs={"train": str(lines)},
            native={"azure": {"trainingType": "GlobalStandard"}},
        )  # fmt: skip
        try:
            job = plain.training.submit(spec)
        except cloudai.InvalidRequest as error:
            told("azure: v1 takes trainingType", False, str(error))
        else:
            job.cancel()
            job.delete()
            told("azure: v1 takes trainingType", True)


def test_vertex_bucket_of_two_regions(client: Any, tmp_path: Path) -> None:
    """Does a job in a region take a staging bucket whose location spans it (``us``, ``nam4``)? We
    let it pass; the service has the last word. Uses the profile's bucket, whatever it is."""
    only("vertex")
    job = client.training.submit(LiveHarness(tmp_path).job(_work()))
    told("vertex: the staging bucket's location is taken", job.wait(1800).state.name == "SUCCEEDED")


def test_aws_toolkit_variants(client: Any, tmp_path: Path) -> None:
    """Does SageMaker's own PyTorch container serve what we upload, two variants side by side?"""
    only("aws")
    harness = LiveHarness(tmp_path)
    endpoint = client.endpoints.deploy(
        [Variant(name="a", model=harness.model(2)), Variant(name="b", model=harness.model(3))],
        name="live-variants",
    )
    endpoint.wait(1800)
    found = {endpoint.predict([7], variant=name)[0] for name in ("a", "b")}
    told("aws: the container serves both variants", found == {14, 21})


def _work() -> Any:
    from cloudai.testing.conformance import Work

    return Work(seconds=1.0)


def told(question: str, answer: bool, why: str = "") -> None:
    """Notes an answer beside the recording."""
    with Path(ABOUT["folder"], "answers.jsonl").open("a") as file:
        file.write(json.dumps({"question": question, "answer": answer, "why": why}) + "\n")
