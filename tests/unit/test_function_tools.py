"""Tools made from functions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from cloudai import tool
from cloudai.errors import InvalidRequest


@dataclass
class Place:
    city: str


def forecast(place: Place, days: Annotated[int, "how many"] = 3, unit: str = "C") -> str:
    """Tells the weather.

    Longer words.

    Args:
        place: where, a city
            of the world.
        unit (str): C or F.

    Returns:
        text: what it is.
    """
    return f"{place} {days} {unit}"


def test_s7_annotated_and_args_become_descriptions() -> None:
    made = tool(forecast)
    assert made.description == "Tells the weather."
    told = {name: one.get("description") for name, one in made.parameters["properties"].items()}
    assert told == {"place": "where, a city of the world.", "days": "how many", "unit": "C or F."}
    assert made.parameters["required"] == ["place"]


def test_s7_pydantic_models_as_parameters() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", zip=(str, ...))
    outer = pydantic.create_model("Outer", inner=(inner, ...))

    def look(where: Any, note: Any) -> None: ...

    look.__annotations__ = {
        "where": outer,
        "note": Annotated[str, pydantic.Field(description="of it")],
    }
    schema = tool(look).parameters
    assert schema["properties"]["where"]["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
    assert schema["$defs"]["Inner"]["required"] == ["zip"]
    assert schema["properties"]["note"]["description"] == "of it"


def test_s7_partials_and_callable_objects() -> None:
    made = tool(functools.partial(forecast, unit="F"))
    assert (made.name, list(made.parameters["properties"])) == ("forecast", ["place", "days"])

    class Looks:
        """Looks around."""

        def __call__(self, where: str) -> str:
            return where

    made = tool(Looks())
    assert (made.name, made.description) == ("Looks", "Looks around.")
    assert made.parameters["required"] == ["where"]


def test_s7_what_has_no_schema_is_told_by_its_name() -> None:
    def many(*names: str) -> None: ...

    def odd(file: Exception) -> None: ...

    with pytest.raises(InvalidRequest, match=r"tools\[many\].names.*any number"):
        tool(many)
    with pytest.raises(InvalidRequest, match=r"tools\[odd\].file.*no JSON Schema"):
        tool(odd)
