"""Revisions: the files in ``versions``, those that a database has not applied yet, and writing a new one.

Alembic is loaded when there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.migrations.failures import SchemaError, reports_python
from rowcast.migrations.values import VERSION_TABLE, Connection
from rowcast.resources.sql import SCHEMA

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


def script_directory(directory: Path) -> ScriptDirectory:
    """The revisions of ``directory/versions``. Alembic's other files come from its own package."""
    import alembic
    from alembic.script import ScriptDirectory

    return ScriptDirectory(
        Path(alembic.__file__).parent / "templates" / "generic",
        version_locations=[directory / "versions"],
        file_template="%(year)d%(month).2d%(day).2d_%(rev)s_%(slug)s",
        messaging_opts={"quiet": True},
    )


async def unapplied(connection: Connection, directory: Path) -> list[str]:
    """The revisions that the database has not applied yet, oldest first."""
    heads: list[str] = []
    if await connection.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.{VERSION_TABLE}"):
        heads = [row[0] for row in await connection.fetch(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")]
    if not heads and not any((directory / "versions").glob("*.py")):
        return []
    scripts = script_directory(directory)
    with reports_python(directory / "versions"):
        revisions = {script.revision for script in scripts.walk_revisions()}
    if unknown := sorted(set(heads) - revisions):
        raise SchemaError(
            f"The database is at revision {', '.join(unknown)}, which {directory / 'versions'} does not have: "
            "use the configuration that it was migrated by, or a newer one."
        )
    return [f"{script.revision} ({script.doc})" for script in _revisions_after(scripts, heads)]


def _revisions_after(scripts: ScriptDirectory, heads: Sequence[str]) -> list[Script]:
    found = scripts.iterate_revisions("heads", tuple(heads) or "base", implicit_base=True)
    return list(found)[::-1]


def write_revision(directory: Path, message: str, upgrades: str, downgrades: str) -> Path:
    from alembic.util import rev_id

    (directory / "versions").mkdir(parents=True, exist_ok=True)
    lines = {
        "Native(": "from rowcast.resources.exchanged import Native",
        "postgresql.": "from sqlalchemy.dialects import postgresql",
    }
    imports = "\n".join(line for name, line in lines.items() if name in upgrades + downgrades)
    with reports_python(directory / "versions"):
        script = script_directory(directory).generate_revision(
            rev_id(), message, upgrades=upgrades, downgrades=downgrades, imports=imports
        )
    assert script is not None
    return Path(script.path)
