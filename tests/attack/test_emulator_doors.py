"""K3: pages in a browser, and whoever lacks the credentials, at the emulated clouds' doors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import urllib3

import cloudai
from cloudai.testing import emulated
from cloudai.testing.clouds import CLOUDS, environment

FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
TRAIN = {"X-Amz-Target": "SageMaker.CreateTrainingJob", "Content-Type": "text/plain"}


def answer(url: str, headers: dict[str, str], path: str = "/", **about: Any) -> Any:
    with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False) as http:
        return http.request("POST", url + path, headers=headers, **about)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_k3_pages_and_foreign_names_are_refused(name: str) -> None:
    with emulated(name) as cloud:
        urls = {cloud.url, getattr(cloud.emulator, "vault_url", cloud.url)}
        for url in urls:
            for headers in FOREIGN:
                for path in (
                    "/",
                    "/token",
                    "/computeMetadata/v1/instance/service-accounts/default/token",
                ):
                    said = answer(url, {**TRAIN, "Metadata-Flavor": "Google", **headers}, path)
                    assert said.status in {400, 403}, (url, headers, path)
            plain = answer(url, TRAIN)
            assert not [key for key in plain.headers if key.lower().startswith("access-control")]


def test_k3_code_runs_for_those_with_the_credentials_alone() -> None:
    with emulated("aws", execute=True) as cloud:
        key = cloud.env["AWS_ACCESS_KEY_ID"]
        stamp = "AWS4-HMAC-SHA256 Credential={}/20261130/us-east-1/sagemaker/aws4_request"
        for signed in ({}, {"Authorization": stamp.format("AKIAEMULATED0000000")}):
            said = answer(cloud.url, {**TRAIN, **signed}, body=b"{}")
            assert said.status == 403
            assert b"UnrecognizedClientException" in said.data
            assert key.encode() not in said.data
        known = answer(cloud.url, {**TRAIN, "Authorization": stamp.format(key)}, body=b"{}")
        assert known.status == 400  # it is asked, and finds the body wanting


PROGRAMS = {
    "aws": """
import boto3
boto3.client("sagemaker").list_training_jobs()
boto3.client("s3").list_buckets()
""",
    "azure": """
import openai
openai.OpenAI().models.list()
""",
    "vertex": """
from google import genai
with genai.Client() as client:
    client.models.count_tokens(model="gemini-3.5-flash", contents="a")
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_k3_plain_sdks_go_on_by_the_environment_alone(name: str) -> None:
    with emulated(name, execute=True) as cloud:
        env = dict(os.environ)
        for key, value in environment([cloud]).items():
            env.pop(key, None)
            if value is not None:
                env[key] = value
        done = subprocess.run(
            [sys.executable, "-c", PROGRAMS[name] + "print('fine')"],
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("name", CLOUDS)
def test_k3_a_users_code_never_runs_in_the_emulators_process(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text(
        "import os\ndef load(folder): return None\n"
        "def predict(model, inputs, params): return [os.getpid() for _ in inputs]\n"
    )
    (tmp_path / "in.jsonl").write_text("1\n2\n")
    with emulated(name, execute=True) as cloud, cloud.applied(), cloud.client() as client:
        spec = cloudai.BatchTransform(
            model=str(tmp_path / "model"),
            input=str(tmp_path / "in.jsonl"),
            output=str(tmp_path / "out.jsonl"),
        )
        client.batch.submit(spec).wait(timeout=120)
    told = set((tmp_path / "out.jsonl").read_text().split())
    assert told
    assert str(os.getpid()) not in told
