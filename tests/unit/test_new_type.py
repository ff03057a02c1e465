"""Adding a field type is adding one row to the table of types."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_type_works_everywhere_once_it_is_a_row() -> None:
    """Config, request bodies, tables and the OpenAPI document take the rules of a new type from its row."""
    made = json.loads(subprocess.check_output([sys.executable, "-m", "tests.unit.phone"], cwd=ROOT))

    assert made["problems"] == ["wrong.yaml:1:41: default: Use the international form, such as +4912345678."]
    assert made["body"] == ["Use the international form, such as +4912345678."]
    assert "number VARCHAR(16) NOT NULL" in made["ddl"]
    assert r"CHECK (number ~ '^\+[1-9][0-9]{6,14}$')" in made["ddl"]
    assert "others VARCHAR(16)[] DEFAULT '{}'" in made["ddl"]
    assert made["openapi"]["maxLength"] == 16
    assert made["openapi"]["pattern"] == r"^\+[1-9][0-9]{6,14}$"
    assert {"const": "phone"} in [rule["if"]["properties"]["type"] for rule in made["config"]]
