"""One answer of a batch that was withheld, or is none: its line alone fails."""

from __future__ import annotations

import msgspec
import pytest

from cloudai.errors import InvalidRequest
from cloudai.providers.azure.openai.wire import batch


def line(**body: object) -> bytes:
    response = {"status_code": 200, "body": body}
    return msgspec.json.encode({"custom_id": "line-0", "response": response})


def test_a1_a_line_that_the_filter_withheld_is_an_answer() -> None:
    made = batch.outcome(line(choices=[{"finish_reason": "content_filter"}], model="m"), "m")
    assert (made["text"], made["finish_reason"]) == ("", "content_filter")


def test_a1_a_line_with_an_error_is_that_lines_error() -> None:
    for body in ({"error": {"code": "server_error", "message": "broken"}}, {"choices": []}):
        with pytest.raises(InvalidRequest):
            batch.outcome(line(**body), "m")
