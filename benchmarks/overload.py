"""The server under more than it can do: each request answered with 200 or 429, memory flat, the
accepted ones within their deadline, workers killed on the way.

    python benchmarks/overload.py [--seconds 300] [--kill]

A handler that takes 20 ms a batch and 2 ms an input; as many connections as twice its capacity
keeps busy. Prints one JSON line; exits with 1 where one of the promises is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from serving import HERE, Server

HANDLER = """
import time

def load(model_dir):
    return None

def predict(model, inputs, params):
    time.sleep(0.02 + 0.002 * len(inputs))
    return inputs
"""

TIMEOUT = 2.0


def memory(pid: int) -> float:
    """Resident megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--kill", action="store_true", help="kill -9 a worker every 5 seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "handler.py").write_text(HANDLER)
        Server.workers = 2
        server = Server(
            folder, "--workers", "2", "--max-batch", "16", "--max-queue", "64",
            "--timeout", str(TIMEOUT), "--no-access-log",
        )  # fmt: skip
        pid = server.process.pid
        samples: list[float] = []
        kills = 0
        stop = threading.Event()

        def watch() -> None:
            nonlocal kills
            last = time.monotonic()
            while not stop.wait(1.0):
                samples.append(memory(pid))
                if options.kill and time.monotonic() - last > 5:
                    for worker in children(pid)[:1]:
                        os.kill(worker, signal.SIGKILL)
                        kills += 1
                    last = time.monotonic()

        watcher = threading.Thread(target=watch)
        watcher.start()
        asked = {"port": server.port, "path": "/predict", "bodies": ['{"inputs": [1]}'],
                 "concurrency": options.connections, "seconds": options.seconds}  # fmt: skip
        ran = subprocess.run(
            [sys.executable, str(HERE / "_load.py")],
            input=json.dumps(asked), capture_output=True, text=True, check=True,
        )  # fmt: skip
        stop.set()
        watcher.join()
        result = json.loads(ran.stdout)
        half = samples[len(samples) // 4 :]
        result |= {"kills": kills, "rss_mb_first": round(half[0], 1),
                   "rss_mb_last": round(half[-1], 1)}  # fmt: skip
        server.stop()
    print(json.dumps(result))
    good = (
        set(result["statuses"]) <= {"200", "429"}
        and result["hung"] == 0
        and result["p99_ms"] <= TIMEOUT * 1e3
        and result["rss_mb_last"] < result["rss_mb_first"] * 1.1 + 5
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
