"""The suite of training jobs."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import json
import time
import uuid
from typing import Any, Final

import pytest

from cloudai.errors import (
    Conflict,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    NotFound,
    WaitTimeout,
)
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.testing.conformance.harness import Work
from cloudai.types import JobStatus, Plan, State

LONG: Final = Work(seconds=120.0)
"""Longer than any test waits: such a job is cancelled, or stopped by its timeout."""

_ORDER: Final = (State.PLANNED, State.QUEUED, State.STARTING, State.RUNNING, State.STOPPING)


class TrainingConformance(Conformance):
    """What every provider of training jobs does."""

    capability = "training"

    def _submit(self, api: Api, work: Work | None = None, **spec: Any) -> Any:
        return api.do(api.client.training.submit(api.harness.job(work or Work(), **spec)))

    def _finish(self, api: Api, job: Any, **about: Any) -> JobStatus:
        return api.do(job.wait(api.harness.patience, **about))

    def _until(self, api: Api, job: Any, *states: State) -> State:
        """Waits until the job is in one of the states, or has ended."""
        end = time.monotonic() + api.harness.patience
        while time.monotonic() < end:
            state = api.do(job.state)
            if state in states or state.done:
                return state
            time.sleep(0.02)
        raise AssertionError(f"{job} did not get to {states}")

    def test_a_job(self, api: Api) -> None:
        seen: list[JobStatus] = []
        job = self._submit(api, Work())
        status = self._finish(api, job, on_update=seen.append)
        assert status.state is State.SUCCEEDED
        assert status.exit_code in {0, None}
        assert not status.log_tail
        assert api.do(job.state) is State.SUCCEEDED
        assert status.created_at is not None
        assert status.ended_at is not None
        assert status.created_at <= (status.started_at or status.created_at) <= status.ended_at
        assert status.cost is None or status.cost >= 0
        ranks = [_ORDER.index(one.state) for one in seen if not one.state.done]
        assert ranks == sorted(ranks), "it went back"
        assert seen[-1].state is State.SUCCEEDED

    def test_outputs(self, api: Api) -> None:
        job = self._submit(api)
        self._finish(api, job)
        model = api.do(job.model)
        outputs = api.do(job.outputs)
        assert model.uri == outputs["model"]
        assert model.job == job.id
        target = api.harness.folder / "fetched"
        api.do(job.download(target))
        assert any(target.iterdir())

    def test_no_output_before_the_end(self, api: Api) -> None:
        job = self._submit(api, LONG)
        try:
            with pytest.raises(NotFound):
                api.do(job.model)
        finally:
            api.do(job.cancel())

    def test_logs(self, api: Api) -> None:
        job = self._submit(api)
        followed = [line.text for line in api.every(job.logs(follow=True))]
        assert api.do(job.state) is State.SUCCEEDED
        assert followed
        assert [line.text for line in api.every(job.logs())] == followed
        assert api.every(job.logs(since=time.time() + 3600)) == []

    def test_metrics(self, api: Api) -> None:
        job = self._submit(api)
        self._finish(api, job)
        losses = api.do(job.metrics)["loss"]
        assert [point.value for point in losses] == pytest.approx([1.0, 0.5, 0.3333], abs=1e-3)
        assert [point.step for point in losses] == [0, 1, 2]

    @feature("script")
    def test_the_script_gets_what_was_given(self, api: Api) -> None:
        text = api.harness.put("data/lines.txt", "one\ntwo\n")
        folder = api.harness.put("more/part.txt", "three\n").rpartition("/")[0]
        job = self._submit(
            api,
            inputs={"train": text, "more": folder},
            hyperparameters={"rate": 0.5, "layers": [64, 128], "name": "x", "deep": True},
        )
        self._finish(api, job)
        target = api.harness.folder / "fetched"
        api.do(job.download(target))
        seen = json.loads((target / "seen.json").read_text())
        told = {"rate": 0.5, "layers": [64, 128], "name": "x", "deep": True}
        assert told.items() <= seen["hyperparameters"].items()
        assert "one\ntwo\n" in seen["inputs"]["train"].values()
        assert "three\n" in seen["inputs"]["more"].values()

    def test_attach_from_another_client(self, api: Api) -> None:
        job = self._submit(api)
        other = api.another()
        found = api.do(other.attach(job.id))
        assert found.id == job.id
        assert self._finish(api, found).state is State.SUCCEEDED
        again = api.do(api.do(other.training.attach(job.id)).status)
        assert again == api.do(job.status)

    def test_attach_from_another_process(self, api: Api) -> None:
        job = self._submit(api)
        told = api.elsewhere(
            job.id, f"[it.id, it.wait({api.harness.patience}).state.value, it.model.uri]"
        )
        assert told == [job.id, "SUCCEEDED", api.do(job.model).uri]

    def test_cancel(self, api: Api) -> None:
        job = self._submit(api, LONG)
        self._until(api, job, State.RUNNING)
        api.do(job.cancel())
        with pytest.raises(JobCancelled) as caught:
            self._finish(api, job)
        assert caught.value.state is State.CANCELLED
        assert caught.value.id == job.id
        api.do(job.cancel())
        assert api.do(job.state) is State.CANCELLED

    def test_cancel_at_once(self, api: Api) -> None:
        job = self._submit(api, LONG)
        api.do(job.cancel())
        assert self._finish(api, job, check=False).state is State.CANCELLED

    def test_cancel_after_the_end(self, api: Api) -> None:
        job = self._submit(api)
        self._finish(api, job)
        api.do(job.cancel())
        fresh = api.do(api.another().attach(job.id))
        api.do(fresh.cancel())
        assert api.do(fresh.state) is State.SUCCEEDED

    def test_failure(self, api: Api) -> None:
        job = self._submit(api, Work(exit_code=3))
        with pytest.raises(JobFailed) as caught:
            self._finish(api, job)
        error = caught.value
        assert error.state is State.FAILED
        assert error.reason
        if api.harness.failure_exit_code:
            assert error.exit_code == 3
        assert any("training fails, as told" in line for line in error.log_tail)
        assert "training fails, as told" in str(error)
        status = self._finish(api, job, check=False)
        assert status.state is State.FAILED
        assert "model" not in status.outputs

    def test_timeout(self, api: Api) -> None:
        job = self._submit(api, LONG, timeout=1.0)
        with pytest.raises(JobTimedOut) as caught:
            self._finish(api, job)
        assert caught.value.state is State.TIMED_OUT

    def test_wait_timeout_leaves_the_job_alone(self, api: Api) -> None:
        job = self._submit(api, LONG)
        with pytest.raises(WaitTimeout):
            api.do(job.wait(0.3))
        assert not api.do(job.state).done
        api.do(job.cancel())
        self._finish(api, job, check=False)

    def test_same_key_same_job(self, api: Api) -> None:
        spec = api.harness.job(Work(), idempotency_key=uuid.uuid4().hex)
        first = api.do(api.client.training.submit(spec))
        second = api.do(api.another().training.submit(spec))
        assert first.id == second.id
        self._finish(api, second)
        third = api.do(api.client.training.submit(spec))
        assert third.id == first.id

    def test_same_key_another_job(self, api: Api) -> None:
        key = uuid.uuid4().hex
        job = self._submit(api, idempotency_key=key)
        with pytest.raises((Conflict, InvalidRequest)):
            self._submit(api, Work(scale=5), idempotency_key=key)
        self._finish(api, job)

    def test_list_and_delete(self, api: Api) -> None:
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        job = self._submit(api, name=name)
        self._finish(api, job)
        listed: list[JobStatus] = api.do(api.client.training.list())
        assert [one.state for one in listed if one.name == name] == [State.SUCCEEDED]
        assert job.id in [entry.uri for entry in api.do(api.client.resources())]
        api.do(job.delete())
        assert name not in [one.name for one in api.do(api.client.training.list())]
        assert job.id not in [entry.uri for entry in api.do(api.client.resources())]
        with pytest.raises(NotFound):
            api.do(api.another().attach(job.id))
        api.do(job.delete())

    def test_unknown_id(self, api: Api) -> None:
        job = self._submit(api)
        self._finish(api, job)
        with pytest.raises((NotFound, InvalidRequest)):
            api.do(api.client.attach(_elsewhere(job.id)))

    def test_plan(self, api: Api) -> None:
        plan: Plan = api.do(api.client.training.plan(api.harness.job(Work())))
        assert plan.ok, plan.violations
        assert plan.provider == api.harness.provider
        assert plan.capability == "training"
        assert plan.requests
        assert all(request.operation for request in plan.requests)

    @pytest.mark.parametrize("field", ["source", "entry", "inputs"])
    def test_what_is_missing(self, api: Api, field: str) -> None:
        missing: dict[str, Any] = {
            "source": str(api.harness.folder / "nowhere"),
            "entry": "nothing.py",
            "inputs": {"train": str(api.harness.folder / "no-data")},
        }
        spec = api.harness.job(Work(), **{field: missing[field]})
        with pytest.raises((InvalidRequest, NotFound)) as caught:
            api.do(api.client.training.submit(spec))
        assert field in str(caught.value)
        assert api.do(api.client.resources()) == []

    def test_lost_reply(self, api: Api) -> None:
        api.faults().lose_reply("training.submit")
        name = f"conformance-{uuid.uuid4().hex[:8]}"
        job = self._submit(api, name=name)
        assert self._finish(api, job).state is State.SUCCEEDED
        listed: list[JobStatus] = api.do(api.client.training.list())
        assert len([one for one in listed if one.name == name]) == 1

    def test_throttled_submit(self, api: Api) -> None:
        api.faults().throttle("training.submit", times=2, retry_after=0.02)
        assert self._finish(api, self._submit(api)).state is State.SUCCEEDED


def _elsewhere(uri: str) -> str:
    """The URI of a job that does not exist."""
    path, mark, query = uri.partition("?")
    return f"{path}0nothing{mark}{query}"
