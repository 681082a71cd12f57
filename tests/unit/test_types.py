"""The neutral values: bad ones are refused, with the field, the value and the mend."""

from __future__ import annotations

import pickle
import subprocess
import sys

import msgspec
import pytest

import cloudai
from cloudai import (
    Accelerator,
    BatchTransform,
    Deployment,
    InvalidRequest,
    Metric,
    Resources,
    State,
    TrainingJob,
    Variant,
)
from cloudai.client._create import checked, named, read


def job(**about: object) -> TrainingJob:
    return TrainingJob(**{"source": ".", "entry": "train.py", **about})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L4", Accelerator("L4", None, 1)),
        ("A100-40GB:8", Accelerator("A100", 40, 8)),
        ("h100-80GB:2", Accelerator("H100", 80, 2)),
    ],
)
def test_accelerators_are_read(text: str, expected: Accelerator) -> None:
    assert Accelerator.parse(text) == expected
    assert Accelerator.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["A100", "A100:8", "8xA100", "L4:0", ""])
def test_an_accelerator_that_is_ambiguous_or_ill_formed_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Resources(accelerator=text)
    assert caught.value.field == "resources.accelerator"


def test_an_ambiguous_accelerator_names_its_choices() -> None:
    with pytest.raises(InvalidRequest, match='"A100-40GB:8" or "A100-80GB:8"'):
        Resources(accelerator="A100:8")


@pytest.mark.parametrize(
    ("about", "field"),
    [
        ({"hyperparameters": {"model": object()}}, "hyperparameters.model"),
        ({"hyperparameters": {"rate": float("nan")}}, "hyperparameters.rate"),
        ({"hyperparameters": {"deep": {"list": [1, {2}]}}}, "hyperparameters.deep.list[1]"),
        ({"name": "no spaces please"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"name": "ends-"}, "name"),
        ({"entry": None}, "entry"),
        ({"kind": "container"}, "image"),
        ({"kind": "finetune", "base_model": "m"}, "inputs"),
        ({"kind": "magic"}, "kind"),
        ({"timeout": 0}, "timeout"),
        ({"env": {"NOT A NAME": "x"}}, "env"),
        ({"inputs": {"a-b": "x"}}, "inputs"),
    ],
)
def test_a_bad_job_names_the_field(about: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        job(**about)
    assert caught.value.field == field
    assert field.partition(".")[0] in str(caught.value)


def test_a_metric_needs_a_group() -> None:
    with pytest.raises(InvalidRequest, match="parentheses"):
        Metric(name="loss", regex="loss=.*")
    with pytest.raises(InvalidRequest, match="regular expression"):
        Metric(name="loss", regex="loss=(")


def test_wrong_types_and_unknown_fields_are_named_with_their_path() -> None:
    with pytest.raises(InvalidRequest, match=r"resources\.nodes") as caught:
        read(TrainingJob, {"source": ".", "entry": "a.py", "resources": {"nodes": "two"}})
    assert caught.value.field == "resources.nodes"
    with pytest.raises(InvalidRequest, match="unknown field `node`"):
        read(TrainingJob, {"source": ".", "entry": "a.py", "resources": {"node": 2}})
    with pytest.raises(InvalidRequest, match="resources.nodes=0 is not positive"):
        read(TrainingJob, {"source": ".", "entry": "a.py", "resources": {"nodes": 0}})


def test_a_value_made_in_python_is_checked_too() -> None:
    with pytest.raises(InvalidRequest, match="args"):
        checked(job(args=(1, 2)))
    assert checked(job(args=("a",))) == job(args=("a",))


def test_a_batch_needs_exactly_one_thing_that_transforms() -> None:
    with pytest.raises(InvalidRequest, match="exactly one"):
        BatchTransform(input="a", output="b")
    with pytest.raises(InvalidRequest, match="exactly one"):
        BatchTransform(input="a", output="b", chat="", embeddings="")
    assert BatchTransform(input="a", output="b", chat="").chat == ""


def test_a_deployment_needs_variants_with_names_of_their_own_and_some_weight() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        Deployment(name="e", variants=())
    with pytest.raises(InvalidRequest, match="repeats"):
        Deployment(name="e", variants=(Variant(model="a"), Variant(model="b")))
    with pytest.raises(InvalidRequest, match="adds up to 0"):
        Deployment(name="e", variants=(Variant(model="a", weight=0),))
    with pytest.raises(InvalidRequest, match="port"):
        Deployment(name="e", variants=(Variant(model="a"),), port=70000)


def test_a_nameless_job_gets_a_name_that_every_provider_accepts() -> None:
    made = named(job(), "über train_script!.v2" * 9)
    assert made.name is not None
    assert job(name=made.name).name == made.name
    assert made.idempotency_key
    assert named(made, "other") == made


def test_specs_survive_json() -> None:
    spec = job(
        hyperparameters={"epochs": 3, "rate": 0.1, "deep": {"a": [1, None, True]}},
        inputs={"train": cloudai.Input(uri="data/", mode="stream"), "more": "x"},
        secrets={"TOKEN": cloudai.SecretRef(store="env", name="T")},
        spot=cloudai.Spot(max_wait=60),
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=TrainingJob) == spec


def test_every_state_says_whether_it_is_an_end() -> None:
    going = {State.PLANNED, State.QUEUED, State.STARTING, State.RUNNING, State.STOPPING}
    assert {state for state in State if not state.done} == going | {State.UNKNOWN}
    assert [state for state in State if state.succeeded] == [State.SUCCEEDED]
    assert f"{State.TIMED_OUT}" == "TIMED_OUT"


def test_every_error_pickles_with_all_it_knows() -> None:
    from cloudai import errors

    made: list[cloudai.CloudAIError] = [
        errors.RateLimited("slow down", provider="aws", retry_after=3.0, request_id="r1"),
        errors.UnsupportedByProvider("spot", provider="azure", alternative="use vertex"),
        errors.MissingExtra("boto3", extra="aws"),
        errors.StreamTruncated("cut", text="abc", usage=cloudai.Usage(input_tokens=1)),
        errors.JobFailed("bad", state=State.FAILED, exit_code=3, log_tail=("a", "b")),
        errors.ContextOverflow("too long", tokens=10, limit=5, field="messages"),
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    from cloudai import errors

    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__, f"{name} is not drawn"


FIRST = """
import threading
from typing import Any
import msgspec
from cloudai import types
from cloudai.client._create import checked

begun, go_on = threading.Event(), threading.Event()

def slow():  # msgspec evaluates an annotation that is a text, while the outer type is half read
    begun.set()
    go_on.wait(20)
    return int

class Inner(msgspec.Struct):
    x: "slow()"

class Spec(types.TrainingJob, kw_only=True):
    inner: "Inner | None" = None
    last: str = ""

made = Spec(source=".", entry="a.py", last="z")
first = threading.Thread(target=checked, args=(made,))
first.start()
assert begun.wait(20)
second = threading.Thread(target=checked, args=(made,))
second.start()
second.join(1)
go_on.set()
first.join(), second.join()
print("fine")
"""


def test_k1_threads_that_meet_a_type_at_the_same_time_end_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done
