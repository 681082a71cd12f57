"""The suite of batch transforms."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import csv
import io
import json
import time
import uuid
from typing import Any

import pytest

from cloudai.errors import (
    Conflict,
    InvalidRequest,
    JobFailed,
    JobPartial,
    NotFound,
)
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.types import BatchTransform, JobStatus, Plan, State


class BatchConformance(Conformance):
    """What every provider of batch transforms does."""

    capability = "batch"

    def _spec(self, api: Api, **about: Any) -> BatchTransform:
        harness = api.harness
        if not about.keys() & {"model", "endpoint", "chat", "embeddings"}:
            about["model"] = harness.model()
        about.setdefault("output", harness.place("out.jsonl"))
        about.setdefault("timeout", harness.patience)
        return BatchTransform(**about)

    def _submit(self, api: Api, **about: Any) -> Any:
        return api.do(api.client.batch.submit(self._spec(api, **about)))

    def _finish(self, api: Api, job: Any, **about: Any) -> JobStatus:
        return api.do(job.wait(api.harness.patience, **about))

    def _lines(self, api: Api, job: Any) -> list[Any]:
        text = api.harness.read(api.do(job.output))
        assert text is not None, "there is no output"
        return [json.loads(line) for line in text.splitlines()]

    def _put(self, api: Api, *values: Any, name: str = "in.jsonl") -> str:
        return api.harness.put(name, "".join(f"{json.dumps(value)}\n" for value in values))

    def test_order(self, api: Api) -> None:
        values = list(range(60))
        job = self._submit(api, input=self._put(api, *values), batch_size=7)
        status = self._finish(api, job)
        assert status.state is State.SUCCEEDED
        assert self._lines(api, job) == [2 * value for value in values]
        assert api.do(job.progress) == (60, 60)
        assert status.errors == 0

    def test_params(self, api: Api) -> None:
        job = self._submit(api, input=self._put(api, 1, {"value": 2}), params={"add": 1})
        self._finish(api, job)
        assert self._lines(api, job) == [3, {"value": 5}]

    def test_csv(self, api: Api) -> None:
        rows = api.harness.put("in.csv", 'name,place\nAda,"London, UK"\nAlan,"a\nb"\n')
        output = api.harness.place("out.csv")
        job = self._submit(api, input=rows, output=output)
        self._finish(api, job)
        text = api.harness.read(output)
        assert text is not None
        told = list(csv.DictReader(io.StringIO(text, newline="")))
        assert told == [
            {"name": "ADA", "place": "LONDON, UK"},
            {"name": "ALAN", "place": "A\nB"},
        ]

    def test_csv_to_lines(self, api: Api) -> None:
        job = self._submit(api, input=api.harness.put("in.csv", "name\nAda\n"))
        self._finish(api, job)
        assert self._lines(api, job) == [{"name": "ADA"}]

    def test_text(self, api: Api) -> None:
        job = self._submit(api, input=api.harness.put("in.txt", "one line\nanother\n"))
        self._finish(api, job)
        assert self._lines(api, job) == ["ONE LINE", "ANOTHER"]

    def test_format_that_is_told(self, api: Api) -> None:
        job = self._submit(api, input=api.harness.put("in.data", "1\n2\n"), format="jsonl")
        self._finish(api, job)
        assert self._lines(api, job) == [2, 4]

    def test_join(self, api: Api) -> None:
        job = self._submit(api, input=self._put(api, 1, 2), join="input")
        self._finish(api, job)
        assert self._lines(api, job) == [
            {"input": 1, "output": 2},
            {"input": 2, "output": 4},
        ]

    def test_key(self, api: Api) -> None:
        values = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
        job = self._submit(api, input=self._put(api, *values), key="id")
        self._finish(api, job)
        lines = self._lines(api, job)
        assert [line["key"] for line in lines] == ["a", "b"]
        assert [line["output"]["n"] for line in lines] == [2, 4]

    def test_no_lines(self, api: Api) -> None:
        job = self._submit(api, input=self._put(api))
        assert self._finish(api, job).state is State.SUCCEEDED
        assert self._lines(api, job) == []

    def test_unicode(self, api: Api) -> None:
        values = ["zwölf", "日本語", "line\u2028separator", "😀"]
        job = self._submit(api, input=self._put(api, *values))
        self._finish(api, job)
        text = api.harness.read(api.do(job.output)) or ""
        lines = [json.loads(line) for line in text.strip("\n").split("\n")]
        assert lines == [value.upper() for value in values]

    def test_on_error_fail(self, api: Api) -> None:
        job = self._submit(api, input=self._put(api, 1, "bad", 3), batch_size=1)
        with pytest.raises(JobFailed) as caught:
            self._finish(api, job)
        assert "this input is bad" in str(caught.value)
        assert api.harness.read(api.harness.place("out.jsonl")) is None
        with pytest.raises(NotFound):
            api.do(job.output)

    def test_on_error_skip(self, api: Api) -> None:
        values = [1, "bad", 3, "bad", 5]
        job = self._submit(api, input=self._put(api, *values), on_error="skip")
        with pytest.raises(JobPartial):
            self._finish(api, job)
        status = self._finish(api, job, check=False)
        assert status.state is State.PARTIAL
        assert status.errors == 2
        assert self._lines(api, job) == [2, None, 6, None, 10]

    def test_on_error_dead_letter(self, api: Api) -> None:
        values = [1, "bad", 3]
        job = self._submit(api, input=self._put(api, *values), on_error="dead_letter")
        status = self._finish(api, job, check=False)
        assert status.state is State.PARTIAL
        assert self._lines(api, job) == [2, None, 6]
        text = api.harness.read(status.outputs["errors"])
        assert text is not None
        (letter,) = [json.loads(line) for line in text.splitlines()]
        assert letter["input"] == "bad"
        assert "this input is bad" in json.dumps(letter)

    def test_line_that_is_no_json(self, api: Api) -> None:
        lines = api.harness.put("in.jsonl", "1\n{broken\n3\n")
        job = self._submit(api, input=lines, on_error="skip")
        status = self._finish(api, job, check=False)
        assert status.state is State.PARTIAL
        assert self._lines(api, job) == [2, None, 6]

    def test_line_that_is_too_long(self, api: Api) -> None:
        lines = self._put(api, "short", "x" * 500)
        job = self._submit(api, input=lines, max_payload=100, on_error="skip")
        status = self._finish(api, job, check=False)
        assert status.state is State.PARTIAL
        assert self._lines(api, job) == ["SHORT", None]

    @feature("chat")
    def test_chat(self, api: Api) -> None:
        prompt = api.harness.prompt
        values = [
            prompt,
            {"prompt": prompt},
            {"messages": [{"role": "user", "content": prompt}]},
        ]
        job = self._submit(
            api,
            input=self._put(api, *values),
            chat=api.harness.chat_model or "",
            params={"max_tokens": 4, "temperature": 0.0},
        )
        self._finish(api, job)
        lines = self._lines(api, job)
        assert len(lines) == 3
        for line in lines:
            assert line["text"].strip()
            assert line["finish_reason"] in {"stop", "length"}
            assert line["usage"]["input_tokens"] > 0
            assert 0 < line["usage"]["output_tokens"] <= 4

    @feature("embeddings")
    def test_embeddings(self, api: Api) -> None:
        one, _, other = api.harness.similar
        job = self._submit(
            api,
            input=self._put(api, one, {"text": other}, one),
            embeddings=api.harness.embedding_model or "",
        )
        self._finish(api, job)
        first, second, third = (line["embedding"] for line in self._lines(api, job))
        assert first == pytest.approx(third, abs=1e-3)
        assert len(first) == len(second) > 1
        assert first != pytest.approx(second, abs=1e-3)

    @feature("endpoint")
    def test_endpoint(self, api: Api) -> None:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        endpoint = api.do(api.client.endpoints.deploy(api.harness.model(scale=3), name=name))
        job = self._submit(api, input=self._put(api, 1, 2), endpoint=name)
        self._finish(api, job)
        assert self._lines(api, job) == [3, 6]
        api.do(endpoint.delete())

    @feature("trained_model")
    def test_a_trained_model(self, api: Api) -> None:
        from cloudai.testing.conformance.harness import Work

        trained = api.do(api.client.training.submit(api.harness.job(Work(scale=4))))
        api.do(trained.wait(api.harness.patience))
        job = self._submit(api, input=self._put(api, 1, 2), model=api.do(trained.model))
        self._finish(api, job)
        assert self._lines(api, job) == [4, 8]

    def test_output_that_is_there(self, api: Api) -> None:
        lines, output = self._put(api, 1), api.harness.put("out.jsonl", "precious\n")
        with pytest.raises((Conflict, InvalidRequest), match="output"):
            self._submit(api, input=lines, output=output)
        assert api.harness.read(output) == "precious\n"
        job = self._submit(api, input=lines, output=output, overwrite=True)
        self._finish(api, job)
        assert self._lines(api, job) == [2]

    @feature("resume")
    def test_resume_after_cancel(self, api: Api) -> None:
        values = list(range(40))
        lines = self._put(api, *values)
        spec = api.harness.slow(self._spec(api, input=lines, batch_size=2, concurrency=1))
        job = api.do(api.client.batch.submit(spec))
        end = time.monotonic() + api.harness.patience
        while api.do(job.progress)[0] < 4 and not api.do(job.state).done:
            assert time.monotonic() < end, "it made no progress"
            time.sleep(0.02)
        api.do(job.cancel())
        stopped = self._finish(api, job, check=False)
        assert stopped.state is State.CANCELLED
        assert api.harness.read(spec.output) is None, "half of the output was put in place"
        again = api.do(api.client.batch.submit(spec))
        status = self._finish(api, again)
        assert status.state is State.SUCCEEDED
        assert self._lines(api, again) == [2 * value for value in values]

    def test_attach_from_another_process(self, api: Api) -> None:
        job = self._submit(api, input=self._put(api, 1, 2))
        told = api.elsewhere(
            job.id, f"[it.id, it.wait({api.harness.patience}).state.value, it.output]"
        )
        assert told == [job.id, "SUCCEEDED", api.do(job.output)]
        assert self._lines(api, job) == [2, 4]

    def test_same_key_same_job(self, api: Api) -> None:
        spec = self._spec(api, input=self._put(api, 1), idempotency_key=uuid.uuid4().hex)
        first = api.do(api.client.batch.submit(spec))
        second = api.do(api.another().batch.submit(spec))
        assert first.id == second.id
        self._finish(api, second)

    def test_list_and_delete(self, api: Api) -> None:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        job = self._submit(api, input=self._put(api, 1), name=name)
        self._finish(api, job)
        listed: list[JobStatus] = api.do(api.client.batch.list())
        assert name in [one.name for one in listed]
        api.do(job.delete())
        with pytest.raises(NotFound):
            api.do(api.another().attach(job.id))

    @pytest.mark.parametrize("field", ["input", "model"])
    def test_what_is_missing(self, api: Api, field: str) -> None:
        given: dict[str, Any] = {"input": self._put(api, 1)}
        given[field] = str(api.harness.folder / "nowhere.jsonl")
        with pytest.raises((InvalidRequest, NotFound)) as caught:
            self._submit(api, **given)
        assert field in str(caught.value)
        assert api.do(api.client.resources()) == []

    def test_plan(self, api: Api) -> None:
        plan: Plan = api.do(api.client.batch.plan(self._spec(api, input=self._put(api, 1))))
        assert plan.ok, plan.violations
        assert plan.capability == "batch"
        assert plan.requests

    def test_lost_reply(self, api: Api) -> None:
        api.faults().lose_reply("batch.submit")
        job = self._submit(api, input=self._put(api, 1))
        assert self._finish(api, job).state is State.SUCCEEDED
        assert len(api.do(api.client.batch.list())) == 1
