"""The suite of endpoints."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import Any, Final

import pytest

from cloudai.errors import Conflict, EndpointError, HandlerError, InvalidRequest, NotFound
from cloudai.testing.conformance.base import Api, Conformance, feature
from cloudai.testing.conformance.harness import ASSETS, Work
from cloudai.types import EndpointStatus, Plan, Prediction, State, Variant

BROKEN_LOAD: Final = """
def load(model_dir):
    raise RuntimeError("the model is corrupt")

def predict(model, inputs, params):
    return inputs
"""

WRONG_LENGTH: Final = """
def load(model_dir):
    return None

def predict(model, inputs, params):
    return [*inputs, "one too many"]
"""

NO_PARAMS: Final = """
import json

def load(model_dir):
    return json.loads((model_dir / "model.json").read_text())["scale"]

def predict(model, inputs):
    return [model * value for value in inputs]
"""


class EndpointsConformance(Conformance):
    """What every provider of endpoints does."""

    capability = "endpoints"

    def _deploy(self, api: Api, model: Any = None, **about: Any) -> Any:
        about.setdefault("name", f"conformance-{uuid.uuid4().hex[:8]}")
        about.setdefault("timeout", api.harness.patience)
        given = api.harness.model() if model is None else model
        return api.do(api.client.endpoints.deploy(given, **about))

    def test_life(self, api: Api) -> None:
        endpoint = self._deploy(api)
        status: EndpointStatus = api.do(endpoint.status)
        assert status.state is State.RUNNING
        assert status.name == endpoint.name
        (variant,) = status.variants
        assert variant.share == pytest.approx(1.0)
        assert api.do(endpoint.predict([1, 2, 3])) == [2, 4, 6]
        api.do(endpoint.delete())
        with pytest.raises(NotFound):
            api.do(endpoint.predict([1]))
        with pytest.raises(NotFound):
            api.do(api.another().attach(endpoint.id))
        api.do(endpoint.delete())

    def test_order_and_kinds(self, api: Api) -> None:
        endpoint = self._deploy(api)
        inputs: list[Any] = [3, {"value": 1.5}, "text", 0, {"a": 1, "b": "c"}, *range(40)]
        outputs = api.do(endpoint.predict(inputs))
        expected = [6, {"value": 3.0}, "TEXT", 0, {"a": 2, "b": "C"}, *range(0, 80, 2)]
        assert outputs == expected
        api.do(endpoint.delete())

    def test_params(self, api: Api) -> None:
        endpoint = self._deploy(api)
        assert api.do(endpoint.predict([1, 2], params={"add": 10})) == [12, 14]
        pieces = api.every(endpoint.stream([1, 2], params={"add": 10}))
        assert json.loads(b"".join(pieces))["predictions"] == [12, 14]
        assert api.do(endpoint.predict([1, 2])) == [2, 4]
        api.do(endpoint.delete())

    def test_invoke(self, api: Api) -> None:
        endpoint = self._deploy(api)
        answer: Prediction = api.do(endpoint.invoke([1]))
        assert answer.outputs == [2]
        assert answer.variant == "main"
        api.do(endpoint.delete())

    def test_several_at_once(self, api: Api) -> None:
        endpoint = self._deploy(api)
        calls = [lambda value=value: endpoint.predict([value, -value]) for value in range(8)]
        assert api.together(calls) == [[2 * value, -2 * value] for value in range(8)]
        api.do(endpoint.delete())

    def test_handler_beside_the_model(self, api: Api) -> None:
        model = api.harness.model(handler=WRONG_LENGTH)
        endpoint = self._deploy(api, model, handler=str(ASSETS / "handler.py"))
        assert api.do(endpoint.predict([4])) == [8]
        api.do(endpoint.delete())

    def test_handler_without_params(self, api: Api) -> None:
        endpoint = self._deploy(api, api.harness.model(scale=7, handler=NO_PARAMS))
        assert api.do(endpoint.predict([1, 2])) == [7, 14]
        api.do(endpoint.delete())

    def test_list_and_attach(self, api: Api) -> None:
        endpoint = self._deploy(api)
        names = [one.name for one in api.do(api.client.endpoints.list())]
        assert endpoint.name in names
        found = api.do(api.another().attach(endpoint.id))
        assert found.id == endpoint.id
        assert api.do(found.predict([5])) == [10]
        assert endpoint.id in [entry.uri for entry in api.do(api.client.resources())]
        api.do(found.delete())
        assert endpoint.name not in [one.name for one in api.do(api.client.endpoints.list())]
        assert endpoint.id not in [entry.uri for entry in api.do(api.client.resources())]

    def test_attach_from_another_process(self, api: Api) -> None:
        endpoint = self._deploy(api)
        told = api.elsewhere(endpoint.id, "[it.name, it.predict([7])]")
        assert told == [endpoint.name, [14]]
        api.do(endpoint.delete())

    def test_name_that_is_taken(self, api: Api) -> None:
        endpoint = self._deploy(api)
        with pytest.raises(Conflict):
            self._deploy(api, name=endpoint.name)
        assert api.do(endpoint.predict([1])) == [2]
        api.do(endpoint.delete())

    def test_deploy_again_after_delete(self, api: Api) -> None:
        endpoint = self._deploy(api)
        api.do(endpoint.delete())
        again = self._deploy(api, api.harness.model(scale=3), name=endpoint.name)
        assert api.do(again.predict([1])) == [3]
        api.do(again.delete())

    def test_same_key_same_endpoint(self, api: Api) -> None:
        model, key = api.harness.model(), uuid.uuid4().hex
        name = f"conformance-{key[:8]}"
        first = self._deploy(api, model, name=name, idempotency_key=key)
        second = self._deploy(api, model, name=name, idempotency_key=key)
        assert first.id == second.id
        api.do(first.delete())

    @feature("update")
    def test_update(self, api: Api) -> None:
        endpoint = self._deploy(api)
        api.do(endpoint.update(api.harness.model(scale=3)))
        assert api.do(endpoint.status).state is State.RUNNING
        assert api.do(endpoint.predict([1, 2])) == [3, 6]
        api.do(endpoint.delete())

    @feature("variants")
    def test_variants(self, api: Api) -> None:
        variants = [
            Variant(name="old", model=api.harness.model(scale=2), weight=3),
            Variant(name="new", model=api.harness.model(scale=5), weight=1),
        ]
        endpoint = self._deploy(api, variants)
        shares = {one.name: one.share for one in api.do(endpoint.status).variants}
        assert shares == pytest.approx({"old": 0.75, "new": 0.25})
        answers: list[Prediction] = [api.do(endpoint.invoke([1])) for _ in range(80)]
        assert all(one.outputs == [{"old": 2, "new": 5}[one.variant or ""]] for one in answers)
        seen = Counter(one.variant for one in answers)
        # 60 of 80 are expected; a fair draw misses this by chance once in some 10,000 runs.
        assert 44 <= seen["old"] <= 74
        for name, scale in (("old", 2), ("new", 5)):
            assert api.do(endpoint.predict([1], variant=name)) == [scale]
        with pytest.raises((InvalidRequest, NotFound)):
            api.do(endpoint.predict([1], variant="none"))
        api.do(endpoint.delete())

    @feature("trained_model")
    def test_a_trained_model(self, api: Api) -> None:
        job = api.do(api.client.training.submit(api.harness.job(Work(scale=4))))
        api.do(job.wait(api.harness.patience))
        endpoint = self._deploy(api, api.do(job.model))
        assert api.do(endpoint.predict([1, 2])) == [4, 8]
        api.do(endpoint.delete())

    @pytest.mark.parametrize(
        ("model", "handler", "word"),
        [
            ("nowhere", None, "model"),
            (None, "no-handler.py", "handler"),
            ("empty", None, "handler"),
        ],
        ids=["no-model", "no-handler", "no-handler-in-the-model"],
    )
    def test_what_is_missing(
        self, api: Api, model: str | None, handler: str | None, word: str
    ) -> None:
        api.harness.put("empty/weights.txt", "none")
        folder = api.harness.folder
        with pytest.raises((InvalidRequest, NotFound)) as caught:
            self._deploy(
                api,
                api.harness.model() if model is None else str(folder / model),
                handler=None if handler is None else str(folder / handler),
            )
        assert word in str(caught.value)
        assert api.do(api.client.endpoints.list()) == []

    def test_load_that_fails(self, api: Api) -> None:
        model = api.harness.model(handler=BROKEN_LOAD)
        with pytest.raises(EndpointError) as caught:
            self._deploy(api, model)
        assert "the model is corrupt" in str(caught.value)
        assert api.do(api.client.endpoints.list()) == []

    def test_predict_that_fails(self, api: Api) -> None:
        endpoint = self._deploy(api)
        with pytest.raises(HandlerError) as caught:
            api.do(endpoint.predict(["bad"]))
        assert "this input is bad" in str(caught.value)
        assert api.do(endpoint.predict(["good"])) == ["GOOD"]
        api.do(endpoint.delete())

    def test_predict_of_wrong_length(self, api: Api) -> None:
        endpoint = self._deploy(api, api.harness.model(handler=WRONG_LENGTH))
        with pytest.raises(HandlerError) as caught:
            api.do(endpoint.predict([1, 2]))
        assert "3" in str(caught.value)
        assert "2" in str(caught.value)
        api.do(endpoint.delete())

    @pytest.mark.parametrize("inputs", ["text", {"value": 1}, 5], ids=["text", "dict", "number"])
    def test_inputs_that_are_no_list(self, api: Api, inputs: Any) -> None:
        endpoint = self._deploy(api)
        with pytest.raises(InvalidRequest, match="inputs"):
            api.do(endpoint.predict(inputs))
        api.do(endpoint.delete())

    def test_bad_name(self, api: Api) -> None:
        with pytest.raises(InvalidRequest, match="name"):
            self._deploy(api, name="not a name")

    def test_plan(self, api: Api) -> None:
        plan: Plan = api.do(api.client.endpoints.plan(api.harness.model(), name="planned"))
        assert plan.ok, plan.violations
        assert plan.capability == "endpoints"
        assert plan.requests
        assert api.do(api.client.endpoints.list()) == []

    def test_lost_reply(self, api: Api) -> None:
        api.faults().lose_reply("endpoints.deploy")
        endpoint = self._deploy(api)
        names = [one.name for one in api.do(api.client.endpoints.list())]
        assert names == [endpoint.name]
        api.do(endpoint.delete())

    def test_throttled_calls_go_through(self, api: Api) -> None:
        # Before anything is made: a harness without such faults skips here.
        api.faults().throttle("endpoints.predict", times=2, retry_after=0.02)
        endpoint = self._deploy(api)
        assert api.do(endpoint.predict([1])) == [2]
        api.do(endpoint.delete())
