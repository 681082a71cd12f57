"""The judge of the emulators' answers sees what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import answers


def answered(
    path: str, body: Any, monkeypatch: pytest.MonkeyPatch, **environ: Any
) -> dict[str, set[str]]:
    """The faults of one answer with this body."""
    found: dict[str, set[str]] = {}
    monkeypatch.setattr(answers, "FAULTS", found)
    monkeypatch.setattr(answers, "_seen", set())
    headers = {"content-type": "application/json"}
    around = {"PATH_INFO": path, "REQUEST_METHOD": "POST", **environ}
    answers.judge(around, headers, json.dumps(body).encode())
    return found


def test_aws_a_missing_and_an_unknown_member(monkeypatch: pytest.MonkeyPatch) -> None:
    target = {"HTTP_X_AMZ_TARGET": "SageMaker.CreateTrainingJob"}
    found = answered("/", {"Arn": 1}, monkeypatch, **target)
    assert found["sagemaker:CreateTrainingJob"] == {
        ".Arn is no member of CreateTrainingJobResponse",
        ".TrainingJobArn is required in CreateTrainingJobResponse",
    }


def test_vertex_an_unknown_field_and_a_wrong_type(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/v1/projects/p/locations/l/customJobs"
    for body, told in (({"nme": "x"}, "nme"), ({"state": "JOB_STATE_OF_MIND"}, "state")):
        (faults,) = answered(path, body, monkeypatch).values()
        assert told in "".join(faults)


@pytest.mark.skipif(answers.SPECS is None, reason="no shared/specs above the project")
def test_azure_a_missing_field(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"object": "list", "model": "m", "data": []}
    (faults,) = answered("/openai/v1/embeddings", body, monkeypatch).values()
    assert faults == {".: 'usage' is a required property"}
