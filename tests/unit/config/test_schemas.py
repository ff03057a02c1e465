"""The JSON Schemas are current, valid, and agree with the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.conftest import DEMO, ROOT

from rowcast.configuration import declarations, settings
from rowcast.configuration.json_schema import json_schemas, write_schemas
from rowcast.configuration.yaml import Problems, read
from rowcast.resources.types import FIELD_TYPES

SCHEMAS = json_schemas()
SECTIONS = {"service.schema.json": settings.SETTINGS_SECTION, "resource.schema.json": declarations.RESOURCE_SECTION}


def valid(name: str, document: object) -> bool:
    return bool(Draft202012Validator(SCHEMAS[name]).is_valid(document))


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_in_the_repository_are_current(name: str, tmp_path: Path) -> None:
    """``make schemas`` writes them."""
    write_schemas(tmp_path)
    assert (ROOT / "config/schema" / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_valid_themselves(name: str) -> None:
    """According to JSON Schema 2020-12."""
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_the_demo_is_valid() -> None:
    """Each file follows the schema that its first line names."""
    for path in [ROOT / "config/service.yaml", *(ROOT / f"config/resources/{name}.yaml" for name in DEMO)]:
        document = read(path, {}, Problems(), optional=settings.OPTIONAL)
        assert document is not None
        first = path.read_text("utf-8").partition("\n")[0]
        schema = (path.parent / first.rpartition("=")[2]).resolve()
        Draft202012Validator(json.loads(schema.read_text("utf-8"))).validate(document.data)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("service.schema.json", {}),
        ("service.schema.json", {"server": None, "auth": {"jwt": None}}),
        ("service.schema.json", {"server": {"port": 1, "body_limit": "1MiB", "shutdown_grace": "1.5s"}}),
        ("service.schema.json", {"server": {"port": "${env:PORT}"}}),
        ("service.schema.json", {"server": {"port": "1"}}),
        ("service.schema.json", {"server": {"port": 1.5}}),
        ("service.schema.json", {"server": {"port": -1}}),
        ("service.schema.json", {"server": {"prot": 1}}),
        ("service.schema.json", {"server": {"body_limit": "1"}}),
        ("service.schema.json", {"server": {"cors_origins": ["*", "https://a.example"]}}),
        ("service.schema.json", {"server": {"cors_origins": ["a.example"]}}),
        ("service.schema.json", {"database": {"url": None}}),
        ("service.schema.json", {"database": {"url": "mysql://"}}),
        ("service.schema.json", {"stream": {"wakeup": "poll"}}),
        ("service.schema.json", {"stream": {"wakeup": "x"}}),
        ("service.schema.json", {"throttle": {"rates": {"a": "60/min"}}}),
        ("service.schema.json", {"throttle": {"rates": {"a": "60/x"}}}),
        ("service.schema.json", {"auth": {"jwt": {"algorithms": []}}}),
        ("resource.schema.json", {}),
        ("resource.schema.json", []),
        ("resource.schema.json", {"fields": {}}),
        ("resource.schema.json", {"fields": {}, "viewset": None, "unique": None}),
        ("resource.schema.json", {"fields": {"a": None}}),
        ("resource.schema.json", {"fields": {"a": {"type": "string", "label": None}}}),
        ("resource.schema.json", {"fields": {"a": {"type": "strng"}}}),
        ("resource.schema.json", {"fields": {"a": {}}}),
        ("resource.schema.json", {"fields": {"a": {"type": "string", "requierd": True}}}),
        ("resource.schema.json", {"fields": {}, "name": "Tasks"}),
        ("resource.schema.json", {"fields": {}, "unique": [["a"]]}),
        ("resource.schema.json", {"fields": {}, "unique": [[]]}),
        ("resource.schema.json", {"fields": {}, "unique": ["a"]}),
        (
            "resource.schema.json",
            {"fields": {}, "unique": [{"fields": ["a"], "lower": True, "where": "b", "nulls": "equal"}]},
        ),
        ("resource.schema.json", {"fields": {}, "unique": [{"fields": ["a"], "lower": ["a"], "nulls": "x"}]}),
        ("resource.schema.json", {"fields": {}, "unique": [{"lower": ["a"]}]}),
        ("resource.schema.json", {"fields": {}, "check": [{"expr": "a > 0", "message": "No.", "field": "a"}]}),
        ("resource.schema.json", {"fields": {}, "check": [{"message": "No."}]}),
        ("resource.schema.json", {"fields": {}, "viewset": {"class": "viewsets:X", "pagination_class": None}}),
        ("resource.schema.json", {"fields": {}, "viewset": {"class": "view sets"}}),
        ("resource.schema.json", {"fields": {}, "viewset": "viewsets:X"}),
        ("resource.schema.json", {"fields": {}, "viewset": "ReadOnlyModelViewSet"}),
        ("resource.schema.json", {"fields": {}, "viewset": "view sets"}),
        ("resource.schema.json", {"fields": {}, "viewset": 5}),
        ("resource.schema.json", {"fields": {}, "viewset": ["viewsets:X"]}),
        ("resource.schema.json", {"fields": {}, "viewset": {"filterset_fields": ["a"]}}),
        ("resource.schema.json", {"fields": {}, "viewset": {"filterset_fields": {"a": ["exact"]}}}),
        ("resource.schema.json", {"fields": {}, "viewset": {"filterset_fields": {"a": ["x"]}}}),
        ("resource.schema.json", {"fields": {}, "viewset": {"page_size": "20"}}),
        ("resource.schema.json", {"fields": {}, "viewset": {"count": "estimated"}}),
    ],
)
def test_schema_and_loader_agree_on_the_structure(name: str, document: dict[str, Any]) -> None:
    """Both refuse the same documents."""
    references = "${env" in json.dumps(document)
    assert valid(name, document) is (references or not SECTIONS[name].validate(document))


@pytest.mark.parametrize("type_", FIELD_TYPES)
def test_the_schema_has_the_options_of_each_type(type_: str) -> None:
    """An editor can therefore offer those that apply."""
    needs = {
        name: value
        for name, value in (("to", "x"), ("of", "integer"), ("as", "inet"))
        if name in declarations.options_of(type_)
    }
    examples = {"max_length": 1, "min_length": 1, "pattern": "a", "choices": ["a"], "of": "integer", "to": "x",
                "on_delete": "cascade", "related_name": "a", "label": "a", "help_text": "a", "max_digits": 1,
                "column": "b", "renamed_from": "b", "decimal_places": 0, "order": "choices", "zone": "UTC", "as": "inet",
                "generated": "b + 1", "json": "string",
                "paths": {"a__b": "integer"},
                "through": {"table": "x.y", "near": "a", "far": "b"},
                "type": type_}  # fmt: skip
    for option in declarations.FIELD_OPTIONS:
        document = {"fields": {"a": {"type": type_, **needs, option: examples.get(option, True)}}}
        assert valid("resource.schema.json", document) is (option in declarations.options_of(type_)), option
