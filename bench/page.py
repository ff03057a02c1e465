"""docs/performance.md: each command writes its own section, between marks, and the pictures in it.

The section ``cost`` is written by hand, and kept. So is all of docs/performance-streams.md but its marked sections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from bench.environments import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
STREAMS: Final = ROOT / "docs" / "performance-streams.md"
HISTORY: Final = ROOT / "bench" / "history.jsonl"
HEAD: Final = """# Performance

`make bench` measures on your machine, and the commands in `bench/` write the figures into this page. The last section is
written by hand. For streams see [their own page](performance-streams.md).

A whole run takes some 40 minutes, 32 of them for loads, and says so when it begins; with `--rounds 1 --seconds 1` it takes a quarter of an hour. Install
wrk before (`apt-get install wrk`): the generator in Python that takes its place is itself a large part of what is measured.
"""
SECTIONS: Final = ("rest", "growth", "cost")


def write(section: str, text: str, pictures: Mapping[str, str] | None = None) -> None:
    """Replace a section of the page, and its pictures (SVG, by file name)."""
    page = PAGE.read_text() if PAGE.exists() else HEAD
    parts = dict(re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end -->\n", page, re.DOTALL))
    parts[section] = f"\n{text.strip()}\n\n"
    body = "\n".join(f"<!-- {name} -->\n{parts[name]}<!-- end -->\n" for name in SECTIONS if name in parts)
    PAGE.write_text(f"{HEAD}\n{body}")
    for name, picture in (pictures or {}).items():
        PAGE.with_name(name).write_text(picture)


def replace_section(page: Path, section: str, text: str) -> None:
    """Replace what a page has between the marks of a section."""
    marked = re.compile(rf"(<!-- {section} -->\n).*?(<!-- end -->\n)", re.DOTALL)
    whole, count = marked.subn(lambda marks: f"{marks[1]}\n{text.strip()}\n\n{marks[2]}", page.read_text())
    assert count == 1, f"{page} has {count} sections {section}"
    page.write_text(whole)


def remember(results: Mapping[str, Any]) -> None:
    """Append the results of a run to the history."""
    with HISTORY.open("ab") as file:
        file.write(orjson.dumps(results) + b"\n")
