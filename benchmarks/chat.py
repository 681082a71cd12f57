"""What a call through cloudai costs beside the vendor's own SDK, at the same canned server.

``python benchmarks/chat.py [PROVIDER …] [--check] [--rounds N]`` measures each provider that
has a module ``_chat_<provider>.py`` and prints the ratios; ``--check`` exits with 1 where one
is above its target. Both sides run in processes of their own, in turns, pinned to another core
than the server where there are two; each figure is the best of the rounds' medians.

A module has ``respond(path, body)`` (see ``_canned.py``), ``TARGETS``, ``CHUNKS``, and the
classes ``Raw`` and ``Ours``, made with the server's address, with ``chat``, ``achat``,
``stream`` and ``embed``; a method that a class lacks is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CALLS = 300
CONCURRENCY = 32
LOOPS = 150
UNITS = {
    "chat": "ms a call",
    "concurrent": f"ms a call, {CONCURRENCY} at once",
    "stream": "µs a chunk",
    "embed": "ms, 2048 texts",
    "rss": "MB peak",
}


def timed(function: Callable[[], Any], times: int) -> float:
    """The median of the seconds that one call takes."""
    spent: list[float] = []
    for _ in range(times):
        before = time.perf_counter()
        function()
        spent.append(time.perf_counter() - before)
    return statistics.median(spent)


async def crowd(call: Callable[[], Any], calls: int) -> float:
    """Seconds a call, with ``CONCURRENCY`` of them under way."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one() -> None:
        async with gate:
            await call()

    await asyncio.gather(*(one() for _ in range(2 * CONCURRENCY)))
    walls: list[float] = []
    for _ in range(3):
        before = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(calls)))
        walls.append(time.perf_counter() - before)
    return statistics.median(walls) / calls


def measure(provider: str, side: str, base: str) -> dict[str, float]:
    """One side's figures, in this process."""
    module = importlib.import_module(f"_chat_{provider}")
    peer = getattr(module, side)(base)
    found: dict[str, float] = {}
    if hasattr(peer, "chat"):
        timed(peer.chat, 30)
        found["chat"] = timed(peer.chat, CALLS) * 1e3
    if hasattr(peer, "achat"):
        found["concurrent"] = asyncio.run(crowd(peer.achat, CALLS)) * 1e3
    if hasattr(peer, "stream"):
        peer.stream()
        found["stream"] = timed(peer.stream, 10) / module.CHUNKS * 1e6
    if hasattr(peer, "embed"):
        peer.embed()
        found["embed"] = timed(peer.embed, 5) * 1e3
    found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if side == "Ours" and hasattr(peer, "achat"):
        found.update(loops(peer))
    return found


def loops(peer: Any) -> dict[str, float]:
    """One client under ``LOOPS`` event loops, one after another: failures and descriptors."""
    failed, before = 0, 0
    for index in range(LOOPS):
        if index == 10:
            before = len(os.listdir("/proc/self/fd"))
        try:
            asyncio.run(peer.achat())
        except Exception as error:
            print(f"loop {index}: {error!r}", file=sys.stderr)
            failed += 1
    after = len(os.listdir("/proc/self/fd"))
    return {"loops_failed": failed, "descriptors_gained": after - before}


def pinned(core: int) -> Callable[[], None] | None:
    """Keeps a child process on one core, where that is possible."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return None
    return lambda: os.sched_setaffinity(0, {core})


def compare(provider: str, rounds: int) -> dict[str, dict[str, float]]:
    """The best figures of both sides."""
    best: dict[str, dict[str, float]] = {"Raw": {}, "Ours": {}}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "_canned.py"), f"_chat_{provider}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(0),
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        base = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with tempfile.TemporaryDirectory() as home:
            for _ in range(rounds):
                for side in best:
                    for name, value in one(provider, side, base, home).items():
                        best[side][name] = min(value, best[side].get(name, value))
    finally:
        server.stdin.close()
        server.wait(10)
        server.stdout.close()
    return best


def one(provider: str, side: str, base: str, home: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--worker", provider, side, base],
        env={**os.environ, "CLOUDAI_HOME": home},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=pinned(1),
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(provider: str, found: dict[str, dict[str, float]]) -> bool:
    """Prints the table; whether all targets are met."""
    targets = importlib.import_module(f"_chat_{provider}").TARGETS
    fine = True
    print(f"{provider:12}{'SDK':>10}{'cloudai':>10}{'ratio':>8}{'target':>8}")
    for name, unit in UNITS.items():
        raw, ours = found["Raw"].get(name), found["Ours"].get(name)
        if raw is None or ours is None:
            continue
        ratio = ours / raw
        fine = fine and ratio <= targets[name]
        print(f"{name:12}{raw:10.3f}{ours:10.3f}{ratio:8.2f}{targets[name]:8.2f}  {unit}")
    if "loops_failed" in found["Ours"]:
        failed, gained = found["Ours"]["loops_failed"], found["Ours"]["descriptors_gained"]
        fine = fine and not failed and gained <= 1
        print(f"{LOOPS} × asyncio.run: {failed:.0f} failed, {gained:+.0f} descriptors")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("providers", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=3, metavar=("PROVIDER", "SIDE", "BASE"))
    given = parser.parse_args()
    sys.path.insert(0, str(HERE))
    if given.worker:
        print(json.dumps(measure(*given.worker)))
        return 0
    known = sorted(path.stem.removeprefix("_chat_") for path in HERE.glob("_chat_*.py"))
    fine = [report(name, compare(name, given.rounds)) for name in given.providers or known]
    return 1 if given.check and not all(fine) else 0


if __name__ == "__main__":
    sys.exit(main())
