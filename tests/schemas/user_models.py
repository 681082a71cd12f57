"""48 types of the kind that users ask for, each with an answer that fits."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    StringConstraints,
    conint,
    conlist,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

T = TypeVar("T")


class City(BaseModel):
    name: str
    people: int


class Described(BaseModel):
    """A place, told at length."""

    city: City = Field(description="The city that was asked for")
    twin: City | None = Field(None, description="Its twin, if it has one")


class Deep(BaseModel):
    class Inner(BaseModel):
        class Innermost(BaseModel):
            value: float

        inner: Innermost

    inner: Inner


class Seven(BaseModel):
    a: Deep
    b: list[Deep]
    c: dict[str, City] = {}


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Strict(BaseModel):
    name: str
    children: list[Strict]


class Linked(BaseModel):
    value: int
    next: Linked | None = Field(None, description="The one after it")


class Employee(BaseModel):
    name: str
    team: Team | None = None


class Team(BaseModel):
    lead: Employee
    members: list[Employee]


class Tree(BaseModel):
    root: Node


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind", description="The animal")]


class Owners(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Plain(BaseModel):
    pet: Cat | Dog
    or_name: int | str | None


class Shape(BaseModel):
    corners: tuple[float, float, float]
    point: tuple[int, str]
    many: tuple[int, ...]


class Point(NamedTuple):
    x: int
    y: int


class Drawn(BaseModel):
    at: Point
    path: list[Point]


class Sets(BaseModel):
    tags: set[str]
    ids: frozenset[int] = frozenset()


class Bounds(BaseModel):
    low: int = Field(ge=0, le=10)
    share: float = Field(gt=0, lt=1)
    step: int = Field(multiple_of=5)
    size: conint(ge=1)  # type: ignore[valid-type]


class Lengths(BaseModel):
    code: str = Field(min_length=2, max_length=4)
    plate: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-\d+$")]
    few: conlist(str, min_length=1, max_length=3)  # type: ignore[valid-type]
    two: list[int] = Field(min_length=2)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Enums(BaseModel):
    colour: Colour
    level: Level
    chosen: Literal["a", "b", 3] = "a"
    sure: Literal[True] = True
    maybe: Literal["x", None] = None


class Dates(BaseModel):
    day: datetime.date
    at: datetime.datetime
    hour: datetime.time
    long: datetime.timedelta
    zoned: AwareDatetime | None = None


class Things(BaseModel):
    id: uuid.UUID
    price: decimal.Decimal
    page: HttpUrl
    host: ipaddress.IPv4Address
    raw: bytes = b""


class FreeDict(BaseModel):
    counts: dict[str, int]


class FreeDicts(BaseModel):
    nested: dict[str, dict[str, list[City]]]
    any: dict[str, Any] = {}


class Loose(BaseModel):
    anything: Any
    objects: list[Any] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Shut(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Defaults(BaseModel):
    name: str = "none"
    count: int = 0
    tags: list[str] = Field(default_factory=list)
    where: City | None = None


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    full_name: str = Field(alias="fullName", title="Full name", examples=["Ada"])


class Box(BaseModel, Generic[T]):
    inside: T


class Empty(BaseModel):
    pass


class Titled(BaseModel):
    title: str
    description: str
    type: str
    properties: list[str]
    required: bool = False


class Old(BaseModel):
    maybe: Optional[int]  # noqa: UP045 - as users write it
    either: Union[int, str]  # noqa: UP007


class Base(BaseModel):
    id: int


class Derived(Base):
    name: str


class Wide(BaseModel):
    a: int | None = None
    b: int | None = None
    c: str | int | None = None
    d: list[int] | None = None
    e: City | None = None
    f: City | str = "x"


Many = type(
    "Many",
    (BaseModel,),
    {
        "__module__": __name__,
        "__annotations__": {f"field_{number}": Optional[int] for number in range(30)},  # noqa: UP045
        **{f"field_{number}": None for number in range(30)},
    },
)


class Cities(RootModel[list[City]]):
    pass


class Either(RootModel[Annotated[Cat | Dog, Field(discriminator="kind")]]):
    pass


@pydantic_dataclass
class Checked:
    age: Annotated[int, Field(ge=0)]


class Typed(TypedDict):
    name: str
    cities: list[City]


class Json(RootModel["dict[str, Json] | list[Json] | str | int | None"]):
    pass


CITY: Any = {"name": "Rome", "people": 3}
DEEP: Any = {"inner": {"inner": {"value": 1.5}}}
CAT: Any = {"kind": "cat", "lives": 9}

MODELS: dict[str, tuple[Any, Any]] = {
    "flat": (City, CITY),
    "described field": (Described, {"city": CITY, "twin": None}),
    "nested": (Deep, DEEP),
    "nested more": (Seven, {"a": DEEP, "b": [DEEP], "c": {"x": CITY}}),
    "recursive at the root": (Node, {"name": "a", "children": [{"name": "b", "children": []}]}),
    "recursive, required": (Strict, {"name": "a", "children": [{"name": "b", "children": []}]}),
    "linked list": (Linked, {"value": 1, "next": {"value": 2, "next": None}}),
    "mutually recursive": (
        Team,
        {"lead": {"name": "a", "team": None}, "members": [{"name": "b", "team": None}]},
    ),
    "recursive below": (Tree, {"root": {"name": "a", "children": []}}),
    "discriminated union": (Owner, {"pet": CAT}),
    "discriminated unions in a list": (Owners, {"pets": [CAT, {"kind": "dog", "tricks": ["sit"]}]}),
    "union without a discriminator": (Plain, {"pet": CAT, "or_name": "x"}),
    "tuples": (Shape, {"corners": [1.0, 2.0, 3.0], "point": [1, "a"], "many": [1, 2]}),
    "named tuples": (Drawn, {"at": [1, 2], "path": [[1, 2]]}),
    "sets": (Sets, {"tags": ["a", "b"], "ids": [1]}),
    "bounds": (Bounds, {"low": 5, "share": 0.5, "step": 10, "size": 1}),
    "lengths and patterns": (
        Lengths,
        {"code": "abc", "plate": "AB-12", "few": ["a"], "two": [1, 2]},
    ),
    "enums and literals": (
        Enums,
        {"colour": "red", "level": 1, "chosen": 3, "sure": True, "maybe": None},
    ),
    "dates": (
        Dates,
        {
            "day": "2026-11-30",
            "at": "2026-11-30T12:00:00",
            "hour": "12:00:00",
            "long": "PT1H",
            "zoned": None,
        },
    ),
    "uuid, decimal, url, address": (
        Things,
        {
            "id": "12345678-1234-5678-1234-567812345678",
            "price": "1.50",
            "page": "https://example.com/",
            "host": "10.0.0.1",
            "raw": "",
        },
    ),
    "free dict": (FreeDict, {"counts": {"a": 1}}),
    "free dicts": (FreeDicts, {"nested": {"a": {"b": [CITY]}}, "any": {"c": [1]}}),
    "anything": (Loose, {"anything": {"a": 1}, "objects": [1, "a"]}),
    "open to more": (Open, {"name": "a"}),
    "closed": (Shut, {"name": "a"}),
    "defaults": (Defaults, {"name": "a", "count": 1, "tags": [], "where": None}),
    "alias, title, examples": (Aliased, {"fullName": "Ada"}),
    "generic": (Box[City], {"inside": CITY}),
    "generic of a union": (Box[int | list[str]], {"inside": ["a"]}),
    "empty": (Empty, {}),
    "fields named as words of the schema": (
        Titled,
        {"title": "a", "description": "b", "type": "c", "properties": ["d"], "required": True},
    ),
    "Optional and Union": (Old, {"maybe": None, "either": "a"}),
    "inherited": (Derived, {"id": 1, "name": "a"}),
    "many unions": (Wide, {"a": 1, "b": None, "c": "x", "d": [1], "e": CITY, "f": "y"}),
    "thirty optional fields": (Many, {f"field_{number}": number for number in range(30)}),
    "root model of a list": (Cities, [CITY]),
    "root model of a union": (Either, CAT),
    "recursive JSON": (Json, {"a": ["b", 1, None]}),
    "pydantic's dataclass": (Checked, {"age": 3}),
    "TypedDict with models": (Typed, {"name": "a", "cities": [CITY]}),
    "list of models": (list[City], [CITY, CITY]),
    "list of texts": (list[str], ["a"]),
    "dict of models": (dict[str, City], {"a": CITY}),
    "literal": (Literal["yes", "no"], "yes"),
    "enum": (Colour, "blue"),
    "union of models": (Cat | Dog, CAT),
    "optional number": (int | None, 3),
    "tuple": (tuple[int, str], [1, "a"]),
}
