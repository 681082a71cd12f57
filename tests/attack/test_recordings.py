"""K9: what a recording of each service's answers must not hold. The shapes are those of the
services' published models (botocore's, Google's discovery documents, Azure's REST reference); the
test proxy of the Azure SDKs sanitizes the same fields."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cloudai.testing.cassette import Exchange, Response, load, save
from cloudai.testing.scrub import Scrubber

SECRET = "Zq8xSECRETvalue0123456789abcdef/+A=="
JSON = "application/json"


def answer(uri: str, body: Any, kind: str = JSON, **headers: str) -> Exchange:
    data = body if isinstance(body, str) else json.dumps(body)
    given = (("Content-Type", kind), *headers.items())
    return Exchange(
        method="POST", uri=uri, response=Response(status=200, headers=given, body=data.encode())
    )


def sent(uri: str, body: Any, kind: str = JSON) -> Exchange:
    data = body if isinstance(body, str) else json.dumps(body)
    return Exchange(
        method="POST", uri=uri, headers=(("Content-Type", kind),), body=data.encode(),
        response=Response(status=200),
    )  # fmt: skip


STS = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>
<SessionToken>{SECRET}t</SessionToken></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
SAS = (
    "https://acc.blob.core.windows.net/c/b?sv=2024-11-04&se=2026-12-01&sr=c&sp=rl"
    f"&sig={quote(SECRET, safe='')}"
)
PRESIGNED = (
    "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F2026"
    f"&X-Amz-Expires=3600&X-Amz-Signature={quote(SECRET, safe='')}"
)
GOOGLE_SIGNED = (
    "https://storage.googleapis.com/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256"
    f"&X-Goog-Credential=sa%40p&X-Goog-Signature={quote(SECRET, safe='')}"
)
CONNECTION = (
    f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={SECRET};"
    "EndpointSuffix=core.windows.net"
)
ARM = "https://management.azure.com/subscriptions/s/resourceGroups/r/providers"

SHAPES: dict[str, Exchange] = {
    "Key Vault secret": answer(
        "https://v.vault.azure.net/secrets/n/1?api-version=7.5",
        {"value": SECRET, "id": "https://v.vault.azure.net/secrets/n/1", "attributes": {}},
    ),
    "Key Vault secret, set": sent("https://v.vault.azure.net/secrets/n", {"value": SECRET}),
    "Secret Manager": answer(
        "https://secretmanager.googleapis.com/v1/projects/p/secrets/s/versions/1:access",
        {"name": "n", "payload": {"data": base64.b64encode(SECRET.encode()).decode()}},
    ),
    "Secrets Manager": answer(
        "https://secretsmanager.us-east-1.amazonaws.com/",
        {"ARN": "a", "Name": "n", "SecretString": SECRET}, "application/x-amz-json-1.1",
    ),
    "Secrets Manager, an object": answer(
        "https://secretsmanager.us-east-1.amazonaws.com/",
        {"Name": "n", "SecretString": json.dumps({"password": SECRET})},
        "application/x-amz-json-1.1",
    ),
    "SSM": answer(
        "https://ssm.us-east-1.amazonaws.com/",
        {"Parameter": {"Name": "n", "Type": "SecureString", "Value": SECRET}},
        "application/x-amz-json-1.1",
    ),
    "SSM, many": answer(
        "https://ssm.us-east-1.amazonaws.com/",
        {"Parameters": [{"Name": "n", "Type": "SecureString", "Value": SECRET}]},
        "application/x-amz-json-1.1",
    ),
    "STS": answer("https://sts.us-east-1.amazonaws.com/", STS, "text/xml"),
    "instance role": answer(
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/r",
        {"Code": "Success", "AccessKeyId": "A", "SecretAccessKey": SECRET, "Token": SECRET + "t"},
        "text/plain",
    ),
    "Entra ID": answer(
        "https://login.microsoftonline.com/t/oauth2/v2.0/token", {"access_token": SECRET}
    ),
    "Entra ID, asked": sent(
        "https://login.microsoftonline.com/t/oauth2/v2.0/token",
        f"grant_type=client_credentials&client_id=i&client_secret={quote(SECRET, safe='')}",
        "application/x-www-form-urlencoded",
    ),
    "listKeys of Cognitive Services": answer(
        f"{ARM}/Microsoft.CognitiveServices/accounts/a/listKeys?api-version=1",
        {"key1": SECRET, "key2": SECRET + "2"},
    ),
    "listKeys of Storage": answer(
        f"{ARM}/Microsoft.Storage/storageAccounts/a/listKeys?api-version=1",
        {"keys": [{"keyName": "key1", "value": SECRET, "permissions": "FULL"}]},
    ),
    "listSecrets of a datastore": answer(
        f"{ARM}/Microsoft.MachineLearningServices/workspaces/w/datastores/d/listSecrets",
        {"secretsType": "AccountKey", "key": SECRET},
    ),
    "keys of an endpoint": answer(
        f"{ARM}/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/e/listKeys",
        {"primaryKey": SECRET, "secondaryKey": SECRET + "2"},
    ),
    "connection string": answer(
        f"{ARM}/Microsoft.MachineLearningServices/workspaces/w", {"connectionString": CONNECTION}
    ),
    "SAS in an answer": answer(
        f"{ARM}/Microsoft.MachineLearningServices/workspaces/w/codes/c/startPendingUpload",
        {"blobReferenceForConsumption": {"credential": {"sasUri": SAS}}},
    ),
    "SAS as an address": answer(SAS, "{}"),
    "SAS in a header": answer(SAS.partition("?")[0], "{}", **{"x-ms-copy-source": SAS}),
    "presigned by AWS": answer("https://sagemaker.us-east-1.amazonaws.com/", {"Url": PRESIGNED}),
    "signed by Google": answer("https://aiplatform.googleapis.com/v1/x", {"uri": GOOGLE_SIGNED}),
    "API key in a job's environment": sent(
        "https://api.sagemaker.us-east-1.amazonaws.com/",
        {"TrainingJobName": "j", "Environment": {"OPENAI_API_KEY": SECRET, "DB_PASSWORD": SECRET}},
        "application/x-amz-json-1.1",
    ),
    "API key in a list of variables": sent(
        "https://aiplatform.googleapis.com/v1/projects/p/locations/l/customJobs",
        {"jobSpec": {"workerPoolSpecs": [
            {"containerSpec": {"env": [{"name": "HF_TOKEN", "value": SECRET}]}}]}},
    ),
    "service account": sent("https://x.googleapis.com/", {"private_key": SECRET, "type": "sa"}),
    "key in an address": answer(f"https://g.googleapis.com/v1?key={quote(SECRET, safe='')}", "{}"),
    "a key's header": Exchange(
        method="GET", uri="https://a/", headers=(("Ocp-Apim-Subscription-Key", SECRET),),
        response=Response(status=200),
    ),
    "ECR": answer(
        "https://api.ecr.us-east-1.amazonaws.com/",
        {"authorizationData": [{"authorizationToken": SECRET, "proxyEndpoint": "https://x"}]},
        "application/x-amz-json-1.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize("name", SHAPES)
def test_k9_no_secret_reaches_a_recording(name: str, ending: str, tmp_path: Path) -> None:
    if ending == "yaml":
        pytest.importorskip("yaml")
    exchange = Scrubber().exchange(SHAPES[name])
    path = tmp_path / f"cassette.{ending}"
    save(path, [exchange])
    text = path.read_text()
    for form in (SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()):
        assert form not in text, text
    assert SECRET[:12] not in text
    (again,) = load(path)
    kind = dict(exchange.response.headers).get("Content-Type")
    if kind and "json" in kind:
        json.loads(again.response.body)  # still what an SDK reads


def test_k9_what_is_no_secret_stays() -> None:
    body = {
        "id": "chatcmpl-1", "usage": {"total_tokens": 3}, "value": "plain", "Value": "x",
        "choices": [{"message": {"content": "the key is under the mat"}}],
        "Environment": {"EPOCHS": "3", "TOKENIZERS_PARALLELISM": "false"},
        "HyperParameters": {"max_tokens": "16"}, "keys": ["a"], "Parameters": [{"Value": "1"}],
    }  # fmt: skip
    exchange = answer("https://api.example.com/v1/chat", body)
    assert Scrubber().exchange(exchange) == exchange


def test_k9_a_scrubbed_request_still_matches_itself() -> None:
    scrubber = Scrubber()
    for exchange in SHAPES.values():
        once = scrubber.exchange(exchange)
        assert scrubber.exchange(once) == once
