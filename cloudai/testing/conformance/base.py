"""What all suites share: the two clients behind one face, gaps, attaching from elsewhere."""

# ruff: noqa: S101 - asserting is what a suite does
from __future__ import annotations

import asyncio
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar, cast

import msgspec
import pytest

from cloudai.testing.conformance.harness import Faults, Harness
from cloudai.testing.plugin import RESULT

F = TypeVar("F", bound=Callable[..., Any])

MODES: Final = ("sync", "async")


class Api:
    """A client, sync or async, that the tests use in one way: ``do`` gives the result of a
    call, whether it has to be awaited or not, and ``every`` the items of an iteration.

    Attributes
    ----------
    mode: ``"sync"`` or ``"async"``. harness: the provider's. client: the client.
    """

    def __init__(self, mode: Literal["sync", "async"], harness: Harness) -> None:
        self.mode = mode
        self.harness = harness
        self._runner = asyncio.Runner() if mode == "async" else None
        self._made: list[Any] = []
        self.client = self.another()

    def another(self) -> Any:
        """A further client, which knows nothing of the first."""
        made = self.harness.client() if self.mode == "sync" else self.harness.async_client()
        self._made.append(made)
        return made

    def do(self, result: Any) -> Any:
        """The result, awaited where it has to be."""
        if self._runner is None or not inspect.isawaitable(result):
            return result
        return self._runner.run(_awaited(result))

    def every(self, items: Any, limit: int | None = None) -> list[Any]:
        """The items of an iteration; the first ``limit`` alone where one is given."""
        items = self.do(items)
        if self._runner is not None and isinstance(items, AsyncIterable):
            return self._runner.run(_collected(cast("AsyncIterable[Any]", items), limit))
        found: list[Any] = []
        for item in cast("Iterable[Any]", items):
            found.append(item)
            if len(found) == limit:
                break
        return found

    def together(self, calls: list[Callable[[], Any]]) -> list[Any]:
        """The results of calls that run at the same time: in threads, or as tasks."""
        if self._runner is not None:
            return self._runner.run(_gathered(calls))
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]

    def elsewhere(self, uri: str, what: str) -> Any:
        """Attaches to a URI in another process, and gives ``what`` (an expression of ``it``, the
        handle) as JSON has it."""
        code = (
            "import cloudai, json, sys\n"
            "provider, keys, uri = json.loads(sys.argv[1])\n"
            "it = cloudai.Client(provider=provider, **keys).attach(uri)\n"
            f"print('\\n' + json.dumps({what}))\n"
        )
        given = msgspec.json.encode([self.harness.provider, self.harness.keys(), uri]).decode()
        done = subprocess.run(
            [sys.executable, "-c", code, given],
            capture_output=True,
            text=True,
            timeout=self.harness.patience + 30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1])

    def faults(self) -> Faults:
        """The harness's fault injector; skips the test where it has none."""
        found = self.harness.faults()
        if found is None:
            pytest.skip("the harness injects no faults")
        return found

    def close(self) -> None:
        """Closes all clients."""
        for client in self._made:
            self.do(client.close())
        if self._runner is not None:
            self._runner.close()


def feature(name: str) -> Callable[[F], F]:
    """Marks a test as one of a feature that a harness may declare as a gap as a whole."""

    def mark(function: F) -> F:
        function.__dict__.setdefault("cloudai_features", set()).add(name)
        return function

    return mark


class Conformance:
    """The base of the suites. A subclass sets ``harness``, and pytest finds the rest.

    Attributes
    ----------
    capability: the suite's. harness: the provider's class of ``Harness``.
    """

    capability: ClassVar[str]
    harness: ClassVar[type[Harness]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        harness = getattr(cls, "harness", None)
        if harness is None:
            return
        known = set(cls._names())
        for key in harness.gaps:
            capability, _, name = key.partition(":")
            if capability == cls.capability and name not in known:
                raise ValueError(
                    f"{harness.__name__}.gaps names {key!r}, which is no test or feature of "
                    f"{cls.__name__}. There are: {', '.join(sorted(known))}"
                )

    @classmethod
    def _names(cls) -> Iterable[str]:
        for name in dir(cls):
            if name.startswith("test_"):
                yield name.removeprefix("test_")
                yield from _features(getattr(cls, name))

    @pytest.fixture(params=MODES)
    def api(self, request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Api]:
        """The client under test; applies the harness's gaps."""
        harness = self.harness
        name = request.node.originalname.removeprefix("test_")
        about = {
            "provider": harness.provider,
            "capability": self.capability,
            "mode": request.param,
            "test": name,
        }
        request.node.user_properties.append((RESULT, about))
        for module in harness.requires:
            if not _is_there(module):
                pytest.skip(f"{module} is not installed")
        for place in (name, *sorted(_features(request.function))):
            reason = harness.gaps.get(f"{self.capability}:{place}")
            if reason is not None:
                request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
                break
        made = harness(tmp_path)
        made.prepare(self.capability)
        api = Api(request.param, made)
        try:
            yield api
        finally:
            api.close()


def _is_there(module: str) -> bool:
    """Whether a module can be imported; it is looked for, not loaded."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package it would be in
        return False


def _features(function: Any) -> set[str]:
    return getattr(function, "cloudai_features", set())


async def _awaited(result: Any) -> Any:
    return await result


async def _collected(items: AsyncIterable[Any], limit: int | None) -> list[Any]:
    found: list[Any] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found


async def _gathered(calls: list[Callable[[], Any]]) -> list[Any]:
    return await asyncio.gather(*(call() for call in calls))
