"""What the tests of the report share: small runs, one of them with hostile text wherever a stranger can put text."""

import html
import json
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from workshop import Record, recipe_file, record, some_rows, write_rows

import curate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "hub_cards"))
from hostile_strings import HOSTILE

STEPS = ("drop: {field: given.value, above: 90.0}", "keep: {field: given.value, highest: 50%, within: [prompt, source, dataset]}")
__all__ = ["HOSTILE", "SHOWN", "Page", "hostile_run", "plain_run"]


def plain_run(folder: Path, count: int = 200, *, steps: tuple[str, ...] = STEPS, rows: Sequence[Record] | None = None) -> Path:
    """Rows of two sources, some above a bound, then the higher half."""
    folder.mkdir(parents=True, exist_ok=True)
    data = write_rows(folder / "data.jsonl", some_rows(count) if rows is None else rows)
    return curate.run(recipe_file(folder / "higher.yaml", steps), data, out=folder / "out").out


# Half a character is no text: rows that hold one are refused when they are read.
SHOWN = [text for text in HOSTILE if text.strip() and not any("\ud800" <= char <= "\udfff" for char in text)]


def hostile_run(folder: Path) -> Path:
    """Every hostile string as prompt, completion, id and source, of a kept and of a rejected row."""
    rows = [
        record(f"{text} {n}", f"{text} answer {n}", id=text, source=text, value=float(10 * n + at % 7))
        for at, text in enumerate(SHOWN)
        for n in (0, 1)
    ]
    return plain_run(folder, rows=rows)


class Page(HTMLParser):
    """A report as a parser sees it: its elements and attributes, its data, its text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def data(self) -> dict[str, Any]:
        """The JSON in the page."""
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        assert found is not None
        loaded: dict[str, Any] = json.loads(found[1])
        return loaded

    @property
    def text(self) -> str:
        """What a reader without a script reads, white space collapsed."""
        return " ".join(" ".join(self.texts).split())

    def figure(self, name: str) -> int:
        """One of the large numbers at the top."""
        found = re.search(rf"<dt>(?:<i [^>]*></i>)?{re.escape(html.escape(name))}</dt><dd>([\d,]+)</dd>", self.source)
        assert found is not None, name
        return int(found[1].replace(",", ""))
