"""The pages that benchmarks write."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import page


@pytest.mark.parametrize("section", ["streams", "beside"])
def test_a_section_is_replaced_and_the_rest_is_kept(section: str, tmp_path: Path) -> None:
    """The page of streams has each section once; what is written by hand around them stays, whatever the new text has."""
    copy, before = tmp_path / "page.md", page.STREAMS.read_text()
    copy.write_text(before)
    page.replace_section(copy, section, "\nnew \\1 text\n")
    start, rest = before.split(f"<!-- {section} -->\n")
    assert (
        copy.read_text()
        == f"{start}<!-- {section} -->\n\nnew \\1 text\n\n<!-- end -->\n" + rest.split("<!-- end -->\n", 1)[1]
    )


def test_a_page_without_the_section_is_refused(tmp_path: Path) -> None:
    """Instead of a run whose figures are nowhere."""
    copy = tmp_path / "page.md"
    copy.write_text("# Page\n")
    with pytest.raises(AssertionError, match="has 0 sections streams"):
        page.replace_section(copy, "streams", "text")
