"""The page for a person, in a real headless Chromium."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running_server import ECHO, Running, Start, model
from support.browser import Browser, found

PROGRAM = found()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium is installed (apt-get install chromium)"
)


@pytest.fixture
def browser(tmp_path: Path) -> Generator[Browser]:
    assert PROGRAM is not None
    made = Browser(PROGRAM, tmp_path / "profile", dark=bool(os.environ.get("PAGE_DARK")))
    yield made
    made.close()


def configured(start: Start, tmp_path: Path, **env: str) -> Running:
    places = {name: str(model(tmp_path / name, ECHO)) for name in ("a", "b")}
    variants = [
        {"name": "a", "path": places["a"], "weight": 3, "version": "2026-11"},
        {"name": "b", "path": places["b"], "weight": 1},
        {"name": "next", "path": places["b"], "shadow": True},
    ]
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"models": [{"name": "doubles", "variants": variants}]}))
    return start("--config", str(file), env=env)


def test_what_is_loaded_a_prediction_and_live_plots(
    start: Start, browser: Browser, tmp_path: Path
) -> None:
    server = configured(start, tmp_path)
    browser.open(str(server.http.base_url))
    browser.wait("document.querySelector('#state').textContent === 'ready'")
    rows = browser.run(
        "[...document.querySelectorAll('#models tr')].map(row =>"
        " [...row.cells].slice(0, 6).map(cell => cell.textContent))"
    )
    assert rows[0] == ["doubles", "a", "2026-11", "handler", "75 %", "1 / 1"]
    assert [row[1] for row in rows] == ["a", "b", "nextshadow"]
    assert rows[2][4] == "copy"

    # Try it: the body is made from the handler's own schema.
    assert "instances" in browser.wait("document.querySelector('#body').value")
    browser.run("document.querySelector('#body').value = '{\"instances\": [21]}'")
    browser.run("document.querySelector('#send').click()")
    browser.wait("document.querySelector('#took').textContent.startsWith('200 in')")
    answer = browser.run("document.querySelector('#answer').textContent")
    assert json.loads(answer) == {"predictions": [42]}
    browser.run("document.querySelector('#body').value = '{\"instances\": [\"x\"]}'")
    browser.run("document.querySelector('#send').click()")
    browser.wait("document.querySelector('#took').textContent.startsWith('422 in')")
    assert browser.run("document.querySelector('#answer').className") == "bad"

    # Live plots: under load they show throughput, latency, batches.
    seconds = float(os.environ.get("PAGE_SECONDS", "0"))
    with ThreadPoolExecutor(4) as threads:

        def ask(number: int) -> None:
            for _ in range(40 + int(80 * seconds)):
                server.predict(number / 4, sleep=0.02, confidence=True)

        asked = [threads.submit(ask, number) for number in range(1, 5)]
        browser.wait("Number(document.querySelector('#now-rate').textContent) > 1")
        browser.wait("Number(document.querySelector('#now-p50').textContent) >= 10")
        for plot in ("throughput", "latency", "batch", "queue"):
            browser.wait(f"document.querySelector('#{plot} polyline.a') !== null")
            points = browser.run(f"document.querySelector('#{plot} polyline.a').points.length")
            assert points >= 2
        # The latency's line has a height of its own: it is no flat line on the ground.
        tops = browser.run(
            "[...document.querySelectorAll('#latency polyline')].map(line =>"
            " Math.min(...[...line.points].map(point => point.y)))"
        )
        assert min(tops) < 100
        for one in asked:
            one.result()
        shot = tmp_path / "page.png"
        browser.screenshot(shot)
    counted = "Number(document.querySelector('#models tr').cells[6].textContent.replace(',', ''))"
    browser.wait(f"{counted} > 50")
    assert shot.read_bytes().startswith(b"\x89PNG")
    if os.environ.get("PAGE_SHOT"):
        Path(os.environ["PAGE_SHOT"]).write_bytes(shot.read_bytes())
    # The 422 that was asked for is the only complaint: the content policy refused nothing.
    assert [one for one in browser.errors if "422" not in one] == []


def test_a_token_is_asked_for(start: Start, browser: Browser, tmp_path: Path) -> None:
    server = configured(start, tmp_path, CLOUDAI_SERVER_TOKEN="s3cr3t-page")
    browser.open(str(server.http.base_url))
    browser.wait("document.querySelector('#state').textContent === 'needs a token'")
    assert browser.run("document.querySelectorAll('#models tr').length") == 0
    browser.run("document.querySelector('#token').value = 's3cr3t-page'")
    browser.wait("document.querySelector('#state').textContent === 'ready'")
    browser.wait("document.querySelectorAll('#models tr').length === 3")
    assert "s3cr3t" not in server.log.read_text()
