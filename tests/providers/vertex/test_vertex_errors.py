"""The table of errors is whole, and says what the service said."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from cloudai.errors import (
    AuthenticationError,
    CapacityError,
    CloudAIError,
    Conflict,
    ContextOverflow,
    InvalidRequest,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.providers.vertex import errors


def test_every_code_is_mapped_in_its_place() -> None:
    from google.rpc import code_pb2

    numbers = dict(code_pb2.Code.items())
    assert {name: list(errors.CODES).index(name) for name in errors.CODES} == numbers
    assert all(errors.by_number(number) == name for name, number in numbers.items())
    assert errors.by_number(99) == "UNKNOWN"


def answer(status_code: int, **error: Any) -> CloudAIError:
    body = json.dumps({"error": {"code": status_code, **error}}).encode()
    return errors.from_response(status_code, {"x-request-id": "r1"}, body)


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"status": "INVALID_ARGUMENT", "message": "bad"}, InvalidRequest),
        (401, {"status": "UNAUTHENTICATED", "message": "who?"}, AuthenticationError),
        (403, {"status": "PERMISSION_DENIED", "message": "no"}, PermissionDenied),
        (409, {"status": "ABORTED", "message": "race"}, ServiceUnavailable),
        (409, {"status": "ALREADY_EXISTS", "message": "taken"}, Conflict),
        (
            429,
            {
                "status": "RESOURCE_EXHAUSTED",
                "message": "Quota exceeded for aiplatform.googleapis.com/"
                "generate_content_requests_per_minute_per_project_per_base_model",
            },
            RateLimited,
        ),
        (
            429,
            {
                "status": "RESOURCE_EXHAUSTED",
                "message": "The following quota metrics exceed quota limits: "
                "aiplatform.googleapis.com/custom_model_training_nvidia_h100_gpus",
            },
            QuotaExceeded,
        ),
        (
            503,
            {
                "status": "UNAVAILABLE",
                "message": "Resources are insufficient in region: us-central1. Please try a "
                "different region or use a different accelerator.",
            },
            CapacityError,
        ),
        (
            400,
            {
                "status": "INVALID_ARGUMENT",
                "message": "The input token count (1052577) exceeds the maximum number of tokens "
                "allowed (1048576).",
            },
            ContextOverflow,
        ),
        (504, {"status": "DEADLINE_EXCEEDED", "message": "slow"}, ServiceUnavailable),
    ],
)
def test_kinds(status: int, error: dict[str, Any], kind: type[CloudAIError]) -> None:
    found = answer(status, **error)
    assert type(found) is kind
    assert found.provider == "vertex"
    assert found.status == status
    assert found.request_id == "r1"
    assert pickle.loads(pickle.dumps(found)).message == found.message


def test_details() -> None:
    found = answer(
        429,
        status="RESOURCE_EXHAUSTED",
        message="slow down",
        details=[
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"},
            {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "abc"},
        ],
    )
    assert found.retry_after == 3.5
    assert found.request_id == "abc"
    bad = answer(
        400,
        status="INVALID_ARGUMENT",
        message="no",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": "job_spec.worker_pool_specs", "description": "no"}],
            }
        ],
    )
    assert isinstance(bad, InvalidRequest)
    assert bad.field == "job_spec.worker_pool_specs"


def test_answers_that_are_not_google_s() -> None:
    page = errors.from_response(502, {}, b"<html>Bad Gateway</html>")
    assert isinstance(page, ServiceUnavailable)
    assert page.ambiguous
    assert isinstance(errors.from_response(404, {}, b""), CloudAIError)
    listed = errors.from_response(
        429, {"retry-after": "2"}, b'[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]'
    )
    assert isinstance(listed, RateLimited)
    assert listed.retry_after == 2


def test_tokens_are_taken_out_of_messages() -> None:
    found = answer(400, status="INVALID_ARGUMENT", message="header Bearer ya29.SECRET-abc is bad")
    assert "SECRET" not in str(found)
