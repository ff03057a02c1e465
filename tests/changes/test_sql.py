"""The SQL files of the change log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rowcast.changes import sql

FILES = Path(sql.__file__).parent
MODULES = "".join(path.read_text("utf-8") for path in FILES.parent.parent.rglob("*.py"))
USED = set(re.findall(r'sql\.load\("(\w+)"\)', MODULES))


def test_every_file_is_used() -> None:
    """Each is loaded by a module or included by another file."""
    texts = [path.read_text("utf-8") for path in FILES.glob("*.sql")]
    included = {name for text in texts for name in re.findall(r"\{(_\w+)\}", text)}
    assert {path.stem for path in FILES.glob("*.sql")} == USED | included


@pytest.mark.parametrize("name", sorted(USED))
def test_a_file_is_loaded_with_its_includes_and_without_its_comments(name: str) -> None:
    """PostgreSQL gets the statements alone."""
    text = sql.load(name)
    assert text
    assert "--" not in text
    assert not re.search(r"\{_\w+\}", text)


def test_a_value_is_not_taken_for_a_template() -> None:
    """Braces in a name of a resource stay as they are; a placeholder without a value is an error."""
    assert sql.fill("SELECT {a}, {b}", a="'{b}'", b="'{_gaps}'") == "SELECT '{b}', '{_gaps}'"
    with pytest.raises(KeyError):
        sql.fill("SELECT {a}, {b}", a="1")
