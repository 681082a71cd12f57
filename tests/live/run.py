"""Runs the conformance suite against a real account, within a budget in dollars, and removes all
that it made:

    CLOUDAI_LIVE_OK=aws python tests/live/run.py aws --budget 5

It is opted in twice: by the variable that names the provider, and by the credentials that the
vendor's own chain finds; the provider's keys come from ``CLOUDAI_*`` or cloudai.toml. Machines are
the cheap ones that are taken by default. The suite runs with the sync client, one test at a time;
before each create the price for an hour is added to what is spent and runs, and the run ends (code
3) before the budget could be passed. What a test made is removed after it; whatever is left, after
a failure, Ctrl-C or a killed suite, is removed here; each carries the tag ``cloudai-live``. What
was said with the cloud is kept in FOLDER/cassette.json without its secrets; ``--compare REAL
EMULATED`` holds an emulator's to it, and FOLDER/answers.jsonl has what could not be known without
the service.

``--emulator`` points the whole at an emulator, which is how this file is tested.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STOPPED = 3
EMULATED = {
    "aws": {"chat": "us.anthropic.claude-haiku-4-5-20251001-v1:0"},
    "azure": {"chat": "gpt-5.1", "embedding": "text-embedding-3-small"},
    "vertex": {"chat": "gemini-3.5-flash", "embedding": "text-embedding-005"},
}
"""Models that the emulators have."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("provider", nargs="?", choices=("aws", "azure", "vertex"))
    parser.add_argument("--budget", type=float, help="US dollars that are never passed")
    parser.add_argument("--folder", type=Path, default=Path("live-run"), help="what is kept")
    parser.add_argument("-k", dest="only", default="", help="pytest's: only these tests")
    parser.add_argument("--emulator", action="store_true", help="an emulator in the cloud's place")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("REAL", "EMULATED"))
    given = parser.parse_args()
    if given.compare:
        sys.path.insert(0, str(HERE.parent))
        from live.recording import differences

        told = differences(*given.compare)
        print("\n".join(told) or "the emulator answers in the cloud's names")
        return 1 if told else 0
    if given.provider is None or given.budget is None or not 0 < given.budget <= 100:
        parser.error("give a provider, and a --budget of 0 to 100 dollars")
    if not given.emulator and os.environ.get("CLOUDAI_LIVE_OK") != given.provider:
        parser.error(f"this costs money: set CLOUDAI_LIVE_OK={given.provider} to mean it")
    return run(given)


def run(given: Any) -> int:
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run = f"run-{secrets.token_hex(4)}"
    # A home of its own: its ledger is what was made, and nothing else is removed.
    os.environ["CLOUDAI_HOME"] = str(folder / run)
    with ExitStack() as stack:
        keys: dict[str, Any] = {"home": str(folder / run)}
        about: dict[str, Any] = {}
        if given.emulator:
            from cloudai.testing.clouds import emulated

            cloud = stack.enter_context(emulated(given.provider, execute=True, speed=50.0))
            stack.enter_context(cloud.applied())
            os.environ["CLOUDAI_HOME"] = str(folder / run)
            keys = {**cloud.keys, **keys}
            about = {**EMULATED[given.provider], "patience": 60}
        told = {
            **about, "provider": given.provider, "keys": keys, "budget": given.budget, "run": run,
            "folder": str(folder),
        }  # fmt: skip
        os.environ["CLOUDAI_LIVE"] = json.dumps(told)
        path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [
            sys.executable, "-m", "pytest", str(HERE / "live_suite.py"), "-p", "no:cacheprovider",
            "-p", "live.rules",
            "-c", os.devnull, "--rootdir", str(HERE), "--confcutdir", str(HERE), "-q",
            "-k", f"(not async) and ({given.only})" if given.only else "not async",
        ]  # fmt: skip
        print(f"{run}: {given.provider}, at most ${given.budget:.2f}; kept in {folder}", flush=True)
        code = 130
        child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
        before = signal.signal(signal.SIGINT, lambda *_: None)  # the suite has its own, and cleans
        try:
            code = child.wait()
        finally:
            left = remove(given.provider, keys)
            signal.signal(signal.SIGINT, before)
        for one in left:
            print(f"STILL THERE: {one}", flush=True)
        if (folder / "spent.json").exists():
            spent = json.loads((folder / "spent.json").read_text())["spent"]
            print(f"spent, as reckoned: ${spent:.4f}")
        by_hand = f"remove it: CLOUDAI_HOME={folder / run} cloudai destroy --all"
        print(by_hand if left else "all is removed")
        return 1 if left else code if code in {0, STOPPED} else (code or 1)


def remove(provider: str, keys: dict[str, Any]) -> list[str]:
    """Destroys all that this run made, by its ledger, whose intents know a create whose reply was
    lost by its key; gives what could not be."""
    import cloudai

    left: list[str] = []
    with cloudai.Client(provider=provider, **keys) as client:
        for row in client.resources():
            try:
                client.destroy(row)
            except cloudai.CloudAIError as error:
                left.append(f"{row.uri or row.name}: {error}")
    return left


if __name__ == "__main__":
    sys.exit(main())
