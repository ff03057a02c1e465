"""Python files of a config directory, whatever they are called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

RESOURCE = "fields: {text: {type: string}}\nviewset: {permission_classes: ['%s:Mine']}\n"
MODULE = dedent("""
    import helpers
    from rowcast import BasePermission

    class Mine(BasePermission):
        def has_permission(self, request, view):
            return helpers.ANSWER
    """)


@pytest.mark.parametrize("name", ["logging", "asyncio", "statistics", "service", "rowcast", "aiohttp"])
def test_a_file_does_not_replace_a_module(tmp_path: Path, name: str) -> None:
    """A file called like a module of Python, of the environment or of Rowcast is found by YAML, and hides nothing."""
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "notes.yaml").write_text(RESOURCE % name)
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "helpers.py").write_text("ANSWER = True\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('hides a module of Python')\n")
    code = f"""
        import sys
        from pathlib import Path
        from rowcast.configuration.load import load
        from rowcast.server.app import create_app
        from rowcast.rest.plan import SERVICE

        before = sys.modules.get({name!r})
        app = create_app(load(Path({str(tmp_path)!r}), environ={{}}), "postgresql://")
        (permission,) = app[SERVICE].plans["notes"].permission_classes
        assert permission.__name__ == "Mine", permission
        assert sys.modules.get({name!r}) is before or before is None
        if {name!r} in ("logging", "asyncio", "statistics"):
            import {name}
            assert Path({name}.__file__).parent != Path({str(tmp_path)!r}), {name}.__file__
        import colorsys
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False, cwd=tmp_path.parent
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_module_is_imported_once(tmp_path: Path) -> None:
    """A module that YAML names and that other modules import is one module, so its classes are the same."""
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "notes.yaml").write_text(RESOURCE % "viewsets")
    (tmp_path / "viewsets.py").write_text(MODULE.replace("import helpers", "import rules as helpers"))
    (tmp_path / "rules.py").write_text("import viewsets\nANSWER = True\n")
    code = f"""
        import sys
        from pathlib import Path
        from rowcast.configuration.load import load
        from rowcast.server.app import create_app
        from rowcast.rest.plan import SERVICE

        app = create_app(load(Path({str(tmp_path)!r}), environ={{}}), "postgresql://")
        (permission,) = app[SERVICE].plans["notes"].permission_classes
        assert sys.modules["viewsets"].Mine is permission is sys.modules["rules"].viewsets.Mine
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr
