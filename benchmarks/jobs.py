"""What a local job costs over running its script directly, and how fast the batch runner is.

    python benchmarks/jobs.py

Each comparison is of two ways in one run on one machine, turn by turn; the median of the turns
and the ratio are what to read. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cloudai._core.batches.runner import run_batch
from cloudai._core.profiles.config import Config
from cloudai.protocols import Call
from cloudai.providers.local.training import LocalTraining
from cloudai.types import BatchTransform, TrainingJob

TURNS = 7
CALL = Call()

# Work of about a second in pure Python, which says how long its own loop took.
LOOP = """
import sys, time
start = time.perf_counter()
total = 0
for i in range(int(sys.argv[2])):
    total += i * i
    if i % 100_000 == 0: print("step", i)
print(f"loop={time.perf_counter() - start:.4f}")
"""


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def direct(source: Path, steps: int) -> str:
    command = [sys.executable, "train.py", "--steps", str(steps)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout


def as_job(training: LocalTraining, source: Path, name: str, steps: int) -> tuple[float, str]:
    """Seconds of ``submit`` alone, and the log."""
    spec = TrainingJob(
        name=name,
        source=str(source),
        entry="train.py",
        hyperparameters={"steps": steps},
        idempotency_key=name,
    )
    start = time.perf_counter()
    id = training.submit(spec, CALL)
    submitted = time.perf_counter() - start
    while not (status := training.status(id, CALL)).state.done:
        time.sleep(0.05)  # a poll costs some milliseconds of CPU, which two cores feel
    assert status.state.succeeded, status
    lines = training.logs(id, None, CALL).lines
    training.delete(id, CALL)
    return submitted, "\n".join(line.text for line in lines)


def loop_of(log: str) -> float:
    return float(log.rpartition("loop=")[2])


def jobs(folder: Path) -> dict[str, float]:
    source = folder / "src"
    source.mkdir()
    (source / "train.py").write_text(LOOP)
    training = LocalTraining(Config(start=folder).profile(provider="local", home=folder / "home"))
    plain: list[float] = []
    job: list[float] = []
    submits: list[float] = []
    loops: list[float] = []
    for turn in range(TURNS):
        logs: list[str] = []
        plain.append(timed(lambda logs=logs: logs.append(direct(source, 10_000_000))))
        found: list[tuple[float, str]] = []
        job.append(
            timed(
                lambda found=found, turn=turn: found.append(
                    as_job(training, source, f"job-{turn}", 10_000_000)
                )
            )
        )
        submits.append(found[0][0])
        loops.append(loop_of(found[0][1]) / loop_of(logs[0]))
    return {
        "direct_s": statistics.median(plain),
        "job_s": statistics.median(job),
        "overhead_s": statistics.median(b - a for a, b in zip(plain, job, strict=True)),
        "submit_s": statistics.median(submits),
        "loop_ratio": statistics.median(loops),
    }


def supervisor(folder: Path) -> dict[str, float]:
    """Seconds until a supervisor is through its imports, over the bare interpreter's."""
    code = "import cloudai.providers.local.jobs.supervisor"
    both = {"supervisor_import_s": code, "interpreter_s": "pass"}
    return {
        name: statistics.median(
            timed(lambda text=text: subprocess.run([sys.executable, "-P", "-c", text], check=True))
            for _ in range(TURNS)
        )
        for name, text in both.items()
    }


def batches(folder: Path, count: int = 200_000) -> dict[str, float]:
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    with source.open("w") as file:
        for i in range(count):
            file.write(json.dumps({"i": i, "text": f"some words for the record {i}"}) + "\n")
    rates: dict[str, float] = {}
    for concurrency in (1, 8):
        spec = BatchTransform(
            input=str(source),
            output=str(output),
            model="identity",
            concurrency=concurrency,
            overwrite=True,
        )
        seconds = [timed(lambda spec=spec: run_batch(spec, lambda r: r)) for _ in range(3)]
        rates[f"batch_lines_per_s_{concurrency}"] = count / statistics.median(seconds)
    return rates


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CLOUDAI_HOME"] = str(folder / "home")
        figures = {**jobs(folder), **supervisor(folder), **batches(folder)}
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
