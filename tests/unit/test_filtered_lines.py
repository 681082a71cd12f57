"""One answer of a batch that was withheld, or is none: its line alone fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudai._core.batches.assemble import source_of
from cloudai.errors import HandlerError, InvalidRequest
from cloudai.providers.aws.batch.staging import Answers
from cloudai.providers.azure.openai.wire import batch
from cloudai.providers.vertex.batch import wire as vertex
from cloudai.types import BatchTransform


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


TITAN = "amazon.titan-embed-text-v2:0"


@pytest.mark.parametrize("broken", [{}, {"embeding": [1.0]}, {"embedding": None}])
def test_a1_a_vector_that_is_none_fails_alone_on_aws(tmp_path: Path, broken: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('"a"\n"b"\n"c"\n')
    spec = BatchTransform(input=str(path), output="out.jsonl", embeddings=TITAN)
    results = iter([{"embedding": [1.0]}, broken, {"embedding": [3.0]}])
    answers = Answers(spec, source_of(spec), results)
    assert answers(["a"]) == [{"embedding": [1.0]}]
    with pytest.raises(HandlerError):
        answers(["b"])
    assert answers(["c"]) == [{"embedding": [3.0]}]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({"embeddings": "gemini-embedding-2"}, {"key": "0", "response": {}}),
        ({"embeddings": "gemini-embedding-2"}, {"key": "0", "response": {"embedding": None}}),
        ({"embeddings": "text-embedding-005"}, {"instance": {"content": "a"}, "predictions": [{}]}),
        ({"chat": "gemini-3.5-flash"}, {"request": {"labels": {"cloudai_line": "0"}}}),
        (
            {"chat": "gemini-3.5-flash"},
            {
                "request": {"labels": {"cloudai_line": "0"}},
                "response": {"promptFeedback": {"blockReason": "SAFETY"}},
            },
        ),
    ],
)
def test_a1_an_answer_that_is_none_fails_alone_on_vertex(
    kind: dict[str, str], told: dict[str, Any]
) -> None:
    spec = BatchTransform(input="gs://b/in", output="gs://b/out", **kind)  # type: ignore[arg-type]
    outcomes = vertex.Outcomes(spec, [vertex.line(spec, 0, "a", objects=False)])
    outcomes.add(msgspec.json.encode(told))
    with pytest.raises((HandlerError, InvalidRequest)):
        outcomes.answer(0)
