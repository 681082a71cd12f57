"""Whether the endpoint server still answers its probes while it is sent what was made to stop it.

    python benchmarks/hostile.py [--seconds 5] [--only NAME,...]

Each attack is sent again and again by some clients of another process, over loopback, while one
more asks ``/ping`` every 5 ms. Printed: the ping's median, 99th percentile and maximum, which
statuses the attack got, and the largest resident memory of the front and of a worker. Wanted, on
two cores that nobody else uses: 50 ms at the 99th percentile and 512 MB. A line without an attack
comes first: what the machine does to a ping by itself.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import http.client
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HANDLER = """
def load(model_dir): return None
def predict(model, inputs, params): return [0 for _ in inputs]
"""
MIB = 1 << 20
JSON = {"Content-Type": "application/json"}
PACKED = {**JSON, "Content-Encoding": "gzip"}
BINARY = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}


def png(side: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


def tensors(kind: str, rows: int, row: int, size: int) -> tuple[str, bytes, dict[str, str], int]:
    about = {"binary_data_size": rows * row * size}
    tensor = {"name": "x", "shape": [rows, row], "datatype": kind, "parameters": about}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = gzip.compress(head + bytes(rows * row * size))
    length = {"Inference-Header-Content-Length": str(len(head))}
    return "/v2/models/model/infer", body, {**BINARY, **length}, 5


def attacks() -> dict[str, tuple[str, bytes, dict[str, str], int]]:
    """Name → route, body, headers, clients."""

    def packed(data: bytes) -> bytes:
        return gzip.compress(data[: 16 * MIB - 16])

    predict = "/predict"
    lists = b'{"inputs":[[' + b"[]," * (5 * MIB)
    return {
        "K11 brackets": (predict, packed(b"[" * 16 * MIB), PACKED, 5),
        "K11 lists": (predict, packed(lists), PACKED, 5),
        "K11 a text of braces": (predict, packed(b'{"inputs":["' + b"{}[" * 5 * MIB), PACKED, 5),
        "K11 escapes": (predict, packed(b'{"inputs":["' + b'\\"{[' * 4 * MIB), PACKED, 5),
        "K11 values": (predict, packed(b'{"inputs":[' + b"1," * 8 * MIB), PACKED, 5),
        "K11 numbers": (
            predict,
            gzip.compress(b'{"inputs":[[' + b"1," * 7 * MIB + b"1]]}"),
            PACKED,
            5,
        ),
        "K11 tensors of bytes": tensors("UINT8", 16, 1_000_000, 1),
        "K11 tensors of halves": tensors("FP16", 16, 500_000, 2),
        "K12 pictures": (predict, png(5000), {"Content-Type": "image/png"}, 16),
        "K12 larger pictures": (predict, png(7000), {"Content-Type": "image/png"}, 16),
        "K12 forty bodies": (
            predict,
            gzip.compress(b'{"inputs":["' + b"a" * (15 * MIB) + b'"]}'),
            PACKED,
            40,
        ),
    }


def attack(port: int, path: str, body: bytes, headers: dict[str, str], clients: int,
           until: float, told: Any) -> None:  # fmt: skip
    counts: collections.Counter[str] = collections.Counter()

    def one() -> None:
        while time.time() < until:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                link.request("POST", path, body, headers)
                status = str(link.getresponse().status)
            except OSError as error:
                status = type(error).__name__
            link.close()
            counts[status] += 1

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.send(dict(counts))


def pings(port: int, until: float) -> list[float]:
    """Milliseconds of each ping, on one connection."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    taken: list[float] = []
    while time.time() < until:
        begun = time.perf_counter()
        link.request("GET", "/ping")
        link.getresponse().read()
        taken.append((time.perf_counter() - begun) * 1e3)
        time.sleep(0.005)
    link.close()
    return sorted(taken)


def resident(pid: int) -> int:
    """The most that a process has held so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1000
    return 0


def measure(name: str, what: tuple[str, bytes, dict[str, str], int] | None, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "handler.py").write_text(HANDLER)
        log = folder / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                [sys.executable, "-P", "-m", "cloudai.server", "--model", place, "--port", "0",
                 "--no-access-log", "--workers", "1"],
                stdout=file, stderr=file,
            )  # fmt: skip
        try:
            while '"event":"ready"' not in log.read_text():
                if server.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            events = [json.loads(line) for line in log.read_text().splitlines()]
            port = int(next(one["url"] for one in events if "url" in one).rpartition(":")[2])
            workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            until = time.time() + seconds
            statuses: dict[str, int] = {}
            if what is not None:
                ours, theirs = multiprocessing.Pipe()
                other = multiprocessing.Process(target=attack, args=(port, *what, until, theirs))
                other.start()
                taken = pings(port, until)
                statuses = ours.recv()
                other.join()
            else:
                taken = pings(port, until)
            middle, late = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
            now = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            died = "" if now == workers else "  A WORKER DIED"
            counts = " ".join(f"{status}: {count}" for status, count in statuses.items())
            front, worker = resident(server.pid), max(map(resident, map(int, now)))
            print(f"{name:22} ping p50 {middle:6.1f} p99 {late:6.1f} max {taken[-1]:6.1f} ms"
                  f"  front {front:4d} MB  worker {worker:4d} MB  {counts}{died}",
                  flush=True)  # fmt: skip
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    made.add_argument("--seconds", type=float, default=5.0, help="of one attack")
    made.add_argument("--only", help="attacks by name, or the beginning of one")
    options = made.parse_args()
    print(f"cores {len(os.sched_getaffinity(0))}")
    measure("nothing", None, options.seconds)
    for name, what in attacks().items():
        if options.only is None or name.startswith(tuple(options.only.split(","))):
            measure(name, what, options.seconds)


if __name__ == "__main__":
    main()
