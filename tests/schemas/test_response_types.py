"""What ``response_type`` takes, what the answer is checked by, and how it is asked for again."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from cloudai import Client
from cloudai.client._schema import wanted
from cloudai.errors import InvalidRequest, ProviderError
from cloudai.formats.schemas import check
from cloudai.testing import FakeScript


class Node(BaseModel):
    name: str
    children: list[Node] = []


class City(BaseModel):
    name: str
    people: int = Field(ge=0)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Place:
    name: str
    colour: Colour


@pytest.fixture
def fake(tmp_path: Path) -> FakeScript:
    return FakeScript(tmp_path)


@pytest.fixture
def client(fake: FakeScript) -> Iterator[Client]:
    with fake.client() as made:
        yield made


def test_s4_a_recursive_model_at_the_root() -> None:
    made = wanted(Node)
    assert made.schema.schema["type"] == "object"
    value = made.load('{"name": "a", "children": [{"name": "b"}]}')
    assert value.children[0].name == "b"


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (list[City], '{"value": [{"name": "Rome", "people": 3}]}', [City(name="Rome", people=3)]),
        (list[Place], '{"value": [{"name": "x", "colour": "red"}]}', [Place("x", Colour.RED)]),
        (Literal["yes", "no"], '{"value": "no"}', "no"),
        (Colour, '{"value": "red"}', Colour.RED),
        (int, '{"value": 7}', 7),
        (str | None, '{"value": null}', None),
        (City | None, '{"value": {"name": "a", "people": 1}}', City(name="a", people=1)),
        (tuple[int, str], '{"value": [1, "a"]}', (1, "a")),
        ({"type": "array", "items": {"type": "integer"}}, '{"value": [1]}', [1]),
    ],
)
def test_s8_what_is_no_object_is_wrapped_and_unwrapped(kind: Any, answer: str, value: Any) -> None:
    made = wanted(kind)
    assert made.schema.schema["required"] == ["value"]
    assert made.load(answer) == value


def test_s8_in_a_call(client: Client) -> None:
    assert client.chat.create("Which?", response_type=list[Colour]).parsed == [Colour.RED]
    with client.chat.stream("Which?", response_type=Literal["a"]) as stream:
        list(stream)
        assert stream.reply.parsed == "a"


def test_what_is_no_type_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="response_type"):
        client.chat.create("Hi", response_type=object())


SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 150},
        "code": {"type": "string", "minLength": 2, "pattern": "^[A-Z]+$"},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 2},
        "pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}]},
    },
    "required": ["age"],
    "additionalProperties": False,
    "$defs": {"Cat": {"type": "object", "properties": {"lives": {"const": 9}}}},
}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ('{"age": 3, "code": "AB", "tags": ["a"], "pet": {"lives": 9}}', None),
        ('{"age": 3, "pet": null}', None),
        ('{"age": 3.0}', None),
        ("{}", r"\$\.age is missing"),
        ('{"age": true}', r"\$\.age is True, not integer"),
        ('{"age": -1}', "out of its bounds"),
        ('{"age": 150}', "out of its bounds"),
        ('{"age": 1, "code": "A"}', "1 characters"),
        ('{"age": 1, "code": "ab"}', "does not match"),
        ('{"age": 1, "tags": ["a", "a"]}', "twice"),
        ('{"age": 1, "tags": ["a", "b", "c"]}', "3 items"),
        ('{"age": 1, "tags": [1]}', r"\$\.tags\[0\]"),
        ('{"age": 1, "pet": {"lives": 8}}', "exactly one"),
        ('{"age": 1, "more": 2}', r"\$\.more is not allowed"),
    ],
)
def test_s3_what_a_service_drops_is_checked_when_the_answer_is_read(
    answer: str, problem: str | None
) -> None:
    load = wanted(SCHEMA).load
    if problem is None:
        assert load(answer)["age"] == 3
    else:
        with pytest.raises(ValueError, match=problem):
            load(answer)


def test_s1_nulls_that_strict_mode_makes_the_model_write_are_left_out() -> None:
    class Options(BaseModel):
        name: str
        size: int = 3
        where: City | None = None

    made = wanted(Options).load('{"name": "a", "size": null, "where": null}')
    assert made == Options(name="a")
    assert wanted(SCHEMA).load('{"age": 1, "code": null}') == {"age": 1}
    assert check.without_nulls({"age": 1, "pet": None}, SCHEMA) == {"age": 1, "pet": None}


def test_a_repair_is_asked_for_once(fake: FakeScript, client: Client) -> None:
    fake.reply("not JSON")
    fake.reply('{"name": "Rome", "people": -1}')
    with pytest.raises(ProviderError, match="people: Input should be greater than or equal to 0"):
        client.chat.create("Rome?", response_type=City, repair=1)
    fake.reply('{"name": "Rome", "people": "many"}')
    fake.reply('{"name": "Rome", "people": 3}')
    reply = client.chat.create("Rome?", response_type=City, repair=1)
    assert reply.parsed == City(name="Rome", people=3)
    asked = fake.requests("chat.create")[-1].messages
    assert [message.role for message in asked] == ["user", "assistant", "user"]
    assert "people" in asked[1].text
    assert "people: Input should be a valid integer" in asked[2].text
    assert reply.usage.output_tokens > 4


def test_no_repair_where_none_is_wished(fake: FakeScript, client: Client) -> None:
    fake.reply("no")
    fake.reply('{"name": "Rome", "people": 3}')
    with pytest.raises(ProviderError):
        client.chat.create("Rome?", response_type=City)
    assert len(fake.requests("chat.create")) == 1
    with pytest.raises(InvalidRequest, match="repair"):
        client.chat.create("Rome?", response_type=City, repair=-1)


async def test_a_repair_async(fake: FakeScript) -> None:
    fake.reply("no")
    fake.reply('{"name": "Rome", "people": 3}')
    async with fake.async_client() as client:
        reply = await client.chat.create("Rome?", response_type=City, repair=1)
    assert reply.parsed.people == 3
