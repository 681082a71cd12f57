"""The suite itself: that it catches what is wrong, holds gaps to their word, serves a third
party, and prints its table. And the pytest plugin, in runs of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloudai.testing.conformance import ChatConformance, Harness, report

ROOT = Path(__file__).parent.parent.parent


def run(folder: Path, text: str, *options: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Runs pytest on one file in a process of its own; gives it, and the suite's results."""
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text(INI)
    results = folder / "results.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
            "--cloudai-conformance", str(results), *options, "test_it.py",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    return done, json.loads(results.read_text()) if results.exists() else []


INI = """[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""

HARNESS = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests/providers/fake")!r})
from harness import FakeHarness
from cloudai.testing.conformance import *
"""


BREAKS = {
    "chat-usage": (
        "chat",
        """
from cloudai.providers.fake import _text
_text.count_message = lambda message: 0
""",
        "text",
    ),
    "chat-stop": (
        "chat",
        """
from cloudai.providers.fake import _text
cut = _text.cut
_text.cut = lambda text, stop, most: cut(text, (), most)
""",
        "stop",
    ),
    "stream-without-end": (
        "chat",
        """
from cloudai.providers.fake import chat
whole = chat._whole
chat._whole = lambda turn: list(whole(turn))[:-1]
""",
        "stream",
    ),
    "embeddings-order": (
        "embeddings",
        """
import msgspec
from cloudai.providers.fake.embeddings import FakeEmbeddings
reply = FakeEmbeddings._reply
def turned(self, request):
    back = tuple(reversed(request.texts))
    return reply(self, msgspec.structs.replace(request, texts=back))
FakeEmbeddings._reply = turned
""",
        "a_batch_equals_its_texts_alone",
    ),
    "training-cancel": (
        "training",
        """
from cloudai.providers.fake.training import FakeTraining
FakeTraining.cancel = lambda self, id, call: None
""",
        "cancel_at_once",
    ),
    "training-doubled": (
        "training",
        """
from cloudai.providers.fake.training import FakeTraining
FakeTraining.find = lambda self, key, call: None
import uuid
submit = FakeTraining.submit
def again(self, spec, call):
    import msgspec
    return submit(self, msgspec.structs.replace(spec,
        idempotency_key=uuid.uuid4().hex), call)
FakeTraining.submit = again
""",
        "lost_reply",
    ),
    "endpoint-length": (
        "endpoints",
        """
from cloudai._core.handlers import portable
def predict(self, inputs, params=None):
    return self._guard("predict", self._predict, self.model, inputs, params or {})
portable.Handler.predict = predict
""",
        "predict_of_wrong_length",
    ),
    "batch-order": (
        "batch",
        """
from cloudai.providers.fake import batch
handler = batch._handler
def turned(spec):
    real = handler(spec)
    return lambda values: real(values)[::-1]
batch._handler = turned
""",
        "order",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_provider_fails(tmp_path: Path, name: str) -> None:
    capability, fault, test = BREAKS[name]
    suite = f"{capability.title()}Conformance"
    text = (
        f"{HARNESS}{fault}\nclass Hasty(FakeHarness):\n    patience = 3.0\n"
        f"class TestIt({suite}):\n    harness = Hasty\n"
    )
    done, results = run(tmp_path, text, "-k", f"test_{test} and not test_{test}_")
    assert done.returncode == 1, done.stdout
    failed = {(one["test"], one["mode"]) for one in results if one["outcome"] == "failed"}
    assert {(test, "sync"), (test, "async")} <= failed, done.stdout


def test_a_gap_that_closed_is_an_error(tmp_path: Path) -> None:
    text = (
        f"{HARNESS}\nclass Gapped(FakeHarness):\n    gaps = {{'chat:seed': 'not true at all'}}\n"
        "class TestIt(ChatConformance):\n    harness = Gapped\n"
    )
    done, results = run(tmp_path, text, "-k", "seed")
    assert done.returncode == 1
    assert "XPASS(strict)" in done.stdout
    assert {one["outcome"] for one in results} == {"failed"}


def test_a_gap_that_is_open_is_told_with_its_reason(tmp_path: Path) -> None:
    text = (
        f"{HARNESS}\nfrom cloudai.providers.fake.chat import FakeChat\n"
        "from cloudai.errors import UnsupportedByProvider\n"
        "real = FakeChat._turn\n"
        "def turn(self, operation, request, call):\n"
        "    if request.tools:\n"
        "        raise UnsupportedByProvider('tools', provider='fake', alternative='None')\n"
        "    return real(self, operation, request, call)\n"
        "FakeChat._turn = turn\n"
        "class Gapped(FakeHarness):\n    gaps = {'chat:tools': 'this one calls no tools'}\n"
        "class TestIt(ChatConformance):\n    harness = Gapped\n"
    )
    done, results = run(tmp_path, text, "-k", "tool_round_trip or tools_in_a_stream")
    assert done.returncode == 0, done.stdout
    assert {(one["outcome"], one["reason"]) for one in results} == {
        ("gap", "this one calls no tools")
    }
    assert "this one calls no tools" in done.stdout


def test_a_gap_that_names_nothing_is_an_error() -> None:
    class Mistaken(Harness):
        provider = "fake"
        gaps = {"chat:tolls": "a slip of the pen"}

    with pytest.raises(ValueError, match="tolls"):

        class TestNothing(ChatConformance):
            harness = Mistaken


THIRD_PARTY = """
from cloudai.protocols import Call
from cloudai.types import ChatReply, ChatChunk, Usage
from cloudai import Key, ProviderSpec
from cloudai._core.profiles import registry
import sys, types

class ParrotChat:
    def __init__(self, profile):
        self.profile = profile
    def create(self, request, call):
        words = request.messages[-1].text.split()[: request.max_tokens]
        whole = len(request.messages[-1].text.split())
        return ChatReply(text=" ".join(words), model="parrot", provider="parrot",
            finish_reason="length" if len(words) < whole else "stop",
            usage=Usage(input_tokens=sum(len(m.text.split()) for m in request.messages),
                        output_tokens=len(words)))
    def stream(self, request, call):
        reply = self.create(request, call)
        for index, word in enumerate(reply.text.split()):
            yield ChatChunk(text=word if not index else " " + word)
        yield ChatChunk(finish_reason=reply.finish_reason, usage=reply.usage)

module = sys.modules["parrot"] = types.ModuleType("parrot")
module.ParrotChat = ParrotChat
module.SPEC = ProviderSpec(name="parrot", title="Parrot", default_models=True,
                           capabilities={"chat": "parrot:ParrotChat"})
registry.BUILT_IN["parrot"] = registry.Row("parrot:SPEC", None)

from cloudai.testing.conformance import Harness, suites

class ParrotHarness(Harness):
    provider = "parrot"
    gaps = {
        "chat:tools": "a parrot calls no tools",
        "chat:structured_output": "a parrot knows no schema",
        "chat:stop": "a parrot does not stop",
        "chat:unknown_model": "a parrot answers to every name",
    }

globals().update(suites(ParrotHarness))
"""


def test_a_third_party_passes_with_a_few_lines(tmp_path: Path) -> None:
    done, results = run(tmp_path, THIRD_PARTY)
    assert "FAILED" not in done.stdout, done.stdout
    outcomes = {(one["test"], one["outcome"]) for one in results}
    assert ("stream", "passed") in outcomes
    assert ("tool_round_trip", "gap") in outcomes


def test_the_table(tmp_path: Path) -> None:
    def one(capability: str, mode: str, test: str, outcome: str, reason: str = "") -> Any:
        return {
            "provider": "acme",
            "capability": capability,
            "mode": mode,
            "test": test,
            "outcome": outcome,
            "reason": reason,
        }

    results = [
        one("chat", "sync", "text", "passed"),
        one("chat", "async", "text", "passed"),
        one("chat", "sync", "tools", "gap", "no tools | at all"),
        one("training", "sync", "job", "failed"),
        one("training", "sync", "lost", "skipped", "no faults"),
    ]
    assert report.rows(results) == [
        ("acme", "training", "sync", "0", "0", "1", "1"),
        ("acme", "chat", "sync", "1", "1", "0", "0"),
        ("acme", "chat", "async", "1", "0", "0", "0"),
    ]
    file = tmp_path / "doc.md"
    file.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(results, file)
    text = file.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| acme | chat | tools | gap: no tools / at all |" in text
    report.write(results, file)
    assert file.read_text() == text


def test_the_report_command(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(THIRD_PARTY)
    (tmp_path / "pytest.ini").write_text(INI)
    module = [sys.executable, "-m", "cloudai.testing.conformance", "report", "test_it.py"]
    done = subprocess.run(
        [*module, "--only", "test_text or test_stop", "--write", "table.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "parrot    chat        async   1       1" in done.stdout
    assert (
        "| parrot | chat | stop | gap: a parrot does not stop |"
        in (tmp_path / "table.md").read_text()
    )


PLUGIN = """
import socket, subprocess, sys
import cloudai, pytest
from cloudai.testing import NetworkBlocked

def test_offline(cloudai_offline):
    with pytest.raises(NetworkBlocked):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(NetworkBlocked):
        socket.getaddrinfo("example.com", 443)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        with pytest.raises(NetworkBlocked):
            udp.sendto(b"x", ("192.0.2.1", 53))
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5):
            pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5):
            pass
    one, other = socket.socketpair()
    one.close(); other.close()

def test_no_longer_blocked():
    assert "connect" not in vars(socket.socket)
    assert socket.getaddrinfo.__module__ == "socket"

def test_fake(fake_cloudai):
    fake_cloudai.reply("scripted")
    assert cloudai.Client().chat.create("hello").text == "scripted"
    assert fake_cloudai.requests("chat.create")[0].messages[-1].text == "hello"

def test_fake_is_fresh(fake_cloudai):
    assert fake_cloudai.received == []
    assert cloudai.Client().chat.create("hello").text == "hello"

def test_nothing_heavy_is_loaded():
    code = ("import sys, cloudai.testing.plugin\\n"
            "heavy = {'torch', 'numpy', 'asyncio', 'msgspec', 'cloudai.client', 'ssl'}\\n"
            "print(sorted(heavy & set(sys.modules) - before))")
    code = "import sys, pytest\\nbefore = set(sys.modules)\\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
"""


def test_the_plugin(tmp_path: Path) -> None:
    done, _ = run(tmp_path, PLUGIN)
    assert done.returncode == 0, done.stdout
    assert "conformance" not in done.stdout, "a table where no suite ran"
