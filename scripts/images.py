"""Writes the table of Vertex AI's prebuilt training images
(``cloudai/providers/vertex/images.json``) from Google's page "Supported frameworks", saved as HTML:

    python scripts/images.py supported-frameworks.html

Rows of other sources stay as they are: Hugging Face's containers are listed without an end.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "cloudai" / "providers" / "vertex" / "images.json"
SOURCE = "vertex-ai"
_NAME = re.compile(r"us-docker\.pkg\.dev/(vertex-ai/training/(tf|pytorch)-\w+\.[\w.-]+:latest)")


class _Rows(HTMLParser):
    """The texts of the cells of each row of the outer tables."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._depth += tag == "table"
        if self._depth == 1 and tag == "tr":
            self.rows.append([])
        elif self._depth == 1 and tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "table"

    def handle_data(self, data: str) -> None:
        if self._depth == 1 and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data + " "


def read(page: str) -> list[dict[str, Any]]:
    """The images of the page, the newest first. A framework's rows for TPUs are left out: no
    machine of the catalogue has one."""
    parser = _Rows()
    parser.feed(page)
    found: list[dict[str, Any]] = []
    for cells in parser.rows:
        if len(cells) < 5 or (match := _NAME.search(cells[4])) is None:
            continue
        version = re.match(r"\s*([\d.]+) \(Python ([\d.]+)\)", cells[0])
        chips = [chip for chip in ("cpu", "gpu") if chip.upper() in cells[1]]
        if version is None or not chips:
            continue
        end = datetime.datetime.strptime(cells[3].strip(), "%b %d, %Y").date()
        found.append(
            {
                "source": SOURCE,
                "framework": {"tf": "tensorflow"}.get(match[2], match[2]),
                "version": version[1],
                "python": version[2],
                "chips": chips,
                "use": ["training"],
                "name": match[1],
                "end": str(end),
            }
        )
    return found


def main(path: str) -> None:
    table = json.loads(TARGET.read_text(encoding="utf-8"))
    rows = [row for row in table["images"] if row["source"] != SOURCE]
    rows += read(Path(path).read_text(encoding="utf-8"))
    head = json.dumps({**table, "read": str(datetime.date.today()), "images": []}, indent=2)
    body = ",\n".join("    " + json.dumps(row) for row in rows)
    made = head.replace('"images": []', f'"images": [\n{body}\n  ]')
    TARGET.write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
