"""Errors: every code of the services that are used is in the table; what messages tell."""

from __future__ import annotations

import botocore.session
import pytest
from urllib3 import exceptions as http

from cloudai._core.calls.http import Http
from cloudai._core.calls.network import Network
from cloudai.errors import (
    CallTimeout,
    Conflict,
    ConnectionFailed,
    ContextOverflow,
    HandlerError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.providers.aws import errors

SERVICES = (
    "sagemaker", "sagemaker-runtime", "bedrock", "bedrock-runtime", "s3", "sts",
    "secretsmanager", "logs", "application-autoscaling", "resourcegroupstaggingapi",
    "cloudwatch", "sso", "sso-oidc",
)  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_every_code_is_mapped(service: str) -> None:
    model = botocore.session.Session().get_service_model(service)
    codes = errors.codes_of(model.error_shapes)
    assert codes
    assert codes - set(errors.CODES) == set()


def test_the_codes_of_getting_a_parameter_are_mapped() -> None:
    model = botocore.session.Session().get_service_model("ssm")
    codes = errors.codes_of(model.operation_model("GetParameter").error_shapes)
    assert codes
    assert codes - set(errors.CODES) == set()


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("ThrottlingException", "Rate exceeded", 429, RateLimited),
        ("AccessDeniedException", "no", 403, PermissionDenied),
        ("ResourceInUse", "exists", 400, Conflict),
        ("ResourceLimitExceeded", "0 instances", 400, QuotaExceeded),
        ("ValidationException", "Could not find model data at s3://x", 400, NotFound),
        ("ValidationException", "Requested resource not found.", 400, NotFound),
        ("ValidationException", "Cannot create already existing model", 400, Conflict),
        ("ValidationException", 'Cannot update in-progress endpoint "x"', 400, Conflict),
        ("ValidationException", "temperature is wrong", 400, InvalidRequest),
        ("ValidationException", "Input is too long for requested model.", 400, ContextOverflow),
        ("ModelError", "the container failed", 424, HandlerError),
        ("SomethingNew", "", 503, ServiceUnavailable),
        ("", "", 429, RateLimited),
    ],
)
def test_what_a_code_means(code: str, message: str, status: int, kind: type[Exception]) -> None:
    error = errors.make(code, message, status=status, request_id="r-1", retry_after=2.0)
    assert type(error) is kind
    assert (error.provider, error.request_id, error.retry_after) == ("aws", "r-1", 2.0)
    assert error.status == status


def test_an_overflow_names_both_numbers() -> None:
    error = errors.make(
        "ValidationException", "prompt is too long: 215,000 tokens > 200000 maximum"
    )
    assert isinstance(error, ContextOverflow)
    assert (error.tokens, error.limit) == (215000, 200000)


@pytest.mark.parametrize(
    ("cause", "kind", "ambiguous"),
    [
        (http.NewConnectionError(None, "refused"), ConnectionFailed, False),  # type: ignore[arg-type]
        (http.ConnectTimeoutError("late"), ConnectionFailed, False),
        (http.ReadTimeoutError(None, "/", "late"), CallTimeout, True),  # type: ignore[arg-type]
        (http.ProtocolError("reset"), ConnectionFailed, True),
    ],
)
def test_failures_of_the_transport(
    cause: Exception, kind: type[Exception], ambiguous: bool
) -> None:
    error = Http("aws", Network()).failed(cause, "https://x")
    assert type(error) is kind
    assert error.ambiguous is ambiguous


def test_a_service_that_failed_may_have_done_it() -> None:
    assert errors.make("InternalServerException", "oops", status=500).ambiguous
    assert not errors.make("ThrottlingException", "slow", status=429).ambiguous
