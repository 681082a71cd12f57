"""Random courses of deploying, looking and destroying where colleagues have endpoints of the same
names: nothing of theirs is touched, nothing of ours is called removed while it runs. One piece for
all clouds: a test brings its worlds.

``SEQUENCES=1000`` runs so many courses in place of a few, from the seed ``SEED`` on (with pytest's
``--timeout 0``).
"""

from __future__ import annotations

import os
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloudai import Client, Conflict, Deployment, NotFound, Variant

NAMES = ("prod-chat", "search")

Spot = tuple["World", str]
"""A place, and a name in it."""


class World(ABC):
    """One account in one region, behind an emulator or a second one that stands for the cloud.

    Attributes
    ----------
    account, region: as a row of the ledger says them; region is a workspace's where the provider
        has that. mark: the emulator's address; "" for what stands for the cloud.
    """

    account: str
    region: str
    mark: str

    @abstractmethod
    def env(self) -> Mapping[str, str]:
        """What tells a program where it works."""

    @abstractmethod
    def client(self, plain: bool) -> Client:
        """A client, made under ``env``. A plain one is told by the environment alone, so that its
        handles are the same everywhere."""

    @abstractmethod
    def endpoints(self) -> set[str]:
        """The names of all endpoints, by the vendor's own SDK or table."""

    @abstractmethod
    def rest(self) -> list[str]:
        """What else lies there that an endpoint brings and takes with it."""

    @abstractmethod
    def theirs(self, name: str) -> list[str]:
        """Makes a colleague's endpoint without cloudai; gives what it added to ``rest``."""

    @abstractmethod
    def remove_theirs(self, name: str) -> None:
        """Takes it away."""

    def is_place(self, lies: Any) -> bool:
        """Whether a row's place is this one."""
        known = (lies.account, lies.region or lies.workspace, lies.emulator)
        return known == (self.account, self.region, self.mark)


def told(world: World) -> pytest.MonkeyPatch:
    """The world's environment, until ``undo``."""
    patch = pytest.MonkeyPatch()
    for name, value in world.env().items():
        patch.setenv(name, value)
    return patch


class Course:
    """One random sequence, with what is true beside it."""

    def __init__(self, worlds: list[World], spec: Deployment, dice: random.Random) -> None:
        self.worlds, self.spec, self.dice = worlds, spec, dice
        self.plain = dice.random() < 0.7
        self.clients = {
            world: self.at(world, lambda w=world: w.client(self.plain)) for world in worlds
        }
        self.ours: dict[Spot, str] = {}
        self.theirs: dict[Spot, list[str]] = {}

    @staticmethod
    def at(world: World, act: Callable[[], Any]) -> Any:
        """Does something where the world's environment is told."""
        patch = told(world)
        try:
            return act()
        finally:
            patch.undo()

    def step(self) -> None:
        world = self.dice.choice(self.worlds)
        name = self.dice.choice(NAMES)
        choice = self.dice.choice(["ours", "ours", "theirs", "destroy", "all", "uri", "ls"])
        getattr(self, f"_{choice}")(world, name)

    def _ours(self, world: World, name: str) -> None:
        spot = (world, name)
        taken = spot in self.ours or spot in self.theirs
        client = self.clients[world]
        spec = msgspec.structs.replace(self.spec, name=name)
        try:
            made = self.at(world, lambda: client.endpoints.deploy(spec))
        except Conflict:
            assert taken
        else:
            assert not taken
            self.ours[spot] = made.id

    def _theirs(self, world: World, name: str) -> None:
        if (world, name) not in self.ours and (world, name) not in self.theirs:
            self.theirs[world, name] = world.theirs(name)

    def _all(self, world: World, name: str) -> None:
        self._remove(world, self.clients[world].resources())

    def _destroy(self, world: World, name: str) -> None:
        rows = self.clients[world].resources()
        self._remove(world, [self.dice.choice(rows)] if rows else [])

    def _remove(self, world: World, rows: list[Any]) -> None:
        for row in rows:
            lies = self.spot(row)
            elsewhere = self.plain and lies[0] is not world
            try:
                self.at(self.near(world, row), lambda row=row: self.clients[world].destroy(row))
            except Conflict:
                assert elsewhere, "ours was refused"
            else:
                assert not elsewhere, "it was called removed from another place"
                self.removed(lies)

    def _uri(self, world: World, name: str) -> None:
        client, spot = self.clients[world], (world, name)
        native = next((row.id for row in client.resources() if self.spot(row) == spot), name)
        uri = client.endpoints._bound.uri("endpoint", native or name)
        try:
            self.at(world, lambda: client.destroy(uri))
        except Conflict:
            assert spot not in self.ours
        except NotFound:
            assert spot not in self.ours
        else:
            if spot in self.ours:
                self.removed(spot)

    def _ls(self, world: World, name: str) -> None:
        client = self.clients[world]
        for row in client.resources():
            try:
                self.at(self.near(world, row), lambda row=row: client.attach(str(row.uri)))
            except Conflict:
                assert self.plain
            except NotFound:
                pytest.fail(f"{row.uri} was called gone")

    def near(self, world: World, row: Any) -> World:
        """Whose credentials a row is asked with: a handle that says where it lies is followed
        there, and each emulator knows its own alone."""
        return world if self.plain else self.spot(row)[0]

    def spot(self, row: Any) -> Spot:
        (world,) = [world for world in self.worlds if world.is_place(row.lies)]
        return world, row.name

    def removed(self, spot: Spot) -> None:
        """What was called removed is gone, from the place that it was made in."""
        assert self.ours.pop(spot, None) is not None, "what was not there"
        assert spot[1] not in spot[0].endpoints()

    def check(self) -> None:
        for world in self.worlds:
            kept = [
                one for (other, _), some in self.theirs.items() if other is world for one in some
            ]
            assert set(kept) <= set(world.rest()), "theirs was touched"
            wanted = {name for other, name in (*self.ours, *self.theirs) if other is world}
            assert world.endpoints() == wanted

    def end(self) -> None:
        for (world, _), uri in list(self.ours.items()):
            self.at(world, lambda w=world, u=uri: self.clients[w].destroy(u))
        assert not self.clients[self.worlds[0]].resources()
        for world, name in self.theirs:
            world.remove_theirs(name)
        for world in self.worlds:
            assert (world.endpoints(), world.rest()) == (set(), []), "something was left over"
            self.clients[world].close()


def random_courses(worlds: list[World], spec: Deployment, few: int, steps: int = 10) -> None:
    """So many courses, each from a seed of its own."""
    first = int(os.environ.get("SEED", "0"))
    for seed in range(first, first + int(os.environ.get("SEQUENCES", str(few)))):
        course = Course(worlds, spec, random.Random(seed))
        for _ in range(steps):
            course.step()
        course.check()
        course.end()
        if "SEQUENCES" in os.environ and seed % 20 == 19:
            print(f"sequences up to {seed} held", file=sys.__stderr__, flush=True)


def vendors_own(monkeypatch: pytest.MonkeyPatch, urls: list[str]) -> None:
    """Lets addresses count as the vendor's own, so that a row of theirs has no emulator's mark and
    account and region alone tell places apart."""
    from cloudai._core.profiles import registry

    real = registry.mark

    def mark(spec: Any, url: str) -> str:
        return "" if any(url.startswith(one) for one in urls) else real(spec, url)

    monkeypatch.setattr(registry, "mark", mark)


def deployment(folder: Path, **about: Any) -> Deployment:
    """A model with a handler, to be deployed under any name."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "handler.py").write_text("def load(p): ...\ndef predict(m, i, p): return i\n")
    return Deployment(name="prod-chat", variants=(Variant(model=str(model)),), **about)
