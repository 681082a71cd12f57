"""Every Python snippet of the README and the docs runs, in the order of its page.

A page's snippets share one namespace and one working folder that holds a copy of the examples.
A snippet under the line ``<!-- not run: REASON -->`` is left out.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SNIPPET = re.compile(r"(<!-- not run: .+ -->\n)?```python\n(.*?)```", re.DOTALL)


def snippets(page: Path) -> list[tuple[int, str]]:
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in SNIPPET.finditer(text)
        if not match[1]
    ]


RUN = [page for page in PAGES if snippets(page)]


def test_there_are_snippets() -> None:
    assert ROOT / "README.md" in RUN


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in snippets(page):
        # The line numbers of a failure are those of the page.
        exec(compile("\n" * line + code, str(page), "exec"), names)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_capability_matrix_is_the_registrys() -> None:
    from cloudai._core.profiles import registry
    from cloudai.cli import about

    text = (ROOT / "README.md").read_text()
    specs = [registry.spec(name) for name in registry.BUILT_IN]
    shown = text.partition(about.BEGIN)[2].partition(about.END)[0]
    assert shown.strip() == about._markdown(specs).strip(), "run: make matrix"
