"""A terminal gets a bar that rewrites itself and a conversation; a pipe gets plain lines."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import COMMAND, Run

from cloudai.cli.terminal import Live, shown, shown_json

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)

import pty

TRAIN = ["train", "--source", "src", "--entry", "train.py", "--hp", "epochs=10"]
TRAIN += ["--metric", r"epoch=epoch=(\d+)"]


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, arguments: list[str], work: Path) -> None:
        self.end, inner = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=work,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(inner)
        self.said = ""

    def until(self, text: str, seconds: float = 60.0) -> None:
        """Reads until the text has come."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self._read(), self.said

    def close(self) -> int:
        """Reads to the end; gives the exit code."""
        while self._read():
            pass
        os.close(self.end)
        return self.process.wait(60)

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def forget(self) -> None:
        self.said = ""

    def _read(self) -> bool:
        assert select.select([self.end], [], [], 60.0)[0], self.said
        try:
            piece = os.read(self.end, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.said += piece.decode(errors="replace")
        return bool(piece)


@pytest.fixture
def terminal(work: Path, fake: None, source: str) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(list(arguments), work))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


SLOW = """
[training.default]
running = 2.0
metrics = { epoch = [2, 4, 6, 8, 10] }
"""


def test_a_bar_on_a_terminal(
    terminal: Callable[..., Terminal], fake: Callable[[str], None]
) -> None:
    fake(SLOW)
    shown = terminal(*TRAIN)
    assert shown.close() == 0
    assert "\r" in shown.said
    assert "\x1b[K" in shown.said
    assert "━" in shown.said
    # Which of the five epochs are seen depends on when one looks.
    shares = [int(share) for share in re.findall(r"(\d+)%", shown.said)]
    assert shares
    assert set(shares) <= {20, 40, 60, 80, 100}
    assert shares == sorted(shares)
    assert "state:    SUCCEEDED" in shown.said


def test_plain_lines_in_a_pipe(run: Run, fake: Callable[[str], None], source: str) -> None:
    fake(SLOW)
    done = run(*TRAIN)
    assert done.code == 0
    for stream in (done.out, done.err):
        assert "\r" not in stream
        assert "\x1b" not in stream
        assert "━" not in stream
    assert "is not run" in done.err


def test_ctrl_c_on_the_bar_leaves_the_job(
    terminal: Callable[..., Terminal], fake: Callable[[str], None], run: Run
) -> None:
    fake("[training.default]\nrunning = 600\n")
    shown = terminal(*TRAIN)
    shown.until("RUNNING")
    shown.process.send_signal(signal.SIGINT)
    assert shown.close() == 130
    assert "cloudai wait 'cloudai://test/training/" in shown.said
    [entry] = run("ls", "--refresh", "--json").json
    assert entry["state"] == "RUNNING"


def test_a_conversation(terminal: Callable[..., Terminal], fake: Callable[[str], None]) -> None:
    fake(
        "[chat]\nreplies = ["
        '"first answer", { text = "one two three four five six", seconds = 2 }, "third answer"]\n'
    )
    talk = terminal("chat", "--system", "Be brief.")
    talk.until("> ")
    talk.type("hello\n")
    talk.until("first answer")
    talk.until("> ")
    talk.forget()
    talk.type("count\n")
    talk.until("one")
    talk.process.send_signal(signal.SIGINT)
    talk.until("> ")  # it is back at the prompt
    assert "six" not in talk.said
    talk.type("/help\n")
    talk.until("/reset forgets")
    talk.type("/reset\n")
    talk.type("and now\n")
    talk.until("third answer")
    talk.type("/exit\n")
    assert talk.close() == 0


def test_an_error_does_not_end_a_conversation(
    terminal: Callable[..., Terminal], fake: Callable[[str], None]
) -> None:
    fake(
        '[[faults]]\noperation = "chat.stream"\nerror = "ServiceUnavailable"\n'
        'message = "slow down"\n'
    )
    talk = terminal("chat")
    talk.until("> ")
    talk.forget()
    talk.type("hello\n")
    talk.until("slow down")
    # The prompt after it, not the first one: only then are keys read as they are typed.
    talk.until("\n> ")
    talk.forget()
    talk.type("again\n")
    talk.until("again\r\nagain\r\n> ")
    talk.type("\x04")
    assert talk.close() == 0


def test_destroy_asks_on_a_terminal(terminal: Callable[..., Terminal], run: Run) -> None:
    uri = run(*TRAIN, "--detach").out.strip()
    asked = terminal("destroy", uri)
    asked.until("[y/N]")
    assert uri in asked.said
    asked.type("n\n")
    assert asked.close() == 2
    assert len(run("ls", "--json").json) == 1
    asked = terminal("destroy", uri)
    asked.until("[y/N]")
    asked.type("y\n")
    assert asked.close() == 0
    assert f"removed {uri}" in asked.said


def test_vectors_are_shortened_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("embed", "some words")
    assert shown.close() == 0
    assert "some words" in shown.said
    assert "…" in shown.said


HOSTILE = "a\x1b]52;c;ZXZpbA==\x07b\x9b31mc\u202ed\x7f\ttab\r10%\r\n\u00e9"


def test_k21_control_characters_are_shown_on_a_terminal() -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = shown(HOSTILE, Screen())
    assert said == "a\\x1b]52;c;ZXZpbA==\\x07b\\x9b31mc\\u202ed\\x7f\ttab\n10%\n\n\u00e9"
    assert shown(HOSTILE, io.StringIO()) == HOSTILE  # in a pipe it is data
    text = json.dumps(HOSTILE, ensure_ascii=False)
    assert json.loads(shown_json(text, Screen())) == HOSTILE
    assert "\x9b" not in shown_json(text, Screen())
    live = Screen()
    Live(live).show("job \x1b]0;evil\x07")
    assert "\x1b]" not in live.getvalue()


def test_k21_nothing_that_a_model_says_reaches_the_terminal(
    terminal: Callable[..., Terminal], work: Path
) -> None:
    said = json.dumps("x\x1b]52;c;ZXZpbA==\x07y")
    (work / "script.toml").write_text(f"[chat]\nreplies = [{said}, {said}]\n")
    for arguments in (["chat", "hi"], ["chat", "--no-stream", "hi"], ["status", "n\x1b]0;e\x07"]):
        one = terminal(*arguments)
        one.close()
        assert "\x1b]" not in one.said, arguments
        assert "\x07" not in one.said
