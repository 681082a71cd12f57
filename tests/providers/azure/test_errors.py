"""The vendor's errors as ours."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any, get_args

import pytest

from cloudai import errors
from cloudai._core.calls.failures import retry_after
from cloudai.providers.azure.errors import CODES, error_of
from cloudai.providers.azure.models import TABLE
from cloudai.providers.azure.openai.wire import batch as batch_wire
from cloudai.providers.azure.openai.wire import training as training_wire


@pytest.mark.parametrize("status", [*range(400, 452), 500, 502, 503, 504])
def test_every_status_has_an_error(status: int) -> None:
    error = error_of(status, {"apim-request-id": "r1"}, b"{}")
    assert (error.status, error.request_id, error.provider) == (status, "r1", "azure")
    assert error.retryable == (status in {408, 424, 429} or status >= 500)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_error(code: str) -> None:
    body = json.dumps({"error": {"code": code, "message": "m"}}).encode()
    assert type(error_of(400, {}, body)) is CODES[code]


def test_the_states_of_the_sdk_are_all_known() -> None:
    from openai.types import Batch
    from openai.types.fine_tuning import FineTuningJob

    for model, states in (
        (Batch, batch_wire.STATES),
        (FineTuningJob, training_wire._STATES),
    ):
        natives: Any = get_args(model.model_fields["status"].annotation)
        assert natives
        assert set(natives) <= set(states)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    told = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert told is not None
    assert 25 < told <= 31


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": {"code": "PermissionDenied", "message": "m"}}, errors.PermissionDenied),
        (401, {"statusCode": 401, "message": "Access denied"}, errors.AuthenticationError),
        (429, {"error": {"code": "insufficient_quota", "message": "m"}}, errors.QuotaExceeded),
        (429, {"error": {"code": "429", "message": "m"}}, errors.RateLimited),
        (418, "teapot", errors.ProviderError),
    ],
)
def test_shapes(status: int, body: Any, kind: type[errors.CloudAIError]) -> None:
    assert type(error_of(status, {}, json.dumps(body).encode())) is kind


def test_pages_of_proxies_and_keys_in_messages() -> None:
    error = error_of(502, {}, b"<html>Bad gateway</html>")
    assert isinstance(error, errors.ServiceUnavailable)
    assert error.ambiguous
    key = "0123456789abcdef" * 2
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}).encode()
    assert key not in str(error_of(401, {}, body))


def test_prices_by_the_longest_name() -> None:
    find = TABLE.find
    assert find("gpt-5-2025-08-07") == find("gpt-5") != find("gpt-5-mini")
    assert find("gpt-5-mini-2025-08-07") == find("gpt-5-mini")
    assert find("gpt-5-pro") is None
    assert find("gpt-5.ft-1-mine") is None
