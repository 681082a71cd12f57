"""Requests against the services' published descriptions: those that cloudai sends match, and
what a description refuses the emulator refuses too.

The descriptions are not part of the project: they are looked for in ``shared/specs`` above it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator, OAS31Validator
from test_azure_chat import GOLDEN, REQUESTS

import cloudai
from cloudai.providers.azure.openai import training as azure_training
from cloudai.providers.azure.openai.wire import chat as wire
from cloudai.testing.emulators.azure import AzureEmulator, Request
from cloudai.testing.emulators.azure._arm import _checked
from cloudai.testing.emulators.azure._http import Refused
from cloudai.testing.emulators.azure._validate import check
from cloudai.types import BatchTransform, ChatRequest, Message, SecretRef, ToolCall, TrainingJob

SPECS = next(
    (p / "shared" / "specs" for p in Path(__file__).parents if (p / "shared/specs").is_dir()), None
)
pytestmark = pytest.mark.skipif(SPECS is None, reason="no shared/specs above the project")

V1 = "azure_openai_v1.json"
DATED = "azure_openai_2025-03-01-preview.json"
OPENAI = "openai.json"
VAULT = "keyvault_secrets_2026-04-01.json"
MANAGEMENT = "azure_mgmt_cognitiveservices.json"


@cache
def described(file: str) -> dict[str, Any]:
    assert SPECS is not None
    return json.loads((SPECS / file).read_text())


def validator(file: str, schema: dict[str, Any]) -> Any:
    spec = described(file)
    kind = OAS31Validator if spec["openapi"].startswith("3.1") else OAS30Validator
    return kind({**schema, "components": spec["components"]})


def body_of(file: str, path: str, method: str = "post") -> Any:
    content = described(file)["paths"][path][method]["requestBody"]["content"]
    return validator(file, content["application/json"]["schema"])


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    ("file", "path"),
    [
        (V1, "/openai/v1/chat/completions"),
        (DATED, "/openai/deployments/{deployment-id}/chat/completions"),
        (OPENAI, "/v1/chat/completions"),
    ],
)
def test_chats_match(name: str, file: str, path: str) -> None:
    if name == "chat_everything" and file != OPENAI:
        pytest.skip("Azure's descriptions know no documents")
    body = json.loads(wire.encode(REQUESTS[name], stream=True))
    errors = list(body_of(file, path).iter_errors(body))
    assert not errors, errors[0]


# -- what cloudai sends ------------------------------------------------------------------------


def operation(request: Request) -> tuple[str, str, dict[str, Any]]:
    """The description's file, path and operation of a request."""
    path = request.path
    if re.fullmatch(r"/subscriptions/[^/]+", path):  # "Subscriptions - Get", of another service
        return MANAGEMENT, path, {"parameters": []}
    files = [DATED, OPENAI] if path.startswith("/openai/") else [VAULT, MANAGEMENT]
    if path.startswith("/openai/v1/"):
        files = [V1, OPENAI]
    for file in files:
        for template, item in described(file)["paths"].items():
            expression = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
            tail = path.removeprefix("/openai") if file == OPENAI else path
            if file == OPENAI and not tail.startswith("/v1"):
                tail = f"/v1{tail}"
            if re.fullmatch(expression, tail) and request.method.lower() in item:
                return file, template, item[request.method.lower()]
    raise AssertionError(f"{request.method} {path} is described nowhere")


def matches(request: Request) -> str:
    """Holds a request against its description; gives its operation."""
    file, template, about = operation(request)
    shared = described(file)["paths"].get(template, {}).get("parameters", [])
    for parameter in [*about.get("parameters", []), *shared]:
        if "$ref" in parameter:
            name = parameter["$ref"].rpartition("/")[2]
            parameter = described(file)["components"]["parameters"][name]
        if parameter["in"] == "query" and parameter.get("required"):
            assert parameter["name"] in request.query, (request.path, parameter["name"])
    content = about.get("requestBody", {}).get("content", {})
    if "application/json" in content and request.body:
        schema, body = content["application/json"]["schema"], json.loads(request.body)
        if body.get("endpoint") == "/chat/completions":
            body["endpoint"] = "/v1/chat/completions"  # Azure's own name for it in dated versions
        errors = list(validator(file, schema).iter_errors(body))
        assert not errors, (request.path, errors[0].message[:500])
    elif content:
        assert request.headers["content-type"].partition(";")[0] in content, request.path
    else:
        assert request.body in {b"", b"{}", b"null"}, (request.path, request.body)
    return f"{request.method} {template}"


@pytest.mark.parametrize("version", [None, "2025-03-01-preview"])
def test_all_that_is_sent_matches(
    azure: AzureEmulator,
    connect: Callable[..., cloudai.Client],
    tmp_path: Path,
    version: str | None,
) -> None:
    azure.vault.put("openai-key", azure.key)
    first = azure.vault.put("openai-key", azure.key)
    reference = SecretRef(store="keyvault", name="openai-key", vault=azure.vault_url, version=first)
    client = connect(api_key=reference, **({"api_version": version} if version else {}))
    client.chat.create("hi", model="smart")
    list(client.chat.stream("hi", model="smart", reasoning="low"))
    client.embeddings.create(["a", "b"], model="embed", dimensions=8)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(f'{{"prompt": "{n}", "completion": "yes"}}\n' for n in range(10)))
    spec = TrainingJob(
        kind="finetune",
        base_model="gpt-4o-mini-2024-07-18",
        inputs={"train": str(train), "validation": str(train)},
        hyperparameters={"epochs": 2, "seed": 1},
    )
    job = client.training.submit(spec)
    job.wait(30)
    list(job.logs())
    endpoint = client.endpoints.deploy(job.model, name="tuned")
    endpoint.predict(["hi"])
    endpoint.delete()
    lines = tmp_path / "in.jsonl"
    lines.write_text('"one"\n"two"\n')
    batch = client.batch.submit(
        BatchTransform(chat="smart", input=str(lines), output=str(tmp_path / "out.jsonl"))
    )
    batch.wait(30)
    batch.delete()
    other = client.training.submit(spec)
    azure.freeze()
    azure.advance(1.5)
    azure_training.pause(other)
    azure_training.resume(other)
    other.cancel()
    job.delete()
    seen = {
        matches(request)
        for request in azure.requests
        # Operations lie where an answer's header says; identities have descriptions of their own.
        if "/operations/" not in request.path
        and not request.path.startswith("/identity/")
        and request.method != "DELETE"
    }
    assert len(seen) >= 15, seen


# -- what the emulator refuses -----------------------------------------------------------------

_WRONG: list[Any] = ["", -1, 2.5, [], {}, 1, True]
# The SDK's types allow null in more places than the descriptions; cloudai sends none.


def mutants(body: Any) -> Iterator[tuple[str, Any]]:
    """The body with one thing wrong, or strange, at a time."""
    for path in paths(body, ()):
        where = ".".join(map(str, path))
        if isinstance(at(body, path), dict):
            yield f"{where}.zzz added", changed(body, (*path, "zzz"), 1)
        if path:
            yield f"{where} left out", changed(body, path, ...)
            for wrong in _WRONG:
                yield f"{where}={wrong!r}", changed(body, path, wrong)


def paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    steps: Any = value.items() if isinstance(value, dict) else ()
    for step, inner in enumerate(value) if isinstance(value, list) else steps:
        yield from paths(inner, (*path, step))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(body)
    if value is ...:
        del at(made, path[:-1])[path[-1]]
    else:
        at(made, path[:-1])[path[-1]] = value
    return made


def chat_body() -> dict[str, Any]:
    body = json.loads(wire.encode(REQUESTS["chat_everything"], stream=True))
    parts = body["messages"][1]["content"]
    body["messages"][1]["content"] = [part for part in parts if part["type"] != "file"]
    return body


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


_EMBEDDINGS = {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8}
_BATCH = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "metadata": {"a": "b"},
}
_DEPLOYMENT = (
    "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers"
    "/Microsoft.CognitiveServices/accounts/{accountName}/deployments/{deploymentName}"
)


@pytest.mark.parametrize(
    ("file", "path", "kind", "body"),
    [
        (V1, "/openai/v1/chat/completions", "chat.stream", chat_body()),
        (
            DATED,
            "/openai/deployments/{deployment-id}/chat/completions",
            "chat.stream",
            {**chat_body(), "response_format": {"type": "text"}},
        ),
        (V1, "/openai/v1/embeddings", "embeddings", _EMBEDDINGS),
        (DATED, "/openai/deployments/{deployment-id}/embeddings", "embeddings", _EMBEDDINGS),
        (OPENAI, "/v1/embeddings", "embeddings", _EMBEDDINGS),
        (V1, "/openai/v1/fine_tuning/jobs", "fine_tuning", golden("fine_tuning.json")),
        (OPENAI, "/v1/fine_tuning/jobs", "fine_tuning", golden("fine_tuning.json")),
        (OPENAI, "/v1/batches", "batches", _BATCH),
        (MANAGEMENT, _DEPLOYMENT, "deployment", golden("deployments.json")[0]),
    ],
)
def test_what_a_description_refuses_the_emulator_refuses(
    file: str, path: str, kind: str, body: Any
) -> None:
    published = body_of(file, path, "put" if kind == "deployment" else "post")
    taken = _checked if kind == "deployment" else lambda made: check(kind, made)
    assert published.is_valid(body)
    taken(body)
    refused = 0
    for what, wrong in mutants(body):
        if not published.is_valid(wrong):
            refused += 1
            with pytest.raises(Refused):
                taken(wrong)
                pytest.fail(f"{what} was taken")
    assert refused > 20


def test_no_null_is_sent() -> None:
    called = Message("assistant", (ToolCall("c1", "look", "{}"),))
    asked = ChatRequest(model="m", messages=(Message("user", "x"), called))
    for request in (*REQUESTS.values(), asked):
        assert b":null" not in wire.encode(request, stream=True)
