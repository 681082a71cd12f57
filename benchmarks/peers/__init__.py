"""How each peer is started, what one request to it holds, and its environment.

All but Flask run cloudai's packed encoder, a worker a core with one thread each and batches of up
to 64: what differs is the server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Started: TypeAlias = tuple[list[str], Callable[[str], Any], dict[str, str]]


def _env(cores: int) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{HERE}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "BENCH_WORKERS": str(cores),
    }


def litserve(where: Path, cores: int) -> Started:
    command = [str(where / "litserve/bin/python"), str(HERE / "litserve_app.py"), "{port}"]
    return command, lambda text: {"text": text}, _env(cores)


def bentoml(where: Path, cores: int) -> Started:
    python = str(where / "bentoml/bin/python")
    command = [python, "-m", "bentoml", "serve", "bento_app:Embed", "--host", "127.0.0.1"]
    env = {**_env(cores), "BENTOML_DO_NOT_TRACK": "1"}
    return [*command, "--port", "{port}"], lambda text: {"texts": [text]}, env


def ray(where: Path, cores: int) -> Started:
    command = [str(where / "ray/bin/python"), str(HERE / "ray_app.py"), "{port}"]
    env = {**_env(cores), "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    return command, lambda text: {"text": text}, env


def flask(where: Path, cores: int) -> Started:
    python = str(where / "flask/bin/python")
    command = [python, "-m", "gunicorn", "--workers", str(cores), "--threads", "4"]
    bind = ["--bind", "127.0.0.1:{port}", "flask_app:app"]
    return [*command, *bind], lambda text: {"text": text}, _env(cores)


PEERS: dict[str, Callable[[Path, int], Started]] = {
    "litserve": litserve,
    "bentoml": bentoml,
    "ray": ray,
    "flask": flask,
}
