"""The batch runner: formats, order, errors, resuming."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cloudai._core.batches import spool, transforms
from cloudai._core.batches.formats import Source
from cloudai._core.batches.runner import BatchResult, run_batch
from cloudai.errors import (
    Conflict,
    HandlerError,
    InvalidRequest,
    JobCancelled,
    ServiceUnavailable,
    StateError,
)
from cloudai.types import BatchTransform, ChatReply, EmbeddingReply, State, Usage


def identity(records: list[Any]) -> list[Any]:
    return records


def put(tmp_path: Path, content: str | bytes, name: str = "in.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def spec(tmp_path: Path, input: Path, **fields: Any) -> BatchTransform:
    fields.setdefault("output", str(tmp_path / "out.jsonl"))
    return BatchTransform(input=str(input), model="m", **fields)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(count: int) -> str:
    return "".join(f'{{"i": {i}}}\n' for i in range(count))


def only(tmp_path: Path, *names: str) -> None:
    """Nothing else lies in the folder: no progress, lock or part."""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_order_is_kept(tmp_path: Path, concurrency: int, batch_size: int) -> None:
    dice = random.Random(1)

    def shuffling(records: list[Any]) -> list[Any]:
        time.sleep(dice.uniform(0, 0.002))
        assert len(records) <= batch_size
        return [record["i"] for record in records]

    made = spec(
        tmp_path, put(tmp_path, numbers(300)), concurrency=concurrency, batch_size=batch_size
    )
    steps: list[tuple[int, int | None, int]] = []
    result = run_batch(made, shuffling, progress=lambda *step: steps.append(step))
    assert result == BatchResult(lines=300, errors=0, output=tmp_path / "out.jsonl")
    assert lines(result.output) == list(range(300))
    assert steps[0] == (0, 300, 0)
    assert steps[-1] == (300, 300, 0)
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)
    only(tmp_path, "in.jsonl", "out.jsonl")


def test_calls_run_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def meet(records: list[Any]) -> list[Any]:
        together.wait()
        return records

    made = spec(tmp_path, put(tmp_path, numbers(8)), batch_size=1, concurrency=4)
    assert run_batch(made, meet).lines == 8


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n[2]\n"three"', [{"a": 1}, [2], "three"]),
        (b"", []),
        (b"\n\n", []),
        (b"null\ntrue\n1.5\n", [None, True, 1.5]),
        ('"\u2028 é"\n'.encode(), ["\u2028 é"]),
    ],
)
def test_json_lines(tmp_path: Path, content: bytes, values: list[Any]) -> None:
    result = run_batch(spec(tmp_path, put(tmp_path, content)), identity)
    assert [json.loads(line) for line in result.output.read_bytes().splitlines()] == values
    assert not result.output.read_bytes().startswith(b"\xef\xbb\xbf")


def test_text_keeps_empty_lines(tmp_path: Path) -> None:
    source = put(tmp_path, b"\xef\xbb\xbfone\r\n\ntwo", "in.txt")
    assert lines(run_batch(spec(tmp_path, source), identity).output) == ["one", "", "two"]


def test_csv_in_and_out(tmp_path: Path) -> None:
    content = '\ufeffid,text\r\n1,"a, ""b""\nc"\r\n\r\n2,é\r\n'
    source = put(tmp_path, content, "in.csv")
    assert lines(run_batch(spec(tmp_path, source), identity).output) == [
        {"id": "1", "text": 'a, "b"\nc'},
        {"id": "2", "text": "é"},
    ]
    made = spec(tmp_path, source, output=str(tmp_path / "out.csv"), key="id")
    result = run_batch(made, lambda rows: [len(row["text"]) for row in rows])
    assert result.output.read_text() == "key,output\n1,8\n2,1\n"


def test_csv_output_has_all_columns(tmp_path: Path) -> None:
    source = put(tmp_path, '{"a": 1}\n{"b": [1, "x"], "a": null}\n{"a": true}\n')
    made = spec(tmp_path, source, output=str(tmp_path / "o.csv"))
    assert run_batch(made, identity).output.read_text() == 'a,b\n1,\n,"[1,""x""]"\ntrue,\n'
    made = spec(tmp_path, put(tmp_path, '"x"\nnull\n'), output=str(tmp_path / "p.csv"))
    assert run_batch(made, identity).output.read_text() == 'output\nx\n""\n'


def test_csv_with_faults(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        run_batch(spec(tmp_path, put(tmp_path, "a,b,a\n1,2,3\n", "t.csv")), identity)
    with pytest.raises(InvalidRequest, match=r"line 3 of s\.csv: the row has 1 cells.* 2"):
        run_batch(spec(tmp_path, put(tmp_path, "a,b\n1,2\n3\n", "s.csv")), identity)
    with pytest.raises(InvalidRequest, match="not CSV in UTF-8"):
        run_batch(spec(tmp_path, put(tmp_path, b"a\n\xff\n", "u.csv")), identity)
    only(tmp_path, "t.csv", "s.csv", "u.csv")


def test_join_and_key(tmp_path: Path) -> None:
    source = put(tmp_path, '{"id": 7, "x": 1}\n{"id": 8, "x": 2}\n')

    def double(records: list[Any]) -> list[Any]:
        return [record["x"] * 2 for record in records]

    def made(name: str, **fields: Any) -> list[Any]:
        given = spec(tmp_path, source, output=str(tmp_path / name), **fields)
        return lines(run_batch(given, double).output)

    assert made("a", join="input")[0] == {"input": {"id": 7, "x": 1}, "output": 2}
    assert made("b", key="id") == [{"key": 7, "output": 2}, {"key": 8, "output": 4}]
    with pytest.raises(InvalidRequest, match="line 1 .*key='nope' is not a field"):
        made("c", key="nope")


def test_format_is_told_by_the_name_or_the_spec(tmp_path: Path) -> None:
    source = put(tmp_path, "1\n", "in.dat")
    with pytest.raises(InvalidRequest, match="format"):
        run_batch(spec(tmp_path, source), identity)
    assert lines(run_batch(spec(tmp_path, source, format="text"), identity).output) == ["1"]


BAD = '{"i": 0}\nnot json\n{"i": 2}\n{"i": 3, "boom": 1}\n{"i": 4}\n'


def explode(records: list[Any]) -> list[Any]:
    if any("boom" in record for record in records):
        raise HandlerError("boom")
    return [record["i"] for record in records]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_fail_stops_at_the_bad_line_and_goes_on_when_mended(
    tmp_path: Path, concurrency: int
) -> None:
    source = put(tmp_path, BAD)
    made = spec(tmp_path, source, batch_size=1, concurrency=concurrency)
    with pytest.raises(InvalidRequest, match=r"line 2 of in\.jsonl: not JSON.*'not json'"):
        run_batch(made, explode)
    assert not (tmp_path / "out.jsonl").exists()
    # The mended input is another input: progress made with the old one is not mixed in.
    put(tmp_path, BAD.replace("not json", '{"i": 1}'))
    with pytest.raises(Conflict, match="another input or another transform"):
        run_batch(made, explode)
    again = spec(tmp_path, source, batch_size=2, concurrency=concurrency, overwrite=True)
    with pytest.raises(HandlerError, match=r"line 4 of in\.jsonl: boom"):
        run_batch(again, explode)


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_bad_line_does_not_fail_its_neighbours(
    tmp_path: Path, on_error: Any, batch_size: int
) -> None:
    made = spec(tmp_path, put(tmp_path, BAD), on_error=on_error, batch_size=batch_size)
    result = run_batch(made, explode)
    assert (result.lines, result.errors, result.state) == (5, 2, State.PARTIAL)
    assert lines(result.output) == [0, None, 2, None, 4]
    errors = tmp_path / "out.jsonl.errors.jsonl"
    if on_error == "skip":
        assert result.errors_file is None
        only(tmp_path, "in.jsonl", "out.jsonl")
        return
    assert result.errors_file == errors
    first, second = lines(errors)
    assert (first["line"], first["input"]) == (2, "not json")
    assert first["error"]["type"] == "InvalidRequest"
    assert second == {
        "line": 4,
        "input": {"i": 3, "boom": 1},
        "error": {"type": "HandlerError", "message": "boom"},
    }
    # A clean run over the same output leaves no stale file of errors.
    put(tmp_path, '{"i": 1}\n')
    run_batch(spec(tmp_path, tmp_path / "in.jsonl", on_error=on_error, overwrite=True), explode)
    only(tmp_path, "in.jsonl", "out.jsonl")


def test_failed_lines_keep_their_key(tmp_path: Path) -> None:
    made = spec(tmp_path, put(tmp_path, BAD), on_error="skip", key="i", join="input")
    found = lines(run_batch(made, explode).output)
    assert found[1] == {"key": None, "input": "not json", "output": None}
    assert found[3] == {"key": 3, "input": {"i": 3, "boom": 1}, "output": None}


@pytest.mark.parametrize("on_error", ["fail", "skip", "dead_letter"])
def test_a_wrong_length_is_nobodys_line(tmp_path: Path, on_error: Any) -> None:
    made = spec(tmp_path, put(tmp_path, numbers(64)), on_error=on_error)
    with pytest.raises(HandlerError, match="63 outputs for 64 inputs"):
        run_batch(made, lambda records: records[1:])
    only(tmp_path, "in.jsonl")


def test_an_output_that_json_cannot_hold(tmp_path: Path) -> None:
    made = spec(tmp_path, put(tmp_path, numbers(3)), on_error="skip")
    result = run_batch(made, lambda records: [object() if r["i"] == 1 else r for r in records])
    assert lines(result.output) == [{"i": 0}, None, {"i": 2}]


def test_max_payload_is_checked_by_line(tmp_path: Path) -> None:
    source = put(tmp_path, '"' + "x" * 98 + '"\n"' + "y" * 200_000 + '"\n"z"\n')
    made = spec(tmp_path, source, max_payload=100, on_error="dead_letter")
    result = run_batch(made, identity)
    assert lines(result.output) == ["x" * 98, None, "z"]
    (error,) = lines(tmp_path / "out.jsonl.errors.jsonl")
    assert "200002 bytes, and max_payload is 100" in error["error"]["message"]


def test_other_errors_end_the_run_and_it_can_be_gone_on_with(tmp_path: Path) -> None:
    made = spec(tmp_path, put(tmp_path, numbers(20)), batch_size=2, concurrency=1, on_error="skip")
    seen: list[int] = []

    def fragile(records: list[Any]) -> list[Any]:
        if len(seen) == 10:
            raise ServiceUnavailable("down")
        seen.extend(record["i"] for record in records)
        return records

    with pytest.raises(ServiceUnavailable):
        run_batch(made, fragile)
    with pytest.raises(Conflict):  # another transform may not go on with it
        run_batch(made, identity, identity="other")
    again: list[int] = []

    def counting(records: list[Any]) -> list[Any]:
        again.extend(record["i"] for record in records)
        return records

    result = run_batch(spec(tmp_path, Path(made.input), batch_size=3), counting)
    assert sorted(seen + again) == list(range(20))  # none called twice, with another batch_size
    assert [record["i"] for record in lines(result.output)] == list(range(20))
    only(tmp_path, "in.jsonl", "out.jsonl")


def test_failed_lines_are_tried_again_when_failing_is_asked_for(tmp_path: Path) -> None:
    source = put(tmp_path, numbers(6))
    broken = True

    def flaky(records: list[Any]) -> list[Any]:
        for record in records:
            if record["i"] == 5:
                raise ServiceUnavailable("down")
            if broken and record["i"] == 2:
                raise HandlerError("not yet")
        return records

    with pytest.raises(ServiceUnavailable):
        run_batch(spec(tmp_path, source, batch_size=1, concurrency=1, on_error="skip"), flaky)
    broken = False
    with pytest.raises(ServiceUnavailable):
        run_batch(spec(tmp_path, source, batch_size=1, concurrency=1), flaky)
    result = run_batch(spec(tmp_path, source, batch_size=1), identity)
    assert [record["i"] for record in lines(result.output)] == list(range(6))


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    source = put(tmp_path, numbers(3))
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(Conflict, match=r"exists.*overwrite=True"):
        run_batch(spec(tmp_path, source), identity)
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    only(tmp_path, "in.jsonl", "out.jsonl")
    assert run_batch(spec(tmp_path, source, overwrite=True), identity).lines == 3


def test_two_runs_at_once_on_one_output(tmp_path: Path) -> None:
    source = put(tmp_path, numbers(3))

    def second(records: list[Any]) -> list[Any]:
        with pytest.raises(Conflict, match="another batch is writing"):
            run_batch(spec(tmp_path, source), identity)
        return records

    assert run_batch(spec(tmp_path, source), second).lines == 3


def test_cancel(tmp_path: Path) -> None:
    source = put(tmp_path, numbers(100))
    stop = threading.Event()

    def stopping(records: list[Any]) -> list[Any]:
        stop.set()
        return records

    made = spec(tmp_path, source, batch_size=10, concurrency=2)
    with pytest.raises(JobCancelled, match="Submit it again"):
        run_batch(made, stopping, cancelled=stop)
    assert spool.path_of(Path(made.output)).exists()
    assert run_batch(made, identity).lines == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": "/does/not/exist.jsonl"}, "input=.*is not a file"),
        ({"output": "."}, "is a directory"),
        ({"output": "in.jsonl"}, "is the input itself"),
        ({"output": "in.jsonl/x"}, "lies below the file"),
    ],
)
def test_bad_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "1\n")
    given = {"input": "in.jsonl", "output": "out.jsonl", **fields}
    with pytest.raises(InvalidRequest, match=message):
        run_batch(BatchTransform(model="m", **given), identity)


def test_killed_between_output_and_end(tmp_path: Path) -> None:
    """The output is in place, the progress not yet removed."""
    made = spec(tmp_path, put(tmp_path, numbers(5)))

    def die(result: BatchResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(made, identity, published=die)

    def never(records: list[Any]) -> list[Any]:
        raise AssertionError("called again")

    assert run_batch(made, never).lines == 5
    only(tmp_path, "in.jsonl", "out.jsonl")


def limited(code: str, tmp_path: Path, limit: int) -> str:
    """Runs code under a limit of file size, which is how a full disk looks to it: a write gives
    an error in the middle. Tells the error's class and text."""
    program = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from cloudai._core.batches.runner import run_batch\n"
        "from cloudai.types import BatchTransform\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        f"    {code}\n"
        "except Exception as e: print(type(e).__name__, e)\n"
        "else: print('no error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    return done.stdout + done.stderr


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path: Path) -> None:
    put(tmp_path, numbers(3000))
    code = (
        "run_batch(BatchTransform(input='in.jsonl', output='out.jsonl', model='m', join='input',"
        " batch_size=10, concurrency=1), lambda r: r)"
    )
    said = limited(code, tmp_path, 100_000)
    assert said.startswith("StateError no space is left on the disk"), said
    assert not (tmp_path / "out.jsonl").exists()
    assert not list(tmp_path.glob(".*part"))
    made = BatchTransform(
        input=str(tmp_path / "in.jsonl"),
        output=str(tmp_path / "out.jsonl"),
        model="m",
        join="input",
    )
    called = 0

    def counting(records: list[Any]) -> list[Any]:
        nonlocal called
        called += len(records)
        return records

    result = run_batch(made, counting)
    assert [line["output"]["i"] for line in lines(result.output)] == list(range(3000))
    assert 0 < called < 3000  # what was kept before the disk was full is not called again


KILLED = """
import os, sys, time
from cloudai._core.batches.runner import run_batch
from cloudai.types import BatchTransform
folder, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    pid = os.fork()
    if not pid:
        seen = os.open(f"{folder}/{number}.seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        def slow(records):
            os.write(seen, b"".join(b"%d " % r["i"] for r in records))
            time.sleep(0.004)
            return [r["i"] for r in records]
        spec = BatchTransform(input=f"{folder}/in.jsonl", output=f"{folder}/{number}.jsonl",
                              model="m", batch_size=10, concurrency=concurrency)
        run_batch(spec, slow)
        time.sleep(600)
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("concurrency", [1, 4])
def test_twenty_runs_killed_at_random_moments(tmp_path: Path, concurrency: int) -> None:
    put(tmp_path, numbers(600))
    dice = random.Random(3)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "20", str(concurrency)],
        stdout=subprocess.PIPE,
    ) as runs:
        assert runs.stdout is not None
        for _ in range(20):
            pid = int(runs.stdout.readline())
            time.sleep(dice.uniform(0.0, 0.4 / concurrency))
            os.kill(pid, signal.SIGKILL)
    resumed = 0
    for number in range(20):
        output = tmp_path / f"{number}.jsonl"
        made = spec(tmp_path, tmp_path / "in.jsonl", output=str(output), batch_size=10)
        again: list[int] = []

        def note(records: list[Any], again: list[int] = again) -> list[Any]:
            again.extend(record["i"] for record in records)
            return [record["i"] for record in records]

        # A kill between the output and the removal of the progress is gone on with too.
        if not output.exists() or spool.path_of(output).exists():
            run_batch(made, note, concurrency=1)
        assert lines(output) == list(range(600)), number
        calls = tmp_path / f"{number}.seen"  # not there where the kill came first
        seen = [int(i) for i in calls.read_text().split()] if calls.exists() else []
        # What was under way when the kill came is called again, and nothing else.
        assert len(set(seen) & set(again)) <= 10 * 2 * concurrency
        assert set(seen) | set(again) == set(range(600))
        resumed += 0 < len(again) < 600
    assert resumed > 5
    assert not [path for path in tmp_path.iterdir() if "progress" in path.name]


def test_progress_of_a_newer_cloudai(tmp_path: Path) -> None:
    import sqlite3

    made = spec(tmp_path, put(tmp_path, numbers(3)))
    with sqlite3.connect(spool.path_of(Path(made.output))) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StateError, match="newer cloudai"):
        run_batch(made, identity)


def test_forget_leaves_the_progress_of_others(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    kept = spool.Spool(output, "f", owner="mine")
    kept.commit([spool.Chunk(0, 1, b"1\n", 0, b"")])
    kept.close()
    spool.forget(output, "another")
    assert spool.path_of(output).exists()
    spool.forget(output, "mine")
    only(tmp_path)


def test_a_hole_in_the_progress_is_never_written_over(tmp_path: Path) -> None:
    kept = spool.Spool(tmp_path / "o", "f")
    kept.commit([spool.Chunk(0, 2, b"1\n2\n", 0, b""), spool.Chunk(3, 1, b"4\n", 0, b"")])
    with pytest.raises(StateError, match="lacks the records from 2 to 2"):
        list(kept.lines())
    kept.close()


def test_reading_streams(tmp_path: Path) -> None:
    import tracemalloc

    source = put(tmp_path, b'"' + b"x" * 997 + b'"\n', "one.jsonl")
    big = put(tmp_path, source.read_bytes() * 20_000, "big.jsonl")
    tracemalloc.start()
    try:
        count = sum(1 for _ in Source(big, "jsonl", 1000).records())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000  # of 20 MB


def test_chat_lines() -> None:
    asked: list[Any] = []

    def create(request: Any, call: Any) -> ChatReply:
        asked.append(request)
        usage = Usage(input_tokens=1, output_tokens=2)
        return ChatReply(text="hi", finish_reason="stop", usage=usage, model="m", provider="p")

    made = transforms.chat(create, "m", {"max_tokens": 5, "stop": ["x"]})
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    outputs = made(["text", {"prompt": "p"}, {"messages": said}])
    assert (
        outputs
        == [
            {
                "text": "hi",
                "finish_reason": "stop",
                "usage": {"input_tokens": 1, "output_tokens": 2},
            }
        ]
        * 3
    )
    assert [[m.text for m in request.messages] for request in asked] == [
        ["text"],
        ["p"],
        ["s", "u"],
    ]
    assert (asked[0].max_tokens, asked[0].stop) == (5, ("x",))
    bad: list[Any] = [
        {},
        {"prompt": "a", "messages": []},
        {"messages": []},
        7,
        " ",
        {"messages": 3},
    ]
    for record in bad:
        with pytest.raises(InvalidRequest):
            made([record])
    with pytest.raises(InvalidRequest, match=r"params\.max_token=.*Did you mean 'max_tokens'"):
        transforms.chat(create, "m", {"max_token": 5})


def test_embedding_lines() -> None:
    class Adapter:
        def embed(self, request: Any, call: Any) -> EmbeddingReply:
            import struct

            data = b"".join(struct.pack("<2f", len(text), 0.5) for text in request.texts)
            return EmbeddingReply(data=data, dim=2, model="m", provider="p")

    made = transforms.embeddings(Adapter(), "m", {})
    assert made(["ab", {"text": "c"}]) == [{"embedding": [2.0, 0.5]}, {"embedding": [1.0, 0.5]}]
    for record in (" ", {"texts": "a"}, 5):
        with pytest.raises(InvalidRequest):
            made([record])


@pytest.mark.parametrize("choice", ["required", "weather"])
def test_s9_a_batch_is_refused_where_its_tool_is_missing(choice: str) -> None:
    from cloudai._core.batches.transforms import chat_request

    with pytest.raises(InvalidRequest, match=r"params\.tool_choice"):
        chat_request("m", {"tool_choice": choice})
    assert chat_request("m", {"tool_choice": "required", "native": {"tools": []}})
