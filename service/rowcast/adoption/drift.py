"""What the catalog has and a config does not name: ``rowcast adopt --check``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rowcast.adoption import names
from rowcast.adoption.catalog import Database
from rowcast.adoption.drafts import Adoption, served_tables
from rowcast.configuration.load import Configuration


def find_drift(
    database: Database, configuration: Configuration, adoption: Adoption, chosen: Mapping[int, object]
) -> Iterator[str]:
    """A line for each table without a resource, and for each column without a field.

    A column counts as left out on purpose if a comment in the resource's file begins with its name or its field's name and
    a colon, as the comments of ``adopt`` do, and as a field does that was made a comment.
    """
    for draft in adoption.resources.values():
        yield f"{draft.table}: no resource has this table; `rowcast adopt` writes one"
    for oid, resource in sorted(served_tables(database, configuration.resources).items(), key=lambda item: item[1]):
        if oid not in chosen or not resource:
            continue
        table = database.tables[oid]
        declared = {field.stored_column for field in configuration.resources[resource].columns.values()}
        remarks = _commented(configuration, resource)
        for column in table.columns.values():
            labels = {column.name, names.identifier(column.name, "column"), names.relation(column.name)}
            if column.name not in declared and not labels & remarks:
                path = configuration.files[resource].file
                yield f"{path}: no field has the column {column.name} ({column.type}); add one, or a comment `# {column.name}: …`"


def _commented(configuration: Configuration, resource: str) -> set[str]:
    """The names with which comments of a resource's file begin."""
    with open(configuration.files[resource].file, encoding="utf-8") as file:
        return set(re.findall(r"^\s*#+\s*([^\s:]+)\s*:", file.read(), re.MULTILINE))
