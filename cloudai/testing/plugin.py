"""The pytest plugin: fixtures for programs that use cloudai, and the conformance suite's table.

It is loaded at every start of pytest where cloudai is installed, so it imports nothing but
pytest here, and does nothing unless one of its fixtures or suites is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from cloudai.testing.clouds import EmulatedCloud
    from cloudai.testing.fake import FakeScript
    from cloudai.testing.record import Recorder

RESULT: Final = "cloudai-conformance"
"""The property of a conformance test's report that says what it tested."""


@pytest.fixture
def cloudai_offline() -> Generator[None]:
    """Blocks the network for one test, all but loopback and Unix sockets: NetworkBlocked is
    raised where code tries to leave this machine."""
    from cloudai.testing.network import block_network

    with block_network():
        yield


@pytest.fixture
def fake_cloudai(
    cloudai_offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeScript:
    """The fake provider as the default one of this test, with a home of its own: a
    ``cloudai.Client()`` that the tested program makes is answered by it. Gives its script, with
    ``client`` and ``async_client``."""
    from cloudai.testing.fake import FakeScript

    home = tmp_path / "cloudai"
    monkeypatch.setenv("CLOUDAI_HOME", str(home))
    monkeypatch.setenv("CLOUDAI_PROFILE", "fake")
    return FakeScript(home)


@pytest.fixture
def emulated_aws(
    cloudai_offline: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[EmulatedCloud]:
    """AWS on loopback for one test: ``url``, ``env``, ``keys``, ``faults``, ``fate``, ``client``
    (see ``cloudai.testing.EmulatedCloud``). The environment is set so that ``cloudai.Client()``,
    ``cloudai.Client("aws")`` and plain boto3 reach it, and the network is blocked.
    ``@pytest.mark.cloudai_emulated(execute=True, speed=5)`` sets what it is made with."""
    yield from _emulated("aws", request, tmp_path, monkeypatch)


@pytest.fixture
def emulated_azure(
    cloudai_offline: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[EmulatedCloud]:
    """The same for Azure: ``openai``, ``azure-identity``, Key Vault, Azure ML."""
    yield from _emulated("azure", request, tmp_path, monkeypatch)


@pytest.fixture
def emulated_vertex(
    cloudai_offline: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[EmulatedCloud]:
    """The same for Vertex AI: ``google-genai``, Cloud Storage, ``aiplatform`` over REST."""
    yield from _emulated("vertex", request, tmp_path, monkeypatch)


def _emulated(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[EmulatedCloud]:
    from cloudai.testing.clouds import apply, emulated, environment

    about: dict[str, Any] = {
        "speed": 20.0
    }  # a scripted job lives for less than a tenth of a second
    for mark in request.node.iter_markers("cloudai_emulated"):
        about = {**about, **mark.kwargs}
    with emulated(name, **about) as cloud:
        variables = environment([cloud])
        if "CLOUDAI_PROFILE" in os.environ:
            del variables["CLOUDAI_PROFILE"]  # of the test's first cloud, or its own
        apply(variables, monkeypatch.setenv, lambda name: monkeypatch.delenv(name, raising=False))
        monkeypatch.setenv("CLOUDAI_HOME", str(tmp_path / "cloudai"))
        yield cloud


@pytest.fixture
def cloudai_cassette(request: pytest.FixtureRequest) -> Generator[Callable[..., Recorder]]:
    """Makes recorders of this test: ``recorder = cloudai_cassette("https://api.openai.com")``
    plays ``cassettes/<module>/<test>.yaml`` beside the test's file, and ``recorder.url`` is the
    SDK's endpoint. Run pytest with ``--cloudai-record`` to record it anew. Further arguments
    are the recorder's."""
    from contextlib import ExitStack

    from cloudai.testing.record import Recorder

    folder = request.path.parent / "cassettes" / request.path.stem
    stem = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    with ExitStack() as stack:
        made = 0

        def make(upstream: str, **about: Any) -> Recorder:
            nonlocal made
            made += 1
            name = stem if made == 1 else f"{stem}-{made}"
            mode = "record" if request.config.getoption("--cloudai-record") else "play"
            about = {"mode": mode, **about}
            return stack.enter_context(Recorder(folder / f"{name}.yaml", upstream, **about))

        yield make


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cloudai")
    group.addoption(
        "--cloudai-record",
        action="store_true",
        help="record the cassettes of the cloudai_cassette fixture anew, from the real services",
    )
    group.addoption(
        "--cloudai-conformance",
        metavar="FILE",
        default=None,
        help="write the conformance suite's results to FILE (.md for a table, else JSON)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Results(), "cloudai-conformance")
    config.addinivalue_line(
        "markers",
        "cloudai_emulated(speed, port, seed, execute): what the emulated_* fixtures of a test are "
        "made with",
    )


class _Results:
    """What the conformance suite's tests gave. It reads reports, since they reach the process
    that prints the summary also from the workers of pytest-xdist."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about = cast("dict[str, Any] | None", dict(report.user_properties).get(RESULT))
        # A test counts where it ended: in its call, or in a setup that skipped or failed.
        if about is None or not (
            report.when == "call" or (report.when == "setup" and not report.passed)
        ):
            return
        gap = hasattr(report, "wasxfail")
        reason = report.wasxfail if gap else _skip_reason(report)
        outcome = "gap" if gap and report.skipped else report.outcome
        self._found.append(about | {"outcome": outcome, "reason": reason})

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if not self._found:
            return
        from cloudai.testing.conformance import report

        terminalreporter.section("cloudai conformance")
        terminalreporter.write_line(report.text(self._found))
        file = config.getoption("--cloudai-conformance")
        if file is not None:
            report.write(self._found, Path(file))


def _skip_reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""
