"""The endpoint server against the model's own throughput, and other servers, in one run.

    python benchmarks/serving.py                                    # MiniLM, one text a request
    python benchmarks/serving.py --dtype bfloat16 --peers DIR       # beside the peers in DIR
    python benchmarks/serving.py --model DIR --inputs FILE          # a model with a handler
    python benchmarks/serving.py --device cuda --concurrency 256 --texts 1,32

The ceiling is the model without a server, tokenising included: on CPUs as many processes of one
thread as there are cores, on a GPU one process; each computes full batches as fast as it can. Each
server is started, warmed, and then measured in windows that alternate with the ceiling's, so that
a machine that others use too disturbs both alike: the ratio is the median of the windows' own
ratios. A window during which other processes took more than --foreign cores is repeated up to
--tries times; what stayed is printed. The load generator runs on the same cores: its share is
printed, and is not taken out of the ratio. Beside the ratio of the rates stands that of the CPU
time that an input takes, without a server and with all of server and generator: on a machine that
is never quiet it says what the rates would.

The peers (benchmarks/peers/README.md) run the same packed encoder, with the batching that their
documentation recommends; the way of the textbook is Flask with one text a forward.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _cpu

HERE = Path(__file__).parent
TOPICS = (
    "time year people way day man thing woman life child world school state family student "
    "group country problem hand part place case week company system program question work "
    "government number night point home water room mother area money story fact month lot "
    "right study book eye job word business issue side kind head house service friend "
    "father power hour game line "
)
WORDS = TOPICS.split()


def texts(count: int, seed: int = 7) -> list[str]:
    """Texts of 5 to 60 words, about 17 in the mean."""
    rng = random.Random(seed)
    lengths = (min(60, max(5, int(rng.lognormvariate(2.7, 0.6)))) for _ in range(count))
    return [" ".join(rng.choice(WORDS) for _ in range(n)).capitalize() + "." for n in lengths]


def minilm() -> str:
    """The embedded MiniLM's folder."""
    from cloudai.engine import catalog

    return str(catalog.find("embedding", "", home=Path("/nonexistent")).path)


ALONE = 200
"""Inputs that are computed one by one, without a server and with it."""


class Ceiling:
    """The model without a server, in processes that wait until they are asked to compute."""

    def __init__(self, asked: dict[str, Any], processes: int, threads: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        env["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
        self.running = [
            subprocess.Popen(
                [sys.executable, str(HERE / "_ceiling.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                text=True,
            )
            for _ in range(processes)
        ]
        self._tell(self.running, json.dumps(asked))
        for answer in self._hear(self.running):
            if answer != "ready":
                raise SystemExit("the ceiling's process failed")

    def rate(self, seconds: float) -> tuple[float, float]:
        """Inputs a second of all processes together, and the CPU seconds of one input."""
        self._tell(self.running, str(seconds))
        told = [tuple(map(float, line.split())) for line in self._hear(self.running)]
        return sum(rate for rate, _ in told), statistics.mean(used for _, used in told)

    def alone(self) -> float:
        """The median milliseconds of one input by itself, in one process."""
        self._tell(self.running[:1], "0")
        return float(self._hear(self.running[:1])[0]) * 1e3

    def cpu(self) -> float:
        return sum(_cpu.of(process.pid) for process in self.running)

    def stop(self) -> None:
        for process in self.running:
            process.communicate()

    @staticmethod
    def _tell(running: list[subprocess.Popen[str]], line: str) -> None:
        for process in running:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

    @staticmethod
    def _hear(running: list[subprocess.Popen[str]]) -> list[str]:
        return [process.stdout.readline().strip() for process in running if process.stdout]


class Process(ABC):
    """A server in a process of its own, once it answers.

    Parameters
    ----------
    command: its arguments; ``{port}`` stands for the port. path: where it takes requests.
    """

    path = "/predict"

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [part.replace("{port}", str(self.port)) for part in command],
            stdout=self.log,
            stderr=self.log,
            env=env,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                text = self.log.read().decode()
                self.stop()
                raise SystemExit(text[-4000:])
            time.sleep(0.1)

    @abstractmethod
    def ready(self) -> bool: ...

    def load(
        self, bodies: list[str], concurrency: int, seconds: float, processes: int = 1
    ) -> dict[str, Any]:
        asked = {"port": self.port, "path": self.path, "bodies": bodies,
                 "concurrency": concurrency, "seconds": seconds,
                 "processes": processes}  # fmt: skip
        ran = subprocess.run(
            [sys.executable, str(HERE / "_load.py")],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)

    def cpu(self) -> tuple[float, float]:
        """CPU seconds of the process itself and of all below it."""
        pid = self.process.pid
        return _cpu.of(pid), sum(map(_cpu.of, _cpu.descendants(pid)))

    def stop(self) -> None:
        below = _cpu.descendants(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in below:  # a peer's processes that did not end with it
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, 9)


class Server(Process):
    """Our server. ``workers``: how many it was told to start."""

    workers = 1

    def __init__(self, model: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "cloudai.server", "--model", model]
        super().__init__([*command, "--port", "{port}", *arguments])

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/models") as answer:
                models = json.load(answer)["models"]
        except OSError:
            return False
        # All workers, not only the first: a load on half of them measures half.
        return bool(models) and models[0]["variants"][0]["ready"] >= self.workers


class Peer(Process):
    """Another server of the same model; ready once it answered a request."""

    path = "/embed"

    def __init__(self, command: list[str], body: str, env: dict[str, str]) -> None:
        self.body = body.encode()
        super().__init__(command, {**os.environ, **env})

    def ready(self) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.path}",
            self.body,
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status == 200
        except OSError:
            return False


class Windows:
    """Measures in windows, and repeats those that others disturbed."""

    def __init__(self, seconds: float, foreign: float, tries: int) -> None:
        self.seconds = seconds
        self.foreign = foreign
        self.tries = tries
        self.cores = len(os.sched_getaffinity(0))

    def _undisturbed(self, measure: Callable[[], Any], own: Callable[[], float]) -> Any:
        """The measurement with the least foreign CPU time of at most ``tries``."""
        best: tuple[float, Any] | None = None
        for _ in range(self.tries):
            begin, machine, mine = time.monotonic(), _cpu.machine(), own()
            made = measure()
            spent = time.monotonic() - begin
            foreign = max(0.0, _cpu.machine() - machine - (own() - mine)) / spent
            if best is None or foreign < best[0]:
                best = (foreign, made)
            if foreign <= self.foreign:
                break
        assert best is not None
        return best

    def compare(
        self,
        ceiling: Ceiling,
        server: Process,
        bodies: list[str],
        concurrency: int,
        rounds: int,
        texts_each: int = 1,
        processes: int = 1,
    ) -> dict[str, Any]:
        """The server's inputs a second and their ratio to the ceiling's, window by window."""
        server.load(bodies, concurrency, 2.0, processes)
        rows: list[dict[str, Any]] = []
        generator = 0.0

        def load() -> dict[str, Any]:
            nonlocal generator
            before = server.cpu()
            made = server.load(bodies, concurrency, self.seconds, processes)
            after = server.cpu()
            generator += made["cpu"]
            count = max(1, sum(made["statuses"].values()))
            made["front_us"] = (after[0] - before[0]) / count * 1e6
            made["workers_us"] = (after[1] - before[1]) / count * 1e6
            made["generator_us"] = made["cpu"] / count * 1e6
            return made

        if concurrency == 1:
            bodies = bodies[:ALONE]
        for _ in range(rounds):
            calm_top, (top, top_s) = self._undisturbed(
                lambda: ceiling.rate(self.seconds), ceiling.cpu
            )
            calm, made = self._undisturbed(load, lambda: sum(server.cpu()) + generator)
            made["rps"] *= texts_each
            each_us = made["front_us"] + made["workers_us"] + made["generator_us"]
            rows.append({**made, "ceiling": top, "ratio": made["rps"] / top,
                         "cpu_ratio": top_s * 1e6 * texts_each / each_us,
                         "added_ms": made["p50_ms"] - ceiling.alone() if concurrency == 1 else 0.0,
                         "foreign": max(calm, calm_top, 0.0)})  # fmt: skip
        found = {
            name: statistics.median(row[name] for row in rows)
            for name in rows[0]
            if isinstance(rows[0][name], float)
        }
        statuses = {status for row in rows for status in row["statuses"]}
        return {**found, "statuses": sorted(statuses), "concurrency": concurrency}


def show(name: str, row: dict[str, Any]) -> None:
    added = f"(+{row['added_ms']:.2f}) " if row["concurrency"] == 1 else ""
    print(
        f"{name:28} c={row['concurrency']:<4}{row['rps']:8.0f}/s of {row['ceiling']:6.0f} = "
        f"{row['ratio']:5.2f} (by CPU time {row['cpu_ratio']:.2f})  "
        f"p50 {row['p50_ms']:.1f} {added}p99 {row['p99_ms']:.1f} ms  "
        f"CPU us a request: front {row['front_us']:.0f} rest {row['workers_us']:.0f} "
        f"generator {row['generator_us']:.0f}  others {row['foreign']:.2f} cores  "
        f"{','.join(row['statuses'])}",
        flush=True,
    )


def arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--workers", type=int, help="default: one a core; 4 on a GPU")
    made.add_argument("--seconds", type=float, default=4.0, help="of one window")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--concurrency", help="default: 1,16,64; on a GPU 1,64,256")
    made.add_argument("--texts", default="1", help="texts a request, such as 1,32")
    made.add_argument("--model", help="a model directory (default: the embedded MiniLM)")
    made.add_argument("--random-weights", metavar="DIR", help="a folder with MiniLM's config.json "
                      "and tokenizer.json: its shape with random weights")  # fmt: skip
    made.add_argument("--inputs", help="a JSON list of inputs, for a model with a handler")
    made.add_argument("--batch", type=int, help="inputs in one batch of the ceiling "
                      "(default: 512; on a GPU 4096)")  # fmt: skip
    made.add_argument("--peers", type=Path, help="what benchmarks/peers/setup.sh filled")
    made.add_argument("--only", help="peers by name, such as litserve,bentoml")
    made.add_argument("--generators", type=int, help="processes of the load generator")
    made.add_argument("--foreign", type=float, default=0.15, help="cores of others to bear with")
    made.add_argument("--tries", type=int, default=3)
    made.add_argument("--openai", action="store_true", help="over /v1/embeddings, with vectors in "
                      "base64, as OpenAI's client asks for them")  # fmt: skip
    made.add_argument("--access-log", action="store_true")
    made.add_argument("server", nargs="*", help="more arguments of our server, after --")
    return made


def main() -> None:
    options = arguments().parse_args()
    cuda = options.device.startswith("cuda")
    model = options.model or (None if options.random_weights else minilm())
    scratch = tempfile.TemporaryDirectory()
    if model is None:
        from _shape import random_weights

        model = random_weights(Path(options.random_weights), Path(scratch.name))
    inputs: list[Any] = texts(4096 if cuda else 512)
    if options.inputs:
        inputs = json.loads(Path(options.inputs).read_text())
    cores = len(os.sched_getaffinity(0))
    asked = {"model": model, "device": options.device, "dtype": options.dtype,
             "handler": bool(options.inputs), "forward": False, "plain": False, "inputs": inputs,
             "batch": options.batch or len(inputs), "alone": ALONE}  # fmt: skip
    workers = options.workers or (4 if cuda else cores)
    windows = Windows(options.seconds, options.foreign, options.tries)
    processes, threads = (1, cores) if cuda else (cores, 1)
    print(f"cores {cores}, {options.device}, {options.dtype}, workers {workers}")
    ceiling = Ceiling(asked, processes, threads)
    if cuda:
        for about in ({"batch": 256}, {"forward": True, "batch": 256}, {"forward": True}):
            other = Ceiling({**asked, **about}, processes, threads)
            batch = {**asked, **about}["batch"]
            what = "forward alone" if "forward" in about else "tokenising and forward"
            print(f"{what}, {batch} a batch: {other.rate(options.seconds)[0]:.0f}/s", flush=True)
            other.stop()
    elif options.dtype != "float32" and not options.inputs:
        plain = Ceiling({**asked, "plain": True}, processes, threads)
        rates = [[one.rate(options.seconds)[0] for one in (plain, ceiling)] for _ in range(3)]
        told = (statistics.median(one) for one in zip(*rates, strict=True))
        print(
            "with PyTorch's own linear layers {:.0f}/s, with ours {:.0f}/s".format(*told),
            flush=True,
        )
        plain.stop()
    concurrencies = options.concurrency or ("1,64,256" if cuda else "1,16,64")
    generators = options.generators or (4 if cuda else 1)
    extra = ["--dtype", options.dtype, "--workers", str(workers), "--device", options.device]
    if not options.access_log:
        extra.append("--no-access-log")
    Server.workers = workers
    server = Server(model, *extra, *options.server)
    try:
        for each in map(int, options.texts.split(",")):
            parts = [inputs[at : at + each] for at in range(0, len(inputs) - each + 1, each)]
            bodies = [json.dumps({"inputs": part}) for part in parts]
            if options.openai:
                server.path, about = "/v1/embeddings", {"model": "model"}
                about["encoding_format"] = "base64"
                bodies = [json.dumps({"input": part, **about}) for part in parts]
            for concurrency in map(int, concurrencies.split(",")):
                row = windows.compare(
                    ceiling, server, bodies, concurrency, options.rounds, each,
                    min(generators, concurrency),
                )  # fmt: skip
                show("cloudai" if each == 1 else f"cloudai, {each} texts each", row)
    finally:
        server.stop()
    if options.peers:
        from peers import PEERS

        names = options.only.split(",") if options.only else list(PEERS)
        for name in names:
            command, single, env = PEERS[name](options.peers, cores)
            env |= {"BENCH_MODEL": model, "BENCH_DTYPE": options.dtype}
            bodies = [json.dumps(single(text)) for text in inputs]
            try:
                peer = Peer(command, bodies[0], env)
            except SystemExit as error:
                print(f"{name}: did not start: {str(error)[-300:]}", flush=True)
                continue
            try:
                show(name, windows.compare(ceiling, peer, bodies, 64, options.rounds))
            finally:
                peer.stop()
    ceiling.stop()


if __name__ == "__main__":
    main()
