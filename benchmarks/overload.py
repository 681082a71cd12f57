"""The server under twice its capacity: each request answered with 200 or 429, memory flat, the
accepted ones within their deadline; with --kill, workers killed on the way.

    python benchmarks/overload.py [--seconds 300] [--kill]

A handler that takes 20 ms a batch and 2 ms an input, so two workers with batches of 16 do 615 a
second; 1230 a second are asked for, whatever becomes of those before. Prints one JSON line; exits
with 1 where one of the promises is broken.
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

import _cpu
from serving import HERE, Server

HANDLER = """
import time

def load(model_dir):
    return None

def predict(model, inputs, params):
    time.sleep(0.02 + 0.002 * len(inputs))
    return inputs
"""

WORKERS, BATCH = 2, 16
CAPACITY = WORKERS * BATCH / (0.02 + 0.002 * BATCH)
TIMEOUT = 2.0


def memory(pid: int) -> float:
    """Resident megabytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--kill", action="store_true", help="kill -9 a worker every 5 seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "handler.py").write_text(HANDLER)
        Server.workers = WORKERS
        server = Server(
            folder, "--workers", str(WORKERS), "--max-batch", str(BATCH), "--max-queue", "64",
            "--timeout", str(TIMEOUT), "--no-access-log",
        )  # fmt: skip
        pid = server.process.pid
        samples: list[tuple[float, float]] = []
        kills = 0
        stop = threading.Event()

        def watch() -> None:
            nonlocal kills
            last = time.monotonic()
            while not stop.wait(1.0):
                workers = sorted(_cpu.children(pid))
                samples.append((memory(pid), sum(map(memory, workers))))
                if options.kill and time.monotonic() - last > 5:
                    for worker in workers[:1]:
                        os.kill(worker, signal.SIGKILL)
                        kills += 1
                    last = time.monotonic()

        watcher = threading.Thread(target=watch)
        watcher.start()
        asked = {"port": server.port, "path": "/predict", "bodies": ['{"inputs": [1]}'],
                 "concurrency": options.connections, "seconds": options.seconds,
                 "rate": 2 * CAPACITY}  # fmt: skip
        ran = subprocess.run(
            [sys.executable, str(HERE / "_load.py")],
            input=json.dumps(asked), capture_output=True, text=True, check=True,
        )  # fmt: skip
        stop.set()
        watcher.join()
        alive = server.process.poll() is None
        result = json.loads(ran.stdout)
        server.stop()
    settled = samples[len(samples) // 10 :]
    offered = sum(result["statuses"].values()) / options.seconds
    result |= {
        "capacity": round(CAPACITY),
        "offered": round(offered),
        "kills": kills,
        "rss_mb_first": round(settled[0][0], 1),
        "rss_mb_last": round(settled[-1][0], 1),
        "rss_mb_workers": [round(settled[0][1], 1), round(settled[-1][1], 1)],
    }
    print(json.dumps(result))
    good = (
        alive
        and set(result["statuses"]) <= {"200", "429"}
        and result["hung"] == 0
        and result["p99_ms"] <= TIMEOUT * 1e3
        and result["rss_mb_last"] < result["rss_mb_first"] * 1.1 + 5
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
