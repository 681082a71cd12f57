"""The house stays as docs/design.md draws it: no circles, no private names across rooms beyond
those of today, no long file without its reason."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "cloudai").rglob("*.py"))
LONG = 400


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("cloudai", cache_dir=None)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that import one another in a loop (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            members, stack[at:] = stack[at:], []
            if len(members) > 1:
                found.append(sorted(members))

    for name in sorted(imports):
        if name not in number:
            visit(name)
    return found


def test_no_files_import_one_another_in_a_circle() -> None:
    """Imports inside functions and those for type checkers alone count too."""
    house = graph()
    imports = {name: house.find_modules_directly_imported_by(name) for name in house.modules}
    assert circles(imports) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_a_long_file_says_why() -> None:
    """Beyond 400 lines a file's docstring or a comment says "Longer than" others, and why."""
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONG or "Longer than" in text, file.relative_to(ROOT)


PRIVATE = 58
"""Names with an underscore that are taken from another module today. May only shrink."""


def test_private_names_that_cross_modules_only_shrink() -> None:
    crossing: set[str] = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cloudai"):
                for name in node.names:
                    if name.name.startswith("_") and not name.name.startswith("__"):
                        crossing.add(f"{file.relative_to(ROOT)}: {node.module}.{name.name}")
    assert len(crossing) <= PRIVATE, "\n".join(sorted(crossing))


def test_k1_a_type_is_met_before_threads_decode_to_it() -> None:
    """See ``cloudai.types._base.met``."""
    bare: list[str] = []
    for path in FILES:
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            kinds = [one.value for one in call.keywords if one.arg == "type"]
            if ast.unparse(call.func) == "msgspec.convert":
                kinds += call.args[1:2]
            elif call.func.attr != "decode":
                continue
            for kind in kinds:
                name = ast.unparse(kind)
                if not re.match(r"met\(|dict\[|list\[(Any|dict\[)", name):
                    bare.append(f"{path.relative_to(ROOT)}:{call.lineno} {name}")
    assert bare == []
