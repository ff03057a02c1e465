"""The JSON Schemas of config files, which editors use. They have the rules that the loader checks."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from rowcast.configuration import declarations, settings, value_types
from rowcast.configuration.settings import Settings
from rowcast.resources.types import FIELD_TYPES

META_SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each kind of config file, by file name. ``load`` checks the same rules."""
    service = value_types.describe_section(settings.SETTINGS_SECTION)
    for section in fields(Settings):
        for setting in fields(section.metadata["section"]):
            if setting.metadata.get("default") is not None:
                described = service["properties"][section.name]["properties"][setting.name]
                described["default"] = setting.metadata["default"]
    resource = value_types.describe_section(declarations.RESOURCE_SECTION)
    field = resource["properties"]["fields"]["additionalProperties"]
    field["allOf"] = [
        {
            "if": {"properties": {"type": {"const": type_}}, "required": ["type"]},
            "then": {
                "propertyNames": {"enum": [name for name in declarations.FIELD_OPTIONS if name in valid]},
                "required": [name for name in declarations.NEEDED if name in valid],
            },
        }
        for type_ in FIELD_TYPES
        for valid in [declarations.options_of(type_)]
    ]
    return {
        "service.schema.json": {"$schema": META_SCHEMA, "title": "Settings of a Rowcast service", **service},
        "resource.schema.json": {"$schema": META_SCHEMA, "title": "A resource of a Rowcast service", **resource},
    }


def write_schemas(directory: Path) -> None:
    """Write every JSON Schema into a directory, such as ``config/schema``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in schema_texts().items():
        (directory / name).write_text(text, "utf-8")


def schema_texts() -> dict[str, str]:
    """The text of each JSON Schema by its file's name, as in ``config/schema``."""
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in json_schemas().items()}
