"""Errors by the services' own words (findings of 2026-11, with reports of users)."""

from __future__ import annotations

import json

import pytest

from cloudai import errors
from cloudai.providers.aws import errors as aws
from cloudai.providers.azure import errors as azure
from cloudai.providers.vertex import errors as vertex

QUOTA = (
    "Quota exceeded for aiplatform.googleapis.com/{} with base model: gemini-3.5-flash. Please "
    "submit a quota increase request."
)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("online_prediction_requests_per_base_model", errors.RateLimited),
        ("generate_content_requests_per_minute_per_project_per_base_model", errors.RateLimited),
        ("custom_model_training_nvidia_l4_gpus", errors.QuotaExceeded),
    ],
)
def test_e1_a_rate_of_a_base_model_passes(metric: str, kind: type[errors.CloudAIError]) -> None:
    told = {"code": 429, "message": QUOTA.format(metric), "status": "RESOURCE_EXHAUSTED"}
    for body in ({"error": told}, [{"error": told}]):
        assert type(vertex.from_response(429, {}, json.dumps(body).encode())) is kind


def test_e2_overflow_has_both_numbers() -> None:
    text = "The input token count is 1050000 but model only supports up to 1048576."
    google = vertex.make("INVALID_ARGUMENT", text, status=400)
    text = "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000, decrease"
    bedrock = aws.make("ValidationException", text, status=400)
    for error, numbers in ((google, (1050000, 1048576)), (bedrock, (206192, 200000))):
        assert isinstance(error, errors.ContextOverflow)
        assert (error.tokens, error.limit) == numbers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (429, errors.RateLimited),
    ],
)
def test_e3_a_type_alone_leaves_it_to_the_status(
    status: int, kind: type[errors.CloudAIError]
) -> None:
    body = {"error": {"message": "no", "type": "invalid_request_error", "code": None}}
    error = azure.error_of(status, {}, json.dumps(body).encode())
    assert type(error) is kind


def test_e3_a_context_that_overflows_is_told_without_a_code() -> None:
    text = "This model's maximum context length is 4096 tokens, however you requested 5000 tokens"
    body = {"error": {"message": text, "type": "invalid_request_error"}}
    error = azure.error_of(400, {}, json.dumps(body).encode())
    assert isinstance(error, errors.ContextOverflow)
    assert (error.tokens, error.limit) == (5000, 4096)
