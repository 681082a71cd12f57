"""K3, K4: a real Chromium at the doors of this machine: a page of another origin, and one whose
name was rebound to loopback. Chromium's own check of what asks the local network is off, so that
the requests arrive; others' browsers have none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
from support.browser import Browser, found

from cloudai.testing import emulated
from cloudai.testing.clouds import CLOUDS

PROGRAM = found()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None, reason="no Chromium is installed (apt-get install chromium)"
    ),
]
for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)

CHAT = '{"model": "gpt-5.1", "messages": [{"role": "user", "content": "hi"}]}'
ASKED = {
    "server": ("/predict", '{"inputs": [1]}'),
    "aws": ("/", '{"TrainingJobName": "evil"}'),
    "azure": ("/openai/v1/chat/completions", CHAT),
    "vertex": ("/token", "grant_type=refresh_token"),
}
OFF = (
    "LocalNetworkAccessChecks", "BlockInsecurePrivateNetworkRequests",
    "PrivateNetworkAccessRespectPreflightResults", "PrivateNetworkAccessSendPreflights",
)  # fmt: skip
FLAGS = (
    "--host-resolver-rules=MAP *.example 127.0.0.1",
    f"--disable-features={','.join(OFF)}",
)

# What a page can send. Each gives its answer's status where the page may read it, else null.
ATTACK = """
(async (url, body) => {
  const read = async (how, about) => {
    try {
      const answer = await fetch(url, {method: 'POST', body, ...about});
      return [how, answer.type === 'opaque' ? null : answer.status];
    } catch (problem) { return [how, null]; }
  };
  const loads = (how, tag, about) => new Promise((done) => {
    const made = Object.assign(document.createElement(tag), about);
    made.onload = made.onerror = () => done([how, null]);
    setTimeout(() => done([how, null]), 3000);
    document.body.append(made);
  });
  const form = (how, enctype) => {
    const told = loads(how, 'iframe', {name: how});
    const made = document.createElement('form');
    Object.assign(made, {action: url, method: 'POST', enctype, target: how});
    made.append(Object.assign(document.createElement('input'), {name: body, value: ''}));
    document.body.append(made);
    made.submit();
    return told;
  };
  const xhr = () => new Promise((done) => {
    const made = new XMLHttpRequest();
    made.onloadend = () => done(['xhr', made.status || null]);
    made.open('POST', url);
    made.send(body);
  });
  const json = {'Content-Type': 'application/json'};
  const amz = {'X-Amz-Target': 'SageMaker.CreateTrainingJob', ...json};
  const auth = {Authorization: 'Bearer x', 'Metadata-Flavor': 'Google', ...json};
  navigator.sendBeacon(url, body);
  return await Promise.all([
    read('text', {mode: 'no-cors'}),
    read('blob', {mode: 'no-cors', body: new Blob([body])}),
    read('kept', {mode: 'no-cors', keepalive: true}),
    read('cookies', {mode: 'no-cors', credentials: 'include'}),
    read('json', {headers: json}), read('amz', {headers: amz}), read('auth', {headers: auth}),
    read('put', {method: 'PUT'}), read('get', {method: 'GET', body: undefined}),
    read('unseen get', {method: 'GET', body: undefined, mode: 'no-cors'}),
    xhr(), form('plain', 'text/plain'), form('coded', 'application/x-www-form-urlencoded'),
    loads('image', 'img', {src: url}), loads('script', 'script', {src: url}),
    loads('frame', 'iframe', {src: url}),
  ]);
})(URL, BODY)
"""


class Witness(BaseHTTPRequestHandler):
    """Another site's server: gives the page, and takes down what comes."""

    came: list[str] = []

    def do_GET(self) -> None:
        if self.path != "/page":
            self.came.append(f"{self.command} {self.headers.get('Sec-Fetch-Site')}")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b"<body>hi</body>"[: 0 if self.command == "HEAD" else 15])

    do_POST = do_PUT = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def witness() -> Generator[ThreadingHTTPServer]:
    Witness.came = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Witness)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def doors(tmp_path: Path) -> Generator[dict[str, tuple[str, Any]]]:
    """By name: an address, and what counts how often somebody was let in."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "handler.py").write_text(
        "def load(folder): return None\ndef predict(model, inputs, params): return inputs\n"
    )
    log = tmp_path / "log"
    with ExitStack() as stack:
        made: dict[str, tuple[str, Any]] = {}
        for name in CLOUDS:
            cloud = stack.enter_context(emulated(name))
            made[name] = cloud.url, lambda cloud=cloud: len(cloud.requests)
        out = stack.enter_context(log.open("wb"))
        served = [sys.executable, "-P", "-m", "cloudai.server", "--port", "0", "--workers", "1"]
        process = subprocess.Popen([*served, "--model", f"m={model}"], stdout=out, stderr=out)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        end = time.monotonic() + 120
        while '"event":"ready"' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        url = json.loads(log.read_text().splitlines()[0])["url"]

        def predictions() -> float:
            # Preflights and refusals are requests too; what counts is what reached the model.
            text = urllib3.request("GET", f"{url}/metrics").data.decode()
            lines = [line for line in text.splitlines() if line.startswith("cloudai_predictions_")]
            return sum(float(line.rpartition(" ")[2]) for line in lines if "_total" in line)

        made["server"] = url, predictions
        yield made


@pytest.fixture
def browser(tmp_path: Path) -> Generator[Browser]:
    assert PROGRAM is not None
    made = Browser(PROGRAM, tmp_path / "profile", *FLAGS)
    yield made
    made.close()


def attack(browser: Browser, url: str, body: str) -> list[tuple[str, int | None]]:
    script = ATTACK.replace("(URL, BODY)", f"({json.dumps(url)}, {json.dumps(body)})")
    return [(how, status) for how, status in browser.run(script)]


@pytest.mark.parametrize("who", ["another origin", "another port", "a rebound name"])
def test_k3_k4_no_page_is_let_in(
    who: str, browser: Browser, witness: ThreadingHTTPServer, doors: dict[str, tuple[str, Any]]
) -> None:
    sent = 0
    if who == "another port":
        browser.open(f"http://127.0.0.1:{witness.server_port}/page")
    elif who == "another origin":
        browser.open(f"http://evil.example:{witness.server_port}/page")
        # The attack has teeth: a server without a door gets all of it.
        attack(browser, f"http://127.0.0.1:{witness.server_port}/", "{}")
        assert len(Witness.came) >= 15
        assert {one.partition(" ")[2] for one in Witness.came} == {"cross-site"}
    else:
        browser.call("Fetch.enable", patterns=[{"urlPattern": "http://rebound.example:*/page"}])
    for name, (url, let_in) in doors.items():
        path, body = ASKED[name]
        assert (
            "Content-Type"
            in urllib3.request(
                "POST", url + path, body=body, headers={"Content-Type": "application/json"}
            ).headers
        )  # a program of this machine is asked in
        before = let_in()
        assert before > 0, name
        target = url
        if who == "a rebound name":
            target = f"http://rebound.example:{url.rpartition(':')[2]}"
            browser.pages[f"{target}/page"] = "<body>hi</body>"
            browser.open(f"{target}/page")
        told = attack(browser, target + path, body)
        sent += len(told) + 1
        assert {status for _, status in told} <= {None, 403}, (name, told)
        if who == "a rebound name":  # it may read: this is its own origin, as the browser has it
            assert {("json", 403), ("get", 403)} <= set(told), (name, told)
        assert let_in() == before, (name, told)
    assert sent >= 30
